"""What happened in a run, as those saw it who asked for it: the material of the oracles.

An operation is invoked once and ends once, as ok, refused or unknown. *Refused* is a promise that it had no
effect and never will; *unknown* promises nothing, and an oracle must accept both courses; so is an operation
whose caller died, and one that is still pending when the run ends. Observations are single facts ("task 7 ran
in attempt 2") that nobody asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from actors.runtime.ports import Nanos


class Outcome(Enum):
    PENDING = "pending"
    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Operation:
    """One request. `ended_at >= invoked_at` once the outcome is not PENDING, else None."""

    number: int
    process: str
    kind: str
    argument: object
    invoked_at: Nanos           # world time
    outcome: Outcome = Outcome.PENDING
    value: object = None        # of an ok: the answer; else the reason
    ended_at: Nanos | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    at: Nanos
    process: str
    kind: str
    value: object


@dataclass(slots=True, eq=False)
class History:
    """All operations in the order of their invocation, and all observations in theirs.

    `now` tells world time: `History(lambda: world.now)`.
    """

    now: Callable[[], Nanos]
    operations: list[Operation] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)

    def invoke(self, process: str, kind: str, argument: object = None) -> Operation:
        operation = Operation(len(self.operations), process, kind, argument, self.now())
        self.operations.append(operation)
        return operation

    def ok(self, operation: Operation, value: object = None) -> None:
        self._end(operation, Outcome.OK, value)

    def refused(self, operation: Operation, reason: object = None) -> None:
        self._end(operation, Outcome.REFUSED, reason)

    def unknown(self, operation: Operation, reason: object = None) -> None:
        self._end(operation, Outcome.UNKNOWN, reason)

    def abandon(self, process: str) -> int:
        """The process died: what it waited for is unknown now. Returns how many operations that were."""
        abandoned = [one for one in self.of(outcome=Outcome.PENDING) if one.process == process]
        for operation in abandoned:
            self.unknown(operation, "the caller died")
        return len(abandoned)

    def observe(self, process: str, kind: str, value: object = None) -> None:
        self.observations.append(Observation(self.now(), process, kind, value))

    def of(self, kind: str | None = None, outcome: Outcome | None = None) -> Iterator[Operation]:
        """The operations of a kind, or of an outcome, or of both."""
        for operation in self.operations:
            if kind in (None, operation.kind) and outcome in (None, operation.outcome):
                yield operation

    def observed(self, kind: str) -> Iterator[Observation]:
        return (one for one in self.observations if one.kind == kind)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many operations of each kind ended how: `{("submit", "ok"): 500, ...}`, sorted."""
        return dict(sorted(Counter((one.kind, one.outcome.value) for one in self.operations).items()))

    def longest_gap(self, kind: str, since: Nanos, until: Nanos) -> Nanos:
        """The longest time between two operations of that kind that ended ok, the bounds counted as such."""
        ends = sorted(one.ended_at for one in self.of(kind, Outcome.OK) if one.ended_at is not None)
        marks = [since, *(end for end in ends if since < end < until), until]
        return max(later - earlier for earlier, later in pairwise(marks))

    def _end(self, operation: Operation, outcome: Outcome, value: object) -> None:
        assert operation.outcome is Outcome.PENDING, f"operation {operation.number} ends twice"
        operation.outcome = outcome
        operation.value = value
        operation.ended_at = self.now()
        assert operation.ended_at >= operation.invoked_at
