"""Two channels between brokers: large appends leave by bulk, and so does what follows one, until it is acknowledged."""

from typing import Any

import msgspec
import pytest

from actors import SECOND, Endpoint, Peer, Ports
from actors.simulation import World
from cluster.peer.links import CONTROL_APPEND_BYTES_MAX, BrokerLinks
from cluster.raft.messages import Entry, Message, MessageType
from cluster.wire import ROLE_BROKER, ClockNews, FormationNews, FromBroker, Hello, RaftMessage, Welcome

OTHERS = [(2, "b2", "b2:1", "b2:2"), (3, "b3", "b3:1", "b3:2")]
SMALL = b"small"
LARGE = bytes(CONTROL_APPEND_BYTES_MAX + 1)


class Follower:
    """Keeps what arrives, by channel."""

    def __init__(self, ports: Ports, name: str) -> None:
        self.control: list[Any] = []
        self.bulk: list[Any] = []
        endpoint = Endpoint(ports, name.encode() * 8)
        for port, kept in ((1, self.control), (2, self.bulk)):
            endpoint.listen(
                f"{name}:{port}",
                hello_decoder=msgspec.msgpack.Decoder(list[Hello]),
                on_hello=self.on_hello,
                on_messages=lambda peer, messages, kept=kept: kept.extend(messages),
                on_closed=lambda peer: None,
            )

    def on_hello(self, peer: Peer, hello: Hello) -> Any:
        peer.send(Welcome("x", 1, 0, ""))
        return msgspec.msgpack.Decoder(list[FromBroker])


class Leader:
    def __init__(self, ports: Ports) -> None:
        self.events: list[tuple[str, int]] = []
        self.links = BrokerLinks(
            Endpoint(ports, b"L" * 16),
            OTHERS,
            lambda: Hello("shop", "b1", 1, ROLE_BROKER),
            lambda node_id: self.events.append(("up", node_id)),
            lambda node_id: self.events.append(("down", node_id)),
            lambda node_id, reason: self.events.append(("refused", node_id)),
        )


class Rig:
    def __init__(self, world: World) -> None:
        self.world = world
        self.followers = {
            node_id: world.process(name, lambda ports, name=name: Follower(ports, name))
            for node_id, name, _, _ in OTHERS
        }
        self.leader = world.process("b1", Leader)
        world.run_for(SECOND)

    @property
    def links(self) -> BrokerLinks:
        return self.leader.value.links

    def append(self, last: int, encoded: bytes, to: int = 2) -> bool:
        """An append that carries entries up to `last`."""
        message = Message(MessageType.APPEND, to, 1, 1, index=last - 1, entries=[Entry(last, 1, 0, b"")])
        return self.send(message, encoded)

    def send(self, message: Message, encoded: bytes) -> bool:
        """Runs in the leader's process, as its actor would."""
        taken: list[bool] = []
        self.leader.loop.deliver(lambda _: taken.append(self.links.send_raft(message, encoded)), None)
        self.world.run_for(SECOND // 10)
        (sent,) = taken
        return sent

    def call(self, function: Any, *arguments: Any) -> None:
        self.leader.loop.deliver(lambda _: function(*arguments), None)
        self.world.run_for(SECOND // 10)

    def arrived(self, node_id: int = 2) -> tuple[int, int]:
        """How many messages came by control and by bulk."""
        follower = self.followers[node_id].value
        return len(follower.control), len(follower.bulk)


@pytest.fixture
def rig():
    with World(1) as world:
        yield Rig(world)


def test_the_owner_is_told_of_each_broker_once_although_there_are_two_channels(rig):
    assert sorted(rig.leader.value.events) == [("up", 2), ("up", 3)]
    rig.world.crash(rig.followers[2])
    rig.world.run_for(SECOND)
    assert rig.leader.value.events[2:] == [("down", 2)]


def test_small_appends_and_everything_else_leave_by_control(rig):
    assert rig.append(1, SMALL)
    assert rig.send(Message(MessageType.HEARTBEAT, 2, 1, 1), SMALL)
    assert rig.send(Message(MessageType.VOTE, 2, 1, 1), SMALL)
    assert rig.arrived() == (3, 0)


def test_an_append_above_64_kib_leaves_by_bulk(rig):
    assert rig.append(1, LARGE[:-1])
    assert rig.arrived() == (1, 0)
    assert rig.append(2, LARGE)
    assert rig.arrived() == (1, 1)


def test_what_follows_a_large_append_follows_it_until_it_is_acknowledged(rig):
    """An append that overtook it would be rejected, and cost a round of probing."""
    rig.append(7, LARGE)
    rig.append(8, SMALL)
    rig.append(9, SMALL)
    assert rig.arrived() == (0, 3)
    rig.call(rig.links.acknowledged, 2, 7)
    rig.append(10, SMALL)
    assert rig.arrived() == (0, 4)
    rig.call(rig.links.acknowledged, 2, 10)
    rig.append(11, SMALL)
    assert rig.arrived() == (1, 4)


def test_heartbeats_and_appends_without_entries_never_wait_behind_a_large_append(rig):
    rig.append(7, LARGE)
    rig.send(Message(MessageType.HEARTBEAT, 2, 1, 1), SMALL)
    rig.send(Message(MessageType.APPEND, 2, 1, 1, index=7), SMALL)
    assert rig.arrived() == (2, 1)


def test_brokers_are_independent_of_each_other(rig):
    rig.append(7, LARGE, to=2)
    rig.append(8, SMALL, to=3)
    assert rig.arrived(2) == (0, 1)
    assert rig.arrived(3) == (1, 0)


def test_a_reset_starts_over_with_control(rig):
    rig.append(7, LARGE)
    rig.call(rig.links.reset, 2)
    rig.append(3, SMALL)
    assert rig.arrived() == (1, 1)


def test_what_a_link_that_is_down_does_not_take_is_said_to_be_lost(rig):
    rig.world.crash(rig.followers[2])
    rig.world.run_for(SECOND)
    assert not rig.append(1, SMALL)
    assert not rig.append(2, LARGE)
    assert rig.append(1, SMALL, to=3)


def test_news_goes_to_one_or_to_all(rig):
    rig.call(rig.links.send_all, ClockNews(5, 0, 0))
    rig.call(rig.links.send, 3, FormationNews(1, b"id"))
    assert rig.followers[2].value.control == [ClockNews(5, 0, 0)]
    assert rig.followers[3].value.control == [ClockNews(5, 0, 0), FormationNews(1, b"id")]


def test_a_flush_sends_both_channels_before_the_turn_ends(rig):
    rig.call(rig.links.flush)
    rig.append(1, SMALL)
    rig.call(rig.links.flush)
    assert rig.followers[2].value.control == [RaftMessage(SMALL)]
