"""One slot's process: started, fed, watched, ended and started again. `cluster.worker.slots` decides, this carries
out.

Everything that touches the claim page takes its lock with a timeout, because its holder may be stopped or
dead. A child whose lock stays taken is ended; what it had goes back uncounted, since nobody can tell what it
was doing.
"""

from collections.abc import Callable
from enum import Enum
from signal import SIGKILL, SIGTERM
from typing import Protocol, TypeVar

import msgspec

from actors import MILLISECOND, SECOND, Child, Context, Exit, Nanos, PeerLog
from cluster.state.commands import Outcome
from cluster.wire import NO_TOTAL
from cluster.worker.child_messages import (
    WARNING_SIGNAL,
    Batch,
    Finished,
    FromChild,
    Oversize,
    Ready,
    StartFailed,
    decode_outcomes,
    encode,
    from_child_decoder,
)
from cluster.worker.claims import withdraw_or_stop, withdraw_waiting
from cluster.worker.page import ClaimPage
from cluster.worker.renewal import Renewal
from cluster.worker.slots import TERM_GRACE_NS, Due, Ended, Held, Pair, Slot, Why
from cluster.worker.starts import Start
from cluster.worker.wear import UNLIMITED, WearLimits

Result = TypeVar("Result")

EXECUTOR_ENTRY = "cluster.worker.executor:main"
LOCK_TIMEOUT: Nanos = 100 * MILLISECOND     # the child holds the lock for microseconds
LOCK_MISSES_MAX = 40                        # ticks in a row that find the lock taken
STEADY: Nanos = 10 * SECOND                 # a child that lived so long has not failed to start


class State(Enum):
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"


class Owner(Protocol):
    """What a slot tells its worker."""

    def child_ready(self, ready: Ready) -> None: ...

    def child_failed_to_start(self, report: StartFailed | Exit) -> None: ...

    def child_exited(self, child: "SlotChild") -> None: ...

    def outcomes(self, outcomes: list[Outcome]) -> None: ...


class SlotChild:
    """One slot of a worker."""

    def __init__(self, index: int, context: Context, setup: bytes, owner: Owner, wear: WearLimits = UNLIMITED) -> None:
        self.slot = Slot(index)
        self.state = State.DOWN
        self.is_stopped = False             # the child is not started again
        self._context = context
        self._owner = owner
        self._start: Start | None = None    # of the child
        self._child: Child | None = None
        self._page: ClaimPage | None = None
        self._ready_at: Nanos = 0
        self._lock_misses = 0
        label = f"{context.system.node}/{index}"
        self._renewal = Renewal(self, context, lambda: Start(context, EXECUTOR_ENTRY, setup, label), wear)
        self._log = PeerLog(context.log, context.clock)

    @property
    def pid(self) -> int:
        """Of the child; 0 while there is none."""
        return 0 if self._child is None else self._child.pid

    @property
    def running(self) -> int:
        """The id of the task that runs, 0 for none; a hint."""
        held = None if self._page is None else self.slot.running(self._page.claimed)
        return 0 if held is None else held.assignment.task

    def progress(self) -> list[tuple[int, int, int, int]]:
        """Task, attempt, done and total (or -1) of what runs and has said how far it is; a hint."""
        page = self._page
        held = None if page is None else self.slot.running(page.claimed)
        if page is None or held is None or (said := page.progress(held.number)) is None:
            return []
        done, total = said
        return [(held.assignment.task, held.assignment.attempt, done, NO_TOTAL if total is None else total)]

    @property
    def running_tasks(self) -> list[int]:
        """The ids of the tasks that run; a hint."""
        return [task] if (task := self.running) else []

    @property
    def is_busy(self) -> bool:
        """Whether `tick` has something to look after."""
        slot, wear = self.slot, self._renewal.wear
        return bool(slot.pairs) or slot.ending is not None or wear.wants_look(is_working=False)

    @property
    def is_working(self) -> bool:
        """Whether the child has a task."""
        return bool(self.slot.sent)

    @property
    def is_leaving(self) -> bool:
        """Whether a child that was let go has not ended: its instances may be at their end."""
        return self._renewal.leaving > 0

    @property
    def child(self) -> Child | None:
        """The child, if it is ready and not about to be ended."""
        return self._child if self.state is State.READY and self.slot.ending is None else None

    def start(self) -> None:
        self._renewal.start()

    def adopt(self, start: Start) -> Start | None:
        """From now on this is the child of the slot; it may be ready already. Returns the one that it had, if any."""
        assert not self.is_working and self.state is not State.STARTING
        former = self._start
        start.on_frame, start.on_exit = self._on_frame, self._on_exit
        self._start, self._child, self._page, self._lock_misses = start, start.child, None, 0
        self.state = State.STARTING
        self.slot.renewed()
        self._renewal.renewed()
        if start.ready is not None:
            self._is_ready(start.ready)
        return former

    def part(self) -> Start:
        """The slot has no child until it adopts another. Returns the one that it had."""
        assert not self.is_working and self.state is State.READY and self._start is not None
        former = self._start
        self.state = State.DOWN
        self._start, self._child, self._page, self._lock_misses = None, None, None, 0
        return former

    def feed(self) -> None:
        """Sends the child what its window takes, and as many tasks as it may still run."""
        if self.state is not State.READY:
            return
        assert self._child is not None and self._page is not None
        slot, wear = self.slot, self._renewal.wear
        while (batch := slot.next_batch(self._page.claimed, wear.room(len(slot.sent)))) is not None:
            self._child.send(encode(Batch(*batch)))
        self._renewal.go_on()

    def tick(self, now: Nanos) -> None:
        """Collects what is finished and enforces time limits."""
        page = self._page
        if page is None or not self.is_busy:
            return
        words = self._locked(0, lambda: (page.claimed, page.claimed_at, *page.take()))
        if words is None:
            self._lock_misses += 1
            if self._lock_misses == LOCK_MISSES_MAX:
                self._give_up_on_child()
            return
        self._lock_misses = 0
        claimed, claimed_at, count, encoded = words
        if count:
            self._finish(self._decode(count, encoded))
        if self._page is page:
            self._look(claimed)
        if self._page is not page:
            return                          # another child is there, with numbers of its own
        due = self.slot.check(now, claimed, claimed_at)
        if due is Due.HAND_BACK:
            self.hand_back()
        elif due is Due.END:
            self._end_running(Why.TIME_LIMIT, claimed)
        elif due is Due.WARN:
            self._warn(claimed)
        elif due is Due.CANCEL:
            self._end_running(Why.CANCELLED, claimed)
        elif due is Due.KILL:
            self._signal(SIGKILL)

    def _look(self, claimed: int) -> None:
        """Looks at the child's memory; not while it has tasks of which none had begun, for one may have begun since."""
        is_working = self.slot.running(claimed) is not None
        if self.child is not None and is_working == self.is_working:
            if (reason := self._renewal.look(self.child, is_working=is_working)) is not None:
                self._end_running(Why.MEMORY_LIMIT, claimed, grace=0, reason=reason)
            self._renewal.go_on()

    def hand_back(self) -> None:
        """Returns everything that does not run."""
        self._owner.outcomes(self._take_back(None) or [])

    def hold(self) -> None:
        """Takes back what waits at the child, to wait here."""
        self.slot.keep(self._withdraw_waiting(None) or [])

    def withdraw(self, pair: Pair) -> None:
        """The leader wants this attempt given up; if it runs, the child is ended. Nothing is reported."""
        held = self.slot.pairs.get(pair)
        page = self._page
        if held is None:
            return
        if held.number == 0:
            self.slot.drop(held)
            return
        assert page is not None
        done = self._locked(LOCK_TIMEOUT, lambda: (page.withdraw(held.number), page.claimed))
        if done is None:
            self._give_up_on_child()
        elif done[0]:
            self.slot.drop(held)
        elif done[1] == held.number:
            self._collect()
            if self.slot.pairs.get(pair) is held:
                self._end_running(Why.WITHDRAWN, held.number)
        self._feed_after_withdrawal()

    def stop(self, pair: Pair, grace: Nanos) -> None:
        """This attempt is cancelled. What has not begun ends here; what runs is asked to stop, and ended by a later
        tick. Its outcome is reported in any case."""
        held, page = self.slot.pairs.get(pair), self._page
        if held is None or self.slot.ending is not None:
            return                          # its outcome is on the way, or comes with the child's end
        if held.number == 0:
            self._owner.outcomes([self.slot.give_up(held)])
            return
        assert page is not None
        is_withdrawn = self._locked(LOCK_TIMEOUT, lambda: withdraw_or_stop(page, held.number))
        if is_withdrawn is None:
            self._give_up_on_child()
        elif is_withdrawn:
            self._owner.outcomes([self.slot.give_up(held)])
        else:
            stop_at = self._context.clock.now() + grace
            held.stop_at = min(held.stop_at or stop_at, stop_at)
        self._feed_after_withdrawal()

    def _feed_after_withdrawal(self) -> None:
        """The child skips what was withdrawn without a word: nothing else would send it what waits here."""
        if self.slot.queued:
            self.feed()

    def drop_queued(self) -> None:
        """Forgets what was not sent to the child."""
        for held in list(self.slot.queued):
            self.slot.drop(held)

    def kill(self, why: Why) -> None:
        """Ends the child at once, whatever it does. What it had goes back, when it is gone."""
        if self.is_stopped:
            self._renewal.end()
        if self._child is not None:
            self.slot.end(why, 0, self._context.clock.now(), grace=0)
            self._signal(SIGKILL)

    def close(self) -> None:
        """Lets an idle child end by itself; it is not started again."""
        self.is_stopped = True
        self._renewal.end()
        if self._child is not None:
            self._child.close()

    # -- the child speaks -----------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        try:
            message: FromChild = from_child_decoder.decode(frame)
        except msgspec.MsgspecError:
            # A task wrote to a descriptor that is not its own. It is the culprit, so no other reason is
            # noted.
            self._signal(SIGKILL)
            return
        if type(message) is Finished:
            self._collect()
        elif type(message) is Oversize:
            self._finish([message.outcome])
        elif type(message) is Ready:
            assert self._start is not None
            self._renewal.admit(self._start, message, lambda: self._is_ready(message))
        elif type(message) is StartFailed:
            assert self._start is not None
            self._start.failure = message

    def _is_ready(self, message: Ready) -> None:
        assert self._child is not None
        self.state = State.READY
        self._ready_at = self._context.clock.now()
        self._page = ClaimPage(self._child.page.view)
        self._owner.child_ready(message)
        self.feed()

    def _on_exit(self, exit: Exit) -> None:
        now, wall_ms = self._context.clock.now(), self._context.clock.wall_ms()
        page, start, was_ready = self._page, self._start, self.state is State.READY
        assert start is not None
        self.state = State.DOWN             # so that nothing more is sent
        claimed = claimed_at = 0
        log = ""
        if page is not None:                # without the lock, whose holder is dead
            claimed, claimed_at = page.claimed, page.claimed_at
            if page.has_outcomes:
                self._finish(self._decode(*page.take()))
            log = page.log.text(claimed)
        ended = Ended(exit.code, exit.signal, exit.stderr, now, wall_ms, log)
        culprit = self.slot.running(claimed)
        was_working = culprit is not None or self.slot.ending is not None
        if was_ready and not self.is_stopped:
            self._log_loss(culprit, exit)
        outcomes = self.slot.lost(claimed, claimed_at, ended)
        self._start, self._child, self._page, self._lock_misses = None, None, None, 0
        self._owner.outcomes(outcomes)
        if not was_ready and not self.is_stopped:
            self.start_failed(start.failure or exit)
        self._owner.child_exited(self)
        if not self.is_stopped:
            # A child that died of a task says nothing against the next one, which others wait for. How often a task
            # may do that is bounded by its attempts.
            self._renewal.start_next(was_steady=was_working or (was_ready and now - self._ready_at >= STEADY))

    def start_failed(self, failure: StartFailed | Exit) -> None:
        self._owner.child_failed_to_start(failure)

    def _log_loss(self, culprit: Held | None, exit: Exit) -> None:
        """Once a minute for each name of a task: a task that ends its process mostly does it again."""
        name = culprit.assignment.name if culprit is not None else "none"
        task = culprit.assignment.task if culprit is not None else 0
        why = "it died" if self.slot.ending is None else self.slot.ending.why.value
        self._log.event(
            "child_lost", name, known=True, slot=self.slot.index, task=task, code=exit.code, signal=exit.signal, why=why
        )

    # -- outcomes and the page ------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Empties the ring."""
        page = self._page
        if page is None or not page.has_outcomes:
            return
        taken = self._locked(LOCK_TIMEOUT, page.take)
        if taken is not None:
            self._finish(self._decode(*taken))
        # Else the next tick, or the child's exit, comes for them.

    def _decode(self, count: int, encoded: bytes) -> list[Outcome]:
        try:
            return decode_outcomes(count, encoded)
        except msgspec.MsgspecError:
            self._signal(SIGKILL)           # a task wrote into memory that is not its own
            return []

    def _finish(self, outcomes: list[Outcome]) -> None:
        finish = self.slot.finish
        held = [outcome for outcome in outcomes if finish((outcome.task, outcome.attempt))]
        if held:
            self._owner.outcomes(held)
        self._renewal.wear.tasks_ended(len(outcomes))
        self.feed()

    def _warn(self, number: int) -> None:
        """The soft time limit of the running task: its own code is to hear of it, in between."""
        page = self._page
        assert page is not None

        def mark() -> bool:
            page.warn(number)
            return page.claimed == number

        if self._locked(LOCK_TIMEOUT, mark):        # else the next tick tries again, or it has ended
            self.slot.warned(number)
            self._signal(WARNING_SIGNAL)

    def _end_running(self, why: Why, number: int, *, grace: Nanos = TERM_GRACE_NS, reason: str = "") -> None:
        """SIGTERM for the running task's sake, or SIGKILL without a grace; nothing else may start before it arrives."""
        outcomes = self._take_back(number)
        if outcomes is None:
            return                          # it has just ended by itself
        self.slot.end(why, number, self._context.clock.now(), grace, reason)
        self._signal(SIGTERM if grace else SIGKILL)
        self._owner.outcomes(outcomes)

    def _take_back(self, running: int | None) -> list[Outcome] | None:
        """Withdraws all that waits, at the child and here; None if `running` is no longer the last one
        claimed.
        """
        waiting = self._withdraw_waiting(running)
        return None if waiting is None else [self.slot.hand_back(held) for held in [*self.slot.queued, *waiting]]

    def _withdraw_waiting(self, running: int | None) -> list[Held] | None:
        """Likewise at the child only; what is withdrawn is still held as if it were there."""
        page, slot = self._page, self.slot
        if page is None or not slot.sent:
            return []

        done = self._locked(LOCK_TIMEOUT, lambda: (withdraw_waiting(page, slot, running),))
        if done is None:
            self._give_up_on_child()
            return None
        return done[0]

    def _locked(self, timeout: Nanos, action: Callable[[], Result]) -> Result | None:
        """Does something to the page under its lock; None if the lock could not be had."""
        assert self._child is not None
        page = self._child.page
        if not page.acquire(timeout):
            return None
        try:
            return action()
        finally:
            page.release()

    def _give_up_on_child(self) -> None:
        self._context.log.event("child_lock_stuck", slot=self.slot.index, pid=self.pid)
        self.kill(Why.NO_ANSWER)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)
