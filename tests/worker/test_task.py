"""`@task`: options, names, and how arguments and results travel."""

import inspect
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest

from cluster.durations import milliseconds
from cluster.errors import BodyTooLarge, EncodeError, TaskNotFound
from cluster.state.commands import Options
from cluster.task import Task, current, registered_tasks, task, task_of

if TYPE_CHECKING:
    from some_module_that_only_checkers_see import Unknown  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Order(msgspec.Struct):
    id: UUID
    total: Decimal
    at: datetime


def through(one: Task[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as the executor sees them."""
    return one.codec.decode_arguments(one.encode(args, kwargs))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("250ms", 250),
        ("1d2h3m4s5ms", 93_784_005),
        ("1m1ms", 60_001),
        ("1.5s", 1_500),
        ("2d", 172_800_000),
        (2, 2_000),
        (0.25, 250),
        (0.0001, 1),
        (timedelta(minutes=1, microseconds=1), 60_001),
    ],
)
def test_durations_are_timedelta_seconds_or_text(given: object, expected: int):
    assert milliseconds("delay", given) == expected


WRONG_DURATIONS = ["", "5", "m5", "5 years", "-5s", -1, float("nan"), 1e300, timedelta(days=5_000)]


@pytest.mark.parametrize("given", WRONG_DURATIONS)
def test_a_wrong_duration_is_refused_by_name(given: object):
    with pytest.raises(ValueError, match="delay"):
        milliseconds("delay", given)
    for other in (True, None, b"5m"):
        with pytest.raises(TypeError, match="delay"):
            milliseconds("delay", other)


@pytest.mark.parametrize("digits", [8, 400, 5_000])
def test_a_duration_of_any_number_of_digits_is_out_of_range(digits: int):
    with pytest.raises(ValueError, match=r"delay: .* is out of range, 0 to 10 years are allowed"):
        milliseconds("delay", f"{'9' * digits}d")


@pytest.mark.parametrize("given", ["1M", "1H", "15 minutes", "1w", "٣s", "1h 30"])
def test_what_is_no_duration_is_answered_with_the_units(given: str):
    with pytest.raises(ValueError, match=r"is no duration; .* in the units d, h, m, s and ms, .*, in small letters"):
        milliseconds("delay", given)


@pytest.mark.parametrize("given", ["5m5m", "30s5m", "1h 30m 1h", "250ms1s", "1m2m3m", "-5m5m"])
def test_a_unit_that_is_written_twice_or_behind_a_smaller_one_is_refused(given: str):
    expected = f'delay: "{given}" is no duration; .* or "1h30m", .* each at most once and in this order'
    with pytest.raises(ValueError, match=expected):
        milliseconds("delay", given)


@pytest.mark.parametrize("given", ["-5s", "-1h30m", -1, -0.0001, timedelta(seconds=-1)])
def test_a_negative_duration_is_called_that_with_what_is_allowed(given: object):
    with pytest.raises(ValueError, match=r"delay: .* is negative; .* is 0 or more"):
        milliseconds("delay", given)


def test_a_name_among_the_options_of_a_call_is_answered_with_where_it_belongs():
    with pytest.raises(TypeError, match=r'"name" is no option of a call: .* with @task\(name=\.\.\.\)'):
        task(len).options(name="other")     # type: ignore[call-arg]


def test_a_decorated_function_stays_callable_and_keeps_its_name():
    @task
    def double(number: int) -> int:
        """Doubles."""
        return number * 2

    assert double(4) == 8
    assert double.__doc__ == "Doubles."
    assert double.name == f"{__name__}:{double.__qualname__}"
    assert registered_tasks()[double.name] is double
    assert double.wire_options is None


def test_options_of_the_decorator_are_overridden_by_a_copy():
    @task(timeout="5m", queue="mail", priority=3, labels=["b", "a"], retry=2)
    def send() -> None: ...

    urgent = send.options(priority=9, delay=timedelta(seconds=1), expires=60, result_ttl="2h")
    assert send.wire_options == Options("mail", 3, 300_000, labels=("a", "b"), retries=2)
    assert urgent.wire_options == Options("mail", 9, 300_000, 1_000, 60_000, 7_200_000, 2, ("a", "b"))
    assert urgent.name == send.name
    assert registered_tasks()[send.name] is send


def test_a_task_may_have_a_stable_name():
    @task(name="mail.send")
    def send() -> None: ...

    assert registered_tasks()["mail.send"] is send


def test_an_unknown_option_is_a_type_error_with_a_suggestion():
    with pytest.raises(TypeError, match='did you mean "timeout"'):
        task(timeot="5m")  # type: ignore[call-overload]

    @task
    def nothing() -> None: ...

    with pytest.raises(TypeError, match='did you mean "priority"'):
        nothing.options(prioritty=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("option", "value"),
    [("priority", 10), ("priority", -1), ("retry", -1), ("queue", ""), ("timeout", 0), ("queue", "q" * 256)],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: object):
    with pytest.raises(ValueError, match=option):
        task(**{option: value})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("option", "value"), [("priority", "9"), ("queue", 5), ("labels", "gpu"), ("retry", True)]
)
def test_an_option_of_a_wrong_type_is_refused_by_name(option: str, value: object):
    with pytest.raises(TypeError, match=option):
        task(**{option: value})  # type: ignore[call-overload]


def test_a_function_of_c_that_does_not_say_what_it_takes_takes_anything():
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(max)
    largest = task(name="builtin:max")(max)
    args, kwargs = largest.codec.decode_arguments(largest.encode((3, 7), {"key": None}))
    assert largest.function(*args, **kwargs) == 7


def test_only_tasks_that_workers_can_import_are_submitted():
    def plain() -> None: ...

    with pytest.raises(TaskNotFound, match="put @task above"):
        task_of(plain)
    with pytest.raises(TaskNotFound, match=r"^'jobs:count' is the name of a task at most: import the function"):
        task_of("jobs:count")

    @task
    def lives_in_main() -> None: ...

    lives_in_main.__module__ = "__main__"
    with pytest.raises(TaskNotFound, match="__main__"):
        task_of(lives_in_main)


def test_something_that_is_no_function_cannot_be_a_task():
    with pytest.raises(TypeError):
        task(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        task(task(lambda: None))


def test_without_annotations_arguments_arrive_as_plain_types():
    @task
    def untyped(*args, **kwargs): ...  # type: ignore[no-untyped-def]

    assert through(untyped, 1, (2, b"3"), at=Point(1, 2.5)) == ([1, [2, b"3"]], {"at": {"x": 1, "y": 2.5}})


def test_annotations_decide_what_arguments_become():
    @task
    def typed(
        point: Point,
        when: datetime,
        colour: Colour = Colour.RED,
        *orders: Order,
        ids: set[UUID] | None = None,
    ) -> None: ...

    now = datetime(2026, 1, 2, tzinfo=UTC)
    order = Order(UUID(int=1), Decimal("1.10"), now)
    args, kwargs = through(typed, Point(1), now, Colour.RED, order, order, ids={UUID(int=5)})
    assert args == [Point(1), now, Colour.RED, order, order]
    assert kwargs == {"ids": {UUID(int=5)}}
    assert through(typed, point=Point(2), when=now) == ([], {"point": Point(2), "when": now})


def test_an_integer_for_a_float_is_converted():
    @task
    def halve(number: float) -> float:
        return number / 2

    ((value,), _) = through(halve, 3)
    assert type(value) is float


def test_annotations_that_only_checkers_can_resolve_leave_arguments_plain():
    @task
    def odd(one: "Unknown", two: "Point") -> "Unknown": ...

    assert through(odd, [1], Point(1)) == ([[1], Point(1)], {})
    assert odd.decode_result(b"\x05") == 5


def test_an_argument_that_cannot_travel_is_named():
    @task
    def take(one: object, two: object = None, *, three: object = None) -> None: ...

    with pytest.raises(EncodeError, match=r"argument 2 of .*take.*object"):
        take.encode((1, object()), {})
    with pytest.raises(EncodeError, match='argument "three"'):
        take.encode((1,), {"three": lambda: None})
    with pytest.raises(EncodeError, match="argument 1"):
        take.encode((2**70,), {})
    with pytest.raises(EncodeError, match="argument 1"):
        take.encode(("\ud800",), {})


def test_arguments_that_do_not_fit_the_signature_are_refused_where_they_are_given():
    @task
    def two(one: int, other: int = 0) -> None: ...

    @task
    def keyword(*, one: int) -> None: ...

    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"another": 2}), ((1,), {"one": 1})]:
        with pytest.raises(TypeError):
            two.encode(args, kwargs)
    with pytest.raises(TypeError):
        keyword.encode((), {})
    keyword.encode((), {"one": 1})


def test_a_body_above_one_mebibyte_is_refused():
    @task
    def take(data: bytes) -> None: ...

    take.encode((bytes(1024 * 1024 - 100),), {})
    with pytest.raises(BodyTooLarge) as caught:
        take.encode((bytes(1024 * 1024),), {})
    assert caught.value.limit_bytes == 1024 * 1024


def test_arguments_that_do_not_fit_the_annotations_are_named():
    @task
    def take(point: Point, colour: Colour = Colour.RED) -> None: ...

    body = msgspec.msgpack.encode([[{"x": 1}], {"colour": "blue"}])
    with pytest.raises(EncodeError, match='argument "colour"'):
        take.codec.decode_arguments(body)
    for garbage in (b"", b"\xc1", b"\x05", msgspec.msgpack.encode([1, 2, 3])):
        with pytest.raises(EncodeError):
            take.codec.decode_arguments(garbage)


def test_results_travel_by_the_return_annotation():
    @task
    def where() -> list[Point]: ...

    @task
    async def later() -> Decimal: ...

    @task
    def plain(): ...  # type: ignore[no-untyped-def]

    assert where.decode_result(where.codec.encode_result([Point(1)])) == [Point(1)]
    assert later.decode_result(later.codec.encode_result(Decimal("2.50"))) == Decimal("2.50")
    assert plain.decode_result(plain.codec.encode_result(Point(1))) == {"x": 1, "y": 0.0}
    assert where.codec.encode_result(None) == b"\xc0"
    with pytest.raises(EncodeError, match="result of"):
        plain.codec.encode_result(object())


def test_current_is_for_the_inside_of_a_task():
    with pytest.raises(RuntimeError):
        current()


def test_two_functions_under_one_name_are_refused_where_the_second_is_defined():
    def first() -> None:
        """The one."""

    def second() -> None:
        """The other."""

    task(name="test_task:twice")(first)
    with pytest.raises(ValueError, match=r"two tasks are named 'test_task:twice'.*first and .*second"):
        task(name="test_task:twice")(second)
    assert task(name="test_task:twice")(first).name == "test_task:twice", "a module may be loaded again"


SNIPPET = """
from typing import ParamSpec, TypeVar
from cluster.task import Task, task
P = ParamSpec("P")
R = TypeVar("R")

@task
def sync(a: int, b: str = "") -> list[int]:
    return [a]

@task(timeout="5m", queue="q")
async def asynchronous(a: int) -> str:
    return ""

def submit(fn: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...  # type: ignore[empty-body]

good: list[int] = submit(sync, 1, b="x")
also: str = submit(asynchronous.options(priority=3), 1)
direct: list[int] = sync(1)
"""


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", ""),
        ('submit(sync, "x")', "arg-type"),
        ("submit(sync)", "call-arg"),
        ("submit(sync, 1, c=2)", "call-arg"),
        ("submit(asynchronous, None)", "arg-type"),
        ("wrong: int = submit(asynchronous, 1)", "assignment"),
        ("sync.options(prio=1)", "call-arg"),
        ('sync.options(priority="high")', "arg-type"),
    ],
)
def test_mypy_rejects_what_would_fail(tmp_path: Path, line: str, error: str):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET + line + "\n")
    cache = ROOT / ".mypy_cache" / "snippets"
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={cache}"]
    command = [sys.executable, "-m", "mypy", *options, str(snippet)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if error:
        assert f"[{error}]" in done.stdout
        assert done.stdout.count("error:") == 1
    else:
        assert done.returncode == 0, done.stdout
