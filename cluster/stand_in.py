"""The stand-in of a drained worker: it keeps the worker's place in the cluster, and runs nothing.

It lives in the process of `launch`, follows the leader as the worker did, has no session and is given no task. So the
status can show that the worker was taken out, and an operator can ask for it again, wherever its machine is.
"""

import msgspec

from actors import SECOND, Actor, Nanos, Peer
from cluster.leader_links import LeaderLinks
from cluster.wire import CUT_OFF_UNKNOWN, ROLE_WORKER, End, Hello, StandingBy, ToWorker

SAY_INTERVAL: Nanos = 2 * SECOND        # in case it was not heard
INCARNATION_BITS = 63


class StandInConfig(msgspec.Struct, frozen=True):
    """The cluster's name, and its brokers by (name, control address)."""

    cluster: str
    brokers: tuple[tuple[str, str], ...]


class StandIn(Actor):
    """Stands in for the worker `node`, whose drain has ended `cut_off` tasks; `asked_back` is called when an operator
    wants it to run again."""

    def __init__(self, node: str, config: StandInConfig, cut_off: int = CUT_OFF_UNKNOWN) -> None:
        self.node = node
        self.config = config
        self.cut_off = cut_off

    def asked_back(self) -> None:
        raise NotImplementedError

    def started(self) -> None:
        self.incarnation = self.context.entropy.bits(INCARNATION_BITS)
        decoder = msgspec.msgpack.Decoder(list[ToWorker])
        config = self.config
        self._links = LeaderLinks(self.context, config.brokers, decoder, self._hello, self._greet, self._on_message)
        self._links.open()
        self.context.timer("say", SAY_INTERVAL, self._say)

    def stopped(self, reason: object) -> None:
        if (leader := self._links.leader) is not None:
            leader.send(StandingBy(stands=False))
            leader.flush()

    def _hello(self) -> Hello:
        return Hello(self.config.cluster, self.node, self.incarnation, ROLE_WORKER)

    def _greet(self, leader: Peer) -> None:
        leader.send(StandingBy(cut_off=self.cut_off))

    def _say(self) -> None:
        self.context.timer("say", SAY_INTERVAL, self._say)
        if self._links.leader is not None:
            self._links.leader.send(StandingBy(cut_off=self.cut_off))

    def _on_message(self, peer: Peer, message: msgspec.Struct) -> None:
        if isinstance(message, End) and message.again:
            self.asked_back()
