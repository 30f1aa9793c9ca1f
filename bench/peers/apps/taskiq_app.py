"""taskiq with its list of Redis. Results are polled for, here each millisecond instead of five times a second."""

import asyncio
import os
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from bench.peers import work
from bench.peers.client import RESULT_TIMEOUT_S

SUBMITS_AT_ONCE = 200
POLL_S = 0.001
RESULTS_KEPT_S = 600

broker = ListQueueBroker(os.environ["PEER_BROKER"]).with_result_backend(
    RedisAsyncResultBackend(os.environ["PEER_BACKEND"], result_ex_time=RESULTS_KEPT_S)
)


async def run_echo(number: int, payload: str) -> int:
    return work.echo(number, payload)


async def run_mark(number: int, payload: str) -> int:
    """Holds up its process on purpose: a process is one slot."""
    return work.mark(number, payload)


echo = broker.register_task(run_echo, task_name="echo")
mark = broker.register_task(run_mark, task_name="mark")


class Queue:
    async def open(self) -> None:
        await broker.startup()

    async def echo_all(self, numbers: range) -> None:
        tasks: list[Any] = []
        for first in range(0, len(numbers), SUBMITS_AT_ONCE):
            some = numbers[first : first + SUBMITS_AT_ONCE]
            tasks += await asyncio.gather(*(echo.kiq(number, work.PAYLOAD) for number in some))
        for task in tasks:
            await task.wait_result(check_interval=POLL_S, timeout=RESULT_TIMEOUT_S)

    async def echo(self, number: int) -> None:
        task = await echo.kiq(number, work.PAYLOAD)
        await task.wait_result(check_interval=POLL_S, timeout=RESULT_TIMEOUT_S)

    async def mark(self, number: int) -> Any:
        return await mark.kiq(number, work.PAYLOAD)

    async def readable(self, receipt: Any) -> bool:
        return bool(await receipt.is_ready())

    async def close(self) -> None:
        await broker.shutdown()
