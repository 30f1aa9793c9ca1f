"""A start on a full disk: the log goes on with the files that it has, for there is no room to begin a fresh one.

    found                                             the log goes on
    the last segment has room behind its frames       in place, behind the last valid one
    it has outgrown the spare that is there           in the spare, as the next segment
    void behind a good snapshot, and no spare         in the newest segment, as if it were a fresh one
    damage, or less room than an election needs       not: nothing is changed

Nothing is trusted that may be in memory only: what counts is written once more to where it is, which takes no room, and
synced. The same bytes over the same bytes do no harm if that is interrupted. Not done where there is room: a sector
that cannot be written any more would end every start.
"""

from dataclasses import replace

from actors import File
from cluster.storage.frame import FRAME_HEADER_BYTES
from cluster.storage.header import FRAMES_START, SegmentHeader
from cluster.storage.repaired import COPY_BYTES, Repaired, Start
from cluster.storage.scan import Scan
from cluster.storage.segment import create_segment, write_header, write_header_again

GO_ON_BYTES_MIN = 1024  # left in the last segment; with less, a broker would hardly get through an election


def go_on(start: Start) -> Repaired | None:
    """None: it cannot, and nothing was changed."""
    scan = start.scan
    if scan.damage is not None:
        return None
    if not scan.chain:
        return _begin_anew(start)
    if start.spares:
        return _go_on_in_spare(start)
    if min(len(scan.data), start.limits.segment_bytes) - _end(scan) < GO_ON_BYTES_MIN:
        return None
    return _go_on_in_place(start)


def _go_on_in_spare(start: Start) -> Repaired:
    """The log goes on in the next segment. A torn tail may stay: what the new header says ends before it."""
    scan, number, salt = start.scan, start.number, start.salt()
    last = scan.chain[-1]
    old = _write_again(start)
    old.close()
    meta = start.meta(last.number, scan.hard_state.commit)
    header = SegmentHeader(salt, number, last.number, scan.next_seq, 1, meta)
    marker = start.marker(salt)
    file = create_segment(start.files, start.directory, header, start.spares[0], [(FRAMES_START, marker)])
    del start.spares[0]
    start.number += 1
    segments = [*(kept.number for kept in scan.chain), number]
    position = FRAMES_START + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, segments, start.spares, start.number)


def _go_on_in_place(start: Start) -> Repaired:
    """The log goes on behind its last valid frame."""
    scan = start.scan
    last = scan.chain[-1]
    file = _write_again(start)
    # The header first: a vote may be known from the torn tail only.
    meta = start.meta(last.number, last.meta.hard_state.commit)
    header = replace(last, generation=last.generation + 1, meta=meta)
    write_header(file, header)
    end = _end(scan)
    _clear(file, end, len(scan.data))
    segments = [kept.number for kept in scan.chain]
    if _ends_with_marker(scan):
        # Of the last start, or of a quiet moment: start after start takes no more of the room that is left.
        marker = scan.data[end - FRAME_HEADER_BYTES : end]
        return Repaired(file, header, end, scan.next_seq, marker, segments, start.spares, start.number)
    marker = start.marker(header.salt)
    file.pwrite((marker,), end)
    file.sync()
    position = end + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, segments, start.spares, start.number)


def _begin_anew(start: Start) -> Repaired | None:
    """The newest segment becomes the first one of a log without frames: with another salt its own mean nothing, from
    the moment at which the new header counts. Until then the next start finds the void log again. What is older leaves,
    and is room."""
    scan, salt = start.scan, start.salt()
    old = scan.head
    if old is None:
        return None
    file = start.files.open(start.path(old.number))
    if min(file.size(), start.limits.segment_bytes) - FRAMES_START < GO_ON_BYTES_MIN:
        file.close()
        return None
    write_header_again(file)
    file.sync()
    # All that is known of votes is in it, from frames too; a hint would speak of entries that are void.
    header = SegmentHeader(salt, old.number, 0, scan.next_seq, old.generation + 1, start.meta(old.number, 0))
    write_header(file, header)
    marker = start.marker(salt)
    file.pwrite((marker,), FRAMES_START)
    file.sync()
    position = FRAMES_START + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, [old.number], start.spares, start.number)


def _write_again(start: Start) -> File:
    """Header and valid frames of the last segment, to where they were read from, durable."""
    scan = start.scan
    file = start.files.open(start.path(scan.chain[-1].number))
    write_header_again(file)
    frames = memoryview(scan.data)[: _end(scan)]
    for offset in range(FRAMES_START, len(frames), COPY_BYTES):
        file.pwrite((frames[offset : offset + COPY_BYTES],), offset)
    file.sync()
    return file


def _clear(file: File, start: int, stop: int) -> None:
    """Zeros over whatever is behind the last valid frame, durable: a whole frame of a torn tail that stayed would be
    taken for the next one as soon as the frames in front of it end where it begins.

    How far a tail reaches cannot be read: where an earlier start wrote zeros, and their sync failed, memory has zeros
    and the disk has the tail. So it is always done, and to the end of the file. Nothing less will do: frames of a
    segment have the salt of its one header and follow each other without a gap, so neither keeps an old one apart.
    """
    zeros = memoryview(bytes(COPY_BYTES))
    for offset in range(start, stop, COPY_BYTES):
        file.pwrite((zeros[: stop - offset],), offset)
    file.sync()


def _end(scan: Scan) -> int:
    return scan.frames[-1].end if scan.frames else FRAMES_START


def _ends_with_marker(scan: Scan) -> bool:
    """The last frame only says that all others are durable."""
    last = scan.frames[-1] if scan.frames else None
    return last is not None and not last.runs and not last.truncate_from and last.synced_seq == last.seq - 1
