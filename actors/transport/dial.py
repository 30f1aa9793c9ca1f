"""The dialling side of an endpoint: one link that is kept up, and the sessions that follow each other on
it.
"""

from collections.abc import Callable
from typing import Any

from msgspec.msgpack import Decoder

from actors.runtime.ports import SECOND, Cancel, Nanos
from actors.transport.core import Core, Messages
from actors.transport.peer import Peer
from actors.transport.session import DIALLER, Do, Event, Session, State, dialler_event

SESSION_SHORT_NS = SECOND    # the session after one that was shorter waits for `restart_pause_ns`


class Dialled:
    """One link that is kept up, and the sessions that follow each other on it."""

    def __init__(
        self,
        core: Core,
        address: str,
        hello: Callable[[], object],
        decoder: Decoder[Any],
        on_up: Callable[[Peer], None],
        on_messages: Callable[[Peer, Messages], None],
        on_down: Callable[[Peer], None],
        on_end: Callable[["Dialled"], None],
    ) -> None:
        self._core = core
        self._clock = core.clock
        self._hello = hello
        self._decoder = decoder
        self._on_up = on_up
        self._on_messages = on_messages
        self._on_down = on_down
        self._on_end = on_end    # of the endpoint: this link is closed
        self._link_up = False
        self._closed = False
        self._opened_at: Nanos = 0
        self._restart: Cancel | None = None
        self._dialer = core.ports.network.dial(
            address,
            core.identity,
            on_message=self._on_message,
            on_up=self._on_link_up,
            on_down=self._on_link_down,
        )
        self.peer = Peer(self._core, core.identity, address, address, self._dialer.send, self.close)

    def close(self, peer: Peer) -> None:
        """The owner wants no more of this link."""
        assert peer is self.peer
        if self._closed:
            return
        self._closed = True
        self._cancel_restart()
        if peer.is_up:
            peer.flush()
            peer.shut()
        self._dialer.close()
        self._on_end(self)

    def _on_link_up(self) -> None:
        if not self._closed and not self._link_up:
            self._link_up = True
            self._begin()

    def _on_link_down(self) -> None:
        if self._closed or not self._link_up:
            return
        self._link_up = False
        self._cancel_restart()
        self._finish()

    def _begin(self) -> None:
        self._opened_at = self._clock.now()
        self.peer.open(Session(self._core.ports.entropy.bits(64)))
        self.peer.greet(self._hello())
        self._on_up(self.peer)

    def _finish(self) -> None:
        if self.peer.is_up:
            self.peer.shut()
            self._on_down(self.peer)

    def _on_message(self, data: bytes) -> None:
        sender = self.peer.address
        if self._closed:
            return
        header = self._core.open_header(data, sender, True)
        if header is None:
            return
        session = self.peer.session
        event = dialler_event(session, *header)
        if event is None:
            self._core.drop_malformed(sender, True)
            return
        do = DIALLER[State.NONE if session is None else State.OPEN, event]
        if do is Do.DELIVER:
            messages = self._core.open_body(data, self._decoder, sender, True)
            if messages:
                self._on_messages(self.peer, messages)
        elif do is Do.END:
            self._end(event)
        else:
            counters = self._core.counters
            if event is Event.OLD:
                counters.duplicates += 1
                self._core.peer_log.event("frame_duplicate", sender, known=True)
            else:
                counters.unknown += 1    # left over from the session before: no reason for a line

    def _end(self, event: Event) -> None:
        """The session is over but the link stands: the next one follows, not too soon."""
        counters = self._core.counters
        if event is Event.GAP:
            counters.gaps += 1
        else:
            counters.resets_in += 1
        self._core.peer_log.event("session_reset", self.peer.address, known=True, cause=event.name.lower())
        now = self._clock.now()
        short = now - self._opened_at < SESSION_SHORT_NS
        pause = self._core.limits.restart_pause_ns if short else 0
        assert self._restart is None
        self._restart = self._clock.call_at(now + pause, self._begin_again)
        self._finish()    # last: the owner may close the link in it

    def _begin_again(self) -> None:
        self._restart = None
        assert self._link_up
        assert not self._closed
        self._begin()

    def _cancel_restart(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
