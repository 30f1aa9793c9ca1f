"""Reads entries of a log that another process has open: from the pieces that it named (`Wal.pieces`), and from nothing
else.

The frames of a piece lie one behind another, so they are walked, each verified as recovery would. The salt is that of
the segment's own header: a file that was recycled meanwhile holds no valid frame. Whatever does not fit ends the
reading with `UnreadablePiece`; never are there fewer entries than the plan says, or others.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from actors import File, Files
from cluster.raft.messages import Entry
from cluster.storage.errors import UnreadablePiece
from cluster.storage.frame import FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, parse_frame
from cluster.storage.header import FRAMES_START, decode_segment_header
from cluster.storage.record import RECORD_PAYLOAD_BYTES_MAX, decode_records, record_end
from cluster.storage.segment import file_name

WINDOW_BYTES = 8 * 1024 * 1024  # of a segment, read at once

assert max(record_end(0, RECORD_PAYLOAD_BYTES_MAX), FRAME_BYTES_MAX) + FRAME_HEADER_BYTES <= WINDOW_BYTES


class Piece(NamedTuple):
    """Entries `first` to `last`: they lie in frames one behind another, the first of them at `offset` of `segment`.

    Records before `first` in the first frame, and behind `last`, do not belong to it.
    """

    segment: int
    offset: int
    first: int
    last: int


def read_pieces(files: Files, directory: str, pieces: Iterable[Piece]) -> Iterator[list[Entry]]:
    """All entries of the pieces, in order, a list for each frame. Blocking.

    Raises UnreadablePiece, also if the pieces do not follow each other without a gap.
    """
    expected = 0
    for piece in pieces:
        path = f"{directory}/{file_name(piece.segment, 'wal')}"
        if expected and piece.first != expected:
            raise UnreadablePiece(path, piece.offset, f"begins with entry {piece.first} instead of {expected}")
        yield from _read_piece(files, path, piece)
        expected = piece.last + 1


def _read_piece(files: Files, path: str, piece: Piece) -> Iterator[list[Entry]]:
    try:
        file = files.open(path)
    except FileNotFoundError:
        raise UnreadablePiece(path, 0, "the segment is missing") from None
    try:
        header = decode_segment_header(file.pread(FRAMES_START, 0)).header
        if header is None or header.number != piece.segment:
            raise UnreadablePiece(path, 0, "the segment has no readable header of its own")
        following = piece.first
        for offset, frame, records in _frames(file, path, piece.offset, header.salt):
            is_later = following > piece.first
            if is_later and frame.truncate_from:
                raise UnreadablePiece(path, offset, f"entries from {frame.truncate_from} on are void")
            if is_later and not frame.runs:
                continue  # a marker, or a vote
            # The piece may begin in the middle of its first frame, and nowhere else.
            first = following if is_later else frame.first_index
            if frame.first_index != first or not frame.first_index <= following <= frame.last_index:
                reason = f"entries {frame.first_index} to {frame.last_index} where {following} should be"
                raise UnreadablePiece(path, offset, reason)
            last = min(frame.last_index, piece.last)
            yield decode_records(records, from_index=following, to_index=last + 1)
            if last == piece.last:
                return
            following = last + 1
    finally:
        file.close()


def _frames(file: File, path: str, offset: int, salt: int) -> Iterator[tuple[int, Frame, memoryview]]:
    """The frames from `offset` on, each with its place and its records; endless: the caller knows which is the last."""
    seq = 0
    start, window = offset, file.pread(WINDOW_BYTES, offset)
    while True:
        frame = parse_frame(window, offset - start, salt)
        if frame is None and offset != start:
            start, window = offset, file.pread(WINDOW_BYTES, offset)
            frame = parse_frame(window, 0, salt)
        if frame is None:
            raise UnreadablePiece(path, offset, "no whole frame of this segment")
        if seq and frame.seq != seq:
            raise UnreadablePiece(path, offset, f"frame {frame.seq} instead of {seq}")
        seq = frame.seq + 1
        records = memoryview(window)[frame.offset + FRAME_HEADER_BYTES : frame.end]
        yield offset, frame, records
        offset += frame.end - frame.offset
