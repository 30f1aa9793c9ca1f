"""What to write: turns the writes of a turn into frames and gives them their places. Pure; `Wal` carries it
out.

Entries of several writes share a frame as long as nothing forbids it: a truncation begins a frame, a change
of term or vote begins one, and a frame is closed at 1 MiB or 4,096 records.

A change of term or vote is written twice, as a frame without records in front and as the frame behind it
(another one without records if there is nothing to write), in one sync: one of them rotting does not make the
node vote twice. The commit hint of a frame is that of its own write, not the newest: recovery may keep this
frame and cut the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.raft.messages import Entry
from cluster.storage.frame import (
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    FRAME_RECORDS_MAX,
    encode_header,
)
from cluster.storage.header import FRAMES_START, HardState
from cluster.storage.record import GROUP, encode_record

TermRuns = tuple[tuple[int, int], ...]


class Write(NamedTuple):
    """One call of `Wal.append`."""

    write_id: int
    term: int
    vote: int
    commit: int
    truncate_from: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Restart:
    """One call of `Wal.restart`: what was written before it is void, the log goes on behind (index, term)."""

    index: int
    term: int
    done: Callable[[], None] | None


class Placed(NamedTuple):
    """What one frame does to the index, once it is durable. `size` 0: it has no records."""

    truncate_from: int
    segment: int
    offset: int
    size: int
    last_index: int
    terms: TermRuns


class NewSegment(NamedTuple):
    """A segment to begin; every frame before `first_seq` must be durable before it appears."""

    number: int
    previous: int  # 0: it begins a chain of its own
    salt: int
    first_seq: int
    hard_state: HardState


@dataclass(slots=True)
class Stretch:
    """Bytes that lie one after another in one segment: the current one, or the one that they begin."""

    begins: NewSegment | None
    offset: int
    buffers: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    stretches: list[Stretch] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)


class FramePlanner:
    """Where the log's writing side stands: everything here runs ahead of what is durable, except
    `synced_seq`."""

    __slots__ = (
        "_bodies",
        "_framed_commit",
        "_leaves_segment",
        "_new_number",
        "_new_salt",
        "_open",
        "_open_size",
        "_open_terms",
        "_open_truncate",
        "_plan",
        "_segment_bytes",
        "commit",
        "last_index",
        "number",
        "offset",
        "salt",
        "seq",
        "synced_seq",
        "term",
        "vote",
        "vouched_seq",
    )

    def __init__(
        self,
        *,
        number: int,
        salt: int,
        offset: int,
        seq: int,
        hard_state: HardState,
        last_index: int,
        segment_bytes: int,
        new_number: Callable[[], int],
        new_salt: Callable[[], int],
    ) -> None:
        self.number = number  # of the segment that is being written
        self.salt = salt
        self.offset = offset  # where the next frame goes
        self.seq = seq  # of the last frame
        self.synced_seq = seq  # every frame up to this one is durable; set by `Wal` after a sync
        self.vouched_seq = seq  # the synced_seq of the last frame that was written
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.commit = hard_state.commit
        self._framed_commit = hard_state.commit  # of the last frame; a write may be ahead of it
        self.last_index = last_index
        self._segment_bytes = segment_bytes
        self._leaves_segment = False
        self._new_number = new_number
        self._new_salt = new_salt
        self._plan = Plan()
        self._open: Sequence[bytes] = ()  # records of the frame that may still grow
        self._bodies: list[bytes] = []  # the same bytes, joined per write
        self._open_size = 0
        self._open_terms: TermRuns = ()
        self._open_truncate = 0

    def plan(self, writes: Sequence[Write]) -> Plan:
        """Frames for all of these writes, in order. Empty if there is nothing that a disk must know."""
        self._plan = plan = Plan()
        for write in writes:
            entries = write.entries
            has_new_vote = write.term != self.term or write.vote != self.vote
            if has_new_vote:
                self._change_vote(write)
            if write.truncate_from:
                self._truncate(write.truncate_from)
            self.commit = write.commit
            if entries:
                self._add(entries)
            elif has_new_vote and not self._open_truncate:
                self._emit((), ())
        self._close()
        return plan

    def restart(self, index: int) -> Plan:
        """A new chain behind entry `index`; its first segment has no frame yet."""
        self.commit = max(self.commit, index)
        self._framed_commit = self.last_index = index
        self._plan = plan = Plan()
        self._begin_segment(previous=0)
        return plan

    def leave_segment(self) -> None:
        """The next frame begins another segment, though there is room in this one."""
        self._leaves_segment = True

    @property
    def outgrows_segment(self) -> bool:
        return self.offset > self._segment_bytes

    @property
    def is_vouched(self) -> bool:
        """Whether a frame on the disk says that every durable one is."""
        return self.vouched_seq >= self.synced_seq

    def marker(self) -> tuple[int, bytes]:
        """Place and bytes of a frame that only says what is durable by now. The segment has room for it."""
        assert not self.is_vouched
        offset = self.offset
        self.offset += FRAME_HEADER_BYTES
        return offset, self._header((), 0)

    def _change_vote(self, write: Write) -> None:
        assert write.term >= self.term, "terms never fall"
        assert write.term > self.term or self.vote == 0, "one vote in a term"
        self._close()
        self.term = write.term
        self.vote = write.vote
        self._emit((), ())

    def _truncate(self, index: int) -> None:
        assert self.commit < index <= self.last_index + 1, f"truncation from {index}"
        self._close()
        self._open_truncate = index
        self.last_index = index - 1

    def _add(self, entries: Sequence[Entry]) -> None:
        first, last = entries[0], entries[-1]
        count = len(entries)
        assert first.index == self.last_index + 1, f"entry {first.index} behind {self.last_index}"
        assert last.index == self.last_index + count
        records = [entry.record for entry in entries]
        if not all(records):
            records = [entry.record or encode_record(GROUP, entry) for entry in entries]
        body = records[0] if count == 1 else b"".join(records)
        size = len(body)
        if self._open and (
            self._open_size + size > FRAME_BYTES_MAX or len(self._open) + count > FRAME_RECORDS_MAX
        ):
            self._close()
        if count > 1 and (size > FRAME_BYTES_MAX or count > FRAME_RECORDS_MAX):
            self._add_in_parts(entries)
            return
        terms = ((first.index, first.term),) if first.term == last.term else _terms_of(entries)
        self._open = [*self._open, *records] if self._open else records
        self._bodies.append(body)
        self._open_size += size
        self._open_terms += terms
        self.last_index = last.index

    def _add_in_parts(self, entries: Sequence[Entry]) -> None:
        """More than a frame may hold; each part is the longest that fits, at least one entry."""
        start = size = 0
        for position, entry in enumerate(entries):
            length = len(entry.record)
            count = position - start
            if count and (size + length > FRAME_BYTES_MAX or count == FRAME_RECORDS_MAX):
                self._add(entries[start:position])
                self._close()
                start, size = position, 0
            size += length
        assert start > 0
        self._add(entries[start:])

    def _close(self) -> None:
        if self._open or self._open_truncate:
            records, bodies = self._open, self._bodies
            self._open, self._bodies = (), []
            self._emit(records, bodies)

    def _emit(self, records: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        """One frame. Behind it stays room for a marker, so that none ever begins a segment."""
        size = self._open_size
        total = FRAME_HEADER_BYTES + size
        stretches = self._plan.stretches
        if self._leaves_segment or self.offset + total + FRAME_HEADER_BYTES > self._segment_bytes:
            self._roll()
        if not stretches:
            stretches.append(Stretch(None, self.offset))
        truncate_from, self._open_truncate = self._open_truncate, 0
        buffers = stretches[-1].buffers
        buffers.append(self._header(records, truncate_from))
        buffers += bodies
        if size or truncate_from:
            terms, self._open_terms, self._open_size = self._open_terms, (), 0
            records_start = self.offset + FRAME_HEADER_BYTES
            self._plan.placed.append(
                Placed(truncate_from, self.number, records_start, size, self.last_index, terms)
            )
        self.offset += total

    def _header(self, records: Sequence[bytes], truncate_from: int) -> bytes:
        self.seq += 1
        self.vouched_seq = self.synced_seq
        self._framed_commit = self.commit
        return encode_header(
            records,
            salt=self.salt,
            seq=self.seq,
            synced_seq=self.synced_seq,
            term=self.term,
            vote=self.vote,
            commit=self.commit,
            truncate_from=truncate_from,
        )

    def _roll(self) -> None:
        if self.offset == FRAMES_START:
            return  # one frame larger than a segment: this segment grows
        self._begin_segment(previous=self.number)

    def _begin_segment(self, previous: int) -> None:
        number = self._new_number()
        salt = self._new_salt()
        # The header is durable before the first frame is. Its hint must not speak of that frame's entries: the old
        # ones that they replace may be what recovery finds.
        hard_state = HardState(self.term, self.vote, self._framed_commit)
        begins = NewSegment(number, previous, salt, self.seq + 1, hard_state)
        self.number, self.salt, self.offset = number, salt, FRAMES_START
        self._leaves_segment = False
        self._plan.stretches.append(Stretch(begins, FRAMES_START))


def _terms_of(entries: Sequence[Entry]) -> TermRuns:
    runs: list[tuple[int, int]] = []
    for entry in entries:
        if not runs or entry.term != runs[-1][1]:
            runs.append((entry.index, entry.term))
    return tuple(runs)
