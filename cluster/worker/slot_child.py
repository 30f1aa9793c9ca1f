"""One slot's child: fed, watched and ended. `cluster.worker.slots` decides, this carries out.

How it is started, listened to and started again: `cluster.worker.executor_child`; before it has ended:
`cluster.worker.renewal`.
"""

from signal import SIGKILL, SIGTERM

from msgspec.structs import replace

from actors import Child, Context, Nanos
from cluster.state.commands import Outcome
from cluster.wire import NO_TOTAL
from cluster.worker.blame import Ended
from cluster.worker.child_messages import WARNING_SIGNAL, Batch, Ready, encode
from cluster.worker.claims import withdraw_or_stop, withdraw_waiting
from cluster.worker.executor_child import LOCK_TIMEOUT, ExecutorChild, Owner, State
from cluster.worker.page import PAGE_BYTES, ClaimPage
from cluster.worker.renewal import Renewal
from cluster.worker.slots import TERM_GRACE_NS, Due, Held, Pair, Slot, Why
from cluster.worker.starts import Start
from cluster.worker.wear import UNLIMITED, WearLimits

EXECUTOR_ENTRY = "cluster.worker.executor:main"


class SlotChild(ExecutorChild[Slot, ClaimPage]):
    """One slot of a worker."""

    def __init__(self, index: int, context: Context, setup: bytes, owner: Owner, wear: WearLimits = UNLIMITED) -> None:
        label = f"{context.system.node}/{index}"

        def spawn() -> Start:
            return Start(context, EXECUTOR_ENTRY, setup, PAGE_BYTES, label)

        super().__init__(Slot(index), context, owner, spawn, ClaimPage)
        self._renewal = Renewal(self, context, spawn, wear)

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
        """Whether a tick has something to look after."""
        return super().is_busy or self._renewal.wear.wants_look(is_working=False)

    @property
    def is_leaving(self) -> bool:
        """Whether a child that was let go has not ended: its instances may be at their end."""
        return self._renewal.leaving > 0

    @property
    def child(self) -> Child | None:
        """The child, if it is ready and not about to be ended."""
        return self._child if self.state is State.READY and self.slot.ending is None else None

    def open(self) -> None:
        """The slot is to have a child again."""
        self.is_stopped = False
        if not self._renewal.is_vacant:
            self.start()

    def shut(self) -> None:
        """The slot gets nothing more: what waits is handed back, and the child ends when it has no task. To be called
        again until it has."""
        self.is_stopped = True
        self._renewal.end()
        if self.slot.pairs:
            self.hand_back()
        if self.slot.pairs or self.slot.ending is not None:
            return
        if self.state is State.READY:
            self._renewal.vacate()
        elif self.state is State.STARTING:
            self.kill(Why.STOPPING)

    def adopt(self, start: Start) -> Start | None:
        self.slot.renewed()
        self._renewal.renewed()
        return super().adopt(start)

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
        words = self._locked_now(lambda: (page.claimed, page.claimed_at, *page.ring.take()))
        if words is None:
            return
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

    def gather(self) -> None:
        """Collects what is finished, unless the child is writing just now: another look follows, or its word."""
        self._collect(0)

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

    def kill(self, why: Why) -> None:
        if self.is_stopped:
            self._renewal.end()
        super().kill(why)

    def close(self) -> None:
        self._renewal.end()
        super().close()

    # -- the child ------------------------------------------------------------------------------------------

    def _admit(self, message: Ready) -> None:
        assert self._start is not None
        self._renewal.admit(self._start, message, lambda: self._is_ready(message))

    def _ended(self, count: int) -> None:
        self._renewal.wear.tasks_ended(count)
        self.feed()

    def _lost(self, ended: Ended, *, is_unexpected: bool) -> tuple[list[Outcome], bool]:
        claimed = claimed_at = 0
        if (page := self._page) is not None:
            claimed, claimed_at = page.claimed, page.claimed_at
            ended = replace(ended, log=page.log.text(claimed))
        culprit = self.slot.running(claimed)
        was_working = culprit is not None or self.slot.ending is not None
        if is_unexpected:
            # By the name of the task: one that ends its process mostly does it again.
            name, task = ("none", 0) if culprit is None else (culprit.assignment.name, culprit.assignment.task)
            self._log_loss(name, ended, task=task)
        return self.slot.lost(claimed, claimed_at, ended), was_working

    def start_next(self) -> None:
        if not self._renewal.take_over():
            super().start_next()

    # -- the page -------------------------------------------------------------------------------------------

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
