"""Who may talk to a broker: each hello is judged once, and then its peer belongs to the service of its role."""

from typing import Any

import msgspec
import pytest

from actors import SECOND, Endpoint, Peer, PeerLog, Ports
from actors.simulation import World
from cluster.peer.reception import Reception, Service
from cluster.state.commands import Seen
from cluster.wire import ROLE_BROKER, ROLE_CLIENT, ROLE_WORKER, FromClient, Hello, Lease, Refused, ToClient, Welcome

ADDRESS = "broker:1"


class Server:
    """A broker that serves clients only, and refuses those whose name begins with "bad"."""

    def __init__(self, ports: Ports) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.closed: list[str] = []
        endpoint = Endpoint(ports, b"B" * 16)
        reception = Reception(endpoint, "shop", PeerLog(ports.log, ports.clock))
        decoder = msgspec.msgpack.Decoder(list[FromClient])
        reception.serve(ROLE_CLIENT, Service(decoder, self.accept, self.on_messages, self.on_closed))
        reception.listen(ADDRESS)

    def accept(self, peer: Peer, hello: Hello) -> str:
        if hello.node.startswith("bad"):
            return "not you"
        peer.send(Welcome("b1", 1, 0, ""))
        return ""

    def on_messages(self, peer: Peer, messages: list[Any]) -> None:
        self.heard += [(peer.hello.node, message) for message in messages]  # type: ignore[attr-defined]

    def on_closed(self, peer: Peer) -> None:
        self.closed.append(peer.hello.node)  # type: ignore[attr-defined]


class Visitor:
    """Says hello, then what it is told to."""

    def __init__(self, ports: Ports, hello: Hello, *messages: Any) -> None:
        self.got: list[Any] = []
        self.messages = messages
        endpoint = Endpoint(ports, b"V" + ports.entropy.bits(120).to_bytes(15))
        self.peer = endpoint.dial(
            ADDRESS,
            hello=lambda: hello,
            decoder=msgspec.msgpack.Decoder(list[ToClient]),
            on_up=self.on_up,
            on_messages=lambda peer, messages: self.got.extend(messages),
            on_down=lambda peer: None,
        )

    def on_up(self, peer: Peer) -> None:
        for message in self.messages:
            peer.send(message)


@pytest.fixture
def world():
    with World(1) as world:
        world.process("broker", Server)
        yield world


def visit(world: World, hello: Hello, *messages: Any) -> list[Any]:
    name = f"visitor {len(world.processes)}"
    process = world.process(name, lambda ports: Visitor(ports, hello, *messages))
    world.run_for(SECOND)
    return process.value.got


def server(world: World) -> Server:
    return world.processes["broker"].value


def test_a_visitor_of_a_served_role_is_heard(world):
    assert visit(world, Hello("shop", "c1", 5, ROLE_CLIENT), Lease(1, 2)) == [Welcome("b1", 1, 0, "")]
    assert server(world).heard == [("c1", Lease(1, 2))]


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello("other", "c1", 5, ROLE_CLIENT), "this is a broker of cluster 'shop', not of 'other'"),
        (Hello("shop", "c1", 5, ROLE_CLIENT, wire_version=99), "wire version 99 is not spoken here, only 1"),
        (Hello("shop", "c1", 5, ROLE_CLIENT, group=3), "group 3 does not live here"),
        (Hello("shop", "w1", 5, ROLE_WORKER), "this broker does not serve role 1"),
        (Hello("shop", "x", 5, 77), "this broker does not serve role 77"),
        (Hello("shop", "bad egg", 5, ROLE_CLIENT), "not you"),
    ],
)
def test_whoever_is_not_wanted_is_told_why_and_never_heard(world, hello, reason):
    is_final = hello.role == ROLE_CLIENT and reason != "not you"
    assert visit(world, hello, Lease(1, 2), Seen(1, [])) == [Refused(reason, for_good=is_final)]
    assert server(world).heard == []
    assert [name for _, _, name, _ in world.log].count("hello_refused") >= 1


def test_a_refused_visitor_does_not_disturb_the_others(world):
    visit(world, Hello("other", "c1", 5, ROLE_CLIENT), Lease(1, 1))
    visit(world, Hello("shop", "c2", 5, ROLE_CLIENT), Lease(2, 2))
    assert server(world).heard == [("c2", Lease(2, 2))]


def test_a_role_can_only_say_what_its_union_contains(world):
    """A client that talks like a broker: the frame is dropped, and nothing of it is heard."""
    visit(world, Hello("shop", "c1", 5, ROLE_CLIENT), Hello("shop", "c1", 5, ROLE_BROKER), Welcome("c1", 1, 1, "c1"))
    assert server(world).heard == []


def test_the_owner_hears_that_a_visitor_came_back_under_the_same_identity(world):
    visitor = world.process("visitor", lambda ports: Visitor(ports, Hello("shop", "c1", 5, ROLE_CLIENT), Lease(1, 1)))
    world.run_for(SECOND)
    world.network.break_links("visitor")
    world.run_for(5 * SECOND)
    assert server(world).closed == ["c1"]
    assert len(server(world).heard) == 2
    assert visitor.value.peer.is_up


def test_a_role_is_served_once(world):
    def twice(ports: Ports) -> None:
        reception = Reception(Endpoint(ports, b"B" * 16), "shop", PeerLog(ports.log, ports.clock))
        service = Service(msgspec.msgpack.Decoder(list[FromClient]), lambda *_: "", lambda *_: None, lambda *_: None)
        reception.serve(ROLE_CLIENT, service)
        with pytest.raises(AssertionError):
            reception.serve(ROLE_CLIENT, service)

    world.process("other", twice)
    world.run_for(SECOND)
