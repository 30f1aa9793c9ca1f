"""Load without a pause, as `test_task_queue.py` makes it by `map`, for as long as one likes.

Some batches are under way at any time, and they are handed over one after another. Handed over at the same time they
would share the window, end at the same time and be followed by the next ones at the same time: between them the
cluster would have nothing to do for a quarter of a second, and what is measured would be the load.
"""

import asyncio
import time
from collections.abc import Callable

from bench.tasks import noop
from cluster import Batch, Client

PAYLOAD = b"x" * 100
IN_FLIGHT = 2               # batches: one is being worked off when the last results of the other arrive


class Load:
    """No-op tasks of one client, in batches of `batch` tasks."""

    def __init__(self, client: Client, batch: int) -> None:
        self._client = client
        self._batch = batch
        self._done = 0
        self._running: list[Batch[None]] = []
        self._handing_over = asyncio.Lock()

    @property
    def finished(self) -> int:
        """Results seen so far."""
        return self._done + sum(batch.progress[0] for batch in self._running)

    async def run(self, goes_on: Callable[[], bool]) -> float:
        """Goes on while `goes_on()`, looked at before each batch; returns the rate in tasks per second."""
        start, before = time.perf_counter(), self.finished
        await asyncio.gather(*(self._lane(goes_on) for _ in range(IN_FLIGHT)))
        return (self.finished - before) / (time.perf_counter() - start)

    async def _lane(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            async with self._handing_over:
                batch = await self._client.map(noop, [PAYLOAD] * self._batch)
            self._running.append(batch)
            await batch
            self._running.remove(batch)
            self._done += self._batch
