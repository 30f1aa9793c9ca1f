"""Where each entry of the log lies, and its term: kept in memory, 20 bytes per frame and 16 per term.

A position is kept per frame, not per record: frames are what is appended on the hot path, and a reader walks
the records of one frame faster than it makes a system call. Entry i is in the last run whose first index is
<= i; a run reaches to the first index of the next one, so that cutting the log's tail is cutting these
arrays: records of a frame that were truncated away are hidden by the run that follows.

Runs that lie one behind another form a *stretch*; a new one begins with each segment and after each truncation, so
there are few. They tell at once which segments hold nothing but old entries, and which parts of which files another
process has to read (`pieces`).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cluster.storage.frame import FRAME_HEADER_BYTES
from cluster.storage.pieces import Piece

SEGMENT_SHIFT = 32  # a place is segment number << 32 | offset of the first record
_OFFSET_MASK = (1 << SEGMENT_SHIFT) - 1


class Run(NamedTuple):
    """The records of one frame that are part of the log: entries `first` to `last` lie in `size` bytes at
    `offset`.

    The bytes may hold more records behind `last`.
    """

    segment: int
    offset: int
    size: int
    first: int
    last: int


class LogIndex:
    """Of entries `first_index` to `last_index`; the log is empty when the latter is one less than the
    former. `base_term` is the term of the entry before the first one, 0 if there is none or nobody knows it."""

    __slots__ = (
        "_firsts",
        "_is_cut",
        "_places",
        "_sizes",
        "_stretch_firsts",
        "_stretch_segments",
        "_term_firsts",
        "_terms",
        "base_term",
        "first_index",
        "last_index",
    )

    def __init__(self, first_index: int = 1, base_term: int = 0) -> None:
        self.begin(first_index, base_term)

    def begin(self, first_index: int, base_term: int) -> None:
        """Nothing of what was in the log is; it goes on at `first_index`."""
        assert first_index >= 1
        self.first_index = first_index
        self.base_term = base_term
        self.last_index = first_index - 1  # changed by `append` and `truncate` only
        self._firsts = array("Q")
        self._places = array("Q")
        self._sizes = array("Q")
        self._term_firsts: list[int] = []  # strictly rising, and so are the terms
        self._terms: list[int] = []
        self._stretch_firsts: list[int] = []  # strictly rising; segments rise
        self._stretch_segments: list[int] = []
        self._is_cut = False  # the next frame begins a stretch: there was a truncation before it

    def append(
        self, segment: int, offset: int, size: int, last_index: int, terms: Sequence[tuple[int, int]]
    ) -> None:
        """A frame's records: `size` bytes at `offset`, indexes from `last_index + 1` of before to the new
        one.

        `terms` are the (first index, term) pairs of the records.
        """
        assert last_index > self.last_index
        assert offset <= _OFFSET_MASK
        if self._is_cut or not self._stretch_segments or segment != self._stretch_segments[-1]:
            assert not self._stretch_segments or segment >= self._stretch_segments[-1]
            self._stretch_firsts.append(self.last_index + 1)
            self._stretch_segments.append(segment)
            self._is_cut = False
        self._firsts.append(self.last_index + 1)
        self._places.append(segment << SEGMENT_SHIFT | offset)
        self._sizes.append(size)
        self.last_index = last_index
        for first, term in terms:
            if not self._terms or term != self._terms[-1]:
                assert not self._terms or term > self._terms[-1], "terms never fall along the log"
                self._term_firsts.append(first)
                self._terms.append(term)

    def truncate(self, index: int) -> None:
        """Entries from `index` on are no longer part of the log."""
        assert index >= self.first_index
        self._is_cut = True
        if index > self.last_index:
            return
        stretches = bisect_left(self._stretch_firsts, index)
        del self._stretch_firsts[stretches:], self._stretch_segments[stretches:]
        runs = bisect_left(self._firsts, index)
        del self._firsts[runs:], self._places[runs:], self._sizes[runs:]
        terms = bisect_left(self._term_firsts, index)
        del self._term_firsts[terms:], self._terms[terms:]
        self.last_index = index - 1
        assert len(self._firsts) == len(self._places) == len(self._sizes)

    def compact(self, first_index: int) -> None:
        """Entries before `first_index` leave the log; the term of the last one of them stays known."""
        assert self.first_index <= first_index <= self.last_index + 1
        base_term = self.term(first_index - 1)
        runs = _before(self._firsts, first_index, self.last_index)
        del self._firsts[:runs], self._places[:runs], self._sizes[:runs]
        terms = _before(self._term_firsts, first_index, self.last_index)
        del self._term_firsts[:terms], self._terms[:terms]
        if self._term_firsts:
            self._term_firsts[0] = max(self._term_firsts[0], first_index)
        stretches = _before(self._stretch_firsts, first_index, self.last_index)
        del self._stretch_firsts[:stretches], self._stretch_segments[:stretches]
        if self._stretch_firsts:
            self._stretch_firsts[0] = max(self._stretch_firsts[0], first_index)
        self.first_index, self.base_term = first_index, base_term

    def move_segment(self, old: int, new: int) -> None:
        """The last runs, those in segment `old`, now lie at the same offsets in segment `new`."""
        position = len(self._places) - 1
        while position >= 0 and self._places[position] >> SEGMENT_SHIFT == old:
            self._places[position] = new << SEGMENT_SHIFT | self._places[position] & _OFFSET_MASK
            position -= 1
        position = len(self._stretch_segments) - 1
        while position >= 0 and self._stretch_segments[position] == old:
            self._stretch_segments[position] = new
            position -= 1

    def term(self, index: int) -> int:
        """The term of an entry, or of the one before the first (`base_term`)."""
        if index == self.first_index - 1:
            return self.base_term
        assert self.first_index <= index <= self.last_index, f"no entry {index}"
        return self._terms[bisect_right(self._term_firsts, index) - 1]

    def terms(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) of each stretch of one term."""
        return tuple(zip(self._term_firsts, self._terms, strict=True))

    def runs(self, low: int, high: int) -> Iterator[Run]:
        """The runs that hold entries `low <= index < high`, in order."""
        assert self.first_index <= low <= high <= self.last_index + 1
        position = bisect_right(self._firsts, low) - 1
        while position < len(self._firsts) and self._firsts[position] < high:
            after = self._firsts[position + 1] if position + 1 < len(self._firsts) else self.last_index + 1
            place = self._places[position]
            yield Run(
                place >> SEGMENT_SHIFT,
                place & _OFFSET_MASK,
                self._sizes[position],
                self._firsts[position],
                after - 1,
            )
            position += 1

    def pieces(self, low: int, high: int) -> list[Piece]:
        """Where entries `low <= index < high` lie, in order. Costs a few steps per stretch, whatever it holds."""
        assert self.first_index <= low <= high <= self.last_index + 1
        pieces: list[Piece] = []
        position = max(bisect_right(self._stretch_firsts, low) - 1, 0)
        while low < high:
            last = min(self._stretch_last(position), high - 1)
            place = self._places[bisect_right(self._firsts, low) - 1]
            segment = self._stretch_segments[position]
            assert place >> SEGMENT_SHIFT == segment
            pieces.append(Piece(segment, (place & _OFFSET_MASK) - FRAME_HEADER_BYTES, low, last))
            low = last + 1
            position += 1
        return pieces

    def first_segment_behind(self, index: int) -> tuple[int, int]:
        """The first segment that holds an entry behind `index`, and its first entry; (0, last_index + 1) for none."""
        position = 0
        count = len(self._stretch_firsts)
        while position < count and self._stretch_last(position) <= index:
            position += 1
        if position == count:
            return 0, self.last_index + 1
        segment = self._stretch_segments[position]
        first = bisect_left(self._stretch_segments, segment)
        return segment, self._stretch_firsts[first]

    def _stretch_last(self, position: int) -> int:
        following = position + 1
        return (self._stretch_firsts[following] if following < len(self._stretch_firsts) else self.last_index + 1) - 1

    @property
    def stretches_count(self) -> int:
        return len(self._stretch_firsts)

    @property
    def runs_count(self) -> int:
        return len(self._firsts)


def _before(firsts: Sequence[int], first_index: int, last_index: int) -> int:
    """How many of the ranges that begin with `firsts`, and reach to each other, end before `first_index`."""
    return len(firsts) if first_index > last_index else max(bisect_right(firsts, first_index) - 1, 0)
