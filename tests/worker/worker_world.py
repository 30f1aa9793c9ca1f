"""Three brokers, workers and clients in a simulated world: what a worker does when it is cut off, stopped, or
left by its leader. Everything but the time that a task takes is the real code.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

from actors import MICROSECOND, SECOND, Nanos, Ports
from actors.simulation import ChildPort, Process, World, portable_traceback
from cluster.broker.process import start_broker
from cluster.client.client import Client
from cluster.peer.actor import RaftPeer
from cluster.peer.config import BrokerConfig
from cluster.state.effects import TaskResult
from cluster.state.machine import Machine
from cluster.task import Task, current, task
from cluster.task_actor import TaskActor, definition_of
from cluster.topology import BrokerNode, Topology
from cluster.worker.actor import Worker
from cluster.worker.child_messages import Ready, StartFailed, encode
from cluster.worker.config import WorkerConfig
from cluster.worker.executor import Executor
from cluster.worker.loop_child import LOOP_ENTRY
from cluster.worker.loop_executor import LoopExecutor
from cluster.worker.process import drain, start_worker
from cluster.worker.slot_child import EXECUTOR_ENTRY
from cluster.worker.wear import UNLIMITED, WearLimits

BROKERS = ("b1", "b2", "b3")
LIMIT = 120 * SECOND
FRESH_BYTES = 50_000_000        # of a child that has just started

Start = Callable[[Ports], Awaitable[None]]


@task(name="world:sleep")
def sleep(work_us: int) -> int:
    """Takes that long in virtual time, and returns it."""
    return work_us


class Sleeper(TaskActor, name="world:Sleeper"):
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sleep(self, work_us: int) -> tuple[int, int]:
        """Returns its epoch, and how many calls this instance has had in it."""
        self.calls += 1
        return self.context.epoch, self.calls


sleeper = definition_of(Sleeper).tasks["sleep"]


@task(name="world:nap")
async def nap(work_us: int) -> int:
    """The same, in a worker's event loop."""
    run = _note_run.get()(current().id)
    await asyncio.sleep(work_us / 1e6)
    run.ended = asyncio.get_running_loop().world_now()  # type: ignore[attr-defined]
    return work_us


_note_run: ContextVar[Callable[[int], "Run"]] = ContextVar("_note_run")
sleeper = definition_of(Sleeper).tasks["sleep"]
TASKS: dict[str, Task[..., Any]] = {sleep.name: sleep, sleeper.name: sleeper, nap.name: nap}
READY = Ready(tuple(sorted(TASKS)), (nap.name,), has_actors=True)


class Run:
    """One run of one attempt; `ended` is None while it goes on, and for ever if its child was killed."""

    def __init__(self, child: int, started: Nanos) -> None:
        self.child = child
        self.started = started
        self.ended: Nanos | None = None


class WorkerWorld:
    """`runs` says for each task which children ran it when. With `async_tasks` workers have an event loop, with
    `slots_min` they open and close slots."""

    def __init__(
        self,
        seed: int,
        *,
        workers: int = 1,
        slots: int = 1,
        wear: WearLimits = UNLIMITED,
        async_tasks: int = 0,
        slots_min: int = 0,
    ) -> None:
        self.world = World(seed)
        self.world.register_entry(EXECUTOR_ENTRY, self._executor)
        self.world.register_entry(LOOP_ENTRY, self._loop)
        self.wear = wear
        self.fresh_bytes = FRESH_BYTES
        self.needs_bytes = 0                        # that a task has in memory while it runs ...
        self.leaves_bytes = 0                       # ... and that it leaves
        self.closing_us = 0                         # that instances take for their `stopped`
        self.closed: list[int] = []                 # children that came to the end of that
        self.is_broken = False                      # children cannot start
        self.async_tasks = async_tasks
        self.slots_min = slots_min
        self.ports: list[ChildPort] = []            # of the children that are loops, in the order of their starts
        self.runs: dict[int, list[Run]] = {}
        self.deaths: dict[int, Nanos] = {}          # of children
        self.log: list[tuple[str, str]] = []
        self.world.on_log.append(lambda process, name, fields: self.log.append((process, name)))
        addresses = tuple((name, f"{name}:7100", f"{name}:8100") for name in BROKERS)
        self.peers: dict[str, RaftPeer] = {}
        self.brokers = [self.world.process(name, self._broker(name, addresses)) for name in BROKERS]
        self.actors: dict[str, Worker] = {}
        self.systems: dict[str, Any] = {}
        self.workers = [self.add_worker(f"w{number}", slots) for number in range(1, workers + 1)]
        self.results: dict[int, object] = {}
        self.clients = 0

    def _broker(self, name: str, addresses: tuple[tuple[str, str, str], ...]) -> Start:
        async def start(ports: Ports) -> None:
            config = BrokerConfig("world", name, addresses, "data", "inline")
            system = start_broker(ports, config, 0, lambda reason: None)
            raft = system.find("raft")
            assert raft is not None and isinstance(raft.actor, RaftPeer)
            self.peers[name] = raft.actor
            await system.wait_stopped()

        return start

    def add_worker(self, name: str, slots: int = 1) -> Process:
        return self.world.process(name, self._worker(name, slots))

    def _worker(self, name: str, slots: int) -> Start:
        async def start(ports: Ports) -> None:
            brokers = tuple((node, f"{node}:7100") for node in BROKERS)
            config = WorkerConfig(
                "world",
                name,
                brokers,
                (),
                slots,
                wear=self.wear,
                async_tasks=self.async_tasks,
                slots_min=self.slots_min,
            )
            started = start_worker(ports, config)
            self.actors[name], self.systems[name], _ = started
            await self.systems[name].wait_stopped()

        return start

    async def _executor(self, port: ChildPort, argument: bytes) -> None:
        number = self._watch(port)
        if self.is_broken:
            port.send(encode(StartFailed("world", "it is broken")))
            return
        executor = Executor(port, TASKS, describe=portable_traceback)
        port.rss_bytes = self.fresh_bytes
        port.send(encode(READY))
        while True:
            while executor.claim():
                assignment = executor.running
                assert assignment is not None
                (work_us,), _ = TASKS[assignment.name].codec.decode_arguments(assignment.body)
                run = Run(number, self.world.now)
                self.runs.setdefault(assignment.task, []).append(run)
                port.rss_bytes += self.needs_bytes
                await port.work(work_us * MICROSECOND)
                port.rss_bytes += self.leaves_bytes - self.needs_bytes
                run.ended = self.world.now
                executor.run()
            frame = port.poll()
            if frame is None:
                executor.flush()
                frame = await port.receive()
                if frame is None:
                    await port.work(self.closing_us * MICROSECOND)
                    self.closed.append(number)
                    return
            executor.receive(frame)

    async def _loop(self, port: ChildPort, argument: bytes) -> None:
        number = self._watch(port)

        def note_run(task: int) -> Run:
            run = Run(number, self.world.now)
            self.runs.setdefault(task, []).append(run)
            return run

        _note_run.set(note_run)
        self.ports.append(port)
        executor = LoopExecutor(port, TASKS, asyncio.get_running_loop(), describe=portable_traceback)
        port.send(encode(READY))
        while (frame := await port.receive()) is not None:
            executor.receive(frame)
        executor.close()
        await executor.ended

    def _watch(self, port: ChildPort) -> int:
        number = port._loop.number
        port._loop.on_kill.append(lambda: self.deaths.setdefault(number, self.world.now))
        return number

    def submit(self, *works_us: int, key: str = "", task: Task[[int], Any] = sleep) -> None:
        """A client submits one task for each and keeps the results by position. With a key they are the Sleeper's."""
        called = sleeper.at(key) if key else task
        self.clients += 1
        brokers = tuple(BrokerNode(name, f"{name}:7100", f"{name}:8100") for name in BROKERS)
        plan = Topology("world", "data", True, brokers, ())

        async def start(ports: Ports) -> None:
            async with Client(plan, lambda: ports, 60.0) as cluster:
                handles = [await cluster.submit(called, work_us) for work_us in works_us]
                for handle in handles:
                    self.results[handle.id] = await handle

        self.world.process(f"client-{self.clients}", start)

    def until(self, condition: Callable[[], object]) -> None:
        assert self.world.run_until(condition, LIMIT), f"not within the limit; log: {self.log[-20:]}"

    def drain(self, name: str) -> frozenset[int]:
        """What SIGTERM does to a worker. Returns its children of that moment."""
        drain(self.systems[name])
        return frozenset(child.pid for child in self.actors[name]._children)

    def registered(self, name: str = "w1") -> bool:
        return name in self.actors and self.actors[name].session != 0

    def leader(self) -> Process:
        leading = [process for process, event in self.log if event == "leading"]
        return next(broker for broker in self.brokers if broker.name == leading[-1])

    @property
    def machine(self) -> Machine:
        """The state, as the leader has it."""
        return self.peers[self.leader().name].machine

    def hand_outs(self, task: int) -> int:
        """How often a task was given to a worker, whether it ran there or not."""
        result = self.machine.result(task)
        assert isinstance(result, TaskResult), f"{task} has not ended"
        return result.attempts

    def overlapping(self) -> list[int]:
        """Tasks of which a second run began while the child of the first was still at it."""
        return [
            one
            for one, runs in self.runs.items()
            for first, second in pairwise(runs)
            if first.ended is None and self.deaths.get(first.child, second.started) >= second.started
        ]
