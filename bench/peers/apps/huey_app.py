"""Huey on Redis. Results are polled for, here each millisecond instead of ten times a second."""

import os
from typing import Any

from huey import RedisHuey

from bench.peers import work
from bench.peers.client import RESULT_TIMEOUT_S

POLL_S = 0.001

huey = RedisHuey("peers", url=os.environ["PEER_BROKER"])
echo = huey.task(name="echo")(work.echo)
mark = huey.task(name="mark")(work.mark)


def result_of(result: Any) -> None:
    result.get(blocking=True, timeout=RESULT_TIMEOUT_S, backoff=1.0, max_delay=POLL_S)


class Queue:
    async def open(self) -> None:
        pass

    async def echo_all(self, numbers: range) -> None:
        for result in [echo(number, work.PAYLOAD) for number in numbers]:
            result_of(result)

    async def echo(self, number: int) -> None:
        result_of(echo(number, work.PAYLOAD))

    async def mark(self, number: int) -> Any:
        return mark(number, work.PAYLOAD)

    async def readable(self, receipt: Any) -> bool:
        return receipt.get() is not None

    async def close(self) -> None:
        pass
