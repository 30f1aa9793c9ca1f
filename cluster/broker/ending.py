"""Ends of nodes that an operator asks for: this broker itself, or, through the leader, a worker.

Only clients may ask: no other role's messages contain the request. It names the node and the process that is meant, so
one that arrives late, or twice, ends nothing that has been started since.

A broker ends only while all others are there, and not two at a time (`cluster.peer.neighbours`), whoever asks: what an
operator's program has seen may have changed since, and there may be two operators.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from actors import Log, Nanos
from cluster.broker.link import Link, Links
from cluster.peer.neighbours import MOMENT, Neighbours
from cluster.wire import END_LIMIT_MS_MAX, ROLE_WORKER, End, EndNode, NodeAnswer, StandingBy


class HasNeighbours(Protocol):
    neighbours: Neighbours


class Ending:
    """Of one broker, `node`, whose process is `pid`; `end` ends it, to be started again by its launch. `raft` knows the
    other brokers, `later` calls back after so long."""

    def __init__(
        self,
        node: str,
        pid: int,
        links: Links,
        log: Log,
        end: Callable[[], None],
        raft: HasNeighbours,
        later: Callable[[Nanos, Callable[[], None]], None],
    ) -> None:
        self._node = node
        self._pid = pid
        self._links = links
        self._log = log
        self._end = end
        self._raft = raft
        self._later = later
        self._asked: list[tuple[Link, EndNode]] = []    # while it waits whether another broker ends as well

    def on_standing_by(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, StandingBy)
        if link.role == ROLE_WORKER and not link.session:
            link.stands_by, link.cut_off = message.stands, message.cut_off

    def on_end_here(self, link: Link, message: msgspec.Struct) -> None:
        """To a broker that does not lead: it ends itself, and nobody else."""
        assert isinstance(message, EndNode)
        if message.node == self._node:
            self._end_self(link, message)
        else:
            self._answer(link, message, f"{self._node} does not lead: only the leader passes an end on to a worker")

    def on_end(self, link: Link, message: msgspec.Struct) -> None:
        """To the leader."""
        assert isinstance(message, EndNode)
        if message.node == self._node:
            self._end_self(link, message)
            return
        known = [other for other in self._links if other.role == ROLE_WORKER and other.name == message.node]
        worker = next((other for other in known if other.session), None)
        stand_in = next((other for other in known if other.stands_by), None)
        if not 0 <= message.limit_ms <= END_LIMIT_MS_MAX:
            self._answer(link, message, f"a limit of {message.limit_ms} ms is out of range: 0 to {END_LIMIT_MS_MAX}")
        elif worker is not None:
            self._answer(link, message)
            if message.pid == worker.pid:
                self._log.event("end_asked", node=message.node, pid=message.pid, again=message.again, by=link.name)
                worker.peer.send(End(message.again, message.limit_ms))
        elif stand_in is not None:
            self._answer(link, message)
            stand_in.peer.send(End(message.again))
        else:
            reason = f"no worker {message.node!r} is linked to the leader, and {self._node} ends no broker but itself"
            self._answer(link, message, reason)

    def _end_self(self, link: Link, message: EndNode) -> None:
        if not message.again:
            self._answer(link, message, f"{self._node} is a broker: it is restarted or, with its launch, stopped")
        elif message.pid != self._pid:
            self._answer(link, message)         # it has ended already: this is its successor
        elif self._asked:
            self._asked.append((link, message))
        elif objection := self._raft.neighbours.objection():
            self._answer(link, message, self._stays(objection))
        else:
            self._asked.append((link, message))
            if self._raft.neighbours.are_none:
                self._decide()
            else:
                self._raft.neighbours.say_ending(True)
                self._later(MOMENT, self._decide)

    def _decide(self) -> None:
        """Whoever else was asked at the same time has said so by now."""
        asked, self._asked = self._asked, []
        if objection := self._raft.neighbours.objection():
            self._raft.neighbours.say_ending(False)
            for link, message in asked:
                self._answer(link, message, self._stays(objection))
            return
        self._log.event("end_asked", node=self._node, pid=self._pid, again=True, by=asked[0][0].name)
        for link, message in asked:
            self._answer(link, message)
            link.peer.flush()
        self._end()

    def _stays(self, objection: str) -> str:
        return (
            f"{self._node} does not end now: {objection}. All other brokers must be there, or the cluster could be "
            "left without a majority: wait until they are back, or start them"
        )

    def _answer(self, link: Link, message: EndNode, refusal: str = "") -> None:
        link.peer.send(NodeAnswer(message.request, refusal))
