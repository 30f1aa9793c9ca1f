"""Child processes of the real world, forked by a fork server.

Nothing here blocks the loop: the fork server starts on its own time, `spawn` returns at once, and frames to a
child wait until it reads them. A child's output (stdout and stderr, one pipe) is read as fast as it comes and
forgotten but for its end, so a child that prints for ever neither blocks nor fills anything.

An exit is what the fork server says of it. By then everything that the child sent lies in the socket, and is
delivered first. A pipe or socket that closes says nothing: a grandchild may hold it open.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from actors.runtime.child import FRAME_LENGTH, LOCK_PREFIX, Frames, SharedLock, SharedPage
from actors.runtime.forkserver import (
    MESSAGE_BYTES_MAX,
    Exited,
    Fork,
    Forked,
    report_decoder,
)
from actors.runtime.output import ChildOutput, OutputGate
from actors.runtime.ports import Exit, Page

OUTBOX_BYTES_MAX = 64 * 1024 * 1024     # to one child; one that reads so slowly is killed
READ_BYTES = 256 * 1024                 # of one child's frames in one turn
OUTPUT_READ_BYTES = 64 * 1024           # of one child's output in one turn
OUTPUT_DRAIN_BYTES_MAX = 1024 * 1024    # after its exit; a grandchild may go on printing
STDERR_TAIL_BYTES = 4 * 1024
ARGUMENT_BYTES_MAX = MESSAGE_BYTES_MAX - 1024
STATM_BYTES_MAX = 256                   # seven numbers
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

_SERVER_CODE = (
    "import sys; sys.path[:] = {path!r}; from actors.runtime.forkserver import main; "
    "main({fd}, {parent}, {preload!r})"
)


class RealProcesses:
    """The Processes port of one event loop. `preload` names modules that every child will have imported;
    `echo`, if given, gets all that children print, as it comes; `gate` gets the lines of those that have a label.
    Without `lingers` the fork server ends with the last child, and another one is started for the next: for whoever has
    children now and then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        preload: Sequence[str] = (),
        path: Sequence[str] = (),
        echo: Callable[[bytes], None] | None = None,
        gate: OutputGate | None = None,
        lingers: bool = True,
    ) -> None:
        self._loop = loop
        self._echo = echo
        self._gate = gate
        self._lingers = lingers
        self._preload = list(preload)
        self._path = [*path, *(entry for entry in sys.path if entry not in path)]
        self._server: _Server | None = None

    def spawn(
        self,
        entry: str,
        argument: bytes,
        *,
        page_bytes: int,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        label: str = "",
    ) -> "RealChild":
        """Starts `module:function(channel, argument)` in a new process. Its pid is 0 until it is forked."""
        assert len(argument) <= ARGUMENT_BYTES_MAX, "an argument must fit into one message to the fork server"
        if self._server is None or self._server.ended:
            self._server = _Server(self._loop, self._path, self._preload, self._echo, self._lingers)
        said = ChildOutput(label, self._gate) if label and self._gate is not None else None
        return self._server.fork(entry, argument, page_bytes, on_frame, on_exit, said)

    def close(self) -> None:
        """Ends the fork server and with it every child, at once; no exits are reported any more."""
        if self._server is not None:
            self._server.close()


class _Server:
    """The parent's end of one fork server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: list[str],
        preload: list[str],
        echo: Callable[[bytes], None] | None,
        lingers: bool,
    ) -> None:
        self._loop = loop
        self._echo = echo
        self._lingers = lingers
        self.ended = False
        self._last_id = 0
        self._children: dict[int, RealChild] = {}
        self._requests: deque[tuple[bytes, list[int]]] = deque()
        SharedLock.sweep()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control.setblocking(False)
            code = _SERVER_CODE.format(path=path, fd=theirs.fileno(), parent=os.getpid(), preload=preload)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        loop.add_reader(self._control, self._on_readable)

    def fork(
        self,
        entry: str,
        argument: bytes,
        page_bytes: int,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        said: ChildOutput | None,
    ) -> "RealChild":
        self._last_id += 1
        lock_name = f"/{LOCK_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
        lock = SharedLock.create(lock_name)
        page_fd = os.memfd_create("quorumq-page")
        os.ftruncate(page_fd, page_bytes)
        connection, their_connection = socket.socketpair()
        output, their_output = os.pipe()
        page = SharedPage(page_fd, page_bytes, lock)
        child = RealChild(self._loop, page, lock_name, connection, output, on_frame, on_exit, self._echo, said)
        self._children[self._last_id] = child
        request = Fork(self._last_id, entry, argument, page_bytes, lock_name)
        fds = [their_connection.detach(), their_output, page_fd]
        self._requests.append((msgspec.msgpack.encode(request), fds))
        self._pump()
        return child

    def close(self) -> None:
        if self.ended:
            return
        self._end()
        for child in self._children.values():
            child.abandon()
        self._children.clear()

    def _pump(self) -> None:
        """Sends requests while the socket takes them."""
        while self._requests:
            data, fds = self._requests[0]
            try:
                socket.send_fds(self._control, [data], fds)
            except BlockingIOError:
                self._loop.add_writer(self._control, self._pump)
                return
            except OSError:                     # it died; its end is about to be read
                return
            self._requests.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._control)

    def _on_readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._died()
            return
        report = report_decoder.decode(data)
        if isinstance(report, Forked):
            self._children[report.id].forked(report.pid, fds[0])
        else:
            assert isinstance(report, Exited)
            code = os.waitstatus_to_exitcode(report.status)
            child = self._children.pop(report.id)
            if not self._children and not self._lingers:
                self.close()
            child.exited(code)

    def _died(self) -> None:
        """The server is gone, and the kernel kills its children. Reports each when it is dead."""
        self._end()
        children, self._children = self._children, {}
        for child in children.values():
            child.orphaned()

    def _end(self) -> None:
        self.ended = True
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for _, fds in self._requests:
            for fd in fds:
                os.close(fd)
        self._requests.clear()
        self._process.kill()
        self._process.wait()


class RealChild:
    """One child process, as its parent holds it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        page: SharedPage,
        lock_name: str,
        connection: socket.socket,
        output: int,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        echo: Callable[[bytes], None] | None,
        said: ChildOutput | None,
    ) -> None:
        self.pid = 0
        self._echo = echo
        self._said = said
        self.page: Page = page
        self._loop = loop
        self._lock_name = lock_name         # "" once it is removed
        self._connection = connection
        self._output = output
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._frames = Frames()
        self._outbox: deque[memoryview] = deque()
        self._outbox_bytes = 0
        self._closing = False
        self._gone = False
        self._pidfd = -1                    # until it is forked
        self._signals: list[int] = []       # asked for before that
        self._statm_fd = -1                 # until its memory is asked for
        self._tail = b""
        connection.setblocking(False)
        os.set_blocking(output, False)
        loop.add_reader(connection, self._read_frames)
        loop.add_reader(output, self._read_output)

    def send(self, frame: bytes) -> None:
        """Queues one frame; order is kept. A child that is gone swallows it."""
        if self._gone or self._closing:
            return
        data = memoryview(FRAME_LENGTH.pack(len(frame)) + frame)
        if not self._outbox:
            try:
                data = data[self._connection.send(data) :]
            except BlockingIOError:
                pass
            except OSError:                 # it is ending; its exit follows
                return
            if not data:
                return
            self._loop.add_writer(self._connection, self._write_frames)
        if self._outbox_bytes + len(data) > OUTBOX_BYTES_MAX:
            self.signal(signal.SIGKILL)
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)

    def signal(self, number: int) -> None:
        """Sends a signal; no-op once the child has exited."""
        if self._gone:
            return
        if self._pidfd < 0:
            self._signals.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Closes the child's inbound pipe, behind what is queued: a well-behaved child ends."""
        self._closing = True
        if not self._outbox and not self._gone:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

    def rss_bytes(self) -> int:
        """Its resident memory as the kernel has it; 0 before it is forked, once it has ended, and without /proc."""
        if self._gone or self.pid == 0:
            return 0
        try:
            if self._statm_fd < 0:
                # Kept: a look takes a sixth of the time then, and never finds another process of the same number.
                self._statm_fd = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY)
            return int(os.pread(self._statm_fd, STATM_BYTES_MAX, 0).split()[1]) * PAGE_SIZE
        except OSError:
            return 0

    # -- what the fork server says --------------------------------------------------------------------------

    def forked(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._remove_lock_name()
        for number in self._signals:
            self.signal(number)

    def exited(self, code: int) -> None:
        """`code` as Python has it: below 0 is a signal."""
        self._drain()
        if self._said is not None:
            self._said.end()
        on_exit = self._on_exit
        self._release()
        on_exit(Exit(code if code >= 0 else None, -code if code < 0 else None, self._tail))

    def orphaned(self) -> None:
        """The fork server died; the kernel's signal ends this child, wait for that."""
        if self._pidfd < 0:
            self._loop.call_soon(self.exited, -signal.SIGKILL)
            return
        self.signal(signal.SIGKILL)
        self._loop.add_reader(self._pidfd, self.exited, -signal.SIGKILL)

    def abandon(self) -> None:
        self.signal(signal.SIGKILL)
        self._release()

    # -- frames and output ----------------------------------------------------------------------------------

    def _read_frames(self) -> bool:
        """Reads once and delivers whole frames; False if there was nothing to read."""
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._connection)
            return False
        try:
            self._frames.feed(data)
        except ValueError:                  # something else in that process writes to its descriptor
            self._loop.remove_reader(self._connection)
            self.signal(signal.SIGKILL)
            return False
        while (frame := self._frames.take()) is not None:
            self._on_frame(frame)
        return True

    def _write_frames(self) -> None:
        outbox = self._outbox
        while outbox:
            try:
                sent = self._connection.send(outbox[0])
            except BlockingIOError:
                return
            except OSError:
                outbox.clear()
                break
            self._outbox_bytes -= sent
            if sent < len(outbox[0]):
                outbox[0] = outbox[0][sent:]
                return
            outbox.popleft()
        self._loop.remove_writer(self._connection)
        if self._closing:
            self.close()

    def _read_output(self) -> int:
        """Reads once and keeps the tail; returns the bytes read."""
        try:
            data = os.read(self._output, OUTPUT_READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._loop.remove_reader(self._output)
        elif self._echo is not None:
            self._echo(data)
        if data and self._said is not None:
            self._said.feed(data)
        self._tail = (self._tail + data)[-STDERR_TAIL_BYTES:]
        return len(data)

    def _drain(self) -> None:
        """Delivers what the child sent before it ended. Its sends are complete, so this ends."""
        while self._read_frames():
            pass
        left = OUTPUT_DRAIN_BYTES_MAX
        while left > 0 and (count := self._read_output()):
            left -= count

    def _release(self) -> None:
        self._gone = True
        self._remove_lock_name()
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._loop.remove_reader(self._output)
        self._connection.close()
        os.close(self._output)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._statm_fd >= 0:
            os.close(self._statm_fd)
        self._outbox.clear()
        # Whoever is called mostly holds this child as well. Without the cycle, page and lock go with the last who holds
        # them, and not when a garbage collector comes that has seen little reason to.
        self._on_frame = self._on_exit = _ignore

    def _remove_lock_name(self) -> None:
        """Both sides have the lock open by now, or never will: nothing is left in /dev/shm."""
        if self._lock_name:
            SharedLock.remove_name(self._lock_name)
            self._lock_name = ""


def _ignore(_: object) -> None:
    pass
