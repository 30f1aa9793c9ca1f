"""A machine's disk in the simulated world: it outlives its processes and forgets what was not synced.

The model is that of a harsh but lawful file system. What a process wrote is visible at once to everyone on
the machine (the page cache) and survives the death of the process; what survives a loss of power is only what
was synced, plus a seeded part of the rest: each 512-byte sector of unsynced data may be there or not, so that
torn frames appear, and each creation, renaming or removal since the last `sync_dir` may have happened or not,
independently of the others, which is more than any journaling file system does to us.

Simplifications: directories themselves are durable at once, and a sector is written whole or not at all.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EIO, ENOSPC
from functools import partial
from os import strerror
from typing import TypeVar, cast
from zlib import crc32

from actors.errors import Locked
from actors.runtime.ports import Buffer, Clock, Entropy, Nanos
from actors.simulation.inode import DirectoryChange, Inode, Names

T = TypeVar("T")

UNBOUNDED_BYTES = 1 << 50  # what a disk without a capacity says that it has left
JOB_CALLS_MAX = 8  # of a job that a crash interrupts at most so many calls have happened

Latency = Callable[[], Nanos]


class PowerLost(BaseException):
    """The process that made this call is dead. Not an Exception: dead code handles nothing."""


class SimulatedDisk:
    """One machine's disk. Processes see it through `mount`; the world and tests through the rest.

    `entropy` decides what a crash loses. `sync_latency` is how long a job on the disk takes. `busy` is told
    the latency of each sync that a process made inline, on its loop, so that the world can let it wait.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        sync_latency: Latency = lambda: 0,
        busy: Callable[[Nanos], None] | None = None,
    ) -> None:
        self.clock = clock
        self.entropy = entropy
        self.sync_latency = sync_latency
        self.busy = busy
        self.faults: dict[str, int] = {}  # counts by kind
        self.calls = 0  # calls that changed something, of all processes so far
        self._names = Names()
        self._directories: set[str] = {""}
        self._locks: dict[str, int] = {}
        self._mounts: list[SimulatedFiles] = []
        self._fuse: int | None = None
        self._failing_syncs = 0
        self._failing_writes = 0
        self._slow_syncs = 0
        self._slow_latency = 0
        self.full = False  # while set, no file can grow
        self.capacity: int | None = None  # bytes of all files together; None: as many as anybody wants

    # The machine's life

    def mount(self, pid: int = 1, clock: Clock | None = None) -> "SimulatedFiles":
        """The `Files` port of one process; `clock` is its own if it has one."""
        files = SimulatedFiles(self, pid, clock or self.clock)
        self._mounts.append(files)
        return files

    def kill(self, pid: int | None = None) -> None:
        """The process (or all) dies: its locks go, its unfinished jobs stop half-way, what it wrote stays."""
        for mount in [mount for mount in self._mounts if pid is None or mount.pid == pid]:
            mount.die()
            self._mounts.remove(mount)
        self._locks = {
            path: holder for path, holder in self._locks.items() if pid is not None and holder != pid
        }
        self._fuse = None

    def crash(self) -> None:
        """Power is lost: all processes die, and a seeded part of what was not synced with them."""
        self.kill()
        self._count("crash")
        for _ in range(self._names.lose_power(self.entropy)):
            self._count("directory_change_lost")
        for path in self.paths():
            lost, kept = self._names.visible[path].lose_power(self.entropy)
            if lost:
                self._count("unsynced_lost")
            if lost and kept:
                self._count("torn_write")

    # Faults on demand

    def cut_power_after(self, calls: int) -> None:
        """The process whose call comes after the next `calls` ones that change something dies in it
        (`PowerLost`).

        Then call `crash` or `kill`.
        """
        self._fuse = calls

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """The medium rots: one bit of a durable byte is another."""
        self._names.visible[path].data[offset] ^= 1 << bit
        self._count("flipped_bit")

    def fail_next_sync(self, count: int = 1) -> None:
        """The next syncs raise EIO, and what they should have made durable is not."""
        self._failing_syncs = count

    def fail_next_write(self, count: int = 1) -> None:
        """The next writes raise EIO and write nothing."""
        self._failing_writes = count

    def slow_syncs(self, count: int, latency: Nanos) -> None:
        """The next syncs (jobs, if they are made off the loop) take `latency`."""
        self._slow_syncs = count
        self._slow_latency = latency

    # What tests and traces look at

    def read(self, path: str) -> bytes:
        return bytes(self._names.visible[path].data)

    def overwrite(self, path: str, data: bytes) -> None:
        """Sets a file's durable content, from outside the simulated machine."""
        inode = self._names.visible[path]
        inode.data[:] = data
        inode.phantom.clear()
        inode.sync()

    def paths(self) -> list[str]:
        return sorted(self._names.visible)

    def unsynced_sectors(self, path: str) -> int:
        inode = self._names.visible[path]
        return len(inode.undo) + len(inode.phantom)

    def digest(self) -> int:
        """A checksum of everything that decides how this disk behaves from now on, for traces of a run."""
        value = crc32(repr((sorted(self.faults.items()), sorted(self._locks), self.full)).encode())
        for path, inode in self._names.inodes():
            marks = (path, inode.durable_size, sorted(inode.undo), sorted(inode.phantom))
            value = crc32(inode.data, crc32(repr(marks).encode(), value))
        return value

    # What mounts use

    def enter(self, *, cuts_first: bool = False) -> bool:
        """Counts a call. True: the process dies in it, after its effect. `cuts_first`: before its effect."""
        self.calls += 1
        if self._fuse is None:
            return False
        self._fuse -= 1
        if self._fuse >= 0:
            return False
        if cuts_first:
            raise PowerLost
        return True

    def change(self, directory: str, change: DirectoryChange) -> None:
        self._names.change(directory, change)

    def settle_directory(self, directory: str) -> None:
        self._names.sync(directory)

    def lookup(self, path: str) -> Inode | None:
        return self._names.visible.get(path)

    def names_in(self, directory: str) -> list[str]:
        prefix = f"{directory}/"
        below = (path[len(prefix) :] for path in self._names.visible if path.startswith(prefix))
        return sorted({path.split("/")[0] for path in below})

    def is_directory(self, path: str) -> bool:
        return path in self._directories

    def add_directory(self, path: str) -> None:
        parts = path.split("/")
        self._directories.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))

    def lock_holder(self, path: str) -> int | None:
        return self._locks.get(path)

    def set_lock(self, path: str, pid: int | None) -> None:
        if pid is None:
            self._locks.pop(path, None)
        else:
            self._locks[path] = pid

    def before_write(self, growth: int) -> None:
        if self._failing_writes:
            self._failing_writes -= 1
            self._count("write_error")
            raise OSError(EIO, strerror(EIO))
        if growth > 0 and growth > self.free_bytes():
            self._count("no_space")
            raise OSError(ENOSPC, strerror(ENOSPC))

    def tell_free_bytes(self) -> int:
        """To a process, which then need not begin to write."""
        if self.full:
            self._count("no_space")
        return self.free_bytes()

    def free_bytes(self) -> int:
        if self.full:
            return 0
        if self.capacity is None:
            return UNBOUNDED_BYTES
        return max(0, self.capacity - sum(len(inode.data) for inode in self._names.visible.values()))

    def sync_inode(self, inode: Inode) -> None:
        if self._failing_syncs:
            self._failing_syncs -= 1
            self._count("sync_error")
            inode.sync_failed()
            raise OSError(EIO, strerror(EIO))
        inode.sync()

    def next_latency(self) -> Nanos:
        if self._slow_syncs:
            self._slow_syncs -= 1
            self._count("slow_sync")
            return self._slow_latency
        return self.sync_latency()

    def _count(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1


class SimulatedFile:
    """A file that one process has open."""

    __slots__ = ("_files", "_inode", "path")

    def __init__(self, files: "SimulatedFiles", path: str, inode: Inode) -> None:
        self.path = path
        self._files = files
        self._inode = inode

    def size(self) -> int:
        self._files.check()
        return len(self._inode.data)

    def pread(self, size: int, offset: int) -> bytes:
        self._files.check()
        return bytes(self._inode.data[offset : offset + size])

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        dies = self._files.enter()
        data = b"".join(buffers)
        self._files.disk.before_write(offset + len(data) - len(self._inode.data))
        self._inode.write(data, offset)
        if dies:
            raise PowerLost

    def sync(self) -> None:
        self._files.enter(cuts_first=True)
        self._files.pay_sync()
        self._files.disk.sync_inode(self._inode)

    def close(self) -> None:
        return


class SimulatedLock:
    __slots__ = ("_files", "_path")

    def __init__(self, files: "SimulatedFiles", path: str) -> None:
        self._files = files
        self._path = path

    def release(self) -> None:
        if self._files.disk.lock_holder(self._path) == self._files.pid and not self._files.dead:
            self._files.disk.set_lock(self._path, None)


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], object]
    done: Callable[[object], None]


class SimulatedFiles:
    """The `Files` port of one simulated process. After its death every call raises PowerLost and changes
    nothing."""

    def __init__(self, disk: SimulatedDisk, pid: int, clock: Clock) -> None:
        self.disk = disk
        self.pid = pid
        self.dead = False
        self._clock = clock
        self._lanes: tuple[deque[_Job], deque[_Job]] = (deque(), deque())   # of the foreground, of the background
        self._in_job = False

    def open(self, path: str, *, create: bool = False) -> SimulatedFile:
        dies = self.enter()
        inode = self.disk.lookup(path)
        if inode is None:
            if not create or not self.disk.is_directory(_parent(path)):
                raise FileNotFoundError(path)
            inode = Inode()
            self.disk.change(_parent(path), DirectoryChange(path, inode))
        if dies:
            raise PowerLost
        return SimulatedFile(self, path, inode)

    def exists(self, path: str) -> bool:
        self.check()
        return self.disk.lookup(path) is not None or self.disk.is_directory(path)

    def list(self, path: str) -> list[str]:
        self.check()
        return self.disk.names_in(path)

    def make_dirs(self, path: str) -> None:
        self.check()
        self.disk.add_directory(path)

    def free_bytes(self, directory: str) -> int:
        self.check()
        return self.disk.tell_free_bytes()

    def rename(self, source: str, target: str) -> None:
        dies = self.enter()
        inode = self.disk.lookup(source)
        if inode is None:
            raise FileNotFoundError(source)
        assert _parent(source) == _parent(target), "renames stay within a directory"
        self.disk.change(_parent(target), DirectoryChange(target, inode, source))
        if dies:
            raise PowerLost

    def remove(self, path: str) -> None:
        dies = self.enter()
        if self.disk.lookup(path) is None:
            raise FileNotFoundError(path)
        self.disk.change(_parent(path), DirectoryChange(path, None))
        if dies:
            raise PowerLost

    def sync_dir(self, path: str) -> None:
        self.enter(cuts_first=True)
        self.disk.settle_directory(path)

    def lock(self, path: str) -> SimulatedLock:
        self.check()
        holder = self.disk.lock_holder(path)
        if holder is not None:
            raise Locked(path, holder)
        self.disk.set_lock(path, self.pid)
        return SimulatedLock(self, path)

    def submit(
        self, job: Callable[[], T], done: Callable[[T | BaseException], None], *, background: bool = False
    ) -> None:
        assert not self._in_job, "a job may not submit jobs"
        self.check()
        jobs = self._lanes[background]
        jobs.append(_Job(job, cast("Callable[[object], None]", done)))
        if len(jobs) == 1:
            self._start(jobs, self.disk.next_latency())

    def run_for(self, patience: Nanos, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> T | None:
        assert not self._in_job, "a job may not run jobs"
        self.check()
        jobs, latency = self._lanes[False], self.disk.next_latency()
        waiting = _Job(job, cast("Callable[[object], None]", done))
        if jobs or latency > patience:
            jobs.append(waiting)
            if len(jobs) == 1:
                self._start(jobs, latency)
            return None
        if self.disk.busy is not None:
            self.disk.busy(latency)
        outcome = self._run(waiting)
        if isinstance(outcome, PowerLost):
            self._end()
        if isinstance(outcome, BaseException):
            raise outcome
        return cast("T", outcome)

    def check(self) -> None:
        if self.dead:
            raise PowerLost

    def enter(self, *, cuts_first: bool = False) -> bool:
        self.check()
        return self.disk.enter(cuts_first=cuts_first)

    def pay_sync(self) -> None:
        # A job's time is its latency, drawn when it started; an inline sync holds up the process itself.
        if not self._in_job and self.disk.busy is not None:
            self.disk.busy(self.disk.next_latency())

    def die(self) -> None:
        """The process ends. Of each job that was running the first calls have happened, of both so many as the disk's
        entropy says, those of the one before those of the other."""
        below = self.disk.entropy.below
        running = [] if self.dead else [jobs[0] for jobs in self._lanes if jobs]
        if len(running) > 1 and below(2):
            running.reverse()
        for job in running:
            calls = below(JOB_CALLS_MAX + 1)
            if calls:
                self.disk.cut_power_after(calls - 1)    # the last of them dies, with its effect if it is no sync
                self._run(job)
        self._end()

    def _end(self) -> None:
        for jobs in self._lanes:
            jobs.clear()
        self.dead = True

    def _start(self, jobs: deque[_Job], latency: Nanos) -> None:
        self._clock.call_at(self._clock.now() + latency, partial(self._finish, jobs))

    def _finish(self, jobs: deque[_Job]) -> None:
        if self.dead:
            return
        job = jobs[0]
        outcome = self._run(job)
        if isinstance(outcome, PowerLost):
            self._end()
            raise outcome
        jobs.popleft()
        if jobs:
            self._start(jobs, self.disk.next_latency())
        job.done(outcome)

    def _run(self, job: _Job) -> object:
        self._in_job = True
        try:
            return job.run()
        except BaseException as error:  # as the real port: it belongs to the one who submitted the job
            return error
        finally:
            self._in_job = False


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
