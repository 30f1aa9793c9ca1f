"""`@task`: what makes a plain function one that the cluster can run, and the registry that finds it by name.

The decorator attaches a name, options and a codec; it opens nothing and connects to nothing, and the function
stays callable. Nothing from the wire is imported: a name is looked up among the functions that were
registered when the modules listed in the topology were imported.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from msgspec import Struct

from cluster.backoff import Backoff
from cluster.dependencies import References
from cluster.durations import Duration
from cluster.encoding import Codec
from cluster.errors import TaskNotFound
from cluster.options import define_options, merge_options, take_fence
from cluster.state.commands import Options
from cluster.task_log import LineSink, task_logger

P = ParamSpec("P")
R = TypeVar("R")

DEFAULTS = Options()
PROGRESS_MAX = 2**63 - 1


class TaskOptions(TypedDict, total=False):
    """Options of `@task` and `.options()`. A duration is a timedelta, a number of seconds, or text such as
    "5m".
    """

    timeout: Duration               # killed when it runs longer; 30 m
    soft_timeout: Duration          # SoftTimeLimit is raised in it when it runs longer; never
    retry: int | Backoff            # how often, and when, a raised exception is retried; 0
    priority: int                   # 0 to 9, 9 first; 5
    queue: str                      # "default"
    labels: list[str] | tuple[str, ...]    # only workers that have them all
    delay: Duration                 # not before; 0
    expires: Duration               # not started by then: expired; never
    result_ttl: Duration            # how long the result is kept; 1 h
    rate: str | None                # starts in a time, "100/m", in the whole cluster; any number
    concurrency: int | None         # with workers at a time, likewise; any number
    share: str | None               # shares take turns, and each has the rate and the concurrency for itself; none
    limit: str | None               # a name: one rate and concurrency for all tasks and shares that name it
    dedup: str | None               # what work it is: one task of a function and key runs, the others follow it; none
    dedup_window: Duration | None   # it has the key for so long, and until it has ended; until it has ended


class CallOptions(TaskOptions, total=False):
    """Options of `.options()` alone."""

    at: datetime                    # not before this date, which has a time zone; right away
    fence: int                      # only if some lock is held under it when the call is accepted; whatever is held


class Task(Generic[P, R]):
    """A function that the cluster can run. Calling it runs it here; submitting it yields an `R`.

    `name` finds it on workers, `settings` are its options as they travel, `fence` that of a lock, or 0.
    """

    __wrapped__: Callable[..., object]
    __module__: str
    __qualname__: str

    def __init__(self, function: Callable[..., object], name: str, settings: Options) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.settings = settings
        self.fence = 0
        self.is_async = inspect.iscoroutinefunction(function)
        self._codec: Codec | None = None

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", self.function(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def options(self, **options: Unpack[CallOptions]) -> "Task[P, R]":
        """A copy with other options. Raises TypeError for an unknown one, ValueError for one out of range."""
        fence, others = take_fence(options, self.fence)
        copy = type(self)(self.function, self.name, merge_options(self.settings, others))
        copy.fence = fence
        copy._codec = self._codec
        return copy

    @property
    def wire_options(self) -> Options | None:
        """Its options as they travel; None means that all of them have their defaults."""
        return None if self.settings == DEFAULTS else self.settings

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The body of a call. Raises TypeError (arguments do not fit), EncodeError and BodyTooLarge."""
        return self.codec.encode_arguments(args, kwargs)

    def encode_call(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[bytes, References | None]:
        """The same, and what handles among the arguments refer to. Raises DependencyError as well."""
        return self.codec.encode_call(args, kwargs)

    def decode_result(self, body: bytes) -> R:
        """What the function returned, as its annotation says. Raises EncodeError if it does not fit."""
        return cast("R", self.codec.decode_result(body))

    @property
    def codec(self) -> Codec:
        """How its arguments and results travel; built at the first use, when every annotation can be
        resolved.
        """
        codec = self._codec
        if codec is None:
            codec = self._codec = Codec(self.name, self.function)
        return codec


class AsyncTask(Task[P, R]):
    """A task with an `async def` body: calling it here gives a coroutine, submitting it yields its `R`."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        return cast("Coroutine[Any, Any, R]", self.function(*args, **kwargs))

    def options(self, **options: Unpack[CallOptions]) -> "AsyncTask[P, R]":
        return cast("AsyncTask[P, R]", super().options(**options))


class _Decorator:
    """`@task(...)` with options; overloaded like `task` itself."""

    def __init__(self, name: str | None, settings: Options) -> None:
        self._name = name
        self._settings = settings

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., object], /) -> Task[..., Any]:
        return _register(function, self._name, self._settings)


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(*, name: str | None = None, **options: Unpack[TaskOptions]) -> _Decorator: ...
def task(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    **options: Unpack[TaskOptions],
) -> Task[..., Any] | _Decorator:
    """Makes a function a task: `@task`, or `@task(timeout="5m", queue="mail")`.

    Its name is `module:qualname` unless `name` gives a stable one. Raises TypeError for an unknown option or
    for something that is no function, ValueError for an option out of range.
    """
    settings = define_options(options)
    if function is None:
        return _Decorator(name, settings)
    return _register(function, name, settings)


_registry: dict[str, Task[..., Any]] = {}


def registered_tasks() -> Mapping[str, Task[..., Any]]:
    """Every task of the modules imported so far, by name."""
    return MappingProxyType(_registry)


def task_of(function: object) -> Task[..., Any]:
    """The task to submit for what a caller gave. Raises TaskNotFound, saying what to change."""
    if not isinstance(function, Task):
        name = getattr(function, "__qualname__", repr(function))
        if isinstance(function, str):
            raise TaskNotFound(f"{name} is the name of a task at most: import the function, and give it instead")
        plain = getattr(function, "__func__", function)     # of a bound method
        if any(known.function is plain for known in _registry.values()):
            owner, _, method = name.rpartition(".")
            raise TaskNotFound(f"{name} is a method of a TaskActor: call it as cluster.actor({owner}).{method}(...)")
        if called := getattr(function, "is_called_as", ""):
            raise TaskNotFound(f"{called} has a submit of its own: write {called}.submit(...)")
        raise TaskNotFound(f"{name} is not a task: put @task above it")
    if function.__module__ == "__main__":
        raise TaskNotFound(
            f"{function.__qualname__} lives in __main__, which workers cannot import: move it into a module "
            "that the topology lists"
        )
    return function


def _register(function: Callable[..., object], name: str | None, settings: Options) -> Task[..., Any]:
    if isinstance(function, Task) or not inspect.isroutine(function):
        hint = ": it belongs below @cron and @every" if isinstance(function, Task) else ""
        raise TypeError(f"@task takes a plain function, not {function!r}{hint}")
    if name is None:
        name = f"{function.__module__}:{function.__qualname__}"
    kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
    made: Task[..., Any] = kind(function, name, settings)
    add_task(made)
    return made


def add_task(task: Task[..., Any]) -> None:
    """Registers a task. Raises ValueError if there is another one of its name."""
    _check_unique(task.name, task.function)
    _registry[task.name] = task


def _check_unique(name: str, function: Callable[..., object]) -> None:
    """Two functions of one name: a worker would run the one that was defined last, whichever was submitted."""
    known = _registry.get(name)
    if known is None:
        return
    places = {(known.function.__module__, known.function.__qualname__), (function.__module__, function.__qualname__)}
    # A module may be loaded again, and a script that is run is __main__ as well as itself.
    if len(places) > 1 and not any(module == "__main__" for module, _ in places):
        first, second = (f"{module}:{qualname}" for module, qualname in sorted(places))
        raise ValueError(f"two tasks are named {name!r}, {first} and {second}: give one of them another name=")


class CurrentTask(Struct, frozen=True):
    """The attempt that runs in this executor child."""

    id: int
    attempt: int
    name: str
    deadline: datetime
    scheduled: datetime | None = None       # the time that a run of a schedule is for, in UTC

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it. Clean up and return, or raise: the process is ended when the grace of the
        cancel is over. Cheap enough for an inner loop."""
        now = running_here.get()
        is_mine = (now.id, now.attempt) == (self.id, self.attempt)
        return is_mine and now.page is not None and now.page.is_stopped(now.number)

    def progress(self, done: int, total: int | None = None) -> None:
        """Says how far it is, of how much if that is known; whoever watches the task hears of it, at most twice a
        second. Costs a microsecond, so it may be called in an inner loop. Both are integers that are not negative.
        Raises TypeError and ValueError."""
        if type(done) is not int or (total is not None and type(total) is not int):
            raise TypeError(f"progress() takes integers, not {done!r} of {total!r}; count steps, items or bytes")
        if not 0 <= done <= PROGRESS_MAX or (total is not None and not 0 <= total <= PROGRESS_MAX):
            raise ValueError(f"progress() takes numbers from 0 to 2**63 - 1, not {done} of {total}")
        now = running_here.get()
        page = now.page
        if page is not None and now.id == self.id and now.attempt == self.attempt:
            page.report(now.number, done, total)

    @property
    def log(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines are kept with this attempt, the last 4 KiB of them: `current().log.info("...")`."""
        return task_logger(self, running_as(self))


class StopSign(Protocol):
    """Where an executor's worker asks a task to stop, and hears how far it is."""

    def is_stopped(self, number: int) -> bool: ...

    def report(self, number: int, done: int, total: int | None) -> None: ...


class Running(Struct):
    """Set by an executor before each attempt, as cheap as can be; `current` makes it readable."""

    id: int = 0                     # 0: nothing runs here
    attempt: int = 0
    name: str = ""
    deadline_ms: int = 0
    page: StopSign | None = None
    number: int = 0                 # by which the page knows it
    lines: LineSink | None = None   # where it logs
    slot_ms: int = 0                # of a run of a schedule


# Of a child that runs one task at a time; its threads see it too, whatever context they were started in.
running = Running()
# Of whoever asks: where many tasks run at once each has its own in its context, which subtasks and to_thread inherit.
running_here: ContextVar[Running] = ContextVar("running_here", default=running)


def running_as(task: CurrentTask) -> Running | None:
    """What runs here, if it is still this attempt."""
    now = running_here.get()
    return now if (now.id, now.attempt) == (task.id, task.attempt) else None


def current() -> CurrentTask:
    """The task that is running, for its own use. Raises RuntimeError outside of an executor child."""
    now = running_here.get()
    if now.id == 0:
        raise RuntimeError("current() is for use inside a running task")
    deadline = datetime.fromtimestamp(now.deadline_ms / 1_000, UTC)
    scheduled = datetime.fromtimestamp(now.slot_ms / 1_000, UTC) if now.slot_ms else None
    return CurrentTask(now.id, now.attempt, now.name, deadline, scheduled)
