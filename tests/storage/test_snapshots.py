"""Snapshot files: every damaged byte is found, every crash leaves the old state or the new one."""

from errno import EIO, ENOMEM
from os import strerror
from random import Random

import pytest
from wal_rig import PowerLost, SeededEntropy, VirtualClock

from actors.simulation.disk import SimulatedDisk, SimulatedFile, SimulatedFiles
from cluster.storage import snapshot_format
from cluster.storage.errors import SnapshotDamaged, UnsupportedVersion
from cluster.storage.receiving import SnapshotReceiver
from cluster.storage.snapshot_format import CHUNK_BYTES, CHUNK_HEAD_BYTES, FOOTER_BYTES, HEADER_BYTES
from cluster.storage.snapshots import (
    SnapshotFile,
    SnapshotMeta,
    SnapshotWriter,
    clear_unfinished,
    list_snapshots,
    remove_snapshot,
)

DIRECTORY = "data/b1"
CALLS_MAX = 100
SMALL = [b"one", b"", b"two" * 30]
LARGE = [b"small", b"x" * (3 * CHUNK_BYTES // 2), b"", *[bytes([n]) * 300_000 for n in range(6)], b"end"]


def meta_of(index: int) -> SnapshotMeta:
    return SnapshotMeta(index, 3, 1, 1_700_000_000_000, 4711, b"the-id", ("b1", "b2", "b3"))


class Place:
    """A disk with one directory, and the process that has it open."""

    def __init__(self, seed: int = 1) -> None:
        self.disk = SimulatedDisk(VirtualClock(), SeededEntropy(seed))
        self.files: SimulatedFiles = self.disk.mount()
        self.files.make_dirs(DIRECTORY)

    def write(self, index: int, parts: list[bytes]) -> int:
        writer = SnapshotWriter(self.files, DIRECTORY, meta_of(index))
        for part in parts:
            writer.add(part)
        return writer.finish()

    def open(self, index: int) -> SnapshotFile:
        return SnapshotFile.open(self.files, DIRECTORY, index)

    def indexes(self) -> list[int]:
        return [name.last_index for name in list_snapshots(self.files, DIRECTORY)]

    def crash(self) -> None:
        self.disk.crash()
        self.files = self.disk.mount(2)
        clear_unfinished(self.files, DIRECTORY)

    def path(self, index: int) -> str:
        return f"{DIRECTORY}/{index:016d}.snap"


def transfer(source: SnapshotFile, receiver: SnapshotReceiver, chunks_max: int = 1_000) -> bool:
    """Sends what is missing, at most so many chunks; whether all of it is there."""
    while not receiver.check():
        pass
    while receiver.next_chunk < receiver.chunk_count and chunks_max:
        receiver.add(source.chunk(receiver.next_chunk))
        chunks_max -= 1
    return receiver.next_chunk == receiver.chunk_count


@pytest.mark.parametrize("parts", [[], [b""], SMALL, LARGE, [b"y" * (CHUNK_BYTES - 8)], [b"z" * (CHUNK_BYTES - 7)]])
def test_the_parts_come_back_as_they_were_written(parts: list[bytes]):
    place = Place()
    size = place.write(7, parts)
    snapshot = place.open(7)
    assert snapshot.meta == meta_of(7)
    assert snapshot.size == size == len(place.disk.read(place.path(7)))
    assert list(snapshot.parts()) == parts
    assert snapshot.chunk_count == -(-sum(len(part) + 8 for part in parts) // CHUNK_BYTES)
    snapshot.verify()


@pytest.mark.parametrize("seed", range(5))
def test_random_parts_come_back(seed: int):
    random = Random(seed)
    parts = [random.randbytes(random.choice([0, 1, 100, 70_000, CHUNK_BYTES])) for _ in range(20)]
    place = Place()
    place.write(7, parts)
    assert list(place.open(7).parts()) == parts


def test_the_same_parts_give_the_same_bytes():
    one, other = Place(), Place(9)
    one.write(7, LARGE)
    other.write(7, LARGE)
    assert one.disk.read(one.path(7)) == other.disk.read(other.path(7))


def read_all(place: Place, index: int) -> list[bytes]:
    return list(place.open(index).parts())


def test_a_flipped_bit_in_any_byte_is_found():
    place = Place()
    size = place.write(7, SMALL)
    path = place.path(7)
    for offset in range(size):
        place.disk.flip_bit(path, offset, offset % 8)
        with pytest.raises(SnapshotDamaged) as damaged:
            place.open(7).verify()
        assert damaged.value.path == path
        with pytest.raises(SnapshotDamaged):
            read_all(place, 7)
        place.disk.flip_bit(path, offset, offset % 8)
    assert read_all(place, 7) == SMALL


def test_a_snapshot_cut_or_extended_at_any_byte_is_damaged():
    place = Place()
    size = place.write(7, SMALL)
    path = place.path(7)
    data = place.disk.read(path)
    for cut in range(size):
        place.disk.overwrite(path, data[:cut])
        with pytest.raises(SnapshotDamaged):
            place.open(7).verify()
    for tail in (b"\0", bytes(FOOTER_BYTES), data[-FOOTER_BYTES:]):
        place.disk.overwrite(path, data + tail)
        with pytest.raises(SnapshotDamaged):
            place.open(7).verify()


# -- a medium that fails ----------------------------------------------------------------------------------------------


def lose(monkeypatch: pytest.MonkeyPatch, path: str, offset: int, number: int = EIO) -> None:
    """The medium has lost the byte there: to read it is an error from now on."""
    pread = SimulatedFile.pread

    def failing(file: SimulatedFile, size: int, start: int) -> bytes:
        if file.path == path and start <= offset < start + size:
            raise OSError(number, strerror(number), path)
        return pread(file, size, start)

    monkeypatch.setattr(SimulatedFile, "pread", failing)


@pytest.mark.parametrize("end", ["header", "footer"])
def test_a_snapshot_whose_ends_cannot_be_read_is_damaged(monkeypatch, end):
    place = Place()
    size = place.write(7, LARGE)
    lose(monkeypatch, place.path(7), 20 if end == "header" else size - 20)
    with pytest.raises(SnapshotDamaged, match="it cannot be read") as damaged:
        place.open(7)
    assert damaged.value.path == place.path(7)


def test_a_chunk_that_cannot_be_read_any_more_is_damaged_and_those_before_it_are_given_out(monkeypatch):
    """By one that reads all, and by one that has had the file open since before, to send it."""
    place = Place()
    place.write(7, LARGE)
    snapshot = place.open(7)
    lost = snapshot_format.chunk_offset(1)
    lose(monkeypatch, place.path(7), lost + 500)
    assert len(snapshot.chunk(0)) == CHUNK_HEAD_BYTES + CHUNK_BYTES
    found = []
    for read in (lambda: snapshot.chunk(1), snapshot.verify, lambda: found.extend(place.open(7).parts())):
        with pytest.raises(SnapshotDamaged, match="it cannot be read") as damaged:
            read()
        assert (damaged.value.path, damaged.value.offset) == (place.path(7), lost)
    assert found == LARGE[:1]


def test_what_a_writer_cannot_read_back_is_damaged_and_gets_no_name(monkeypatch):
    place = Place()
    writer = SnapshotWriter(place.files, DIRECTORY, meta_of(7))
    writer.add(b"a part")
    writer.seal()
    lose(monkeypatch, f"{DIRECTORY}/{7:016d}.part", HEADER_BYTES + 20)
    with pytest.raises(SnapshotDamaged, match="it cannot be read"):
        writer.finish()
    writer.abort()
    assert place.disk.paths() == []


def test_a_machine_without_memory_is_no_damage(monkeypatch):
    """Then there is nothing wrong with the file."""
    place = Place()
    place.write(7, LARGE)
    snapshot = place.open(7)
    lose(monkeypatch, place.path(7), snapshot_format.chunk_offset(1), ENOMEM)
    with pytest.raises(OSError, match="memory"):
        snapshot.verify()


# -- damaged bytes ----------------------------------------------------------------------------------------------------


def test_nothing_of_a_damaged_chunk_is_given_out():
    place = Place()
    place.write(7, LARGE)
    place.disk.flip_bit(place.path(7), snapshot_format.chunk_offset(2) + 500)
    found = []
    with pytest.raises(SnapshotDamaged) as damaged:
        found.extend(place.open(7).parts())
    assert damaged.value.offset == snapshot_format.chunk_offset(2)
    assert found == LARGE[: len(found)]


def test_exchanged_chunks_are_found_each_whole_as_it_is():
    place = Place()
    place.write(7, LARGE)
    place.write(8, LARGE)
    first, second = snapshot_format.chunk_offset(0), snapshot_format.chunk_offset(1)
    data = place.disk.read(place.path(7))
    place.disk.overwrite(place.path(7), data[:first] + data[second : 2 * second - first] + data[second:])
    with pytest.raises(SnapshotDamaged, match="not chunk 0 of this snapshot"):
        place.open(7).verify()
    other = place.disk.read(place.path(8))
    place.disk.overwrite(place.path(7), data[:first] + other[first:second] + data[second:])
    with pytest.raises(SnapshotDamaged, match="not chunk 0 of this snapshot"):
        place.open(7).verify()


def test_a_newer_format_is_refused_by_name():
    place = Place()
    snapshot_format.SNAPSHOT_VERSION, known = 2, snapshot_format.SNAPSHOT_VERSION
    try:
        place.write(7, SMALL)
    finally:
        snapshot_format.SNAPSHOT_VERSION = known
    with pytest.raises(UnsupportedVersion) as refused:
        place.open(7)
    assert refused.value.version == 2
    snapshot = place.disk.read(place.path(7))
    with pytest.raises(UnsupportedVersion):
        SnapshotReceiver(place.files, DIRECTORY, snapshot[:HEADER_BYTES], snapshot[-FOOTER_BYTES:])


def test_a_file_under_another_name_is_not_that_snapshot():
    place = Place()
    place.write(7, SMALL)
    place.files.rename(place.path(7), place.path(8))
    with pytest.raises(SnapshotDamaged, match="entry 7"):
        place.open(8)


def test_snapshots_are_listed_newest_first_and_others_names_are_left_alone():
    place = Place()
    for index in (5, 1_000_000, 17):
        place.write(index, SMALL)
    place.files.open(f"{DIRECTORY}/notes.snap", create=True)
    assert place.indexes() == [1_000_000, 17, 5]
    remove_snapshot(place.files, DIRECTORY, 17)
    assert place.indexes() == [1_000_000, 5]
    assert f"{DIRECTORY}/notes.snap" in place.disk.paths()


def test_damage_on_the_way_to_the_file_is_found_before_it_has_its_name():
    place = Place()
    writer = SnapshotWriter(place.files, DIRECTORY, meta_of(7))
    writer.add(b"a part")
    writer.seal()
    place.disk.flip_bit(f"{DIRECTORY}/{7:016d}.part", HEADER_BYTES + 20)
    with pytest.raises(SnapshotDamaged):
        writer.finish()
    writer.abort()
    assert place.disk.paths() == []


def test_what_a_writer_left_is_not_mixed_with_the_next_one():
    place = Place()
    writer = SnapshotWriter(place.files, DIRECTORY, meta_of(7))
    writer.add(b"w" * 3 * CHUNK_BYTES)
    assert place.write(7, SMALL) < CHUNK_BYTES
    assert read_all(place, 7) == SMALL


def test_a_crash_at_any_call_of_writing_leaves_the_old_snapshots_or_the_new_one_too():
    for calls in range(CALLS_MAX):
        for seed in range(4):
            place = Place(seed * 1_000 + calls)
            place.write(5, SMALL)
            finished = False
            place.disk.cut_power_after(calls)
            try:
                place.write(7, LARGE)
                finished = True
                place.files.remove(place.path(5))
                place.files.sync_dir(DIRECTORY)
            except PowerLost:
                place.crash()
                assert read_all(place, 5) == SMALL if not finished else 7 in place.indexes()
                if 7 in place.indexes():
                    assert read_all(place, 7) == LARGE
                assert all(path.endswith(".snap") for path in place.disk.paths())
            else:
                assert calls > 8
                return
    raise AssertionError("CALLS_MAX is too low")


def test_a_transfer_gives_the_same_file():
    source, target = Place(), Place()
    source.write(7, LARGE)
    snapshot = source.open(7)
    receiver = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
    assert receiver.meta == snapshot.meta
    assert transfer(snapshot, receiver)
    assert receiver.finish() == target.path(7)
    assert target.disk.read(target.path(7)) == source.disk.read(source.path(7))
    assert read_all(target, 7) == LARGE


def test_a_chunk_that_is_not_the_next_one_is_refused_and_changes_nothing():
    source, target = Place(), Place()
    source.write(7, LARGE)
    source.write(8, LARGE)
    snapshot, other = source.open(7), source.open(8)
    receiver = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
    good = snapshot.chunk(0)
    rotten = bytearray(good)
    rotten[CHUNK_HEAD_BYTES + 9] ^= 4
    for wrong in (bytes(rotten), good[:-1], snapshot.chunk(1), other.chunk(0), b""):
        with pytest.raises(SnapshotDamaged):
            receiver.add(wrong)
        assert receiver.next_chunk == 0
    receiver.add(good)
    assert transfer(snapshot, receiver)
    receiver.finish()


def test_header_and_footer_of_different_snapshots_do_not_begin_a_transfer():
    source = Place()
    source.write(7, SMALL)
    source.write(8, SMALL)
    with pytest.raises(SnapshotDamaged):
        SnapshotReceiver(source.files, DIRECTORY, source.open(7).header, source.open(8).footer)
    with pytest.raises(SnapshotDamaged):
        SnapshotReceiver(source.files, DIRECTORY, source.open(7).header[:-1], source.open(7).footer)


def test_a_transfer_goes_on_where_it_stopped_and_only_with_the_same_snapshot():
    source, target = Place(), Place()
    source.write(7, LARGE)
    snapshot = source.open(7)
    receiver = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
    assert not transfer(snapshot, receiver, 2)
    receiver.close()
    clear_unfinished(target.files, DIRECTORY)
    again = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
    assert again.check()
    assert again.next_chunk == 2
    again.close()
    changed = Place()
    changed.write(7, [b"another state", *LARGE])
    other = changed.open(7)
    anew = SnapshotReceiver(target.files, DIRECTORY, other.header, other.footer)
    assert anew.check()
    assert anew.next_chunk == 0
    assert transfer(other, anew)
    anew.finish()
    assert read_all(target, 7) == [b"another state", *LARGE]


def test_a_crash_at_any_call_of_receiving_loses_at_most_the_transfer():
    source = Place()
    source.write(7, LARGE)
    snapshot = source.open(7)
    for calls in range(CALLS_MAX):
        for seed in range(4):
            target = Place(seed * 1_000 + calls)
            target.write(5, SMALL)
            target.disk.cut_power_after(calls)
            try:
                receiver = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
                assert transfer(snapshot, receiver)
                receiver.finish()
            except PowerLost:
                target.crash()
                assert read_all(target, 5) == SMALL
                if 7 not in target.indexes():
                    again = SnapshotReceiver(target.files, DIRECTORY, snapshot.header, snapshot.footer)
                    assert transfer(snapshot, again)
                    again.finish()
                target.crash()
                assert read_all(target, 7) == LARGE
                assert target.indexes() == [7, 5]
            else:
                assert calls > 8
                return
    raise AssertionError("CALLS_MAX is too low")


def test_a_start_clears_away_what_cannot_go_on():
    place = Place()
    place.write(50, SMALL)
    SnapshotWriter(place.files, DIRECTORY, meta_of(60)).add(b"unfinished")
    for index in (40, 70, 80):
        donor = Place()
        donor.write(index, SMALL)
        snapshot = donor.open(index)
        SnapshotReceiver(place.files, DIRECTORY, snapshot.header, snapshot.footer)
    place.files.open(f"{DIRECTORY}/{90:016d}.recv", create=True)
    clear_unfinished(place.files, DIRECTORY)
    assert [path.rpartition("/")[2].lstrip("0") for path in place.disk.paths()] == ["50.snap", "80.recv"]
