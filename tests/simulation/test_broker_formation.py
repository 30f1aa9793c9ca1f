"""The first start of a cluster, interrupted: it resumes, with one id for all, and nobody forms without the others."""

import pytest
from recovery_rig import DIRECTORY, LIMITS, WHILE, Broker, RecoveryRig

from actors import MILLISECOND, SECOND
from cluster.peer.config import BrokerConfig

CALLS_MAX = 200     # that change the disk, in one start
MODES = pytest.mark.parametrize("mode", ["inline", "thread"])


def formed_once(rig: RecoveryRig) -> None:
    rig.heal()
    ids = {broker.peer.wal.meta.cluster_id for broker in rig.brokers.values()}
    assert len(ids) == 1 and b"" not in ids
    assert {broker.peer.machine.cluster_id for broker in rig.brokers.values()} == ids


@MODES
@pytest.mark.parametrize("name", ["b1", "b2", "b3"])
def test_a_formation_resumes_whenever_one_broker_crashes_in_it(mode, name):
    for calls in range(CALLS_MAX):
        with RecoveryRig(calls, sync_mode=mode) as rig:
            victim = rig.brokers[name]
            victim.disk.cut_power_after(calls)
            if not rig.world.run_until(lambda machine=victim.process.machine: not machine.powered, 3 * SECOND):
                assert calls > 30, "the calls of a whole start"
                return
            rig.settle(calls * 7 * MILLISECOND)
            rig.start(victim)
            formed_once(rig)
    raise AssertionError("CALLS_MAX is too low")


@pytest.mark.parametrize("seed", range(12))
def test_a_formation_resumes_whenever_all_brokers_crash_in_it(seed):
    with RecoveryRig(seed) as rig:
        for attempt in range(4):
            rig.world.run_for((seed * 4 + attempt) * 350_000)
            rig.lose_power(*rig.brokers.values())
            rig.start(*rig.brokers.values())
        formed_once(rig)
        assert not rig.events("quarantined")


def test_a_broker_that_never_came_up_holds_the_formation():
    with RecoveryRig(absent=("b3",)) as rig:
        first, second, absent = rig.brokers.values()
        rig.settle(WHILE)
        assert not first.has_begun and not second.has_begun and rig.commits_nothing()
        rig.stop(first, second)
        rig.start(first, second)
        rig.settle(WHILE)
        assert not first.has_begun and not second.has_begun
        rig.start(absent)
        formed_once(rig)
        assert not any(broker.quarantined for broker in rig.brokers.values())


def test_a_broker_that_came_up_only_for_the_formation_is_not_needed_after_it():
    with RecoveryRig() as rig:
        third = rig.brokers["b3"]
        rig.until(lambda: all(broker.has_begun for broker in rig.brokers.values()))
        rig.stop(third)
        rig.submit()
        rig.start(third)
        formed_once(rig)


def test_an_empty_broker_that_meets_a_formed_cluster_is_quarantined_even_before_the_first_election():
    with RecoveryRig() as rig:
        rig.until(lambda: all(broker.has_begun for broker in rig.brokers.values()))
        assert rig.leading() is None
        victim = rig.brokers["b1"]
        rig.stop(victim)
        victim.empty_disk()
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        assert victim.core.quarantined
        formed_once(rig)


def test_a_cluster_set_up_elsewhere_under_the_same_names_does_no_harm():
    """Its brokers are empty and one of its addresses is that of our leader: nobody here lost anything for that."""
    with RecoveryRig() as rig:
        rig.heal()
        leader = rig.leader
        addresses = tuple(
            (name, f"{host}:7100", f"{host}:8100")
            for name in rig.brokers
            for host in [name if name == leader.name else f"x-{name}"]
        )
        for name in rig.brokers:
            if name != leader.name:
                stranger = Broker.__new__(Broker)
                config = BrokerConfig("world", name, addresses, DIRECTORY, "inline", LIMITS)
                stranger.name, stranger.config, stranger.peer = name, config, None
                stranger.ends, stranger.exits = [], []
                rig.world.process(f"x-{name}", stranger._start)
        rig.world.run_for(WHILE)
        assert not rig.events("data_lost") and not rig.events("quarantined")
        assert not any(broker.quarantined for broker in rig.brokers.values())
        rig.heal()
