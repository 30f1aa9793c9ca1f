"""Starts on a disk without room that others interrupted, or whose syncs failed."""

import pytest
from compaction_rig import Node, filled
from test_full_disk_log import begun, files, fill_segment
from wal_rig import DIRECTORY, PowerLost, Rig

from cluster.raft.messages import SnapshotMark
from cluster.storage.header import FRAMES_START

CALLS_MAX = 60


def torn(rig: Rig) -> int:
    """Two frames of an interrupted write, the first of them bad, the second whole; the offset of the first."""
    wal = rig.wal
    assert wal is not None
    offset = wal._planner.offset
    rig.append(1)
    rig.append(1, term=rig.term + 1)
    wal.flush()
    rig.disk.crash()
    rig.pid += 1
    rig.disk.flip_bit(rig.segment(), offset + 80)
    return offset


def test_a_torn_tail_is_overwritten_again_after_the_sync_of_its_zeros_failed():
    """Memory says that there are zeros; the disk still has the tail, and a loss of power brings it back."""
    failed = 0
    for syncs in range(6):
        rig, _, _ = begun()
        rig.disk.full = True
        fill_segment(rig)
        offset = torn(rig)
        sync = rig.disk.sync_inode
        count = [0]

        def failing(inode, rig=rig, sync=sync, count=count, syncs=syncs) -> None:
            count[0] += 1
            if count[0] == syncs + 1:
                rig.disk.fail_next_sync()
            sync(inode)

        rig.disk.sync_inode = failing
        try:
            rig.open()
        except OSError:
            failed += 1
        rig.disk.sync_inode = sync
        rig.disk.kill()
        rig.pid += 1
        rig.open()
        position = rig.wal._planner.offset
        assert position <= offset + 64
        rig.crash()
        assert not rig.disk.read(rig.segment())[position:].strip(b"\0")
    assert failed >= 4


def test_a_start_on_a_full_disk_does_not_fill_it_to_the_brim_first():
    """What another writes at that moment would find no room, at every try of a broker that waits for some."""
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    rig.crash()
    rig.disk.full = False
    used = sum(len(rig.disk.read(path)) for path in rig.disk.paths())
    rig.disk.capacity = used + rig.limits.segment_bytes - 1
    least = [rig.disk.free_bytes()]
    write = rig.disk.before_write

    def watching(growth: int) -> None:
        write(growth)
        least.append(rig.disk.free_bytes() - max(growth, 0))

    rig.disk.before_write = watching
    _, recovery = rig.open()
    rig.check(recovery)
    assert min(least) == least[0]


def fill_disk(node: Node) -> None:
    """While the node is away: no room, and no spare."""
    remover = node.rig.disk.mount(99)
    for path in files(node.rig.disk, ".spare"):
        remover.remove(path)
    remover.sync_dir(DIRECTORY)
    node.rig.disk.full = True


def interrupted_installation(seed: int, segments: int, mark: SnapshotMark) -> Node:
    """The snapshot has its name, the log was not restarted; no spare is there, and no room."""
    node = filled(seed=seed) if segments > 1 else Node(seed)
    node.write(2, term=node.term + 4)
    node.rig.crash()
    fill_disk(node)
    node.mark = mark
    return node


MARKS = pytest.mark.parametrize("mark", [SnapshotMark(500, 5, ()), SnapshotMark(40, 2, ()), SnapshotMark(500, 50, ())])


@MARKS
@pytest.mark.parametrize("segments", [1, 8])
def test_an_interrupted_installation_goes_on_on_a_full_disk(segments, mark):
    """All that the log has is of no use: there is room in its own files."""
    node = interrupted_installation(1, segments, mark)
    term = max(node.term, mark.term)
    node.open()
    for _ in range(2):
        assert not node.recovery.quarantined
        assert node.recovery.base == (mark.index, mark.term)
        assert node.recovery.hard_state.term == term
        assert len(node.rig.segments()) == 1
        assert (len(files(node.rig.disk, ".spare")) > 0) == (segments > 1), "those that left"
        node.base, node.entries, node.term = node.recovery.base, [], term
        node.write(4, term=term)
        node.crash()
        node.check()
        node.wal.close()
        node.rig.crash()
        node.mark = SnapshotMark(node.last + 100, term, ())
        mark = node.mark
        node.open()


@MARKS
@pytest.mark.parametrize("segments", [1, 8])
@pytest.mark.parametrize("end", ["kill", "crash"])
def test_such_a_start_that_dies_at_any_call_forgets_no_vote_and_is_no_damage(segments, end, mark):
    for calls in range(CALLS_MAX):
        node = interrupted_installation(calls, segments, mark)
        term = max(node.term, mark.term)
        node.rig.disk.cut_power_after(calls)
        died = False
        try:
            node.open()
        except PowerLost:
            died = True
        node.rig.disk.kill() if end == "kill" else node.rig.disk.crash()
        node.rig.pid += 1
        node.open()
        assert not node.recovery.quarantined
        assert node.recovery.base == (mark.index, mark.term)
        assert node.recovery.hard_state.term == term
        if not died:
            assert calls > 4
            return
    raise AssertionError("CALLS_MAX is too low")


def test_a_void_log_that_is_marked_keeps_its_mark_and_its_evidence_there():
    node = filled()
    node.wal.quarantine("for a test")
    node.settle()
    node.rig.crash()
    fill_disk(node)
    node.mark = SnapshotMark(500, 5, ())
    node.open()
    assert node.recovery.quarantined and node.recovery.base == (500, 5)
    assert node.rig.disk.read(node.rig.segment())[:FRAMES_START]


def test_what_a_start_without_room_frees_is_at_hand_at_once():
    """A quarantined log reclaims nothing before it begins: what left the log comes free behind the start."""
    node = filled()
    node.wal.quarantine("for a test")
    node.settle()
    node.wal.compact(node.mark.index)
    node.rig.disk.kill()
    node.rig.pid += 1
    fill_disk(node)
    disk = node.rig.disk
    segments = len(files(disk, ".wal"))
    _, node.recovery = node.rig.open(restore=lambda: node.mark)
    assert node.recovery.quarantined
    assert len(files(disk, ".wal")) < segments, "some had left the log"
    assert node.wal._spares.has_ready
