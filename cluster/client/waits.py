"""The results side of a session: who waits for which task, and which results have come.

Results are pushed and volatile: one that was on its way to a leader or a link that is no more is asked for again
(`Watch`). Seen, so that the cluster may forget it early, is what somebody here was given: of tasks that another session
took over this one says nothing.
"""

from collections.abc import Iterable

from actors import Peer
from cluster.client.seen import SeenNumbers
from cluster.client.sinks import BothSinks, Sink
from cluster.errors import ClusterError, TaskNotFound
from cluster.state.commands import TASK_NUMBER_BITS, Seen
from cluster.state.effects import TaskResult
from cluster.wire import HELLO_ITEMS_MAX, Watch

NUMBER_MASK = (1 << TASK_NUMBER_BITS) - 1

NO_RECORD_ADVICE = (
    "look at the id, and whether it is of this cluster; a result is kept at least 60 s after its client has seen it, "
    "and 1 h (`result_ttl`) if none has"
)


class Waits:
    """Awaited tasks, of this session and of others. `sinks` is written to directly where tasks are submitted."""

    __slots__ = ("_seen", "_unasked", "sinks")

    def __init__(self) -> None:
        self.sinks: dict[int, Sink] = {}
        self._unasked: list[int] = []       # the leader's link was full when these were asked for
        self._seen = SeenNumbers()          # of the session's own tasks

    def join(self, task: int, sink: Sink) -> None:
        """One more waits for a task."""
        known = self.sinks.get(task)
        self.sinks[task] = sink if known is None else BothSinks(known, sink)

    def take_all(self) -> dict[int, Sink]:
        """Everyone who waits; from now on somebody else tells them."""
        sinks, self.sinks = self.sinks, {}
        return sinks

    # -- what the cluster says ----------------------------------------------------------------------------------------

    def deliver(self, results: Iterable[TaskResult], session: int) -> None:
        sinks, seen = self.sinks, self._seen
        for result in results:
            task = result.task
            sink = sinks.pop(task, None)
            if sink is not None:
                sink.deliver(result)
                if task >> TASK_NUMBER_BITS == session:
                    seen.add(task & NUMBER_MASK)

    def unknown(self, tasks: Iterable[int]) -> None:
        """The state has no such tasks."""
        for task in tasks:
            self.fail((task,), TaskNotFound(f"the cluster has no record of task {task}: {NO_RECORD_ADVICE}"))

    def fail(self, tasks: Iterable[int], error: ClusterError) -> None:
        for task in tasks:
            sink = self.sinks.pop(task, None)
            if sink is not None:
                sink.fail(task, error)

    # -- what the cluster is told -------------------------------------------------------------------------------------

    def ask(self, leader: Peer | None, tasks: list[int]) -> None:
        """Asks for the results of these tasks, those that are there and those that will be. Without a leader nobody is
        asked: the next one is asked for everything."""
        if leader is None:
            return
        for start in range(0, len(tasks), HELLO_ITEMS_MAX):
            chunk = tasks[start : start + HELLO_ITEMS_MAX]
            if not leader.send(Watch(chunk)):
                self._unasked += chunk

    def ask_again(self, leader: Peer) -> None:
        """Asks for what a full link did not take."""
        if self._unasked:
            tasks, self._unasked = self._unasked, []
            self.ask(leader, [task for task in tasks if task in self.sinks])

    def next_seen(self, session: int) -> Seen | None:
        """Which results came since this was last asked, or a part of them; None if none did."""
        return Seen(session, self.take_seen()) if self._seen else None

    def take_seen(self) -> list[int]:
        """The same as ranges of numbers, for a command that carries them."""
        return self._seen.take(HELLO_ITEMS_MAX)

    def forget_seen(self) -> None:
        """The session is lost: its numbers name other tasks in the next one."""
        self._seen = SeenNumbers()
