"""One slot with a real child, driven as a worker drives it, without a cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from actors import Actor, ActorSystem, Exit, Ports, Ref
from actors.runtime.loop import real_ports
from cluster.state.commands import Outcome
from cluster.state.effects import Assignment
from cluster.task import Task
from cluster.worker.child_messages import Ready, Setup, StartFailed, encode
from cluster.worker.slot_child import SlotChild
from cluster.worker.wear import UNLIMITED, WearLimits

TASKS = "executor_tasks"
HERE = str(Path(__file__).parent)
DEADLINE_S = 30.0       # of any wait in these tests; what is waited for takes milliseconds to a few seconds
TICK_S = 0.02

T = TypeVar("T")


class Rig(Actor):
    """The owner of one slot."""

    def __init__(self, modules: tuple[str, ...], wear: WearLimits = UNLIMITED) -> None:
        self.modules = modules
        self.wear = wear
        self.names: tuple[str, ...] | None = None
        self.starts = 0
        self.exits = 0
        self.report: StartFailed | Exit | None = None
        self.done: dict[int, Outcome] = {}
        self.last_task = 0
        self._changed = asyncio.Event()

    def started(self) -> None:
        self.child = SlotChild(0, self.context, encode(Setup(self.modules)), self, self.wear)
        self.child.start()
        self._tick()

    def _tick(self) -> None:
        self.child.tick(self.context.clock.now())
        self.context.timer("tick", int(TICK_S * 1e9), self._tick)

    def child_ready(self, ready: Ready) -> None:
        self.names = ready.names
        self.starts += 1
        self._changed.set()

    def child_failed_to_start(self, report: StartFailed | Exit) -> None:
        self.report = report
        self.child.is_stopped = True
        self._changed.set()

    def child_exited(self, slot: int) -> None:
        self.exits += 1
        self._changed.set()

    def outcomes(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.task not in self.done, "one outcome for each task"
            self.done[outcome.task] = outcome
        self._changed.set()

    def give(
        self,
        task: Task[..., Any],
        *args: object,
        timeout_ms: int = 60_000,
        estimate_us: int = 20_000,
        soft_timeout_ms: int = 0,
        key: str = "",
        epoch: int = 0,
    ) -> int:
        """Assigns one call; returns the id of the task."""
        self.last_task += 1
        given = Assignment(
            self.last_task,
            1,
            0,
            estimate_us,
            timeout_ms,
            task.name,
            task.encode(args, {}),
            soft_timeout_ms=soft_timeout_ms,
            key=key,
            epoch=epoch,
        )
        self.child.slot.assign(given)
        self.child.feed()
        return self.last_task

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for a condition that the child's messages bring about."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def outcome(self, task: int) -> Outcome:
        await self.until(lambda: task in self.done)
        return self.done[task]

    async def pid(self) -> int:
        """Of the child, once the fork server has said it: the child's own first word may come before that."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.child.pid:
                await asyncio.sleep(0.001)
        return self.child.pid

    async def running(self, task: int) -> None:
        """Waits until the child has claimed it; the page does not notify, so it is looked at."""
        async with asyncio.timeout(DEADLINE_S):
            while self.child.running != task:
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def slot(*modules: str, wear: WearLimits = UNLIMITED) -> AsyncIterator[Rig]:
    """A slot whose child has started, or could not."""
    names = modules or (TASKS,)
    ports: Ports = real_ports(asyncio.get_running_loop(), preload=("cluster.worker.executor", *names), path=(HERE,))
    system = ActorSystem(ports)
    rig = Rig(names, wear)
    ref: Ref[Any] = system.spawn(rig)
    try:
        await rig.until(lambda: rig.names is not None or rig.report is not None)
        yield rig
    finally:
        if hasattr(rig, "child"):
            rig.child.is_stopped = True
        system.stop()
        await system.wait_stopped()
        ports.processes.close()  # type: ignore[attr-defined]
        assert ref is not None


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def start() -> T:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(start())
