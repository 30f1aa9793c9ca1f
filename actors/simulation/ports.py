"""The ports of one simulated process, except network and children: each looks whether its process is alive
before it touches the world, and raises `Cut` if not, so that nothing a dead process still executes is seen by
anyone.

Reading the clock or drawing chance changes nothing outside the process, so those two are not guarded.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Never, Protocol, TypeVar
from zlib import crc32

from actors.runtime.ports import MILLISECOND, Buffer, Nanos
from actors.simulation.disk import PowerLost, SimulatedDisk, SimulatedFile, SimulatedLock
from actors.simulation.events import FILE, LOG, EventQueue, Handle
from actors.simulation.loop import Cut, Loop

T = TypeVar("T")

WALL_EPOCH_MS = 1_767_225_600_000       # 2026-01-01: a believable date, the same in every run


class SimClock:
    """The Clock port."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.now = loop.now             # the attribute is the method: ticks read the time often

    def wall_ms(self) -> int:
        loop = self._loop
        return WALL_EPOCH_MS + loop.clock.wall_offset_ms + (loop.now() - loop.clock.boot_ns) // MILLISECOND

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self._loop.soon(callback, (), None)

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> Handle:
        return self._loop.at(when, callback, (), None)


class WorldClock:
    """A Clock for things that belong to no process, such as disks: world time, and no crash stops it."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue

    def now(self) -> Nanos:
        return self._queue.now

    def wall_ms(self) -> int:
        return WALL_EPOCH_MS + self._queue.now // MILLISECOND

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self._queue.now, callback)

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> Handle:
        handle = Handle(callback, (), None, when)
        handle.queue = self._queue
        self._queue.push(max(when, self._queue.now), _fire, handle)
        return handle


class SimEntropy:
    """The Entropy port: a generator of its own per incarnation, so that one process's draws disturb no
    other's."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)


class EventSink(Protocol):
    """Where log events go: the world's list."""

    def __call__(self, process: str, name: str, fields: dict[str, object]) -> None: ...


class SimLog:
    """The Log port. An event is part of the trace: its name and those fields whose text cannot vary by
    address."""

    def __init__(self, loop: Loop, sink: EventSink) -> None:
        self._loop = loop
        self._sink = sink

    def event(self, name: str, /, **fields: object) -> None:
        loop = self._loop
        if not loop.alive:
            raise Cut
        text = name + "".join(
            f" {key}={value!r}"
            for key, value in fields.items()
            if isinstance(value, int | str | bytes | float)
        )
        loop.trace.add(loop.world_now(), loop.number, LOG, crc32(text.encode()))
        self._sink(loop.name, name, fields)


class SimFiles:
    """The Files port: the disk of the machine as one process sees it, put into the trace.

    The disk survives the process; this door to it closes with the process, and the kernel drops its locks.
    A call may be the one in which the power fails (a fault's fuse): then the machine is off before the
    call returns.
    """

    def __init__(self, loop: Loop, disk: SimulatedDisk, on_power_lost: Callable[[], object]) -> None:
        self._loop = loop
        self._disk = disk
        self._mount = disk.mount(loop.number, SimClock(loop))
        self._on_power_lost = on_power_lost
        # Not `loop.alive`: as the process dies, the disk runs the first calls of its unfinished job through
        # here.
        self._closed = False
        self._closing = False
        loop.on_kill.append(self._close)

    def open(self, path: str, *, create: bool = False) -> "SimFile":
        self._enter("open", path)
        try:
            return SimFile(self, self._mount.open(path, create=create))
        except PowerLost:
            self.power_lost()

    def exists(self, path: str) -> bool:
        self.check()
        return self._mount.exists(path)

    def list(self, path: str) -> list[str]:
        self.check()
        return self._mount.list(path)

    def make_dirs(self, path: str) -> None:
        self._enter("make_dirs", path)
        self._mount.make_dirs(path)

    def free_bytes(self, directory: str) -> int:
        self.check()
        return self._mount.free_bytes(directory)

    def rename(self, source: str, target: str) -> None:
        self._enter("rename", target)
        try:
            self._mount.rename(source, target)
        except PowerLost:
            self.power_lost()

    def remove(self, path: str) -> None:
        self._enter("remove", path)
        try:
            self._mount.remove(path)
        except PowerLost:
            self.power_lost()

    def sync_dir(self, path: str) -> None:
        self._enter("sync_dir", path)
        try:
            self._mount.sync_dir(path)
        except PowerLost:
            self.power_lost()

    def lock(self, path: str) -> SimulatedLock:
        self._enter("lock", path)
        return self._mount.lock(path)

    def submit(
        self, job: Callable[[], T], done: Callable[[T | BaseException], None], *, background: bool = False
    ) -> None:
        self.check()
        self._mount.submit(job, self._unless_dead(done), background=background)

    def run_for(self, patience: Nanos, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> T | None:
        self.check()
        return self._mount.run_for(patience, job, self._unless_dead(done))

    def _unless_dead(self, done: Callable[[T | BaseException], None]) -> Callable[[T | BaseException], None]:
        """What becomes of a job is told to a process that still lives."""

        def told(outcome: T | BaseException) -> None:
            if self._loop.alive:
                done(outcome)

        return told

    def check(self) -> None:
        if self._closed:
            raise Cut

    def changed(self, crc: int) -> None:
        """A file is about to be written or synced."""
        if self._closed:
            raise Cut
        loop = self._loop
        loop.trace.add(loop.world_now(), loop.number, FILE, crc)

    def power_lost(self) -> Never:
        """Called while PowerLost is handled; it goes on up, through a process whose ports are cut by now."""
        if not self._mount.dead and not self._closing:
            self._mount.dead = True         # else the disk would run the job in which this happened once more
            self._on_power_lost()
        raise

    def _enter(self, what: str, path: str) -> None:
        self.changed(crc32(f"{what} {path}".encode()))

    def _close(self) -> None:
        self._closing = True
        self._disk.kill(self._loop.number)
        self._closed = True


class SimFile:
    """The File port."""

    __slots__ = ("_file", "_files")

    def __init__(self, files: SimFiles, file: SimulatedFile) -> None:
        self._files = files
        self._file = file

    def size(self) -> int:
        self._files.check()
        return self._file.size()

    def pread(self, size: int, offset: int) -> bytes:
        self._files.check()
        return self._file.pread(size, offset)

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        crc = offset & 0xFFFF_FFFF
        for buffer in buffers:
            crc = crc32(buffer, crc)
        self._files.changed(crc)
        try:
            self._file.pwrite(buffers, offset)
        except PowerLost:
            self._files.power_lost()

    def sync(self) -> None:
        self._files.changed(0)
        try:
            self._file.sync()
        except PowerLost:
            self._files.power_lost()

    def close(self) -> None:
        self._file.close()


def _fire(handle: Handle) -> None:
    handle.queue = None
    if handle.callback is not None:
        handle.callback()
