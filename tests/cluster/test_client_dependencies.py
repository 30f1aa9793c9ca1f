"""Handles in the arguments of a call: what the client puts into the body, what it says that the task needs, and what
the executor makes of that."""

import datetime
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from cluster import DependencyError, DependencyFailed, EncodeError, Handle, Outcome, after, group, task
from cluster.dependencies import EXT_END, EXT_OUTCOME, EXT_RESULT, KNOWN_BYTES_MAX, References
from cluster.encoding import DecodeError
from cluster.state.commands import NEEDS_MAX, Failure, Needs
from cluster.state.effects import STATE_CANCELLED, STATE_COMPLETED, STATE_FAILED, TaskResult
from cluster.state.inputs import End, Inputs

HERE: Any = object()        # the client of all handles


@dataclass
class Size:
    name: str
    at: datetime.datetime
    data: bytes = b""


@task
def typed(one: Size, many: list[Size], outcomes: list[Outcome[Size]], named: dict[str, Outcome[int]]) -> None: ...


@task
def untyped(one, *others, **named): ...  # type: ignore[no-untyped-def]


def handle(number: int, record: TaskResult | None = None) -> Handle[Any]:
    made: Handle[Any] = Handle(HERE, None)
    made.id = number
    if record is not None:
        made.deliver(record)
    return made


def encoded(*args: object, **kwargs: object) -> tuple[bytes, References]:
    body, references = untyped.encode_call(args, kwargs)
    assert references is not None
    return body, references


def test_a_call_without_handles_refers_to_nothing():
    body, references = untyped.encode_call((1, [2]), {"three": 3})
    assert references is None and body == untyped.encode((1, [2]), {"three": 3})


def test_handles_are_places_in_what_the_task_needs_each_task_once():
    body, references = encoded(handle(7), [handle(9), handle(7)], after(handle(7), outcome=True), key={"a": handle(9)})
    assert references.needs == Needs([7, 9], [7])
    args, kwargs = msgspec.msgpack.decode(body)
    code_and_place = [(one.code, one.data[-1]) for one in (args[0], *args[1], args[2], kwargs["key"]["a"])]
    assert code_and_place == [(EXT_RESULT, 0), (EXT_RESULT, 1), (EXT_RESULT, 0), (EXT_OUTCOME, 0), (EXT_RESULT, 1)]


def test_small_results_that_are_here_travel_with_the_call():
    done = handle(1, TaskResult(1, STATE_COMPLETED, 1, msgspec.msgpack.encode("text")))
    failed = handle(2, TaskResult(2, STATE_FAILED, 1, b"", Failure("ValueError", "no", "Traceback ...")))
    body, references = encoded(done, after(done, outcome=True), after(failed, outcome=True))
    assert references.needs is None
    args, _ = untyped.codec.decode_arguments(body)
    assert args == [
        "text", Outcome(1, "completed", "text"), Outcome(2, "failed", None, "ValueError: no")
    ]  # fmt: skip
    assert msgspec.msgpack.decode(body)[0][2].code == EXT_END
    _, references = encoded(failed)
    assert references.needs == Needs([2])       # the cluster says what becomes of who needs it


def test_large_results_that_are_here_are_referred_to_all_the_same():
    large = TaskResult(1, STATE_COMPLETED, 1, msgspec.msgpack.encode(bytes(KNOWN_BYTES_MAX // 2)))
    body, references = encoded(handle(1, large), handle(2, large))
    assert references.needs == Needs([2]) and len(body) < KNOWN_BYTES_MAX


def test_more_than_a_task_may_need_is_refused_with_the_one_that_is_too_many():
    encoded([handle(number) for number in range(1, NEEDS_MAX + 1)])
    with pytest.raises(DependencyError, match=f"task {NEEDS_MAX + 1} is one too many") as raised:
        encoded(group([handle(number) for number in range(1, NEEDS_MAX + 2)], outcomes=True))
    assert raised.value.value == NEEDS_MAX + 1 and str(NEEDS_MAX) in str(raised.value)


def test_what_cannot_travel_beside_a_handle_is_named():
    with pytest.raises(EncodeError, match="argument 2 of"):
        untyped.encode_call((handle(1), object()), {})
    with pytest.raises(EncodeError, match='argument "wrong" of'):
        untyped.encode_call((handle(1),), {"wrong": {1, handle}})
    with pytest.raises(EncodeError):
        untyped.encode((handle(1),), {})
    looped: list[object] = [handle(1)]
    looped.append(looped)
    with pytest.raises(EncodeError):
        untyped.encode_call((looped,), {})
    with pytest.raises(TypeError):
        typed.encode_call((handle(1),), {})


def test_values_arrive_as_the_annotations_say_in_results_and_in_outcomes():
    at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    body, references = typed.encode_call(
        (handle(1), [handle(1), Size("here", at, b"\x01")], group(handle(1), handle(2), outcomes=True)),
        {"named": {"x": after(handle(3), outcome=True)}},
    )
    assert references is not None and references.needs == Needs([1], [1, 2, 3])
    size = End(1, STATE_COMPLETED, msgspec.msgpack.encode(Size("a", at)))
    ends = [size, End(2, STATE_CANCELLED), End(3, STATE_COMPLETED, b"\x05")]
    args, kwargs = typed.codec.decode_arguments(msgspec.msgpack.encode(Inputs(body, [size], ends)))
    assert args == [
        Size("a", at), [Size("a", at), Size("here", at, b"\x01")],
        [Outcome(1, "completed", Size("a", at)), Outcome(2, "cancelled")],
    ]  # fmt: skip
    assert kwargs == {"named": {"x": Outcome(3, "completed", 5)}}
    wrong = [size, End(2, STATE_CANCELLED), End(3, STATE_COMPLETED, b"\xa1x")]
    with pytest.raises(DecodeError, match='argument "named"'):
        typed.codec.decode_arguments(msgspec.msgpack.encode(Inputs(body, [size], wrong)))


@task
def looks(one: Outcome[str], *, others: list[Outcome[str]] | None = None) -> None: ...


@task
def takes(one: str, *, others: list[str] | None = None) -> None: ...


def test_a_result_where_an_outcome_is_wanted_and_the_other_way_round_are_told_how_to_get_it():
    end = End(1, STATE_COMPLETED, msgspec.msgpack.encode("text"))

    def decoded(one: Any, argument: object, **named: object) -> object:
        body, _ = one.encode_call((argument,), named)
        return one.codec.decode_arguments(msgspec.msgpack.encode(Inputs(body, [end], [end])))

    outcome = after(handle(1), outcome=True)
    assert decoded(looks, outcome) and decoded(takes, handle(1))
    with pytest.raises(DecodeError, match=r"argument 1 of .*; an Outcome is what after\(handle, outcome=True\)"):
        decoded(looks, handle(1))
    with pytest.raises(DecodeError, match=r'argument "others" of .*; an Outcome is what after'):
        decoded(looks, outcome, others=group(handle(1)))
    with pytest.raises(DecodeError, match=r"argument 1 of .*; it is an Outcome: annotate it as one"):
        decoded(takes, outcome)
    with pytest.raises(DecodeError, match=r'argument "others" of .*; it is an Outcome'):
        decoded(takes, handle(1), others=group(handle(1), outcomes=True))
    with pytest.raises(DecodeError, match=r"got `int`$"):
        decoded(takes, 7)


def test_a_result_that_is_gone_fails_the_attempt_and_names_it():
    body, _ = encoded(handle(4))
    with pytest.raises(DependencyFailed, match="task 4 is not known") as raised:
        untyped.codec.decode_arguments(msgspec.msgpack.encode(Inputs(body, [End(4, -1)], [])))
    assert (raised.value.task, raised.value.state) == (4, "unknown")
    body, _ = encoded(after(handle(4), outcome=True))
    args, _ = untyped.codec.decode_arguments(msgspec.msgpack.encode(Inputs(body, [], [End(4, -1)])))
    assert args == [Outcome(4, "unknown")]


@pytest.mark.parametrize(
    "body",
    [
        b"\x93", b"\x93\x01\x02\x03", msgspec.msgpack.encode(Inputs(b"", [], [])),
        msgspec.msgpack.encode(Inputs(b"\x92\x91\xd6\x01\0\0\0\x01\x80", [], [])),
        msgspec.msgpack.encode(([msgspec.msgpack.Ext(EXT_RESULT, b"\0\0\0\0")], {})),
        msgspec.msgpack.encode(([msgspec.msgpack.Ext(99, b"")], {})),
        msgspec.msgpack.encode(([msgspec.msgpack.Ext(EXT_END, b"\xc1")], {})),
    ],
)  # fmt: skip
def test_a_body_of_no_client_of_ours_is_an_error_of_its_task(body):
    with pytest.raises(DecodeError):
        untyped.codec.decode_arguments(body)
