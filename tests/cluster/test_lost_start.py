"""On whom a broker relies that has lost its last snapshot, and what it does meanwhile."""

import pytest

from actors import SECOND, Actor, ActorSystem, Ports
from actors.simulation import World
from cluster.peer.errors import BrokerFault
from cluster.peer.lost_start import HAND_OVER_INTERVAL, NEWS_SILENCE, LostStart
from cluster.wire import ClockNews

NAMES = ("b1", "b2", "b3")


class Owner(Actor):
    """b1; it has applied a hundred entries a second ago, and has nothing to start from."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.handed_over: list[str] = []

    def started(self) -> None:
        self.lost = LostStart(self.context, "b1", self.names, lambda: False, self.handed_over.append)
        for applied in (90, 100):
            self.lost.look(applied, leads=False, follows=False)


class Rig:
    def __init__(self, world: World, names: tuple[str, ...] = NAMES) -> None:
        self.world = world
        self.owner = Owner(names)
        self.events: list[str] = []
        world.on_log.append(lambda process, name, fields: self.events.append(name))

        async def live(ports: Ports) -> None:
            system = ActorSystem(ports)
            system.spawn(self.owner)
            await system.wait_stopped()

        world.process("b1", live)
        world.run_for(SECOND)

    @property
    def lost(self) -> LostStart:
        return self.owner.lost

    def hear(self, node: str, applied: int = 90, *, needs_state: bool = False) -> None:
        self.lost.heard(node, ClockNews(0, needs_state=needs_state, applied_index=applied))

    def ends(self) -> bool:
        try:
            self.lost.look(100, leads=False, follows=True)
        except BrokerFault:
            return True
        return False


@pytest.fixture
def rig() -> Rig:
    return Rig(World(0))


def test_it_ends_when_a_majority_of_others_is_ready(rig):
    rig.hear("b2")
    assert not rig.ends()
    rig.hear("b3", 100)
    assert rig.ends()


def test_it_does_not_end_while_it_knows_of_no_other_leader(rig):
    rig.hear("b2")
    rig.hear("b3")
    rig.lost.look(100, leads=False, follows=False)


def test_one_that_is_behind_is_not_ready(rig):
    """While it catches up the third alone would commit nothing."""
    rig.hear("b2")
    rig.hear("b3", 89)
    assert not rig.ends()


def test_one_that_needs_the_state_itself_is_not_ready(rig):
    rig.hear("b2")
    rig.hear("b3", needs_state=True)
    assert not rig.ends()


def test_one_that_was_not_heard_for_a_while_is_not_ready(rig):
    rig.hear("b3")
    rig.world.run_for(NEWS_SILENCE + 1)
    rig.hear("b2")
    assert not rig.ends()


def test_a_leader_hands_over_to_one_that_is_ready_and_not_again_at_once(rig):
    handed_over = rig.owner.handed_over
    rig.lost.look(100, leads=True, follows=False)
    assert handed_over == [] and not rig.lost.yields
    for _ in range(3):
        rig.hear("b2", 100)
        rig.lost.look(100, leads=True, follows=False)
        assert len(handed_over) == 1 and rig.lost.yields
    rig.world.run_for(HAND_OVER_INTERVAL)
    rig.hear("b2", 100)
    rig.lost.look(100, leads=True, follows=False)
    assert len(handed_over) == 2


def test_it_is_said_once():
    rig = Rig(World(0))
    rig.ends()
    rig.ends()
    assert rig.events == ["start_lost"]


def test_a_single_broker_goes_on():
    rig = Rig(World(0), ("b1",))
    rig.lost.look(100, leads=True, follows=False)
    assert not rig.lost.yields and rig.owner.handed_over == [] and rig.events == ["start_lost"]
