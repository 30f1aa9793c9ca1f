"""What is left of children that were replaced: nothing, and nobody waits for the garbage collector for that."""

import asyncio
import gc
import os
from pathlib import Path

import executor_tasks as tasks
from executor_rig import DEADLINE_S, run, slot

from cluster.worker.wear import WearLimits

REPLACEMENTS = 300
OF_CHILDREN_ALIVE = 16      # descriptors of a child, its successor, and one that is about to end


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pages() -> int:
    return Path("/proc/self/maps").read_text().count("quorumq-page")


def test_three_hundred_replacements_leave_no_descriptor_and_no_page() -> None:
    async def main() -> None:
        async with slot(wear=WearLimits(recycle_after=1)) as rig:
            before = descriptors()
            gc.disable()
            try:
                for _ in range(REPLACEMENTS):
                    await rig.outcome(rig.give(tasks.pid))
                async with asyncio.timeout(DEADLINE_S):
                    while descriptors() > before + OF_CHILDREN_ALIVE or pages() > 3:
                        await asyncio.sleep(0.01)
            finally:
                gc.enable()

    run(main)
