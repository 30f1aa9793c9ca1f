"""Celery, on Redis or on RabbitMQ's quorum queues."""

import os
from typing import Any

from celery import Celery

from bench.peers import work
from bench.peers.client import RESULT_TIMEOUT_S

READ_TIMEOUT_S = 0.02       # everything has long arrived by then
BROKER = os.environ["PEER_BROKER"]

app = Celery("peers", broker=BROKER, backend=os.environ["PEER_BACKEND"])
app.conf.update(
    worker_prefetch_multiplier=64,      # quicker with short tasks than the default of 4
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
if BROKER.startswith("amqp"):
    # Every delay() waits until the queue has confirmed; a task is acknowledged when it has ended, so that it survives
    # its worker; results wait on disk. These are what Celery has against loss.
    app.conf.update(
        task_default_queue_type="quorum",
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        worker_detect_quorum_queues=True,
        result_persistent=True,
    )

echo = app.task(name="echo")(work.echo)
mark = app.task(name="mark")(work.mark)


class Queue:
    async def open(self) -> None:
        pass

    async def echo_all(self, numbers: range) -> None:
        for result in [echo.delay(number, work.PAYLOAD) for number in numbers]:
            result.get(timeout=RESULT_TIMEOUT_S)

    async def echo(self, number: int) -> None:
        echo.delay(number, work.PAYLOAD).get(timeout=RESULT_TIMEOUT_S)

    async def mark(self, number: int) -> Any:
        return mark.delay(number, work.PAYLOAD)

    async def readable(self, receipt: Any) -> bool:
        if not BROKER.startswith("amqp"):
            return bool(receipt.state == "SUCCESS")     # asks Redis; get() would wait for a message that is gone
        receipt.get(timeout=READ_TIMEOUT_S)
        return True

    async def close(self) -> None:
        app.close()
