"""The executor of a worker's event loop: one child process that runs the `async` tasks of its worker, many at once.

`cluster.worker.executor` runs one task at a time; what both do alike with arguments and errors comes from there. This
class runs in a real child, on a loop of its own, and in the simulated world, on a simulated one; it reaches its process
through `LoopHost` alone.

Each task is one asyncio task in a context of its own, so that `current()` knows which one asks. It begins, in the page,
when it gets the loop for the first time; its outcome goes into the ring at the moment at which it ends, so that the
worker can have it even if the next task never lets the loop go. Frames of one byte announce outcomes, one for all that
ended in one turn of the loop.

The code of a task is stepped by hand (`_steps`), which costs a fraction of a microsecond each time it gets the loop:
only so can the worker see from outside whose code the loop is stuck in. Code in subtasks that a task made is not seen.

A task that raises SystemExit or KeyboardInterrupt has crashed, as in a slot; but the process goes on, because others
run in it. os._exit, signals and the C library's abort end it, and who did that is not known.

The same goes for what ends the loop, or the tasks of others in it: SystemExit in a subtask or a callback,
`loop.stop()`, `cancel()` of everything in `asyncio.all_tasks()`. The process ends then at once and reports nothing. If
the loop were ended in order, what runs in it would be cancelled, and each task would report that it failed: for good,
and through no fault of its own.
"""

import asyncio
import os
import traceback
import types
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, Protocol, cast

from msgspec.structs import replace

from actors import SECOND
from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_TIMED_OUT,
    Failure,
    Outcome,
)
from cluster.state.effects import Assignment
from cluster.task import AsyncTask, Running, Task, registered_tasks, running_here
from cluster.task_log import Lines
from cluster.worker.child_messages import (
    ASK_CANCEL,
    ASK_LIMIT,
    ASK_WARN,
    BEAT_INTERVAL_NS,
    FINISHED,
    RING_OUTCOME_BYTES_MAX,
    Asks,
    Places,
    Ready,
    StartFailed,
    encode,
    encode_oversize,
    setup_decoder,
    to_loop_decoder,
)
from cluster.worker.executor import (
    LOCK_TIMEOUT,
    Describe,
    Host,
    as_traceback,
    failure_of,
    fate_of,
    load,
    soft_time_limit,
    with_log,
)
from cluster.worker.log_tail import OwnTail
from cluster.worker.loop_page import LoopPage
from cluster.worker.loop_slots import thrown_out
from cluster.worker.slots import Why

THROWN_OUT = {
    ASK_LIMIT: (Why.TIME_LIMIT, OUTCOME_TIMED_OUT),
    ASK_CANCEL: (Why.CANCELLED, OUTCOME_CANCELLED),
}
BEAT_INTERVAL_S = BEAT_INTERVAL_NS / SECOND
BROKEN_STATUS = 1           # of a process whose loop was ended by what runs in it

Code = Coroutine[Any, Any, Any]


class LoopHost(Host, Protocol):
    """What a loop's executor needs of the process it runs in."""

    def end_copy(self) -> None:
        """Ends this process if a task forked it and did not end it itself."""


class Run:
    """One task of the loop."""

    __slots__ = ("asked", "assignment", "is_begun", "place", "task")

    def __init__(self, place: int, assignment: Assignment) -> None:
        self.place = place
        self.assignment = assignment
        self.is_begun = False
        self.asked: int | None = None           # the last ASK_* it was thrown out for
        self.task: asyncio.Task[None]


class LoopExecutor:
    """The event loop of a worker. Give it all frames with `receive`, on the loop that it is to run them on. `describe`
    turns what a task raises into text."""

    def __init__(
        self,
        host: LoopHost,
        tasks: Mapping[str, Task[..., Any]],
        loop: asyncio.AbstractEventLoop,
        *,
        describe: Describe = as_traceback,
    ) -> None:
        self._host = host
        self._page = LoopPage(host.page.view, create=True)
        self._tasks = tasks
        self._loop = loop
        self._describe = describe
        self._runs: dict[int, Run] = {}         # by place
        self._unannounced = False               # there is something in the ring that no frame has told
        self._is_beating = False
        self._is_closed = False
        self.ended: asyncio.Future[None] = loop.create_future()     # or what it broke with

    def receive(self, frame: bytes) -> None:
        """Takes tasks, or what the worker asks of them."""
        message = to_loop_decoder.decode(frame)
        if type(message) is Places:
            self._beat()
            for place, assignment in zip(message.places, message.items, strict=True):
                assert place not in self._runs, f"place {place} is taken"
                run = self._runs[place] = Run(place, assignment)
                run.task = self._loop.create_task(self._run(run))
                run.task.add_done_callback(self._check)
        elif type(message) is Asks:
            for place, ask in zip(message.places, message.asks, strict=True):
                asked = self._runs.get(place)
                if asked is not None and asked.is_begun:        # else it has ended by itself
                    asked.asked = ask
                    asked.task.cancel()

    def close(self) -> None:
        """The worker lets go: what runs may end."""
        self._is_closed = True
        self._end()

    # -- one task -------------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        host, assignment = self._host, run.assignment
        started = host.now()
        if not self._begin(run, started):
            del self._runs[run.place]
            self._end()
            return
        started_ms = host.wall_ms()
        here = Running(
            assignment.task,
            assignment.attempt,
            assignment.name,
            started_ms + assignment.timeout_ms,
            self._page,
            run.place,
            Lines(log := OwnTail(), host.wall_ms),
            assignment.slot_ms,
        )
        running_here.set(here)
        error = None
        is_users = False                        # what is raised comes out of the user's function
        try:
            task = self._tasks.get(assignment.name)
            if not isinstance(task, AsyncTask):
                raise LookupError(f"no async task of this name in this worker: {assignment.name}")
            codec = task.codec
            args, kwargs = codec.decode_arguments(assignment.body)
            is_users = True
            value = await self._steps(run.place, cast("Code", task.function(*args, **kwargs)))
            is_users = False
            body = codec.encode_result(value)
            status = OUTCOME_COMPLETED
        except BaseException as exception:
            if self._is_no_outcome(run, exception):
                return
            body = b""
            status, error = _fate(run, exception, is_users, self._describe)
        here.id = 0
        error = with_log(error, log.text(run.place))
        host.end_copy()
        del self._runs[run.place]
        run_us = (host.now() - started) // 1_000
        # Also of what was given up: the worker, which wants no outcome of it, hears so that its place is free.
        self._report(encode(Outcome(assignment.task, assignment.attempt, status, started_ms, run_us, body, error)))
        self._end()

    @types.coroutine
    def _steps(self, place: int, code: Code) -> Generator[Any, Any, Any]:
        """What `await code` does; the page says meanwhile whether the loop is in that code."""
        page = self._page
        thrown: BaseException | None = None
        while True:
            page.enter(place)
            try:
                waits_for = code.send(None) if thrown is None else code.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                page.leave()
            thrown = None
            try:
                yield waits_for                 # asyncio sends nothing back
            except BaseException as exception:
                assert exception.__traceback__ is not None
                thrown = exception.with_traceback(exception.__traceback__.tb_next)      # without this frame

    def _begin(self, run: Run, now: int) -> bool:
        page = self._host.page
        if not page.acquire(LOCK_TIMEOUT):
            raise TimeoutError("the lock of the page is held")
        try:
            run.is_begun = self._page.begin(run.place, now)
        finally:
            page.release()
        return run.is_begun

    def _is_no_outcome(self, run: Run, exception: BaseException) -> bool:
        """Whether this says nothing of the task: the process is about to end, or somebody in it, and not the worker,
        has cancelled the task; then the process ends now. Who waits for something that was cancelled is not meant.
        """
        if self.ended.done():
            return True
        if run.asked is not None or not isinstance(exception, asyncio.CancelledError):
            return False
        me = asyncio.current_task()
        assert me is not None
        if not me.cancelling():
            return False
        strange = RuntimeError(f"something in this process has cancelled the task {run.assignment.name}, maybe all")
        strange.__cause__ = exception
        self.ended.set_exception(strange)
        return True

    # -- what the worker hears ------------------------------------------------------------------------------

    def _report(self, outcome: bytes) -> None:
        page = self._host.page
        if not page.acquire(LOCK_TIMEOUT):
            raise TimeoutError("the lock of the page is held")
        try:
            is_in_ring = len(outcome) <= RING_OUTCOME_BYTES_MAX and self._page.ring.append(outcome)
        finally:
            page.release()
        if not is_in_ring:
            self._host.send(encode_oversize(outcome))
        elif not self._unannounced:
            self._unannounced = True
            self._loop.call_soon(self._announce)

    def _announce(self) -> None:
        self._unannounced = False
        self._host.send(FINISHED)

    def _beat(self) -> None:
        """The loop turns, and says so again as long as it has something to do."""
        self._page.beat(self._host.now())
        if not self._is_beating:
            self._is_beating = True
            self._loop.call_later(BEAT_INTERVAL_S, self._beat_again)

    def _beat_again(self) -> None:
        self._is_beating = False
        if self._runs:
            self._beat()

    # -- the end --------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._is_closed and not self._runs and not self.ended.done():
            self.ended.set_result(None)

    def _check(self, task: asyncio.Task[None]) -> None:
        """What a user's code raises is an outcome: this is ours, and the process cannot go on."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.ended.done():
            self.ended.set_exception(error)


def _fate(run: Run, exception: BaseException, is_users: bool, describe: Describe) -> tuple[int, Failure]:
    """What becomes of a task that raised."""
    assignment, asked = run.assignment, run.asked
    if asked in THROWN_OUT:
        why, status = THROWN_OUT[asked]
        return status, thrown_out(why, assignment, failure_of(exception, describe).traceback)
    if isinstance(exception, SystemExit | KeyboardInterrupt):
        code = exception.code if isinstance(exception, SystemExit) else 1
        exit_code = code if isinstance(code, int) else int(code is not None)
        return OUTCOME_CRASHED, replace(failure_of(exception, describe), exit_code=exit_code & 0xFF)
    if asked == ASK_WARN and isinstance(exception, asyncio.CancelledError):
        late = soft_time_limit(assignment).with_traceback(exception.__traceback__)
        return OUTCOME_FAILED, failure_of(late, describe, may_retry=True)
    return fate_of(exception, describe, is_users)


class LoopChannel(LoopHost, Protocol):
    """A real child process, whose frames a loop can wait for."""

    is_closed: bool

    def fileno(self) -> int: ...

    def poll(self) -> bytes | None:
        """A frame that is there already, else None; `is_closed` says then whether more will come."""


def main(host: LoopChannel, argument: bytes) -> None:
    """Entry of the child; returns when the worker lets go of it and nothing runs any more."""
    report = load(setup_decoder.decode(argument).modules)
    if isinstance(report, StartFailed):
        host.send(encode(report))
        return
    import uvloop

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        loop = runner.get_loop()
        # A future and not a task, which a user's code could find and cancel.
        loop.run_until_complete(_serve(host, report, loop))
    except BaseException:
        try:
            traceback.print_exc()
        finally:
            # Not in order, for that cancels what runs. Outcomes that are in the ring are read when we are gone.
            os._exit(BROKEN_STATUS)
    runner.close()


def _serve(host: LoopChannel, report: Ready, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Listens; what it returns is done when the loop is to end."""
    executor = LoopExecutor(host, registered_tasks(), loop)     # before Ready: it makes the page
    host.send(encode(report))

    def read() -> None:
        while (frame := host.poll()) is not None:
            executor.receive(frame)
        if host.is_closed:
            loop.remove_reader(host.fileno())
            executor.close()

    loop.add_reader(host.fileno(), read)
    return executor.ended
