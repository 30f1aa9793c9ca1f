"""What may become a command, and how its size is counted before it is encoded."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.broker.admission import COMMAND_BYTES_MAX, size_of
from cluster.broker.entries import COMMAND_OVERHEAD_BYTES, ENTRY_BYTES_MAX, EntryBuilder
from cluster.state.commands import (
    BODY_BYTES_MAX,
    NEEDS_MAX,
    REPLAY_TASKS_MAX,
    ROLE_WORKER,
    Acquire,
    Arm,
    Cancel,
    Close,
    Command,
    Complete,
    Expire,
    Extend,
    Failure,
    Fire,
    Lapse,
    LineRule,
    Needs,
    Options,
    Outcome,
    Register,
    Release,
    Replay,
    Resize,
    RetryRule,
    ScheduleSpec,
    Seen,
    Stamp,
    Steer,
    Submit,
    TaskGroup,
    Tick,
    Unmet,
    WorkerSpec,
)

STAMP = Stamp(1_000, 3)

numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
bodies = st.binary(max_size=60)
number_lists = st.lists(numbers, max_size=20)
text_tuples = st.lists(texts, max_size=5).map(tuple)


def every(kind: type[Any], *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Instances of a struct; a field that it gets some day needs a strategy, and a place in `size_of`."""
    assert len(fields) == len(kind.__struct_fields__), f"{kind.__name__} has other fields"
    return st.builds(kind, *fields)


unmet = every(Unmet, numbers, numbers, numbers)
failures = every(Failure, texts, texts, texts, numbers, numbers, texts, text_tuples, texts, st.none() | unmet)
rules = every(RetryRule, numbers, numbers, numbers, st.booleans(), text_tuples)
lines = every(LineRule, texts, texts, numbers, numbers, numbers)
options = every(
    Options,
    *(texts, numbers, numbers, numbers, numbers, numbers, numbers, text_tuples, st.none() | rules, numbers),
    *(texts, texts, st.none() | lines, numbers, texts, numbers),
)
needs = every(Needs, number_lists, number_lists)
groups = every(
    TaskGroup, texts, numbers, st.lists(bodies, max_size=20), st.none() | options, st.lists(needs, max_size=20)
)
outcomes = every(Outcome, numbers, numbers, numbers, numbers, numbers, bodies, st.none() | failures)
schedules = every(
    ScheduleSpec,
    *(texts, texts, texts, texts, numbers, numbers, texts, texts, st.booleans(), bodies, st.none() | options),
)
specs = every(
    WorkerSpec,
    *(numbers, text_tuples, text_tuples, numbers, text_tuples, text_tuples, numbers),
    st.lists(schedules, max_size=5).map(tuple),
    numbers,
)
commands = st.one_of(
    every(Submit, numbers, numbers, numbers, st.lists(groups, max_size=5), number_lists, numbers),
    every(Complete, numbers, numbers, numbers, st.lists(outcomes, max_size=5)),
    every(Cancel, numbers, numbers, numbers, number_lists, numbers),
    every(Replay, numbers, numbers, numbers, number_lists),
    every(
        Acquire,
        *(numbers, numbers, numbers, numbers, texts, numbers, numbers, numbers),
        *(st.booleans(), texts, numbers, st.booleans()),
    ),
    every(Release, numbers, numbers, numbers, number_lists, numbers),
    every(Extend, numbers, numbers, numbers, numbers, numbers, numbers),
    every(Lapse, number_lists, number_lists),
    every(Seen, numbers, number_lists),
    every(Register, texts, numbers, numbers, st.none() | specs),
    every(Expire, numbers, numbers),
    every(Close, numbers, numbers),
    every(Tick, numbers),
    every(Arm, texts, numbers, numbers),
    every(Fire, texts, numbers, numbers, number_lists, numbers, st.booleans()),
    every(Steer, numbers, numbers, numbers, texts, numbers),
    every(Resize, numbers, numbers, numbers, numbers),
)


@settings(deadline=None)
@given(commands)
def test_no_command_is_larger_than_it_is_counted(command: Command) -> None:
    assert len(msgspec.msgpack.encode(command)) <= size_of(command) + COMMAND_OVERHEAD_BYTES


@pytest.mark.parametrize(
    "command",
    [
        Submit(1, 1, 1, [TaskGroup("m:f" * 100, 1, [bytes(BODY_BYTES_MAX)], Options(labels=("x" * 255,) * 32))]),
        Submit(1, 1, 1, [TaskGroup("module.of.tasks:function", 1, [b"x" * 256] * 1_024)]),
        Submit(1, 1, 1, [TaskGroup("m:f", 1, [bytes(BODY_BYTES_MAX)], None, [Needs([2**63 - 1] * NEEDS_MAX)])]),
        Complete(1, 1, 1, [Outcome(1, 1, 0, 1, 1, bytes(BODY_BYTES_MAX))]),
        Complete(1, 1, 1, [Outcome(1, 1, 1, 1, 1, b"", Failure("E", "\N{SNOWMAN}" * 1_300, "t" * 8_000))] * 16),
        Cancel(1, 1, 1, list(range(1_024))),
        Replay(1, 1, 1, list(range(REPLAY_TASKS_MAX))),
        Register("w1", 1, ROLE_WORKER, WorkerSpec(8, ("default",), tuple(f"some.module:f{n}" for n in range(4_096)))),
    ],
    ids=["large body", "many bodies", "many needs", "large result", "many failures", "cancel", "replay", "many names"],
)
def test_whatever_senders_of_ours_send_is_admitted(command: Command) -> None:
    assert size_of(command) <= COMMAND_BYTES_MAX


def test_entries_of_failures_stay_within_two_mebibytes() -> None:
    """Bodies are empty here: it is the evidence that fills them."""
    builder = EntryBuilder()
    failure = Failure("ValueError", "m" * 4_096, "t" * 8_192, stderr="s" * 4_096)
    command = Complete(1, 1, 1, [Outcome(1, 1, 1, 1, 1, b"", failure)] * 16)
    for _ in range(200):
        builder.add(command, size_of(command))
    payloads = builder.take(STAMP)
    assert max(map(len, payloads)) <= ENTRY_BYTES_MAX + COMMAND_BYTES_MAX
    assert len(payloads) > 40
