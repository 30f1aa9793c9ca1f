"""What users hold: the client, a handle for each task, a batch for many."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

import msgspec

from actors import MILLISECOND, SECOND, ActorSystem, Nanos, Ports, real_ports
from cluster import topology
from cluster.client.actor import ClientActor
from cluster.errors import (
    ClusterError,
    DeadlineExceeded,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TopologyError,
    Unavailable,
)
from cluster.state.effects import (
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_EXPIRED,
    STATE_FAILED,
    TaskResult,
)
from cluster.task import Task, task_of
from cluster.wire import HELLO_ITEMS_MAX, Record

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

DEADLINE_S = 30.0
RETRY_S = 0.05                              # between two looks for a leader that can answer a question
MAP_CHUNK_TASKS = 1_024
MAP_QUEUED_TASKS = 8 * MAP_CHUNK_TASKS      # encoded ahead of the window; bounds the memory of a huge map

STATE_NAMES = {
    STATE_COMPLETED: "completed",
    STATE_FAILED: "failed",
    STATE_DEAD: "dead",
    STATE_CANCELLED: "cancelled",
    STATE_EXPIRED: "expired",
}


class Client:
    """An asynchronous client of one cluster. Make it with `connect`; it lives in the running event loop."""

    def __init__(
        self, plan: topology.Topology, ports: Callable[[], Ports], deadline: float, require_leader: bool = True
    ) -> None:
        self._topology = plan
        self._make_ports = ports
        self._deadline = deadline
        self._require_leader = require_leader

    @classmethod
    def connect(
        cls, topology_file: str | Path, *, deadline: float = DEADLINE_S, require_leader: bool = True
    ) -> "Client":
        """A client of the cluster that `topology_file` describes; use it as `async with`.

        Entering waits until a session stands, at most `deadline` seconds, which is also the default deadline of
        every request. Without `require_leader` it enters all the same after that time, to look at what there is.
        Raises TopologyError; on entering Unavailable.
        """
        path = Path(topology_file)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TopologyError(f"{path}: {error.strerror}") from None
        return cls(topology.parse(text, str(path)), lambda: real_ports(asyncio.get_running_loop()), deadline, require_leader)

    async def __aenter__(self) -> Self:
        self._ports = self._make_ports()
        self._loop = asyncio.get_running_loop()
        name = f"client-{self._ports.entropy.bits(64):016x}"
        brokers = tuple((node.name, node.address) for node in self._topology.brokers)
        self._actor = ClientActor(self._topology.name, name, self._ports.entropy.bits(63), brokers)
        self._system = ActorSystem(self._ports, node=name)
        self._system.spawn(self._actor, name="client")
        try:
            await self._ready(self._deadline)
        except Unavailable:
            if self._require_leader:
                await self._stop()
                raise
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    # -- tasks --------------------------------------------------------------------------------------------------------

    async def submit(self, fn: "Task[P, R]", *args: P.args, **kwargs: P.kwargs) -> "Handle[R]":
        """Submits one call of a task; returns its handle once a majority of the brokers has it on disk.

        Submits of one loop turn (`asyncio.gather`) leave as one command. Raises TaskNotFound, EncodeError,
        BodyTooLarge, TypeError (arguments) at once; Overloaded, Unavailable, DeadlineExceeded by the deadline.
        """
        task = task_of(fn)
        body = task.encode(args, kwargs)
        actor = self._actor
        if not actor.session:
            await self._ready(self._deadline)
        confirmed: asyncio.Future[None] = self._loop.create_future()
        handle: Handle[R] = Handle(self, task)
        handle.id = actor.submit(
            task.name, task.wire_options, body, self._deadline_at(self._deadline), handle, confirmed
        )
        await confirmed
        return handle

    async def map(self, fn: "Task[..., R]", items: Iterable[Item], **kwargs: Any) -> "Batch[R]":
        """Submits `fn(item, **kwargs)` for each item, in chunks; returns one batch once a majority has them all.

        Each item is a task with an id, attempts and a terminal record of its own. Raises as `submit`.
        """
        task = task_of(fn)
        actor = self._actor
        if not actor.session:
            await self._ready(self._deadline)
        batch: Batch[R] = Batch(self, task)
        confirmed: deque[asyncio.Future[None]] = deque()
        remaining = iter(items)
        while chunk := [task.encode((item,), kwargs) for item in islice(remaining, MAP_CHUNK_TASKS)]:
            deadline = self._deadline_at(self._deadline)
            waiters = actor.submit_many(task.name, task.wire_options, chunk, deadline, batch)
            confirmed += waiters
            await self._next_turn()     # the chunk leaves while the next one is encoded
            while actor.queued_tasks > MAP_QUEUED_TASKS:
                await confirmed.popleft()
        for waiter in confirmed:
            await waiter
        batch.complete()
        return batch

    def handle(self, task: int) -> "Handle[Any]":
        """A handle for a task by its id, for example after a restart of the client. Results are plain types."""
        handle: Handle[Any] = Handle(self, None)
        handle.id = task
        self._actor.watch(task, handle)
        return handle

    async def records(self, tasks: Iterable[int]) -> list[Record]:
        """What the cluster has of these tasks: state and number of attempts of each, in order.

        Raises Unavailable or DeadlineExceeded.
        """
        found: list[Record] = []
        remaining = iter(tasks)
        end = self._deadline_at(self._deadline)
        while chunk := list(islice(remaining, HELLO_ITEMS_MAX)):
            while True:
                try:
                    future = self._actor.describe(chunk)
                    found += await self._within(
                        future, self._deadline, lambda: DeadlineExceeded("no answer in time", outcome="refused")
                    )
                    break
                except Unavailable:
                    if self._ports.clock.now() >= end:
                        raise
                    await self._pause(RETRY_S)
        return found

    async def status(self) -> dict[str, Any]:
        """The cluster's state, as `python -m cluster status --json` prints it."""
        from cluster.client.status import gather_status

        return await gather_status(self._actor, self._topology, self._ports.clock, self._loop)

    async def _stop(self) -> None:
        self._system.stop()
        await self._system.wait_stopped()

    # -- inside ---------------------------------------------------------------------------------------------------------

    async def _next_turn(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._ports.clock.call_soon(lambda: None if turn.done() else turn.set_result(None))
        await turn

    async def _pause(self, seconds: float) -> None:
        end: asyncio.Future[None] = self._loop.create_future()
        self._ports.clock.call_at(self._deadline_at(seconds), lambda: None if end.done() else end.set_result(None))
        await end

    def _deadline_at(self, seconds: float) -> Nanos:
        return self._ports.clock.now() + int(seconds * SECOND)

    async def _ready(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._actor.registered(waiter)
        nodes = ", ".join(f"{node.name} {node.address}" for node in self._topology.brokers)

        def error() -> ClusterError:
            reason = self._actor.refusal or f"no leader answered ({nodes})"
            return Unavailable(f"no session in {seconds:g} s: {reason}", outcome="refused")

        await self._within(waiter, seconds, error)

    async def _within(self, future: "asyncio.Future[Any]", seconds: float | None, error: Callable[[], ClusterError]) -> Any:
        """The future's value, or `error` after `seconds`, on the client's clock."""
        if seconds is None or future.done():
            return await future
        def expire() -> None:
            if not future.done():
                future.set_exception(error())

        timer = self._ports.clock.call_at(self._deadline_at(seconds), expire)
        try:
            return await future
        finally:
            timer.cancel()

    async def _cancel(self, tasks: list[int]) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._actor.cancel(tasks, waiter)
        await self._within(
            waiter, self._deadline, lambda: DeadlineExceeded("cancel was not confirmed", outcome="unknown")
        )


class Handle(Generic[R]):
    """One submitted task. `await handle` gives its result or raises what became of it:

    TaskFailed, TaskDead, TaskCancelled, TaskExpired, or Unavailable with outcome "unknown".
    """

    __slots__ = ("_client", "_error", "_result", "_task", "_waiters", "id")

    def __init__(self, client: Client, task: Task[..., R] | None) -> None:
        self.id = 0
        self._client = client
        self._task = task
        self._result: TaskResult | None = None
        self._error: ClusterError | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __await__(self) -> Generator[Any, None, R]:
        if self._result is None and self._error is None:
            yield from self._arrival().__await__()
        return self._value()

    async def result(self, timeout: float | None = None) -> R:
        """The result, or DeadlineExceeded after `timeout` seconds; the task goes on and may be awaited again."""
        if self._result is None and self._error is None:
            await self._client._within(
                self._arrival(),
                timeout,
                lambda: DeadlineExceeded(f"task {self.id} has no result after {timeout:g} s", outcome="unknown"),
            )
        return self._value()

    def state(self) -> str:
        """What this client knows: "pending" until the terminal record arrived, then its state."""
        return "pending" if self._result is None else STATE_NAMES[self._result.state]

    def done(self) -> bool:
        return self._result is not None or self._error is not None

    async def cancel(self) -> None:
        """Ends the task unless it is terminal already; returns once a majority has that on disk."""
        await self._client._cancel([self.id])

    def deliver(self, result: TaskResult) -> None:
        self._result = result
        self._wake()

    def fail(self, task: int, error: ClusterError) -> None:
        self._error = error
        self._wake()

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

    def _value(self) -> R:
        if self._result is None:
            assert self._error is not None
            raise self._error
        return value_of(self._result, self._task)

    def __repr__(self) -> str:
        return f"<Handle {self.id} {self._task.name if self._task else '?'} {self.state()}>"


class Batch(Generic[R]):
    """Many tasks that were submitted together. `await batch` gives their results in the order of the items."""

    def __init__(self, client: Client, task: Task[..., R]) -> None:
        self._client = client
        self._task = task
        self._index: dict[int, int] = {}                 # task id -> position of its item
        self._records: list[TaskResult | ClusterError | None] = []
        self._finished: list[int] = []                   # positions, in order of arrival
        self._failed = 0
        self._complete = False                           # every item is submitted
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._records)

    @property
    def ids(self) -> list[int]:
        """The tasks' ids, in the order of the items."""
        return list(self._index)

    @property
    def progress(self) -> tuple[int, int, int]:
        """(finished, not completed among them, all)."""
        return len(self._finished), self._failed, len(self._records)

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.results().__await__()

    async def results(self, timeout: float | None = None) -> list[R]:
        """All results; raises the first item's error (in item order) once all are finished.

        DeadlineExceeded after `timeout` seconds; the tasks go on.
        """
        await self._wait(len(self._records), timeout)
        return [self._value(position) for position in range(len(self._records))]

    async def as_completed(self) -> AsyncIterator[Handle[R]]:
        """Handles of finished tasks, in the order in which they finish."""
        position = 0
        ids = self.ids
        while position < len(self._records):
            if position == len(self._finished):
                await self._wait(position + 1, None)
            for index in self._finished[position:]:
                yield self._handle(ids[index], index)
            position = max(position, 0) + len(self._finished[position:])

    async def on_progress(self, report: Callable[[int, int, int], None], every: float = 0.1) -> None:
        """Calls `report(finished, not completed, all)` about each `every` seconds until all are finished."""
        clock = self._client._ports.clock
        while len(self._finished) < len(self._records):
            waiter: asyncio.Future[None] = self._client._loop.create_future()
            timer = clock.call_at(
                clock.now() + int(every * 1000) * MILLISECOND,
                lambda waiter=waiter: None if waiter.done() else waiter.set_result(None),  # type: ignore[misc]
            )
            await waiter
            timer.cancel()
            report(*self.progress)

    async def cancel(self) -> None:
        """Ends every task of the batch that is not terminal."""
        open_tasks = [task for task, position in self._index.items() if self._records[position] is None]
        for start in range(0, len(open_tasks), MAP_CHUNK_TASKS):
            await self._client._cancel(open_tasks[start : start + MAP_CHUNK_TASKS])

    # -- what the actor and `map` call ------------------------------------------------------------------------------

    def add(self, task: int) -> None:
        self._index[task] = len(self._records)
        self._records.append(None)

    def complete(self) -> None:
        self._complete = True
        self._wake()

    def deliver(self, result: TaskResult) -> None:
        self._record(result.task, result, result.state == STATE_COMPLETED)

    def fail(self, task: int, error: ClusterError) -> None:
        self._record(task, error, False)

    def _record(self, task: int, record: TaskResult | ClusterError, good: bool) -> None:
        position = self._index[task]
        if self._records[position] is None:
            self._records[position] = record
            self._finished.append(position)
            self._failed += not good
            if self._waiters:
                self._wake()

    async def _wait(self, finished: int, timeout: float | None) -> None:
        clock = self._client._ports.clock
        end = None if timeout is None else clock.now() + int(timeout * SECOND)
        while len(self._finished) < finished or not self._complete:
            waiter: asyncio.Future[None] = self._client._loop.create_future()
            self._waiters.append(waiter)
            left = None if end is None else max(0, end - clock.now()) / SECOND
            await self._client._within(
                waiter,
                left,
                lambda: DeadlineExceeded(f"{self.progress[0]} of {len(self)} finished in time", outcome="unknown"),
            )

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _value(self, position: int) -> R:
        record = self._records[position]
        assert record is not None
        if isinstance(record, ClusterError):
            raise record
        return value_of(record, self._task)

    def _handle(self, task: int, position: int) -> Handle[R]:
        handle: Handle[R] = Handle(self._client, self._task)
        handle.id = task
        record = self._records[position]
        if isinstance(record, ClusterError):
            handle.fail(task, record)
        elif record is not None:
            handle.deliver(record)
        return handle


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
        raise TaskExpired(f"task {result.task} expired before it could run")
    assert result.error is not None
    if result.state == STATE_DEAD:
        raise TaskDead(result.error, result.attempts)
    raise TaskFailed.from_failure(result.error)
