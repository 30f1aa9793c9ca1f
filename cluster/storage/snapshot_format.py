"""A snapshot's bytes, the same in every broker's file and on the wire between them.

    0      header, 4,096 bytes
    4,096  chunks: a head of 16 bytes and 1 MiB of the stream, the last one less; so each has its place
           footer, 32 bytes

The stream is the parts one after another, each behind its length (u64). Little endian:

    header   0  u32  crc32 (zlib) over bytes 4 to 4,095
             4  4 B  magic
             8  u16  format version
            10  u16  0
            12  u32  length of the meta block in bytes
            16       meta block (msgpack of `SnapshotMeta`), then zeros
    chunk    0  u32  crc32 over bytes 4 to the end
             4  u32  length of what follows the head
             8  u32  number, from 0
            12  u32  the header's crc: a chunk of another snapshot is none of this one
    footer   0  u32  crc32 over bytes 4 to 31
             4  4 B  magic
             8  u32  number of chunks
            12  u32  crc32 over the stream
            16  u64  length of the stream in bytes
            24  u32  the header's crc
            28  u32  0

Every byte is covered by a crc of its own piece, so a chunk can be verified alone; the one over the stream says that
the pieces are those that the writer meant.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

HEADER_BYTES = 4_096
CHUNK_BYTES = 1024 * 1024  # of the stream
CHUNK_HEAD_BYTES = 16
FOOTER_BYTES = 32
SNAPSHOT_VERSION = 1
LENGTH_BYTES = 8  # in front of each part

_HEADER_MAGIC = b"qSnp"
_FOOTER_MAGIC = b"qEnd"
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<4sHHI")
_CHUNK = struct.Struct("<III")
_FOOTER = struct.Struct("<4sIIQII")
_LENGTH = struct.Struct("<Q")
_META_OFFSET = _CRC.size + _HEADER.size

assert _CRC.size + _CHUNK.size == CHUNK_HEAD_BYTES
assert _CRC.size + _FOOTER.size == FOOTER_BYTES
assert _LENGTH.size == LENGTH_BYTES


class SnapshotMeta(Struct, array_like=True, frozen=True):
    """What a snapshot stands for: the state after entry `index` of `term`, whose rolling digest is `rolling`."""

    index: int
    term: int
    machine_version: int
    now_ms: int  # the last stamp
    rolling: int
    cluster_id: bytes
    voters: tuple[str, ...]


class Footer(NamedTuple):
    chunk_count: int
    stream_crc: int
    stream_bytes: int


class Malformed(ValueError):
    """These bytes are not what they should be; `offset` is that of the damage in them."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


class NewerVersion(ValueError):
    """A header that a newer program wrote."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}")
        self.version = version


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SnapshotMeta)


def encode_header(meta: SnapshotMeta) -> bytes:
    block = _encoder.encode(meta)
    assert _META_OFFSET + len(block) <= HEADER_BYTES, f"{len(block)} bytes of meta"
    fields = _HEADER.pack(_HEADER_MAGIC, SNAPSHOT_VERSION, 0, len(block))
    tail = (fields + block).ljust(HEADER_BYTES - _CRC.size, b"\0")
    return _CRC.pack(crc32(tail)) + tail


def decode_header(data: bytes) -> SnapshotMeta:
    """Raises Malformed, NewerVersion."""
    if len(data) != HEADER_BYTES:
        raise Malformed(len(data), "the header is cut off")
    if crc32(data[_CRC.size :]) != _CRC.unpack_from(data)[0]:
        raise Malformed(0, "the header's crc does not match")
    magic, version, _, length = _HEADER.unpack_from(data, _CRC.size)
    if magic != _HEADER_MAGIC:
        raise Malformed(0, "not the header of a snapshot")
    if version > SNAPSHOT_VERSION:
        raise NewerVersion(version)
    try:
        return _decoder.decode(data[_META_OFFSET : _META_OFFSET + length])
    except msgspec.MsgspecError as error:
        raise Malformed(_META_OFFSET, f"the meta block: {error}") from None


def tag_of(header: bytes) -> int:
    """What binds chunks and footer to their header."""
    tag: int = _CRC.unpack_from(header)[0]
    return tag


def encode_chunk(number: int, tag: int, body: bytes | memoryview) -> bytes:
    assert 0 < len(body) <= CHUNK_BYTES
    head = _CHUNK.pack(len(body), number, tag)
    return b"".join((_CRC.pack(crc32(body, crc32(head))), head, body))


def verify_chunk(data: bytes, number: int, tag: int, footer: Footer) -> memoryview:
    """The part of the stream that chunk `number` holds. Raises Malformed."""
    expected = chunk_size(number, footer)
    if len(data) != expected:
        raise Malformed(0, f"chunk {number} has {len(data)} bytes instead of {expected}")
    view = memoryview(data)
    if crc32(view[_CRC.size :]) != _CRC.unpack_from(data)[0]:
        raise Malformed(0, f"the crc of chunk {number} does not match")
    if _CHUNK.unpack_from(data, _CRC.size) != (expected - CHUNK_HEAD_BYTES, number, tag):
        raise Malformed(0, f"it is not chunk {number} of this snapshot")
    return view[CHUNK_HEAD_BYTES:]


def encode_footer(footer: Footer, tag: int) -> bytes:
    tail = _FOOTER.pack(_FOOTER_MAGIC, footer.chunk_count, footer.stream_crc, footer.stream_bytes, tag, 0)
    return _CRC.pack(crc32(tail)) + tail


def decode_footer(data: bytes, tag: int) -> Footer:
    """Raises Malformed."""
    if len(data) != FOOTER_BYTES or crc32(data[_CRC.size :]) != _CRC.unpack_from(data)[0]:
        raise Malformed(0, "no whole footer: the snapshot was not finished, or its end is lost")
    magic, chunk_count, stream_crc, stream_bytes, its_tag, _ = _FOOTER.unpack_from(data, _CRC.size)
    if magic != _FOOTER_MAGIC or its_tag != tag:
        raise Malformed(0, "it is not the footer of this snapshot")
    if chunk_count != -(-stream_bytes // CHUNK_BYTES):
        raise Malformed(0, f"{chunk_count} chunks cannot hold {stream_bytes} bytes")
    return Footer(chunk_count, stream_crc, stream_bytes)


def chunk_offset(number: int) -> int:
    """Where chunk `number` begins in the file; that behind the last one is where the footer would, were it full."""
    return HEADER_BYTES + number * (CHUNK_HEAD_BYTES + CHUNK_BYTES)


def chunk_size(number: int, footer: Footer) -> int:
    """Of a chunk with its head."""
    return CHUNK_HEAD_BYTES + min(CHUNK_BYTES, footer.stream_bytes - number * CHUNK_BYTES)


def footer_offset(footer: Footer) -> int:
    return HEADER_BYTES + footer.stream_bytes + footer.chunk_count * CHUNK_HEAD_BYTES


def length_of(part: bytes) -> bytes:
    return _LENGTH.pack(len(part))


def split_parts(chunks: Iterable[memoryview], stream_bytes: int) -> Iterator[bytes]:
    """The parts of a stream that comes in chunks; no more than a part and a chunk are in memory. Raises Malformed, with
    the offset in the stream."""
    buffer = bytearray()
    missing = stream_bytes  # of the stream, behind what is in the buffer
    for chunk in chunks:
        buffer += chunk
        missing -= len(chunk)
        start = 0
        while start + LENGTH_BYTES <= len(buffer):
            length: int = _LENGTH.unpack_from(buffer, start)[0]
            end = start + LENGTH_BYTES + length
            if end > len(buffer) + missing:
                raise Malformed(stream_bytes - missing - len(buffer) + start, f"a part of {length} bytes does not fit")
            if end > len(buffer):
                break
            yield bytes(buffer[start + LENGTH_BYTES : end])
            start = end
        del buffer[:start]
    if buffer:
        raise Malformed(stream_bytes - len(buffer), "the stream ends in the middle of a part")
