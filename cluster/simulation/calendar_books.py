"""What the oracle of a simulated year hears of schedules, and the book that it keeps of each."""

from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.state.commands import ScheduleSpec
from cluster.state.schedules import UNKNOWN


class Armed(NamedTuple):
    """The next slot of a schedule is written: for the first time, or since slots are decided."""

    name: str
    next_ms: int


class Slotted(NamedTuple):
    """Something has become of a slot."""

    name: str
    slot_ms: int
    fate: int
    task: int


class Answered(NamedTuple):
    """A command of a client has been obeyed, or not."""

    session: int
    seq: int
    code: int
    value: int


class Announced(NamedTuple):
    """A worker has registered with these schedules."""

    schedules: tuple[ScheduleSpec, ...]


Heard = Armed | Slotted | Answered | Announced


@dataclass(slots=True)
class Book:
    """Of one schedule. All slots before `next_ms` are decided; it is UNKNOWN while they count from `since_ms`."""

    spec: ScheduleSpec                  # the terms that count
    next_ms: int = UNKNOWN
    since_ms: int | None = None         # None: nobody has announced it
    open_from: int = 0                  # the first slot of what is fired now
    came: list[Slotted] = field(default_factory=list)       # of that
    paused_ms: int | None = None        # since when it is paused
    gaps: list[tuple[int, int]] = field(default_factory=list)   # pauses before which a slot was owed, by when it was
    tasks: dict[int, int] = field(default_factory=dict)     # slot -> its task
    asked: int = 0                      # runs that somebody wanted at once, and perhaps did not get
    manual: list[int] = field(default_factory=list)         # tasks of these

    def is_skipped(self, slot_ms: int) -> bool:
        """Whether it came in such a pause."""
        return any(first < slot_ms <= last for first, last in self.gaps)

    def resume(self, now_ms: int) -> None:
        """What had come before the pause is owed, and what came in it is skipped. Of a slot that is owed before two of
        them what came between these is not."""
        first_ms, self.paused_ms = self.paused_ms, None
        assert first_ms is not None
        owed_ms = self.next_ms if self.next_ms != UNKNOWN else (self.since_ms or 0) + 1
        if owed_ms <= first_ms:
            self.leave_out(owed_ms, now_ms, first_ms)
        elif self.next_ms == UNKNOWN:
            self.since_ms = now_ms

    def leave_out(self, owed_ms: int, now_ms: int, first_ms: int = 0) -> None:
        """What has come behind `first_ms`, or behind the slot that is owed, is none of its slots."""
        if self.gaps and owed_ms <= self.gaps[-1][0]:
            earlier_ms, _ = self.gaps.pop()
            first_ms = min(first_ms, earlier_ms)
        self.gaps.append((max(first_ms, owed_ms), now_ms))
