"""A disk without room: what the log has at hand, when it says so, and how it finds its way back."""

from contextlib import suppress
from itertools import count

import pytest
from compaction_rig import Node
from wal_rig import DIRECTORY, PowerLost, Rig

from actors.simulation.disk import SimulatedDisk
from actors.simulation.inode import Inode
from cluster.storage.errors import WalFailed
from cluster.storage.frame import FRAME_HEADER_BYTES
from cluster.storage.header import FRAMES_START
from cluster.storage.segment import fill_spare
from cluster.storage.wal import Wal

CALLS_MAX = 100     # no start makes more
PER_SEGMENT = 12      # writes of three entries of 100 bytes: about a segment of these tests


def begun(mode: str = "inline", seed: int = 1) -> tuple[Rig, Wal, list[bool]]:
    """A log with its spare at hand, and what it says about room."""
    rig = Rig(seed, mode=mode, latency=1_000 if mode == "thread" else 0)
    wal, _ = rig.open()
    told: list[bool] = []
    wal.on_room = told.append
    rig.clock.advance()
    return rig, wal, told


def files(disk: SimulatedDisk, kind: str) -> list[str]:
    return [path for path in disk.paths() if path.endswith(kind)]


def fill_segment(rig: Rig) -> None:
    """Writes until the spare has been taken, and then no more."""
    before = len(rig.segments())
    while len(rig.segments()) == before:
        rig.write(3, term=1)
    rig.clock.advance()


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_full_disk_is_said_once_and_leaves_no_half_filled_file(mode):
    rig, wal, told = begun(mode)
    rig.disk.full = True
    assert not wal.lacks_room, "the spare is at hand"
    fill_segment(rig)
    assert wal.lacks_room and told == [True]
    assert files(rig.disk, ".zero") == []
    for _ in range(3):
        wal.seek_room()
        rig.clock.advance()
    assert wal.lacks_room and told == [True]
    assert files(rig.disk, ".zero") == []


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_what_is_left_of_the_segment_can_be_written_while_the_disk_is_full(mode):
    rig, _, _ = begun(mode)
    rig.disk.full = True
    fill_segment(rig)
    for _ in range(PER_SEGMENT // 2):
        rig.write(3)
    assert rig.failures == []


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_when_there_is_room_again_the_spare_is_filled_and_the_log_goes_on(mode):
    rig, wal, told = begun(mode)
    rig.disk.full = True
    fill_segment(rig)
    rig.disk.full = False
    wal.seek_room()
    rig.clock.advance()
    assert not wal.lacks_room and told == [True, False]
    for _ in range(5 * PER_SEGMENT):
        rig.write(3)
        rig.clock.advance()
    assert wal.unprepared_rolls == 0
    assert rig.failures == []


def test_another_failure_to_prepare_a_spare_is_no_lack_of_room():
    rig, wal, told = begun()
    before = len(rig.segments())
    while len(rig.segments()) == before:
        rig.write(3, term=1)
    rig.disk.fail_next_write()
    rig.clock.advance()
    assert not wal.lacks_room and told == []
    assert files(rig.disk, ".zero") == []


def test_a_segment_that_leaves_the_log_is_the_spare_that_was_missing():
    node = Node()
    node.write(60)
    rig, wal = node.rig, node.wal
    rig.disk.full = True
    while not wal.lacks_room:
        node.write(3)
        rig.clock.advance()
    told: list[bool] = []
    wal.on_room = told.append
    assert wal.has_old_segments
    wal.compact(wal.last_index)
    rig.clock.advance()
    assert not wal.lacks_room and told == [False]
    assert not wal.has_old_segments


def test_the_failure_of_a_log_that_has_used_up_its_last_segment_says_what_to_do():
    rig, _, _ = begun()
    rig.disk.full = True
    with pytest.raises(WalFailed, match=r"No space left on device; .*make room on that disk"):
        for _ in range(5 * PER_SEGMENT):
            rig.write(3, term=1)
            rig.clock.advance()


def test_a_segment_that_was_begun_without_a_spare_is_left_as_soon_as_there_is_one():
    """A full disk meets a log in a file that grows, and never in one that was filled before."""
    rig, wal, _ = begun()
    while not wal.unprepared_rolls:
        rig.write(3, term=1)        # the clock stands: no spare is filled
    grown = rig.segment()
    rig.clock.advance()             # now it is
    rig.disk.full = True
    for _ in range(PER_SEGMENT // 2):
        rig.write(3)
    assert rig.segment() != grown
    assert rig.failures == []


def test_a_spare_that_would_take_what_others_need_is_not_begun():
    rig, wal, told = begun()
    size = rig.limits.segment_bytes
    used = sum(len(rig.disk.read(path)) for path in rig.disk.paths())
    rig.disk.capacity = used + 2 * size - 1
    wal.keep_free(size)
    calls = len(files(rig.disk, ".wal"))
    while len(files(rig.disk, ".wal")) == calls:
        rig.write(3, term=1)
    rig.clock.advance()
    assert told == [True]
    rig.disk.capacity += 1
    wal.seek_room()
    rig.clock.advance()
    assert told == [True, False]
    assert rig.disk.free_bytes() == size


# -- a start ----------------------------------------------------------------------------------------------------------


def test_a_start_with_a_spare_needs_no_room_and_has_one_again():
    rig, _, _ = begun()
    rig.write(3, term=1)
    rig.disk.full = True
    for _ in range(3):
        rig.crash()
        rig.open()
        rig.clock.advance()
        assert rig.wal is not None and not rig.wal.lacks_room
        assert len(files(rig.disk, ".spare")) == 1


def test_a_start_without_a_spare_and_without_room_goes_on_in_the_last_segment():
    """As the log did before: what is left of the segment is there, and it is said again that there is no more."""
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    before = rig.segments()
    for _ in range(3):
        rig.crash()
        wal, recovery = rig.open()
        told: list[bool] = []
        wal.on_room = told.append
        rig.check(recovery)
        rig.adopt(recovery)
        rig.clock.advance()
        assert wal.lacks_room and told == [True]
        rig.write(1, term=rig.term + 1, vote=1)
    assert rig.segments() == before and rig.failures == []
    assert files(rig.disk, ".zero") == []
    rig.disk.full = False
    rig.wal.seek_room()
    rig.clock.advance()
    for _ in range(3 * PER_SEGMENT):
        rig.write(3)
        rig.clock.advance()
    assert rig.failures == [] and rig.wal.unprepared_rolls == 0


def test_starts_on_a_full_disk_use_up_nothing():
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    places = set()
    for _ in range(20):
        rig.crash()
        wal, recovery = rig.open()
        rig.check(recovery)
        places.add(wal._planner.offset)
    assert len(places) == 1


def test_a_torn_tail_is_gone_before_a_log_goes_on_in_its_segment():
    """Else the frames of an interrupted write, which nobody was told of, might be read again behind a new one of the
    same length."""
    rig, wal, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    kept = len(rig.log)
    torn = wal._planner.offset
    rig.append(1)
    rig.append(1, term=rig.term + 1)        # several frames, of one sync
    wal.flush()
    rig.disk.kill()
    rig.disk.flip_bit(rig.segment(), torn + 80)
    rig.pid += 1
    wal, recovery = rig.open()
    assert recovery.cut_bytes > 0 and recovery.damaged is None
    assert wal.last_index == kept
    assert wal._planner.offset <= torn + FRAME_HEADER_BYTES
    assert not rig.disk.read(rig.segment())[wal._planner.offset :].strip(b"\0")


def test_a_start_with_a_last_segment_that_outgrew_its_spare_needs_no_room():
    """A segment that was begun without a spare grows, and so does one with a frame that is larger: a copy of it would
    not fit into the spare. The log goes on in the spare, behind the segment as it is."""
    rig, _, _ = begun()
    rig.write(1, term=1, size=2 * rig.limits.segment_bytes)
    rig.clock.advance()
    assert len(rig.disk.read(rig.segment())) > rig.limits.segment_bytes
    before = rig.segments()
    assert len(files(rig.disk, ".spare")) == 1
    rig.disk.full = True
    for _ in range(3):
        rig.crash()
        wal, recovery = rig.open()
        rig.check(recovery)
        rig.adopt(recovery)
        rig.clock.advance()
        rig.write(1, term=rig.term + 1, vote=2)
    assert wal.lacks_room and rig.failures == []
    assert rig.segments()[:-1] == before
    rig.disk.full = False
    wal.seek_room()
    rig.clock.advance()
    rig.write(3 * PER_SEGMENT)
    assert rig.failures == []


def test_a_quota_that_says_so_only_when_written_to_is_a_full_disk_like_any_other(monkeypatch):
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    rig.crash()
    monkeypatch.setattr(SimulatedDisk, "free_bytes", lambda disk: 0 if disk.calls % 2 else 1 << 40)
    _, recovery = rig.open()
    rig.check(recovery)


def test_a_start_whose_last_segment_is_used_up_waits_for_room_and_changes_nothing():
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    with pytest.raises(WalFailed):
        while True:
            rig.write(1)
    rig.crash()
    before = [rig.disk.read(path) for path in rig.segments()]
    with pytest.raises(OSError, match="No space left"):
        rig.open()
    assert [rig.disk.read(path) for path in rig.segments()] == before
    rig.disk.full = False
    rig.pid += 1
    _, recovery = rig.open()
    rig.check(recovery)


def test_a_start_that_finds_damage_needs_room_for_a_segment_of_its_own():
    """What is damaged is evidence, and nothing is written to it."""
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    rig.write(1)
    rig.write(1)
    rig.crash()
    rig.disk.flip_bit(rig.segment(), FRAMES_START + 100)
    before = rig.disk.read(rig.segment())
    with pytest.raises(OSError, match="No space left"):
        rig.open()
    assert rig.disk.read(rig.segment()) == before
    rig.disk.full = False
    rig.pid += 1
    _, recovery = rig.open()
    assert recovery.damaged is not None


def reserve(rig: Rig) -> None:
    """No spare, and some room in the last segment."""
    fill_segment(rig)


def outgrown(rig: Rig) -> None:
    """A spare, and a last segment that is larger."""
    rig.disk.full = False
    rig.write(1, term=1, size=2 * rig.limits.segment_bytes)
    rig.clock.advance()
    rig.disk.full = True


def spared(rig: Rig) -> None:
    """A spare that the start can use."""
    rig.write(3, term=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prepare", [spared, reserve, outgrown])
@pytest.mark.parametrize("end", ["kill", "crash"])
def test_a_start_on_a_full_disk_that_dies_at_any_call_loses_nothing(prepare, end, seed):
    """Neither what was acknowledged nor what there was to begin with, and the next start on the full disk goes on."""
    for calls in range(CALLS_MAX):
        rig, _, _ = begun(seed=seed * 1_000 + calls)
        rig.disk.full = True
        prepare(rig)
        rig.append(2, term=rig.term + 1, vote=1)
        rig.disk.cut_power_after(2)         # in the midst of a write: a torn tail, or nothing
        with suppress(PowerLost):
            rig.wal.flush()
        rig.disk.crash()
        rig.pid += 1
        rig.disk.cut_power_after(calls)
        died = False
        try:
            rig.open()
            rig.clock.advance()
        except PowerLost:
            died = True
        rig.disk.kill() if end == "kill" else rig.disk.crash()
        rig.pid += 1
        _, recovery = rig.open()
        rig.check(recovery)
        rig.adopt(recovery)
        rig.clock.advance()
        rig.write(1, term=rig.term + 1, vote=2)
        assert rig.failures == []
        rig.crash()
        _, recovery = rig.open()
        rig.check(recovery)
        if not died:
            assert calls > 5
            return
    raise AssertionError("CALLS_MAX is too low")


def test_what_a_failed_sync_left_in_memory_only_is_made_durable_where_it_is():
    """It can be read after the restart, and may be acknowledged then."""
    rig, _, _ = begun()
    rig.disk.full = True
    reserve(rig)
    rig.append(3, term=rig.term + 1)
    rig.disk.fail_next_sync()
    with pytest.raises(WalFailed):
        rig.wal.flush()
    open_twice(rig)


def test_so_is_what_a_failed_sync_left_in_a_segment_that_outgrew_its_spare(monkeypatch):
    rig, _, _ = begun()
    sync, calls = SimulatedDisk.sync_inode, count()

    def third_fails(disk: SimulatedDisk, inode: Inode) -> None:
        if next(calls) == 2:
            disk.fail_next_sync()       # behind those that begin a segment: that of the frame
        sync(disk, inode)

    monkeypatch.setattr(SimulatedDisk, "sync_inode", third_fails)
    rig.append(1, term=1, size=2 * rig.limits.segment_bytes)
    with pytest.raises(WalFailed):
        rig.wal.flush()
        rig.settle()
    for filled in range(0, rig.limits.segment_bytes, rig.limits.zero_chunk_bytes):
        fill_spare(rig.disk.mount(), DIRECTORY, 90, filled, rig.limits)
    rig.disk.full = True
    open_twice(rig)
    assert rig.segment().endswith("91.wal")


def open_twice(rig: Rig) -> None:
    rig.disk.kill()
    rig.pid += 1
    rig.open()
    found = rig.read_all()
    assert len(found) == len(rig.log)
    rig.crash()
    rig.open()
    assert rig.read_all() == found
