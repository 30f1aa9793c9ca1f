"""quorumq itself: `Lock`, as its users write it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.locks.apps import HOLD_S
from cluster import Client, Lock


class Contender:
    def __init__(self) -> None:
        self._client = Client.connect(os.environ["LOCKS_TOPOLOGY"])

    async def open(self, name: str) -> None:
        self._name = name
        await self._client.__aenter__()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[int]:
        async with Lock(self._client, self._name, hold=f"{HOLD_S}s") as lock:
            yield lock.fence

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)
