"""Redis by the lock of redis-py: SET NX PX, and a script that deletes the key if it is still one's own. Who does not
get it sleeps and tries again, as redis-py does by default each 0.1 s. A holder has no number.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from bench.locks.apps import HOLD_S


class Contender:
    def __init__(self) -> None:
        self._redis = Redis.from_url(os.environ["PEER_BROKER"])

    async def open(self, name: str) -> None:
        self._name = name
        await self._redis.ping()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        async with self._redis.lock(self._name, timeout=HOLD_S):
            yield None

    async def close(self) -> None:
        await self._redis.aclose()
