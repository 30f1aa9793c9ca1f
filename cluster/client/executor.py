"""`concurrent.futures` over a cluster: the functions are tasks, the workers are wherever the cluster has them.

What was handed in waits here, in order, and can be cancelled as in any executor. At most `max_workers` calls are with
the cluster at a time; as far as their futures go, those have begun. Each is in a *lane*, a coroutine in the client's
thread that takes one call after another. Lanes are many, so that submits still travel together.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from actors import LoopEnded, LoopThread, runs_loop
from cluster.client.client import Client
from cluster.client.task_actors import BlockingActorMethod
from cluster.errors import ClusterError, TaskFailed, TaskNotFound
from cluster.task import Task, registered_tasks, task_of
from cluster.task_actor import MethodTask

P = ParamSpec("P")
T = TypeVar("T")

LANES_MAX = 1_024
ENDED = (
    "the client of this executor was closed, or belongs to the process that this one was forked from; tasks that were "
    "submitted go on"
)

Call = tuple[Future[Any], Task[..., Any], tuple[Any, ...], dict[str, Any]]


class ClusterExecutor(Executor):
    """`BlockingClient.executor` makes it. `submit` takes tasks, plain functions of which `@task` was made, and methods
    of task actors as `BlockingClient.actor` gives them; `map` and `shutdown` are those of every executor.

    A future raises what the function raised if that is one of Python's own exceptions, with the TaskFailed and its
    remote traceback as the cause; else the TaskFailed. Calls that the cluster has cannot be cancelled here.
    """

    def __init__(self, client: Client, thread: LoopThread, max_workers: int = LANES_MAX) -> None:
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._client = client
        self._thread = thread               # the client's
        self._lanes_max = max_workers
        self._lanes = 0                     # that run, or are about to
        self._waiting: deque[Call] = deque()
        self._is_shut_down = False
        self._changed = threading.Condition()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises TaskNotFound for a function that is no task, ValueError for a method of another client's actor,
        RuntimeError after `shutdown`, ClusterError after the client was closed, or in a process that was forked. What
        else is wrong with the call is in its future."""
        task = _task_for(fn, self._client)
        future: Future[T] = Future()
        call: Call = (future, task, args, kwargs)
        if self._thread.is_foreign:     # before the lock, which another thread may have held in the moment of the fork
            raise ClusterError(ENDED)
        with self._changed:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._lanes == self._lanes_max:
                self._waiting.append(call)
                return future
            self._lanes += 1
        first = [call]
        try:
            lane = self._thread.begin(lambda: self._run_lane(first))
        except LoopEnded:
            self._close_lane([])
            raise ClusterError(ENDED) from None
        lane.add_done_callback(lambda lane: self._lane_ended(lane, first))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more; with `wait`, returns when all that was submitted has ended. With `cancel_futures` what the
        cluster does not have yet is cancelled. Raises ClusterError where to wait would be a deadlock."""
        if self._thread.is_foreign:
            return
        with self._changed:
            self._is_shut_down = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for future, *_ in dropped:
            future.cancel()
            future.set_running_or_notify_cancel()
        if wait:
            if runs_loop() or self._thread.runs_here:
                raise ClusterError("to wait inside a running event loop would stop it: use shutdown(wait=False)")
            with self._changed:
                self._changed.wait_for(lambda: self._lanes == 0)

    # -- in the client's thread ---------------------------------------------------------------------------------------

    async def _run_lane(self, first: list[Call]) -> None:
        call: Call | None = first.pop()
        while call is not None:
            await self._run(*call)
            call = self._next()

    def _next(self) -> Call | None:
        """None closes the lane, in the same step: a call that comes now opens another."""
        with self._changed:
            if self._waiting:
                return self._waiting.popleft()
            self._lanes -= 1
            self._changed.notify_all()
            return None

    def _lane_ended(self, lane: "Future[None]", first: list[Call]) -> None:
        """If `first` is not empty, the lane has never begun."""
        if lane.cancelled() or lane.exception() is not None:
            self._close_lane(first)

    def _close_lane(self, left: list[Call]) -> None:
        """The client is closed: nobody will take what is left, nor what waits."""
        with self._changed:
            self._lanes -= 1
            left = [*left, *self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for future, *_ in left:
            if future.set_running_or_notify_cancel():       # else it was cancelled, and who waits for it hears of it
                future.set_exception(ClusterError(ENDED))

    async def _run(
        self, future: Future[Any], task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            value = await (await self._client.submit(task, *args, **kwargs))
        except TaskFailed as failed:
            future.set_exception(_original(failed))
        except asyncio.CancelledError:
            future.set_exception(ClusterError(ENDED))
            raise
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(value)


def _original(failed: TaskFailed) -> BaseException:
    original = failed.__cause__
    if original is None:
        return failed
    failed.__cause__ = None
    original.__cause__ = failed
    return original


def _task_for(fn: object, client: Client) -> Task[..., Any]:
    if isinstance(fn, Task):
        return task_of(fn)
    if isinstance(fn, BlockingActorMethod):
        return task_of(fn.task_for(client))
    function = getattr(fn, "__func__", fn)
    for task in registered_tasks().values():
        if task.function is function:
            return task_of(fn if isinstance(task, MethodTask) else task)    # of the former it raises, and says how
    if getattr(fn, "is_called_as", ""):
        return task_of(fn)      # raises, and says how
    name = getattr(fn, "__qualname__", repr(fn))
    raise TaskNotFound(
        f"{name} is not a task: put @task above it, in a module that workers import; they find it by its name, and "
        "nothing is pickled"
    )
