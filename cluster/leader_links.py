"""Links to every broker, and which of them leads. Brokers push `LeaderIs`; nothing here asks or guesses."""

from collections.abc import Callable
from typing import Any

import msgspec

from actors import Context, Endpoint, Peer
from cluster.wire import Hello, LeaderIs, Refused, Welcome

IDENTITY_PREFIX = b"\x01"           # ZeroMQ keeps identities that begin with 0 for itself
IDENTITY_BITS = 120


class LeaderLinks:
    """The links of one incarnation of a worker. `leader` is set only while its link is up.

    `on_leader(peer)` comes for each new leader, and for the same one over a new link; `on_message(peer,
    message)` for everything that is not about leadership. `term` is the highest that was heard of.
    """

    def __init__(
        self,
        context: Context,
        brokers: tuple[tuple[str, str], ...],
        decoder: "msgspec.msgpack.Decoder[Any]",
        hello: Callable[[], Hello],
        on_leader: Callable[[Peer], None],
        on_message: Callable[[Peer, msgspec.Struct], None],
    ) -> None:
        self._context = context
        self._brokers = brokers
        self._decoder = decoder
        self._hello = hello
        self._on_leader = on_leader
        self._on_message = on_message
        self._peers: dict[str, Peer] = {}
        self._endpoint: Endpoint | None = None
        self.term = 0
        self.leader: Peer | None = None
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

    def close(self) -> None:
        """Ends all links; nothing comes over them any more."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
            self._peers.clear()
            self.leader = None

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        for message in messages:
            if not peer.is_up:
                return                      # closed because of an earlier one of them
            kind = type(message)
            if kind is Welcome:
                self._on_welcome(peer, message)
            elif kind is LeaderIs:
                self._on_leader_is(message)
            elif kind is Refused:
                self._on_refused(peer, message)
            else:
                self._on_message(peer, message)

    def _on_down(self, peer: Peer) -> None:
        if peer is self.leader:
            self.leader = None

    def _on_welcome(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Welcome)
        if message.leader and message.term >= self.term:
            # The leader's own welcome begins a new link to it; another's only says who it is.
            self._follow(message.term, message.leader, again=message.leader == message.node)

    def _on_leader_is(self, message: msgspec.Struct) -> None:
        assert isinstance(message, LeaderIs)
        if message.term > self.term or (message.term == self.term and self.leader is None):
            self._follow(message.term, message.node, again=True)

    def _on_refused(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Refused)
        self.refusal = message.reason
        self._context.log.event("hello_refused", broker=peer.address, reason=message.reason)

    def _follow(self, term: int, node: str, *, again: bool) -> None:
        peer = self._peers.get(node)
        changed = again or term > self.term or peer is not self.leader
        self.term = term
        self.leader = peer if peer is not None and peer.is_up else None
        if self.leader is not None and changed:
            self._on_leader(self.leader)
