"""The real Endpoint on the simulated network: sessions survive what links do not."""

import msgspec
import pytest

from actors import MILLISECOND, SECOND, Endpoint, Peer, Ports
from actors.simulation import FaultMix, FaultPlan, NetworkLimits, Rate, World

BREAKS = FaultMix(
    crash=Rate(10 * SECOND, 100 * MILLISECOND, SECOND),
    pause=Rate(15 * SECOND, 100 * MILLISECOND, 2 * SECOND),
    isolate=Rate(10 * SECOND, 100 * MILLISECOND, 8 * SECOND),
    link_break=Rate(2 * SECOND),
    lossy_link=Rate(6 * SECOND, 100 * MILLISECOND, 2 * SECOND),
)


class Hello(msgspec.Struct, tag=1, array_like=True):
    name: str


class Number(msgspec.Struct, tag=2, array_like=True):
    session: int
    value: int


HELLOS = msgspec.msgpack.Decoder(list[Hello])
NUMBERS = msgspec.msgpack.Decoder(list[Number])


class Server:
    """Answers each number with the same number; checks that a session's numbers come in order, without
    holes."""

    def __init__(self, ports: Ports) -> None:
        self.expected: dict[Peer, int] = {}
        self.hellos = 0
        self.received = 0
        endpoint = Endpoint(ports, b"S" + ports.entropy.bits(120).to_bytes(15))
        endpoint.listen("server:1", HELLOS, self.on_hello, self.on_messages, lambda peer: None)

    def on_hello(self, peer: Peer, hello: Hello) -> "msgspec.msgpack.Decoder[list[Number]]":
        self.hellos += 1
        self.expected[peer] = 0
        return NUMBERS

    def on_messages(self, peer: Peer, messages: list[Number]) -> None:
        for number in messages:
            assert number.value == self.expected[peer], "a session has neither holes nor repetitions"
            self.expected[peer] += 1
            self.received += 1
            peer.send(number)


class Client:
    """Counts from 0 in each session, a number every 5 ms, and checks the answers likewise."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.sessions = 0
        self.sent = 0
        self.answered = 0
        self.expected = 0
        self.downs = 0
        endpoint = Endpoint(ports, b"C" + ports.entropy.bits(120).to_bytes(15))
        self.peer = endpoint.dial(
            "server:1", lambda: Hello("c"), NUMBERS, self.on_up, self.on_messages, self.on_down
        )
        self.tick()

    def on_up(self, peer: Peer) -> None:
        self.sessions += 1
        self.sent = self.expected = 0

    def on_down(self, peer: Peer) -> None:
        self.downs += 1

    def on_messages(self, peer: Peer, messages: list[Number]) -> None:
        for number in messages:
            assert (number.session, number.value) == (self.sessions, self.expected)
            self.expected += 1
            self.answered += 1

    def tick(self) -> None:
        self.ports.clock.call_at(self.ports.clock.now() + 5 * MILLISECOND, self.tick)
        if self.peer.is_up and self.peer.send(Number(self.sessions, self.sent)):
            self.sent += 1


@pytest.mark.parametrize("seed", range(8))
def test_sessions_of_two_endpoints_are_whole_through_breaks_and_the_last_one_works(seed):
    world = World(seed, network=NetworkLimits(duplicate_ppm=1_000))
    server, client = world.process("server", Server), world.process("client", Client)
    plan = FaultPlan(world, BREAKS, members=[], others=[server, client])
    plan.start(60 * SECOND)
    world.run_for(60 * SECOND)
    assert plan.counts["link_break"] > 5
    world.run_for(10 * SECOND)
    before = client.value.answered
    world.run_for(SECOND)
    assert client.value.answered - before > 150
    assert client.value.sessions > client.value.downs or client.incarnation > 1
    assert server.value.received > 0
    world.close()


def test_two_endpoints_take_the_same_course_twice():
    def digest() -> int:
        world = World(11)
        server, client = world.process("server", Server), world.process("client", Client)
        FaultPlan(world, BREAKS, members=[], others=[server, client]).start(15 * SECOND)
        world.run_for(20 * SECOND)
        return world.digest

    assert digest() == digest()
