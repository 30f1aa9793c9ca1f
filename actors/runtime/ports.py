"""The ports through which actors reach the world: clock, chance, files, network and child processes.

Two worlds stand behind them. The real one (`actors.runtime`, `actors.transport.zmtp_link`) is a uvloop, the
kernel's files, ZeroMQ sockets and processes; the simulated one (`actors.simulation`) is virtual time and a
seeded plan of faults. Actors receive a `Ports` value and nothing else, so the same code runs in both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, TypeVar

Nanos = int
Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class Cancel(Protocol):
    """A scheduled callback; `cancel` is idempotent and a no-op once it ran."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time and the turn of the loop."""

    def now(self) -> Nanos:
        """Nanoseconds that never go back and count suspended time (CLOCK_BOOTTIME)."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as the machine's wall clock tells; it may jump."""

    def call_soon(self, callback: Callable[[], None]) -> Cancel:
        """Runs `callback` after what is already queued in this turn of the loop."""

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> Cancel:
        """Runs `callback` once, not before `now() >= when`."""


class Entropy(Protocol):
    """Chance. Seeded in the simulated world."""

    def below(self, bound: int) -> int:
        """A uniform integer in `0 <= n < bound`; `bound` is at least 1."""

    def bits(self, count: int) -> int:
        """A uniform integer of `count` bits."""


class File(Protocol):
    """One open file. A failed call raises OSError and is never retried by this layer."""

    def size(self) -> int: ...

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all buffers one after another, whole, starting at `offset`."""

    def sync(self) -> None:
        """Returns when everything written to this file is durable (fdatasync)."""

    def close(self) -> None: ...


class FileLock(Protocol):
    """An exclusive lock that the kernel drops when the process dies."""

    def release(self) -> None: ...


class Files(Protocol):
    """A file system. Paths are strings; directories are made durable by `sync_dir` only."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Opens for reading and writing; with `create` makes an empty file if there is none.

        Raises FileNotFoundError (without `create`) and OSError.
        """

    def exists(self, path: str) -> bool: ...

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted; an empty list if there is no such directory."""

    def make_dirs(self, path: str) -> None: ...

    def free_bytes(self, directory: str) -> int:
        """What its file system says that files may still grow by; a quota may allow less. Raises OSError."""

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces `target`."""

    def remove(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None: ...

    def lock(self, path: str) -> FileLock:
        """Takes the lock or raises `actors.errors.Locked` with the holder's pid."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | BaseException], None], *, background: bool = False
    ) -> None:
        """Runs a blocking `job` off the loop, then `done` with its value or its error on the loop.

        There are two lanes. Jobs of the same lane run one at a time, in the order they were submitted; those in the
        `background` run beside the others: a large file may take its time to leave, and no write waits behind it.
        Between the lanes there is no order: wait for the end of one job before you submit what must follow it.
        """

    def run_for(self, patience: Nanos, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> T | None:
        """Runs a blocking `job`, in the lane that is not in the background, and holds up the loop for it, but for no
        longer than `patience`. Returns its value, which may not be None, or raises its error; None: it goes on off
        the loop, and `done` gets what becomes of it, as with `submit`."""


class Sent(Enum):
    """What became of a message that was handed to a link. Only `TAKEN` is true; of the others nothing was sent."""

    TAKEN = auto()
    FULL = auto()    # the other end is connected, and does not read as fast as we write
    GONE = auto()    # nobody is connected

    def __bool__(self) -> bool:
        return self is Sent.TAKEN


class Listener(Protocol):
    """A bound socket that many dialers reach; a peer is known by its 16-byte identity."""

    address: str

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hands over one message. `GONE` is what this side knows: a connection may be lost without a word.

        A dialler whose connection was lost hears of it (`on_down`): what was to come over it never will.
        """

    def close(self) -> None:
        """Unbinds. What was handed over before still leaves, if the other side takes it soon."""


class Dialer(Protocol):
    """One connection that is kept up by redialling; it carries messages both ways."""

    address: str

    def send(self, data: bytes) -> Sent:
        """Hands over one message; `GONE` while the link is down."""

    def close(self) -> None:
        """Ends the link; no callback comes any more. What was handed over before still leaves, as of a listener."""


class Network(Protocol):
    """Sockets. Callbacks run on the loop; data is a whole message and belongs to the receiver.

    Whoever made the ports closes the network, once everything that uses it has ended: `actors.run` does so for
    its `main`, and whoever called `actors.real_ports` must do it too, or sockets and a thread stay behind.
    """

    def listen(
        self,
        address: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_garbage: Callable[[str], None],
    ) -> Listener:
        """Binds `host:port` and calls `on_message(peer_identity, data)`.

        `on_garbage(remote)` reports bytes that are not our protocol. Raises `actors.errors.AddressInUse`.
        """

    def dial(
        self,
        address: str,
        identity: bytes,
        *,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> Dialer:
        """Connects to `host:port`, again and again until closed.

        `on_up` runs each time a connection stands, `on_down` when it is closed by the other side or lost.
        """

    def close(self) -> None:
        """Closes every link that is still open, for good; a second call does nothing.

        Call it on the loop. It waits for what was handed over before to leave, a tenth of a second at most.
        """


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child process ended: exactly one of `code` and `signal` is set. `stderr` is the tail, at most 4 KiB."""

    code: int | None
    signal: int | None
    stderr: bytes = b""


class Page(Protocol):
    """A page of memory shared with one child, and the process-shared lock that guards it."""

    view: memoryview

    def acquire(self, timeout: Nanos) -> bool:
        """Takes the lock; False after `timeout` (its holder may be dead)."""

    def release(self) -> None: ...


class Child(Protocol):
    """A running child process."""

    pid: int
    page: Page

    def send(self, frame: bytes) -> None:
        """Queues one frame; order is kept. A child that is gone swallows it."""

    def signal(self, number: int) -> None:
        """Sends a signal; no-op once the child has exited."""

    def close(self) -> None:
        """Closes the child's inbound pipe: a well-behaved child ends."""

    def rss_bytes(self) -> int:
        """Its resident memory now, without that of processes that it started; 0 if that cannot be told."""


class Processes(Protocol):
    """Child processes that never are a fork of this one."""

    def spawn(
        self,
        entry: str,
        argument: bytes,
        *,
        page_bytes: int,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        label: str = "",
    ) -> Child:
        """Starts `module:function` with `argument` in a new process. With a label what it prints is printed here, too.

        `on_frame` gets each frame that it sends, in order, all of them before `on_exit`, which comes once.
        """


class Log(Protocol):
    """Structured events with stable names, for operators."""

    def event(self, name: str, /, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything of the world that an actor may touch."""

    clock: Clock
    entropy: Entropy
    files: Files
    network: Network
    processes: Processes
    log: Log
