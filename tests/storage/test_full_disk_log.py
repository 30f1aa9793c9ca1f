"""A disk without room: what the log has at hand, when it says so, and how it finds its way back."""

import pytest
from compaction_rig import Node
from wal_rig import Rig

from actors.simulation.disk import SimulatedDisk
from cluster.storage.errors import WalFailed
from cluster.storage.wal import Wal

PER_SEGMENT = 12      # writes of three entries of 100 bytes: about a segment of these tests


def begun(mode: str = "inline", **options: object) -> tuple[Rig, Wal, list[bool]]:
    """A log with its spare at hand, and what it says about room."""
    rig = Rig(mode=mode, latency=1_000 if mode == "thread" else 0)
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


def test_a_start_without_a_spare_needs_room_and_leaves_no_half_filled_file():
    rig, _, _ = begun()
    rig.disk.full = True
    fill_segment(rig)
    rig.crash()
    with pytest.raises(OSError, match="No space left"):
        rig.open()
    assert files(rig.disk, ".zero") == []
    rig.disk.full = False
    rig.pid += 1
    _, recovery = rig.open()
    rig.check(recovery)


@pytest.mark.parametrize("calls", range(40))
def test_a_start_that_dies_on_a_full_disk_does_not_lose_the_spare(calls):
    rig, _, _ = begun()
    rig.write(3, term=1)
    rig.disk.full = True
    rig.disk.kill()
    rig.disk.cut_power_after(calls)
    rig.pid += 1
    try:
        rig.open()
        rig.clock.advance()
    except BaseException as error:
        assert type(error).__name__ == "PowerLost"
    rig.disk.kill()
    rig.pid += 1
    _, recovery = rig.open()
    rig.check(recovery)
