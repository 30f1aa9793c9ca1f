"""What children print, on the stderr of their parent: whole lines, bounded, and nobody waits."""

from actors import SECOND, Nanos
from actors.runtime.output import LINE_BYTES_MAX, OUTPUT_BURST_BYTES, WRITE_BYTES_MAX, ChildOutput, OutputGate, plain


class Rig:
    """A gate whose time stands still, and whose reader may be slow."""

    def __init__(self) -> None:
        self.time: Nanos = SECOND
        self.is_full = False
        self.written: list[bytes] = []
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
    said = sum(map(len, rig.written))
    assert OUTPUT_BURST_BYTES <= said < 2 * OUTPUT_BURST_BYTES
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
