"""Links to every broker, and which of them leads. Brokers push `LeaderIs`; nothing here asks or guesses.

A leader is followed on its own word only: it says so when its state holds everything that was committed
before, and drops what comes earlier. Another broker's word says no more than that the leader so far has been
replaced.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from actors import MILLISECOND, Context, Endpoint, Nanos, Peer
from cluster.wire import Following, Hello, LeaderIs, Refused, Welcome

IDENTITY_PREFIX = b"\x01"           # ZeroMQ keeps identities that begin with 0 for itself
IDENTITY_BITS = 120
FOLLOWING_INTERVAL: Nanos = 500 * MILLISECOND


class LeaderLinks:
    """The links of one incarnation of a worker or client. `leader` is set only while its link is up.

    `on_leader(peer)` comes for each new leader, and for the same one over a new link; `on_message(peer,
    message)` for everything that is not about leadership; `on_lost()` when the leader so far is one no more;
    `on_refused_by_all()` when no broker will ever read what comes from here.
    `term` is the highest that was heard of.
    """

    def __init__(
        self,
        context: Context,
        brokers: tuple[tuple[str, str], ...],
        decoder: "msgspec.msgpack.Decoder[Any]",
        hello: Callable[[], Hello],
        on_leader: Callable[[Peer], None],
        on_message: Callable[[Peer, msgspec.Struct], None],
        on_lost: Callable[[], None] = lambda: None,
        on_refused_by_all: Callable[[], None] = lambda: None,
    ) -> None:
        self._context = context
        self._brokers = brokers
        self._decoder = decoder
        self._hello = hello
        self._on_leader = on_leader
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_refused_by_all = on_refused_by_all
        self._refused_by: set[Peer] = set()     # for good
        self._peers: dict[str, Peer] = {}
        self._endpoint: Endpoint | None = None
        self.term = 0
        self.leader: Peer | None = None
        self._leader_node = ""      # of the leader, while there is one
        self.refusal = ""           # why a broker does not want us

    @property
    def is_open(self) -> bool:
        return self._endpoint is not None

    def open(self) -> None:
        """Dials every broker, under a new identity."""
        assert self._endpoint is None
        bits = self._context.entropy.bits(IDENTITY_BITS)
        self._endpoint = self._context.endpoint(IDENTITY_PREFIX + bits.to_bytes(IDENTITY_BITS // 8, "big"))
        for node, address in self._brokers:
            self._peers[node] = self._endpoint.dial(
                address,
                hello=self._hello,
                decoder=self._decoder,
                on_up=lambda peer: None,    # its Welcome follows
                on_messages=self._on_messages,
                on_down=self._on_down,
            )
        self._say_following()

    def close(self) -> None:
        """Ends all links; nothing comes over them any more."""
        if self._endpoint is not None:
            self._context.cancel_timer("following")
            self._endpoint.close()
            self._endpoint = None
            self._peers.clear()
            self._refused_by.clear()
            self.leader = None

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        for message in messages:
            if not peer.is_up:
                return                      # closed because of an earlier one of them
            kind = type(message)
            if kind is Welcome:
                self._on_welcome(peer, message)
            elif kind is LeaderIs:
                self._on_leader_is(peer, message)
            elif kind is Refused:
                self._on_refused(peer, message)
            else:
                self._on_message(peer, message)

    def peer(self, node: str) -> Peer:
        """The link to one broker, up or not."""
        return self._peers[node]

    def outdate(self, term: int) -> None:
        """Somebody else heard of a leader of this term: one of a lower term is followed no more."""
        if term > self.term:
            self.term = term
            if self.leader is not None:
                self._lose()

    def _on_down(self, peer: Peer) -> None:
        if peer is self.leader:
            self._lose()

    def _on_welcome(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Welcome)
        self._refused_by.discard(peer)
        if message.leader:
            self._heard(peer, message.term, message.leader)

    def _on_leader_is(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, LeaderIs)
        self._heard(peer, message.term, message.node)

    def _on_refused(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Refused)
        self.refusal = message.reason
        self._context.log.event("hello_refused", broker=peer.address, reason=message.reason)
        if message.for_good:
            self._refused_by.add(peer)
            if len(self._refused_by) == len(self._peers):
                self._on_refused_by_all()

    def _heard(self, peer: Peer, term: int, node: str) -> None:
        """`peer` says that `node` leads in `term`."""
        if term < self.term:
            return
        if self.leader is not None and (term > self.term or peer is self._peers.get(node)):
            self._lose()
        self.term = term
        if peer is self._peers.get(node):
            self.leader, self._leader_node = peer, node
            self._on_leader(peer)

    def _say_following(self) -> None:
        self._context.timer("following", FOLLOWING_INTERVAL, self._say_following)
        message = Following(self.term, self._leader_node if self.leader is not None else "")
        for peer in self._peers.values():
            if peer.is_up:
                peer.send(message)

    def _lose(self) -> None:
        self.leader = None
        self._on_lost()
