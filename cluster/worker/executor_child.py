"""The life of an executor child, be it that of a slot or the event loop: started, listened to, given signals, and
started again when it has ended. What it is sent and what is done about its tasks: `cluster.worker.slot_child` and
`cluster.worker.loop_child`.

Everything that touches the page takes its lock with a timeout, because its holder may be stopped or dead. A child whose
lock stays taken is ended; what it had goes back uncounted, since nobody can tell what it was doing.
"""

from collections.abc import Callable
from enum import Enum
from signal import SIGKILL
from typing import Generic, Protocol, TypeVar

import msgspec

from actors import MILLISECOND, SECOND, Child, Context, Exit, Nanos, PeerLog
from cluster.state.commands import Outcome
from cluster.worker.blame import Ended
from cluster.worker.child_messages import (
    Finished,
    FromChild,
    Oversize,
    Ready,
    StartFailed,
    decode_outcomes,
    from_child_decoder,
)
from cluster.worker.loop_page import LoopPage
from cluster.worker.loop_slots import LoopSlot
from cluster.worker.page import ClaimPage
from cluster.worker.slots import Slot, Why
from cluster.worker.starts import Pauses, Start

AnySlot = TypeVar("AnySlot", Slot, LoopSlot)
AnyPage = TypeVar("AnyPage", ClaimPage, LoopPage)
Result = TypeVar("Result")

LOCK_TIMEOUT: Nanos = 100 * MILLISECOND     # the child holds the lock for microseconds
LOCK_MISSES_MAX = 40                        # ticks in a row that find the lock taken
STEADY: Nanos = 10 * SECOND                 # a child that lived so long has not failed to start


class State(Enum):
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"


class Owner(Protocol):
    """What a child's slot tells its worker."""

    def child_ready(self, ready: Ready) -> None: ...

    def child_failed_to_start(self, report: StartFailed | Exit) -> None: ...

    def child_exited(self, slot: int) -> None: ...

    def outcomes(self, outcomes: list[Outcome]) -> None: ...


class ExecutorChild(Generic[AnySlot, AnyPage]):
    """One child after another. `spawn` starts one, `view` looks at the page of one."""

    def __init__(
        self,
        slot: AnySlot,
        context: Context,
        owner: Owner,
        spawn: Callable[[], Start],
        view: Callable[[memoryview], AnyPage],
    ) -> None:
        self.slot: AnySlot = slot
        self.state = State.DOWN
        self.is_stopped = False             # the child is not started again
        self.pauses = Pauses()              # between children that do not last
        self._context = context
        self._owner = owner
        self._spawn = spawn
        self._view: Callable[[memoryview], AnyPage] = view
        self._start: Start | None = None    # of the child
        self._child: Child | None = None
        self._page: AnyPage | None = None   # once it is ready
        self._ready_at: Nanos = 0
        self._lock_misses = 0
        self._log = PeerLog(context.log, context.clock)

    @property
    def pid(self) -> int:
        """Of the child; 0 while there is none."""
        return 0 if self._child is None else self._child.pid

    @property
    def page(self) -> AnyPage | None:
        """That it shares with the child, once that is ready."""
        return self._page

    @property
    def is_busy(self) -> bool:
        """Whether a tick has something to look after."""
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
        if not self.is_stopped and self.state is State.DOWN:
            self.adopt(self._spawn())

    def adopt(self, start: Start) -> Start | None:
        """From now on this is the child; it may be ready already. Returns the one that there was, if any."""
        assert not self.is_working and self.state is not State.STARTING
        former = self._start
        start.on_frame, start.on_exit = self._on_frame, self._on_exit
        self._start, self._child, self._page, self._lock_misses = start, start.child, None, 0
        self.state = State.STARTING
        if start.ready is not None:
            self._is_ready(start.ready)
        return former

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

    # -- for those who derive from it to say ------------------------------------------------------------------

    def feed(self) -> None:
        """Sends the child what its window takes."""
        raise NotImplementedError

    def _ended(self, count: int) -> None:
        """So many tasks of the child have ended: it may take others."""
        raise NotImplementedError

    def _lost(self, ended: Ended, *, is_unexpected: bool) -> tuple[list[Outcome], bool]:
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
            self._admit(message)
        elif type(message) is StartFailed:
            assert self._start is not None
            self._start.failure = message

    def _admit(self, message: Ready) -> None:
        self._is_ready(message)

    def _is_ready(self, message: Ready) -> None:
        assert self._child is not None
        self.state = State.READY
        self._ready_at = self._context.clock.now()
        self._page = self._view(self._child.page.view)
        self._owner.child_ready(message)
        self.feed()

    def _on_exit(self, exit: Exit) -> None:
        now, wall_ms = self._context.clock.now(), self._context.clock.wall_ms()
        page, start, was_ready = self._page, self._start, self.state is State.READY
        assert start is not None
        self.state = State.DOWN             # so that nothing more is sent
        if page is not None and not page.ring.is_empty:     # without the lock, whose holder is dead
            self._finish(self._decode(*page.ring.take()))
        ended = Ended(exit.code, exit.signal, exit.stderr, now, wall_ms)
        outcomes, was_working = self._lost(ended, is_unexpected=was_ready and not self.is_stopped)
        self._start, self._child, self._page, self._lock_misses = None, None, None, 0
        self._owner.outcomes(outcomes)
        if not was_ready and not self.is_stopped:
            self.start_failed(start.failure or exit)
        self._owner.child_exited(self.slot.index)
        if not self.is_stopped:
            # A child that died of a task says nothing against the next one, which others wait for. How often a task
            # may do that is bounded by its attempts.
            if was_working or (was_ready and now - self._ready_at >= STEADY):
                self.pauses.reset()
            self.start_next()

    def start_failed(self, failure: StartFailed | Exit) -> None:
        self._owner.child_failed_to_start(failure)

    def start_next(self) -> None:
        """There is no child: another is started, at once or after a pause."""
        if (pause := self.pauses.next()) == 0:
            self.start()
        else:
            self._context.timer(("restart", self.slot.index), pause, self.start)

    def _log_loss(self, key: str, ended: Ended, **what_ran: object) -> None:
        """Once a minute for each `key`."""
        why = "it died" if self.slot.ending is None else self.slot.ending.why.value
        self._log.event(
            "child_lost",
            key,
            known=True,
            slot=self.slot.index,
            **what_ran,
            code=ended.code,
            signal=ended.signal,
            why=why,
        )

    # -- outcomes and the page ------------------------------------------------------------------------------

    def _collect(self, timeout: Nanos = LOCK_TIMEOUT) -> None:
        """Empties the ring."""
        page = self._page
        if page is None or page.ring.is_empty or self.slot.ending is not None:
            return                          # of a child that is ended the lock may stay taken, and its exit comes
        taken = self._locked(timeout, page.ring.take)
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
        self._ended(len(outcomes))

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

    def _locked_now(self, action: Callable[[], Result]) -> Result | None:
        """Likewise for a tick, which does not wait: another one follows, but not for ever."""
        done = self._locked(0, action)
        if done is not None:
            self._lock_misses = 0
            return done
        self._lock_misses += 1
        if self._lock_misses == LOCK_MISSES_MAX:
            self._give_up_on_child()
        return None

    def _give_up_on_child(self) -> None:
        self._context.log.event("child_lock_stuck", slot=self.slot.index, pid=self.pid)
        self.kill(Why.NO_ANSWER)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)
