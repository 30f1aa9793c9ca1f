"""Simulated users: seeded clients that submit, wait, cancel, come back, and write down what they were told.

Each client is a process on a machine of its own. It uses the public API only, several calls at a time, leaves now
and then in order, and is killed by the fault plan without one. What it asked for and what it was told outlives it in
the history, as it would in its user's database: another life of it asks for results of tasks that an earlier one
submitted.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace

from actors import MILLISECOND, SECOND, Nanos, Ports
from actors.simulation import History, Operation, World
from cluster.backoff import Backoff
from cluster.client import Client, Handle
from cluster.client.succession import SessionLimits
from cluster.dependencies import group
from cluster.errors import (
    ClusterError,
    DeadlineExceeded,
    Overloaded,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    Unavailable,
)
from cluster.simulation.launched import Node
from cluster.simulation.tasks import ANY_KEY, Call, Fate, Simulated, count, wait, work
from cluster.task import Task, TaskOptions
from cluster.topology import Topology

CLIENTS = ("c1", "c2")
SUCCEEDING_ONE_IN = 2           # seeds in which the last client needs many sessions, one after the other
SHORT_SESSION = SessionLimits(numbers_max=80, numbers_low=30)
LANES = 3                       # calls that a client makes side by side
DEADLINES_S = (1.5, 5.0, 20.0)      # of requests, by chance for each visit: short ones are refused or end unknown
PAUSE_MEAN_NS = 250 * MILLISECOND
VISIT_NS_MIN: Nanos = 4 * SECOND        # a client stays connected for so long, then leaves and comes back
VISIT_NS_MAX: Nanos = 40 * SECOND
MAP_TASKS_MAX = 60
GATHER_TASKS_MAX = 16
BIG_PADDING_BYTES = 90_000      # more than an append on the control channel may hold
PADDING_BYTES_MAX = 400
REPLAY_LOOKS = 40               # at so many tasks a user looks for some that ended without a result
REPLAY_TASKS_MAX = 4            # ... and replays so many of them
REPLAYABLE = frozenset(("dead", "failed", "cancelled", "expired"))
KEYED_ONE_IN = 6                # calls that are not of a batch
KEYS = 5
COUNTED_PART = 0.3              # of the calls in every other seed: those of task actors, whose instances count them
COUNTED_KEYS = ("k1", "k2", "k3")

LIMITED_PART = 0.35             # of submits that are not of a counted actor, and of maps
# Each limit has one set of terms, by which it is judged.
LINES: tuple[TaskOptions, ...] = (
    {"share": "s1"},
    {"share": "s2"},
    {"share": "s3"},
    {"limit": "narrow", "concurrency": 2, "share": "s1"},
    {"limit": "narrow", "concurrency": 2, "share": "s2"},
    {"limit": "narrow", "concurrency": 2},
    {"limit": "slow", "rate": "30/2s", "share": "s1"},
    {"limit": "slow", "rate": "30/2s", "share": "s2"},
    {"share": "s4", "rate": "15/s"},
    {"share": "s5", "concurrency": 1},
    {"share": "s6", "concurrency": 3, "rate": "200/5s"},
)
RIVALS_PART = 0.4               # of maps: two of them at a time, of two shares
RIVALS: tuple[TaskOptions, ...] = ({}, {}, {"limit": "narrow", "concurrency": 2}, {"limit": "slow", "rate": "30/2s"})
SHARES = ("s1", "s2")

DEDUP_PART = 0.2                # likewise, of which each is one of a few pieces of work
WORKS = ("a", "b")
WINDOWS_S = (0, 2.0, 10.0, 30.0)

NEEDY_ONE_IN = 3                # seeds in which users submit tasks that need others
NEEDY_PART = 0.3                # there, of the turns of a lane: a small graph before all else
GRAPH_TASKS_MAX = 6
NEEDED_MAX = 5

ASYNC_ONE_IN = 3                # of submits, and of maps

FATES: tuple[tuple[Fate, int], ...] = (
    ("ok", 90),
    ("raise", 4),
    ("raise once", 3),
    ("crash once", 2),
    ("crash always", 1),
)
DURATIONS_US = (((200, 5_000), 70), ((5_000, 50_000), 22), ((100_000, 300_000), 7), ((1_000_000, 3_000_000), 1))

TIMEOUTS_S = (0.005, 0.1)
STOPPED_PART = 0.5              # of what is to be cancelled, is work that somebody wants again at once
STOPPED_US = 2_000_000          # which then runs for so long
STOPPED_LOOKS = 20              # at whether it does
LONGER = (1, 50)                # what is to be cancelled takes so many times as long: it then runs, mostly

RETRIED: tuple[tuple[type[Exception], ...], ...] = ((), (), (Simulated,), (ArithmeticError,))

ENDS: tuple[tuple[type[ClusterError], str], ...] = (
    (TaskFailed, "failed"),
    (TaskDead, "dead"),
    (TaskCancelled, "cancelled"),
    (TaskExpired, "expired"),
)


class Workload:
    """All clients of one world. `acknowledged` maps calls to tasks; both sides of it are what clients were told."""

    def __init__(
        self, world: World, plan: Topology, history: History, on_acknowledged: Callable[[int, int], None]
    ) -> None:
        self.world = world
        self.plan = plan
        self.history = history
        self.acknowledged: dict[int, int] = {}      # key -> task
        self.refused: list[int] = []                # keys of calls that were refused
        self.is_over = False                        # nothing new is asked for
        self.on_acknowledged = on_acknowledged
        self._keys = 0
        self.clients = [ClientProcess(self, name) for name in CLIENTS]
        if world.seed % SUCCEEDING_ONE_IN == 0:
            self.clients[-1].limits = SHORT_SESSION

    def new_key(self) -> int:
        self._keys += 1
        return self._keys

    @property
    def waits(self) -> bool:
        """Whether a client still waits for something."""
        return any(client.process.alive and client.is_busy for client in self.clients)


class ClientProcess(Node):
    """One user."""

    def __init__(self, workload: Workload, name: str) -> None:
        self.workload = workload
        self.history = workload.history
        self.random = workload.world.stream(f"client {name}")
        self._keys = workload.world.stream(f"keys {name}")      # of its own: other seeds keep their course
        self._lines = workload.world.stream(f"lines {name}")    # likewise
        self._graphs = workload.world.stream(f"graphs {name}")  # likewise
        self._stops = workload.world.stream(f"stops {name}")    # likewise
        self.is_busy = False
        self.limits = SessionLimits()
        super().__init__(workload.world, name)
        self.process.on_exit.append(lambda exit: self._died())

    def _died(self) -> None:
        self.is_busy = False
        self.history.abandon(self.name)

    async def _start(self, ports: Ports) -> None:
        self.is_busy = True
        while not self.workload.is_over:
            leave_at = ports.clock.now() + self.random.randint(VISIT_NS_MIN, VISIT_NS_MAX)
            try:
                deadline = self.random.choice(DEADLINES_S)
                async with Client(self.workload.plan, lambda: ports, deadline, limits=self.limits) as client:
                    lanes = [self._lane(client, ports, leave_at) for _ in range(LANES)]
                    await asyncio.gather(*lanes)
            except Unavailable:
                self.history.observe(self.name, "no session")
        self.is_busy = False
        await ports_pause(ports, 1_000 * SECOND)

    async def _lane(self, client: Client, ports: Ports, leave_at: Nanos) -> None:
        calls: list[tuple[Callable[[Client], Coroutine[Any, Any, None]], int]] = [
            (self._submit_one, 40),
            (self._gather, 25),
            (self._map, 20),
            (self._ask_again, 10),
            (partial(self._cancel, ports=ports), 5),
            (self._replay, 5),
        ]
        needy = self.workload.world.seed % NEEDY_ONE_IN == 2
        while not self.workload.is_over and ports.clock.now() < leave_at:
            if needy and self._graphs.random() < NEEDY_PART:
                await self._graph(client)
            await self._choose(calls)(client)
            await ports_pause(ports, int(self.random.expovariate(1.0) * PAUSE_MEAN_NS))

    # -- what a user does -------------------------------------------------------------------------------------------

    async def _submit_one(self, client: Client) -> None:
        handle = await self._submit(client, self._call(), self._options())
        if handle is not None:
            await self._await(handle)

    async def _gather(self, client: Client) -> None:
        calls = [self._call() for _ in range(self.random.randint(2, GATHER_TASKS_MAX))]
        handles = await asyncio.gather(*[self._submit(client, call, {}) for call in calls])
        await asyncio.gather(*[self._await(handle) for handle in handles if handle is not None])

    async def _map(self, client: Client) -> None:
        if self._lines.random() < RIVALS_PART:
            shared = work.options(**self._lines.choice(RIVALS))
            await asyncio.gather(*[self._map_with(client, shared.options(share=share)) for share in SHARES])
        else:
            await self._map_with(client, self._task({}))

    async def _map_with(self, client: Client, task: Task[[Call], int]) -> None:
        calls = [self._call() for _ in range(self.random.randint(2, MAP_TASKS_MAX))]
        operation = self.history.invoke(self.name, "map", [call.key for call in calls])
        try:
            batch = await client.map(task, calls)
        except ClusterError as error:
            self.history.unknown(operation, _reason(error))     # a part of it may have been taken
            return
        self._acknowledge(operation, [call.key for call in calls], batch.ids)
        waiting = {task: self.history.invoke(self.name, "result", task) for task in batch.ids}
        async for handle in batch.as_completed():
            await self._finish(waiting.pop(handle.id), handle)

    async def _ask_again(self, client: Client) -> None:
        """A result of any life of any client."""
        if self.workload.acknowledged:
            tasks = list(self.workload.acknowledged.values())
            await self._await(client.handle(tasks[self.random.randrange(len(tasks))]))

    async def _cancel(self, client: Client, ports: Ports) -> None:
        call = self._call()
        call = replace(call, work_us=call.work_us * self.random.choice(LONGER))
        options = self._options()
        is_wanted = self._stops.random() < STOPPED_PART
        if is_wanted:
            call = replace(call, work_us=STOPPED_US)
            options = {"dedup": f"stopped {self.name}"}
        handle = await self._submit(client, call, options)
        if handle is None:
            return
        await ports_pause(ports, self.random.randrange(100 * MILLISECOND))
        if is_wanted:
            await self._until_it_runs(client, ports, handle.id)
        operation = self.history.invoke(self.name, "cancel", handle.id)
        try:
            await handle.cancel(self.random.random() / 2)
        except ClusterError as error:
            self._not_done(operation, error)
        else:
            self.history.ok(operation)
        again = await self._submit(client, self._call(), options) if is_wanted else None
        await self._await(handle)
        if again is not None:
            await self._await(again)

    async def _until_it_runs(self, client: Client, ports: Ports, task: int) -> None:
        """Or for some time."""
        for _ in range(STOPPED_LOOKS):
            with suppress(ClusterError):
                (record,) = await client.records([task], stale=True)
                if record.state == "processing":
                    return
            await ports_pause(ports, 50 * MILLISECOND)

    async def _graph(self, client: Client) -> None:
        """A few tasks, each of which needs some of those before it, or of any client's earlier ones."""
        random = self._graphs
        earlier = list(self.workload.acknowledged.items())
        known = [(ANY_KEY, client.handle(task)) for _, task in random.sample(earlier, min(2, len(earlier)))]
        made: list[Handle[int]] = []
        for _ in range(random.randint(1, GRAPH_TASKS_MAX)):
            fate: Fate = random.choice(("ok", "ok", "ok", "raise"))
            call = Call(self.workload.new_key(), random.randint(200, 20_000), fate)
            needed = random.sample(known, random.randint(0, min(NEEDED_MAX, len(known))))
            cut = random.choice((0, len(needed), random.randint(0, len(needed))))
            arguments = (
                [key for key, _ in needed],
                [handle for _, handle in needed[:cut]],
                group([handle for _, handle in needed[cut:]], outcomes=True),
            )
            options: TaskOptions = {"expires": random.random()} if random.random() < 0.1 else {}
            handle = await self._submit(client, call, options, *arguments)
            if handle is not None:
                known.append((call.key, handle))
                made.append(handle)
        if made and random.random() < 0.2:
            with suppress(ClusterError):
                await random.choice(made).cancel()
        for handle in made:
            await self._await(handle)

    async def _replay(self, client: Client) -> None:
        """Some of what ended without a result, for any client, and one other; then it waits for the new ends."""
        acknowledged = list(self.workload.acknowledged.values())
        tasks = self.random.sample(acknowledged, min(REPLAY_LOOKS, len(acknowledged)))
        try:
            records = await client.records(tasks)
        except ClusterError as error:
            self.history.observe(self.name, f"no records: {_reason(error)}")
            return
        ended = [record.task for record in records if record.state in REPLAYABLE][:REPLAY_TASKS_MAX]
        if not ended:
            return
        operation = self.history.invoke(self.name, "replay", ended)
        try:
            count = await client.replay([*ended, tasks[0]])
        except ClusterError as error:
            self._not_done(operation, error)
        else:
            self.history.ok(operation, count)
        for task in ended:
            await self._await(client.handle(task))

    # -- what it writes down ------------------------------------------------------------------------------------------

    async def _submit(
        self, client: Client, call: Call, options: TaskOptions, *needed: object
    ) -> Handle[int] | None:
        """With what it needs, if that is something."""
        operation = self.history.invoke(self.name, "submit", call.key)
        try:
            task: Task[..., int] = work.options(**options) if needed else self._task(options)
            handle = await client.submit(_keyed(task, call) if task.name == work.name else task, call, *needed)
        except ClusterError as error:
            self._not_done(operation, error)
            if _is_refusal(error):
                self.workload.refused.append(call.key)
            return None
        self._acknowledge(operation, [call.key], [handle.id])
        return handle

    def _acknowledge(self, operation: Operation, keys: list[int], tasks: list[int]) -> None:
        self.history.ok(operation, tasks)
        for key, task in zip(keys, tasks, strict=True):
            self.workload.acknowledged[key] = task
            self.workload.on_acknowledged(key, task)

    async def _await(self, handle: Handle[int]) -> None:
        await self._finish(self.history.invoke(self.name, "result", handle.id), handle)

    async def _finish(self, operation: Operation, handle: Handle[int]) -> None:
        """Waits for a terminal record; its value is ("completed", what the function returned) or (state, None)."""
        try:
            self.history.ok(operation, ("completed", await handle))
        except ClusterError as error:
            state = next((state for kind, state in ENDS if isinstance(error, kind)), None)
            if state is None:
                self.history.unknown(operation, _reason(error))
            else:
                self.history.ok(operation, (state, None))

    def _not_done(self, operation: Operation, error: ClusterError) -> None:
        if _is_refusal(error):
            self.history.refused(operation, _reason(error))
        else:
            self.history.unknown(operation, _reason(error))

    # -- chance -------------------------------------------------------------------------------------------------------

    def _choose(self, weighted: "list[tuple[Any, int]] | tuple[tuple[Any, int], ...]") -> Any:
        choices, weights = zip(*weighted, strict=True)
        return self.random.choices(choices, weights)[0]

    def _call(self) -> Call:
        low, high = self._choose(DURATIONS_US)
        big = self.random.randrange(200) == 0
        padding = self.random.randbytes(BIG_PADDING_BYTES if big else self.random.randrange(PADDING_BYTES_MAX))
        return Call(self.workload.new_key(), self.random.randint(low, high), self._choose(FATES), padding)

    def _task(self, options: TaskOptions) -> Task[..., int]:
        function: Task[..., int] = wait if self.random.randrange(ASYNC_ONE_IN) == 0 else work
        if "dedup" in options:
            return work.options(**options)
        if self.workload.world.seed % 2 and self._keys.random() < COUNTED_PART and "labels" not in options:
            return count.at(self._keys.choice(COUNTED_KEYS)).options(**options)
        if self._lines.random() < LIMITED_PART:
            function = function.options(**self._lines.choice(LINES))
        if self._lines.random() < DEDUP_PART:
            function = function.options(dedup=self._lines.choice(WORKS), dedup_window=self._lines.choice(WINDOWS_S))
        return function.options(**options)

    def _options(self) -> TaskOptions:
        roll = self.random.randrange(20)
        if roll == 0:
            return {"priority": self.random.randrange(10)}
        if roll == 1:
            return {"delay": self.random.random() * 4}
        if roll == 2:
            return {"timeout": self.random.choice(TIMEOUTS_S)}
        if roll == 3:
            return {"expires": 0.05 + self.random.random()}
        if roll == 8:
            return {"labels": ["gpu"]}
        if roll < 8:
            pause = self.random.random()
            return {"retry": Backoff(self.random.randrange(4), pause, pause + 2, on=self.random.choice(RETRIED))}
        return {}


def _keyed(task: Task[..., int], call: Call) -> Task[..., int]:
    """Some calls are for an instance with a key; which ones follows from their numbers. They have no limits."""
    number, rest = divmod(call.key, KEYED_ONE_IN)
    if not rest and task.settings.line is None:
        task.settings = replace(task.settings, key=f"key {number % KEYS}", actor="simulated:Actor")
    return task


async def ports_pause(ports: Ports, span: Nanos) -> None:
    """Waits for so long on the process's own clock."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ports.clock.call_at(ports.clock.now() + span, lambda: None if done.done() else done.set_result(None))
    await done


def _is_refusal(error: ClusterError) -> bool:
    return isinstance(error, Overloaded) or (
        isinstance(error, Unavailable | DeadlineExceeded) and error.outcome == "refused"
    )


def _reason(error: ClusterError) -> str:
    return f"{type(error).__name__}: {error}"


