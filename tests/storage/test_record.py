"""Records and frames: one encoding for each entry, and nothing else passes for one."""

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.raft.messages import Entry
from cluster.storage.frame import (
    FRAME_HEADER_BYTES,
    encode_header,
    find_frames,
    header_with_salt,
    parse_frame,
)
from cluster.storage.record import (
    ALIGNMENT_BYTES,
    RECORD_HEADER_BYTES,
    RecordDamaged,
    decode_records,
    encode_record,
)

U64 = (1 << 64) - 1

entries = st.lists(
    st.builds(
        Entry,
        index=st.integers(0, U64),
        term=st.integers(0, U64),
        kind=st.integers(0, 0xFFFF),
        payload=st.binary(max_size=80),
    ),
    max_size=6,
)


def frame_of(count: int = 3, *, salt: int = 77, seq: int = 5, first: int = 1, **fields: int) -> bytes:
    records = [encode_record(0, Entry(first + n, 1 + n // 2, 0, bytes(n * 5))) for n in range(count)]
    given_fields = {"synced_seq": 3, "term": 9, "vote": 2, "commit": 1, "truncate_from": 0} | fields
    return encode_header(records, salt=salt, seq=seq, **given_fields) + b"".join(records)


@settings(max_examples=100, deadline=None)
@given(entries)
def test_what_is_encoded_is_decoded_and_every_record_is_aligned(entries):
    records = [encode_record(3, entry) for entry in entries]
    assert all(len(record) % ALIGNMENT_BYTES == 0 for record in records)
    decoded = decode_records(b"".join(records), 3)
    assert decoded == entries
    assert [entry.record for entry in decoded] == records


def test_the_bytes_of_a_record_are_these():
    record = encode_record(1, Entry(2, 3, 1, b"hello"))
    tail = struct.pack("<IQQHH", 5, 2, 3, 1, 1) + b"hello" + bytes(7)
    assert record == struct.pack("<I", crc32(tail)) + tail
    assert len(record) == 40


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=30), st.data())
def test_any_flipped_bit_is_noticed(payload, data):
    record = bytearray(encode_record(0, Entry(1, 1, 0, payload)))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    record[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordDamaged):
        decode_records(bytes(record))


def test_padding_that_is_not_zero_is_refused_although_the_crc_covers_it():
    tail = encode_record(0, Entry(1, 1, 0, b"abc"))[4:-1] + b"\x01"
    with pytest.raises(RecordDamaged, match="padding"):
        decode_records(struct.pack("<I", crc32(tail)) + tail)


def test_a_record_cut_anywhere_and_one_of_another_group_are_refused():
    record = encode_record(0, Entry(1, 1, 0, b"abcdef"))
    for length in range(1, len(record)):
        with pytest.raises(RecordDamaged):
            decode_records(record[:length])
    with pytest.raises(RecordDamaged, match="group"):
        decode_records(record, 1)
    assert decode_records(b"") == []


def test_a_range_of_entries_is_decoded_without_looking_into_the_others():
    records = [encode_record(0, Entry(index, 1, 0, b"x" * index)) for index in range(10, 20)]
    broken = bytearray(b"".join(records))
    broken[RECORD_HEADER_BYTES] ^= 1
    found = decode_records(bytes(broken), from_index=12, to_index=15)
    assert [entry.index for entry in found] == [12, 13, 14]


def test_decoded_entries_pin_nothing_of_the_buffer():
    record = bytearray(encode_record(0, Entry(1, 1, 0, b"abc")))
    (entry,) = decode_records(memoryview(record))
    record[:] = bytes(len(record))
    record.clear()
    assert entry.payload == b"abc"
    assert type(entry.record) is bytes


def test_a_frame_is_read_as_it_was_written():
    data = frame_of(4, truncate_from=1)
    frame = parse_frame(data, 0, 77)
    assert frame is not None
    assert (frame.seq, frame.synced_seq, frame.term, frame.vote) == (5, 3, 9, 2)
    assert (frame.commit, frame.truncate_from) == (1, 1)
    assert (frame.first_index, frame.last_index, frame.runs) == (1, 4, ((1, 1), (3, 2)))
    assert frame.end == len(data)
    assert len(frame_of(0)) == FRAME_HEADER_BYTES == 64


def test_any_flipped_bit_or_cut_makes_a_frame_none():
    data = frame_of(2)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert parse_frame(bytes(flipped), 0, 77) is None, f"bit {bit}"
    for length in range(len(data)):
        assert parse_frame(data[:length], 0, 77) is None


def test_records_of_a_frame_must_follow_each_other():
    for indexes, terms in [((1, 3), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (1, 1)), ((1, 2), (2, 1))]:
        pairs = zip(indexes, terms, strict=True)
        records = [encode_record(0, Entry(index, term, 0, b"")) for index, term in pairs]
        header = encode_header(
            records, salt=77, seq=5, synced_seq=3, term=9, vote=2, commit=1, truncate_from=0
        )
        assert parse_frame(header + b"".join(records), 0, 77) is None


def test_a_frame_of_another_salt_is_not_a_frame_unless_any_is_asked_for():
    data = frame_of(1)
    assert parse_frame(data, 0, 78) is None
    assert parse_frame(data, 0, None) is not None


def test_a_frame_moves_to_another_salt_and_is_otherwise_the_same():
    data = frame_of(3)
    frame = parse_frame(data, 0, 77)
    assert frame is not None
    moved = header_with_salt(data, frame, 1234) + data[FRAME_HEADER_BYTES:]
    again = parse_frame(moved, 0, 1234)
    assert again == frame
    assert parse_frame(moved, 0, 77) is None


def test_frames_are_found_behind_bytes_that_make_no_sense_but_only_where_frames_can_be():
    first, second = frame_of(2, seq=5), frame_of(1, seq=6, first=3)
    salt = (77).to_bytes(8, "little")
    garbage = b"\xff" * 16 + salt + b"\xff" * 8 + salt + bytes(24)
    data = bytes(64) + garbage + first + garbage + second + bytes(100)
    assert [frame.seq for frame in find_frames(data, 0, 77)] == [5, 6]
    assert [frame.seq for frame in find_frames(data, 0, None)] == [5, 6]
    assert list(find_frames(b"\0" * 3 + first, 0, 77)) == [], "frames are aligned"
