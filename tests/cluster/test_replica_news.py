"""What replicas tell each other beside Raft: wall clocks make the leader's stamp, digests are compared."""

import pytest

from actors import SECOND
from actors.simulation import World, WorldLimits
from cluster.peer.news import DIGESTS_KEPT_MAX, ReplicaNews
from cluster.peer.stamp import ALARM_AHEAD_MS
from cluster.wire import ClockNews


class Rig:
    def __init__(self, world: World) -> None:
        self.world = world
        process = world.process("b1", lambda ports: None)
        world.run_for(SECOND)
        ports = process.ports
        assert ports is not None
        self.clock = ports.clock
        self.news = ReplicaNews("b1", ports.clock, ports.log)

    def hears(self, node_id: int, ahead_ms: int, digest_index: int = 0, digest: int = 0) -> None:
        """Another broker, whose wall clock is so far ahead of ours, tells its news."""
        self.news.heard(node_id, f"b{node_id}", ClockNews(self.clock.wall_ms() + ahead_ms, digest_index, digest))

    @property
    def events(self) -> list[str]:
        return [name for _, _, name, _ in self.world.log]


@pytest.fixture
def rig():
    with World(1, limits=WorldLimits(drift_ppm_max=0)) as world:
        yield Rig(world)


def test_a_leader_alone_goes_by_its_own_clock(rig):
    rig.news.lead(0)
    assert rig.news.stamp_ms() == rig.clock.wall_ms()


def test_a_term_begins_at_the_median_of_the_wall_clocks(rig):
    rig.hears(2, 5_000)
    rig.hears(3, 9_000_000)
    rig.news.lead(0)
    assert rig.news.stamp_ms() == rig.clock.wall_ms() + 5_000


def test_of_two_clocks_the_lower_counts(rig):
    rig.hears(2, 5_000)
    rig.news.lead(0)
    assert rig.news.stamp_ms() == rig.clock.wall_ms()


def test_a_wall_clock_that_was_set_right_counts_from_its_next_news_on(rig):
    rig.hears(2, 5_000)
    rig.hears(2, -5_000)
    rig.hears(3, 9_000)
    rig.news.lead(0)
    assert rig.news.stamp_ms() == rig.clock.wall_ms()


def test_a_term_goes_on_from_the_last_stamp_in_the_state(rig):
    last_ms = rig.clock.wall_ms() + ALARM_AHEAD_MS
    rig.news.lead(last_ms)
    assert rig.news.stamp_ms() == last_ms
    assert "stamp_ahead" not in rig.events


def test_a_last_stamp_more_than_a_minute_ahead_is_kept_and_alarmed(rig):
    last_ms = rig.clock.wall_ms() + ALARM_AHEAD_MS + 1
    rig.news.lead(last_ms)
    assert rig.news.stamp_ms() == last_ms
    assert rig.events == ["stamp_ahead"]


def test_own_news_are_wall_clock_and_digest(rig):
    assert rig.news.own(256, 99) == ClockNews(rig.clock.wall_ms(), 256, 99)


def test_equal_digests_are_not_worth_a_word(rig):
    rig.news.own(256, 99)
    rig.hears(2, 0, 256, 99)
    rig.hears(2, 0, 512, 5)
    assert rig.events == []


def test_different_digests_at_the_same_index_are_an_alarm(rig):
    rig.news.own(256, 99)
    rig.news.own(512, 7)
    rig.hears(3, 0, 256, 98)
    assert rig.events == ["digests_differ"]
    fields = rig.world.log[-1][3]
    assert (fields["index"], fields["digest"], fields["other"], fields["other_digest"]) == (256, 99, "b3", 98)


def test_the_newest_digests_are_kept(rig):
    for index in range(1, DIGESTS_KEPT_MAX + 2):
        rig.news.own(256 * index, index)
    rig.hears(2, 0, 256, 555)
    assert rig.events == []
    rig.hears(2, 0, 512, 555)
    assert rig.events == ["digests_differ"]
