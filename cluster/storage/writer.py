"""Carries out what was planned: writes, syncs, new segments. On the loop or as a job, never both at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from actors import File, Files, Nanos
from cluster.storage.header import Meta, SegmentHeader
from cluster.storage.plan import NewSegment, Plan, Restart, Write
from cluster.storage.segment import create_segment, write_header

SMALL_BYTES = 4 * 1024  # of a batch: a few tasks, whose client waits for every microsecond
LARGE_BYTES = 128 * 1024  # a turn without load writes less


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """A new meta block, and whom to tell when it is durable."""

    meta: Meta
    done: Callable[[], None] | None


@dataclass(slots=True)
class Batch:
    """What one sync makes durable: a change of the header, the frames of a plan, or both; or a restart.

    Complete before it is performed; `perform` reads it only, so that it may run beside the loop.
    """

    writes: Sequence[Write]
    changes: Sequence[HeaderChange]
    header_meta: Meta | None  # the last of the changes
    plan: Plan
    last_seq: int  # of the plan's frames
    since: Nanos  # when the oldest write was queued
    syncs: bool = True  # False: a marker, which needs none
    spares: list[int | None] = field(default_factory=list)  # one for each segment that the plan begins
    new_meta: Meta | None = None  # for the headers of those segments
    restart: Restart | None = None  # what the plan is that of; then it has no frames

    @property
    def is_empty(self) -> bool:
        return self.header_meta is None and not self.plan.stretches

    @property
    def is_single(self) -> bool:
        """One write and one sync: no header is written, no segment begun."""
        return self.header_meta is None and not self.spares

    @property
    def size(self) -> int:
        """Bytes of its frames."""
        return sum([len(buffer) for stretch in self.plan.stretches for buffer in stretch.buffers])

    @property
    def syncs_frames(self) -> bool:
        # A batch without frames proves nothing about the frames before it: the last of them may be a marker.
        return self.syncs and bool(self.plan.stretches)


class SegmentWriter:
    """Owns the segment that is being written."""

    __slots__ = ("_directory", "_files", "file", "header")

    def __init__(self, files: Files, directory: str, file: File, header: SegmentHeader) -> None:
        self._files = files
        self._directory = directory
        self.file = file
        self.header = header

    def perform(self, batch: Batch) -> None:
        """Returns when everything in the batch is durable. Raises OSError, and must not be called again
        then."""
        if batch.header_meta is not None:
            self._change_header(batch.header_meta)
        spares = iter(batch.spares)
        for stretch in batch.plan.stretches:
            if stretch.begins is not None:
                assert batch.new_meta is not None
                self._begin_segment(stretch.begins, next(spares), batch.new_meta)
            if stretch.buffers:
                self.file.pwrite(stretch.buffers, stretch.offset)
        if batch.syncs_frames:
            self.file.sync()

    def _change_header(self, meta: Meta) -> None:
        old = self.header
        self.header = SegmentHeader(
            old.salt,
            old.number,
            old.previous,
            old.first_seq,
            old.generation + 1,
            structs.replace(meta, hard_state=old.meta.hard_state),
        )
        write_header(self.file, self.header)

    def _begin_segment(self, begins: NewSegment, spare: int | None, meta: Meta) -> None:
        assert begins.previous in (0, self.header.number)
        # The new header vouches for every frame before its first one; among them may be a marker that no sync
        # has covered yet.
        self.file.sync()
        self.file.close()
        header = SegmentHeader(
            begins.salt,
            begins.number,
            begins.previous,
            begins.first_seq,
            1,
            structs.replace(meta, hard_state=begins.hard_state),
        )
        self.file = create_segment(self._files, self._directory, header, spare)
        self.header = header
