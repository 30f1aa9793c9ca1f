"""Brokers whose last snapshot rots while they run: their memory is the only copy of what they could not start from."""

from recovery_rig import Broker, RecoveryRig
from transfer_rig import compacted, fill, installs, rig_of, snapshots_of

from actors import SECOND
from cluster.peer.lost_start import HAND_OVER_INTERVAL


def rot(broker: Broker) -> None:
    for path in snapshots_of(broker):
        broker.disk.flip_bit(path, 6_000)


def until_found(rig: RecoveryRig, *brokers: Broker) -> None:
    """The next snapshots begin with these."""
    for _ in range(10):
        if all(rig.events("start_lost", broker.name) for broker in brokers):
            return
        fill(rig, 1)
        rig.settle(4 * SECOND)
    raise AssertionError("nobody looked")


def test_a_leader_without_a_start_goes_on_with_the_majority_that_serves_and_refetches_when_it_is_not_needed():
    """Its restart would leave the other one alone, with no majority and nobody to send it the state."""
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        victim, (other, away) = rig.leader, rig.followers()
        rig.stop(away)
        rot(victim)
        until_found(rig, victim)
        rig.until(lambda: other.leads, "one that can send snapshots leads")
        fill(rig, 4)
        rig.settle(20 * SECOND)
        rig.submit(20)
        assert victim.ends == [] and other.ends == []
        (event,) = rig.events("start_lost", victim.name)
        assert "goes on" in str(event["action"])
        (handed,) = rig.events("handed_over", victim.name)
        assert "no snapshot" in str(handed["reason"])
        assert victim.peer is not None and not victim.peer.snapshots.is_closed
        assert victim.peer.status()["has_start"] is False and other.peer.status()["has_start"] is True

        rig.start(away)
        rig.until(lambda: not victim.alive, "the others do without it")
        assert "no snapshot is left" in victim.ends[-1].message
        assert away.applied >= victim.applied - 20, "it has caught up before"
        rig.start(victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        assert installs(rig, victim) == 1
        rig.heal()
        assert victim.peer.status()["has_start"] is True


def test_a_broker_that_is_quarantined_is_none_that_others_can_rely_on():
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        victim, sick = rig.followers()
        rig.stop(sick)
        rot(victim)
        until_found(rig, victim)
        for path in snapshots_of(sick):
            sick.disk.flip_bit(path, 6_000)
        rig.start(sick)
        rig.until(lambda: not victim.alive)
        assert len(rig.events("quarantine_lifted", sick.name)) == 1
        rig.start(victim)
        rig.heal()


def test_two_brokers_without_a_start_do_not_count_on_each_other():
    """Both would be quarantined, and the third alone could never make a majority."""
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        first, (second, _) = rig.leader, rig.followers()
        rig.world.power_off(rig.brokers[_name_of(rig, first, second)].process.machine)
        rot(first)
        rot(second)
        until_found(rig, first, second)
        third = rig.brokers[_name_of(rig, first, second)]
        rig.start(third)
        rig.settle(HAND_OVER_INTERVAL + 5 * SECOND)     # they may have handed over to each other before
        rig.submit(20)
        assert first.ends == [] and second.ends == []
        assert third.leads, "the only one that can send snapshots"

        # What docs/operations.md tells an operator to do.
        for broker in (first, second):
            if broker.alive:
                rig.stop(broker)
            rig.start(broker)
            rig.until(lambda broker=broker: rig.events("quarantine_lifted", broker.name))
            rig.settle(5 * SECOND)
        assert "no snapshot is left" in second.ends[-1].message, "it followed by itself"
        rig.heal()


def _name_of(rig: RecoveryRig, *others: Broker) -> str:
    (name,) = (name for name, broker in rig.brokers.items() if broker not in others)
    return name
