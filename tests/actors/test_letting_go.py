"""Accepted peers that take nothing: bounded, then let go; one that left is no event, one that does not read is."""

from dataclasses import replace

import pytest
from actor_world import log_of
from test_endpoint import ADDRESS, CLIENT, HELLOS, SERVER, FullNetwork, Hello, Item, Scene, Side, encode

from actors import MILLISECOND, SECOND, Endpoint, EndpointLimits
from actors.runtime.ports import Ports, Sent
from actors.simulation import NetworkLimits, World
from actors.transport.core import OUTBOX_GONE_NS, OUTBOX_RETRY_NS, OUTBOX_STALL_NS
from actors.transport.frame import Flags, build_frame

BLOCK = bytes(10_000)
PIPE_MESSAGES_MAX = 5
LIMITS = EndpointLimits(frame_bytes=20_000, outbox_bytes=50_000, outbox_messages=100)


@pytest.fixture
def scene():
    with World(1, network=NetworkLimits(pipe_messages_max=PIPE_MESSAGES_MAX)) as world:
        yield Scene(world, LIMITS)


def fill(scene: Scene) -> int:
    """Sends to the first accepted peer until it takes no more; the number of messages that were taken."""
    peer = scene.server.peers[0]
    count = 0
    while peer.send(Item(count, BLOCK)):
        peer.flush()
        count += 1
        assert count < 1_000, "what waits for a peer is bounded"
    return count


def test_a_peer_that_does_not_read_is_bounded_let_go_after_its_patience_and_logged(scene):
    scene.client()
    scene.world.pause(scene.world.processes["client"])
    assert fill(scene) == PIPE_MESSAGES_MAX + LIMITS.outbox_bytes // len(BLOCK) - 1    # headers need room, too
    scene.run(OUTBOX_STALL_NS - SECOND)
    assert scene.server.events == [("hello", "client")]
    scene.run(SECOND + 2 * OUTBOX_RETRY_NS)
    assert scene.server.events == [("hello", "client"), ("closed", "client")]
    assert scene.server.endpoint.counters.stalled == 1
    assert log_of(scene.world, "peer_stalled") == [{"peer": CLIENT.hex()}]
    assert not scene.server.peers[0].send(Item(0))
    retries = scene.server.endpoint.counters.retries
    scene.run()
    assert scene.server.endpoint.counters.retries == retries, "nothing is offered again"


def test_a_peer_that_was_let_go_and_reads_again_is_reset_and_says_hello(scene):
    client, peer = scene.client()
    scene.world.pause(scene.world.processes["client"])
    fill(scene)
    scene.run(OUTBOX_STALL_NS + SECOND)
    scene.world.resume(scene.world.processes["client"])
    scene.run()
    assert client.numbers == list(range(PIPE_MESSAGES_MAX)), "what was in the pipe"
    peer.send(Item(1))
    scene.run(2 * SECOND)
    kinds = [kind for kind, _ in client.events if kind != "item"]
    assert kinds == ["up", "down", "up"]
    assert scene.server.events == [("hello", "client"), ("closed", "client"), ("hello", "client")]
    assert client.endpoint.counters.resets_in == 1


def test_a_peer_that_left_is_let_go_soon_and_is_not_worth_a_line(scene):
    _, peer = scene.client()
    peer.close()
    scene.run()
    assert scene.server.events == [("hello", "client")], "a ROUTER says nothing of it"
    assert scene.server.peers[0].send(Item(0))
    scene.run(OUTBOX_GONE_NS + 3 * OUTBOX_RETRY_NS)
    assert scene.server.events == [("hello", "client"), ("closed", "client")]
    counters = scene.server.endpoint.counters
    assert (counters.gone, counters.stalled) == (1, 0)
    assert log_of(scene.world, "peer_stalled") == []


def test_an_owner_is_not_called_back_while_it_sends(scene):
    _, peer = scene.client()
    peer.close()
    scene.run()
    accepted = scene.server.peers[0]
    accepted.send(Item(0))
    accepted.flush()
    accepted.flush()
    assert scene.server.events == [("hello", "client")]
    assert accepted.is_up


def test_a_peer_whose_link_broke_for_a_moment_is_back_under_a_new_session(scene):
    client, peer = scene.client()
    for number in range(20):
        scene.world.network.break_links("client")
        for _ in range(40):
            for accepted in scene.server.peers:
                accepted.send(Item(number))
            scene.run(10 * MILLISECOND)
        scene.run(SECOND)
        assert peer.is_up
    assert [kind for kind, _ in scene.server.events] == ["hello", "closed"] * 20 + ["hello"]
    assert client.numbers
    assert client.endpoint.counters.resets_in == 0


class Unread:
    """An endpoint behind a network whose pipes are as the test says, with one peer that said hello."""

    def __init__(self, world: World) -> None:
        process = world.process("server", lambda ports: None)
        assert world.run_until(lambda: process.ports, SECOND)
        assert isinstance(process.ports, Ports)
        self.network = FullNetwork()
        self.side = side = Side(Endpoint(replace(process.ports, network=self.network), SERVER, LIMITS))
        side.endpoint.listen(ADDRESS, HELLOS, side.on_hello, side.on_messages, side.on_closed)
        self.network.on_message(CLIENT, build_frame(Flags.HELLO, 5, 0, [encode(Hello("c"))]))
        self.peer = side.peers[0]
        self.network.room = 0


def test_a_peer_that_reads_slowly_is_not_let_go():
    """Its outbox is never empty, and yet it takes something all the time."""
    with World(1) as world:
        unread = Unread(world)
        for second in range(20):
            while unread.peer.send(Item(second, BLOCK)):
                unread.peer.flush()
            unread.network.room = 1
            world.run_for(SECOND)
        assert unread.side.events == [("hello", "c")]
        assert len(unread.network.frames) == 20
        world.run_for(OUTBOX_STALL_NS + SECOND)
        assert unread.side.events == [("hello", "c"), ("closed", "c")]


def test_what_a_peer_sent_before_it_left_is_read_before_it_is_let_go():
    """libzmq says that nobody is there while the last frames still wait in its pipe."""
    with World(1) as world:
        unread = Unread(world)
        unread.network.why = Sent.GONE
        unread.peer.send(Item(0))
        world.run_for(OUTBOX_GONE_NS // 2)
        unread.network.on_message(CLIENT, build_frame(Flags.DATA, 5, 1, [encode(Item(99))]))
        world.run_for(OUTBOX_GONE_NS)
        assert unread.side.events == [("hello", "c"), ("item", 99), ("closed", "c")]
