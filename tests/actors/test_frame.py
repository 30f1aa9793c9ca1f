"""The frame format, and the look at a body before it is decoded."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.transport.frame import (
    DEPTH_MAX,
    FRAME_MESSAGES_MAX,
    FRAME_TOKENS_MAX,
    FRAME_VERSION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    Flags,
    Shape,
    build_frame,
    check_shape,
    message_count,
    reset_frame,
    walk,
)

encode = msgspec.msgpack.encode

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda children: (
        st.lists(children, max_size=20) | st.dictionaries(st.text(max_size=5), children, max_size=20)
    ),
    max_leaves=60,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def frame_of(body: bytes) -> bytes:
    return HEADER.pack(MAGIC, FRAME_VERSION, Flags.DATA, 1, 1) + body


def nested(levels: int, wide: int = 0) -> bytes:
    """A list inside a list, so many deep; each with `wide` numbers before the next."""
    return (bytes([0x90 | (wide + 1)]) + b"\x01" * wide) * (levels - 1) + b"\x90"


def test_a_frame_is_a_header_of_24_bytes_and_an_array_of_the_messages():
    frame = build_frame(Flags.HELLO, 7, 9, [encode(1), encode("two")])
    assert HEADER.unpack_from(frame) == (MAGIC, FRAME_VERSION, Flags.HELLO, 7, 9)
    assert HEADER_BYTES == 24
    assert msgspec.msgpack.decode(frame[HEADER_BYTES:]) == [1, "two"]


@pytest.mark.parametrize("count", [1, 15, 16, 255, FRAME_MESSAGES_MAX])
def test_the_number_of_messages_is_readable_without_decoding(count):
    frame = build_frame(Flags.DATA, 1, 0, [encode(5)] * count)
    assert message_count(frame) == count
    assert check_shape(frame) is Shape.GOOD
    assert msgspec.msgpack.decode(frame[HEADER_BYTES:]) == [5] * count


def test_a_reset_frame_has_no_body():
    assert len(reset_frame(3)) == HEADER_BYTES


@given(st.lists(values, min_size=1, max_size=30))
def test_what_msgpack_encodes_within_the_depth_is_good(messages):
    frame = frame_of(encode(messages))
    good = depth(messages) <= DEPTH_MAX
    assert (check_shape(frame) is Shape.GOOD) == good
    assert (walk(frame, HEADER_BYTES) is Shape.GOOD) == good


@given(values)
def test_the_walk_ends_exactly_at_the_end_of_the_value(value):
    assert walk(encode(value), 0) is Shape.GOOD
    assert walk(encode(value) + b"\x00", 0) is Shape.BROKEN


@given(st.lists(values, min_size=1), st.data())
def test_a_value_that_is_cut_off_is_broken(messages, data):
    encoded = encode(messages)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert walk(encoded[:cut], 0) is Shape.BROKEN


@given(st.binary(max_size=2_000))
def test_random_bytes_never_raise_and_what_passes_decodes_or_fails_cleanly(body):
    frame = frame_of(body)
    if check_shape(frame) is Shape.GOOD:
        try:
            msgspec.msgpack.decode(body, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, ValueError) as error:
            assert str(error)


@pytest.mark.parametrize("wide", [0, 3, 14])
def test_depth_is_limited_to_exactly_32_whatever_else_a_level_holds(wide):
    assert check_shape(frame_of(nested(DEPTH_MAX, wide))) is Shape.GOOD
    assert check_shape(frame_of(nested(DEPTH_MAX + 1, wide))) is Shape.TOO_DEEP


def test_a_million_levels_are_refused_at_the_33rd():
    assert check_shape(frame_of(b"\x91" * 1_000_000 + b"\x90")) is Shape.TOO_DEEP


def test_maps_nest_too():
    assert check_shape(frame_of(b"\x91" + b"\x81\xa1k" * DEPTH_MAX + b"\xc0")) is Shape.TOO_DEEP


def test_a_body_of_bytes_that_look_like_containers_is_not_deep():
    assert check_shape(frame_of(encode([b"\x91" * 100_000]))) is Shape.GOOD
    assert check_shape(frame_of(encode([b"\x91" * 100]))) is Shape.GOOD


def test_an_announced_length_beyond_the_frame_is_broken_and_nothing_is_allocated_for_it():
    assert check_shape(frame_of(b"\xdc\x00\x01" + b"\xdd\xff\xff\xff\xff" + b"\x90" * 60)) is Shape.BROKEN
    assert check_shape(frame_of(b"\xdd\xff\xff\xff\xff")) is Shape.TOO_MANY


def test_a_body_that_is_no_array_is_broken():
    for body in (b"", b"\x80", b"\xc0", b"\xc1", encode("text"), encode({"a": 1})):
        assert check_shape(frame_of(body)) is Shape.BROKEN


def test_more_tokens_than_the_limit_are_refused():
    """It bounds how long a stranger can keep the loop busy with one frame."""
    count = FRAME_TOKENS_MAX + 1
    assert check_shape(frame_of(b"\x91\xdd" + count.to_bytes(4, "big") + b"\x00" * count)) is Shape.TOO_MANY
