"""Commands on their way into entries: order, groups, stamps, where an entry closes, and what waits for a later turn."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.broker import entries
from cluster.broker.entries import COMMAND_OVERHEAD_BYTES, ENTRY_BYTES_MAX, SLICE_BYTES, EntryBuilder
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


def commands_of(payloads: list[bytes]) -> list[Any]:
    """All commands behind the stamps, in order."""
    return [command for payload in payloads for _, _, group in decoded(payload)[1:] for command in group]


def wait(builder: EntryBuilder, *sizes: int, first: int = 1) -> None:
    """Submits numbered from `first` on, of so many bytes each with what they cost beside."""
    for seq, size in enumerate(sizes, start=first):
        builder.add_waiting(submit(seq), size - COMMAND_OVERHEAD_BYTES)


def turn(builder: EntryBuilder) -> list[int]:
    """One turn's end; the numbers of the submits that leave."""
    builder.fill()
    counts = builder.counts()
    payloads = builder.take(STAMP)
    assert len(payloads) == len(counts) and sum(counts) == len(commands_of(payloads))
    return [command[2] for command in commands_of(payloads) if command[0] == 1]


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
    assert commands_of(payloads) == encoded(*(submit(seq, size) for seq, size in enumerate(sizes, start=1)))
    assert all(len(payload) <= 2 * ENTRY_BYTES_MAX for payload in payloads)


# -- what waits -------------------------------------------------------------------------------------------------------


def test_what_waits_leaves_only_when_a_turn_is_filled():
    builder = EntryBuilder()
    wait(builder, 100)
    assert builder.is_waiting and builder.counts() == [] and builder.take(STAMP) == []
    assert builder.is_waiting
    assert turn(builder) == [1]
    assert not builder.is_waiting


def test_a_turn_takes_a_slice_of_512_kibibytes_at_most():
    assert SLICE_BYTES == 512 * 1024
    builder = EntryBuilder()
    wait(builder, *[SLICE_BYTES // 2] * 5)
    assert [turn(builder) for _ in range(4)] == [[1, 2], [3, 4], [5], []]


def test_a_command_that_does_not_fit_into_the_rest_of_a_slice_waits_for_the_next_and_nothing_passes_it():
    builder = EntryBuilder()
    wait(builder, 100, SLICE_BYTES - 99, 100)
    assert [turn(builder) for _ in range(3)] == [[1], [2], [3]]


def test_a_command_larger_than_a_slice_is_a_slice_of_its_own():
    builder = EntryBuilder()
    wait(builder, 100, 3 * SLICE_BYTES, 100)
    assert [turn(builder) for _ in range(3)] == [[1], [2], [3]]


def test_what_workers_say_comes_before_what_waited_and_is_not_sliced():
    builder = EntryBuilder()
    done = [Complete(2, seq, 1, [Outcome(5, seq, 0, 0, 0, b"")]) for seq in (1, 2, 3)]
    wait(builder, *[SLICE_BYTES // 2] * 4)
    assert turn(builder) == [1, 2]
    for command in done:
        builder.add(command, SLICE_BYTES)
    wait(builder, 100, first=5)
    builder.fill()
    assert commands_of(builder.take(STAMP)) == encoded(*done, submit(3), submit(4))
    assert turn(builder) == [5]


def test_bytes_are_of_both_lanes_until_they_leave():
    builder = EntryBuilder()
    builder.add(Expire(1, 2), 0)
    wait(builder, 1_000, SLICE_BYTES)
    assert builder.bytes == COMMAND_OVERHEAD_BYTES + 1_000 + SLICE_BYTES
    builder.fill()
    assert builder.bytes == COMMAND_OVERHEAD_BYTES + 1_000 + SLICE_BYTES, "a slice is still here"
    builder.take(STAMP)
    assert builder.bytes == SLICE_BYTES
    turn(builder)
    assert builder.bytes == 0


def test_what_waits_is_cleared_as_well():
    builder = EntryBuilder()
    wait(builder, 1_000, SLICE_BYTES)
    builder.fill()
    builder.clear()
    assert not builder.is_waiting and builder.bytes == 0 and turn(builder) == []
    wait(builder, SLICE_BYTES)
    builder.add(Expire(1, 2), 0)
    builder.take(STAMP)
    assert builder.bytes == SLICE_BYTES, "nothing of what was cleared is counted"


@pytest.mark.parametrize(("limit", "value"), [("WAITING_BYTES_MAX", 500), ("WAITING_COMMANDS_MAX", 5)])
def test_what_waits_is_bounded_in_bytes_and_in_number(monkeypatch, limit, value):
    monkeypatch.setattr(entries, limit, value)
    builder = EntryBuilder()
    wait(builder, *[100] * 4)
    assert not builder.is_full and builder.waiting == 4
    wait(builder, 100)
    assert builder.is_full
    builder.fill()
    assert not builder.is_full and builder.waiting == 0


def test_submits_are_withdrawn_in_order_and_the_rest_goes_on():
    builder = EntryBuilder()
    builder.add(submit(1), 1_000)
    wait(builder, 2_000, 3_000, first=2)
    builder.add_waiting(Cancel(1, 4, 1, [5]), 36)
    wait(builder, 4_000, first=5)
    assert builder.withdraw_submits() == [submit(2), submit(3), submit(5)]
    assert builder.bytes == 1_000 + 36 + 2 * COMMAND_OVERHEAD_BYTES and builder.waiting == 1
    builder.fill()
    assert commands_of(builder.take(STAMP)) == encoded(submit(1), Cancel(1, 4, 1, [5]))
    assert builder.bytes == 0 and not builder.is_waiting and not builder.is_full


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(COMMAND_OVERHEAD_BYTES, 2 * SLICE_BYTES)), max_size=30))
def test_nothing_that_waits_is_lost_and_order_is_kept(steps):
    """A step adds one command; before some a turn ends."""
    builder = EntryBuilder()
    left: list[list[int]] = []
    size_of = {seq: size for seq, (_, size) in enumerate(steps, start=1)}
    for seq, (ends, size) in enumerate(steps, start=1):
        if ends:
            left.append(turn(builder))
        wait(builder, size, first=seq)
        assert builder.bytes == sum(size_of[other] for other in range(1 + sum(map(len, left)), seq + 1))
    while builder.is_waiting:
        left.append(turn(builder))
    assert [seq for seqs in left for seq in seqs] == list(size_of)
    assert all(len(seqs) == 1 or sum(size_of[seq] for seq in seqs) <= SLICE_BYTES for seqs in left)
    assert builder.bytes == 0
