"""The record: one log entry as bytes, the same on the wire and on every disk.

    0  u32  crc32 (zlib) over bytes 4 to the end, padding included
    4  u32  length of the payload in bytes
    8  u64  index
   16  u64  term
   24  u16  group (0 until there are several Raft groups)
   26  u16  kind (`EntryKind`)
   28       payload, then zeros up to a multiple of 8

Little endian. The padding must be zero, so that an entry has exactly one encoding and replicas can compare
bytes. A record is encoded once, where its entry is born; followers store the bytes that they received.
"""

import struct
from zlib import crc32

from cluster.raft.messages import Entry

ALIGNMENT_BYTES = 8
RECORD_HEADER_BYTES = 28
RECORD_PAYLOAD_BYTES_MAX = (
    4 * 1024 * 1024
)  # an entry with the largest body is 2 MiB; beyond twice that is garbage

GROUP = 0  # the only Raft group so far

_HEADER = struct.Struct("<IIQQHH")
_BODY = struct.Struct("<IQQHH")  # the header without its crc
_CRC = struct.Struct("<I")
_ZEROS = tuple(bytes(count) for count in range(ALIGNMENT_BYTES))

assert _HEADER.size == RECORD_HEADER_BYTES
assert _BODY.size + _CRC.size == RECORD_HEADER_BYTES


class RecordDamaged(ValueError):
    """The bytes at `offset` are not a whole and valid record."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"record at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


def encode_record(group: int, entry: Entry) -> bytes:
    """The entry's record; also kept in `entry.record`."""
    payload = entry.payload
    length = len(payload)
    assert length <= RECORD_PAYLOAD_BYTES_MAX, f"payload of {length} bytes"
    body = _BODY.pack(length, entry.index, entry.term, group, entry.kind)
    tail = b"".join((body, payload, _ZEROS[-(RECORD_HEADER_BYTES + length) % ALIGNMENT_BYTES]))
    record = _CRC.pack(crc32(tail)) + tail
    assert len(record) % ALIGNMENT_BYTES == 0
    entry.record = record
    return record


def decode_records(
    buffer: bytes | memoryview, group: int = GROUP, *, from_index: int = 0, to_index: int | None = None
) -> list[Entry]:
    """Entries of a run of records that fills `buffer`; payload and record are copies that pin nothing.

    Only entries with `from_index <= index < to_index` are built and verified; the others are stepped over.
    Raises RecordDamaged.
    """
    view = memoryview(buffer)
    entries: list[Entry] = []
    offset = 0
    while offset < len(view):
        length, index, term, kind, end = _header_at(view, offset, len(view), group)
        if index >= from_index and (to_index is None or index < to_index):
            verify_record(view, offset, length, end)
            start = offset + RECORD_HEADER_BYTES
            entries.append(
                Entry(index, term, kind, view[start : start + length].tobytes(), view[offset:end].tobytes())
            )
        offset = end
    return entries


def _header_at(view: memoryview, offset: int, limit: int, group: int) -> tuple[int, int, int, int, int]:
    """(length, index, term, kind, end) of the record at `offset`, not verified beyond its bounds and its
    group."""
    if offset + RECORD_HEADER_BYTES > limit:
        raise RecordDamaged(offset, "its header is cut off")
    _, length, index, term, its_group, kind = _HEADER.unpack_from(view, offset)
    end = record_end(offset, length)
    if length > RECORD_PAYLOAD_BYTES_MAX or end > limit:
        raise RecordDamaged(offset, f"a length of {length} bytes does not fit")
    if its_group != group:
        raise RecordDamaged(offset, f"group {its_group} instead of {group}")
    return length, index, term, kind, end


def read_header(view: memoryview, offset: int, limit: int) -> tuple[int, int, int]:
    """(index, term, end) of the verified record at `offset`, of whatever group. Raises RecordDamaged.

    Recovery needs no more of a record than this, and a payload is not copied for it.
    """
    if offset + RECORD_HEADER_BYTES > limit:
        raise RecordDamaged(offset, "its header is cut off")
    _, length, index, term, _, _ = _HEADER.unpack_from(view, offset)
    end = record_end(offset, length)
    if length > RECORD_PAYLOAD_BYTES_MAX or end > limit:
        raise RecordDamaged(offset, f"a length of {length} bytes does not fit")
    verify_record(view, offset, length, end)
    return index, term, end


def record_end(offset: int, length: int) -> int:
    """Where the record at `offset` with a payload of `length` bytes ends, padding included."""
    return (offset + RECORD_HEADER_BYTES + length + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


def verify_record(view: memoryview, offset: int, length: int, end: int) -> None:
    """Checks crc and padding. Raises RecordDamaged."""
    if crc32(view[offset + _CRC.size : end]) != _CRC.unpack_from(view, offset)[0]:
        raise RecordDamaged(offset, "crc mismatch")
    padding_start = offset + RECORD_HEADER_BYTES + length
    if padding_start != end and any(view[padding_start:end]):
        raise RecordDamaged(offset, "padding that is not zero")
