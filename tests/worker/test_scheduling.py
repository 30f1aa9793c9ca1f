"""`@cron` and `@every`: what they make of a function, what they refuse, and what a worker announces of them."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from cluster import Backoff, ScheduleError, Task, TaskActor, cron, current, every, scheduling, task
from cluster.scheduling import announced, registered_schedules
from cluster.state.commands import MISFIRES, ON_BUSY, WORKER_SCHEDULES_MAX, Options, ScheduleSpec
from cluster.task import AsyncTask, running


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scheduling, "_registry", {})
    yield


def plain(times: int = 1, *rest: object, **others: object) -> int:
    return times


# -- what becomes of a function ----------------------------------------------------------------------------------


def test_a_task_stays_what_it_was_and_is_announced():
    @cron("0 21 * * MON-FRI", tz="Asia/Seoul", misfire="skip", on_busy="queue")
    @task(name="reports:nightly", queue="reports", retry=Backoff(2))
    def nightly() -> str:
        return "done"

    assert isinstance(nightly, Task) and nightly() == "done"
    (spec,) = announced()
    assert (spec.name, spec.task) == ("reports:nightly", "reports:nightly")
    assert (spec.expression, spec.zone, spec.period_ms, spec.anchor_ms) == ("0 21 * * MON-FRI", "Asia/Seoul", 0, 0)
    assert (spec.misfire, spec.on_busy, spec.exclusive) == ("skip", "queue", True)
    assert spec.options == nightly.wire_options and spec.options is not None and spec.options.queue == "reports"
    assert nightly.codec.decode_arguments(spec.body) == ([], {})


def test_a_plain_function_becomes_a_task_with_defaults():
    @every("15m")
    def tidy() -> int:
        return 7

    @every("15m")
    async def sweep() -> int:
        return 8

    assert type(tidy) is Task and tidy() == 7 and tidy.settings == Options()
    assert type(sweep) is AsyncTask and asyncio.run(sweep()) == 8
    names = [spec.name for spec in announced()]
    assert names == sorted([tidy.name, sweep.name]) and all(spec.options is None for spec in announced())


def test_what_is_left_out_is_said():
    cron("0 0 * * *")(task(name="tests:a")(plain))
    (spec,) = announced()
    assert (spec.zone, spec.misfire, spec.on_busy, spec.exclusive) == ("UTC", "once", "skip", True)


def test_one_function_has_several_schedules_if_their_names_differ():
    @cron("0 9 * * *", name="morning")
    @cron("0 21 * * *", name="evening")
    @every("1h")
    @task(name="tests:often")
    def often() -> None: ...

    assert list(registered_schedules()) == ["tests:often", "evening", "morning"]
    assert {spec.task for spec in announced()} == {"tests:often"}


def test_a_copy_of_a_task_with_other_options_is_scheduled_with_these():
    small = task(name="tests:copied")(plain)
    every("1m", name="large")(small.options(priority=9, expires="1m"))
    (spec,) = announced()
    assert spec.options == Options(priority=9, expires_ms=60_000)


@pytest.mark.parametrize(
    ("anchor", "anchor_ms"),
    [
        (None, 0),
        (datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC), 1_500),
        (datetime(2026, 1, 1, 9, tzinfo=ZoneInfo("Asia/Seoul")), 1_767_225_600_000),
        (datetime(1969, 12, 31, 23, tzinfo=UTC), -3_600_000),
    ],
)
def test_an_interval_counts_from_its_anchor(anchor: datetime | None, anchor_ms: int):
    every(timedelta(hours=1), anchor=anchor, name="hourly")(task(name="tests:anchored")(plain))
    (spec,) = announced()
    assert (spec.expression, spec.zone, spec.period_ms, spec.anchor_ms) == ("", "", 3_600_000, anchor_ms)


# -- what is refused where it is defined -------------------------------------------------------------------------


WRONG_VALUES: list[tuple[Any, type[Exception], str]] = [
    (lambda: cron("61 * * * *"), ScheduleError, 'minute: "61" is not known; allowed are 0 to 59'),
    (lambda: cron("0 0 31 2 *"), ScheduleError, "never comes"),
    (lambda: cron("0 0 * * *", tz="Berlin"), ScheduleError, 'did you mean "Europe/Berlin"'),
    (lambda: cron(5), TypeError, "cron: expected text, not 5"),
    (lambda: cron("0 0 * * *", tz=None), TypeError, "tz: expected text, not None"),
    (lambda: every("often"), ScheduleError, 'every: "often" is no period; allowed are 1 s to 3650 d'),
    (lambda: every("often"), ScheduleError, "in the units d, h, m, s and ms, each at most once and in this order"),
    (lambda: every("30m1h"), ScheduleError, 'every: "30m1h" is no period; allowed are 1 s to 3650 d'),
    (lambda: every("10ms"), ScheduleError, "is too short"),
    (lambda: every(None), TypeError, "every: expected a timedelta"),
    (lambda: every("1h", anchor="noon"), TypeError, "anchor: expected a datetime, not 'noon'"),
    (lambda: every("1h", anchor=datetime(2026, 1, 1)), ValueError, "has no time zone"),
    (lambda: every("1h", name=7), TypeError, "name: expected a str, not 7"),
    (lambda: every("1h", name=""), ValueError, "1 to 512 bytes"),
    (lambda: every("1h", name="é" * 300), ValueError, "1 to 512 bytes"),
    (lambda: every("1h", exclusive="yes"), TypeError, "exclusive: expected True or False, not 'yes'"),
    (lambda: every("1h", misfire="maybe"), ValueError, "misfire: 'maybe' is none; allowed are skip, once, all"),
    (lambda: every("1h", misfire=None), TypeError, "misfire: expected one of skip, once, all, not None"),
    (lambda: every("1h", on_busy="drop"), ValueError, "'drop' is none; allowed are skip, queue, wait, replace"),
    (lambda: every("1h", on_busy=True), TypeError, "on_busy: expected one of"),
    (lambda: every("1h", on_busy="skip", exclusive=False), ValueError, "leave one of the two out"),
    (lambda: every("1h", misfire="all"), ValueError, 'on_busy="skip" would leave one or two'),
    (lambda: cron("0 0 * * *", misfire="all", on_busy="replace"), ValueError, 'on_busy="replace" would leave'),
]


@pytest.mark.parametrize(("make", "error", "says"), WRONG_VALUES, ids=[says for _, _, says in WRONG_VALUES])
def test_a_wrong_value_is_refused_with_its_name_and_what_is_allowed(make, error, says):
    with pytest.raises(error) as raised:
        make()
    assert says in str(raised.value)


def test_all_is_allowed_where_each_slot_can_run():
    every("1h", misfire="all", on_busy="queue")
    every("1h", misfire="all", exclusive=False)


class Model(TaskActor, name="tests:Scheduled"):
    def method(self) -> None: ...


WRONG_FUNCTIONS: list[tuple[Any, str]] = [
    (lambda: every("1h")(task(name="tests:n1")(lambda left, right=1: left)), "needs 'left'"),
    (lambda: every("1h")(lambda *, key: key), "needs 'key', and a schedule calls it without arguments"),
    (lambda: every("1h")(7), "@every takes a task, or a plain function, not 7"),
    (lambda: cron("0 0 * * *")(print.__class__), "@cron takes a task, or a plain function"),
    (lambda: every("1h")(task(name="tests:n2")(plain).options(fence=3)), "has a fence"),
    (lambda: task(every("1h")(task(name="tests:n3")(plain))), "it belongs below @cron and @every"),
]


@pytest.mark.parametrize(("make", "says"), WRONG_FUNCTIONS, ids=[says for _, says in WRONG_FUNCTIONS])
def test_what_cannot_be_called_without_arguments_is_refused(make, says):
    with pytest.raises(TypeError) as raised:
        make()
    assert says in str(raised.value)


def test_methods_of_a_task_actor_are_refused():
    from cluster.task_actor import definition_of

    with pytest.raises(TypeError, match="write a task that calls the actor"):
        every("1h")(definition_of(Model).tasks["method"])
    with pytest.raises(TypeError, match="needs 'self'"):

        class Other(TaskActor):
            @every("1h")
            def method(self) -> None: ...


def test_two_schedules_of_one_name_are_refused_and_a_module_may_be_loaded_again():
    made = task(name="tests:twice")(plain)
    every("1h")(made)
    with pytest.raises(ValueError, match="tests:twice has two schedules named 'tests:twice': give one of them another"):
        cron("0 0 * * *")(made)

    def another() -> None: ...

    with pytest.raises(ValueError, match="two schedules are named 'tests:twice', of "):
        every("1h", name="tests:twice")(another)

    def again() -> Task[..., Any]:
        def loaded() -> None: ...

        return every("1h", name="reloaded")(task(name="tests:loaded")(loaded))

    again(), again()
    assert list(registered_schedules()) == ["tests:twice", "reloaded"]


# -- what is announced -------------------------------------------------------------------------------------------


def test_schedules_that_are_too_many_or_too_large_keep_the_worker_from_starting():
    made = task(name="tests:many")(plain)
    for number in range(WORKER_SCHEDULES_MAX + 1):
        every("1h", name=f"s{number}")(made)
    with pytest.raises(ValueError, match="1025 schedules, 1024 are allowed"):
        announced()
    scheduling._registry.clear()
    for number in range(600):
        every("1h", name=f"{number}".rjust(500, "n"))(made)
    with pytest.raises(ValueError, match="bytes, 262144 are allowed"):
        announced()


def test_what_decorators_allow_is_what_the_cluster_knows():
    assert set(MISFIRES) == {"skip", "once", "all"} and set(ON_BUSY) == {"skip", "queue", "wait", "replace"}
    for misfire in MISFIRES:
        for on_busy in ON_BUSY:
            if misfire != "all" or on_busy == "queue":
                every("1h", misfire=misfire, on_busy=on_busy)


def test_what_is_announced_travels():
    every("1h")(task(name="tests:travels", labels=["eu"], retry=Backoff(on=(OSError,)))(plain))
    specs = announced()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(specs), type=tuple[ScheduleSpec, ...]) == specs


def test_a_task_that_no_schedule_started_has_no_slot(monkeypatch):
    monkeypatch.setattr(running, "id", 5)
    assert current().scheduled is None
    monkeypatch.setattr(running, "slot_ms", 1_767_225_600_000)
    assert current().scheduled == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("on_busy", ["wait", "replace"])
def test_runs_that_make_way_have_no_key_of_work(on_busy):
    """The next one would be a duplicate of the run that stops for it, and nothing would run."""
    with pytest.raises(ValueError, match=f'dedup: .* with on_busy="{on_busy}" leave dedup out'):
        every("1h", on_busy=on_busy)(task(name="once", dedup="k")(plain))
    every("1h", on_busy="queue")(task(name="once", dedup="k")(plain))
    assert set(registered_schedules()) == {"once"}
