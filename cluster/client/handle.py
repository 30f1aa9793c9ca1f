"""Handles and batches: what a client returns for submitted tasks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from actors import MILLISECOND
from cluster.client.watching import Event, watch
from cluster.dependencies import ManyResults, Need, OneResult
from cluster.durations import Duration, milliseconds, timeout_seconds
from cluster.errors import (
    ClusterError,
    DeadlineExceeded,
    DependencyFailed,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
)
from cluster.state.effects import (
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_EXPIRED,
    TaskResult,
)
from cluster.state.inputs import END_NAMES
from cluster.task import Task

if TYPE_CHECKING:
    from cluster.client.client import Client

R = TypeVar("R")

CANCEL_TASKS_MAX = 1_024        # in one command
CANCEL_GRACE = "5s"


class Handle(OneResult[R]):
    """One submitted task. `await handle` gives its result or raises what became of it:

    TaskFailed, TaskDead, TaskCancelled, TaskExpired, or Unavailable with outcome "unknown". As an argument of another
    task it stands for that result (`cluster.group`).

    `id` is its own. `duplicate_of` is the id of another one that did its work, if it was submitted with a key (`dedup`)
    that this had; then everything that the handle says of an end is that one's. It is None until that is known.
    """

    __slots__ = ("_client", "_error", "_result", "_task", "_waiters", "duplicate_of", "id")

    def __init__(self, client: "Client", task: Task[..., R] | None) -> None:
        self.id = 0
        self.duplicate_of: int | None = None
        self._client = client
        self._task = task
        self._result: TaskResult | None = None
        self._error: ClusterError | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __await__(self) -> Generator[Any, None, R]:
        if not self.done():
            yield from self._arrival().__await__()
        return self.value()

    async def result(self, timeout: Duration | None = None) -> R:
        """The result, or DeadlineExceeded after `timeout`; the task goes on and may be awaited again.
        Raises TypeError and ValueError for a timeout that is none."""
        await self.wait(timeout)
        return self.value()

    async def wait(self, timeout: Duration | None = None) -> None:
        """Until the task has ended, whatever became of it, or DeadlineExceeded."""
        limit = timeout_seconds(timeout)
        if not self.done():
            await self._client._within(
                self._arrival(),
                limit,
                lambda: DeadlineExceeded(f"task {self.id} has no result after {limit:g} s", outcome="unknown"),
            )

    def value(self) -> R:
        """The result of a task that is `done`; raises what became of it."""
        if self._result is None:
            if self._error is None:
                raise ClusterError(f"task {self.id} has not ended")
            raise self._error
        try:
            return value_of(self._result, self._task)
        except ClusterError as error:
            if self.duplicate_of is not None:
                error.add_note(f"task {self.id} is a duplicate of task {self.duplicate_of}")
            raise

    def state(self) -> str:
        """What this client knows: "pending" until the terminal record arrived, then its state."""
        return "pending" if self._result is None else END_NAMES[self._result.state]

    def done(self) -> bool:
        return self._result is not None or self._error is not None

    async def cancel(self, grace: Duration = CANCEL_GRACE) -> None:
        """Ends the task unless it is terminal already; returns once a majority has that on disk.

        One that waits is cancelled from then on, for good, whether workers are up or not. One that runs is asked to
        stop (`current().cancelled`), its process gets SIGTERM after `grace` and SIGKILL 2 seconds later; it ends as
        cancelled, or as what it came to before. Raises ValueError and TypeError for a grace that is none.
        """
        await self._client._cancel([self.id], grace)

    async def replay(self) -> "Handle[R]":
        """Runs a task again that ended without a result; returns a handle for its new end, once a majority has that.
        This one stays as it is. Raises ClusterError if there is nothing to be run again, else as `Client.replay`.
        """
        if self.duplicate_of is not None:
            raise ClusterError(f"task {self.id} is a duplicate of task {self.duplicate_of}: replay that one")
        if await self._client.replay([self.id]) == 0:
            raise ClusterError(
                f"task {self.id} is not run again: it is completed, has not ended yet, or is not kept any more; "
                "`records` says which"
            )
        return self._client._watch(Handle(self._client, self._task), self.id)

    def watch(self) -> AsyncGenerator[Event, None]:
        """What happens to the task, beginning with how it is, until it has ended: `async for event in handle.watch()`.

        The last event is "finished", and it comes once, whatever happened to brokers and workers. Others are not kept
        for anybody: while the cluster changes its leader some may be lost, and the next says how the task is by then.
        Raises TaskNotFound if the cluster has no record of it, Unavailable if the client was closed.
        """
        return watch(self._client, self)

    async def progress(self) -> tuple[int, int | None] | None:
        """How far the task says it is, (done, total), at most a second old; None if it does not run, or has not said.
        Raises TaskNotFound, Unavailable and DeadlineExceeded."""
        event = await self._present()
        return None if event.done is None else (event.done, event.total)

    async def log(self) -> str:
        """What the last attempt that has ended wrote to `current().log`, the last 4 KiB of it. Raises as `progress`."""
        return (await self._present()).log

    async def _present(self) -> Event:
        client = self._client
        events = watch(client, self, client._deadline_at(client._deadline))
        async for event in events:
            await events.aclose()
            return event
        raise AssertionError("the first event says how a task is")

    def _need(self) -> Need:
        return Need(self.id, self._client, self._result)

    def record(self) -> TaskResult | None:
        """The terminal record, once it has come."""
        return self._result

    def deliver(self, result: TaskResult) -> None:
        self._result = result
        self._wake()

    def fail(self, task: int, error: ClusterError) -> None:
        self._error = error
        self._wake()

    def follow(self, task: int, first: int) -> None:
        self.duplicate_of = first

    def _arrival(self) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = self._client._loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(future)
        return future

    def _wake(self) -> None:
        if self._waiters is not None:
            for future in self._waiters:
                if not future.done():
                    future.set_result(None)
            self._waiters = None

    def __repr__(self) -> str:
        return f"<Handle {self.id} {self._task.name if self._task else '?'} {self.state()}>"


class Batch(ManyResults[R]):
    """Many tasks that were submitted together. `await batch` gives their results in the order of the items."""

    def __init__(self, client: "Client", task: Task[..., R]) -> None:
        self._client = client
        self._task = task
        self._ids: list[int] = []
        self._index: dict[int, int] = {}                 # task id -> position of its item
        self._records: list[TaskResult | ClusterError | None] = []
        self._finished: list[int] = []                   # positions, in order of arrival
        self._failed = 0
        self._firsts: dict[int, int] = {}                # duplicates -> of which task
        self._complete = False                           # every item is submitted
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._records)

    @property
    def ids(self) -> list[int]:
        """The tasks' ids, in the order of the items."""
        return self._ids.copy()

    @property
    def duplicates(self) -> dict[int, int]:
        """Those of `ids` that are duplicates, as far as that is known, and of which task (`Handle.duplicate_of`)."""
        return self._firsts.copy()

    @property
    def progress(self) -> tuple[int, int, int]:
        """(finished, not completed among them, all)."""
        return len(self._finished), self._failed, len(self._records)

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.results().__await__()

    async def results(self, timeout: Duration | None = None) -> list[R]:
        """All results; raises the first item's error (in item order) once all are finished.

        DeadlineExceeded after `timeout`; the tasks go on.
        """
        await self.wait(timeout)
        return self.values()

    async def wait(self, timeout: Duration | None = None, *, finished: int | None = None) -> None:
        """Until all, or `finished` of them, have ended, or DeadlineExceeded."""
        wanted = len(self._records) if finished is None else finished
        limit = timeout_seconds(timeout)
        end = None if limit is None else self._client._deadline_at(limit)
        while len(self._finished) < wanted or not self._complete:
            waiter: asyncio.Future[None] = self._client._loop.create_future()
            self._waiters.append(waiter)
            left = None if end is None else self._client._left(end)
            await self._client._within(
                waiter,
                left,
                lambda: DeadlineExceeded(f"{self.progress[0]} of {len(self)} finished in time", outcome="unknown"),
            )

    def values(self) -> list[R]:
        """The results of a batch that has ended; raises the first item's error, in item order."""
        return [self._value(position) for position in range(len(self._records))]

    async def as_completed(self) -> AsyncIterator[Handle[R]]:
        """Handles of finished tasks, in the order in which they finish."""
        for place in range(len(self._records)):
            if place == len(self._finished):
                await self.wait(finished=place + 1)
            yield self.finished(place)

    def finished(self, place: int) -> Handle[R]:
        """The handle of the task that ended as number `place`; that many have to have ended."""
        position = self._finished[place]
        handle: Handle[R] = Handle(self._client, self._task)
        handle.id = self._ids[position]
        handle.duplicate_of = self._firsts.get(handle.id)
        record = self._records[position]
        if isinstance(record, ClusterError):
            handle.fail(handle.id, record)
        elif record is not None:
            handle.deliver(record)
        return handle

    async def on_progress(self, report: Callable[[int, int, int], None], every: Duration = 0.1) -> None:
        """Calls `report(finished, not completed, all)` about each `every` (a duration) until all are finished."""
        clock = self._client._ports.clock
        pause = milliseconds("every", every) * MILLISECOND
        while len(self._finished) < len(self._records):
            waiter: asyncio.Future[None] = self._client._loop.create_future()
            timer = clock.call_at(
                clock.now() + pause,
                lambda waiter=waiter: None if waiter.done() else waiter.set_result(None),  # type: ignore[misc]
            )
            await waiter
            timer.cancel()
            report(*self.progress)

    async def cancel(self, grace: Duration = CANCEL_GRACE) -> None:
        """Ends every task of the batch that is not terminal, as `Handle.cancel`."""
        open_tasks = [task for task, position in self._index.items() if self._records[position] is None]
        await self._client.cancel(open_tasks, grace)

    def _needs(self) -> list[Need]:
        records = [record if isinstance(record, TaskResult) else None for record in self._records]
        return [Need(task, self._client, record) for task, record in zip(self._ids, records, strict=True)]

    # -- what the actor and `map` call ------------------------------------------------------------------------------

    def add(self, task: int) -> None:
        self._index[task] = len(self._records)
        self._ids.append(task)
        self._records.append(None)

    def complete(self) -> None:
        self._complete = True
        self._wake()

    def deliver(self, result: TaskResult) -> None:
        self._record(result.task, result, result.state == STATE_COMPLETED)

    def fail(self, task: int, error: ClusterError) -> None:
        self._record(task, error, False)

    def follow(self, task: int, first: int) -> None:
        self._firsts[task] = first

    def _record(self, task: int, record: TaskResult | ClusterError, good: bool) -> None:
        position = self._index[task]
        if self._records[position] is None:
            self._records[position] = record
            self._finished.append(position)
            self._failed += not good
            if self._waiters:
                self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _value(self, position: int) -> R:
        record = self._records[position]
        assert record is not None
        if isinstance(record, ClusterError):
            raise record    # one error for every item that it befell
        try:
            return value_of(record, self._task)
        except ClusterError as error:
            error.add_note(f"item {position} of the map, task {self._ids[position]}")
            raise


def value_of(result: TaskResult, task: Task[..., R] | None) -> R:
    """A terminal record as a value, or raised as the error that it stands for."""
    if result.state == STATE_COMPLETED:
        if task is not None:
            return task.decode_result(result.body)
        plain: R = msgspec.msgpack.decode(result.body)
        return plain
    if result.state == STATE_CANCELLED:
        raise TaskCancelled(f"task {result.task} was cancelled")
    if result.state == STATE_EXPIRED:
        raise _expired(result)
    assert result.error is not None
    if result.state == STATE_DEAD:
        raise TaskDead(result.error, result.attempts)
    if result.error.unmet is not None:
        raise DependencyFailed.from_unmet(result.error.message, result.error.unmet)
    raise TaskFailed.from_failure(result.error)


def _expired(result: TaskResult) -> TaskExpired:
    if not result.attempts:
        return TaskExpired(f"task {result.task} expired before it could run")
    last = result.error
    ended = f"; attempt {result.attempts} ended with {last.type}: {last.message}" if last and last.type else ""
    return TaskExpired(f"task {result.task} expired before it could run again{ended}")
