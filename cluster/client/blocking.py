"""The client for programs without an event loop: the same words, and each call blocks until it is done.

A thread of its own runs the asynchronous client; calls of any number of threads go there and wait. What is the user's
own stays in the user's thread: items of a `map` are taken, results are decoded and progress is reported there.
"""

import atexit
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from actors import LoopEnded, LoopThread, runs_loop
from cluster.client.claim import HOLD
from cluster.client.client import MAP_CHUNK_TASKS, Client, Mapping
from cluster.client.executor import LANES_MAX, ClusterExecutor
from cluster.client.handle import CANCEL_GRACE, Batch, Handle
from cluster.client.inspection import Listing, TaskInfo, ids_of
from cluster.client.lock_listing import LockInfo, LockListing
from cluster.client.paging import Pages
from cluster.client.schedules import ScheduleInfo, ScheduleListing, SlotInfo
from cluster.client.task_actors import BlockingActorProxy
from cluster.client.watching import Event
from cluster.dependencies import ManyResults, Need, OneResult
from cluster.durations import Duration, seconds, timeout_seconds
from cluster.errors import ClusterError, DeadlineExceeded
from cluster.task import Task, task_of
from cluster.task_actor import TaskActor
from cluster.wire import Record

if TYPE_CHECKING:
    from cluster.client.exclusive import BlockingTurn, OnBusy

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")
T = TypeVar("T")
A = TypeVar("A", bound=TaskActor)

ENDED = "this client was closed, or belongs to the process that this one was forked from: open another one"


class BlockingClient:
    """A client of one cluster, for programs without an event loop. `Client.open` makes it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._thread: LoopThread | None = None      # from start to close
        self._was_closed = False

    def start(self) -> Self:
        """Connects, as entering does. Raises Unavailable."""
        _refuse_in_loop()
        if self._thread is not None or self._was_closed:
            raise ClusterError("a client is started once; make another one with Client.open")
        self._thread = LoopThread("quorumq client")
        self._thread.start()
        atexit.register(self.close)
        try:
            self.run(self._client.__aenter__)
        except BaseException:
            self._end()
            raise
        return self

    def close(self) -> None:
        """Says goodbye to the cluster. Calls that other threads have under way end with ClusterError."""
        if self._thread is None:
            return
        _refuse_in_loop()
        try:
            self.run(lambda: self._client.__aexit__(None, None, None))
        finally:
            self._end()

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        self._was_closed = True
        atexit.unregister(self.close)
        if thread is not None:
            thread.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- tasks --------------------------------------------------------------------------------------------------------

    def submit(self, fn: "Task[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> "BlockingHandle[R]":
        """Submits one call of a task; returns its handle once a majority of the brokers has it on disk. Raises as
        `Client.submit`. For many tasks `map` is faster by far."""
        return BlockingHandle(self, self.run(lambda: self._client.submit(fn, *args, **kwargs)))

    def map(self, fn: "Task[Concatenate[Item, ...], R]", items: Iterable[Item], /, **kwargs: Any) -> "BlockingBatch[R]":
        """Submits `fn(item, **kwargs)` for each item, in chunks; returns one batch once a majority has them all. Raises
        as `Client.map`."""
        mapping = Mapping(self._client, task_of(fn), kwargs)
        remaining = iter(items)
        while chunk := list(islice(remaining, MAP_CHUNK_TASKS)):
            self.run(lambda chunk=chunk: mapping.add(chunk))    # type: ignore[misc]
        return BlockingBatch(self, self.run(mapping.end))

    def actor(self, actor: type[A], /, *, key: str | None = None) -> BlockingActorProxy[A]:
        """The methods of a TaskActor as calls that wait for their results, as `Client.actor`."""
        return BlockingActorProxy(self, actor, key)

    def handle(self, task: int) -> "BlockingHandle[Any]":
        """A handle for a task by its id, for example after a restart of the program. Results are plain types."""

        async def make() -> Handle[Any]:
            return self._client.handle(task)

        return BlockingHandle(self, self.run(make))

    def replay(self, tasks: Iterable[int]) -> int:
        """Runs tasks again that ended without a result; returns how many. As `Client.replay`."""
        ids = list(ids_of(tasks))
        return self.run(lambda: self._client.replay(ids))

    def records(self, tasks: Iterable[int], *, stale: bool = False) -> list[Record]:
        """What the cluster has of these tasks, as `Client.records`."""
        ids = list(ids_of(tasks))
        return self.run(lambda: self._client.records(ids, stale=stale))

    def tasks(
        self,
        state: str | Iterable[str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        *,
        stale: bool = False,
    ) -> Iterator[TaskInfo]:
        """Tasks of these states, this queue and this task name, as `Client.tasks`: `for info in cluster.tasks()`."""
        listing = Listing(self._client, state, queue, name, limit, stale=stale)
        return self._infos(listing)

    def task(self, task: int, *, stale: bool = False) -> TaskInfo:
        """All that the cluster has of one task, as `Client.task`."""
        return self.run(lambda: self._client.task(task, stale=stale))

    def locks(self, prefix: str = "", limit: int | None = None, *, stale: bool = False) -> Iterator[LockInfo]:
        """Locks that somebody holds or waits for, as `Client.locks`: `for info in cluster.locks()`."""
        listing = LockListing(self._client, prefix, limit, stale=stale)
        return self._infos(listing)

    def exclusive(
        self,
        name: str,
        *,
        at_most: Duration,
        at_least: Duration = 0,
        on_busy: "OnBusy" = "skip",
        wait: Duration | None = None,
        hold: Duration = HOLD,
        note: str = "",
    ) -> "BlockingTurn":
        """One replica's turn to do the job `name`, as `Client.exclusive`: `with cluster.exclusive(...) as turn:`, or a
        decorator. A thread cannot be cancelled: the job asks `turn.is_held` now and then."""
        from cluster.client.exclusive import AsyncTurn, BlockingTurn, Terms

        terms = Terms(name, at_most=at_most, at_least=at_least, on_busy=on_busy, wait=wait, hold=hold, note=note)
        return BlockingTurn(self, AsyncTurn(self._client, terms))

    def schedules(self, prefix: str = "", limit: int | None = None, *, stale: bool = False) -> Iterator[ScheduleInfo]:
        """Schedules, as `Client.schedules`: `for info in cluster.schedules()`."""
        listing = ScheduleListing(self._client, prefix, limit, stale=stale)
        return self._infos(listing)

    def schedule(self, name: str, *, stale: bool = False) -> ScheduleInfo:
        """One schedule, with its history, as `Client.schedule`."""
        return self.run(lambda: self._client.schedule(name, stale=stale))

    def history(self, name: str, *, stale: bool = False) -> tuple[SlotInfo, ...]:
        """The last 20 slots of a schedule, as `Client.history`."""
        return self.run(lambda: self._client.history(name, stale=stale))

    def pause(self, name: str) -> None:
        """A schedule does not fire from now on, as `Client.pause`."""
        self.run(lambda: self._client.pause(name))

    def resume(self, name: str) -> None:
        """A schedule that was paused fires again, as `Client.resume`."""
        self.run(lambda: self._client.resume(name))

    def run_now(self, name: str) -> "BlockingHandle[Any]":
        """Runs a schedule's task now, as `Client.run_now`."""
        return BlockingHandle(self, self.run(lambda: self._client.run_now(name)))

    def delete_schedule(self, name: str) -> None:
        """Forgets a schedule that no live worker announces, as `Client.delete_schedule`."""
        self.run(lambda: self._client.delete_schedule(name))

    def cancel(self, tasks: Iterable[int], grace: Duration = CANCEL_GRACE) -> None:
        """Ends these tasks, as `Client.cancel`."""
        ids = list(ids_of(tasks))
        self.run(lambda: self._client.cancel(ids, grace))

    def status(self, *, stale: bool = False) -> dict[str, Any]:
        """The cluster's state, as `Client.status`."""
        return self.run(lambda: self._client.status(stale=stale))

    def executor(self, max_workers: int = LANES_MAX) -> ClusterExecutor:
        """This cluster as a `concurrent.futures.Executor`, with at most so many calls under way at a time. It ends with
        the client at the latest. Raises ValueError for a number that is not above 0."""
        return ClusterExecutor(self._client, self._connected, max_workers)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine of the asynchronous client in its thread, and waits for it."""
        _refuse_in_loop()
        try:
            return self._connected.call(make)
        except LoopEnded:
            raise ClusterError(ENDED) from None

    @property
    def is_foreign(self) -> bool:
        """Of the process that this one was forked from."""
        return self._thread is not None and self._thread.is_foreign

    def check_process(self) -> None:
        """Raises ClusterError if it is foreign."""
        if self.is_foreign:
            raise ClusterError(ENDED)

    def _infos(self, pages: Pages[T]) -> Iterator[T]:
        return (info for page in iter(lambda: self.run(pages.page), []) for info in page)

    @property
    def _connected(self) -> LoopThread:
        if self._thread is None:
            raise ClusterError(
                "this client is closed"
                if self._was_closed
                else "this client is not connected: use `with Client.open(...) as cluster:`, or call start()"
            )
        return self._thread


class BlockingHandle(OneResult[R]):
    """One submitted task. `result()` gives its result or raises what became of it, as `Handle` does."""

    __slots__ = ("_client", "_handle")

    def __init__(self, client: BlockingClient, handle: Handle[R]) -> None:
        self._client = client
        self._handle = handle

    @property
    def id(self) -> int:
        return self._handle.id

    @property
    def duplicate_of(self) -> int | None:
        """As `Handle.duplicate_of`."""
        return self._handle.duplicate_of

    def result(self, timeout: Duration | None = None) -> R:
        """The result, or DeadlineExceeded after `timeout`; the task goes on and may be asked for again."""
        timeout_seconds(timeout)
        if not self._handle.done():
            self._client.run(lambda: self._handle.wait(timeout))
        return self._handle.value()

    def done(self) -> bool:
        return self._handle.done()

    def state(self) -> str:
        """What this client knows: "pending" until the terminal record arrived, then its state."""
        return self._handle.state()

    def cancel(self, grace: Duration = CANCEL_GRACE) -> None:
        """As `Handle.cancel`: what waits is cancelled for good, what runs is asked to stop and ended after `grace`."""
        self._client.run(lambda: self._handle.cancel(grace))

    def replay(self) -> "BlockingHandle[R]":
        """As `Handle.replay`: runs a task again that ended without a result; returns a handle for its new end."""
        return BlockingHandle(self._client, self._client.run(self._handle.replay))

    def watch(self) -> Iterator[Event]:
        """What happens to the task, until it has ended, as `Handle.watch`: `for event in handle.watch()`."""
        events = self._handle.watch()

        async def take() -> Event | None:
            return await anext(events, None)

        async def leave() -> None:
            await events.aclose()

        try:
            while (event := self._client.run(take)) is not None:
                yield event
        finally:
            with suppress(ClusterError, RuntimeError):      # the client was closed, or the wait for it broken off
                self._client.run(leave)

    def progress(self) -> tuple[int, int | None] | None:
        """How far the task says it is, as `Handle.progress`."""
        return self._client.run(self._handle.progress)

    def log(self) -> str:
        """What the last attempt that has ended has logged, as `Handle.log`."""
        return self._client.run(self._handle.log)

    def _need(self) -> Need:
        return self._handle._need()

    def __repr__(self) -> str:
        return f"<BlockingHandle {self.id} {self.state()}>"


class BlockingBatch(ManyResults[R]):
    """Many tasks that were submitted together, as `Batch`."""

    def __init__(self, client: BlockingClient, batch: Batch[R]) -> None:
        self._client = client
        self._batch = batch

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def ids(self) -> list[int]:
        """The tasks' ids, in the order of the items."""
        return self._batch.ids

    @property
    def duplicates(self) -> dict[int, int]:
        """As `Batch.duplicates`."""
        return self._batch.duplicates

    @property
    def progress(self) -> tuple[int, int, int]:
        """(finished, not completed among them, all)."""
        return self._batch.progress

    def results(self, timeout: Duration | None = None) -> list[R]:
        """All results, in the order of the items; raises the first item's error (in item order) once all are finished.

        DeadlineExceeded after `timeout`; the tasks go on.
        """
        self._client.run(lambda: self._batch.wait(timeout))
        return self._batch.values()

    def as_completed(self) -> Iterator[BlockingHandle[R]]:
        """Handles of finished tasks, in the order in which they finish."""
        for place in range(len(self._batch)):
            if place == self._batch.progress[0]:
                self._client.run(lambda count=place + 1: self._batch.wait(finished=count))  # type: ignore[misc]
            yield BlockingHandle(self._client, self._batch.finished(place))

    def on_progress(self, report: Callable[[int, int, int], None], every: Duration = 0.1) -> None:
        """Calls `report(finished, not completed, all)` about each `every` (a duration) until all are finished."""
        seconds("every", every)
        while self._batch.progress[0] < len(self._batch):
            with suppress(DeadlineExceeded):
                self._client.run(lambda: self._batch.wait(every))
            report(*self._batch.progress)

    def cancel(self, grace: Duration = CANCEL_GRACE) -> None:
        """Ends every task of the batch that is not terminal, as `Batch.cancel`."""
        self._client.run(lambda: self._batch.cancel(grace))

    def _needs(self) -> list[Need]:
        return self._batch._needs()

    def __repr__(self) -> str:
        finished, _, total = self.progress
        return f"<BlockingBatch {finished} of {total} finished>"


def _refuse_in_loop() -> None:
    if runs_loop():
        raise ClusterError(
            "a blocking call inside a running event loop would stop the loop: use `async with Client.connect(...)` and "
            "await there, or make the call in a thread (asyncio.to_thread)"
        )
