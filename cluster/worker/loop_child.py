"""The process of a worker's event loop: fed, watched and ended. `cluster.worker.loop_slots` decides, this carries out.

How it is started, listened to and started again: `cluster.worker.executor_child`.
"""

from signal import SIGKILL, SIGTERM

from actors import MILLISECOND, Context, Nanos
from cluster.state.commands import Outcome
from cluster.wire import NO_TOTAL
from cluster.worker.blame import Ended
from cluster.worker.child_messages import Asks, Places, encode
from cluster.worker.executor_child import LOCK_TIMEOUT, ExecutorChild, Owner, State
from cluster.worker.loop_page import LOOP_PAGE_BYTES, LoopPage
from cluster.worker.loop_slots import NOWHERE, Held, LoopSlot
from cluster.worker.slots import Pair
from cluster.worker.starts import Start

LOOP_ENTRY = "cluster.worker.loop_executor:main"
LOGGED_TASKS_MAX = 20           # of those that a stuck loop runs


class LoopChild(ExecutorChild[LoopSlot, LoopPage]):
    """The event loop of a worker."""

    def __init__(self, index: int, places: int, context: Context, setup: bytes, owner: Owner) -> None:
        label = f"{context.system.node}/loop"

        def spawn() -> Start:
            return Start(context, LOOP_ENTRY, setup, LOOP_PAGE_BYTES, label)

        super().__init__(LoopSlot(index, places), context, owner, spawn, LoopPage)

    @property
    def running_tasks(self) -> list[int]:
        """The ids of the tasks that run; a hint."""
        if self._page is not None:
            self.slot.settle(self._page)
        return [held.assignment.task for held in self.slot.running]

    def progress(self) -> list[tuple[int, int, int, int]]:
        """Task, attempt, done and total (or -1) of all that run and have said how far they are; a hint."""
        rows: list[tuple[int, int, int, int]] = []
        page = self._page
        if page is not None:
            self.slot.settle(page)
            for held in self.slot.running:
                if (said := page.progress(held.place)) is not None:
                    done, total = said
                    task, attempt = held.assignment.task, held.assignment.attempt
                    rows.append((task, attempt, done, NO_TOTAL if total is None else total))
        return rows

    def feed(self) -> None:
        """Sends the child what its window takes."""
        page = self._page
        if self.state is not State.READY:
            return
        assert self._child is not None and page is not None
        self.slot.settle(page)
        while batch := self.slot.next_batch(self._context.clock.now()):
            for held in batch:
                page.give(held.place)
            self._child.send(encode(Places([held.place for held in batch], [held.assignment for held in batch])))

    def tick(self, now: Nanos) -> None:
        """Collects what is finished and enforces time limits."""
        page = self._page
        self.slot.watch(now)
        if page is None or not self.is_busy:
            return
        taken = self._locked_now(page.ring.take)
        if taken is None:
            return
        if taken[0]:
            self._finish(self._decode(*taken))
        self.feed()
        self._look(now)

    def hand_back(self) -> None:
        """Returns everything that has not begun."""
        for held in self.slot.fresh:
            self._withdraw(held)
        self._owner.outcomes([self.slot.hand_back(held) for held in list(self.slot.queued)])

    def withdraw(self, pair: Pair) -> None:
        """The leader wants this attempt given up; if it runs, `throw_out` or the next tick throws it out. Nothing is
        reported."""
        held = self.slot.pairs.get(pair)
        if held is None:
            return
        if held.place == NOWHERE or self._withdraw(held):
            self.slot.drop(held)
            return
        self._collect()
        if self.slot.pairs.get(pair) is held:
            held.is_given_up = True

    def throw_out(self) -> None:
        """What was withdrawn and runs is thrown out."""
        if self._page is not None and any(held.is_given_up for held in self.slot.sent.values()):
            now = self._context.clock.now()
            self.slot.watch(now)
            self._look(now)

    def stop(self, pair: Pair, grace: Nanos) -> None:
        """This attempt is cancelled. What has not begun ends here; what runs is asked to stop, and thrown out by a
        later tick. Its outcome is reported in any case."""
        held, page = self.slot.pairs.get(pair), self._page
        if held is None or held.is_given_up or self.slot.ending is not None:
            return                          # its outcome is on the way, or comes with the child's end
        if held.place == NOWHERE or self._withdraw(held):
            self._owner.outcomes([self.slot.give_up(held)])
        elif self.slot.ending is None:      # else the lock could not be had
            assert page is not None
            page.stop(held.place)
            stop_at = self._context.clock.now() + grace
            held.stop_at = min(held.stop_at or stop_at, stop_at)

    # -- the child ------------------------------------------------------------------------------------------

    def _withdraw(self, held: Held) -> bool:
        """Takes back what is with the child, if it has not begun: it waits here then."""
        page = self._page
        assert page is not None
        if self.slot.ending is not None:
            return False                    # nobody may have the lock any more; it comes back with the child's end
        is_withdrawn = self._locked(LOCK_TIMEOUT, lambda: page.withdraw(held.place))
        if is_withdrawn is None:
            self._give_up_on_child()
        elif is_withdrawn:
            self.slot.taken_back(held)
        else:
            self.slot.has_begun(held, page.started(held.place))
        return bool(is_withdrawn)

    def _look(self, now: Nanos) -> None:
        """Does what is due."""
        page = self._page
        assert page is not None and self._child is not None
        self.slot.settle(page)
        stuck = self.slot.stuck(now, page)
        if stuck is not None:
            # Once a minute for each name of a task: one that holds up its loop mostly does it again.
            by = stuck.by
            self._log.event(
                "loop_stuck",
                "unknown" if by is None else by.name,
                known=True,
                task=0 if by is None else by.task,
                for_ms=(now - stuck.since) // MILLISECOND,
                running=len(stuck.running),
                tasks=stuck.running[:LOGGED_TASKS_MAX],
            )
        orders = self.slot.check(now, page)
        if orders.asks:
            self._child.send(encode(Asks([place for place, _ in orders.asks], [ask for _, ask in orders.asks])))
        if orders.end is not None:
            self.slot.end(orders.end, 0 if stuck is None else stuck.place + 1, now)
            self._signal(SIGTERM)
        if orders.kill:
            self._signal(SIGKILL)

    def _ended(self, count: int) -> None:
        if self.slot.queued:
            self.feed()

    def _lost(self, ended: Ended, *, is_unexpected: bool) -> tuple[list[Outcome], bool]:
        if self._page is not None:
            self.slot.settle(self._page)
        running = [held.assignment.task for held in self.slot.running]
        was_working = bool(running) or self.slot.ending is not None
        if is_unexpected:
            self._log_loss("loop", ended, running=len(running), tasks=running[:LOGGED_TASKS_MAX])
        return self.slot.lost(ended), was_working
