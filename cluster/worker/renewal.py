"""The child of a slot is renewed before it has ended, when `cluster.worker.wear` says so.

The successor is a child that is started and told nothing. It takes the slot over between two tasks: what waits at the
worker goes to it at once, and the old child is let go. If the old one dies before that, for whatever reason, its
successor is there as well, and the slot need not wait for a start.

With actors among the tasks the old child is let go first, and the slot waits for its end: until then its instances run
their `stopped`, and there must be no two instances of one key at once.
"""

from collections.abc import Callable
from signal import SIGKILL
from typing import Protocol

import msgspec

from actors import MILLISECOND, Child, Context, Exit, Nanos, PeerLog
from cluster.sizes import size_text
from cluster.worker.child_messages import FromChild, Ready, StartFailed, from_child_decoder
from cluster.worker.slots import Slot
from cluster.worker.starts import Pauses, Start
from cluster.worker.wear import UNLIMITED, Step, Wear, WearLimits

MEASURE_PAUSE: Nanos = 1 * MILLISECOND      # until the pid of a child is known that has said already that it is ready


class Renewed(Protocol):
    """The slot, as its renewal needs it."""

    slot: Slot
    is_stopped: bool
    pauses: Pauses                          # between its children

    @property
    def child(self) -> Child | None:
        """Its child, if that is ready and not about to be ended."""

    def hold(self) -> None:
        """Takes back what waits at the child, to wait here."""

    def hand_back(self) -> None:
        """Returns everything that does not run."""

    def feed(self) -> None: ...

    def adopt(self, start: Start) -> Start | None:
        """Makes it its child and feeds it, if it is ready. Returns the one that it had."""

    def part(self) -> Start:
        """Has no child from now on, until it adopts one. Returns the one that it had, which has no task."""

    def start_next(self) -> None:
        """There is no child: the successor takes over, or another one is started."""

    def start_failed(self, failure: StartFailed | Exit) -> None: ...


class Renewal:
    """Of one slot; `spawn` starts a child."""

    def __init__(self, place: Renewed, context: Context, spawn: Callable[[], Start], limits: WearLimits) -> None:
        self.wear = Wear(limits)
        self._limits = limits
        self._is_limited = limits != UNLIMITED
        self._place = place
        self._context = context
        self._spawn = spawn
        self._successor: Start | None = None
        self._successors = Pauses()         # between successors
        self._is_pausing = False            # after a successor that failed
        self.leaving = 0                    # children that were let go and have not ended
        self.is_vacant = False              # the slot waits for the end of the child that it had
        self._log = PeerLog(context.log, context.clock)

    def renewed(self) -> None:
        """The slot has another child."""
        self.wear = Wear(self._limits)

    def look(self, child: Child, *, is_working: bool) -> str | None:
        """Looks at the child's memory if that can tell something. If its task is to be ended for it, says why."""
        if not self.wear.wants_look(is_working=is_working):
            return None
        memory = child.rss_bytes()
        if not self.wear.looked(memory, is_working=is_working):
            return None
        limit = self._limits.memory_limit
        return f"its process had {size_text(memory)} in memory, more than its limit of {size_text(limit)}"

    def admit(self, start: Start, message: Ready, then: Callable[[], None]) -> None:
        """The child says that it is ready; calls `then` when it is known to be of use. One that is above its memory
        limit before it had any task would be killed for each: it is killed now, as one that failed to start."""
        limit = self._limits.memory_limit
        memory = start.child.rss_bytes() if limit else 0
        if start.has_ended:
            return
        if limit and start.child.pid == 0:
            self._context.timer(("measure", start), MEASURE_PAUSE, lambda: self.admit(start, message, then))
        elif memory > limit > 0:
            slot, found, allowed = self._place.slot.index, size_text(memory), size_text(limit)
            self._log.event("child_above_limit", str(slot), known=True, slot=slot, memory=found, memory_limit=allowed)
            start.failure = StartFailed(
                "",
                f"a child that has run no task has {found} in memory, more than memory_limit = {allowed}: every task "
                "would be killed in it; use a higher memory_limit, or import less",
            )
            start.child.signal(SIGKILL)
        else:
            start.ready = message
            then()

    def go_on(self) -> None:
        """Does what is due now. Everything that may change that calls this."""
        while self._is_limited and (child := self._place.child) is not None and not self._place.is_stopped:
            successor = self._successor
            step = self.wear.next_step(
                len(self._place.slot.sent),
                has_successor=successor is not None or self._is_pausing,
                is_ready=successor is not None and successor.ready is not None,
            )
            if step is Step.NOTHING:
                return
            if step is Step.START:
                self._start_successor()
            elif step is Step.HOLD:
                self.wear.hold()
                self._place.hold()
            elif step is Step.LOOK:
                self.wear.looked(child.rss_bytes(), is_working=False)
                self._place.feed()          # if it goes on
            else:
                assert successor is not None
                self._replace(child, successor)

    def take_over(self) -> bool:
        """The slot has no child: its successor is that from now on, if there is one."""
        successor, self._successor = self._successor, None
        if successor is not None:
            self._place.adopt(successor)
        return successor is not None

    def vacate(self) -> None:
        """The slot is shut, and its child has no task: it is let go. If the slot is opened meanwhile, it waits for that
        end: until then instances run their `stopped`."""
        assert not self.is_vacant and self._successor is None
        self._place.pauses.reset()
        self.is_vacant = True
        self._let_go(self._place.part())

    def end(self) -> None:
        """No child is needed any more."""
        if self._successor is not None:
            self._successor.kill()
            self._successor = None

    def _replace(self, child: Child, successor: Start) -> None:
        assert successor.ready is not None and not self.is_vacant
        self._place.pauses.reset()
        self._successors.reset()
        slot, tasks = self._place.slot.index, self.wear.ended
        if successor.ready.has_actors:
            self.is_vacant = True
            former: Start | None = self._place.part()
        else:
            self._successor = None
            former = self._place.adopt(successor)
        assert former is not None and former.child is child
        # A new child that has its task has begun by now: what follows takes longer than all before it, and can wait.
        self._log.event(
            "child_recycled",
            str(slot),
            known=True,
            slot=slot,
            tasks=tasks,
            memory=size_text(child.rss_bytes()),
            memory_after=size_text(successor.child.rss_bytes()),
        )
        self._let_go(former)

    def _let_go(self, former: Start) -> None:
        self.leaving += 1
        former.let_go(self._former_gone)

    def _former_gone(self) -> None:
        self.leaving -= 1
        assert self.leaving >= 0
        if self.is_vacant:
            self.is_vacant = False
            self._place.start_next()

    # -- the successor speaks -------------------------------------------------------------------------------

    def _start_successor(self) -> None:
        self._successor = self._spawn()
        self._successor.on_frame, self._successor.on_exit = self._on_frame, self._on_exit

    def _on_frame(self, frame: bytes) -> None:
        successor = self._successor
        assert successor is not None
        try:
            message: FromChild = from_child_decoder.decode(frame)
        except msgspec.MsgspecError:
            successor.child.signal(SIGKILL)     # an import wrote to a descriptor that is not its own
            return
        if type(message) is Ready:
            self.admit(successor, message, self.go_on)
        elif type(message) is StartFailed:
            successor.failure = message

    def _on_exit(self, exit: Exit) -> None:
        """There is no successor for now. What may not run in the old child is for others; another is tried later."""
        successor, self._successor = self._successor, None
        assert successor is not None
        self._place.start_failed(successor.failure or exit)
        if self._place.child is not None and self.wear.room(len(self._place.slot.sent)) == 0:
            self._place.hand_back()
        self._is_pausing = True
        self._context.timer(("successor", self._place.slot.index), self._successors.next(), self._paused)

    def _paused(self) -> None:
        self._is_pausing = False
        self.go_on()
