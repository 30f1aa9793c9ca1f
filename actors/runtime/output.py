"""What children print, on this process's stderr: whole lines, each with the name of its child, and not too much of it.

A child may print without end. Its parent reads all of it, or the child would stand still, but says only so much of it a
second, and no more than stderr takes at once: whoever reads there may be slow, or a terminal that was stopped, and the
parent has other things to do than to wait for him. What is left out is counted, and the count is said.
"""

import os
import select
import sys
from collections.abc import Callable

from actors.runtime.ports import SECOND, Clock, Nanos

OUTPUT_BYTES_PER_SECOND = 64 * 1024     # of all children of this process together
OUTPUT_BURST_BYTES = 256 * 1024
LINE_BYTES_MAX = 4 * 1024 - 256         # a longer one is cut into several; with its name it fits a pipe's smallest room
WRITE_BYTES_MAX = 4 * 1024              # a pipe that is ready takes so much without blocking (PIPE_BUF)

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

    def say(self, name: str, line: bytes) -> None:
        """One line, or a piece of one."""
        is_said = (
            self._admit(len(line))
            and (not self._left_out or self._say_what_was_left_out(name))
            and self._put(name, line.decode("utf-8", "replace"))
        )
        if not is_said:
            self._left_out += len(line) + 1

    def leave_out(self, count: int) -> None:
        """So many bytes will not be said."""
        self._left_out += count

    @property
    def is_closed(self) -> bool:
        """Whether nothing would be said now."""
        return not self._admit(0)

    def _admit(self, count: int) -> bool:
        now = self._clock.now()
        earned = (now - self._counted_at) * OUTPUT_BYTES_PER_SECOND // SECOND
        if earned:
            self._counted_at = now
            self._allowed = min(OUTPUT_BURST_BYTES, self._allowed + earned)
        if self._allowed <= 0:
            return False
        self._allowed -= count
        return True

    def _say_what_was_left_out(self, name: str) -> bool:
        if not self._put(name, f"... ({self._left_out} bytes that were printed are left out)"):
            return False
        self._left_out = 0
        return True

    def _put(self, name: str, text: str) -> bool:
        return self._write(self._format(name, text).encode("utf-8", "backslashreplace")[:WRITE_BYTES_MAX])


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
        for line in lines:
            self._say(line)
        while len(rest) > LINE_BYTES_MAX:
            self._say(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = rest

    def end(self) -> None:
        """The child is gone: what it began to say is all there is."""
        if self._rest:
            self._say(self._rest)
            self._rest = b""

    def _say(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES_MAX):
            self._gate.say(self._name, line[start : start + LINE_BYTES_MAX])


def plain(name: str, line: str) -> str:
    """As people read it."""
    return f"{name} | {line}\n"


def write_to_stderr(data: bytes) -> bool:
    """Writes if that does not block; False if it would, or cannot be."""
    try:
        sys.stderr.flush()
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if not any(events & select.POLLOUT for _, events in poll.poll(0)):
            return False
        os.write(2, data)
    except (OSError, ValueError):           # nobody reads there any more
        return False
    return True
