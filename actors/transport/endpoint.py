"""Endpoints: how the actors of one process talk to those of others.

An endpoint has one identity and any number of links: it listens, and knows each dialler by the identity in
its frames; it dials, and keeps each link up. Whatever comes in is looked over here: size, header, session and
sequence, shape, and at last the types that this peer may say. What fails is counted, logged once per peer and
minute, and dropped, and no exception leaves for it: nobody on the network can stop an endpoint from serving
the others.

Callbacks are direct calls from the network's drain. They run in the order of the frames; `on_messages` gets
all messages of a frame at once. `Raw` fields in them point into the frame: copy what is kept.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.msgpack import Decoder

from actors.runtime.ports import Ports
from actors.transport.accept import IDENTITY_BYTES, PeerListener
from actors.transport.core import Core, EndpointCounters, EndpointLimits, Messages, assert_list
from actors.transport.dial import Dialled
from actors.transport.peer import Peer
from actors.turn import Turn

F = TypeVar("F", bound=Callable[..., Any])
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Endpoint:
    """All links of one owner. `wrap`, if given, is put around each of the owner's callbacks."""

    def __init__(
        self,
        ports: Ports,
        identity: bytes,
        limits: EndpointLimits | None = None,
        *,
        turn: Turn | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        if len(identity) != IDENTITY_BYTES or identity[0] == 0:
            raise ValueError("an identity has 16 bytes, and ZeroMQ keeps those that begin with 0 for itself")
        self.identity = identity
        self._core = Core(ports, identity, limits or EndpointLimits(), turn or Turn(ports.clock))
        self._wrap = wrap
        self._listeners: list[PeerListener] = []
        self._dialled: list[Dialled] = []

    @property
    def counters(self) -> EndpointCounters:
        """What this endpoint has seen so far."""
        return self._core.counters

    def listen(
        self,
        address: str,
        hello_decoder: Decoder[Any],
        on_hello: Callable[[Peer, Any], Decoder[Any] | None],
        on_messages: Callable[[Peer, Messages], None],
        on_closed: Callable[[Peer], None],
    ) -> "PeerListener":
        """Binds `host:port`. `hello_decoder` decodes `list[Hello]`; `on_hello` returns the decoder of
        `list[Union]` for what this peer may say from now on, or None to drop it (what it sent to the peer
        before still leaves).

        `on_closed` comes for each peer that was accepted, when its session ends, but not after its `close()`.
        Raises AddressInUse and BadAddress.
        """
        assert_list(hello_decoder)
        wrap = self._wrapped
        callbacks = wrap(on_hello), wrap(on_messages), wrap(on_closed)
        listener = PeerListener(self._core, hello_decoder, *callbacks, self._listeners.remove)
        listener.bind(address)
        self._listeners.append(listener)
        return listener

    def dial(
        self,
        address: str,
        hello: Callable[[], object],
        decoder: Decoder[Any],
        on_up: Callable[[Peer], None],
        on_messages: Callable[[Peer, Messages], None],
        on_down: Callable[[Peer], None],
    ) -> Peer:
        """Keeps a link to `host:port`. Each session begins with `hello()`; then `on_up` comes, and `send`
        works.

        `on_down` comes when the session ends, for whatever reason, but not after `close()`; `decoder` is of
        `list[Union]` for what the listener may say.
        """
        assert_list(decoder)
        wrap = self._wrapped
        end = self._dialled.remove
        callbacks = wrap(on_up), wrap(on_messages), wrap(on_down)
        dialled = Dialled(self._core, address, hello, decoder, *callbacks, end)
        self._dialled.append(dialled)
        return dialled.peer

    def close(self) -> None:
        """Ends all links; no callback comes any more."""
        for listener in tuple(self._listeners):
            listener.close()
        for dialled in tuple(self._dialled):
            dialled.close(dialled.peer)
        self._core.close()

    def _wrapped(self, callback: F) -> F:
        return callback if self._wrap is None else self._wrap(callback)    # type: ignore[return-value]
