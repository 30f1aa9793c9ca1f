"""Where each entry of the log lies, and its term: kept in memory, 20 bytes per frame and 16 per term.

A position is kept per frame, not per record: frames are what is appended on the hot path, and a reader walks
the records of one frame faster than it makes a system call. Entry i is in the last run whose first index is
<= i; a run reaches to the first index of the next one, so that cutting the log's tail is cutting these
arrays: records of a frame that were truncated away are hidden by the run that follows.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
    former."""

    __slots__ = ("_firsts", "_places", "_sizes", "_term_firsts", "_terms", "first_index", "last_index")

    def __init__(self, first_index: int = 1) -> None:
        assert first_index >= 1
        self.first_index = first_index
        self.last_index = first_index - 1  # changed by `append` and `truncate` only
        self._firsts = array("Q")
        self._places = array("Q")
        self._sizes = array("Q")
        self._term_firsts: list[int] = []  # strictly rising, and so are the terms
        self._terms: list[int] = []

    def append(
        self, segment: int, offset: int, size: int, last_index: int, terms: Sequence[tuple[int, int]]
    ) -> None:
        """A frame's records: `size` bytes at `offset`, indexes from `last_index + 1` of before to the new
        one.

        `terms` are the (first index, term) pairs of the records.
        """
        assert last_index > self.last_index
        assert offset <= _OFFSET_MASK
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
        if index > self.last_index:
            return
        runs = bisect_left(self._firsts, index)
        del self._firsts[runs:], self._places[runs:], self._sizes[runs:]
        terms = bisect_left(self._term_firsts, index)
        del self._term_firsts[terms:], self._terms[terms:]
        self.last_index = index - 1
        assert len(self._firsts) == len(self._places) == len(self._sizes)

    def move_segment(self, old: int, new: int) -> None:
        """The last runs, those in segment `old`, now lie at the same offsets in segment `new`."""
        position = len(self._places) - 1
        while position >= 0 and self._places[position] >> SEGMENT_SHIFT == old:
            self._places[position] = new << SEGMENT_SHIFT | self._places[position] & _OFFSET_MASK
            position -= 1

    def term(self, index: int) -> int:
        """The term of an entry; 0 for the place before the first entry of an uncompacted log."""
        if index == 0:
            return 0
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

    @property
    def runs_count(self) -> int:
        return len(self._firsts)
