"""The executor: what runs in a worker's child process, and the only place where users' functions are called.

One executor is one slot. It gets batches of assignments, runs them one after another in the order in which
they came, and leaves every outcome in the ring of the claim page. The same class runs in a real child, in a
loop that blocks, and in the simulated world, in steps; it reaches its process through `Host` alone.

What one task costs here is what the slot costs at most, so there is one lock per task: the outcome of a task
is written and the next one claimed under the same hold of it, and one reading of the clock ends the one and
starts the other. The worker hears of outcomes by frames of one byte: at once when nothing waits or the next
task is expected to take more than 4 ms, else 20 ms after it last heard of some; sooner than that it looks by itself
(`cluster.worker.gathering`).

A function that raises has failed and its slot goes on. SystemExit and KeyboardInterrupt end the process, as
they would anywhere else; so do os._exit, signals and the C library's abort. What was running then is for the
worker to find out.
"""

import asyncio
import importlib
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from signal import signal
from types import TracebackType
from typing import Any, Protocol

from msgspec import structs

from actors import SECOND, Nanos, Page
from cluster.errors import ClusterError, DependencyFailed, SoftTimeLimit, error_name
from cluster.scheduling import announced
from cluster.state.commands import (
    KINDS_MAX,
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    OUTCOME_UNMET,
    UNMET_UNKNOWN,
    Failure,
    Outcome,
    Unmet,
)
from cluster.state.effects import Assignment
from cluster.task import AsyncTask, Task, registered_tasks, running
from cluster.task_actor import MethodTask, check_actors
from cluster.task_log import Lines
from cluster.worker.child_messages import (
    FINISHED,
    FLUSH_ESTIMATE_US,
    FLUSH_INTERVAL_NS,
    RING_OUTCOME_BYTES_MAX,
    WARNING_SIGNAL,
    Ready,
    StartFailed,
    batch_decoder,
    encode,
    encode_oversize,
    setup_decoder,
)
from cluster.worker.instances import Instances
from cluster.worker.page import ClaimPage

LOCK_TIMEOUT: Nanos = 60 * SECOND  # the worker holds the lock for microseconds, unless it is stopped
MESSAGE_BYTES_MAX = 4_096
TRACEBACK_BYTES_MAX = 8_192
TRACEBACK_FRAMES_MAX = 50              # the innermost
CUT = b"... (cut)\n"
# Whose frames above the user's code say nothing to the user.
OWN_MODULES = ("cluster.worker.", "cluster.testing.", "asyncio.")


class Host(Protocol):
    """What an executor needs of the process it runs in."""

    page: Page

    def send(self, frame: bytes) -> None:
        """Hands one frame to the worker; may block."""

    def now(self) -> Nanos:
        """The boot clock, the same as the worker's."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch."""


Describe = Callable[[BaseException, TracebackType | None], str]


def as_traceback(exception: BaseException, tb: TracebackType | None) -> str:
    """As Python prints it, from `tb` on."""
    return "".join(traceback.format_exception(type(exception), exception, tb, limit=-TRACEBACK_FRAMES_MAX))


class Runner(Protocol):
    """What completes the coroutines of a slot's tasks: `asyncio.Runner` in a real child."""

    def run(self, coroutine: Coroutine[Any, Any, object], /) -> object: ...


class Executor:
    """One slot. Drive it with `receive`, then `claim` and `run` until `claim` says False, then `flush`. What a task
    raises becomes text by `describe`."""

    def __init__(
        self,
        host: Host,
        tasks: Mapping[str, Task[..., Any]],
        runner: Runner | None = None,
        *,
        describe: Describe = as_traceback,
    ) -> None:
        self._host = host
        self._page = ClaimPage(host.page.view, create=True)
        self._lines = Lines(self._page.log, host.wall_ms)
        self._tasks = tasks
        self._waiting: deque[Assignment] = deque()
        self._number = 0                        # of the last task claimed; counts as the worker does
        self._task: Assignment | None = None    # claimed, not yet run
        self._started: Nanos = 0
        self._started_ms = 0                    # the same as a date
        self._outcome: bytes | None = None      # of the last task run, not yet in the ring
        self._unannounced = False               # there is something in the ring that no frame has told
        self._announced_at: Nanos = host.now()
        self._ended: Nanos = 0                  # when the last task ended, if that was just now
        self._runner = runner                   # made when it is first needed
        self._describe = describe
        self._instances = Instances(self._complete, traceback.print_exc)
        self._in_users_code = False             # where a warning may be raised
        self._coroutine: asyncio.Task[object] | None = None     # that the user's code is in

    @property
    def running(self) -> Assignment | None:
        """The task that `run` would run."""
        return self._task

    def receive(self, frame: bytes) -> None:
        """Takes a batch of assignments."""
        batch = batch_decoder.decode(frame)
        assert batch.first == self._number + len(self._waiting) + 1, "batches are numbered without gaps"
        self._waiting.extend(batch.items)

    def claim(self) -> bool:
        """Writes the last outcome and claims the next task; False if none waits, then the host looks for
        more.
        """
        page, waiting, host = self._page, self._waiting, self._host
        outcome = self._outcome
        now, self._ended = self._ended, 0
        if outcome is None and not waiting:
            return False
        oversize = None
        if not host.page.acquire(LOCK_TIMEOUT):
            raise TimeoutError("the lock of the claim page is held")
        try:
            if outcome is not None:
                self._outcome = None
                if len(outcome) <= RING_OUTCOME_BYTES_MAX and page.ring.append(outcome):
                    self._unannounced = True
                else:
                    oversize = outcome
            task = None
            now = now or host.now()
            while waiting and task is None:
                self._number += 1
                task = waiting.popleft()
                if not page.claim(self._number, now):
                    task = None                             # withdrawn
        finally:
            host.page.release()
        if oversize is not None:
            host.send(encode_oversize(oversize))
        self._task = task
        if task is None:
            return False
        if self._unannounced and now - self._announced_at >= _silence_before(task.estimate_us):
            self.flush()
        self._started, self._started_ms = now, host.wall_ms()
        return True

    def run(self) -> None:
        """Runs the claimed task. Raises SystemExit and KeyboardInterrupt: the process is to end."""
        assignment = self._task
        assert assignment is not None, "run without a claim"
        host = self._host
        started = self._started
        started_ms = self._started_ms
        running.id = assignment.task
        running.attempt = assignment.attempt
        running.name = assignment.name
        running.deadline_ms = started_ms + assignment.timeout_ms
        running.slot_ms = assignment.slot_ms
        running.page, running.number, running.lines = self._page, self._number, self._lines
        error = None
        is_users = False                        # what is raised comes out of the user's function
        try:
            task = self._tasks.get(assignment.name)
            if task is None:
                raise LookupError(f"no task of this name in this worker: {assignment.name}")
            codec = task.codec
            args, kwargs = codec.decode_arguments(assignment.body)
            is_users = True
            try:
                self._in_users_code = True
                if assignment.soft_timeout_ms and not task.is_async:
                    self.warn()                 # the signal came before, when nobody could be told
                if type(task) is Task:
                    value = task.function(*args, **kwargs)
                else:
                    value = self._call(task, assignment, args, kwargs)
            finally:
                self._in_users_code = False     # here, or a warning could be raised where nobody catches it
            is_users = False
            body = codec.encode_result(value)
            status = OUTCOME_COMPLETED
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exception:
            body = b""
            status, error = fate_of(exception, self._describe, is_users)
        running.id = 0
        self._task = None
        if self._page.log.number == self._number:
            error = with_log(error, self._page.log.text(self._number))
        self._ended = now = host.now()
        self._outcome = encode(
            Outcome(
                assignment.task,
                assignment.attempt,
                status,
                started_ms,
                (now - started) // 1_000,
                body,
                error,
            )
        )

    def flush(self) -> None:
        """Tells the worker that the ring has outcomes, if it has some that it was not told of."""
        if self._unannounced:
            self._unannounced = False
            self._announced_at = self._host.now()
            self._host.send(FINISHED)

    def warn(self) -> None:
        """The worker's signal has come: raises SoftTimeLimit if the task that it is for is in its own code. A coroutine
        is cancelled instead: what is raised here would end whatever its loop does at this moment."""
        if not self._in_users_code or not self._page.is_warned(self._number):
            return
        self._in_users_code = False             # once
        if self._coroutine is None:
            assert self._task is not None, "a task runs in its own code"
            raise soft_time_limit(self._task)
        self._coroutine.cancel()
        self._coroutine.get_loop().call_soon_threadsafe(lambda: None)      # it may sleep in `select`

    def close(self) -> None:
        """The process is about to end in order."""
        self._instances.close()

    def _call(self, task: Task[..., Any], assignment: Assignment, args: list[Any], kwargs: dict[str, Any]) -> object:
        """The value of what is not a plain function."""
        is_coroutine = isinstance(task, AsyncTask)
        if isinstance(task, MethodTask):
            args.insert(0, self._instances.get(task.actor, assignment.key, assignment.epoch))
            is_coroutine = task.is_coroutine
        value = task.function(*args, **kwargs)
        return self._complete(value) if is_coroutine else value

    def _complete(self, coroutine: Any) -> object:
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._watched(coroutine))
        except asyncio.CancelledError:
            if self._page.is_warned(self._number):
                assert self._task is not None
                raise soft_time_limit(self._task) from None
            raise
        finally:
            self._coroutine = None

    async def _watched(self, coroutine: Any) -> object:
        self._coroutine = asyncio.current_task()
        self.warn()
        return await coroutine


def _silence_before(estimate_us: int) -> Nanos:
    """How long the worker may have heard nothing when a task begins that is expected to take so long. Each announcement
    wakes two processes, and in the end makes an entry of the log: for tasks of a millisecond that is more than the
    tasks are."""
    return 0 if estimate_us > FLUSH_ESTIMATE_US else FLUSH_INTERVAL_NS


def soft_time_limit(assignment: Assignment) -> SoftTimeLimit:
    limit_s = assignment.soft_timeout_ms / 1_000
    return SoftTimeLimit(f"{assignment.name} has run for its soft time limit of {limit_s:g} s")


def fate_of(exception: BaseException, describe: Describe, is_users: bool) -> tuple[int, Failure]:
    """What becomes of a task that raised, in its own code if `is_users`, else around it: then a result may have been
    gone that it needs."""
    if isinstance(exception, DependencyFailed) and not is_users:
        unmet = Unmet(exception.task, UNMET_UNKNOWN, exception.cause)
        return OUTCOME_UNMET, Failure(exception.type, exception.message, unmet=unmet)
    return OUTCOME_FAILED, failure_of(exception, describe, may_retry=is_users)


def failure_of(
    exception: BaseException, describe: Describe = as_traceback, *, may_retry: bool = False
) -> Failure:
    """An exception as it is recorded: its type, its message, and its traceback from the user's code on. With
    `may_retry` also its `kinds`, the names of the types that a retry may be for; none of what is no Exception."""
    kind = type(exception)
    try:
        message = str(exception)
    except Exception as broken:
        message = f"<its __str__ raised {type(broken).__name__}>"
    tb = exception.__traceback__
    while tb is not None and str(tb.tb_frame.f_globals.get("__name__")).startswith(OWN_MODULES):
        tb = tb.tb_next
    try:
        text = describe(exception, tb)
    except Exception as broken:
        text = f"<its traceback cannot be formatted: {type(broken).__name__}>"
    kinds = [error_name(base) for base in kind.__mro__ if issubclass(base, Exception)] if may_retry else []
    if kinds and isinstance(exception, SoftTimeLimit):
        kinds.append("TimeoutError")
    return Failure(
        error_name(kind),
        _bounded(message, MESSAGE_BYTES_MAX),
        _bounded(text, TRACEBACK_BYTES_MAX),
        kinds=tuple(kinds[:KINDS_MAX]),
    )


def with_log(failure: Failure | None, log: str) -> Failure | None:
    """What an attempt left behind, and what it logged. Who completes leaves nothing else."""
    return structs.replace(failure or Failure("", ""), log=log) if log else failure


def _bounded(text: str, bytes_max: int) -> str:
    """Text that can be encoded, and its end if it is longer than `bytes_max`."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > bytes_max:
        encoded = CUT + encoded[len(CUT) - bytes_max :]
    return encoded.decode("utf-8", "ignore")


class BlockingHost(Host, Protocol):
    """A real child process: its inbound frames can be waited for."""

    def poll(self) -> bytes | None:
        """A frame that is there already, else None."""

    def receive(self) -> bytes | None:
        """Waits for a frame; None once the worker has closed its side."""

    def end_copy(self) -> None:
        """Ends this process if a task forked it and did not end it itself."""


def main(host: BlockingHost, argument: bytes) -> None:
    """Entry of an executor child; returns when the worker lets go of it."""
    report = load(setup_decoder.decode(argument).modules)
    executor = Executor(host, registered_tasks())      # before Ready: it makes the page
    host.send(encode(report))
    if isinstance(report, StartFailed):
        return
    signal(WARNING_SIGNAL, lambda number, frame: executor.warn())
    while True:
        while executor.claim():
            executor.run()
            host.end_copy()
        frame = host.poll()
        if frame is None:
            executor.flush()
            frame = host.receive()
            if frame is None:
                executor.close()
                return
        executor.receive(frame)


def load(modules: tuple[str, ...]) -> Ready | StartFailed:
    """Imports the modules that define tasks."""
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as exception:      # SystemExit too: a module that ends the process must be named
            text = "".join(traceback.format_exception(exception))
            return StartFailed(module, _bounded(text, TRACEBACK_BYTES_MAX))
    try:
        check_actors()
        schedules = announced()
    except (TypeError, ValueError, ClusterError) as error:
        return StartFailed("", str(error))
    tasks = registered_tasks()
    names = tuple(sorted(tasks))
    has_actors = any(isinstance(task, MethodTask) for task in tasks.values())
    return Ready(names, tuple(name for name in names if tasks[name].is_async), has_actors, schedules)
