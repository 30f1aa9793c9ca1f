"""Brokers in bad times: what they lose, what they may not do then, and how they come back by themselves."""

import pytest
from recovery_rig import DIRECTORY, WHILE, Broker, RecoveryRig

from actors import MILLISECOND, SECOND
from cluster.node_report import EXIT_FAULT, EXIT_NO_ROOM, EXIT_UNUSABLE
from cluster.storage.header import HEADER_BYTES

CUT = 5         # synced entries that a log loses at its end
EVERY_MESSAGE = 1_000_000       # of a million are lost
MODES = pytest.mark.parametrize("mode", ["inline", "thread"])


def working(seed: int = 0, **options: object) -> RecoveryRig:
    """A cluster that has acknowledged something, on all disks."""
    rig = RecoveryRig(seed, **options)      # type: ignore[arg-type]
    rig.submit(30)
    rig.until(lambda: len({broker.applied for broker in rig.brokers.values()}) == 1)
    rig.settle()
    return rig


def restart_with_cut_log(rig: RecoveryRig, broker: Broker) -> int:
    """Its log has lost the last synced entries, and nothing on its disk shows it. Returns the first one lost."""
    assert broker.peer is not None
    rig.stop(broker)
    lost = broker.peer.wal.last_index - CUT + 1
    broker.cut_synced(lost)
    rig.start(broker)
    return lost


# -- a cut inside synced data ---------------------------------------------------------------------------------------


@MODES
def test_a_leader_that_stayed_sees_a_cut_inside_synced_data_and_quarantines_until_it_is_mended(mode):
    with working(sync_mode=mode) as rig:
        leader, (victim, _) = rig.leader, rig.followers()
        last = leader.core.log.last_index
        restart_with_cut_log(rig, victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        assert rig.leader is leader
        (lost,) = rig.events("data_lost")
        assert lost["node"] == victim.name
        assert rig.happened("broker_started", "quarantined", "quarantine_lifted", process=victim.name)[1:] == [
            "broker_started", "quarantined", "quarantine_lifted",
        ]
        release = rig.seen_by(leader, victim).release_index
        assert last < release <= min(victim.core.durable_index, leader.core.log.committed)
        assert not victim.quarantined, "durably"
        rig.heal()


def test_a_quarantined_broker_is_fed_but_counts_for_nothing_and_votes_for_nobody():
    with working() as rig:
        leader, (victim, third) = rig.leader, rig.followers()
        rig.stop(third)
        restart_with_cut_log(rig, victim)
        rig.until(lambda: victim.is_ill)
        committed = leader.core.log.committed
        assert rig.commits_nothing()
        assert leader.core.log.committed == committed, "its acknowledgements do not count"
        assert victim.core.durable_index > committed, "but it is fed"
        assert not leader.leads, "nor does it count for the check of the quorum"
        assert rig.leading() is None, "and it elects nobody"
        rig.start(third)
        rig.until(lambda: victim.is_well)
        rig.heal()


def test_a_mark_survives_restarts_and_leaders_until_it_is_lifted_for_ever():
    with working() as rig:
        leader, (victim, third) = rig.leader, rig.followers()
        rig.stop(third)
        restart_with_cut_log(rig, victim)
        rig.until(lambda: victim.is_ill)
        for _ in range(2):
            rig.stop(victim)
            rig.start(victim)
            rig.settle(SECOND)
            assert victim.is_ill
        rig.stop(leader, victim)
        rig.start(leader, victim)
        rig.settle(WHILE)
        assert rig.leading() is None and victim.quarantined
        rig.start(third)
        rig.until(lambda: victim.is_well)
        rig.heal()
        rig.stop(victim)
        rig.start(victim)
        rig.settle(SECOND)
        assert victim.is_well
        # It counts again: with the third broker gone, it is one of two.
        rig.stop(third)
        rig.submit()


def test_a_quarantine_ends_under_the_next_leader_if_the_first_one_is_gone():
    with RecoveryRig(brokers=5) as rig:
        rig.submit(30)
        rig.settle()
        leader, (victim, one, two, three) = rig.leader, rig.followers()
        rig.stop(one, two)
        restart_with_cut_log(rig, victim)
        rig.until(lambda: victim.is_ill)
        rig.settle()
        assert victim.quarantined, "two of five commit nothing"
        rig.stop(leader)
        rig.start(one, two)
        rig.until(lambda: victim.is_well)
        assert rig.leader is not leader
        rig.heal(victim, one, two, three)
        rig.start(leader)
        rig.heal()


def test_several_quarantined_brokers_are_released_by_what_is_committed_without_all_of_them():
    with RecoveryRig(brokers=5) as rig:
        rig.submit(30)
        rig.settle()
        leader, (one, two, third, fourth) = rig.leader, rig.followers()
        rig.stop(fourth)
        restart_with_cut_log(rig, one)
        restart_with_cut_log(rig, two)
        rig.until(lambda: all(victim.is_ill for victim in (one, two)))
        assert rig.commits_nothing()
        rig.start(fourth)
        rig.until(lambda: one.is_well and two.is_well)
        rig.heal()
        assert {str(fields["node"]) for fields in rig.events("data_lost")} == {one.name, two.name}
        assert third.has_begun and leader.has_begun


def test_a_crash_before_the_mark_is_durable_ends_no_quarantine():
    """The leader remembers what only it knows."""
    with working(sync_mode="thread") as rig:
        leader, (victim, third) = rig.leader, rig.followers()
        rig.stop(third)
        restart_with_cut_log(rig, victim)
        rig.until(lambda: rig.events("quarantined", victim.name))
        assert not victim.quarantined, "the mark is under way"
        ((path, _),) = victim.segments()
        before = victim.disk.read(path)
        rig.stop(victim)
        victim.disk.overwrite(path, before)     # what was on its way may have happened or not: this time not
        rig.start(victim)
        rig.until(lambda: victim.is_ill)
        assert rig.commits_nothing(SECOND)
        rig.start(third)
        rig.heal()
        assert leader.has_begun


def test_a_release_that_was_meant_for_an_earlier_life_ends_no_quarantine():
    """The leader repeats the word that ended a quarantine; it may reach a broker that has lost data again meanwhile,
    before the leader has heard of its new life."""
    with working() as rig:
        leader, (victim, third) = rig.leader, rig.followers()
        restart_with_cut_log(rig, victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.submit(10)
        rig.settle()
        release = rig.seen_by(leader, victim).release_index
        rig.stop(victim, third)
        _, frame = victim.flip_vouched(release + 3)
        assert frame.last_index > release
        rig.world.network.lose(victim.name, leader.name, EVERY_MESSAGE)
        rig.start(victim)
        rig.until(lambda: victim.has_begun and victim.core.leader != 0)
        rig.settle()
        assert victim.core.log.term(release) == leader.core.term, "it has the entry"
        assert rig.seen_by(leader, victim).release_index == release, "of the new life the leader has not heard"
        assert victim.is_ill and len(rig.events("quarantine_lifted")) == 1
        assert victim.peer.wal.meta.quarantine.damage is not None, "the evidence stays"
        rig.world.network.lose(victim.name, leader.name, 0)
        rig.start(third)
        rig.heal()


def test_a_leaders_word_that_comes_before_it_knows_of_the_loss_is_enough_for_a_quarantine():
    """A heartbeat tells of commits as far as this broker had acknowledged to that leader."""
    with working() as rig:
        leader, (victim, _) = rig.leader, rig.followers()
        rig.world.network.lose(victim.name, leader.name, EVERY_MESSAGE)
        restart_with_cut_log(rig, victim)
        rig.until(lambda: victim.is_ill)
        assert not rig.events("data_lost"), "the leader does not know yet"
        rig.world.network.lose(victim.name, leader.name, 0)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.heal()


# -- an emptied disk ------------------------------------------------------------------------------------------------


def test_an_emptied_broker_takes_the_id_and_comes_back_by_itself():
    with working() as rig:
        leader, (victim, _) = rig.leader, rig.followers()
        cluster_id = leader.peer.wal.meta.cluster_id
        rig.stop(victim)
        victim.empty_disk()
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        assert victim.is_ill
        assert victim.peer.wal.meta.cluster_id == cluster_id
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.heal()
        # It counts again.
        rig.stop(rig.followers()[0])
        rig.submit()


@pytest.mark.parametrize("emptied_first", [True, False])
def test_what_only_the_leader_and_an_emptied_broker_had_acknowledged_is_never_contradicted(emptied_first):
    with working() as rig:
        leader, (emptied, behind) = rig.leader, rig.followers()
        rig.stop(behind)
        rig.submit(10)
        rig.settle()
        missing = set(rig.acknowledged)
        rig.stop(leader, emptied)
        emptied.empty_disk()
        for broker in (emptied, behind) if emptied_first else (behind, emptied):
            rig.start(broker)
            rig.settle()
        rig.until(lambda: emptied.has_begun and behind.has_begun)
        assert not behind.holds(missing)
        assert rig.commits_nothing(2 * WHILE)
        assert rig.leading() is None and emptied.quarantined
        assert emptied.core.vote == 0
        rig.start(leader)
        rig.until(lambda: emptied.is_well)
        assert rig.leader is leader
        rig.heal()


def test_a_broker_that_is_emptied_again_and_again_ends_well():
    with working() as rig:
        victim = rig.followers()[0]
        for wait in (1, 20, 120, 260, 700):
            rig.stop(victim)
            victim.empty_disk()
            rig.start(victim)
            rig.settle(wait * MILLISECOND)
        rig.heal()


def test_an_emptied_leader_does_not_stand():
    with working() as rig:
        leader, followers = rig.leader, rig.followers()
        term = leader.core.term
        rig.stop(leader)
        leader.empty_disk()
        rig.start(leader)
        rig.until(lambda: leader.has_begun)
        rig.until(lambda: rig.leading() in followers)
        assert leader.quarantined or rig.events("quarantine_lifted", leader.name)
        assert not [fields for fields in rig.events("leading", leader.name) if int(str(fields["term"])) > term]
        rig.heal()


# -- rot, and torn tails ----------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("count", [30, 300])
def test_a_flipped_bit_in_a_vouched_frame_is_kept_aside_and_fetched_again(mode, count):
    with RecoveryRig(sync_mode=mode) as rig:
        rig.submit(count)
        rig.settle()
        victim = rig.followers()[0]
        assert (len(victim.segments()) > 1) == (count > 100)
        rig.stop(victim)
        path, frame = victim.flip_vouched(10)
        damaged = victim.disk.read(path)
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        damage = victim.peer.recovery.damaged
        assert victim.quarantined and damage is not None
        assert damage.first_index <= frame.last_index
        assert victim.disk.read(f"{DIRECTORY}/{damage.file}") == damaged, "evidence"
        (event,) = rig.events("log_damaged", victim.name)
        assert damage.file in str(event["damage"])
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.heal()
        assert f"{DIRECTORY}/{damage.file}" in victim.disk.paths()


def test_a_log_whose_only_header_rots_is_told_the_id_by_the_others_and_fetched_again():
    with working() as rig:
        victim = rig.followers()[0]
        cluster_id = victim.peer.wal.meta.cluster_id
        rig.stop(victim)
        ((path, _),) = victim.segments()
        for copy in (0, HEADER_BYTES):
            victim.disk.flip_bit(path, copy + 70)
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        assert victim.quarantined and victim.peer.recovery.cluster_id is None
        assert victim.peer.wal.meta.quarantine.damage is not None, "the evidence stays"
        rig.until(lambda: victim.is_well)
        assert victim.peer.wal.meta.cluster_id == cluster_id
        rig.heal()


@MODES
@pytest.mark.parametrize("seed", range(6))
def test_a_torn_tail_is_cut_and_costs_nothing_that_was_acknowledged(mode, seed):
    with working(seed, sync_mode=mode) as rig:
        rig.begin(200)
        victim = rig.followers()[0] if seed % 2 else rig.leader
        rig.settle(20 * MILLISECOND)
        # In the middle of a write.
        victim.disk.cut_power_after(seed % 3)
        rig.until(lambda: not victim.alive)
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        assert victim.peer.recovery.damaged is None and not victim.quarantined
        rig.heal()
        assert not rig.events("data_lost") and not rig.events("quarantined")


@MODES
@pytest.mark.parametrize("seed", range(4))
def test_all_machines_without_power_at_once_lose_nothing_that_was_acknowledged(mode, seed):
    with working(seed, sync_mode=mode) as rig:
        for _ in range(3):
            rig.begin(100)
            rig.settle(30 * MILLISECOND + seed * 777_000)
            rig.lose_power(*rig.brokers.values())
            rig.start(*rig.brokers.values())
            rig.heal()
        assert not rig.events("data_lost") and not rig.events("quarantined")


def test_a_single_broker_with_damage_names_the_file_and_stays_down():
    with RecoveryRig(brokers=1) as rig:
        rig.submit(30)
        rig.settle()
        broker = rig.brokers["b1"]
        rig.stop(broker)
        broker.exits.clear()
        broker.flip_vouched(10)
        for _ in range(2):      # also the second time, when the file has been put aside
            rig.start(broker)
            rig.until(lambda: broker.exits and not broker.alive)
            assert broker.exits.pop() == 2
            (end,) = broker.ends
            broker.ends.clear()
            assert end.type == "BrokerRefused"
            (file,) = [path.removeprefix(f"{DIRECTORY}/") for path in broker.disk.paths() if path.endswith(".damaged")]
            assert file in str(end)


# -- failing disks ----------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("leading", [True, False])
def test_a_failed_sync_ends_the_process_and_its_restart_loses_nothing(mode, leading):
    with working(sync_mode=mode) as rig:
        victim = rig.leader if leading else rig.followers()[0]
        rig.begin(100)
        rig.settle(10 * MILLISECOND)
        victim.disk.fail_next_sync()
        rig.until(lambda: not victim.alive)
        assert victim.exits[-1] == 70
        assert "write or sync failed" in str(victim.ends[-1])
        # What the failed sync left in memory only is gone with the power.
        rig.lose_power(victim)
        rig.start(victim)
        rig.heal()
        assert not rig.events("data_lost") and not rig.events("quarantined")


@MODES
def test_a_broker_whose_disk_stays_full_ends_with_its_last_segment_and_is_back_when_there_is_room(mode):
    with working(sync_mode=mode) as rig:
        victim = rig.leader
        victim.disk.full = True
        rig.submit(1_500)       # another one leads after a while; the victim follows with what it has left
        rig.until(lambda: not victim.alive)
        assert "No space left on device" in str(victim.ends[-1])
        assert "make room on that disk" in str(victim.ends[-1])
        rig.start(victim)
        rig.until(lambda: len(victim.exits) == 2)
        assert "'data' cannot be used: No space left on device: " in str(victim.ends[-1])
        assert " bytes are needed, 0 are free (ENOSPC); make room" in str(victim.ends[-1])
        assert victim.exits == [EXIT_FAULT, EXIT_NO_ROOM]
        assert not rig.events("actor_crashed", victim.name), "one line says it"
        victim.disk.full = False
        rig.start(victim)
        rig.heal()


@MODES
def test_a_broker_without_a_spare_comes_up_on_a_full_disk_votes_and_goes_on_when_there_is_room(mode):
    with working(sync_mode=mode) as rig:
        leader, (victim, other) = rig.leader, rig.followers()
        victim.disk.full = True
        rig.stop(victim)
        files = victim.disk.mount(pid=-1)
        for path in victim.disk.paths():
            if path.endswith(".spare"):
                files.remove(path)
        rig.submit(5)
        rig.start(victim)
        rig.until(lambda: rig.events("disk_full", victim.name))
        rig.until(lambda: victim.is_well and victim.applied == leader.applied, "it follows")
        rig.stop(leader)
        rig.until(lambda: rig.leading() is other, "without its vote nobody leads")
        assert victim.alive and victim.ends == []
        victim.disk.full = False
        rig.until(lambda: rig.events("disk_has_room", victim.name))
        rig.start(leader)
        rig.heal()


def test_a_new_broker_without_room_is_refused_and_not_waited_for():
    with RecoveryRig(absent=("b3",)) as rig:
        new = rig.brokers["b3"]
        new.disk.full = True
        rig.start(new)
        rig.until(lambda: new.exits)
        assert new.exits == [EXIT_UNUSABLE]


def test_a_leader_whose_disk_stalls_steps_down_and_nothing_is_lost():
    with working(sync_mode="thread") as rig:
        stalled = rig.leader
        rig.begin(200)
        rig.settle(50 * MILLISECOND)
        stalled.disk.slow_syncs(2, 5 * SECOND)
        rig.until(lambda: rig.events("disk_stalled", stalled.name))
        since = rig.world.now
        rig.until(lambda: rig.leading() not in (None, stalled))
        assert rig.world.now - since < 4 * SECOND, "while the disk still stalls"
        rig.submit(10)
        rig.heal()
        assert stalled.exits == []
