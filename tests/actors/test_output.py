"""What children print, on the stderr of their parent: whole lines, bounded, and nobody waits."""

import fcntl
import json
import os
from collections.abc import Callable

from actors import SECOND, Nanos
from actors.runtime.output import (
    ECHO_BYTES_MAX,
    LINE_BYTES_MAX,
    LINE_COST_BYTES,
    OUTPUT_BURST_BYTES,
    WRITE_BYTES_MAX,
    ChildOutput,
    Echo,
    OutputGate,
    plain,
    write_without_waiting,
)


class Rig:
    """A gate whose time stands still, and whose reader may be slow."""

    def __init__(self) -> None:
        self.time: Nanos = SECOND
        self.is_full = False
        self.written: list[bytes] = []
        self.calls: list[Callable[[], None]] = []
        self.gate = OutputGate(self, plain, self.write)  # type: ignore[arg-type]
        self.child = ChildOutput("w1/0", self.gate)

    def now(self) -> Nanos:
        return self.time

    def write(self, data: bytes) -> bool:
        if not self.is_full:
            self.written.append(data)
        return not self.is_full

    @property
    def lines(self) -> list[str]:
        return b"".join(self.written).decode().splitlines()


def test_lines_are_said_whole_and_with_the_name_of_their_child():
    rig = Rig()
    other = ChildOutput("w1/1", rig.gate)
    rig.child.feed(b"one\ntw")
    other.feed(b"else\n")
    rig.child.feed(b"o\n\nthr")
    assert rig.lines == ["w1/0 | one", "w1/1 | else", "w1/0 | two", "w1/0 | "]
    rig.child.end()
    assert rig.lines[-1] == "w1/0 | thr"


def test_a_line_without_end_is_said_in_pieces_that_a_pipe_takes():
    rig = Rig()
    rig.child.feed(b"x" * (3 * LINE_BYTES_MAX) + b"\n")
    assert "".join(line.removeprefix("w1/0 | ") for line in rig.lines) == "x" * (3 * LINE_BYTES_MAX)
    rig.child.feed(b"\xff" * LINE_BYTES_MAX + b"\n")
    assert max(map(len, rig.written)) <= WRITE_BYTES_MAX


def test_what_is_too_much_is_counted_and_the_count_is_said():
    rig = Rig()
    chunk = b"a line of forty bytes, and no more of it\n" * 100
    for _ in range(1_000):
        rig.child.feed(chunk)
    charged = sum(map(len, rig.written)) + LINE_COST_BYTES * len(rig.lines)
    assert OUTPUT_BURST_BYTES <= charged < OUTPUT_BURST_BYTES + WRITE_BYTES_MAX
    rig.time += SECOND
    rig.child.feed(b"again\n")
    *_, count, last = rig.lines
    assert last == "w1/0 | again"
    assert count.startswith("w1/0 | ... (") and count.endswith(" bytes that were printed are left out)")
    left_out = int(count.split("(")[1].split()[0])
    assert 3_000_000 < left_out < 1_000 * len(chunk)


def test_nobody_waits_for_a_reader_that_stands_still():
    rig = Rig()
    rig.is_full = True
    rig.child.feed(b"lost\n" * 3)
    rig.is_full = False
    rig.child.feed(b"seen\n")
    assert rig.lines == ["w1/0 | ... (15 bytes that were printed are left out)", "w1/0 | seen"]


def test_empty_lines_are_charged_and_written_many_at_once():
    rig = Rig()
    rig.child.feed(b"\n" * 65_536)
    assert len(rig.lines) <= OUTPUT_BURST_BYTES // LINE_COST_BYTES
    assert len(rig.written) <= 2 * len(b"".join(rig.written)) // WRITE_BYTES_MAX
    rig.time += SECOND
    said = len(rig.lines)
    rig.child.feed(b"last\n")
    assert rig.lines[-2:] == [f"w1/0 | ... ({65_536 - said} bytes that were printed are left out)", "w1/0 | last"]


def test_a_line_that_grows_when_it_is_formatted_is_cut_before_and_stays_whole():
    rig = Rig()
    rig.child.feed(b"\xff" * 3_000 + b"\nnext\n")
    assert all(data.endswith(b"\n") for data in rig.written)
    assert "".join(line.removeprefix("w1/0 | ") for line in rig.lines) == "\ufffd" * 3_000 + "next"
    gate = OutputGate(rig, lambda name, line: json.dumps([name, line]) + "\n", rig.write)  # type: ignore[arg-type]
    rig.written.clear()
    printed = '"' * LINE_BYTES_MAX
    ChildOutput("w1/1", gate).feed(printed.encode() + b"\n")
    assert "".join(json.loads(line)[1] for line in rig.lines) == printed
    assert max(map(len, rig.written)) <= WRITE_BYTES_MAX


def test_half_of_a_pipe_is_left_to_others_who_write_there():
    reader, writer = os.pipe()
    try:
        room = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        written = 0
        while write_without_waiting(writer, b"x" * 1_000):
            written += 1_000
        assert room // 2 - 1_000 < written <= room // 2
        os.set_blocking(writer, False)
        assert os.write(writer, b"y" * (room // 2 - 4_096)) == room // 2 - 4_096
        os.read(reader, room)
        assert write_without_waiting(writer, b"again")
    finally:
        os.close(reader)
        os.close(writer)


def test_an_echo_keeps_what_is_not_taken_for_a_while_and_counts_the_rest():
    rig = Rig()
    echo = Echo(lambda seconds, call: rig.calls.append(call), rig.write)
    echo(b"one\n")
    rig.is_full = True
    echo(b"a" * (ECHO_BYTES_MAX - 5) + b"\n")
    echo(b"too much\n")
    assert (rig.written, len(rig.calls)) == ([b"one\n"], 1)
    rig.is_full = False
    rig.calls.pop()()
    echo(b"last\n")
    assert max(map(len, rig.written)) <= WRITE_BYTES_MAX
    assert rig.lines[2:] == ["", "... (9 bytes that were printed are left out)", "last"]
    assert len(rig.lines[1]) == ECHO_BYTES_MAX - 5
