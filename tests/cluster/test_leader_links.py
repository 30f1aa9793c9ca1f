"""Which broker leads, as workers and clients see it: they follow a leader on its own word only."""

from typing import Any

import msgspec
import pytest

from actors import SECOND, Actor, ActorSystem, Endpoint, Peer, Ports
from actors.simulation import World
from cluster.leader_links import LeaderLinks
from cluster.wire import ROLE_CLIENT, Following, FromClient, Hello, LeaderIs, Refused, Results, ToClient, Welcome

BROKERS = tuple((name, f"{name}:1") for name in ("b1", "b2", "b3"))


class Says:
    """A broker that says what a test tells it."""

    def __init__(self, ports: Ports, name: str) -> None:
        self.name = name
        self.welcome = (0, "")
        self.peers: dict[bytes, Peer] = {}
        self.following: list[tuple[int, str]] = []
        self.hellos = 0
        endpoint = Endpoint(ports, name.encode() * 8)
        endpoint.listen(
            f"{name}:1",
            hello_decoder=msgspec.msgpack.Decoder(list[Hello]),
            on_hello=self.on_hello,
            on_messages=self.on_messages,
            on_closed=lambda peer: None,
        )

    def on_hello(self, peer: Peer, hello: Hello) -> Any:
        self.hellos += 1
        self.peers[peer.identity] = peer
        term, leader = self.welcome
        peer.send(Welcome(self.name, 1, term, leader))
        return msgspec.msgpack.Decoder(list[FromClient])

    def on_messages(self, peer: Peer, messages: list[Any]) -> None:
        self.following += [(message.term, message.node) for message in messages if isinstance(message, Following)]

    def say(self, message: Any) -> None:
        for peer in self.peers.values():
            peer.send(message)


class Follows(Actor):
    """Writes down what LeaderLinks tells it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.heard: list[Any] = []

    def started(self) -> None:
        self.links = LeaderLinks(
            self.context,
            BROKERS,
            msgspec.msgpack.Decoder(list[ToClient]),
            lambda: Hello("shop", "c1", 1, ROLE_CLIENT),
            lambda peer: self.seen.append(("leader", peer.address)),
            lambda peer, message: self.heard.append(message),
            lambda: self.seen.append(("lost", "")),
        )
        self.links.open()


class Rig:
    def __init__(self, world: World) -> None:
        self.world = world
        self.brokers = {name: world.process(name, lambda ports, name=name: Says(ports, name)) for name, _ in BROKERS}
        self.actor = Follows()

        async def live(ports: Ports) -> None:
            system = ActorSystem(ports, node="c1")
            system.spawn(self.actor, name="follows")
            await system.wait_stopped()

        self.client = world.process("c1", live)
        world.run_for(SECOND)

    @property
    def links(self) -> LeaderLinks:
        return self.actor.links

    def say(self, broker: str, message: Any) -> None:
        process = self.brokers[broker]
        process.loop.deliver(lambda _: process.value.say(message), None)
        self.world.run_for(SECOND // 10)

    def leads(self, broker: str, term: int) -> None:
        self.say(broker, LeaderIs(term, broker))

    @property
    def leader(self) -> str:
        return "" if self.links.leader is None else self.links.leader.address.partition(":")[0]

    def take_seen(self) -> list[tuple[str, str]]:
        seen, self.actor.seen = self.actor.seen, []
        return seen


@pytest.fixture
def rig():
    with World(1) as world:
        yield Rig(world)


def test_a_broker_that_says_that_it_leads_is_followed(rig):
    rig.leads("b2", 3)
    assert (rig.leader, rig.links.term) == ("b2", 3)
    assert rig.take_seen() == [("leader", "b2:1")]


def test_what_another_says_of_a_leader_is_not_enough(rig):
    """It may have won and not yet applied what was committed before it; it drops what comes earlier."""
    rig.say("b1", LeaderIs(3, "b2"))
    assert (rig.leader, rig.links.term) == ("", 3)
    assert rig.take_seen() == []
    rig.leads("b2", 3)
    assert rig.leader == "b2"


def test_a_leader_is_no_more_once_another_term_is_heard_of(rig):
    rig.leads("b2", 3)
    rig.say("b1", LeaderIs(4, "b3"))
    assert rig.leader == ""
    assert rig.take_seen() == [("leader", "b2:1"), ("lost", "")]
    rig.leads("b3", 4)
    assert rig.take_seen() == [("leader", "b3:1")]


def test_what_is_said_of_the_term_of_the_leader_changes_nothing(rig):
    rig.leads("b2", 3)
    rig.say("b1", LeaderIs(3, "b2"))
    rig.say("b3", LeaderIs(2, "b3"))
    assert rig.leader == "b2"
    assert rig.take_seen() == [("leader", "b2:1")]


def test_a_deposed_leader_is_not_followed_on_its_own_word_either(rig):
    rig.leads("b3", 4)
    rig.leads("b2", 3)
    assert (rig.leader, rig.links.term) == ("b3", 4)


def test_a_leader_that_leads_again_is_greeted_again(rig):
    rig.leads("b2", 3)
    rig.leads("b2", 5)
    assert rig.take_seen() == [("leader", "b2:1"), ("lost", ""), ("leader", "b2:1")]


def test_a_leader_whose_link_went_down_is_lost_and_greeted_again_by_its_welcome(rig):
    rig.leads("b2", 3)
    rig.brokers["b2"].value.welcome = (3, "b2")
    rig.world.network.break_links("b2")
    rig.world.run_for(2 * SECOND)
    assert rig.take_seen() == [("leader", "b2:1"), ("lost", ""), ("leader", "b2:1")]
    assert rig.leader == "b2"


def test_the_link_of_another_broker_may_go_down(rig):
    rig.leads("b2", 3)
    rig.world.crash(rig.brokers["b3"])
    rig.world.run_for(SECOND)
    assert rig.leader == "b2"
    assert rig.take_seen() == [("leader", "b2:1")]


def test_a_welcome_of_another_that_names_the_leader_is_not_enough(rig):
    rig.brokers["b1"].value.welcome = (7, "b2")
    rig.world.network.break_links("b1")
    rig.world.run_for(2 * SECOND)
    assert (rig.leader, rig.links.term) == ("", 7)


def test_everyone_is_told_twice_a_second_who_is_followed(rig):
    rig.leads("b2", 3)
    for process in rig.brokers.values():
        process.value.following.clear()
    rig.world.run_for(5 * SECOND)
    for process in rig.brokers.values():
        assert process.value.following == [(3, "b2")] * len(process.value.following)
        assert 9 <= len(process.value.following) <= 11


def test_a_refusal_is_kept_for_whoever_asks_why(rig):
    rig.say("b1", Refused("not you"))
    assert rig.links.refusal == "not you"


def test_everything_else_goes_to_the_owner_whoever_says_it(rig):
    rig.say("b1", Results([]))
    assert rig.actor.heard == [Results([])]


def test_after_close_nothing_comes_and_open_starts_over_under_a_new_identity(rig):
    rig.leads("b2", 3)
    rig.take_seen()
    rig.client.loop.deliver(lambda _: rig.links.close(), None)
    rig.world.run_for(SECOND)
    assert rig.links.leader is None and not rig.links.is_open
    rig.leads("b3", 9)
    assert rig.take_seen() == [] and rig.links.term == 3
    rig.brokers["b2"].value.welcome = (3, "b2")
    rig.client.loop.deliver(lambda _: rig.links.open(), None)
    rig.world.run_for(SECOND)
    assert rig.take_seen() == [("leader", "b2:1")]
    assert rig.brokers["b2"].value.hellos == 2
    assert len(rig.brokers["b2"].value.peers) == 2


def test_a_leader_of_a_term_that_somebody_else_knows_to_be_over_is_followed_no_more(rig):
    rig.leads("b2", 3)
    rig.links.outdate(3)
    assert rig.leader == "b2"
    rig.links.outdate(4)
    assert (rig.leader, rig.links.term) == ("", 4)
    assert rig.take_seen() == [("leader", "b2:1"), ("lost", "")]
    rig.leads("b2", 3)
    assert rig.leader == ""
    rig.leads("b3", 4)
    assert rig.leader == "b3"
