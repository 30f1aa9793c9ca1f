"""The event loop of a worker with a real child, driven as a worker drives it, without a cluster."""

import asyncio
import contextlib
from typing import Any

from executor_rig import DEADLINE_S, Rig, started

from cluster.state.commands import Outcome
from cluster.worker.loop_child import LoopChild

TASKS = "loop_tasks"


class LoopRig(Rig):
    """The owner of one loop."""

    def __init__(self, modules: tuple[str, ...], places: int) -> None:
        super().__init__(modules)
        self.places = places

    def keeper(self, setup: bytes) -> Any:
        return LoopChild(0, self.places, self.context, setup, self)

    async def running(self, *tasks: int) -> None:
        """Waits until all of them have begun; the page does not notify, so it is looked at."""
        async with asyncio.timeout(DEADLINE_S):
            while not set(tasks) <= set(self.child.running_tasks):
                await asyncio.sleep(0.001)

    async def outcomes_of(self, *tasks: int) -> list[Outcome]:
        return [await self.outcome(task) for task in tasks]


def loop(places: int = 200) -> contextlib.AbstractAsyncContextManager[LoopRig]:
    """A loop whose child has started."""
    return started(LoopRig((TASKS,), places))


