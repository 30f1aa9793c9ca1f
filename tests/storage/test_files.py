"""The kernel's files, shortly: the same log on them, the lock, the thread."""

import subprocess
import sys
from queue import Queue
from threading import Event

import pytest

from actors import SECOND
from actors.errors import Locked
from actors.runtime.files import GATHER_BUFFERS_MAX, OsFiles
from cluster.raft.messages import Entry, SnapshotMark
from cluster.storage.pieces import read_pieces
from cluster.storage.receiving import SnapshotReceiver
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.snapshots import SnapshotFile, SnapshotMeta, SnapshotWriter
from cluster.storage.wal import Wal

LIMITS = WalLimits(segment_bytes=64 * 1024, zero_chunk_bytes=16 * 1024)


class Loop:
    """Runs what threads post, when told to."""

    def __init__(self) -> None:
        self.posted: Queue = Queue()

    def run_one(self) -> None:
        self.posted.get(timeout=10)()

    def run_until(self, condition) -> None:
        while not condition():
            self.run_one()


class CountingClock:
    """Each look at it is a microsecond later."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        self.time += 1_000
        return self.time


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def files(loop):
    files = OsFiles(loop.posted.put)
    yield files
    files.close()


@pytest.mark.parametrize("mode", ["auto", "inline", "thread"])
def test_a_log_on_a_real_file_system_is_read_back(files, loop, tmp_path, mode):
    directory = f"{tmp_path}/data/b1"
    salts = iter(range(1, 100))
    files.make_dirs(f"{tmp_path}/data")
    done = []

    def open_log():
        return Wal.open(
            files,
            directory,
            NodeIdentity("b1"),
            salt=lambda: next(salts),
            clock=CountingClock(),
            limits=LIMITS,
            sync_mode=mode,
            on_persisted=done.append,
        )

    wal, recovery = open_log()
    assert recovery.empty
    assert wal.syncing.mode == ("thread" if mode == "thread" else "inline")
    for write in range(1, 60):
        wal.append(write, 1, 0, 0, 0, [Entry(write, 1, 0, b"x" * 3_000)])
        wal.flush()
        loop.run_until(lambda write=write: done and done[-1] == write)
    before = wal.read(1, 60, 1 << 30)
    assert [entry.index for entry in before] == list(range(1, 60))
    wal.close()
    loop.run_until(lambda: wal.is_idle)
    files.close()       # the directory is given up by a job
    wal, recovery = open_log()
    assert recovery.last_index == 59
    assert recovery.cut_bytes == 0
    assert wal.read(1, 60, 1 << 30) == before


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_log_and_its_snapshots_leave_and_begin_anew_on_a_real_file_system(files, loop, tmp_path, mode):
    directory = f"{tmp_path}/b1"
    salts = iter(range(1, 100))
    done = []

    def open_log(mark):
        return Wal.open(
            files, directory, NodeIdentity("b1"), salt=lambda: next(salts), clock=CountingClock(), limits=LIMITS,
            sync_mode=mode, on_persisted=done.append, restore=lambda: mark,
        )

    wal, _ = open_log(None)
    for write in range(1, 60):
        wal.append(write, 1, 0, 0, 0, [Entry(write, 1, 0, b"x" * 3_000)])
        wal.flush()
        loop.run_until(lambda write=write: done and done[-1] == write)
    read = [entry for batch in read_pieces(files, directory, wal.pieces(20, 60)) for entry in batch]
    assert read == wal.read(20, 60, 1 << 30)

    def write_snapshot(index):
        writer = SnapshotWriter(files, directory, SnapshotMeta(index, 1, 1, 0, 0, b"", ()))
        for part in (b"a", b"b" * 3_000_000):
            writer.add(part)
        assert writer.finish() > 3_000_000

    write_snapshot(50)
    snapshot = SnapshotFile.open(files, directory, 50)
    wal.compact(50)
    loop.run_until(lambda: wal.is_idle and not wal._spares.is_retiring)
    assert 30 < wal.first_index <= 51
    wal.close()
    files.close()
    wal, recovery = open_log(SnapshotMark(50, 1, ()))
    assert not recovery.quarantined
    assert (recovery.first_index, recovery.last_index) == (wal.first_index, 59)
    receiver = SnapshotReceiver(files, f"{tmp_path}", snapshot.header, snapshot.footer)
    assert receiver.check()
    while receiver.next_chunk < receiver.chunk_count:
        receiver.add(snapshot.chunk(receiver.next_chunk))
    receiver.finish()
    assert list(SnapshotFile.open(files, f"{tmp_path}", 50).parts()) == [b"a", b"b" * 3_000_000]

    wal.restart(500, 1, lambda: done.append("restarted"))
    loop.run_until(lambda: done[-1] == "restarted" and not wal._spares.is_retiring)
    assert (wal.first_index, wal.last_index) == (501, 500)
    wal.close()
    files.close()
    _, recovery = open_log(SnapshotMark(500, 1, ()))
    assert not recovery.quarantined
    assert recovery.base == (500, 1)


def test_many_buffers_and_few_are_written_whole(files, tmp_path):
    file = files.open(f"{tmp_path}/f", create=True)
    for count in (1, GATHER_BUFFERS_MAX, GATHER_BUFFERS_MAX + 1, 3_000):
        parts = [bytes([n % 251]) * (n % 7) for n in range(count)]
        file.pwrite(parts, 5)
        whole = b"".join(parts)
        assert file.pread(len(whole), 5) == whole
    assert file.size() == 5 + len(whole)
    assert file.pread(100, file.size() - 3) == whole[-3:]
    assert file.pread(100, file.size()) == b""
    file.sync()
    file.close()
    file.close()


def test_the_lock_names_its_holder_and_goes_with_it(files, tmp_path):
    path = f"{tmp_path}/lock"
    script = (
        "import sys; from actors.runtime.files import OsFiles; lock = OsFiles(print).lock(sys.argv[1]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Locked) as locked:
        files.lock(path)
    assert (locked.value.path, locked.value.pid) == (path, holder.pid)
    holder.kill()
    holder.communicate()
    lock = files.lock(path)
    with pytest.raises(Locked):
        files.lock(path)
    lock.release()
    files.lock(path).release()


def test_jobs_run_one_at_a_time_in_order_and_their_errors_arrive(files, loop):
    outcomes: list[object] = []
    running: list[int] = []

    def job(number: int) -> int:
        running.append(number)
        assert len(running) == 1
        running.remove(number)
        if number == 3:
            raise OSError("no")
        return number

    for number in range(6):
        files.submit(lambda number=number: job(number), outcomes.append)
    loop.run_until(lambda: len(outcomes) == 6)
    assert [repr(outcome) for outcome in outcomes] == ["0", "1", "2", "OSError('no')", "4", "5"]


def test_a_job_that_is_waited_for_is_over_in_time_or_told_of_later(files, loop):
    told: list[object] = []
    go = Event()
    assert files.run_for(10 * SECOND, lambda: 7, told.append) == 7
    assert files.run_for(1, lambda: (go.wait(10), 8)[1], told.append) is None
    assert told == []
    go.set()
    loop.run_until(lambda: told)
    assert told == [8]

    def fail() -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        files.run_for(10 * SECOND, fail, told.append)
    assert told == [8]


def test_a_job_that_is_waited_for_has_its_place_among_the_others(files, loop):
    ran: list[int] = []
    for number in range(3):
        files.submit(lambda number=number: ran.append(number), lambda _: None)
    files.run_for(10 * SECOND, lambda: ran.append(3) or True, print)
    assert ran == [0, 1, 2, 3]


def test_names_are_listed_sorted_and_renames_replace(files, tmp_path):
    for name in ("b", "a", "c"):
        files.open(f"{tmp_path}/{name}", create=True).close()
    files.rename(f"{tmp_path}/c", f"{tmp_path}/a")
    files.sync_dir(str(tmp_path))
    assert files.list(str(tmp_path)) == ["a", "b"]
    files.remove(f"{tmp_path}/b")
    assert not files.exists(f"{tmp_path}/b")
    assert files.list(f"{tmp_path}/none") == []
    with pytest.raises(FileNotFoundError):
        files.open(f"{tmp_path}/none")
