"""Two copies of a header, and power that goes while they are changed: one of them is always whole."""

from contextlib import suppress
from itertools import product

import pytest
from test_full_disk_log import begun, fill_segment
from wal_rig import PowerLost, Rig

from actors.simulation.disk import SimulatedFile
from actors.simulation.inode import SECTOR_BYTES
from cluster.storage.header import HEADER_BYTES, decode_segment_header, encode_segment_header
from cluster.storage.segment import write_header

VOTERS = tuple(f"a-broker-with-a-long-name-{number}".ljust(63, "x") for number in range(9))
SEEDS = 4
FIRST_CALL = 5  # those before it open files to read them
DYING_CALLS = 12


def reserve(seed: int) -> Rig:
    """A log whose last segment is all that there is, with a header of several sectors."""
    rig, wal, _ = begun(seed=seed)
    wal.store_formation(b"the-id", VOTERS)
    rig.settle()
    rig.disk.full = True
    fill_segment(rig)
    return rig


def dying_start(rig: Rig, calls: int) -> bool:
    """Another incarnation, of another length, so that the header is another in each of its sectors; tells whether it
    died."""
    rig.crash()
    rig.identity = type(rig.identity)("b1", "test", rig.entropy.bits(8 * rig.entropy.below(8) + 1))
    rig.disk.cut_power_after(calls)
    try:
        rig.open()
    except PowerLost:
        return True
    return False


def test_a_header_of_these_tests_is_larger_than_a_sector():
    rig = reserve(1)
    header = decode_segment_header(rig.disk.read(rig.segment())).header
    assert header is not None
    assert len(encode_segment_header(header).rstrip(b"\0")) > SECTOR_BYTES


@pytest.mark.parametrize("rotten", [None, 0, 1])
def test_starts_in_place_that_die_one_after_another_leave_a_whole_header(rotten):
    """Wherever the first one ended, and wherever the second."""
    for first, second, seed in product(range(DYING_CALLS), range(DYING_CALLS), range(SEEDS)):
        rig = reserve(1_000 * seed + 30 * first + second)
        if rotten is not None:
            rig.crash()
            rig.disk.flip_bit(rig.segment(), rotten * HEADER_BYTES + 100)
        died = [dying_start(rig, FIRST_CALL + calls) for calls in (first, second)]
        assert died[0] or first > 8
        rig.crash()
        _, recovery = rig.open()
        rig.check(recovery)
        assert recovery.cluster_id == b"the-id" and recovery.voters == VOTERS


@pytest.mark.parametrize("rotten", [0, 1])
def test_a_header_is_changed_in_its_bad_copy_first(rotten):
    """Power goes in each call of a change, in a log that runs, with one of both copies bad beforehand."""
    for seed in range(20):
        for calls in range(4):
            rig = Rig(seed)
            rig.open()
            rig.wal.store_formation(b"the-id", VOTERS)
            rig.settle()
            rig.disk.flip_bit(rig.segment(), rotten * HEADER_BYTES + 100)
            rig.disk.cut_power_after(calls)
            with pytest.raises(PowerLost):
                rig.wal.quarantine("why")
                rig.settle()
            rig.crash()
            _, recovery = rig.open()
            assert recovery.damaged is None
            assert recovery.cluster_id == b"the-id"


def test_a_copy_that_only_memory_holds_is_made_durable_before_the_other_is_written_to():
    """A sync of the newer copy failed: it can be read, and goes with the power; the older one is the good one then."""
    for calls, seed in product(range(FIRST_CALL + DYING_CALLS), range(SEEDS)):
        rig = reserve(100 * seed + calls)
        rig.crash()
        path = rig.segment()
        header = decode_segment_header(rig.disk.read(path)).header
        assert header is not None
        files = rig.disk.mount(50)
        file = files.open(path)
        rig.disk.flip_bit(path, HEADER_BYTES + 100)      # and the one that is written over was not
        newer = type(header)(header.salt, header.number, header.previous, header.first_seq, 7, header.meta)
        rig.disk.fail_next_sync()
        with pytest.raises(OSError, match="Input/output"):
            write_header(file, newer)
        rig.disk.cut_power_after(calls)
        rig.pid += 1
        rig.identity = type(rig.identity)("b1", "test", 1 << 60)
        with suppress(PowerLost):
            rig.open()
        rig.crash()
        _, recovery = rig.open()
        rig.check(recovery)


def test_a_copy_that_the_medium_has_lost_is_written_first(monkeypatch):
    rig = Rig()
    wal, _ = rig.open()
    places: list[int] = []
    pread, pwrite = SimulatedFile.pread, SimulatedFile.pwrite

    def read(file: SimulatedFile, size: int, offset: int) -> bytes:
        if offset == HEADER_BYTES or (offset == 0 and size > HEADER_BYTES):
            raise OSError(5, "Input/output error")
        return pread(file, size, offset)

    def write(file: SimulatedFile, buffers, offset: int) -> None:
        places.append(offset)
        pwrite(file, buffers, offset)

    monkeypatch.setattr(SimulatedFile, "pread", read)
    monkeypatch.setattr(SimulatedFile, "pwrite", write)
    wal.quarantine("why")
    rig.settle()
    assert places == [HEADER_BYTES, 0]
