"""Needs: which tasks wait for which others to end, and whose results are still wanted.

Tables only; what is done with them, and why, is in `dependencies`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from cluster.state.commands import Needs

NEEDS_KNOWN_MAX = 4_194_304     # of all tasks that have not ended; more are not taken


class Dependent:
    """A task that needs others. `missing` of these have not ended, as far as it was told; 0 = it was let go. `unknown`
    is one that was not known when it was submitted, 0 = none: it can never run."""

    __slots__ = ("at_ms", "delay_ms", "missing", "needs", "unknown")

    def __init__(
        self, needs: Needs, delay_ms: int = 0, at_ms: int = 0, missing: int = 0, unknown: int = 0
    ) -> None:
        self.needs = needs
        self.delay_ms = delay_ms        # from the moment in which it is let go
        self.at_ms = at_ms              # not before this date
        self.missing = missing
        self.unknown = unknown

    def all(self) -> Iterator[int]:
        """Every task that it needs; one that it needs twice comes twice."""
        return chain(self.needs.results, self.needs.outcomes)


class Dependencies:
    """All of them. Invariants: a task in `by_task` has not ended, or its end is in `ends`; `counted` is the sum of the
    lengths of their needs; `pins` and `taken` say how many of them need a task: of those that wait, and of those that
    were let go. A task in `kept` has ended without a result: it may be replayed, and then needs the same again."""

    __slots__ = ("by_task", "counted", "ends", "kept", "pins", "taken", "waited")

    def __init__(self) -> None:
        self.by_task: dict[int, Dependent] = {}
        self.kept: dict[int, Dependent] = {}
        # Needed task -> who waits for its end, in order; negative: for what becomes of it, whatever that is. Some may
        # have ended meanwhile.
        self.waited: dict[int, list[int]] = {}
        self.pins: dict[int, int] = {}
        self.taken: dict[int, int] = {}
        self.counted = 0
        self.ends: deque[int] = deque()     # tasks whose end is to be told, in order

    @property
    def is_full(self) -> bool:
        return self.counted >= NEEDS_KNOWN_MAX

    @property
    def is_used(self) -> bool:
        """Whether ends are to be noted."""
        return bool(self.waited or self.by_task)

    def note(self, tasks: Iterable[int]) -> None:
        """These have ended."""
        by_task, waited = self.by_task, self.waited
        self.ends += [task for task in tasks if task in waited or task in by_task]

    def needs_again(self, task: int) -> int:
        """How many others one that has ended without a result needs if it is replayed."""
        dependent = self.kept.get(task) or self.by_task.get(task)
        return 0 if dependent is None else len(dependent.needs)

    def is_needed(self, task: int) -> bool:
        """Whether its record is wanted by one that has not ended."""
        return task in self.pins or task in self.taken

    def forget(self, tasks: Iterable[int]) -> None:
        """The state knows these no more."""
        for task in tasks:
            self.kept.pop(task, None)

    def enter(self, task: int, dependent: Dependent) -> None:
        """It waits."""
        self.by_task[task] = dependent
        self.counted += len(dependent.needs)
        _pin(self.pins, dependent)

    def take(self, dependent: Dependent) -> None:
        """It is let go."""
        dependent.missing = 0
        _unpin(self.pins, dependent)
        _pin(self.taken, dependent)

    def leave(self, task: int) -> Dependent:
        """It has ended, and needs nothing any more."""
        dependent = self.by_task.pop(task)
        self.counted -= len(dependent.needs)
        _unpin(self.pins if dependent.missing else self.taken, dependent)
        return dependent


def _pin(pins: dict[int, int], dependent: Dependent) -> None:
    for number in dependent.all():
        pins[number] = pins.get(number, 0) + 1


def _unpin(pins: dict[int, int], dependent: Dependent) -> None:
    for number in dependent.all():
        count = pins[number] - 1
        if count:
            pins[number] = count
        else:
            del pins[number]
