"""What users hold: the client, a handle for each task, a batch for many."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from actors import SECOND, Nanos, Ports, real_ports
from cluster import topology
from cluster.client.actor import ClientActor
from cluster.client.claim import HOLD
from cluster.client.commands import CROWDED_RETRY_S, TOO_MANY_NEEDS
from cluster.client.handle import CANCEL_GRACE, CANCEL_TASKS_MAX, Batch, Handle
from cluster.client.inspection import Listing, TaskInfo, checked_id, ids_of, show
from cluster.client.lock_listing import LockInfo, LockListing
from cluster.client.schedules import ScheduleInfo, ScheduleListing, SlotInfo, checked_name, refusal, show_schedule
from cluster.client.succession import SessionLimits, Succession
from cluster.client.task_actors import ActorProxy
from cluster.durations import Duration, deadline_seconds, milliseconds
from cluster.errors import (
    ClusterError,
    DeadlineExceeded,
    DependencyError,
    LockLost,
    Overloaded,
    Unavailable,
)
from cluster.options import check_dates
from cluster.state.commands import (
    GRACE_MS_MAX,
    REPLAY_TASKS_MAX,
    REPLAYED_BITS,
    STEER_DELETE,
    STEER_PAUSE,
    STEER_RESUME,
    STEER_RUN,
    Needs,
)
from cluster.state.effects import ANSWER_CROWDED, ANSWER_OK
from cluster.task import Task, task_of
from cluster.task_actor import TaskActor
from cluster.wire import HELLO_ITEMS_MAX, Describe, Message, Record

if TYPE_CHECKING:
    from cluster.client.blocking import BlockingClient
    from cluster.client.exclusive import AsyncTurn, OnBusy

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")
Part = TypeVar("Part")
A = TypeVar("A", bound=TaskActor)

DEADLINE_S = 30.0
RETRY_S = 0.05                              # between two looks for a leader that can answer a question
MAP_CHUNK_TASKS = 1_024
MAP_QUEUED_TASKS = 8 * MAP_CHUNK_TASKS      # encoded ahead of the window; bounds the memory of a huge map


class Client:
    """An asynchronous client of one cluster. Make it with `connect`; it lives in the running event loop."""

    def __init__(
        self, plan: topology.Topology, ports: Callable[[], Ports], deadline: Duration, require_leader: bool = True,
        *, only_looks: bool = False, limits: SessionLimits | None = None,
    ) -> None:
        self._topology = plan
        self._make_ports = ports
        self._deadline = deadline_seconds(deadline)
        self._require_leader = require_leader
        self._only_looks = only_looks
        self._limits = limits or SessionLimits()
        self._owns_ports = False
        self._made_ports: Ports | None = None           # from entering on, like the next
        self._succession: Succession | None = None

    @classmethod
    def connect(
        cls, topology_file: str | Path, *, deadline: Duration = DEADLINE_S, require_leader: bool = True,
        only_looks: bool = False,
    ) -> "Client":
        """A client of the cluster that `topology_file` describes; use it as `async with`.

        Entering waits until a session stands, at most `deadline` (a duration), which is also the deadline of every
        request. Without `require_leader` it enters all the same after that time, to look at what there is.
        With `only_looks` it opens no session, so that nothing of it is written into the log: it can ask for status,
        records and results, and submits nothing.
        Raises TopologyError, TypeError and ValueError for a deadline that is none; on entering Unavailable.
        """
        plan = topology.load(Path(topology_file))

        def ports() -> Ports:
            return real_ports(asyncio.get_running_loop())

        client = cls(plan, ports, deadline, require_leader, only_looks=only_looks)
        client._owns_ports = True
        return client

    @classmethod
    def open(
        cls, topology_file: str | Path, *, deadline: Duration = DEADLINE_S, require_leader: bool = True,
        only_looks: bool = False,
    ) -> "BlockingClient":
        """The same for programs without an event loop: a client whose calls block, for any number of threads. Use it as
        `with Client.open(...) as cluster:`, or `start` and `close` it. Arguments and errors are those of `connect`.
        """
        from cluster.client.blocking import BlockingClient

        return BlockingClient(
            cls.connect(topology_file, deadline=deadline, require_leader=require_leader, only_looks=only_looks)
        )

    async def __aenter__(self) -> Self:
        self._made_ports = self._make_ports()
        self._loop = asyncio.get_running_loop()
        self._begun_at = self._ports.clock.now()
        self._succession = Succession(self._ports, self._topology, self._limits, only_looks=self._only_looks)
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

    async def submit(self, fn: "Task[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> "Handle[R]":
        """Submits one call of a task; returns its handle once a majority of the brokers has it on disk.

        Submits of one loop turn (`asyncio.gather`) leave as one command. Raises TaskNotFound, EncodeError,
        BodyTooLarge, TypeError (arguments), ValueError (options) at once; Overloaded, Unavailable, DeadlineExceeded by
        the deadline; with the option `fence` LockLost.
        """
        task = task_of(fn)
        self._check_dates(task)
        body, needs = self._encoded(task, args, kwargs)
        end = self._deadline_at(self._deadline)
        actor = self._sessions.for_submit() or await self._session(self._sessions.for_submit, end)
        confirmed: asyncio.Future[None] = self._loop.create_future()
        handle: Handle[R] = Handle(self, task)
        handle.id = actor.submit(task.name, task.wire_options, body, end, handle, confirmed, task.fence, needs)
        await confirmed
        return handle

    async def map(self, fn: "Task[Concatenate[Item, ...], R]", items: Iterable[Item], /, **kwargs: Any) -> "Batch[R]":
        """Submits `fn(item, **kwargs)` for each item, in chunks; returns one batch once a majority has them all.

        Each item is a task with an id, attempts and a terminal record of its own. Raises as `submit`.
        """
        mapping = Mapping(self, task_of(fn), kwargs)
        remaining = iter(items)
        while chunk := list(islice(remaining, MAP_CHUNK_TASKS)):
            await mapping.add(chunk)
        return await mapping.end()

    def actor(self, actor: type[A], /, *, key: str | None = None) -> ActorProxy[A]:
        """The methods of a TaskActor as calls: `await cluster.actor(Model).predict(row)` is run by any instance of the
        pool, with a key by the one that owns it. A key is a str of 1 to 256 bytes. Raises TypeError and ValueError."""
        return ActorProxy(self, actor, key)

    def handle(self, task: int) -> "Handle[Any]":
        """A handle for a task by its id, for example after a restart of the client. Results are plain types."""
        return self._watch(Handle(self, None), task)

    def _watch(self, handle: "Handle[R]", task: int) -> "Handle[R]":
        handle.id = checked_id(task)
        self._actor.watch(task, handle)
        return handle

    async def replay(self, tasks: Iterable[int]) -> int:
        """Runs tasks (ids, of any client) again that ended without a result: dead, failed, cancelled or expired ones.
        Returns how many, once a majority of the brokers has that on disk.

        Each keeps its id and its attempts, waits behind the others of its queue, and has all its retries again. Those
        that are completed, have not ended or are not kept any more are passed over, and so are runs of an exclusive
        schedule that has an unfinished one, and of one that was deleted. Handles that had their end stay as they are;
        `handle(id)` waits for the new one. Travels 1,024 ids at a time, fewer if they need many others: if it raises,
        the first of them may run again. Raises Overloaded, also if the cluster has no room for what they need,
        Unavailable and DeadlineExceeded by the deadline.
        """
        replayed = 0
        remaining = ids_of(tasks)
        end = self._deadline_at(self._deadline)
        chunk = list(islice(remaining, REPLAY_TASKS_MAX))
        while chunk:
            actor = await self._session(self._sessions.for_command, end)
            answering: asyncio.Future[tuple[int, int]] = self._loop.create_future()
            actor.replay(chunk, answering)
            code, value = await self._within(
                answering, self._left(end), lambda: DeadlineExceeded("replay was not confirmed", outcome="unknown")
            )
            looked_at, count = len(chunk), value
            if code == ANSWER_CROWDED:
                looked_at, count = divmod(value, 1 << REPLAYED_BITS)
            elif code != ANSWER_OK:
                raise Unavailable("the cluster refused the command", outcome="refused")
            replayed += count
            if not looked_at:
                reason = f"{TOO_MANY_NEEDS}; {replayed} of these run again, task {chunk[0]} and those behind it do not"
                raise Overloaded(reason, CROWDED_RETRY_S)
            chunk = [*chunk[looked_at:], *islice(remaining, looked_at)]
        return replayed

    async def records(self, tasks: Iterable[int], *, stale: bool = False) -> list[Record]:
        """What the cluster has of these tasks: state and number of attempts of each, in order.

        It holds all that anybody was told of before this call. With `stale` the first broker that answers says what it
        has: this needs no leader, but a broker that lags knows less, or nothing of a new task ("unknown").
        Raises Unavailable or DeadlineExceeded.
        """
        found: list[Record] = []
        remaining = ids_of(tasks)
        end = self._deadline_at(self._deadline)
        while chunk := list(islice(remaining, HELLO_ITEMS_MAX)):
            answer = await self._ask(lambda number, chunk=chunk: Describe(number, chunk, stale), end, stale=stale)  # type: ignore[misc]
            found += answer.records
        return found

    def tasks(
        self,
        state: str | Iterable[str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        *,
        stale: bool = False,
    ) -> AsyncIterator[TaskInfo]:
        """Tasks of these states, this queue and this task name, at most `limit`: `async for info in cluster.tasks()`.

        They come in pages, in an order of the cluster's own: what one client submitted in a row mostly stands together.
        A task that is there all the time comes once; what is submitted, changes or is forgotten meanwhile comes or does
        not, as it is when its page is made. `stale` as for `records`.
        Raises ValueError and TypeError at once, while iterating Unavailable or DeadlineExceeded.
        """
        return Listing(self, state, queue, name, limit, stale=stale).infos()

    async def task(self, task: int, *, stale: bool = False) -> TaskInfo:
        """All that the cluster has of one task, with its last attempts. `stale` as for `records`.

        Raises TaskNotFound if it is forgotten, or never was. An id says nothing of its cluster: that of another one's
        task finds nothing here, or another task. Raises Unavailable or DeadlineExceeded.
        """
        return await show(self, task, stale=stale)

    def locks(self, prefix: str = "", limit: int | None = None, *, stale: bool = False) -> AsyncIterator[LockInfo]:
        """Locks that somebody holds or waits for, whose names begin with `prefix`, at most `limit`, in order of their
        names: `async for info in cluster.locks()`. They come in pages, as do tasks; `stale` as for `records`.
        Raises ValueError and TypeError at once, while iterating Unavailable or DeadlineExceeded.
        """
        return LockListing(self, prefix, limit, stale=stale).infos()

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
    ) -> "AsyncTurn":
        """One replica's turn to do the job `name`: `async with cluster.exclusive("nightly", at_most="10m") as turn:`,
        or a decorator of `async def` functions, whose calls return None when they are skipped.

        A turn is over after `at_most` (1 s to 366 d), and its asyncio task cancelled; until `at_least` has passed since
        its begin nobody else has one, unless the process ended. While another one has its turn, `on_busy` says what to
        do: "skip" (entering raises LockBusy), "wait" for `wait` at most, "queue" for as long as it takes, or "replace":
        whoever waits gives up, whoever has its turn is cancelled, and this one begins when that has ended. `hold` and
        `note` are as for `Lock`, which shares its names. Raises TypeError and ValueError.
        """
        from cluster.client.exclusive import AsyncTurn, Terms

        terms = Terms(name, at_most=at_most, at_least=at_least, on_busy=on_busy, wait=wait, hold=hold, note=note)
        return AsyncTurn(self, terms)

    # -- schedules ----------------------------------------------------------------------------------------------------

    def schedules(
        self, prefix: str = "", limit: int | None = None, *, stale: bool = False
    ) -> AsyncIterator[ScheduleInfo]:
        """Schedules whose names begin with `prefix`, at most `limit`, in order of their names: `async for info in
        cluster.schedules()`. They come in pages, as do tasks; `stale` as for `records`. When they fire next is computed
        by the broker that answers, with the time zones of its machine.
        Raises ValueError and TypeError at once, while iterating Unavailable or DeadlineExceeded.
        """
        return ScheduleListing(self, prefix, limit, stale=stale).infos()

    async def schedule(self, name: str, *, stale: bool = False) -> ScheduleInfo:
        """One schedule, with its `history`. Raises ScheduleNotFound, Unavailable or DeadlineExceeded."""
        return await show_schedule(self, name, stale=stale)

    async def history(self, name: str, *, stale: bool = False) -> tuple[SlotInfo, ...]:
        """The last 20 slots of a schedule, the oldest first: each with its task and how that has ended, or why there is
        none. Raises as `schedule`."""
        return (await show_schedule(self, name, stale=stale)).history

    async def pause(self, name: str) -> None:
        """A schedule does not fire from now on, and no run that waits for an earlier one begins; what runs goes on.
        Returns once a majority of the brokers has that on disk. Raises ScheduleNotFound, Unavailable or
        DeadlineExceeded."""
        await self._steer(name, STEER_PAUSE)

    async def resume(self, name: str) -> None:
        """A schedule that was paused fires again. Slots that have passed meanwhile are skipped; runs that waited go on.
        Its alarm is over, also of one that was not paused. Raises as `pause`."""
        await self._steer(name, STEER_RESUME)

    async def run_now(self, name: str) -> "Handle[Any]":
        """Runs a schedule's task now, also if it is paused: as if a slot had come, so it waits if another run is
        unfinished and the schedule says so (`on_busy`). Returns its handle; the result is of plain types.

        Raises ScheduleRefused if that run would be skipped, or no live worker could run it; else as `pause`.
        """
        return self._watch(Handle(self, None), await self._steer(name, STEER_RUN))

    async def delete_schedule(self, name: str) -> None:
        """Forgets a schedule that no live worker announces. Raises ScheduleRefused if one does, or a run of it is
        unfinished; else as `pause`."""
        await self._steer(name, STEER_DELETE)

    async def _steer(self, name: str, what: int) -> int:
        checked_name(name)
        end = self._deadline_at(self._deadline)
        actor = await self._session(self._sessions.for_command, end)
        answered: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        actor.steer(name, what, answered)
        code, value = await self._within(answered, self._left(end), lambda: actor.too_late("unknown"))
        if code != ANSWER_OK:
            raise refusal(name, code, value)
        return int(value)

    async def cancel(self, tasks: Iterable[int], grace: Duration = CANCEL_GRACE) -> None:
        """Ends these tasks, as `Handle.cancel` does. Nothing is said of those that have ended or are not known."""
        remaining = ids_of(tasks)
        while chunk := list(islice(remaining, CANCEL_TASKS_MAX)):
            await self._cancel(chunk, grace)

    async def status(self, *, stale: bool = False) -> dict[str, Any]:
        """The cluster's state, as `python -m cluster status --json` prints it.

        Without a leader that knows that it leads, `leader` is None and there are no workers and queues. With `stale`
        these are as the broker has them that knows most, which needs no leader: its `applied_index` says how old.
        """
        from cluster.client.status import gather_status

        clock, begun_at = self._ports.clock, self._begun_at
        return await gather_status(self._actor, self._topology, clock, begun_at, self._pause, stale=stale)

    async def _stop(self) -> None:
        try:
            await self._sessions.stop()
        finally:
            if self._owns_ports:
                self._ports.network.close()

    @property
    def _sessions(self) -> Succession:
        return _connected(self._succession)

    @property
    def _ports(self) -> Ports:
        return _connected(self._made_ports)

    @property
    def _actor(self) -> ClientActor:
        """The current session: tasks and results of any other are known to it as well."""
        return self._sessions.current

    async def _session(self, look: Callable[[], ClientActor | None], end: Nanos) -> ClientActor:
        """Waits, until `end`, for a session of the wanted kind: there is none yet, it was lost, or it is used up."""
        if self._only_looks:
            raise ClusterError("this client only looks: connect without only_looks to submit, cancel, replay or lock")
        while (actor := look()) is None:
            await self._ready(self._left(end))
        return actor

    def _encoded(
        self, task: "Task[..., Any]", args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, Needs | None]:
        """A call, and what it needs. Raises DependencyError for handles of other clusters."""
        body, references = task.encode_call(args, kwargs)
        if references is None:
            return body, None
        for need in references.clients.values():
            if need.client is not self and not (isinstance(need.client, Client) and self._is_of(need.client)):
                raise DependencyError(
                    need.task,
                    f"is of another cluster{_name_of(need.client)}",
                    f'handles of this one ("{self._topology.name}") are allowed, and of others results as values',
                )
        return body, references.needs

    def _check_dates(self, task: "Task[..., Any]") -> None:
        if task.settings.at_ms:
            check_dates(task.settings, self._ports.clock.wall_ms())

    def _is_of(self, other: "Client") -> bool:
        """Whether two clients are of one cluster: it has a name, and they know a broker in common."""
        mine, theirs = self._topology, other._topology
        if not (self._owns_ports and other._owns_ports) or mine.name != theirs.name:
            return False
        return bool({node.address for node in mine.brokers} & {node.address for node in theirs.brokers})

    # -- inside -------------------------------------------------------------------------------------------------------

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

    def _left(self, end: Nanos) -> float:
        return max(0, end - self._ports.clock.now()) / SECOND

    async def _ready(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._sessions.registered(waiter)
        nodes = ", ".join(f"{node.name} {node.address}" for node in self._topology.brokers)

        def error() -> ClusterError:
            reason = self._sessions.refusal or f"no leader answered ({nodes})"
            return Unavailable(f"no session in {self._deadline:g} s: {reason}", outcome="refused")

        await self._within(waiter, seconds, error)

    async def _within(
        self, future: "asyncio.Future[Any]", seconds: float | None, error: Callable[[], ClusterError]
    ) -> Any:
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

    async def _ask(self, make: Callable[[int], Message], end: Nanos, *, stale: bool = False) -> Any:
        """The answer to a question, asked again while there is nobody who could answer."""
        while True:
            try:
                return await self._within(
                    self._actor.ask(make, stale=stale),
                    self._left(end),
                    lambda: DeadlineExceeded("no answer in time", outcome="refused"),
                )
            except Unavailable:
                if self._actor.has_ended or self._ports.clock.now() >= end:
                    raise
                await self._pause(RETRY_S)

    async def _cancel(self, tasks: list[int], grace: Duration) -> None:
        grace_ms = milliseconds("grace", grace)
        if grace_ms > GRACE_MS_MAX:
            raise ValueError(f"grace: {grace!r} is out of range, 0 to {GRACE_MS_MAX // 60_000} minutes are allowed")
        end = self._deadline_at(self._deadline)
        actor = await self._session(self._sessions.for_command, end)
        waiter: asyncio.Future[None] = self._loop.create_future()
        actor.cancel(tasks, grace_ms, waiter)
        await self._within(
            waiter, self._left(end), lambda: DeadlineExceeded("cancel was not confirmed", outcome="unknown")
        )


class Mapping(Generic[R]):
    """A map that is under way: `add` chunks of items, then `end`."""

    def __init__(self, client: Client, task: "Task[..., R]", kwargs: dict[str, Any]) -> None:
        self._client = client
        self._task = task
        self._kwargs = kwargs
        self._batch: Batch[R] = Batch(client, task)
        self._confirmed: deque[asyncio.Future[None]] = deque()
        client._check_dates(task)

    async def add(self, items: Sequence[Any]) -> None:
        """Submits them; waits while too many are on their way. Raises as `Client.submit`."""
        client, task, batch, confirmed = self._client, self._task, self._batch, self._confirmed
        chunk = self._encoded(items, len(batch))
        deadline = client._deadline_at(client._deadline)
        while chunk:
            actor = await client._session(client._sessions.for_submit, deadline)
            taken = actor.numbers_left          # the rest goes into the session after this one
            waiters = actor.submit_many(task.name, task.wire_options, chunk[:taken], deadline, batch, task.fence)
            chunk = chunk[taken:]
            for waiter in waiters:
                waiter.add_done_callback(_retrieve)
            confirmed += waiters
        await client._next_turn()     # the chunk leaves while the next one is encoded
        while confirmed and actor.queued_tasks > MAP_QUEUED_TASKS:
            await self._confirm(confirmed.popleft())

    def _encoded(self, items: Iterable[Any], first: int) -> list[tuple[bytes, Needs | None]]:
        """The items' calls; an error names the position of the item, `first` being that of the first one."""
        calls: list[tuple[bytes, Needs | None]] = []
        for item in items:
            try:
                calls.append(self._client._encoded(self._task, (item,), self._kwargs))
            except (ClusterError, TypeError) as error:
                before = f"the {first} items before its chunk are submitted"
                submitted = before if first else "nothing of it was submitted"
                error.add_note(f"item {first + len(calls)} of the map; {submitted}")
                raise
        return calls

    async def end(self) -> "Batch[R]":
        """The batch, once a majority has all of it."""
        for waiter in self._confirmed:
            await self._confirm(waiter)
        self._batch.complete()
        return self._batch


    async def _confirm(self, waiter: "asyncio.Future[None]") -> None:
        """Of a part of the items."""
        try:
            await waiter
        except LockLost as error:
            reason = "it was lost or released while the map was submitted, whose first items may have been accepted"
            raise LockLost("", error.fence, reason) from error


def _connected(part: Part | None) -> Part:
    if part is None:
        raise ClusterError("this client is not connected: use `async with Client.connect(...) as cluster:`")
    return part


def _name_of(client: object) -> str:
    return f' ("{client._topology.name}")' if isinstance(client, Client) else ""


def _retrieve(future: "asyncio.Future[None]") -> None:
    """Looks at the error of a command: if several fail, `map` raises the first only, and asyncio would complain."""
    if not future.cancelled():
        future.exception()
