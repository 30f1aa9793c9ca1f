"""The results side of a session: who waits for which task, and which results have come.

Results are pushed and volatile: one that was on its way to a leader or a link that is no more is asked for again
(`Watch`). Seen, so that the cluster may forget it early, is what somebody here was given: of tasks that another session
took over this one says nothing. Each is said once, also if it is asked for again: the cluster takes no more numbers
from a session than it submitted tasks.
"""

from collections.abc import Iterable

from actors import Peer
from cluster.client.seen import SeenNumbers
from cluster.client.sinks import FollowingSink, SeveralSinks, Sink
from cluster.errors import ClusterError, TaskNotFound
from cluster.state.commands import TASK_NUMBER_BITS, Seen
from cluster.state.effects import TaskResult
from cluster.wire import HELLO_ITEMS_MAX, Watch

LAST_SEEN_MAX = 64              # messages, each of HELLO_ITEMS_MAX numbers at most
NUMBER_MASK = (1 << TASK_NUMBER_BITS) - 1

NO_RECORD_ADVICE = (
    "its result is no longer kept, or there never was such a task. A result is kept for 60 s after its client has it, "
    "and for 1 h if it has not; give the task a longer `result_ttl`, or look whether the id is of this cluster"
)


class Waits:
    """Awaited tasks, of this session and of others. `sinks` is written to directly where tasks are submitted."""

    __slots__ = ("_asked", "_seen", "_unasked", "sinks")

    def __init__(self) -> None:
        self.sinks: dict[int, Sink] = {}
        self._asked: set[int] = set()       # awaited, but not for their submit; never walked through
        self._unasked: list[int] = []       # the leader's link was full when these were asked for
        self._seen = SeenNumbers()          # of the session's own tasks

    def join(self, task: int, sink: Sink) -> None:
        """One more waits for a task."""
        known = self.sinks.get(task)
        if known is None:
            self._asked.add(task)
            self.sinks[task] = sink
        elif isinstance(known, SeveralSinks):
            known.append(sink)
        else:
            self.sinks[task] = SeveralSinks(known, sink)

    def take_all(self) -> dict[int, Sink]:
        """Everyone who waits; from now on somebody else tells them."""
        sinks, self.sinks = self.sinks, {}
        self._asked.clear()
        return sinks

    # -- what the cluster says ----------------------------------------------------------------------------------------

    def deliver(self, results: Iterable[TaskResult], session: int) -> list[int]:
        """Returns tasks that are to be asked for: duplicates have come, and these are the first ones."""
        followed: list[int] = []
        sinks, seen, asked = self.sinks, self._seen, self._asked
        for result in results:
            task = result.task
            sink = sinks.pop(task, None)
            if sink is not None:
                if not result.attempts and (first := result.duplicate_of):
                    sink.follow(task, first)
                    if first not in sinks:
                        followed.append(first)      # once: whoever is awaited comes, or was asked for
                    self.join(first, FollowingSink(task, sink))
                else:
                    sink.deliver(result)
                if asked and task in asked:
                    asked.remove(task)
                elif task >> TASK_NUMBER_BITS == session:
                    seen.add(task & NUMBER_MASK)
        return followed

    def unknown(self, tasks: Iterable[int]) -> None:
        """The state has no such tasks."""
        for task in tasks:
            self.fail((task,), TaskNotFound(f"the cluster has no record of task {task}: {NO_RECORD_ADVICE}"))

    def fail(self, tasks: Iterable[int], error: ClusterError) -> None:
        for task in tasks:
            sink = self.sinks.pop(task, None)
            if sink is not None:
                self._asked.discard(task)
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

    def say_seen(self, leader: Peer, session: int) -> bool:
        """Says which results came since this was last said, or a part of them. False if nothing was sent: none came, or
        the link is full and it is to be said later."""
        if not self._seen:
            return False
        ranges = self.take_seen()
        if leader.send(Seen(session, ranges)):
            return True
        self._seen.give_back(ranges)
        return False

    def say_all_seen(self, leader: Peer, session: int) -> None:
        """Before a goodbye. What is more than so many messages take is kept for longer."""
        for _ in range(LAST_SEEN_MAX):
            if not self.say_seen(leader, session):
                break

    def take_seen(self) -> list[int]:
        """The same as ranges of numbers, for a command that carries them and is said until it is answered."""
        return self._seen.take(HELLO_ITEMS_MAX)

    def give_back_seen(self, ranges: list[int]) -> None:
        """The command that carried them was never taken."""
        self._seen.give_back(ranges)

    def forget_seen(self) -> None:
        """The session is lost: its numbers name other tasks in the next one."""
        self._seen = SeenNumbers()
