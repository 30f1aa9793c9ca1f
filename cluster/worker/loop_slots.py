"""What the event loop of a worker holds, and what becomes of it when it finishes, is late, or loses its child.

The loop is one executor child that runs the `async` tasks of its worker, up to `places` at once. Everything that the
leader assigns is sent to it at once and begins at once; what has not begun can be taken back. Nothing in this module
touches a process: the worker asks what is to be done, does it, and says what happened.

A task that is to end is first thrown out of its `await`, which concerns nobody else: when its time limit has come, when
it was cancelled and its grace is over, when the leader has given it up. Only if it still runs THROWN_GRACE_NS later is
the child ended; at once if its loop has not turned for so long, because then nothing can be thrown. A loop that does
not turn while nobody has to end is left alone: it starves the others, but killing them would be worse.

Who is to blame when the child is lost. It died by itself: the task that ran, if there was but one; else nobody knows
which of them it was, and all are suspected: uncounted, and alone from then on, where it will show. The worker ended it:
the tasks that were to end have ended as what they were to end for, and all others go back through no fault of their
own, but for the one whose code the loop was stuck in, which is suspected.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    OUTCOME_TIMED_OUT,
    Failure,
    Outcome,
)
from cluster.state.effects import Assignment
from cluster.worker.blame import ALIVE, Ended, blamed, crash, failure_of_child, not_stopped, time_limit
from cluster.worker.child_messages import ASK_CANCEL, ASK_LIMIT, ASK_WARN, ASK_WITHDRAW
from cluster.worker.slots import (
    BATCH_TASKS_MAX,
    TERM_GRACE_NS,
    WINDOW_BYTES,
    Ending,
    Nanos,
    Pair,
    Why,
)

THROWN_GRACE_NS: Nanos = 2_000_000_000  # for a task to end that is thrown out of its `await`
STUCK_NS: Nanos = 2_000_000_000         # a loop that has not turned for so long is stuck
LATE_NS: Nanos = 1_000_000_000          # a worker that has not looked for so long was stopped itself
NOWHERE = -1
HELD_UP = "it held up its event loop until that had to be ended"

ASKS = {Why.TIME_LIMIT: ASK_LIMIT, Why.CANCELLED: ASK_CANCEL, Why.WITHDRAWN: ASK_WITHDRAW}


class Held(Struct, eq=False):
    """A task at this worker."""

    assignment: Assignment
    place: int = NOWHERE            # at the child
    sent_at: Nanos = 0
    started: Nanos = 0              # 0: not known to have begun
    stop_at: Nanos = 0              # it is cancelled, and thrown out then; 0: it is not
    is_warned: bool = False         # of its soft time limit
    is_given_up: bool = False       # the leader wants to hear nothing of it
    thrown: Why | None = None       # what it is thrown out for
    end_at: Nanos = 0               # ... and the child ended if it still runs then

    def must_end(self, now: Nanos) -> Why | None:
        """Why it must not run on."""
        if self.is_given_up:
            return Why.WITHDRAWN
        if 0 < self.stop_at <= now:
            return Why.CANCELLED
        if now - self.started >= self.assignment.timeout_ms * 1_000_000:
            return Why.TIME_LIMIT
        return None


class Page(Protocol):
    """What is read of the page."""

    def started(self, place: int) -> int: ...

    def is_withdrawn(self, place: int) -> bool: ...

    @property
    def beaten_at(self) -> int: ...

    @property
    def step(self) -> int | None: ...


class Stuck(Struct, frozen=True):
    """The loop does not turn: since when, the task whose code it is in if that is known, and what runs."""

    since: Nanos
    by: Assignment | None
    running: tuple[int, ...]
    place: int = NOWHERE


class Orders(Struct):
    """What is due now."""

    asks: list[tuple[int, int]] = []    # (place, ASK_*)
    end: Why | None = None              # SIGTERM
    kill: bool = False                  # SIGTERM did not help: SIGKILL


Fate = Callable[[Held], Outcome | None]


class LoopSlot:
    """The event loop of a worker. Invariants: a place is free, has a task in `sent`, or one of which the child has yet
    to see that it was withdrawn; `fresh` has those of `sent` that are not known to have begun, and their bodies count.
    """

    def __init__(self, index: int, places: int) -> None:
        self.index = index
        self.pairs: dict[Pair, Held] = {}       # everything held here
        self.queued: deque[Held] = deque()      # not yet with the child
        self.sent: dict[int, Held] = {}         # place -> with the child, no outcome yet
        self.ending: Ending | None = None       # `number` is 1 + the place that the loop was stuck in, or 0
        self._places = places
        self._free = list(reversed(range(places)))
        self._withdrawn: list[int] = []
        self._fresh: dict[int, Held] = {}
        self._fresh_bytes = 0
        self._looked_at: Nanos = 0
        self._watched_since: Nanos = 0          # when the worker was last late

    # -- in and out -----------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment) -> None:
        pair = (assignment.task, assignment.attempt)
        assert pair not in self.pairs, f"{pair} is held already"
        held = Held(assignment)
        self.pairs[pair] = held
        self.queued.append(held)

    def settle(self, page: Page) -> None:
        """Notes what the page says has begun, and which places are free again."""
        for place, held in list(self._fresh.items()):
            if started := page.started(place):
                self.has_begun(held, started)
        if self._withdrawn:
            self._free += [place for place in self._withdrawn if not page.is_withdrawn(place)]
            self._withdrawn = [place for place in self._withdrawn if page.is_withdrawn(place)]

    def has_begun(self, held: Held, started: Nanos) -> None:
        """The page says so of this one."""
        held.started = started
        self._grow_up(held)

    def next_batch(self, now: Nanos) -> list[Held]:
        """What to send to the child now, each to its place. The page is settled."""
        items: list[Held] = []
        if self.ending is not None:
            return items
        while self.queued and self._free and len(items) < BATCH_TASKS_MAX:
            held = self.queued[0]
            size = len(held.assignment.body)
            if self._fresh and self._fresh_bytes + size > WINDOW_BYTES:
                break
            self.queued.popleft()
            held.place = self._free.pop()
            held.sent_at = now
            self.sent[held.place] = self._fresh[held.place] = held
            self._fresh_bytes += size
            items.append(held)
        return items

    def finish(self, pair: Pair) -> bool:
        """A task has an outcome; False if nobody wants it."""
        held = self.pairs.get(pair)
        if held is None:
            return False
        self._remove(held)
        return not held.is_given_up

    def taken_back(self, held: Held) -> None:
        """It was withdrawn in the page: its place is free when the child has seen that."""
        del self.sent[held.place]
        self._grow_up(held)
        self._withdrawn.append(held.place)
        held.place = NOWHERE
        self.queued.append(held)

    def hand_back(self, held: Held) -> Outcome:
        """A task that did not run leaves this worker, uncounted. If it is with the child, that is lost."""
        self._remove(held)
        return Outcome(held.assignment.task, held.assignment.attempt, OUTCOME_RETURNED, 0, 0, b"")

    def give_up(self, held: Held) -> Outcome:
        """A cancelled task that did not begin."""
        self._remove(held)
        return Outcome(held.assignment.task, held.assignment.attempt, OUTCOME_CANCELLED, 0, 0, b"")

    def drop(self, held: Held) -> None:
        """A task leaves this worker and nobody wants to hear of it."""
        self._remove(held)

    def drop_queued(self) -> None:
        """Likewise all that is not with the child."""
        for held in list(self.queued):
            self._remove(held)

    # -- late -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Held]:
        """What has begun, as far as the page was settled."""
        return [held for held in self.sent.values() if held.started]

    @property
    def fresh(self) -> list[Held]:
        """What is with the child and has not begun, as far as the page was settled."""
        return list(self._fresh.values())

    def check(self, now: Nanos, page: Page) -> Orders:
        """What is due. The page is settled."""
        orders = Orders()
        if self.ending is not None:
            orders.kill = now >= self.ending.kill_at
            return orders
        is_stuck = self.stuck(now, page) is not None
        for place, held in self.sent.items():
            if not held.started:
                # Nobody's limit will ever come: what holds up the loop is none of the tasks that run.
                if is_stuck and now - held.sent_at >= held.assignment.timeout_ms * 1_000_000:
                    orders.end = orders.end or Why.NO_ANSWER
                continue
            why = held.must_end(now)
            if why is None:
                soft_ms = held.assignment.soft_timeout_ms
                if soft_ms and not held.is_warned and now - held.started >= soft_ms * 1_000_000:
                    held.is_warned = True
                    orders.asks.append((place, ASK_WARN))
                continue
            if held.thrown is None:
                held.thrown = why
                held.end_at = now + THROWN_GRACE_NS
                orders.asks.append((place, ASKS[why]))
            if now >= held.end_at or is_stuck:
                orders.end = held.thrown
        return orders

    def watch(self, now: Nanos) -> None:
        """The worker looks, as it does often. If it could not for long, the loop may have stood still with it, and has
        to be given time to turn before it is judged."""
        if now - self._looked_at > LATE_NS:
            self._watched_since = now
        self._looked_at = now

    def stuck(self, now: Nanos, page: Page) -> Stuck | None:
        """Whether the loop should turn, for there is something to do, and has not for long."""
        if not self.sent or self.ending is not None:
            return None
        # The loop of a child without tasks does not beat.
        began = min(held.started or held.sent_at for held in self.sent.values())
        since = max(page.beaten_at, began, self._watched_since)
        if now - since < STUCK_NS:
            return None
        step = page.step
        by = None if step is None else self.sent.get(step)
        running = tuple(held.assignment.task for held in self.running)
        return Stuck(since, None if by is None else by.assignment, running, NOWHERE if step is None else step)

    def end(self, why: Why, number: int, now: Nanos, grace: Nanos = TERM_GRACE_NS) -> None:
        """The worker ends the child; the first reason counts. `number` is 1 + the place that the loop is stuck in."""
        if self.ending is None:
            self.ending = Ending(why, number, now + grace)
        else:
            self.ending.kill_at = min(self.ending.kill_at, now + grace)

    # -- lost -----------------------------------------------------------------------------------------------

    def lost(self, ended: Ended) -> list[Outcome]:
        """The child ended, every outcome that it left was collected, and the page is settled. The slot is empty then,
        for a new child.
        """
        fate = self._fate_of_the_suspects(ended) if self.ending is None else self._fate_in_the_end(self.ending, ended)
        outcomes = [outcome for held in list(self.pairs.values()) if (outcome := fate(held)) is not None]
        for held in list(self.pairs.values()):
            self._remove(held)
        assert not self.pairs and not self.sent and not self.queued and self._fresh_bytes == 0
        self.ending = None
        self._withdrawn.clear()
        self._free = list(reversed(range(self._places)))
        return outcomes

    def _fate_of_the_suspects(self, ended: Ended) -> Fate:
        """The child died by itself."""
        count = len(self.running)
        status, failure = OUTCOME_CRASHED, crash(ended)
        if count > 1:
            status = OUTCOME_SUSPECTED
            failure = _among_others(failure, count)

        def fate(held: Held) -> Outcome | None:
            if held.is_given_up:
                return None
            if not held.started:
                return _returned(held)
            return _outcome(held, status, failure, ended)

        return fate

    def _fate_in_the_end(self, ending: Ending, ended: Ended) -> Fate:
        """The worker ended the child."""
        stuck_in = self.sent.get(ending.number - 1)

        def fate(held: Held) -> Outcome | None:
            if held.is_given_up:
                return None
            if not held.started:
                return _returned(held)
            if ending.why is Why.STOPPING:
                return _outcome(held, OUTCOME_RETURNED, None, ended)
            if held.thrown is Why.TIME_LIMIT:
                return _outcome(held, OUTCOME_TIMED_OUT, time_limit(held.assignment, ended), ended)
            if held.thrown is Why.CANCELLED:
                return _outcome(held, OUTCOME_CANCELLED, not_stopped(ended), ended)
            if held is stuck_in:
                return _outcome(held, OUTCOME_SUSPECTED, failure_of_child("LoopHeldUp", HELD_UP, ended), ended)
            return _outcome(held, OUTCOME_RETURNED, None, ended)

        return fate

    def _remove(self, held: Held) -> None:
        del self.pairs[held.assignment.task, held.assignment.attempt]
        if held.place == NOWHERE:
            self.queued.remove(held)
            return
        del self.sent[held.place]
        self._grow_up(held)
        self._free.append(held.place)

    def _grow_up(self, held: Held) -> None:
        if self._fresh.pop(held.place, None) is not None:
            self._fresh_bytes -= len(held.assignment.body)


def thrown_out(why: Why, assignment: Assignment, traceback: str) -> Failure:
    """Of a task that ended by itself when it was thrown out for its time limit, or because it was cancelled."""
    failure = time_limit(assignment, ALIVE) if why is Why.TIME_LIMIT else not_stopped(ALIVE)
    return replace(failure, traceback=traceback)


def _returned(held: Held) -> Outcome:
    return Outcome(held.assignment.task, held.assignment.attempt, OUTCOME_RETURNED, 0, 0, b"")


def _outcome(held: Held, status: int, failure: Failure | None, ended: Ended) -> Outcome:
    return blamed(held.assignment, status, failure, held.started, ended)


def _among_others(failure: Failure, count: int) -> Failure:
    message = f"{failure.message}, which ran {count} tasks in its event loop: any of them may have done it"
    return replace(failure, message=message)
