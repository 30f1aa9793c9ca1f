"""Snapshots as a follower takes them: Raft section 7, by etcd's rules, and what disks and quarantines add to them."""

import pytest
from raft_rig import Disk, Group, Node, node_with_log
from snapshot_rig import VOTERS, answers, entries, node_behind_snapshot, snapshot_for

from cluster.raft.messages import Message, MessageType, Role, SnapshotMark


def test_a_snapshot_takes_the_place_of_the_log_and_is_acknowledged_once_it_is_durable():
    node = node_with_log(2, [1, 1])
    node.slow_install = True
    node.core.step(snapshot_for(node, SnapshotMark(5, 3, VOTERS), term=3))
    assert node.take() == [], "nothing is durable"
    log = node.core.log
    assert (log.first_index, log.last_index, log.last_term, log.committed, log.applied) == (6, 5, 3, 5, 0)
    assert (log.term(4), log.term(5)) == (None, 3)
    assert node.core.durable_index == 0
    node.persist()
    assert answers(node.take()) == [(5, False)]
    assert (node.core.durable_index, node.disk.base) == (5, 5)
    node.install()
    assert (log.applied, len(node.applied)) == (5, 5)


def test_entries_behind_a_snapshot_are_written_after_it_and_applied_after_it_is_installed():
    node = node_with_log(2, [])
    node.slow_install = True
    node.core.step(snapshot_for(node, SnapshotMark(5, 3, VOTERS), term=3))
    more = entries(3, 3, start=6)
    node.core.step(Message(MessageType.APPEND, 2, 1, 3, index=5, log_term=3, commit=7, entries=more))
    first = node.core.take()
    assert (first.snapshot.index, first.write.entries, first.after) == (5, [], []), "some answers are about entries"
    second = node.core.take()
    assert (second.snapshot, second.write.entries) == (None, more)
    for effects in (first, second):
        node._perform(effects)
    node.persist()
    assert answers(node.take()) == [(5, False), (7, False)]
    assert node.applied == [], "it has no state to apply them to"
    node.install()
    node.take()
    assert [entry.index for entry in node.applied] == [1, 2, 3, 4, 5, 6, 7]


def test_the_write_of_a_snapshot_must_be_synced_even_if_nothing_else_changed():
    node = node_with_log(2, [1], term=3)
    node.core.step(Message(MessageType.HEARTBEAT, 2, 1, 3))
    node.take()
    node.core.step(snapshot_for(node, SnapshotMark(5, 3, VOTERS), term=3))
    assert node.core.take().write.must_sync


def test_a_snapshot_of_what_is_committed_here_is_old_news():
    node = node_with_log(2, [1, 1, 1], term=1)
    node.core.step(Message(MessageType.APPEND, 2, 1, 1, index=3, log_term=1, commit=3))
    node.take()
    node.persist()
    node.take()
    node.core.step(snapshot_for(node, SnapshotMark(2, 1, VOTERS), term=1))
    assert (node.core.log.last_index, node.core.log.snapshot) == (3, None)
    node.take()
    node.persist()
    assert answers(node.take()) == [(3, False)]


@pytest.mark.parametrize("quarantined", [False, True])
def test_a_log_that_holds_all_that_a_snapshot_covers_is_kept_and_only_the_commit_index_moves(quarantined):
    """etcd: fast-forward. The entries behind it may have been acknowledged. Matching proves the log, whatever a node
    in quarantine may have lost before."""
    node = node_with_log(2, [1, 1, 2, 2])
    if quarantined:
        node.core.quarantine()
    node.core.step(snapshot_for(node, SnapshotMark(3, 2, VOTERS), term=2))
    assert node.core.take().snapshot is None
    assert (node.core.log.committed, node.core.log.last_index, node.core.log.first_index) == (3, 4, 1)


def test_a_log_with_another_entry_there_gives_way_to_the_snapshot():
    node = node_with_log(2, [1, 1, 1, 1])
    node.core.step(snapshot_for(node, SnapshotMark(3, 2, VOTERS), term=2))
    node.take()
    node.persist()
    assert (node.core.log.last_index, node.disk.last_index(), node.disk.term(3)) == (3, 3, 2)


def test_writes_on_their_way_vouch_for_nothing_behind_a_snapshot():
    node = node_with_log(2, [])
    node.core.step(Message(MessageType.APPEND, 2, 1, 1, index=0, log_term=0, entries=entries(1, 1, 1, 1)))
    node.take()         # four entries are on their way to the disk
    node.core.step(snapshot_for(node, SnapshotMark(2, 2, VOTERS), term=2, sender=3))
    node.core.step(Message(MessageType.APPEND, 2, 3, 2, index=2, log_term=2, entries=entries(2, 2, start=3)))
    node.take()
    node.persist(1)
    assert node.core.durable_index == 0
    node.persist(1)
    assert node.core.durable_index == 2
    node.persist(1)
    assert node.core.durable_index == 4


def test_a_newer_snapshot_takes_the_place_of_one_that_is_being_installed():
    node = node_with_log(2, [])
    node.slow_install = True
    old, new = SnapshotMark(3, 1, VOTERS), SnapshotMark(5, 1, VOTERS)
    node.core.step(snapshot_for(node, old, term=1))
    node.take()
    node.core.step(snapshot_for(node, new, term=1))
    node.core.installed(old)
    node.persist()
    node.take()
    assert (node.core.log.snapshot, node.core.log.applied, node.core.durable_index) == (new, 0, 0)
    node.persist()
    node.install()
    assert (node.core.log.snapshot, node.core.log.applied, node.core.durable_index) == (None, 5, 5)


@pytest.mark.parametrize("first", ["durable", "installed"])
def test_a_node_does_not_stand_before_its_snapshot_is_durable_and_installed(first):
    """etcd: promotable."""
    node = node_with_log(2, [], size=3)
    node.slow_install = True
    node.core.step(snapshot_for(node, SnapshotMark(3, 1, VOTERS), term=1))
    node.take()
    steps = [node.persist, node.install]
    for step in steps if first == "durable" else steps[::-1]:
        node.core.campaign()
        assert node.core.role is Role.FOLLOWER
        step()
    node.core.campaign()
    assert node.core.role is Role.PRE_CANDIDATE


def test_a_candidate_follows_a_snapshot_of_its_term_and_a_leader_ignores_it():
    node = node_with_log(2, [1], size=3, pre_vote=False)
    node.core.campaign()
    assert node.core.role is Role.CANDIDATE
    node.core.step(snapshot_for(node, SnapshotMark(3, 1, VOTERS), term=2))
    assert (node.core.role, node.core.leader, node.core.log.committed) == (Role.FOLLOWER, 1, 3)
    group = Group()
    leader = group.elect(1)
    leader.step(snapshot_for(group[1], SnapshotMark(7, 1, VOTERS), term=leader.term, sender=2))
    assert (leader.role, leader.log.snapshot) == (Role.LEADER, None)


def test_a_snapshot_of_an_earlier_term_is_ignored():
    node = node_with_log(2, [1], term=3)
    node.core.step(snapshot_for(node, SnapshotMark(3, 1, VOTERS), term=2))
    assert node.core.log.last_index == 1
    assert node.core.log.snapshot is None


def test_a_snapshot_names_the_configuration_and_one_without_this_node_is_not_taken():
    """etcd: restore."""
    node = node_with_log(2, [1])
    node.core.step(snapshot_for(node, SnapshotMark(3, 1, (1, 3, 4)), term=1))
    assert node.core.log.snapshot is None
    node.core.step(snapshot_for(node, SnapshotMark(4, 1, (1, 2, 3, 4), (1, 2, 3), (5,)), term=1))
    assert node.core.tracker.config.voters == (1, 2, 3, 4)
    assert node.core.tracker.config.outgoing == (1, 2, 3)
    assert sorted(node.core.tracker.progress) == [1, 2, 3, 4, 5]


def test_what_was_handed_out_to_apply_before_a_snapshot_holds_up_nothing_behind_it():
    node = node_with_log(2, [1, 1, 1], applying_bytes_max=1)
    node.core.step(Message(MessageType.APPEND, 2, 1, 1, index=3, log_term=1, commit=3))
    assert len(node.core.take().committed) == 1
    node.core.step(snapshot_for(node, SnapshotMark(5, 1, VOTERS), term=1))
    node.take()
    node.persist()
    node.core.step(Message(MessageType.APPEND, 2, 1, 1, index=5, log_term=1, commit=6, entries=entries(1, start=6)))
    node.take()
    node.persist()
    node.take()
    assert node.applied[-1].index == 6


# -- quarantine -----------------------------------------------------------------------------------------------------


def quarantined_node(found: list[int]) -> Node:
    node = node_with_log(3, found)
    node.core.quarantine()
    node.disk.quarantined = True
    return node


def test_a_snapshot_that_reaches_the_releasing_entry_ends_a_quarantine():
    group = Group()
    group.elect(1)
    group.propose(1, b"a", b"b")
    group.settle()
    group[3].disk = Disk()
    group[3].disk.quarantined = True
    group.restart(3)
    for node in (1, 2):
        group[node].core.peer_restarted(3, 0, 0, 0, True)
    release = group[1].core.tracker.progress[3].release_index
    assert release == 4
    group.isolate(3)
    group.settle()
    group.propose(1, b"c")
    group.settle()
    group[1].compact(5, 6)
    group.heal()
    group[1].core.tick()
    group.settle()
    assert len(group[3].applied) == 5
    assert not group[1].core.tracker.progress[3].quarantined
    group[1].core.tick()
    group.settle()
    assert not group[3].core.quarantined, "the word was about an entry within the snapshot"


def test_the_word_on_an_entry_within_a_snapshot_is_taken_only_when_the_snapshot_is_durable():
    node = quarantined_node([1])
    node.core.step(snapshot_for(node, SnapshotMark(5, 3, VOTERS), term=3, quarantine=4))
    word = Message(MessageType.HEARTBEAT, 3, 1, 3, quarantine=4)
    node.core.step(word)
    node.take()
    assert node.disk.quarantined
    node.persist()
    node.core.step(word)
    node.take()
    assert not node.disk.quarantined


def test_a_snapshot_that_ends_in_an_earlier_term_cannot_hold_the_releasing_entry():
    """Such a word would be false: then nothing is proved."""
    node = quarantined_node([1])
    node.core.step(snapshot_for(node, SnapshotMark(5, 2, VOTERS), term=3))
    node.take()
    node.persist()
    node.core.step(Message(MessageType.HEARTBEAT, 3, 1, 3, quarantine=4))
    node.take()
    assert node.disk.quarantined


def test_a_word_on_an_entry_behind_the_snapshot_waits_for_that_entry():
    node = quarantined_node([1])
    node.core.step(snapshot_for(node, SnapshotMark(5, 3, VOTERS), term=3))
    node.take()
    node.persist()
    node.core.step(Message(MessageType.HEARTBEAT, 3, 1, 3, quarantine=6))
    node.take()
    assert node.disk.quarantined


def test_a_start_with_a_snapshot_remembers_what_it_found():
    """A word on an entry up to there ended a quarantine of an earlier life."""
    node = node_behind_snapshot(3, [1, 3, 3], [], kept_from=4)
    node.core.quarantine()
    node.disk.quarantined = True
    node.core.step(Message(MessageType.HEARTBEAT, 3, 1, 3, quarantine=3))
    node.take()
    assert node.disk.quarantined
