"""When the core's ticks are counted: in tens while all is calm, each before an election, and none of a calm twice."""

import pytest

from actors import MILLISECOND, SECOND, Actor, ActorSystem, Ports
from actors.simulation import World
from cluster.peer.ticker import CALM_TICKS, CATCH_UP_TICKS_MAX, TICK, Ticker


class Owner(Actor):
    def __init__(self) -> None:
        self.calm = True
        self.counts: list[int] = []

    def started(self) -> None:
        self.ticker = Ticker(self.context, self.counts.append, lambda: self.calm)


class Rig:
    def __init__(self) -> None:
        self.world = World(1)
        self.owner = Owner()

        async def live(ports: Ports) -> None:
            system = ActorSystem(ports)
            system.spawn(self.owner)
            await system.wait_stopped()

        self.process = self.world.process("b1", live)
        self.world.run_for(SECOND)
        self.take()

    def take(self) -> list[int]:
        """The counts since this was last asked."""
        counts = self.owner.counts.copy()
        self.owner.counts.clear()
        return counts


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_in_a_calm_ticks_are_counted_in_tens_and_none_is_lost(rig):
    rig.world.run_for(10 * SECOND)
    counts = rig.take()
    assert abs(sum(counts) - 10 * SECOND // TICK) <= CALM_TICKS
    assert min(counts) >= CALM_TICKS


def test_who_may_stand_soon_counts_nearly_each(rig):
    rig.owner.calm = False
    rig.owner.ticker.look_soon()
    rig.world.run_for(10 * SECOND)
    counts = rig.take()[1:]
    assert abs(sum(counts) - 10 * SECOND // TICK) <= CALM_TICKS
    assert max(counts) <= 2


def test_a_countdown_that_begins_after_a_calm_does_not_begin_with_its_ticks(rig):
    while not rig.take():
        rig.world.run_for(5 * MILLISECOND)
    rig.world.run_for(75 * MILLISECOND)
    rig.owner.ticker.settle()
    assert sum(rig.take()) in (6, 7, 8)
    rig.owner.calm = False
    rig.owner.ticker.look_soon()
    rig.world.run_for(50 * MILLISECOND)
    assert sum(rig.take()) <= 5


def paused(rig: Rig, *, news: bool) -> int:
    """The ticks that are counted of a pause of five seconds, with news that come at its end."""
    rig.world.pause(rig.process)
    rig.world.run_for(5 * SECOND)
    if news:
        rig.owner.ticker.settle()
        assert not rig.take()
    rig.world.resume(rig.process)
    rig.world.run_for(30 * MILLISECOND)
    return sum(rig.take())


def test_of_a_pause_little_is_counted(rig):
    assert 0 < paused(rig, news=False) <= CATCH_UP_TICKS_MAX


def test_of_a_pause_nothing_is_counted_after_news(rig):
    assert paused(rig, news=True) <= 3
