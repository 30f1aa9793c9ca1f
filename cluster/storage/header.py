"""The head of a segment: whose log it is, its place in it, what must outlive the segments before it.

Two copies of 4,096 bytes, frames begin behind them. A change (formation, quarantine) writes the copy that does not
count, syncs, writes the other, syncs: a torn update leaves the older copy, and a copy that rots later leaves its twin.

    0  u32  crc32 (zlib) over bytes 4 to 4,095
    4  4 B  magic
    8  u16  format version: 2 if the log does not begin with entry 1, else 1
   10  u16  0
   12  u32  length of the meta block in bytes
   16  u64  salt
   24  u64  number of the segment
   32  u64  number of the segment before it in the log (0: none)
   40  u64  sequence number of its first frame: every lower one was durable before this segment existed
   48  u64  generation: the copy with the higher one counts
   56  u64  0
   64       meta block (msgpack of `Meta`), then zeros
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

HEADER_BYTES = 4_096
HEADER_COPIES = 2
FRAMES_START = HEADER_BYTES * HEADER_COPIES
HEADER_VERSION = 2      # the highest; version 1 knows no start of the log

_MAGIC = b"qSeg"
_CRC = struct.Struct("<I")
_FIELDS = struct.Struct("<4sHHIQQQQQQ")
_META_OFFSET = _CRC.size + _FIELDS.size
assert _META_OFFSET == 64


class HardState(Struct, array_like=True, frozen=True):
    """What Raft may not forget, and the commit index as a hint.

    In a segment's header the hint stays that of the moment before its first frame: recovery may keep no more
    than a part of the frames, and a later hint may speak of entries that replaced some of them.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0

    def raised(self, term: int, vote: int) -> "HardState":
        """The higher of both by (term, vote): to forget a vote is what is not safe."""
        return HardState(term, vote, self.commit) if (term, vote) > (self.term, self.vote) else self


class Damage(Struct, array_like=True, frozen=True):
    """Acknowledged bytes that cannot be read: `file` (kept aside under that name) from `offset` on.

    The entries that the log lacks begin with `first_index`; `last_index` is the highest one that was seen
    behind the damage, 0 if none was. `kept_aside` are files that left the log because of it, the first ones if there
    are many; `runs` are the (lowest, highest) numbers of all of them (`evidence`).
    """

    file: str
    offset: int
    first_index: int
    last_index: int
    reason: str
    kept_aside: tuple[str, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()  # earlier versions named every file, and read no further than that

    def __str__(self) -> str:
        through = f" to {self.last_index} at least" if self.last_index else " on"
        where = f"{self.file} at offset {self.offset}"
        return f"{where}: {self.reason}; lost are entries from {self.first_index}{through}"


class Quarantine(Struct, array_like=True, frozen=True):
    """This node's log may lack what it acknowledged: it does not vote and its answers count for nothing."""

    reason: str
    damage: Damage | None = None


class LogStart(Struct, array_like=True, frozen=True):
    """Where a log begins that was compacted or restarted: (index, term) of the entry before its first one, and its
    oldest segment. All 0 as long as it begins with entry 1."""

    index: int = 0
    term: int = 0
    segment: int = 0


class Meta(Struct, array_like=True, frozen=True):
    """The part of the header that may change while the segment is in use."""

    node: str
    cluster: str
    incarnation: int
    cluster_id: bytes = b""  # b"" until formation
    voters: tuple[str, ...] = ()  # the configuration the cluster was formed with
    hard_state: HardState = HardState()
    quarantine: Quarantine | None = None
    start: LogStart = LogStart()  # since version 2


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    salt: int
    number: int
    previous: int
    first_seq: int
    generation: int
    meta: Meta


class HeaderCopies(NamedTuple):
    """What the head of a file holds: the header that counts, if any, and how many copies are good."""

    header: SegmentHeader | None
    good_copies: int
    newer_version: int  # the format version of a copy that this program cannot read, else 0
    place: int  # which copy counts, 0 or 1


_meta_encoder = msgspec.msgpack.Encoder()
_meta_decoder = msgspec.msgpack.Decoder(Meta)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """One copy."""
    meta = _meta_encoder.encode(header.meta)
    assert _META_OFFSET + len(meta) <= HEADER_BYTES, f"{len(meta)} bytes of meta"
    assert header.number > 0
    assert header.previous < header.number
    # A program that knows version 1 only reads whatever was never compacted, and leaves the rest alone: to it the
    # segments that left the log would be damage.
    version = HEADER_VERSION if header.meta.start != LogStart() else 1
    fields = _FIELDS.pack(
        _MAGIC,
        version,
        0,
        len(meta),
        header.salt,
        header.number,
        header.previous,
        header.first_seq,
        header.generation,
        0,
    )
    tail = (fields + meta).ljust(HEADER_BYTES - _CRC.size, b"\0")
    return _CRC.pack(crc32(tail)) + tail


def decode_segment_header(data: bytes) -> HeaderCopies:
    """Reads the head of a segment, both copies of it."""
    best: SegmentHeader | None = None
    good = newer = place = 0
    for start in range(0, FRAMES_START, HEADER_BYTES):
        copy = data[start : start + HEADER_BYTES]
        if len(copy) < HEADER_BYTES or crc32(copy[_CRC.size :]) != _CRC.unpack_from(copy)[0]:
            continue
        magic, version, _, length, salt, number, previous, first_seq, generation, _ = _FIELDS.unpack_from(
            copy, _CRC.size
        )
        if magic != _MAGIC:
            continue
        if not 1 <= version <= HEADER_VERSION:
            newer = max(newer, version)
            continue
        good += 1
        if best is None or generation > best.generation:
            meta = _meta_decoder.decode(copy[_META_OFFSET : _META_OFFSET + length])
            best = SegmentHeader(salt, number, previous, first_seq, generation, meta)
            place = start // HEADER_BYTES
    return HeaderCopies(best, good, newer, place)
