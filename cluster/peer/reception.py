"""Who may talk to this broker: every hello is checked once, then its peer belongs to the actor that serves its role."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from actors import Endpoint, Peer, PeerLog
from cluster.wire import WIRE_VERSION, Hello, Refused

GROUP = 0       # the only Raft group so far


@dataclass(frozen=True, slots=True)
class Service:
    """One role's server. `accept` may refuse by returning the reason; "" accepts."""

    decoder: "msgspec.msgpack.Decoder[Any]"
    accept: Callable[[Peer, Hello], str]
    on_messages: Callable[[Peer, list[msgspec.Struct]], None]
    on_closed: Callable[[Peer], None]


class Reception:
    """The listening side of a broker's endpoint. Roles are served from `listen` on."""

    def __init__(self, endpoint: Endpoint, cluster: str, log: PeerLog) -> None:
        self._endpoint = endpoint
        self._cluster = cluster
        self._log = log
        self._services: dict[int, Service] = {}
        self._owners: dict[Peer, Service] = {}

    def serve(self, role: int, service: Service) -> None:
        assert role not in self._services
        self._services[role] = service

    def listen(self, address: str) -> None:
        """Raises `actors.AddressInUse`."""
        self._endpoint.listen(
            address,
            hello_decoder=msgspec.msgpack.Decoder(list[Hello]),
            on_hello=self._on_hello,
            on_messages=self._on_messages,
            on_closed=self._on_closed,
        )

    def _on_hello(self, peer: Peer, hello: Hello) -> "msgspec.msgpack.Decoder[Any] | None":
        service = self._services.get(hello.role)
        reason = self._objection(hello)
        for_good = bool(reason)
        if not reason and service is not None:
            reason = service.accept(peer, hello)
        if reason or service is None:
            self._log.event("hello_refused", hello.node, role=hello.role, reason=reason or "unknown role")
            peer.send(Refused(reason or f"this broker does not serve role {hello.role}", for_good))
            return None
        self._owners[peer] = service
        return service.decoder

    def _objection(self, hello: Hello) -> str:
        if hello.cluster != self._cluster:
            return f"this is a broker of cluster {self._cluster!r}, not of {hello.cluster!r}"
        if hello.wire_version != WIRE_VERSION:
            return f"wire version {hello.wire_version} is not spoken here, only {WIRE_VERSION}"
        if hello.group != GROUP:
            return f"group {hello.group} does not live here"
        return ""

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        service = self._owners.get(peer)
        if service is not None:
            service.on_messages(peer, messages)

    def _on_closed(self, peer: Peer) -> None:
        service = self._owners.pop(peer, None)
        if service is not None:
            service.on_closed(peer)
