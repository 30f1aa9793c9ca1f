"""The listening side of an endpoint: one bound address, and the peers that said a good hello there."""

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.msgpack import Decoder

from actors.runtime.ports import MILLISECOND, Listener, Nanos, Sent
from actors.transport.core import Core, Messages, assert_list
from actors.transport.frame import reset_frame
from actors.transport.peer import Peer
from actors.transport.session import LISTENER, Do, Event, SeenSessions, Session, State, listener_event

IDENTITY_BYTES = 16
REFUSED_PEERS_MAX = 1_024       # remembered, so that their frames are not answered
RESET_INTERVAL_NS = 100 * MILLISECOND    # between two resets to one identity
RESET_PEERS_MAX = 1_024


class PeerListener:
    """A bound address and the peers that said a good hello there, by identity."""

    def __init__(
        self,
        core: Core,
        hello_decoder: Decoder[Any],
        on_hello: Callable[[Peer, Any], Decoder[Any] | None],
        on_messages: Callable[[Peer, Messages], None],
        on_closed: Callable[[Peer], None],
        on_end: Callable[["PeerListener"], None],
    ) -> None:
        self.peers: dict[bytes, Peer] = {}
        self.address = ""
        self._core = core
        self._hello_decoder = hello_decoder
        self._on_hello = on_hello
        self._on_messages = on_messages
        self._on_closed = on_closed
        self._on_end = on_end    # of the endpoint: this listener is closed
        self._decoders: dict[Peer, Decoder[Any]] = {}
        self._seen = SeenSessions()
        self._refused: dict[bytes, Session] = {}
        self._resets: dict[bytes, Nanos] = {}
        self._listener: Listener | None = None

    def bind(self, address: str) -> None:
        """Endpoint only, once."""
        assert self._listener is None
        network = self._core.ports.network
        self._listener = network.listen(address, on_message=self._on_message, on_garbage=self._on_garbage)
        self.address = self._listener.address

    def close(self) -> None:
        """Unbinds and forgets all peers, without a callback."""
        if self._listener is None:
            return
        for peer in tuple(self.peers.values()):
            peer.flush()
            self._forget(peer)
        self._listener.close()
        self._listener = None
        self._on_end(self)

    def _on_message(self, identity: bytes, data: bytes) -> None:
        core = self._core
        peer = self.peers.get(identity)
        sender = identity.hex() if peer is None else peer.label
        known = peer is not None
        header = core.open_header(data, sender, known)
        if header is None:
            return
        flags, number, seq = header
        if peer is not None:
            state, session = State.OPEN, peer.session
        else:
            session = self._refused.get(identity)
            state = State.NONE if session is None else State.REFUSED
        event = listener_event(session, self._seen, flags, number, seq)
        if event is None or len(identity) != IDENTITY_BYTES:
            core.drop_malformed(sender, known)
            return
        do = LISTENER[state, event]
        if do is Do.DELIVER:
            assert peer is not None
            messages = core.open_body(data, self._decoders[peer], sender, True)
            if messages:
                self._on_messages(peer, messages)
        elif do is Do.OPEN:
            self._open(identity, number, data)
        elif do is Do.END:
            assert peer is not None
            core.counters.gaps += 1
            core.peer_log.event("session_gap", sender, known=True, seq=seq)
            self._forget(peer)
            self._send_reset(identity, number)
            self._on_closed(peer)
        elif do is Do.ANSWER_RESET:
            core.counters.unknown += 1
            core.peer_log.event("session_unknown", sender, known=known)
            self._answer_reset(identity, number)
        elif event is Event.REPLAYED:
            core.counters.replays += 1
            core.peer_log.event("hello_replayed", sender, known=known)
        elif state is State.REFUSED:
            core.counters.refused += 1
        else:
            core.counters.duplicates += 1
            core.peer_log.event("frame_duplicate", sender, known=known)

    def _open(self, identity: bytes, number: int, data: bytes) -> None:
        """A new session: the one before, of the same identity, has ended, and this one's hello is judged."""
        self._seen.add(number)
        self._refused.pop(identity, None)
        before = self.peers.get(identity)
        if before is not None:
            self._forget(before)
            self._on_closed(before)
        session = Session(number, expected=1)
        hellos = self._core.open_body(data, self._hello_decoder, identity.hex(), False)
        if hellos is None or len(hellos) != 1 or len(self.peers) >= self._core.limits.peers:
            self._refuse(identity, session)
            return
        assert self._listener is not None
        send = partial(self._listener.send, identity)
        peer = Peer(self._core, identity, self.address, identity.hex(), send, self._close)
        peer.on_let_go = self._let_go
        peer.hello = hellos[0]
        peer.open(session)
        self.peers[identity] = peer
        decoder = self._on_hello(peer, peer.hello)
        if self.peers.get(identity) is not peer:
            return    # the owner closed it, or everything
        if decoder is None:
            peer.flush()
            self._forget(peer)
            self._refuse(identity, session)
            return
        assert_list(decoder)
        self._decoders[peer] = decoder

    def _refuse(self, identity: bytes, session: Session) -> None:
        self._core.counters.refused += 1
        self._core.peer_log.event("peer_refused", identity.hex())
        self._refused[identity] = session
        if len(self._refused) > REFUSED_PEERS_MAX:
            del self._refused[next(iter(self._refused))]

    def _close(self, peer: Peer) -> None:
        """The owner wants no more of this peer; the dialler sees a reset."""
        if peer.session is None:
            return
        number = peer.session.number
        peer.flush()
        self._forget(peer)
        self._send_reset(peer.identity, number)

    def _let_go(self, peer: Peer, why: Sent) -> None:
        """The session is over, on this side. A dialler that left does not care. One whose connection broke hears of
        it, and says hello when it is back. One that is connected and does not read is a fault that an operator should
        see; its next frame finds no session and is answered with a reset.
        """
        if why is Sent.FULL:
            self._core.counters.stalled += 1
            self._core.peer_log.event("peer_stalled", peer.label, known=True)
        else:
            self._core.counters.gone += 1
        self._forget(peer)
        self._on_closed(peer)

    def _forget(self, peer: Peer) -> None:
        assert self.peers[peer.identity] is peer
        del self.peers[peer.identity]
        self._decoders.pop(peer, None)
        peer.shut()

    def _answer_reset(self, identity: bytes, number: int) -> None:
        """To a frame of no session here, but not to each: a flood must not be answered with a flood."""
        now = self._core.clock.now()
        if now - self._resets.get(identity, now - RESET_INTERVAL_NS) < RESET_INTERVAL_NS:
            return
        self._resets.pop(identity, None)
        self._resets[identity] = now
        if len(self._resets) > RESET_PEERS_MAX:
            del self._resets[next(iter(self._resets))]
        self._send_reset(identity, number)

    def _send_reset(self, identity: bytes, number: int) -> None:
        # If it is not taken, the dialler's next frame finds no session and is answered.
        if self._listener is not None and self._listener.send(identity, reset_frame(number)):
            self._core.counters.resets_out += 1

    def _on_garbage(self, remote: str) -> None:
        self._core.counters.garbage += 1
        self._core.peer_log.event("garbage", remote, address=self.address)
