"""Needs: which tasks wait for which others to end, and whose results are still wanted.

Tables only; what is done with them, and why, is in `dependencies`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from cluster.state.commands import Needs

NEEDS_KNOWN_MAX = 4_194_304     # of all tasks that have not ended; more are not taken
NEED_BYTES = 40                 # of one that is kept for a replay: an id, and its place in a list
KEPT_BYTES = 256                # of all of a task, beside that


class Dependent:
    """A task that needs others. `missing` of these have not ended, as far as it was told; 0 = it was let go. `unknown`
    is one that was not known when it was submitted, 0 = none: it can never run. `behind` is one whose end it waits for
    without being told of it, 0 = none, or no more."""

    __slots__ = ("at_ms", "behind", "delay_ms", "missing", "needs", "unknown")

    def __init__(
        self, needs: Needs, delay_ms: int = 0, at_ms: int = 0, missing: int = 0, unknown: int = 0, behind: int = 0
    ) -> None:
        self.needs = needs
        self.delay_ms = delay_ms        # from the moment in which it is let go
        self.at_ms = at_ms              # not before this date
        self.missing = missing
        self.unknown = unknown
        self.behind = behind

    def all(self) -> Iterator[int]:
        """Every task that it needs, or is behind; one that it needs twice comes twice."""
        return chain(self.needs.results, self.needs.outcomes, (self.behind,) if self.behind else ())


class Dependencies:
    """All of them. Invariants: a task in `by_task` has not ended, or its end is in `ends`; `counted` is the sum of the
    lengths of their needs; `pins` and `taken` say how many of them need a task: of those that wait, and of those that
    were let go. Who waits is in `waited` once for each way in which it needs what has not been told, and `missing` is
    how often that is; who does not, is not there. A task in `kept` has ended without a result: it may be replayed, and
    then needs the same again."""

    __slots__ = ("by_task", "counted", "ends", "kept", "pins", "taken", "waited")

    def __init__(self) -> None:
        self.by_task: dict[int, Dependent] = {}
        self.kept: dict[int, Dependent] = {}
        # Needed task -> who waits for its end, in order; negative: for what becomes of it, whatever that is. Most are
        # waited for by one task: that is no dict, which would take more memory than all else that is known of a need.
        self.waited: dict[int, int | dict[int, None]] = {}
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
        dependent = self.kept.get(task)
        return 0 if dependent is None else len(dependent.needs)

    def kept_bytes(self, task: int) -> int:
        """What the needs of one that has ended without a result are counted with."""
        dependent = self.kept.get(task)
        return 0 if dependent is None else KEPT_BYTES + NEED_BYTES * len(dependent.needs)

    def keep(self, task: int) -> None:
        """It ends without a result."""
        dependent = self.by_task.get(task)
        if dependent is not None and dependent.needs:
            self.kept[task] = Dependent(dependent.needs, unknown=dependent.unknown)

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
        dependent.behind = 0
        _pin(self.taken, dependent)

    def leave(self, task: int) -> Dependent:
        """It has ended, and needs nothing any more."""
        dependent = self.by_task.pop(task)
        self.counted -= len(dependent.needs)
        _unpin(self.pins if dependent.missing else self.taken, dependent)
        if dependent.missing:
            for need in dependent.needs.results:
                self._wait_no_more(need, task)
            for need in (*dependent.needs.outcomes, dependent.behind):
                self._wait_no_more(need, -task)
        return dependent

    # -- who waits for an end ----------------------------------------------------------------------------------------

    def wait(self, need: int, signed: int) -> bool:
        """A dependent waits for this end; False if it does already."""
        waiting = self.waited.get(need)
        if waiting is None:
            self.waited[need] = signed
        elif not isinstance(waiting, dict):
            if waiting == signed:
                return False
            self.waited[need] = {waiting: None, signed: None}
        elif signed in waiting:
            return False
        else:
            waiting[signed] = None
        return True

    def waiting_for(self, need: int, count: int | None = None) -> list[int]:
        """The first so many of those that wait for an end; all of them without `count`."""
        waiting = self.waited.get(need)
        if waiting is None:
            return []
        return list(islice(waiting, count)) if isinstance(waiting, dict) else [waiting]

    def told(self, need: int, some: list[int]) -> None:
        """These have heard of it."""
        for signed in some:
            self._wait_no_more(need, signed)

    def _wait_no_more(self, need: int, signed: int) -> None:
        waiting = self.waited.get(need)
        if isinstance(waiting, dict):
            waiting.pop(signed, None)
            if not waiting:
                del self.waited[need]
        elif waiting == signed:
            del self.waited[need]


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
