"""What one slot of a worker holds, and what becomes of it when it finishes, is late, or loses its child.

A slot is one executor child and the tasks that the leader assigned to it. Tasks are numbered when they are
sent to the child (`cluster.worker.page` says what the numbers are for); what exceeds the window of the child waits
here. Nothing in this module touches a process: the worker asks what is to be done, does it, and says what
happened.

Who is to blame when a child is lost: the task that it had claimed last, if it has no outcome yet. Unless the
worker ended the child itself; then it depends on why it did, and on whether the task that it meant is still
the one that ran. Everything else that the child had was there through no fault of its own, and goes back.
"""

from collections import deque
from enum import Enum

from msgspec import Struct

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    OUTCOME_TIMED_OUT,
    Outcome,
)
from cluster.state.effects import Assignment
from cluster.worker.blame import Ended, blamed, crash, failure_of_child, not_stopped, time_limit
from cluster.worker.page import WINDOW_TASKS

Pair = tuple[int, int]              # task id, attempt
Nanos = int

BATCH_TASKS_MAX = 256               # in one frame to the child
WINDOW_BYTES = 4 * 1024 * 1024      # bodies that are with a child; one larger body is allowed alone
OVERRUN_NS: Nanos = 100_000_000     # beyond its estimate a task holds up what waits behind it
TERM_GRACE_NS: Nanos = 2_000_000_000    # between SIGTERM and SIGKILL


class Why(Enum):
    """Why the worker ends a child."""

    TIME_LIMIT = "time limit"       # of the task that runs
    CANCELLED = "cancelled"         # the task that runs, and its grace is over
    WITHDRAWN = "withdrawn"         # the task that runs was given up: it is somebody else's now, or nobody's
    MEMORY_LIMIT = "memory limit"   # passed while the task runs
    NO_ANSWER = "no answer"         # the lock of its page stays taken
    STOPPING = "stopping"


class Due(Enum):
    """What is to be done about a slot now."""

    NOTHING = "nothing"
    HAND_BACK = "hand back"         # what waits behind the running task
    END = "end"                     # the time limit has passed: hand back, then SIGTERM
    CANCEL = "cancel"               # the grace of a cancelled task has passed: likewise
    WARN = "warn"                   # the soft time limit has passed
    KILL = "kill"                   # SIGTERM did not help: SIGKILL


class Held(Struct, eq=False):
    """A task at this worker."""

    assignment: Assignment
    number: int = 0                 # at its child; 0 while it waits here
    stop_at: Nanos = 0              # it is cancelled, and ended then; 0: it is not
    is_warned: bool = False         # of its soft time limit


class Ending(Struct):
    """The worker is ending the child."""

    why: Why
    number: int                     # of the task that is meant; 0 for none
    kill_at: Nanos
    reason: str = ""                # more about it, for whom it concerns


class Slot:
    """One slot. Invariant: `sent` is in order of number, and holds no number that is `claimed` and has an
    outcome.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.pairs: dict[Pair, Held] = {}       # everything held here
        self.queued: deque[Held] = deque()      # not yet with the child
        self.sent: dict[int, Held] = {}         # number -> with the child, no outcome yet
        self.ending: Ending | None = None
        self._last_number = 0
        self._sent_bytes = 0

    # -- in and out -----------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment) -> None:
        pair = (assignment.task, assignment.attempt)
        assert pair not in self.pairs, f"{pair} is held already"
        held = Held(assignment)
        self.pairs[pair] = held
        self.queued.append(held)

    def next_batch(self, claimed: int, tasks_max: int = BATCH_TASKS_MAX) -> tuple[int, list[Assignment]] | None:
        """What to send to the child now: its first number and the assignments. `claimed` as the page says."""
        if self.ending is not None:
            return None
        first = self._last_number + 1
        items: list[Assignment] = []
        tasks_max = min(tasks_max, BATCH_TASKS_MAX)
        while self.queued and len(items) < tasks_max and self._last_number < claimed + WINDOW_TASKS:
            held = self.queued[0]
            size = len(held.assignment.body)
            if self.sent and self._sent_bytes + size > WINDOW_BYTES:
                break
            self.queued.popleft()
            self._last_number += 1
            held.number = self._last_number
            self.sent[held.number] = held
            self._sent_bytes += size
            items.append(held.assignment)
        return (first, items) if items else None

    def finish(self, pair: Pair) -> bool:
        """A task has an outcome; False if it is not held (withdrawn meanwhile)."""
        held = self.pairs.get(pair)
        if held is None:
            return False
        self._remove(held)
        return True

    # -- late -----------------------------------------------------------------------------------------------

    def running(self, claimed: int) -> Held | None:
        """The task that runs, if the last number claimed has no outcome yet."""
        return self.sent.get(claimed)

    def check(self, now: Nanos, claimed: int, claimed_at: Nanos) -> Due:
        """What is due, with the page's words read under its lock."""
        if self.ending is not None:
            return Due.KILL if now >= self.ending.kill_at else Due.NOTHING
        held = self.sent.get(claimed)
        if held is None:
            return Due.NOTHING
        if 0 < held.stop_at <= now:
            return Due.CANCEL
        ran = now - claimed_at
        if ran >= held.assignment.timeout_ms * 1_000_000:
            return Due.END
        soft_ms = held.assignment.soft_timeout_ms
        if soft_ms and not held.is_warned and ran >= soft_ms * 1_000_000:
            return Due.WARN
        if ran >= held.assignment.estimate_us * 1_000 + OVERRUN_NS and len(self.pairs) > 1:
            return Due.HAND_BACK
        return Due.NOTHING

    def warned(self, number: int) -> None:
        """The task was told of its soft time limit."""
        self.sent[number].is_warned = True

    def end(self, why: Why, number: int, now: Nanos, grace: Nanos = TERM_GRACE_NS, reason: str = "") -> None:
        """The worker ends the child because of task `number`; the first reason counts."""
        if self.ending is None:
            self.ending = Ending(why, number, now + grace, reason)
        else:
            self.ending.kill_at = min(self.ending.kill_at, now + grace)

    def waiting(self, claimed: int) -> list[Held]:
        """With the child but not claimed: what may be withdrawn under the lock."""
        return [held for number, held in self.sent.items() if number > claimed]

    def hand_back(self, held: Held) -> Outcome:
        """A task that did not run leaves this worker, uncounted. If it is with the child, it must be
        withdrawn.
        """
        self._remove(held)
        return Outcome(held.assignment.task, held.assignment.attempt, OUTCOME_RETURNED, 0, 0, b"")

    def keep(self, waiting: list[Held]) -> None:
        """What was withdrawn from the child, in order of number, waits here again, before all else."""
        for held in reversed(waiting):
            del self.sent[held.number]
            self._sent_bytes -= len(held.assignment.body)
            held.number = 0
            self.queued.appendleft(held)

    def give_up(self, held: Held) -> Outcome:
        """A cancelled task that did not begin. If it is with the child, it must be withdrawn."""
        self._remove(held)
        return Outcome(held.assignment.task, held.assignment.attempt, OUTCOME_CANCELLED, 0, 0, b"")

    def drop(self, held: Held) -> None:
        """A task leaves this worker and nobody wants to hear of it."""
        self._remove(held)

    def drop_queued(self) -> None:
        """Likewise all that is not with the child."""
        for held in list(self.queued):
            self._remove(held)

    # -- lost -----------------------------------------------------------------------------------------------

    def lost(self, claimed: int, claimed_at: Nanos, ended: Ended) -> list[Outcome]:
        """The child ended, and every outcome that it left was collected. The slot is empty then, for a new
        child.
        """
        outcomes: list[Outcome] = []
        culprit = self.sent.get(claimed)
        ending = self.ending
        if culprit is not None:
            if ending is None:
                outcomes.append(blamed(culprit.assignment, OUTCOME_CRASHED, crash(ended), claimed_at, ended))
                self._remove(culprit)
            elif ending.number == culprit.number and ending.why is Why.TIME_LIMIT:
                failure = time_limit(culprit.assignment, ended)
                outcomes.append(blamed(culprit.assignment, OUTCOME_TIMED_OUT, failure, claimed_at, ended))
                self._remove(culprit)
            elif ending.number == culprit.number and ending.why is Why.MEMORY_LIMIT:
                failure = failure_of_child("MemoryLimitExceeded", ending.reason, ended)
                outcomes.append(blamed(culprit.assignment, OUTCOME_CRASHED, failure, claimed_at, ended))
                self._remove(culprit)
            elif ending.number == culprit.number and ending.why is Why.CANCELLED:
                failure = not_stopped(ended)
                outcomes.append(blamed(culprit.assignment, OUTCOME_CANCELLED, failure, claimed_at, ended))
                self._remove(culprit)
            elif ending.number == culprit.number and ending.why is Why.WITHDRAWN:
                self._remove(culprit)
            else:
                outcomes.append(_cut_off(culprit, claimed_at, ended))
                self._remove(culprit)
        outcomes.extend(self.hand_back(held) for held in list(self.pairs.values()))
        assert not self.pairs and not self.queued
        self.ending = None
        self.renewed()
        return outcomes

    def renewed(self) -> None:
        """Another child is there: its numbers begin anew."""
        assert not self.sent and self._sent_bytes == 0 and self.ending is None
        self._last_number = 0

    def _remove(self, held: Held) -> None:
        del self.pairs[held.assignment.task, held.assignment.attempt]
        if held.number:
            del self.sent[held.number]
            self._sent_bytes -= len(held.assignment.body)
        else:
            self.queued.remove(held)


def _cut_off(held: Held, started: Nanos, ended: Ended) -> Outcome:
    """It had begun, and goes back through no fault of its own, as at the end of a drain: uncounted, but recorded."""
    return blamed(held.assignment, OUTCOME_RETURNED, None, started, ended)
