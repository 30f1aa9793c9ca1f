"""Dramatiq, on Redis or RabbitMQ; results are in Redis either way."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import work
from bench.peers.client import RESULT_TIMEOUT_S

url = os.environ["PEER_BROKER"]
broker = RabbitmqBroker(url=url, confirm_delivery=True) if url.startswith("amqp") else RedisBroker(url=url)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["PEER_BACKEND"])))
dramatiq.set_broker(broker)

echo = dramatiq.actor(work.echo, actor_name="echo", store_results=True)
mark = dramatiq.actor(work.mark, actor_name="mark", store_results=True)


def result_of(message: Any) -> None:
    message.get_result(block=True, timeout=int(RESULT_TIMEOUT_S * 1e3))


class Queue:
    async def open(self) -> None:
        pass

    async def echo_all(self, numbers: range) -> None:
        for message in [echo.send(number, work.PAYLOAD) for number in numbers]:
            result_of(message)

    async def echo(self, number: int) -> None:
        result_of(echo.send(number, work.PAYLOAD))

    async def mark(self, number: int) -> Any:
        return mark.send(number, work.PAYLOAD)

    async def readable(self, receipt: Any) -> bool:
        receipt.get_result(block=False)     # raises if there is none
        return True

    async def close(self) -> None:
        broker.close()
