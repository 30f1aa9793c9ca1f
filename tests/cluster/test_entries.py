"""Commands of one turn on their way into entries: order, groups, stamps, and where an entry closes."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.broker.entries import ENTRY_BYTES_MAX, EntryBuilder
from cluster.state.commands import (
    MACHINE_VERSION,
    Cancel,
    Command,
    Complete,
    Expire,
    Outcome,
    Stamp,
    Submit,
    TaskGroup,
)

STAMP = Stamp(1_000, 3)


def decoded(payload: bytes) -> list[tuple[int, int, list[Any]]]:
    return [tuple(group) for group in msgspec.msgpack.decode(payload)]


def encoded(*commands: Command) -> list[Any]:
    """As they lie in a group."""
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(command)) for command in commands]


def submit(seq: int, size: int = 10) -> Submit:
    return Submit(1, seq, 1, [TaskGroup("m:f", seq, [bytes(size)])])


def test_without_commands_there_is_no_entry():
    assert EntryBuilder().take(STAMP) == []


def test_an_entry_begins_with_the_stamp_and_neighbours_of_one_kind_share_a_group():
    builder = EntryBuilder()
    done = Complete(2, 1, 1, [Outcome(5, 1, 0, 0, 0, b"")])
    cancel = Cancel(1, 3, 1, [5])
    for command in (submit(1), submit(2), done, cancel, submit(4)):
        builder.add(command, 10)
    (payload,) = builder.take(STAMP)
    assert decoded(payload) == [
        (0, MACHINE_VERSION, encoded(STAMP)),
        (1, MACHINE_VERSION, encoded(submit(1), submit(2))),
        (2, MACHINE_VERSION, encoded(done)),
        (7, MACHINE_VERSION, encoded(cancel)),
        (1, MACHINE_VERSION, encoded(submit(4))),
    ]


def test_what_was_taken_does_not_come_again():
    builder = EntryBuilder()
    builder.add(Expire(1, 2), 0)
    assert len(builder.take(STAMP)) == 1
    assert builder.take(STAMP) == [] and builder.bytes == 0


def test_what_was_cleared_does_not_come_at_all():
    builder = EntryBuilder()
    builder.add(Expire(1, 2), 0)
    builder.clear()
    assert builder.take(STAMP) == [] and builder.bytes == 0


def test_an_entry_closes_at_one_mebibyte_and_each_has_a_stamp():
    builder = EntryBuilder()
    for seq in range(1, 6):
        builder.add(submit(seq, 400_000), 400_000)
    payloads = builder.take(STAMP)
    assert [len(decoded(payload)[1][2]) for payload in payloads] == [2, 2, 1]
    assert all(decoded(payload)[0] == (0, MACHINE_VERSION, encoded(STAMP)) for payload in payloads)


def test_the_largest_command_has_an_entry_of_its_own():
    builder = EntryBuilder()
    for seq, size in enumerate((10, 1024 * 1024, 10), start=1):
        builder.add(submit(seq, size), size)
    payloads = builder.take(STAMP)
    assert [len(payload) > 1024 * 1024 for payload in payloads] == [False, True, False]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 1_000), st.integers(100_000, ENTRY_BYTES_MAX)), max_size=12))
def test_all_commands_arrive_in_order_and_no_entry_passes_two_mebibytes(sizes):
    builder = EntryBuilder()
    for seq, size in enumerate(sizes, start=1):
        builder.add(submit(seq, size), size)
    payloads = builder.take(STAMP)
    commands = [command for payload in payloads for _, _, group in decoded(payload)[1:] for command in group]
    assert commands == encoded(*(submit(seq, size) for seq, size in enumerate(sizes, start=1)))
    assert all(len(payload) <= 2 * ENTRY_BYTES_MAX for payload in payloads)
