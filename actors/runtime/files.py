"""The file system of the real world, and two threads for blocking work on it: one for what somebody waits for, one for
large files in the background."""

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from actors.errors import Locked
from actors.runtime.ports import SECOND, Buffer, Nanos

T = TypeVar("T")

FILE_MODE = 0o600  # a log holds what users submitted
DIRECTORY_MODE = 0o700
LOCK_BYTES = 32     # of a lock file: the holder's pid, and spaces
SIZE_UNKNOWN_BYTES = 1 << 60    # a file system that says nothing of its size: writing to it will tell
GATHER_BUFFERS_MAX = (
    16  # more small buffers are cheaper to join than to describe to the kernel (IOV_MAX is 1,024)
)

Post = Callable[[Callable[[], None]], object]


class OsFile:
    """One open file of the kernel's."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]  # one call may stop early: at 2 GiB, at a signal, at the end of the file
        missing = size - len(data)
        while missing and (data := os.pread(self._descriptor, missing, offset + size - missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        if len(buffers) > GATHER_BUFFERS_MAX:
            buffers = (b"".join(buffers),)
        size = sum(map(len, buffers))
        written = os.pwritev(self._descriptor, buffers, offset)
        if written == size:
            return
        # A disk that fills up takes a part; the next call then says why.
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            offset += written
            written = os.pwrite(self._descriptor, rest, offset)
            rest = rest[written:]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class OsFileLock:
    """A lock file with the holder's pid in it. The kernel drops the lock with the descriptor."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        # The file stays: removing it would let a third process lock a new file of the same name beside a
        # second.
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Lane:
    """A thread that runs jobs one by one. It begins with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Runs what was put, then ends the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class _Handover(Generic[T]):
    """A job that somebody waits for. Both sides meet under the lock: either its end is awaited, or `done` is posted."""

    def __init__(self, files: "OsFiles", job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        self._files = files
        self._job = job
        self._done = done
        self._lock = threading.Lock()
        self._ended = threading.Lock()
        self._ended.acquire()
        self._outcome: list[T | BaseException] = []
        self._is_left = False

    def run(self) -> None:
        """In the thread."""
        outcome = _outcome_of(self._job)
        with self._lock:
            self._outcome.append(outcome)
            is_left = self._is_left
        if is_left:
            self._files.tell(self._done, outcome)
        else:
            self._ended.release()

    def wait(self, patience: Nanos) -> T | None:
        """On the loop."""
        self._ended.acquire(timeout=patience / SECOND)
        with self._lock:
            self._is_left = not self._outcome
        if self._is_left:
            return None
        (outcome,) = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _outcome_of(job: Callable[[], T]) -> T | BaseException:
    try:
        return job()
    except BaseException as error:  # whatever it is, it belongs to the one who submitted the job
        return error


class OsFiles:
    """The `Files` port of a real process. `post` hands a callback to the loop from a thread
    (`loop.call_soon_threadsafe`)."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._lanes = (Lane("files"), Lane("files-background"))

    def open(self, path: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return OsFile(path, os.open(path, flags, FILE_MODE))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def make_dirs(self, path: str) -> None:
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)

    def free_bytes(self, directory: str) -> int:
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize if status.f_blocks else SIZE_UNKNOWN_BYTES

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.remove(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: str) -> OsFileLock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Always the same bytes of the file: on a full disk there is room for them once there was.
            os.pwrite(descriptor, str(os.getpid()).encode().ljust(LOCK_BYTES), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, LOCK_BYTES, 0).strip()
            os.close(descriptor)
            # Empty for an instant while the first holder writes it.
            raise Locked(path, int(holder) if holder.isdigit() else None) from None
        except BaseException:
            os.close(descriptor)
            raise
        return OsFileLock(descriptor)

    def submit(
        self, job: Callable[[], T], done: Callable[[T | BaseException], None], *, background: bool = False
    ) -> None:
        self._lanes[background].put(lambda: self.tell(done, _outcome_of(job)))

    def run_for(self, patience: Nanos, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> T | None:
        handover = _Handover(self, job, done)
        self._lanes[False].put(handover.run)
        return handover.wait(patience)

    def close(self) -> None:
        """Runs what was submitted, then ends the threads."""
        for lane in self._lanes:
            lane.close()

    def tell(self, done: Callable[[T | BaseException], None], outcome: T | BaseException) -> None:
        """From a thread: `done` gets the outcome on the loop."""
        try:
            self._post(lambda: done(outcome))
        except RuntimeError:
            # The loop was closed while the job ran: nobody is left to tell.
            return
