"""The child's side of a child process: its frames, its page, and its ties to the parent.

Everything here blocks: a child has nothing to do but what its parent asks for. It is forked by the fork
server (`actors.runtime.forkserver`), with modules loaded and nothing running; `run` is its whole life.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import mmap
import os
import select
import signal
import socket
import sys
import time
import traceback

# Not multiprocessing.Lock: that one needs multiprocessing's own way of starting children.
from _multiprocessing import SemLock, sem_unlink  # type: ignore[import-not-found]
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Self

from actors.runtime.files import OsFiles
from actors.runtime.ports import SECOND, Nanos

FRAME_LENGTH = Struct("<I")
FRAME_BYTES_MAX = 64 * 1024 * 1024
RECEIVE_BYTES = 256 * 1024

LOCK_PREFIX = "quorumq-"
LOCK_DIRECTORY = "/dev/shm"     # where the C library keeps named semaphores, as files "sem.NAME"
LOCK_NAME_AGE_MAX_S = 3_600

_PR_SET_PDEATHSIG = 1
_COUNTING_SEMAPHORE = 1         # SemLock's kind that any process may release


class SharedLock:
    """A lock between processes: a POSIX semaphore, which stays taken if its holder dies.

    It has a name only until both sides have it open. A parent killed before that leaves the name behind: 32
    bytes in memory, which a later parent sweeps.
    """

    def __init__(self, semaphore: SemLock) -> None:
        self._acquire: Callable[..., bool] = semaphore.acquire
        self.release: Callable[[], None] = semaphore.release

    @classmethod
    def create(cls, name: str) -> Self:
        return cls(SemLock(_COUNTING_SEMAPHORE, 1, 1, name, False))

    @classmethod
    def open(cls, name: str) -> Self:
        return cls(SemLock._rebuild(-1, _COUNTING_SEMAPHORE, 1, name))

    @staticmethod
    def remove_name(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            sem_unlink(name)

    @classmethod
    def sweep(cls) -> None:
        """Removes names that are far older than any child takes to start."""
        with contextlib.suppress(OSError), os.scandir(LOCK_DIRECTORY) as entries:
            for entry in entries:
                if entry.name.startswith(f"sem.{LOCK_PREFIX}"):
                    with contextlib.suppress(OSError):
                        if time.time() - entry.stat().st_mtime > LOCK_NAME_AGE_MAX_S:
                            os.unlink(entry.path)

    def acquire(self, timeout: Nanos) -> bool:
        """Takes the lock; False after `timeout`."""
        return self._acquire(False) or (timeout > 0 and self._acquire(True, timeout / SECOND))


class SharedPage:
    """Memory shared by parent and child, and the lock that guards it."""

    def __init__(self, fd: int, size: int, lock: SharedLock) -> None:
        self._memory = mmap.mmap(fd, size)
        self.view = memoryview(self._memory)
        self.acquire = lock.acquire
        self.release = lock.release


class Frames:
    """Splits a byte stream into frames, each after its length."""

    __slots__ = ("_buffer", "_ready")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ready: deque[bytes] = deque()

    def feed(self, data: bytes) -> None:
        """Adds received bytes. Raises ValueError on a frame longer than FRAME_BYTES_MAX."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= FRAME_LENGTH.size:
            (length,) = FRAME_LENGTH.unpack_from(buffer, start)
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length} bytes")
            first = start + FRAME_LENGTH.size
            if end - first < length:
                break
            start = first + length
            self._ready.append(bytes(memoryview(buffer)[first:start]))
        if start:
            del buffer[:start]

    def take(self) -> bytes | None:
        return self._ready.popleft() if self._ready else None


class Channel:
    """What the entry function of a child gets: frames, the page, the clocks."""

    def __init__(self, connection: socket.socket, page: SharedPage) -> None:
        self.page = page
        self._connection = connection
        self._frames = Frames()
        self._pid = os.getpid()
        self._files: OsFiles | None = None
        self.is_closed = False                  # by the parent, as far as `poll` has seen

    @property
    def files(self) -> OsFiles:
        """The file system, for blocking calls only: a child has no loop that could be told of a job's end."""
        if self._files is None:
            self._files = OsFiles(_no_jobs)
        return self._files

    @staticmethod
    def step_back(nice: int) -> None:
        """Gives way to everybody else who wants a processor, as `nice` does: 0 changes nothing, 19 most."""
        os.nice(nice)

    def end_copy(self) -> None:
        """Ends this process if it is a copy of the child: user code forked, and its copy came back from that code. It
        would speak for the child otherwise."""
        if os.getpid() != self._pid:
            os._exit(0)

    def send(self, frame: bytes) -> None:
        """Hands one frame to the parent; blocks while the parent does not read."""
        left = memoryview(FRAME_LENGTH.pack(len(frame)) + frame)
        while left:
            try:
                left = left[self._connection.send(left) :]
            except BlockingIOError:             # an event loop that was given the descriptor has made it such a one
                select.select((), (self._connection,), ())

    def fileno(self) -> int:
        """Of the connection, for an event loop to say when there is something to `poll`."""
        return self._connection.fileno()

    def poll(self) -> bytes | None:
        """A frame that is there already, else None."""
        frame = self._frames.take()
        if frame is None:
            try:
                data = self._connection.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            self.is_closed = not data
            self._frames.feed(data)
            frame = self._frames.take()
        return frame

    def receive(self) -> bytes | None:
        """Waits for a frame; None once the parent has closed its side."""
        while (frame := self._frames.take()) is None:
            data = self._connection.recv(RECEIVE_BYTES)
            if not data:
                return None
            self._frames.feed(data)
        return frame

    @staticmethod
    def now() -> Nanos:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    @staticmethod
    def wall_ms() -> int:
        return time.time_ns() // 1_000_000


def _no_jobs(done: Callable[[], None]) -> None:
    raise AssertionError("a child makes its calls itself")


def die_with_parent(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, even inside a C function that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:              # it died before the kernel was told
        os._exit(1)


def run(entry: str, argument: bytes, channel: Channel) -> int:
    """Calls `module:function` with the channel and the argument; returns the process's exit code."""
    faulthandler.enable()                   # a crash in C code leaves a traceback in the captured stderr
    try:
        module, _, function = entry.partition(":")
        getattr(importlib.import_module(module), function)(channel, argument)
        code = 0
    except SystemExit as stop:
        code = _exit_code(stop)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)       # noqa: T201 - what Python itself does with such a code
    return 1
