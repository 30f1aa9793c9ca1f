"""One slot's process: fed, watched and ended. `cluster.worker.slots` decides, this carries out.

How a child is started, listened to and started again: `cluster.worker.executor_child`.
"""

from signal import SIGKILL, SIGTERM

from actors import Context, Nanos
from cluster.state.commands import Outcome
from cluster.worker.child_messages import WARNING_SIGNAL, Batch, encode
from cluster.worker.executor_child import LOCK_TIMEOUT, ExecutorChild, Owner, State
from cluster.worker.page import PAGE_BYTES, ClaimPage
from cluster.worker.slots import Due, Ended, Held, Pair, Slot, Why

EXECUTOR_ENTRY = "cluster.worker.executor:main"


class SlotChild(ExecutorChild[Slot, ClaimPage]):
    """One slot of a worker."""

    def __init__(self, index: int, context: Context, setup: bytes, owner: Owner) -> None:
        super().__init__(Slot(index), context, setup, owner)

    @property
    def running(self) -> int:
        """The id of the task that runs, 0 for none; a hint."""
        held = None if self._page is None else self.slot.running(self._page.claimed)
        return 0 if held is None else held.assignment.task

    @property
    def running_tasks(self) -> list[int]:
        """The ids of the tasks that run; a hint."""
        return [task] if (task := self.running) else []

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
            self._missed_lock()
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

    # -- the child ------------------------------------------------------------------------------------------

    def _program(self) -> tuple[str, int]:
        return EXECUTOR_ENTRY, PAGE_BYTES

    def _open_page(self, view: memoryview) -> ClaimPage:
        return ClaimPage(view)

    def _lost(self, ended: Ended, is_unexpected: bool) -> tuple[list[Outcome], bool]:
        page = self._page
        claimed, claimed_at = (0, 0) if page is None else (page.claimed, page.claimed_at)
        culprit = self.slot.running(claimed)
        was_working = culprit is not None or self.slot.ending is not None
        if is_unexpected:
            self._log_loss(culprit, ended)
        return self.slot.lost(claimed, claimed_at, ended), was_working

    def _log_loss(self, culprit: Held | None, ended: Ended) -> None:
        """Once a minute for each name of a task: a task that ends its process mostly does it again."""
        name = culprit.assignment.name if culprit is not None else "none"
        task = culprit.assignment.task if culprit is not None else 0
        why = "it died" if self.slot.ending is None else self.slot.ending.why.value
        slot, code, signal = self.slot.index, ended.code, ended.signal
        self._log.event("child_lost", name, known=True, slot=slot, task=task, code=code, signal=signal, why=why)

    # -- the running task -----------------------------------------------------------------------------------

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
