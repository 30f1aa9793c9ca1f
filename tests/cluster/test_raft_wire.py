"""Messages of the Raft core as bytes, with entries as the records that disks hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft import wire
from cluster.raft.messages import Entry, EntryKind, Message, MessageType
from cluster.storage.record import GROUP, decode_records, encode_record

NUMBERS = st.integers(0, 2**63 - 1)


def record_of(entry: Entry) -> bytes:
    return encode_record(GROUP, entry)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    index = draw(st.integers(0, 2**60))
    payloads = draw(st.lists(st.binary(max_size=50), max_size=5))
    term = draw(st.integers(0, 2**60))
    kinds = st.sampled_from(list(EntryKind))
    return Message(
        draw(st.sampled_from(list(MessageType))),
        draw(st.integers(0, 7)),
        draw(st.integers(0, 7)),
        term,
        index,
        draw(NUMBERS),
        draw(NUMBERS),
        draw(st.booleans()),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(st.booleans()),
        draw(st.integers(-(2**62), 2**62)),
        [Entry(index + n, term, draw(kinds), payload) for n, payload in enumerate(payloads, start=1)],
    )


def fields(message: Message) -> tuple[object, ...]:
    entries = [(entry.index, entry.term, entry.kind, entry.payload) for entry in message.entries]
    return (*msgspec.structs.astuple(message)[:-1], entries)


@given(messages())
def test_a_message_arrives_as_it_was_sent(message):
    assert fields(wire.decode(wire.encode(message, record_of), decode_records)) == fields(message)


def test_entries_arrive_with_the_record_that_the_disk_gets():
    entry = Entry(5, 2, EntryKind.NORMAL, b"payload")
    message = Message(MessageType.APPEND, 2, 1, 2, index=4, entries=[entry])
    (arrived,) = wire.decode(wire.encode(message, record_of), decode_records).entries
    assert arrived.record == entry.record == encode_record(GROUP, Entry(5, 2, EntryKind.NORMAL, b"payload"))


@given(messages().filter(lambda message: message.entries), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_in_an_entry_is_refused(message, position, bit):
    records = b"".join(record_of(entry) for entry in message.entries)
    encoded = bytearray(wire.encode(message, record_of))
    start = bytes(encoded).index(records)
    encoded[start + position % len(records)] ^= 1 << bit
    with pytest.raises((ValueError, msgspec.DecodeError)):
        wire.decode(bytes(encoded), decode_records)


@pytest.mark.parametrize("indexes", [[6], [5, 7], [5, 5], [4]])
def test_entries_that_do_not_follow_on_the_index_are_refused(indexes):
    entries = [Entry(index, 1, EntryKind.NORMAL, b"") for index in indexes]
    encoded = wire.encode(Message(MessageType.APPEND, 2, 1, 1, index=4, entries=entries), record_of)
    with pytest.raises(ValueError, match="do not follow index 4"):
        wire.decode(encoded, decode_records)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_comes_of_it(garbage):
    try:
        wire.decode(garbage, decode_records)
    except (ValueError, msgspec.DecodeError):
        pass
    else:
        raise AssertionError("it was taken for a message")
