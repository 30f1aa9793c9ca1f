"""quorumq itself: many tasks by `map`, or one by one with many submits under way."""

import asyncio
import os
from typing import Any

from bench.peers import work
from bench.peers.client import RESULT_TIMEOUT_S
from cluster import Client, task

IN_FLIGHT = 16_384


@task
def echo(number: int, payload: str) -> int:
    return work.echo(number, payload)


@task
def mark(number: int, payload: str) -> int:
    return work.mark(number, payload)


class Queue:
    def __init__(self) -> None:
        self._client = Client.connect(os.environ["PEER_TOPOLOGY"])
        self._by_map = os.environ["PEER_SUBMITS_BY"] == "map"

    async def open(self) -> None:
        await self._client.__aenter__()

    async def echo_all(self, numbers: range) -> None:
        if self._by_map:
            batch = await self._client.map(echo, numbers, payload=work.PAYLOAD)
            await batch.results(RESULT_TIMEOUT_S)
            return
        left = iter(numbers)

        async def lane() -> None:
            """One place in flight: the next submit leaves when the result of the last one is here."""
            for number in left:
                await self.echo(number)

        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))

    async def echo(self, number: int) -> None:
        handle = await self._client.submit(echo, number, work.PAYLOAD)
        await handle

    async def mark(self, number: int) -> Any:
        return await self._client.submit(mark, number, work.PAYLOAD)

    async def readable(self, receipt: Any) -> bool:
        return bool(await receipt.result(timeout=1.0) is not None)

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)
