"""Links between the systems of two nodes: tells, asks and monitors for actors that live elsewhere.

A node is any process with a system: another machine's, or a child process that dialled its parent. Either
side may dial; a link carries everything in both directions. Names are resolved where the actor lives, when
the message arrives.

When a link goes down, or is silent for three seconds, the node is lost as far as can be known: its asks end
with AskDied, its monitors fire with Lost, once, even if it comes back a moment later. Payloads are decoded on
arrival, before the frame is gone.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Union, get_type_hints

import msgspec
from msgspec import Raw

from actors.actor import Actor
from actors.asks import LocalReply
from actors.cell import Cell
from actors.envelope import (
    ASK_DIED,
    ASK_NOT_FOUND,
    ASK_OVERLOADED,
    Alive,
    Answered,
    Ask,
    AskFailed,
    Gone,
    NodeHello,
    Said,
    Tell,
    Unwatch,
    Watch,
)
from actors.errors import AskDied, AskError, AskNotFound, AskOverloaded
from actors.messages import NOT_FOUND, Down, Failed, Lost
from actors.ref import ANY_INCARNATION, Ref
from actors.runtime.ports import MILLISECOND, SECOND, Nanos
from actors.transport.endpoint import Endpoint
from actors.transport.peer import Peer

if TYPE_CHECKING:
    from actors.system import ActorSystem

ALIVE_INTERVAL_NS = 500 * MILLISECOND
SILENCE_NS = 3 * SECOND
WATCHES_MAX = 16_384    # of one link, each way

_HELLOS = msgspec.msgpack.Decoder(list[NodeHello])
_SAID = msgspec.msgpack.Decoder(list[Said])
_encode = msgspec.msgpack.encode


class Link:
    """One node, as far as one connection to it goes."""

    def __init__(self, peer: Peer, accepted: bool) -> None:
        self.peer = peer
        self.accepted = accepted
        self.node = ""                             # known from its hello on
        self.heard: Nanos = 0
        self.asks: dict[int, tuple[LocalReply, Any]] = {}    # ours, with the type of their answers
        self.watches: dict[int, Ref[Any]] = {}     # ours, by our reference
        self.watched: dict[int, tuple[_RemoteWatcher, int]] = {}    # theirs, by their reference


class Remote:
    """The links of one system."""

    def __init__(self, system: "ActorSystem") -> None:
        self._system = system
        ports = system.ports
        identity = bytes([1 + ports.entropy.below(255)]) + ports.entropy.bits(120).to_bytes(15, "big")
        self._endpoint = Endpoint(ports, identity, turn=system.turn)
        self._links: dict[Peer, Link] = {}
        self._nodes: dict[str, Link] = {}          # the link by which each node was heard of last
        self._decoders: dict[type[Actor], msgspec.msgpack.Decoder[Any] | None] = {}
        self._tick()

    @property
    def endpoint(self) -> Endpoint:
        """For counters."""
        return self._endpoint

    def listen(self, address: str) -> str:
        """Lets other nodes dial; returns the address with the port that was bound."""
        closed = self._lost
        return self._endpoint.listen(address, _HELLOS, self._on_hello, self._on_messages, closed).address

    def connect(self, address: str) -> None:
        """Keeps a link to the node that listens there."""
        hello = NodeHello(self._system.node)
        self._endpoint.dial(address, lambda: hello, _SAID, self._on_up, self._on_messages, self._lost)

    def nodes(self) -> list[str]:
        """The nodes that can be reached now."""
        return sorted(self._nodes)

    def close(self) -> None:
        """Ends all links."""
        for peer in tuple(self._links):
            self._lost(peer)
        self._endpoint.close()
        self._system.alarm.cancel((self, "tick"))

    def ref(self, node: str, name: str, actor: type[Actor] | None) -> Ref[Any]:
        """See `ActorSystem.ref`."""
        return Ref(RemoteTarget(self, self._system, node, name, actor), node, name, ANY_INCARNATION)

    def tell(self, node: str, name: str, message: Any) -> bool:
        """See `Ref.tell`."""
        link = self._nodes.get(node)
        if link is not None and link.peer.send(Tell(name, Raw(_encode(message)))):
            return True
        self._system.dead_letter(f"{node}/{name}", message, "unreachable")
        return False

    def ask(self, node: str, name: str, payload: Raw, reply: LocalReply, answer_type: Any) -> None:
        """Sends a question; the reply is settled by the answer, or when the link goes down."""
        link = self._nodes.get(node)
        if link is None:
            reply.fail(AskDied(Lost(node)))
        elif not link.peer.send(Ask(reply.number, name, payload)):
            reply.fail(AskOverloaded(f"the link to {node} is full"))
        else:
            link.asks[reply.number] = (reply, answer_type)

    def watch(self, node: str, reference: int, ref: Ref[Any]) -> None:
        """A monitor of ours; a Down follows in any case."""
        link = self._nodes.get(node)
        if link is None or len(link.watches) >= WATCHES_MAX or not link.peer.send(Watch(reference, ref.name)):
            self._system.fire_one(reference, ref, Lost(node))
        else:
            link.watches[reference] = ref

    def unwatch(self, node: str, reference: int) -> None:
        """It is no longer wanted."""
        link = self._nodes.get(node)
        if link is not None and link.watches.pop(reference, None) is not None:
            link.peer.send(Unwatch(reference))

    # Links

    def _on_up(self, peer: Peer) -> None:
        self._links[peer] = self._new_link(peer, accepted=False)    # its name comes with its first message

    def _on_hello(self, peer: Peer, hello: NodeHello) -> "msgspec.msgpack.Decoder[Any] | None":
        link = self._links[peer] = self._new_link(peer, accepted=True)
        peer.send(NodeHello(self._system.node))
        self._named(link, hello)
        return _SAID

    def _new_link(self, peer: Peer, *, accepted: bool) -> Link:
        link = Link(peer, accepted)
        link.heard = self._system.ports.clock.now()
        return link

    def _named(self, link: Link, hello: NodeHello) -> None:
        link.node = hello.node
        self._nodes[hello.node] = link
        self._system.ports.log.event("node_up", of=hello.node)

    def _lost(self, peer: Peer) -> None:
        """Everything that waited for this link hears of it."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        if self._nodes.get(link.node) is link:
            del self._nodes[link.node]
            self._system.ports.log.event("node_lost", of=link.node)
        reason = Lost(link.node)
        for reply, _ in link.asks.values():
            reply.fail(AskDied(reason))
        for reference, ref in link.watches.items():
            self._system.fire_one(reference, ref, reason)
        for watcher, local in link.watched.values():
            self._system.monitors.drop(watcher, local)

    def _tick(self) -> None:
        now = self._system.ports.clock.now()
        for peer, link in tuple(self._links.items()):
            for number in [number for number, (reply, _) in link.asks.items() if not reply.wanted]:
                del link.asks[number]    # timed out, or the asker left
            if now - link.heard >= SILENCE_NS and link.node:
                self._lost(peer)
                if link.accepted:
                    peer.close()    # if it lives after all, it comes back with a new hello
                else:
                    self._links[peer] = link = self._new_link(peer, accepted=False)
            peer.send(Alive() if link.node else NodeHello(self._system.node))
        self._system.alarm.set((self, "tick"), ALIVE_INTERVAL_NS, self._tick)

    # Messages

    def _on_messages(self, peer: Peer, messages: list[Any]) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.heard = self._system.ports.clock.now()
        for message in messages:
            kind = type(message)
            if kind is Tell:
                self._told(message)
            elif kind is Ask:
                self._asked(link, message)
            elif kind is Answered:
                self._answered(link, message)
            elif kind is AskFailed:
                self._ask_failed(link, message)
            elif kind is Watch:
                self._watch_asked(link, message)
            elif kind is Unwatch:
                watched = link.watched.pop(message.reference, None)
                if watched is not None:
                    self._system.monitors.drop(*watched)
            elif kind is Gone:
                ref = link.watches.pop(message.reference, None)
                if ref is not None:
                    self._system.fire_one(message.reference, ref, message.reason)
            elif kind is NodeHello:
                if not link.node:
                    self._named(link, message)
                if not link.accepted:
                    continue
                peer.send(NodeHello(self._system.node))    # it asks for our name

    def _told(self, tell: Tell) -> None:
        cell = self._system.find(tell.name)
        if cell is None:
            self._system.dead_letter(tell.name, tell, "not_found")
            return
        message = self._decoded(cell, tell.payload)
        if message is None:
            self._system.dead_letter(tell.name, tell, "unhandled")
        else:
            cell.tell(message)

    def _asked(self, link: Link, ask: Ask) -> None:
        reply = RemoteReply(link, ask.number)
        cell = self._system.find(ask.name)
        if cell is None:
            reply.fail(AskNotFound(f"no actor named {ask.name!r} on {self._system.node}"))
            return
        message = self._decoded(cell, ask.payload)
        if message is None:
            reply.fail(AskNotFound(f"{ask.name} on {self._system.node} does not handle this message"))
        else:
            cell.deliver(message, reply)

    def _answered(self, link: Link, answered: Answered) -> None:
        reply, answer_type = link.asks.pop(answered.number, (None, None))
        if reply is None:
            return
        try:
            reply.answer(msgspec.msgpack.decode(bytes(answered.payload), type=answer_type))
        except msgspec.MsgspecError as error:
            reply.fail(AskDied(Failed("DecodeError", f"the answer is not what was expected: {error}")))

    def _ask_failed(self, link: Link, failed: AskFailed) -> None:
        reply, _ = link.asks.pop(failed.number, (None, None))
        if reply is None:
            return
        if failed.kind == ASK_OVERLOADED:
            reply.fail(AskOverloaded(failed.text))
        elif failed.kind == ASK_NOT_FOUND:
            reply.fail(AskNotFound(failed.text))
        else:
            reply.fail(AskDied(failed.reason or Failed("AskFailed", failed.text)))

    def _watch_asked(self, link: Link, watch: Watch) -> None:
        cell = self._system.find(watch.name)
        if cell is None or len(link.watched) >= WATCHES_MAX or watch.reference in link.watched:
            link.peer.send(Gone(watch.reference, NOT_FOUND))
            return
        watcher = _RemoteWatcher(self._system, link, watch.reference)
        link.watched[watch.reference] = (watcher, self._system.monitors.add(watcher, cell))

    def _decoded(self, cell: Cell, payload: Raw) -> Any:
        """The message as one of those that the actor handles, or None."""
        kind = type(cell.actor)
        if kind not in self._decoders:
            self._decoders[kind] = message_decoder(kind)
        decoder = self._decoders[kind]
        try:
            return None if decoder is None else decoder.decode(bytes(payload))
        except (msgspec.MsgspecError, ValueError):
            return None


class RemoteTarget:
    """Stands behind a reference to a name on another node."""

    __slots__ = ("_answers", "_name", "_remote", "_system", "node")

    def __init__(
        self, remote: Remote, system: "ActorSystem", node: str, name: str, actor: type[Actor] | None
    ) -> None:
        self._remote = remote
        self._system = system
        self._name = name
        self._answers = {} if actor is None else answer_types(actor)
        self.node = node

    def tell(self, message: Any) -> bool:
        """See `Ref.tell`."""
        return self._remote.tell(self.node, self._name, message)

    async def send(self, message: Any) -> bool:
        """See `Ref.send`; another node's mailbox is not waited for."""
        return self.tell(message)

    def ask(self, message: Any, timeout: Nanos) -> Awaitable[Any]:
        """See `Ref.ask`."""
        payload = Raw(_encode(message))    # first: what cannot be encoded is no ask
        reply, future = self._system.open_ask(timeout)
        self._remote.ask(self.node, self._name, payload, reply, self._answers.get(type(message), Any))
        return future


class RemoteReply:
    """The reply to an ask that came over a link."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number

    def answer(self, value: Any) -> None:
        try:
            payload = _encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            text = f"the answer cannot be encoded: {error}"
            self._link.peer.send(AskFailed(self._number, ASK_DIED, text, Failed("EncodeError", text)))
        else:
            self._link.peer.send(Answered(self._number, Raw(payload)))

    def fail(self, error: AskError) -> None:
        if isinstance(error, AskDied):
            failed = AskFailed(self._number, ASK_DIED, str(error), error.reason)
        else:
            kind = ASK_OVERLOADED if isinstance(error, AskOverloaded) else ASK_NOT_FOUND
            failed = AskFailed(self._number, kind, str(error))
        self._link.peer.send(failed)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits, as far as is known here."""
        return self._link.peer.is_up


class _RemoteWatcher:
    """Watches an actor here for somebody elsewhere."""

    __slots__ = ("_link", "_reference", "_system")

    def __init__(self, system: "ActorSystem", link: Link, reference: int) -> None:
        self._system = system
        self._link = link
        self._reference = reference

    def put_down(self, down: Down) -> None:
        """See `Cell.put_down`."""
        self._system.monitors.take(down.reference)
        self._link.watched.pop(self._reference, None)
        self._link.peer.send(Gone(self._reference, down.reason))


def message_decoder(actor: type[Actor]) -> "msgspec.msgpack.Decoder[Any] | None":
    """For what this actor handles; None if msgspec cannot tell these types apart."""
    types = [kind for kind in actor.handlers if issubclass(kind, msgspec.Struct) and kind is not Down]
    try:
        return msgspec.msgpack.Decoder(Union[tuple(types)]) if types else None    # noqa: UP007
    except TypeError:
        return None


def answer_types(actor: type[Actor]) -> dict[type, Any]:
    """What the handlers of this actor are annotated to return, by message."""
    return {kind: _returned(handler.function) for kind, handler in actor.handlers.items()}


def _returned(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function).get("return", Any)
    except NameError:    # of a class that only a function knows: the answer comes as plain types
        return Any


