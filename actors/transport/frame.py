"""Frames: what travels between two processes as one message of the network.

A frame is a header of 24 bytes and a msgpack array of messages. Nothing of the body is decoded before it was
looked over (`check_shape`): a frame comes from whoever can reach the port.

Why a scan of our own: typed decoding is bounded by its types, but a `Raw` field, or one that a newer version
appended, may nest as deep as its bytes allow, and whoever decodes it later meets that depth, a child process
that runs user code among them. The scan walks the tokens without making objects, about 0.1 us each, and a
body of bytes is one token. Most frames never get there: bytes that cannot start a container cannot nest, so a
small frame with at most `DEPTH_MAX` bytes that could is fine; counting those is one pass of
`bytes.translate`.
"""

import struct
from enum import IntEnum

MAGIC = 0x31_51_52_51            # "QRQ1" as little-endian bytes
FRAME_VERSION = 1
HEADER = struct.Struct("<IHHQQ")  # magic, version, flags, session, seq
HEADER_BYTES = HEADER.size
FRAME_BYTES_MAX = 8 * 1024 * 1024
FRAME_MESSAGES_MAX = 4_096
FRAME_TOKENS_MAX = 1_000_000     # bounds the scan to about 0.1 s; honest frames have some thousands
DEPTH_MAX = 32                   # containers inside each other, the array of messages included
_COUNT_BYTES_MAX = 4_096         # above this the walk is cheaper than the count

assert HEADER_BYTES == 24, "the header is part of the wire format"


class Flags(IntEnum):
    """What a frame is; combinations are not frames."""

    DATA = 0
    HELLO = 1    # dialler -> listener: the first of a session; its body is exactly the hello
    RESET = 2    # listener -> dialler: this session is over here; no body, outside of the sequence


class Shape(IntEnum):
    """What `check_shape` found."""

    GOOD = 0
    TOO_DEEP = 1
    TOO_MANY = 2     # tokens, or messages
    BROKEN = 3       # not msgpack, cut off, or not an array


def reset_frame(session: int) -> bytes:
    """The frame with which a listener ends a session."""
    return HEADER.pack(MAGIC, FRAME_VERSION, Flags.RESET, session, 0)


def build_frame(flags: int, session: int, seq: int, messages: list[bytes]) -> bytes:
    """One frame of already encoded messages, in order; at most FRAME_MESSAGES_MAX of them."""
    count = len(messages)
    assert 0 < count <= FRAME_MESSAGES_MAX
    array = (0x90 | count).to_bytes(1, "big") if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((HEADER.pack(MAGIC, FRAME_VERSION, flags, session, seq), array, *messages))


def _token_sizes() -> tuple[int, ...]:
    """Whole size of a token by its first byte, for tokens of fixed size; 0 for the others."""
    sizes = [0] * 256
    for byte in range(0x80):            # positive fixint
        sizes[byte] = 1
    for byte in range(0xA0, 0xC0):      # fixstr
        sizes[byte] = 1 + (byte & 0x1F)
    for byte in range(0xE0, 0x100):     # negative fixint
        sizes[byte] = 1
    for byte in (0xC0, 0xC2, 0xC3):     # nil, false, true
        sizes[byte] = 1
    for power in range(4):              # integers of 1, 2, 4, 8 bytes, unsigned and signed
        sizes[0xCC + power] = sizes[0xD0 + power] = 1 + (1 << power)
    sizes[0xCA], sizes[0xCB] = 5, 9     # floats
    for byte, size in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16)):
        sizes[byte] = 2 + size          # fixext
    return tuple(sizes)


# Tokens with a length field: (bytes of the length, bytes between it and the content).
_LENGTHS = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),     # bin
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),     # str
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),     # ext
}  # fmt: skip
# Containers with a length field: (bytes of the length, values for each item).
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_SIZES = _token_sizes()
_FLAT_BYTES = bytes(byte for byte in range(256) if not (0x80 <= byte <= 0x9F or byte in _CONTAINERS))


def message_count(data: bytes) -> int:
    """How many messages the body announces; -1 if it is not an array."""
    first = data[HEADER_BYTES] if len(data) > HEADER_BYTES else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(data[HEADER_BYTES + 1 : HEADER_BYTES + 3], "big")
    if first == 0xDD:
        return int.from_bytes(data[HEADER_BYTES + 1 : HEADER_BYTES + 5], "big")
    return -1


def check_shape(data: bytes) -> Shape:
    """Looks over the body of a frame whose header is already known to be good."""
    count = message_count(data)
    if count < 0:
        return Shape.BROKEN
    if count > FRAME_MESSAGES_MAX:
        return Shape.TOO_MANY
    if len(data) <= _COUNT_BYTES_MAX and len(data.translate(None, _FLAT_BYTES)) <= DEPTH_MAX:
        return Shape.GOOD    # what is broken about it, decoding tells as well
    return walk(data, HEADER_BYTES)


def walk(data: bytes, position: int) -> Shape:
    """Walks one msgpack value from `position` to the end of `data`, token by token."""
    sizes = _SIZES
    left = 1                    # values still to come in the container that we are in
    outer: list[int] = []       # the same for those around it; their number is the depth
    try:
        for _ in range(FRAME_TOKENS_MAX):
            while left == 0:
                if not outer:
                    return Shape.GOOD if position == len(data) else Shape.BROKEN
                left = outer.pop()
            left -= 1
            byte = data[position]
            size = sizes[byte]
            if size:
                position += size
                continue
            if byte in _LENGTHS:
                width, extra = _LENGTHS[byte]
                content = position + 1 + width
                position = content + extra + int.from_bytes(data[position + 1 : content], "big")
                continue
            if byte < 0x90:
                values = (byte & 0x0F) * 2
                position += 1
            elif byte < 0xA0:
                values = byte & 0x0F
                position += 1
            else:
                width, each = _CONTAINERS[byte]
                values = int.from_bytes(data[position + 1 : position + 1 + width], "big") * each
                position += 1 + width
            if len(outer) == DEPTH_MAX:
                return Shape.TOO_DEEP
            if values > len(data) - position:
                return Shape.BROKEN    # each takes a byte at least
            outer.append(left)
            left = values
    except (IndexError, KeyError):    # cut off; 0xC1, which msgpack never uses
        return Shape.BROKEN
    return Shape.TOO_MANY
