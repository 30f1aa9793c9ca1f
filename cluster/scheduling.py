"""`@cron` and `@every`: when a task is run without anybody submitting it, and the registry of what was said.

Both stand above `@task`, or above a plain function, which they make a task of. They check all there is to check where
the function is defined, attach nothing to the task and connect to nothing: workers announce the schedules of their
modules when they register, and the cluster keeps and fires them.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TypeVar, cast, get_args, overload

import msgspec

from cluster.durations import Duration
from cluster.schedules import parsing
from cluster.schedules.misfire import Policy
from cluster.schedules.times import CronTimes, EveryTimes
from cluster.state.commands import (
    BUSY_QUEUE,
    BUSY_REPLACE,
    BUSY_SKIP,
    BUSY_WAIT,
    WORKER_SCHEDULES_MAX,
    ScheduleSpec,
)
from cluster.state.texts import NAME_BYTES_MAX, is_name
from cluster.task import AsyncTask, Task, task
from cluster.task_actor import MethodTask

P = ParamSpec("P")
R = TypeVar("R")

# What becomes of a slot that comes while a run of the same schedule has not ended: it is skipped; it waits, in order;
# it waits, and takes the place of the one that waited; likewise, and what runs is cancelled.
OnBusy = Literal["skip", "queue", "wait", "replace"]

SCHEDULES_BYTES_MAX = 256 * 1024        # of all schedules that a worker announces, encoded
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Scheduled:
    """`@cron(...)` or `@every(...)`, to be put above a function."""

    def __init__(self, times: CronTimes | EveryTimes, name: str | None, terms: "Terms") -> None:
        self._times = times
        self._name = name
        self._terms = terms

    @overload
    def __call__(self, function: AsyncTask[P, R], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Task[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., object], /) -> Task[..., Any]:
        what = f"@{'cron' if isinstance(self._times, CronTimes) else 'every'}"
        if isinstance(function, MethodTask):
            raise TypeError(f"{what} takes a function, not {function!r}: write a task that calls the actor")
        _check_arguments(function, what)
        made = function if isinstance(function, Task) else task(function)
        if made.fence:
            raise TypeError(f"{what}: {made!r} has a fence, which is that of a lock that is held for a while")
        _register(made, self._times, self._name, self._terms)
        return cast("Task[..., Any]", made)


class Terms(msgspec.Struct, frozen=True):
    """What becomes of slots that were missed, and of those that come too early."""

    exclusive: bool
    misfire: Policy
    on_busy: OnBusy


def cron(
    expression: str,
    *,
    tz: str = "UTC",
    name: str | None = None,
    exclusive: bool = True,
    misfire: Policy = "once",
    on_busy: OnBusy | None = None,
) -> Scheduled:
    """Runs a task by the clocks of a time zone: `@cron("0 21 * * MON-FRI", tz="Asia/Seoul")`.

    `expression` is minute, hour, day of month, month and day of week; a sixth field in front is the second. `tz` is a
    zone by its IANA name. `name` is that of the schedule, the task's unless given; a function may have several.
    `exclusive`: one unfinished run at a time; `on_busy` says what becomes of a slot that comes meanwhile: "skip" it
    (the default), "queue" it, let it "wait" in place of the one that waits, or let it "replace" what runs. `misfire`
    says what becomes of slots that nobody could run in time: "skip" them, run "once" for all of them, or "all", up to
    100.

    Raises ScheduleError for an expression or a zone that cannot be; TypeError for a function that needs arguments, and
    for values of a wrong type; ValueError for those that are not allowed, or contradict each other.
    """
    terms = _terms(exclusive, misfire, on_busy)
    return Scheduled(parsing.cron(expression, tz), _checked_name(name), terms)


def every(
    period: Duration,
    *,
    anchor: datetime | None = None,
    name: str | None = None,
    exclusive: bool = True,
    misfire: Policy = "once",
    on_busy: OnBusy | None = None,
) -> Scheduled:
    """Runs a task each `period`: `@every("15m")`, a duration of 1 s to 10 years.

    Its slots are multiples of the period from `anchor` on, and before it; without one from 1 January 1970 UTC, so that
    15 minutes are the quarters of an hour. The other arguments, and what it raises, are those of `cron`.
    """
    terms = _terms(exclusive, misfire, on_busy)
    return Scheduled(parsing.every(period, _anchor_ms(anchor)), _checked_name(name), terms)


_registry: dict[str, tuple[Task[..., Any], ScheduleSpec]] = {}


def registered_schedules() -> Mapping[str, ScheduleSpec]:
    """Every schedule of the modules imported so far, by name; without the bodies of their calls."""
    return MappingProxyType({name: spec for name, (_, spec) in _registry.items()})


def announced() -> tuple[ScheduleSpec, ...]:
    """The same as workers announce them. Raises ValueError if they are too many or too large, EncodeError."""
    if len(_registry) > WORKER_SCHEDULES_MAX:
        raise ValueError(f"the modules have {len(_registry)} schedules, {WORKER_SCHEDULES_MAX} are allowed")
    found = tuple(
        msgspec.structs.replace(spec, body=made.encode((), {})) for _, (made, spec) in sorted(_registry.items())
    )
    size = len(msgspec.msgpack.encode(found))
    if size > SCHEDULES_BYTES_MAX:
        raise ValueError(f"the schedules of the modules take {size} bytes, {SCHEDULES_BYTES_MAX} are allowed")
    return found


def _register(made: Task[..., Any], times: CronTimes | EveryTimes, name: str | None, terms: Terms) -> None:
    name = made.name if name is None else name
    _check_unique(name, made)
    written = (
        (times.expression, times.zone, 0, 0)
        if isinstance(times, CronTimes)
        else ("", "", times.period_ms, times.anchor_ms)
    )
    if made.settings.dedup and terms.on_busy in (BUSY_WAIT, BUSY_REPLACE):
        raise ValueError(
            f'dedup: a run that makes way has the key "{made.settings.dedup}" until it has stopped, and the next one '
            f'would be its duplicate; with on_busy="{terms.on_busy}" leave dedup out'
        )
    how = (terms.misfire, terms.on_busy, terms.exclusive)
    _registry[name] = (made, ScheduleSpec(name, made.name, *written, *how, b"", made.wire_options))


def _check_unique(name: str, made: Task[..., Any]) -> None:
    """Two schedules of one name: a worker would announce the one that was defined last."""
    if name not in _registry:
        return
    known, _ = _registry[name]
    if known.function is made.function:
        raise ValueError(f"{made.name} has two schedules named {name!r}: give one of them another name=")
    places = {(known.__module__, known.__qualname__), (made.__module__, made.__qualname__)}
    # A module may be loaded again, and a script that is run is __main__ as well as itself.
    if len(places) > 1 and not any(module == "__main__" for module, _ in places):
        first, second = (f"{module}:{qualname}" for module, qualname in sorted(places))
        raise ValueError(f"two schedules are named {name!r}, of {first} and {second}: give one of them another name=")


# -- what was given ---------------------------------------------------------------------------------------------------


def _terms(exclusive: object, misfire: object, on_busy: object) -> Terms:
    if not isinstance(exclusive, bool):
        raise TypeError(f"exclusive: expected True or False, not {exclusive!r}")
    policy = cast("Policy", _one_of("misfire", misfire, get_args(Policy)))
    if not exclusive and on_busy is not None:
        raise ValueError(
            f"on_busy: {on_busy!r} says what becomes of a slot while a run is unfinished, and with exclusive=False "
            "runs may overlap; leave one of the two out"
        )
    busy = cast("OnBusy", _one_of("on_busy", BUSY_SKIP if on_busy is None else on_busy, get_args(OnBusy)))
    if policy == "all" and exclusive and busy != BUSY_QUEUE:
        raise ValueError(
            f'misfire: "all" runs each of several slots at once, of which on_busy="{busy}" would leave one or two; '
            'write on_busy="queue", or exclusive=False'
        )
    return Terms(exclusive, policy, busy)


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected one of {', '.join(allowed)}, not {value!r}")
    if value not in allowed:
        raise ValueError(f"{what}: {value!r} is none; allowed are {', '.join(allowed)}")
    return value


def _checked_name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, not {name!r}")
    if not is_name(name):
        raise ValueError(f"name: {name[:40]!r} is none; a name has 1 to {NAME_BYTES_MAX} bytes of UTF-8")
    return name


def _anchor_ms(anchor: object) -> int:
    if anchor is None:
        return 0
    if not isinstance(anchor, datetime):
        raise TypeError(f"anchor: expected a datetime, not {anchor!r}")
    if anchor.tzinfo is None:
        raise ValueError(
            f"anchor: {anchor!r} has no time zone; write for example "
            'datetime(2026, 1, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))'
        )
    return (anchor - EPOCH) // timedelta(milliseconds=1)


def _check_arguments(function: Callable[..., object], what: str) -> None:
    """Nobody would be there to give it arguments."""
    plain = function.function if isinstance(function, Task) else function
    if not inspect.isroutine(plain):
        raise TypeError(f"{what} takes a task, or a plain function, not {function!r}")
    try:
        parameters = inspect.signature(plain).parameters.values()
    except ValueError:
        return                      # one of C's that does not say
    for parameter in parameters:
        is_optional = parameter.default is not parameter.empty
        if not is_optional and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"{what}: {name} needs {parameter.name!r}, and a schedule calls it without arguments: give it a default"
            )
