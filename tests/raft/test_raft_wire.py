"""Messages survive the way through bytes; what is not a message is an error and nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft import wire
from cluster.raft.messages import Entry, EntryKind, Message, MessageType, SnapshotMark

ENCODE = msgspec.msgpack.Encoder().encode
DECODE = msgspec.msgpack.Decoder(list[tuple[int, int, int, bytes]]).decode
NUMBERS = st.integers(0, (1 << 63) - 1)


def record_of(entry: Entry) -> bytes:
    """Stands for a storage record: a length and the fields."""
    body = ENCODE([(entry.index, entry.term, entry.kind, entry.payload)])
    return len(body).to_bytes(4, "big") + body


def entries_of(data: bytes) -> list[Entry]:
    entries = []
    while data:
        size = int.from_bytes(data[:4], "big")
        entries += [Entry(*fields) for fields in DECODE(data[4 : 4 + size])]
        data = data[4 + size :]
    return entries


@st.composite
def messages(draw):
    index = draw(st.integers(0, 1 << 60))
    payloads = draw(st.lists(st.binary(max_size=20), max_size=4))
    kind = draw(st.sampled_from(MessageType))
    nodes = st.lists(NUMBERS, max_size=5).map(tuple)
    return Message(
        kind,
        draw(NUMBERS),
        draw(NUMBERS),
        draw(NUMBERS),
        index=index,
        log_term=draw(NUMBERS),
        commit=draw(NUMBERS),
        reject=draw(st.booleans()),
        reject_hint=draw(NUMBERS),
        round=draw(NUMBERS),
        quarantined=draw(st.booleans()),
        quarantine=draw(st.integers(-(1 << 60), 1 << 60)),
        entries=[
            Entry(index + at, draw(NUMBERS), EntryKind.NORMAL, payload) for at, payload in enumerate(payloads, 1)
        ],
        snapshot=(
            SnapshotMark(draw(NUMBERS), draw(NUMBERS), draw(nodes), draw(nodes), draw(nodes))
            if kind is MessageType.SNAPSHOT
            else None
        ),
    )


@given(messages())
def test_a_message_comes_back_as_it_was(message):
    assert wire.decode(wire.encode(message, record_of), entries_of) == message


def test_entries_travel_as_the_bytes_of_their_records():
    entry = Entry(4, 2, EntryKind.NORMAL, b"payload")
    data = wire.encode(Message(MessageType.APPEND, 1, 2, 2, index=3, entries=[entry]), record_of)
    assert record_of(entry) in data


def test_entries_that_do_not_follow_the_index_are_refused():
    entry = Entry(5, 2, EntryKind.NORMAL, b"")
    data = wire.encode(Message(MessageType.APPEND, 1, 2, 2, index=3, entries=[entry]), record_of)
    with pytest.raises(ValueError, match="do not follow index 3"):
        wire.decode(data, entries_of)


def test_a_snapshot_without_its_mark_is_refused_and_so_is_a_mark_elsewhere():
    mark = SnapshotMark(5, 2, (1, 2, 3))
    for message in (Message(MessageType.SNAPSHOT, 1, 2, 2), Message(MessageType.APPEND, 1, 2, 2, snapshot=mark)):
        with pytest.raises(ValueError, match="if and only if"):
            wire.decode(wire.encode(message, record_of), entries_of)


def test_a_message_from_before_there_were_snapshots_is_understood():
    message = Message(MessageType.HEARTBEAT, 1, 2, 2, commit=7)
    fields = msgspec.msgpack.decode(wire.encode(message, record_of))
    assert wire.decode(ENCODE(fields[:-1]), entries_of) == message


@given(st.binary(max_size=40))
def test_garbage_is_a_decode_error(data):
    with pytest.raises(msgspec.DecodeError):
        wire.decode(data, entries_of)
