"""The life of a loop child: started, listened to, given signals, and started again with growing pauses, as the child of
a slot is. What it is sent and what becomes of its tasks: `cluster.worker.loop_child`.

What needs the lock of the page takes it with a timeout, because its holder may be stopped or dead. A child whose lock
stays taken is ended; what it had goes back uncounted, since nobody can tell what it was doing.
"""

from collections.abc import Callable
from signal import SIGKILL
from typing import Protocol, TypeVar

import msgspec

from actors import MILLISECOND, SECOND, Child, Context, Exit, Nanos, PeerLog
from cluster.state.commands import Outcome
from cluster.worker.child_messages import (
    Finished,
    FromChild,
    Oversize,
    Ready,
    StartFailed,
    decode_outcomes,
    from_child_decoder,
)
from cluster.worker.loop_page import LOOP_PAGE_BYTES, LoopPage
from cluster.worker.loop_slots import LoopSlot
from cluster.worker.slot_child import LOCK_MISSES_MAX, LOCK_TIMEOUT, STEADY, State
from cluster.worker.slots import Ended, Why

Result = TypeVar("Result")

LOOP_ENTRY = "cluster.worker.loop_executor:main"
RESTART_DELAY_MIN: Nanos = 50 * MILLISECOND     # before the second restart in a row; the first is at once
RESTART_DELAY_MAX: Nanos = 5 * SECOND


class Owner(Protocol):
    """What a loop tells its worker."""

    def child_ready(self, ready: Ready) -> None: ...

    def child_failed_to_start(self, report: StartFailed | Exit) -> None: ...

    def child_exited(self, child: "LoopProcess") -> None: ...

    def outcomes(self, outcomes: list[Outcome]) -> None: ...


class LoopProcess:
    """One loop child after another; `LoopChild` says what they do."""

    def __init__(self, index: int, places: int, context: Context, setup: bytes, owner: Owner) -> None:
        self.slot = LoopSlot(index, places)
        self.state = State.DOWN
        self.is_stopped = False             # the child is not started again
        self._context = context
        self._setup = setup
        self._owner = owner
        self._child: Child | None = None
        self._page: LoopPage | None = None
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
    def is_busy(self) -> bool:
        """Whether `tick` has something to look after."""
        return bool(self.slot.pairs) or self.slot.ending is not None

    @property
    def is_working(self) -> bool:
        """Whether the child has a task."""
        return bool(self.slot.sent)

    @property
    def is_leaving(self) -> bool:
        """Whether a child that was let go has not ended: none ever is, but of slots."""
        return False

    def start(self) -> None:
        assert self.state is State.DOWN
        self.state = State.STARTING
        callback = self._context.callback
        self._child = self._context.processes.spawn(
            LOOP_ENTRY,
            self._setup,
            page_bytes=LOOP_PAGE_BYTES,
            on_frame=callback(self._on_frame),
            on_exit=callback(self._on_exit),
            label=f"{self._context.system.node}/loop",
        )

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

    # -- for `LoopChild` to say -------------------------------------------------------------------------------

    def feed(self) -> None:
        """Sends the child what its window takes."""
        raise NotImplementedError

    def _lost(self, ended: Ended, is_unexpected: bool) -> tuple[list[Outcome], bool]:
        """The child has ended, and all outcomes that it left are collected: what becomes of what it had, and whether
        it was at work. `is_unexpected`: it is worth a line in the log."""
        raise NotImplementedError

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
            self._page = LoopPage(self._child.page.view)
            self._owner.child_ready(message)
            self.feed()
        elif type(message) is StartFailed:
            self._report = message

    def _on_exit(self, exit: Exit) -> None:
        now, wall_ms = self._context.clock.now(), self._context.clock.wall_ms()
        page, was_ready = self._page, self.state is State.READY
        self.state = State.DOWN             # so that nothing more is sent
        if page is not None and not page.ring.is_empty:     # without the lock, whose holder is dead
            self._finish(self._decode(*page.ring.take()))
        ended = Ended(exit.code, exit.signal, exit.stderr, now, wall_ms)
        outcomes, was_working = self._lost(ended, was_ready and not self.is_stopped)
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
        if page is None or page.ring.is_empty:
            return
        taken = self._locked(LOCK_TIMEOUT, page.ring.take)
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

    def _missed_lock(self) -> None:
        """A tick found the lock taken."""
        self._lock_misses += 1
        if self._lock_misses == LOCK_MISSES_MAX:
            self._give_up_on_child()

    def _give_up_on_child(self) -> None:
        self._context.log.event("child_lock_stuck", slot=self.slot.index, pid=self.pid)
        self.kill(Why.NO_ANSWER)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)
