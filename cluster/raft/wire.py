"""Messages of the core as bytes. Entries travel as the concatenation of their storage records, unchanged.

The shell gives the two functions that know records: this package does not import storage.
"""

from collections.abc import Callable

import msgspec

from cluster.raft.messages import Entry, Message, MessageType, SnapshotMark


class MessageFields(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A Message on the wire; `records` are the entries'."""

    type: MessageType
    to: int
    sender: int
    term: int
    index: int
    log_term: int
    commit: int
    reject: bool
    reject_hint: int
    round: int
    quarantined: bool
    quarantine: int
    records: bytes
    snapshot: SnapshotMark | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MessageFields).decode


def encode(message: Message, record_of: Callable[[Entry], bytes]) -> bytes:
    records = b"".join([record_of(entry) for entry in message.entries]) if message.entries else b""
    return _encode(
        MessageFields(
            message.type,
            message.to,
            message.sender,
            message.term,
            message.index,
            message.log_term,
            message.commit,
            message.reject,
            message.reject_hint,
            message.round,
            message.quarantined,
            message.quarantine,
            records,
            message.snapshot,
        )
    )


def decode(data: bytes, entries_of: Callable[[bytes], list[Entry]]) -> Message:
    """Raises msgspec.DecodeError or what `entries_of` raises for damaged records; ValueError if the entries do not
    follow on the message's index, or if a snapshot's mark is missing or out of place."""
    fields = _decode(data)
    entries = entries_of(fields.records) if fields.records else []
    if any(entry.index != fields.index + offset for offset, entry in enumerate(entries, start=1)):
        raise ValueError(f"entries do not follow index {fields.index}")
    if (fields.type is MessageType.SNAPSHOT) != (fields.snapshot is not None):
        raise ValueError("a message has a snapshot if and only if it is about one")
    return Message(
        fields.type,
        fields.to,
        fields.sender,
        fields.term,
        fields.index,
        fields.log_term,
        fields.commit,
        fields.reject,
        fields.reject_hint,
        fields.round,
        fields.quarantined,
        fields.quarantine,
        entries,
        fields.snapshot,
    )
