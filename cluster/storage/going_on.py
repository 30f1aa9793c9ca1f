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

from actors import File, Files
from cluster.storage.frame import FRAME_HEADER_BYTES
from cluster.storage.header import FRAMES_START, SegmentHeader
from cluster.storage.repaired import COPY_BYTES, Repaired, marker_of, meta_of
from cluster.storage.scan import NodeIdentity, Scan
from cluster.storage.segment import WalLimits, create_segment, file_name, write_header, write_header_again

GO_ON_BYTES_MIN = 1024  # left in the last segment; with less, a broker would hardly get through an election


def go_on(
    files: Files,
    directory: str,
    scan: Scan,
    identity: NodeIdentity,
    limits: WalLimits,
    salt: int,
    spares: list[int],
    number: int,
) -> Repaired | None:
    """None: it cannot, and nothing was changed. `number` is the next free one."""
    if scan.damage is not None:
        return None
    if not scan.chain:
        return _begin_anew(files, directory, scan, identity, limits, salt, spares, number)
    if spares:
        return _go_on_in_spare(files, directory, scan, identity, salt, spares, number)
    if min(len(scan.data), limits.segment_bytes) - _end(scan) < GO_ON_BYTES_MIN:
        return None
    return _go_on_in_place(files, directory, scan, identity, number)


def _go_on_in_spare(
    files: Files,
    directory: str,
    scan: Scan,
    identity: NodeIdentity,
    salt: int,
    spares: list[int],
    number: int,
) -> Repaired:
    """The log goes on in the next segment. A torn tail may stay: what the new header says ends before it."""
    last = scan.chain[-1]
    old = _write_again(files, directory, scan)
    old.close()
    meta = meta_of(scan, identity, last.number, scan.hard_state.commit)
    header = SegmentHeader(salt, number, last.number, scan.next_seq, 1, meta)
    marker = marker_of(scan, salt)
    file = create_segment(files, directory, header, spares[0], [(FRAMES_START, marker)])
    del spares[0]
    segments = [*(kept.number for kept in scan.chain), number]
    position = FRAMES_START + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, segments, spares, number + 1)


def _go_on_in_place(
    files: Files, directory: str, scan: Scan, identity: NodeIdentity, next_number: int
) -> Repaired:
    """The log goes on behind its last valid frame."""
    last = scan.chain[-1]
    file = _write_again(files, directory, scan)
    # The header first: a vote may be known from the torn tail only.
    meta = meta_of(scan, identity, last.number, last.meta.hard_state.commit)
    header = replace(last, generation=last.generation + 1, meta=meta)
    write_header(file, header)
    end = _end(scan)
    _clear(file, end, len(scan.data))
    segments = [kept.number for kept in scan.chain]
    if _ends_with_marker(scan):
        # Of the last start, or of a quiet moment: start after start takes no more of the room that is left.
        marker = scan.data[end - FRAME_HEADER_BYTES : end]
        return Repaired(file, header, end, scan.next_seq, marker, segments, [], next_number)
    marker = marker_of(scan, header.salt)
    file.pwrite((marker,), end)
    file.sync()
    position = end + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, segments, [], next_number)


def _begin_anew(
    files: Files,
    directory: str,
    scan: Scan,
    identity: NodeIdentity,
    limits: WalLimits,
    salt: int,
    spares: list[int],
    next_number: int,
) -> Repaired | None:
    """The newest segment becomes the first one of a log without frames: with another salt its own mean nothing, from
    the moment at which the new header counts. Until then the next start finds the void log again. What is older leaves,
    and is room."""
    old = scan.head
    if old is None:
        return None
    file = files.open(_path(directory, old.number))
    if min(file.size(), limits.segment_bytes) - FRAMES_START < GO_ON_BYTES_MIN:
        file.close()
        return None
    write_header_again(file)
    file.sync()
    # All that is known of votes is in it, from frames too; a hint would speak of entries that are void.
    meta = meta_of(scan, identity, old.number, 0)
    header = SegmentHeader(salt, old.number, 0, scan.next_seq, old.generation + 1, meta)
    write_header(file, header)
    marker = marker_of(scan, salt)
    file.pwrite((marker,), FRAMES_START)
    file.sync()
    position = FRAMES_START + FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, [old.number], spares, next_number)


def _write_again(files: Files, directory: str, scan: Scan) -> File:
    """Header and valid frames of the last segment, to where they were read from, durable."""
    file = files.open(_path(directory, scan.chain[-1].number))
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


def _path(directory: str, number: int) -> str:
    return f"{directory}/{file_name(number, 'wal')}"


def _end(scan: Scan) -> int:
    return scan.frames[-1].end if scan.frames else FRAMES_START


def _ends_with_marker(scan: Scan) -> bool:
    """The last frame only says that all others are durable."""
    last = scan.frames[-1] if scan.frames else None
    return last is not None and not last.runs and not last.truncate_from and last.synced_seq == last.seq - 1
