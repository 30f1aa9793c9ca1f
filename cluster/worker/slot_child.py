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
from cluster.worker.page import PAGE_BYTES, ClaimPage
from cluster.worker.slots import Due, Ended, Held, Pair, Slot, Why

Result = TypeVar("Result")

EXECUTOR_ENTRY = "cluster.worker.executor:main"
LOCK_TIMEOUT: Nanos = 100 * MILLISECOND     # the child holds the lock for microseconds
LOCK_MISSES_MAX = 40                        # ticks in a row that find the lock taken
RESTART_DELAY_MIN: Nanos = 50 * MILLISECOND     # before the second restart in a row; the first is at once
RESTART_DELAY_MAX: Nanos = 5 * SECOND
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

    def __init__(self, index: int, context: Context, setup: bytes, owner: Owner) -> None:
        self.slot = Slot(index)
        self.state = State.DOWN
        self.is_stopped = False             # the child is not started again
        self._context = context
        self._setup = setup
        self._owner = owner
        self._child: Child | None = None
        self._page: ClaimPage | None = None
        self._report: StartFailed | None = None
        self._failures = 0                  # starts in a row that did not last
        self._ready_at: Nanos = 0
        self._lock_misses = 0
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
        return bool(self.slot.pairs) or self.slot.ending is not None

    @property
    def is_working(self) -> bool:
        """Whether the child has a task."""
        return bool(self.slot.sent)

    def start(self) -> None:
        assert self.state is State.DOWN
        self.state = State.STARTING
        callback = self._context.callback
        self._child = self._context.processes.spawn(
            EXECUTOR_ENTRY,
            self._setup,
            page_bytes=PAGE_BYTES,
            on_frame=callback(self._on_frame),
            on_exit=callback(self._on_exit),
            label=f"{self._context.system.node}/{self.slot.index}",
        )

    def feed(self) -> None:
        """Sends the child what its window takes."""
        if self.state is not State.READY:
            return
        assert self._child is not None and self._page is not None
        while (batch := self.slot.next_batch(self._page.claimed)) is not None:
            self._child.send(encode(Batch(*batch)))

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

    def hand_back(self) -> None:
        """Returns everything that does not run."""
        self._owner.outcomes(self._take_back(None) or [])

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

        def ask() -> bool:
            if page.withdraw(held.number):
                return True
            if page.claimed == held.number:     # else it has ended, and its outcome waits to be collected
                page.stop(held.number)
            return False

        is_withdrawn = self._locked(LOCK_TIMEOUT, ask)
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
        if self._child is not None:
            self.slot.end(why, 0, self._context.clock.now(), grace=0)
            self._signal(SIGKILL)

    def close(self) -> None:
        """Lets an idle child end by itself; it is not started again."""
        self.is_stopped = True
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
            assert self._child is not None
            self.state = State.READY
            self._ready_at = self._context.clock.now()
            self._page = ClaimPage(self._child.page.view)
            self._owner.child_ready(message)
            self.feed()
        elif type(message) is StartFailed:
            self._report = message

    def _on_exit(self, exit: Exit) -> None:
        now, wall_ms = self._context.clock.now(), self._context.clock.wall_ms()
        page, was_ready = self._page, self.state is State.READY
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
        self._child, self._page, self._lock_misses = None, None, 0
        self._owner.outcomes(outcomes)
        if not was_ready and not self.is_stopped:
            report, self._report = self._report, None
            self._owner.child_failed_to_start(report or exit)
        self._owner.child_exited(self)
        if not self.is_stopped:
            # A child that died of a task says nothing against the next one, which others wait for. How often a task
            # may do that is bounded by its attempts.
            self._start_again(was_working or (was_ready and now - self._ready_at >= STEADY))

    def _log_loss(self, culprit: Held | None, exit: Exit) -> None:
        """Once a minute for each name of a task: a task that ends its process mostly does it again."""
        name = culprit.assignment.name if culprit is not None else "none"
        task = culprit.assignment.task if culprit is not None else 0
        why = "it died" if self.slot.ending is None else self.slot.ending.why.value
        self._log.event(
            "child_lost", name, known=True, slot=self.slot.index, task=task, code=exit.code, signal=exit.signal, why=why
        )

    def _start_again(self, was_steady: bool) -> None:
        if was_steady:
            self._failures = 0
        if self._failures == 0:
            self.start()
        else:
            delay = min(RESTART_DELAY_MIN << min(self._failures - 1, 16), RESTART_DELAY_MAX)
            self._context.timer(("restart", self.slot.index), delay, self._restart)
        self._failures += 1

    def _restart(self) -> None:
        if self.state is State.DOWN and not self.is_stopped:
            self.start()

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
        if self.slot.queued:
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

    def _end_running(self, why: Why, number: int) -> None:
        """SIGTERM for the running task's sake; nothing else may start before the signal arrives."""
        outcomes = self._take_back(number)
        if outcomes is None:
            return                          # it has just ended by itself
        self.slot.end(why, number, self._context.clock.now())
        self._signal(SIGTERM)
        self._owner.outcomes(outcomes)

    def _take_back(self, running: int | None) -> list[Outcome] | None:
        """Withdraws all that waits, at the child and here; None if `running` is no longer the last one
        claimed.
        """
        page, slot = self._page, self.slot
        taken = list(slot.queued)
        if page is not None and slot.sent:

            def mark() -> bool:
                claimed = page.claimed
                if running is not None and claimed != running:
                    return False
                for held in slot.waiting(claimed):
                    withdrawn = page.withdraw(held.number)
                    assert withdrawn, "a number above the last one claimed can be withdrawn"
                    taken.append(held)
                return True

            done = self._locked(LOCK_TIMEOUT, mark)
            if done is None:
                self._give_up_on_child()
            if not done:
                return None
        return [slot.hand_back(held) for held in taken]

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
