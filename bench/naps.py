"""The task of the async benchmark, in a module of its own: workers of the other benchmarks have no event loop."""

import asyncio

from cluster import task


@task
async def nap(seconds: float) -> float:
    """Waits for so long."""
    await asyncio.sleep(seconds)
    return seconds
