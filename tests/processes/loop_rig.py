"""The event loop of a worker with a real child, driven as a worker drives it, without a cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from executor_rig import DEADLINE_S, HERE, Rig

from actors import ActorSystem, Ports
from actors.runtime.loop import real_ports
from cluster.state.commands import Outcome
from cluster.state.effects import Assignment
from cluster.task import Task
from cluster.worker.child_messages import Setup, encode
from cluster.worker.loop_child import LoopChild
from cluster.worker.wear import UNLIMITED

TASKS = "loop_tasks"


class LoopRig(Rig):
    """The owner of one loop."""

    def __init__(self, places: int) -> None:
        super().__init__((TASKS,), UNLIMITED)
        self.places = places

    def started(self) -> None:
        self.child: Any = LoopChild(0, self.places, self.context, encode(Setup(self.modules)), self)
        self.child.start()
        self._tick()

    def submit(self, task: Task[..., Any], *args: object, timeout_ms: int = 60_000, soft_ms: int = 0) -> int:
        """Assigns one call; returns the id of the task."""
        self.last_task += 1
        body = task.encode(args, {})
        self.child.slot.assign(Assignment(self.last_task, 1, 0, 1_000, timeout_ms, task.name, body, False, soft_ms))
        self.child.feed()
        return self.last_task

    async def running(self, *tasks: int) -> None:
        """Waits until all of them have begun; the page does not notify, so it is looked at."""
        async with asyncio.timeout(DEADLINE_S):
            while not set(tasks) <= set(self.child.running_tasks):
                await asyncio.sleep(0.001)

    async def outcomes_of(self, *tasks: int) -> list[Outcome]:
        return [await self.outcome(task) for task in tasks]


@contextlib.asynccontextmanager
async def loop(places: int = 200) -> AsyncIterator[LoopRig]:
    """A loop whose child has started."""
    preload = ("cluster.worker.loop_executor", TASKS)
    ports: Ports = real_ports(asyncio.get_running_loop(), preload=preload, path=(HERE,))
    system = ActorSystem(ports)
    rig = LoopRig(places)
    system.spawn(rig)
    try:
        await rig.until(lambda: rig.names is not None)
        yield rig
    finally:
        rig.child.is_stopped = True
        system.stop()
        await system.wait_stopped()
        ports.processes.close()  # type: ignore[attr-defined]
