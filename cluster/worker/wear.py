"""When a slot's child has served long enough, and what to do next about it. Pure: nothing here touches a process.

A child is replaced between two tasks, after so many of them or when one leaves its memory too large. Two things make
that more than a comparison. The child takes its next task by itself, without a word to the worker; so whoever looks
from outside mostly looks while a task runs, and what that task has in memory may be gone when it ends. And a new child
takes milliseconds to start, in which the slot should not stand idle.

Hence the order: what looks too large makes its successor start, while it works on. Only when the successor is ready are
the tasks behind the running one held back at the worker, so that there is a moment between two tasks; the memory that
is found then decides. If it has shrunk, the child goes on as before, and the successor waits for the next time. A child
whose number of tasks is limited is never given more than that, so it comes to such a moment by itself; its successor
starts as soon as the last of them is with it.

A task is to be ended when the child is larger than its limit while it runs, whatever it was that filled the memory.
So a child that is above that limit between two tasks gets no other: it would be ended for what an earlier one left.
"""

from enum import Enum

from msgspec import Struct

ROOM_MAX = 1 << 30          # tasks, of a child whose number of tasks is not limited


class WearLimits(Struct, array_like=True, frozen=True):
    """What a child may be used for; 0: no limit. Of memory the resident one is meant, of the child alone."""

    recycle_after: int = 0      # tasks
    recycle_above: int = 0      # bytes that a task leaves
    memory_limit: int = 0       # bytes while a task runs


UNLIMITED = WearLimits()


class Stage(Enum):
    FRESH = "fresh"
    GROWN = "grown"             # it was found too large: its successor is to start, it works on
    HELD = "held"               # nothing more is sent to it until it was looked at between two tasks
    WORN = "worn"               # it gets no task any more


class Step(Enum):
    """What is to be done next."""

    NOTHING = "nothing"
    START = "start"             # a successor
    HOLD = "hold"               # take back what waits at the child, and call `hold`
    LOOK = "look"               # at its memory, between two tasks, and call `looked`
    REPLACE = "replace"         # by the successor, which is ready


class Wear:
    """Of one child. Invariant: `ended` + what it has now <= `recycle_after`, if there is such a limit."""

    __slots__ = ("_limits", "_recycle_above", "_unseen", "ended", "stage")

    def __init__(self, limits: WearLimits) -> None:
        self.stage = Stage.FRESH
        self.ended = 0              # tasks
        self._limits = limits
        self._recycle_above = limits.recycle_above or limits.memory_limit
        self._unseen = False        # a task has ended since the last look

    def room(self, at_child: int) -> int:
        """How many more tasks the child may be given, with so many that it has."""
        if self.stage in (Stage.HELD, Stage.WORN):
            return 0
        if not self._limits.recycle_after:
            return ROOM_MAX
        return max(0, self._limits.recycle_after - self.ended - at_child)

    def tasks_ended(self, count: int) -> None:
        self.ended += count
        self._unseen = True

    def wants_look(self, *, is_working: bool) -> bool:
        """Whether a look at the child's memory can tell something new."""
        if is_working and self._limits.memory_limit:
            return True
        return bool(self._recycle_above) and self._unseen and self.stage is Stage.FRESH

    def looked(self, memory: int, *, is_working: bool) -> bool:
        """`memory` bytes were found, while a task ran or between two. True: that task is to be ended for it."""
        self._unseen = False
        limit = self._limits.memory_limit
        is_over_limit = 0 < limit < memory
        if is_working and is_over_limit:
            return True
        is_above = 0 < self._recycle_above < memory
        if is_working:
            if is_above and self.stage is Stage.FRESH:
                self.stage = Stage.GROWN
        elif is_above and (self.stage is Stage.HELD or is_over_limit):
            self.stage = Stage.WORN
        elif self.stage is not Stage.WORN:
            self.stage = Stage.GROWN if is_above else Stage.FRESH
        return False

    def hold(self) -> None:
        assert self.stage is Stage.GROWN
        self.stage = Stage.HELD

    def next_step(self, at_child: int, *, has_successor: bool, is_ready: bool) -> Step:
        """With so many tasks at the child, and a successor that is ready, or will be, or that there is none of."""
        assert has_successor or not is_ready
        limit = self._limits.recycle_after
        is_used_up = 0 < limit <= self.ended + at_child
        if self.stage is Stage.FRESH and not is_used_up:
            return Step.NOTHING
        if not has_successor:
            return Step.START
        if not is_ready:
            return Step.NOTHING
        if at_child:
            return Step.HOLD if self.stage is Stage.GROWN else Step.NOTHING
        if is_used_up or self.stage is Stage.WORN:
            return Step.REPLACE
        if self.stage is Stage.GROWN:
            return Step.HOLD
        return Step.LOOK
