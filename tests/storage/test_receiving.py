"""A snapshot that arrives on a disk in bad times: what an earlier transfer left cannot be read, or there is no room."""

from collections.abc import Iterator
from errno import EIO
from os import strerror

import pytest
from wal_rig import SeededEntropy, VirtualClock

from actors.simulation.disk import SimulatedDisk, SimulatedFile, SimulatedFiles
from cluster.storage.receiving import SnapshotReceiver
from cluster.storage.snapshots import (
    SnapshotFile,
    SnapshotMeta,
    SnapshotWriter,
    clear_transfers,
    clear_unfinished,
)

DIRECTORY = "data"
PARTS = [b"a" * 1_500_000, b"b" * 1_500_000]
META = SnapshotMeta(7, 2, 1, 1_700_000_000_000, 5, b"c" * 16, ("b1", "b2"))
LEFT = f"{DIRECTORY}/{7:016d}.recv"


def place() -> tuple[SimulatedDisk, SimulatedFiles]:
    clock = VirtualClock()
    disk = SimulatedDisk(clock, SeededEntropy(1))
    files = disk.mount(1, clock)
    files.make_dirs(DIRECTORY)
    return disk, files


@pytest.fixture
def sent() -> SnapshotFile:
    _, files = place()
    writer = SnapshotWriter(files, DIRECTORY, META)
    for part in PARTS:
        writer.add(part)
    writer.finish()
    return SnapshotFile.open(files, DIRECTORY, 7)


def begun(files: SimulatedFiles, sent: SnapshotFile) -> None:
    """A transfer that was interrupted behind its second chunk."""
    receiver = SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)
    assert receiver.check()
    for number in range(2):
        receiver.add(sent.chunk(number))
    receiver.close()


def finish(receiver: SnapshotReceiver, sent: SnapshotFile) -> None:
    while receiver.next_chunk < receiver.chunk_count:
        receiver.add(sent.chunk(receiver.next_chunk))
    receiver.finish()


class Bad:
    """Reads of what was left at these offsets fail, until the file is another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, disk: SimulatedDisk, low: int, high: int) -> None:
        self.failed = 0
        bad = disk.lookup(LEFT)
        pread = SimulatedFile.pread

        def read(file: SimulatedFile, size: int, offset: int) -> bytes:
            if file._inode is bad and offset < high and low < offset + size:
                self.failed += 1
                raise OSError(EIO, strerror(EIO))
            return pread(file, size, offset)

        monkeypatch.setattr(SimulatedFile, "pread", read)


@pytest.mark.parametrize("ends", [(0, 10), (3_000_000, 1 << 40)])
def test_what_is_left_of_a_transfer_and_cannot_be_read_is_thrown_away_and_it_begins_again(monkeypatch, sent, ends):
    """Its header, its footer."""
    disk, files = place()
    begun(files, sent)
    bad = Bad(monkeypatch, disk, *ends)
    receiver = SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)
    assert bad.failed == 1
    assert receiver.check() and receiver.next_chunk == 0
    finish(receiver, sent)
    SnapshotFile.open(files, DIRECTORY, 7).verify()


def test_a_transfer_goes_on_with_the_chunk_that_cannot_be_read(monkeypatch, sent):
    disk, files = place()
    begun(files, sent)
    Bad(monkeypatch, disk, 1_100_000, 1_100_001)
    receiver = SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)
    assert receiver.check() and receiver.next_chunk == 1
    finish(receiver, sent)


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_start_clears_away_a_transfer_that_cannot_be_looked_at(monkeypatch, sent, call):
    disk, files = place()
    begun(files, sent)

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(EIO, strerror(EIO))

    monkeypatch.setattr(SimulatedFiles if call == "open" else SimulatedFile, call, fail)
    clear_unfinished(files, DIRECTORY)
    assert LEFT not in disk.paths()


def test_a_transfer_without_room_is_refused_before_it_begins_and_says_how_much_is_needed(sent):
    disk, files = place()
    disk.capacity = sent.size - 1
    with pytest.raises(OSError, match=f"{sent.size} bytes are needed, {sent.size - 1} are free"):
        SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)
    assert disk.paths() == []
    disk.capacity += 1
    finish(SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer), sent)


@pytest.mark.parametrize("calls", range(4))
def test_a_transfer_that_cannot_begin_leaves_no_file(monkeypatch, sent, calls):
    """A quota that nobody was told of, a medium that fails."""
    disk, files = place()
    left: Iterator[int] = iter(range(calls, -1, -1))
    sync, write = SimulatedFile.sync, SimulatedFile.pwrite

    def counted(act):  # type: ignore[no-untyped-def]
        def call(*arguments: object) -> object:
            if next(left, 1) == 0:
                raise OSError(EIO, strerror(EIO))
            return act(*arguments)

        return call

    monkeypatch.setattr(SimulatedFile, "pwrite", counted(write))
    monkeypatch.setattr(SimulatedFile, "sync", counted(sync))
    if calls < 3:
        with pytest.raises(OSError, match="Input/output"):
            SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)
        assert disk.paths() == []
    else:
        SnapshotReceiver(files, DIRECTORY, sent.header, sent.footer)


def test_transfers_of_other_snapshots_go_when_one_begins(sent):
    disk, files = place()
    begun(files, sent)
    clear_transfers(files, DIRECTORY, 7)
    assert disk.paths() == [LEFT]
    clear_transfers(files, DIRECTORY, 8)
    assert disk.paths() == []
