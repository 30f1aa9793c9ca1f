"""Questions of a client to brokers. They change nothing and are not repeated: an answer that is lost is asked again.

A leader answers when it knows that it still led after it was asked; one that was replaced never does, and the question
ends when the client hears of the next leader. `stale` questions are answered at once by whoever gets them.
"""

from asyncio import Future, get_running_loop
from collections.abc import Callable
from typing import Any

from actors import Peer
from cluster.errors import ClusterError, Overloaded, Unavailable
from cluster.wire import (
    Described,
    EndNode,
    LockRows,
    Message,
    NodeAnswer,
    ScheduleRows,
    ScheduleShown,
    StatusReply,
    StatusRequest,
    TaskRows,
    TaskShown,
)

RETRY_AFTER_S = 1.0         # a question that was refused

Answered = Described | TaskRows | TaskShown | LockRows | ScheduleRows | ScheduleShown


class Questions:
    """Open questions by number; their futures get the answer, or Unavailable."""

    __slots__ = ("_asked", "_ends", "_last", "_stale", "_status")

    def __init__(self) -> None:
        self._last = 0
        self._status: dict[int, Future[bytes]] = {}
        self._asked: dict[int, Future[Any]] = {}        # of the leader
        self._stale: dict[int, Future[Any]] = {}
        self._ends: dict[int, Future[str]] = {}

    @property
    def are_answered(self) -> bool:
        return not (self._status or self._asked or self._stale or self._ends)

    def status(self, broker: Peer, *, stale: bool) -> Future[bytes]:
        """One broker's view, as the msgpack of a map."""
        self._last += 1
        number = self._last
        future: Future[bytes] = get_running_loop().create_future()
        if broker.send(StatusRequest(number, stale)):
            self._status[number] = future
            future.add_done_callback(lambda _: self._status.pop(number, None))     # also if nobody waits any more
        else:
            reject(future, Unavailable(f"no link to the broker at {broker.address}", outcome="refused"))
        return future

    def ask(self, leader: Peer | None, make: Callable[[int], Message]) -> Future[Any]:
        """The leader's answer to the question that `make` gives a number."""
        self._last += 1
        number = self._last
        future: Future[Any] = get_running_loop().create_future()
        if leader is not None and leader.send(make(number)):
            self._asked[number] = future
            future.add_done_callback(lambda _: self._asked.pop(number, None))
        else:
            reject(future, Unavailable("no leader is known", outcome="refused"))
        return future

    def ask_stale(self, brokers: list[Peer], make: Callable[[int], Message]) -> Future[Any]:
        """The answer of the first broker that gives one."""
        self._last += 1
        number = self._last
        future: Future[Any] = get_running_loop().create_future()
        question = make(number)
        sent = [broker.send(question) for broker in brokers]        # all of them: one may hang
        if any(sent):
            self._stale[number] = future
            future.add_done_callback(lambda _: self._stale.pop(number, None))
        else:
            reject(future, Unavailable("no link to any broker", outcome="refused"))
        return future

    def end_node(self, broker: Peer | None, node: str, pid: int, limit_ms: int, *, again: bool) -> Future[str]:
        """Asks a broker to end this process of `node`; "" or why it will not."""
        self._last += 1
        number = self._last
        future: Future[str] = get_running_loop().create_future()
        if broker is not None and broker.send(EndNode(number, node, pid, again, limit_ms)):
            self._ends[number] = future
            future.add_done_callback(lambda _: self._ends.pop(number, None))
        else:
            reject(future, Unavailable("no link to the broker that could end it", outcome="refused"))
        return future

    def on_node_answer(self, peer: Peer, message: NodeAnswer) -> None:
        """Also the refusal of any other question."""
        number = message.request
        future = self._ends.pop(number, None)
        if future is not None and not future.done():
            future.set_result(message.refusal)
        asked: Future[Any] | None = self._asked.get(number) or self._stale.get(number) or self._status.get(number)
        if asked is not None and message.refusal:
            reject(asked, Overloaded(f"not answered: {message.refusal}", RETRY_AFTER_S))

    def on_status(self, peer: Peer, message: StatusReply) -> None:
        future = self._status.pop(message.request, None)
        if future is not None and not future.done():
            future.set_result(bytes(message.report))

    def on_answer(self, peer: Peer, message: Answered) -> None:
        number = message.request
        future = self._asked.pop(number, None) or self._stale.pop(number, None)
        if future is not None and not future.done():
            future.set_result(message)

    def lost_leader(self) -> None:
        """What only the leader could answer has no answer any more."""
        asked, self._asked = self._asked, {}
        for future in asked.values():
            reject(future, Unavailable("the leader was lost", outcome="refused"))

    def end(self, error: ClusterError) -> None:
        for status in self._status.values():
            reject(status, error)
        for asked in (*self._asked.values(), *self._stale.values()):
            reject(asked, error)
        for end in list(self._ends.values()):
            reject(end, error)


def reject(future: "Future[Any]", error: ClusterError) -> None:
    """Fails a future unless it has its outcome already."""
    if not future.done():
        future.set_exception(error)
