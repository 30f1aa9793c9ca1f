"""What a start makes of a log and a snapshot (the table in `cluster.storage.beginning`): no good log is taken for a
damaged one, and none that lacks something for a good one."""

from compaction_rig import Node, compacted, filled
from wal_rig import DIRECTORY

from cluster.raft.messages import SnapshotMark
from cluster.storage.header import HEADER_BYTES


def test_a_compacted_log_without_a_snapshot_is_damage_and_keeps_its_votes():
    node = compacted()
    node.write(0, term=9)
    node.mark = None
    last = node.last
    damage = node.reopen().damaged
    assert damage is not None
    assert (damage.first_index, damage.last_index) == (1, last)
    assert all(f"{DIRECTORY}/{name}" in node.rig.disk.paths() for name in damage.kept_aside)
    assert (node.recovery.first_index, node.recovery.last_index) == (1, 0)
    assert node.recovery.hard_state.term == 9
    node.reopen()
    assert node.recovery.damaged == damage


def test_a_restarted_log_that_is_still_empty_without_its_snapshot_is_damage():
    node = filled()
    node.install(500, 5)
    node.settle()
    node.mark = None
    assert node.reopen().damaged is not None
    assert not node.recovery.empty


def test_a_snapshot_older_than_the_logs_begin_is_damage_and_the_log_goes_on_behind_it():
    node = compacted()
    node.mark = SnapshotMark(10, 1, ())
    assert node.wal.first_index > 11
    assert node.reopen().damaged is not None
    assert node.recovery.base == (10, 1)
    assert node.recovery.last_index == 10


def test_a_log_that_reaches_back_to_the_older_snapshot_goes_on_behind_it():
    node = compacted()
    node.snapshot(50)
    node.reopen()
    node.check()
    node.snapshot(node.wal.first_index - 1)
    node.reopen()
    node.check()


def test_a_snapshot_and_no_segment_at_all_is_damage():
    node = Node()
    node.wal.close()
    files = node.rig.disk.mount(9)
    for path in node.rig.segments():
        files.remove(path)
    node.mark = SnapshotMark(10, 1, ())
    assert node.open().damaged is not None
    assert node.recovery.base == (10, 1)


def test_a_log_that_ends_before_the_snapshot_or_differs_from_it_goes_on_behind_it():
    for mark in (SnapshotMark(500, 5, ()), SnapshotMark(40, 2, ())):
        node = filled()
        node.mark = mark
        node.reopen()
        assert not node.recovery.quarantined
        assert node.recovery.base == (mark.index, mark.term)
        assert node.recovery.last_index == mark.index
        assert node.recovery.hard_state.commit == mark.index
        assert len(node.rig.segments()) == 1
        node.base, node.entries = node.recovery.base, []
        node.write(4, term=6)
        node.reopen()
        node.check()


def test_a_log_that_holds_the_snapshots_entry_keeps_all_that_it_has():
    node = filled()
    node.reopen()
    assert node.recovery.first_index == 1
    assert node.recovery.last_index == node.last
    node.check()


def test_a_missing_segment_of_a_compacted_log_is_damage_whichever_it_is():
    node = compacted()
    count = len(node.rig.segments())
    assert count >= 3
    for position in range(count - 1):
        node = compacted()
        node.wal.close()
        node.rig.disk.mount(9).remove(node.rig.segments()[position])
        recovery = node.open()
        assert recovery.damaged is not None
        assert recovery.base[0] <= 30
        assert recovery.last_index <= 30


def test_a_flipped_bit_in_a_compacted_log_is_found_and_the_log_still_begins_where_it_did():
    node = compacted()
    base = node.recovery.base
    node.wal.close()
    path = node.rig.segments()[1]
    node.rig.disk.flip_bit(path, node.frames(path)[-2].offset + 70)
    recovery = node.open()
    damage = recovery.damaged
    assert damage is not None
    assert recovery.base == base
    assert damage.first_index == recovery.last_index + 1
    assert node.held() == node.expected()[: recovery.last_index - base[0]]


def test_one_torn_copy_of_the_header_that_says_where_the_log_begins_changes_nothing():
    for copy in (0, 1):
        node = compacted()
        node.wal.close()
        node.rig.disk.flip_bit(node.rig.segment(), copy * HEADER_BYTES + 70)
        node.open()
        node.check()


def without_its_votes(entries: int, size: int) -> Node:
    """A log with a snapshot of entry 1, whose first segment, of votes alone, has left."""
    node = Node()
    first = node.rig.segments()[0]
    while len(node.rig.segments()) < 2:
        node.write(0, term=node.term + 1)
    for _ in range(entries):
        node.write(1, size=size)
    node.snapshot(1)
    node.wal.compact(0)
    node.settle()
    assert first not in node.rig.segments(), "it holds no entry that anybody could need"
    return node


def test_a_segment_of_votes_alone_that_left_is_missed_by_no_start_after_it():
    """The log still begins with entry 1, in its second segment: every fresh last segment has to say so."""
    node = without_its_votes(entries=30, size=200)
    assert len(node.rig.segments()) > 1
    assert node.wal.first_index == 1
    for _ in range(3):
        assert node.reopen().damaged is None
        node.check()
        node.write(3)


def test_a_log_of_one_segment_behind_one_of_votes_that_left_is_missed_by_no_start_either():
    node = without_its_votes(entries=2, size=20)
    assert len(node.rig.segments()) == 1
    for _ in range(3):
        assert node.reopen().damaged is None
        node.check()
