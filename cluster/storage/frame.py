"""The frame: what one node's log writes at once, and how its bytes are told from everything else on the disk.

A frame is a 64-byte header and the records behind it. It never leaves its node: the header holds what is true
of this disk only.

    0  u32  crc32 (zlib) over bytes 4 to 63 and the crcs of all records
    4  4 B  magic
    8  u64  salt of the segment
   16  u64  sequence number of the frame, one higher than that of the frame before, across segments 24  u64
   synced_seq: every frame up to this number was durable when this one was written 32  u64  term 40  u64
   commit hint 48  u64  truncate_from: entries from this index on are void (0: none); takes effect before the
   frame's own records 56  u16  vote (node id, 0: none) 58  u16  number of records 60  u16  format version 62
   u16  0

The crc does not cover payload bytes again: the records' own crcs do, so a frame costs one crc over a few
bytes whatever its size, and a reader that checks both knows that all of it is whole. The salt is 64 random
bits chosen when the segment is taken into use: bytes that a recycled file holds from its former life, or that
a user sent in a body, cannot pass for a frame.
"""

import struct
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple
from zlib import crc32

from cluster.storage.record import ALIGNMENT_BYTES, RecordDamaged, read_header

FRAME_HEADER_BYTES = 64
FRAME_RECORDS_MAX = 4_096
FRAME_BYTES_MAX = 1024 * 1024  # of records; one larger record makes a frame of its own
FRAME_VERSION = 1

_MAGIC = b"qFrm"
_MAGIC_OFFSET = 4
_SALT_OFFSET = 8
_CRC = struct.Struct("<I")
_FIELDS = struct.Struct("<4sQQQQQQHHHH")
_record_crc = itemgetter(slice(_CRC.size))

assert _CRC.size + _FIELDS.size == FRAME_HEADER_BYTES
assert FRAME_HEADER_BYTES % ALIGNMENT_BYTES == 0
assert FRAME_RECORDS_MAX < 1 << 16


class Frame(NamedTuple):
    """A frame that was found whole. `offset` and `end` are those of the frame in its segment.

    `runs` are the (first index, term) pairs of its records; the records cover `first_index` to `last_index`
    without a gap, terms never fall. Without records both are 0. `crcs` are the records' own, one after
    another.
    """

    offset: int
    end: int
    seq: int
    synced_seq: int
    term: int
    vote: int
    commit: int
    truncate_from: int
    first_index: int
    last_index: int
    runs: tuple[tuple[int, int], ...]
    crcs: bytes


def encode_header(
    records: Sequence[bytes],
    *,
    salt: int,
    seq: int,
    synced_seq: int,
    term: int,
    vote: int,
    commit: int,
    truncate_from: int,
) -> bytes:
    """The 64 bytes in front of `records`."""
    assert synced_seq < seq
    assert len(records) <= FRAME_RECORDS_MAX
    fields = _FIELDS.pack(
        _MAGIC, salt, seq, synced_seq, term, commit, truncate_from, vote, len(records), FRAME_VERSION, 0
    )
    crc = crc32(b"".join(map(_record_crc, records)), crc32(fields))
    return _CRC.pack(crc) + fields


def header_with_salt(data: bytes, frame: Frame, salt: int) -> bytes:
    """The header of a verified frame as it must be in a segment of another salt, everything else as it
    was."""
    header = data[frame.offset : frame.offset + FRAME_HEADER_BYTES]
    fields = header[_MAGIC_OFFSET:_SALT_OFFSET] + salt.to_bytes(8, "little") + header[_SALT_OFFSET + 8 :]
    return _CRC.pack(crc32(frame.crcs, crc32(fields))) + fields


def parse_frame(data: bytes | memoryview, offset: int, salt: int | None) -> Frame | None:
    """The frame at `offset`, or None if these bytes are not one whole, valid frame of this segment.

    `salt` None takes a frame of any segment: for salvage of (term, vote) where the segment's header is lost.
    """
    view = memoryview(data)
    if offset + FRAME_HEADER_BYTES > len(view):
        return None
    (magic, its_salt, seq, synced_seq, term, commit, truncate_from, vote, count, version, reserved) = (
        _FIELDS.unpack_from(view, offset + _CRC.size)
    )
    if magic != _MAGIC or (salt is not None and its_salt != salt) or version != FRAME_VERSION or reserved:
        return None
    if count > FRAME_RECORDS_MAX or synced_seq >= seq:
        return None
    crcs: list[memoryview] = []
    end = offset + FRAME_HEADER_BYTES
    first_index = last_index = last_term = 0
    runs: list[tuple[int, int]] = []
    for _ in range(count):
        try:
            index, record_term, record_stop = read_header(view, end, len(view))
        except RecordDamaged:
            return None
        if runs and (index != last_index + 1 or record_term < last_term):
            return None
        if record_term != last_term or not runs:
            runs.append((index, record_term))
        first_index = first_index or index
        last_index, last_term = index, record_term
        crcs.append(view[end : end + _CRC.size])
        end = record_stop
    record_crcs = b"".join(crcs)
    header_crc = crc32(view[offset + _CRC.size : offset + FRAME_HEADER_BYTES])
    if crc32(record_crcs, header_crc) != _CRC.unpack_from(view, offset)[0]:
        return None
    return Frame(
        offset,
        end,
        seq,
        synced_seq,
        term,
        vote,
        commit,
        truncate_from,
        first_index,
        last_index,
        tuple(runs),
        record_crcs,
    )


def find_frames(data: bytes, offset: int, salt: int | None) -> Iterator[Frame]:
    """Every valid frame at or behind `offset`, wherever it starts: the way on past bytes that make no
    sense."""
    if salt is None:
        needle, needle_offset = _MAGIC, _MAGIC_OFFSET
    else:
        needle, needle_offset = salt.to_bytes(8, "little"), _SALT_OFFSET
    while (hit := data.find(needle, offset + needle_offset)) >= 0:
        start = hit - needle_offset
        frame = parse_frame(data, start, salt) if start % ALIGNMENT_BYTES == 0 else None
        if frame is None:
            offset = start + 1
        else:
            yield frame
            offset = frame.end
