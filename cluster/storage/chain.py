"""The durable log as its segments hold it: where each entry lies, and which files may go.

A file leaves as a whole, from the front, when every entry of it that is still part of the log is of no use any more;
the one that is being written never does. Costs a few steps per segment and truncation.
"""

from collections.abc import Iterable

from actors import Files
from cluster.raft.messages import Entry
from cluster.storage.header import LogStart
from cluster.storage.index import LogIndex
from cluster.storage.pieces import Piece
from cluster.storage.plan import Plan
from cluster.storage.reader import SegmentReader


class Chain:
    """`segments` are those of the log, oldest first; the last one is being written. Changed by what is durable only."""

    def __init__(
        self, files: Files, directory: str, index: LogIndex, segments: Iterable[int], read_bytes_max: int
    ) -> None:
        self.index = index
        self.segments = list(segments)
        self._reader = SegmentReader(files, directory, read_bytes_max)

    def read(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        return self._reader.read(self.index, low, high, max_bytes)

    def pieces(self, low: int, high: int) -> list[Piece]:
        return self.index.pieces(low, high)

    def add(self, plan: Plan) -> None:
        """These frames are durable, and the segments that they began."""
        index = self.index
        for stretch in plan.stretches:
            if stretch.begins is not None:
                self.segments.append(stretch.begins.number)
        for placed in plan.placed:
            if placed.truncate_from:
                index.truncate(placed.truncate_from)
            if placed.size:
                index.append(placed.segment, placed.offset, placed.size, placed.last_index, placed.terms)

    def compact(self, index: int) -> tuple[LogStart, list[int]] | None:
        """Segments without an entry behind `index` leave. Returns where the log begins from now on, and who left; None
        if all stay."""
        oldest, first_index = self.index.first_segment_behind(index)
        oldest = oldest or self.segments[-1]
        dropped = [segment for segment in self.segments if segment < oldest]
        if not dropped:
            return None
        del self.segments[: len(dropped)]
        self._reader.forget(dropped)
        self.index.compact(first_index)
        return LogStart(first_index - 1, self.index.base_term, oldest), dropped

    def restart(self, index: int, term: int, segment: int) -> list[int]:
        """Nothing of what was is part of the log; it goes on behind (index, term) in `segment`. Returns who left."""
        dropped, self.segments = self.segments, [segment]
        self._reader.forget(dropped)
        self.index.begin(index + 1, term)
        return dropped

    def close(self) -> None:
        self._reader.close()
