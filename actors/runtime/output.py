"""What children print, on this process's stderr: whole lines, each with the name of its child, and not too much of it.

A child may print without end. Its parent reads all of it, or the child would stand still, but says only so much of it a
second, and no more than stderr takes at once: whoever reads there may be slow, or a terminal that was stopped, and the
parent has other things to do than to wait for him. What is left out is counted, and the count is said.

A line costs more than its bytes: it is named, formatted and written. So each is charged for that too, or empty lines
would hold up the parent for as long as it takes to write them. And half of a pipe is left free, for the parent's own
log, which is written there as well, and waits.
"""

import fcntl
import os
import select
import stat
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable

from actors.runtime.ports import SECOND, Clock, Nanos

OUTPUT_BYTES_PER_SECOND = 64 * 1024     # of all children of this process together
OUTPUT_BURST_BYTES = 256 * 1024
LINE_COST_BYTES = 64                    # what a line is charged beside its bytes
LINE_BYTES_MAX = 4 * 1024 - 256         # a longer one is cut into several; with its name it fits a pipe's smallest room
WRITE_BYTES_MAX = 4 * 1024              # a pipe that is ready takes so much without blocking (PIPE_BUF)
ECHO_BYTES_MAX = 1024 * 1024            # that wait for stderr
ECHO_PAUSE_S = 0.05                     # before it is tried again

Format = Callable[[str, str], str]      # the child's name, one line -> what is written, with its newline


class OutputGate:
    """Says what children print. `write` takes up to WRITE_BYTES_MAX, or says that it does not; it never blocks."""

    def __init__(self, clock: Clock, format: Format, write: Callable[[bytes], bool]) -> None:
        self._clock = clock
        self._format = format
        self._write = write
        self._allowed = OUTPUT_BURST_BYTES
        self._counted_at: Nanos = clock.now()
        self._left_out = 0                  # bytes, since it was last said

    def say(self, name: str, lines: Iterable[bytes]) -> None:
        """Lines, or pieces of one, as many of them as may be said."""
        waiting = deque(lines)
        while waiting and not self.is_closed:
            data, count = self._fill(name, waiting)
            if not self._write(data):
                self._left_out += count
                break
            self._left_out = 0
        self._left_out += sum(map(len, waiting)) + len(waiting)

    def leave_out(self, count: int) -> None:
        """So many bytes will not be said."""
        self._left_out += count

    @property
    def is_closed(self) -> bool:
        """Whether nothing would be said now."""
        now = self._clock.now()
        earned = (now - self._counted_at) * OUTPUT_BYTES_PER_SECOND // SECOND
        if earned:
            self._counted_at = now
            self._allowed = min(OUTPUT_BURST_BYTES, self._allowed + earned)
        return self._allowed <= 0

    def _fill(self, name: str, waiting: deque[bytes]) -> tuple[bytes, int]:
        """What to write at once, taken from `waiting` and charged; and how many bytes that were printed are in it."""
        data, count = b"", 0
        if self._left_out:
            data, _ = self._fitting(name, b"... (%d bytes that were printed are left out)" % self._left_out)
            self._charge(data)
        while waiting and self._allowed > 0:
            formatted, taken = self._fitting(name, waiting[0])
            if data and len(data) + len(formatted) > WRITE_BYTES_MAX:
                break
            line = waiting.popleft()
            if taken < len(line):
                waiting.appendleft(line[taken:])
            self._charge(formatted)
            data += formatted
            count += taken + 1
        return data, count

    def _fitting(self, name: str, line: bytes) -> tuple[bytes, int]:
        """The line as it is written, or so much of its beginning that it can be; and how much that is."""
        taken = len(line)
        while True:
            text = line[:taken].decode("utf-8", "replace")
            formatted = self._format(name, text).encode("utf-8", "backslashreplace")
            if len(formatted) <= WRITE_BYTES_MAX or taken <= 1:
                return formatted, taken
            # Not what is formatted is cut, which has an end of its own.
            taken = max(1, taken * WRITE_BYTES_MAX // len(formatted))

    def _charge(self, formatted: bytes) -> None:
        self._allowed -= len(formatted) + LINE_COST_BYTES


class ChildOutput:
    """Cuts one child's output into lines."""

    def __init__(self, name: str, gate: OutputGate) -> None:
        self._name = name
        self._gate = gate
        self._rest = b""                    # of a line without its end

    def feed(self, data: bytes) -> None:
        if self._gate.is_closed:
            self._gate.leave_out(len(self._rest) + len(data))
            self._rest = b""
            return
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = rest
        if lines:
            self._gate.say(self._name, lines)

    def end(self) -> None:
        """The child is gone: what it began to say is all there is."""
        if self._rest:
            self._gate.say(self._name, [self._rest])
            self._rest = b""


class Echo:
    """Passes on what children print, as it comes. What stderr does not take waits, up to ECHO_BYTES_MAX; the rest is
    left out, and counted. `call_later` is that of the loop, `write` as of `OutputGate`."""

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], object], write: Callable[[bytes], bool]
    ) -> None:
        self._call_later = call_later
        self._write = write
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._left_out = 0
        self._is_called = False

    def __call__(self, data: bytes) -> None:
        if self._left_out or self._waiting_bytes + len(data) > ECHO_BYTES_MAX:
            self._left_out += len(data)
        else:
            self._keep(data)
        self.flush()
        if self._waiting and not self._is_called:
            self._is_called = True
            self._call_later(ECHO_PAUSE_S, self._call_again)

    def flush(self) -> None:
        """Writes what stderr takes now."""
        while self._waiting and self._write(self._waiting[0]):
            self._waiting_bytes -= len(self._waiting.popleft())
        if self._left_out and not self._waiting:
            self._keep(b"\n... (%d bytes that were printed are left out)\n" % self._left_out)
            self._left_out = 0

    def _keep(self, data: bytes) -> None:
        self._waiting.extend(data[start : start + WRITE_BYTES_MAX] for start in range(0, len(data), WRITE_BYTES_MAX))
        self._waiting_bytes += len(data)

    def _call_again(self) -> None:
        self._is_called = False
        self(b"")


def plain(name: str, line: str) -> str:
    """As people read it."""
    return f"{name} | {line}\n"


def write_to_stderr(data: bytes) -> bool:
    """Writes if that does not block; False if it would, or cannot be."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):           # nobody reads there any more
        return False
    return write_without_waiting(2, data)


def write_without_waiting(fd: int, data: bytes) -> bool:
    """Writes at most WRITE_BYTES_MAX if that does not block and leaves half of a pipe free; False if not."""
    assert len(data) <= WRITE_BYTES_MAX
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            (filled,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
            if filled + len(data) > fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // 2:
                return False
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if not any(events & select.POLLOUT for _, events in poll.poll(0)):
            return False
        os.write(fd, data)
    except (OSError, ValueError):
        return False
    return True
