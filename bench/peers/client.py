"""The client of one peer: `python -m bench.peers.client APP`, in the environment that has its library.

It reads one request per line of its input and answers each with a line of JSON; `mark` says how far it is in between.
Requests are {"do": NAME, "count": TASKS}. What differs between peers is in `bench.peers.apps`, behind `Queue`.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import uvloop

RESULT_TIMEOUT_S = 60.0         # of one result; the runner's own limits are above it
FIRST_RESULT_TIMEOUT_S = 60.0   # workers are still starting
MARKS_PER_S = 500               # submits of the run in which a server is killed: more than the workers do
REFUSED_PAUSE_S = 0.05
REPORT_EVERY = 50               # confirmed submits between two lines
READ_PASSES = 2                 # one that had not arrived in the first is there in the second


class Queue(Protocol):
    """One client of a task queue. Errors are the library's own."""

    async def open(self) -> None: ...

    async def echo_all(self, numbers: range) -> None:
        """Submits `work.echo` for all numbers, the quick way of this library; returns with the last result."""

    async def echo(self, number: int) -> None:
        """One round trip."""

    async def mark(self, number: int) -> Any:
        """Submits `work.mark`; returns what a result is asked for with, once the submit is confirmed."""

    async def readable(self, receipt: Any) -> bool:
        """Whether the client gets the result now."""

    async def close(self) -> None: ...


Say = Callable[[dict[str, Any]], None]


class Session:
    """Carries out requests, and remembers what was confirmed."""

    def __init__(self, queue: Queue, say: Say) -> None:
        self._queue = queue
        self._say = say
        self._receipts: dict[int, Any] = {}

    async def warm(self, tasks: int) -> dict[str, Any]:
        await asyncio.wait_for(self._queue.echo(0), FIRST_RESULT_TIMEOUT_S)
        await self._queue.echo_all(range(tasks))
        return {}

    async def throughput(self, tasks: int) -> dict[str, Any]:
        start = time.perf_counter()
        await self._queue.echo_all(range(tasks))
        return {"seconds": time.perf_counter() - start}

    async def latency(self, tasks: int) -> dict[str, Any]:
        taken = []
        for number in range(tasks):
            start = time.perf_counter()
            await self._queue.echo(number)
            taken.append((time.perf_counter() - start) * 1e3)
        return {"taken_ms": taken}

    async def mark(self, tasks: int) -> dict[str, Any]:
        """One submit after another until `tasks` are confirmed. One that raised is not repeated: it may have worked."""
        number, errors = 0, list[str]()
        start = time.perf_counter()
        while len(self._receipts) < tasks:
            try:
                self._receipts[number] = await self._queue.mark(number)
            except Exception as error:
                errors.append(type(error).__name__)
                await asyncio.sleep(REFUSED_PAUSE_S)
            else:
                if len(self._receipts) % REPORT_EVERY == 0:
                    self._say({"so_far": len(self._receipts)})
            number += 1
            await asyncio.sleep(max(0.0, start + number / MARKS_PER_S - time.perf_counter()))
        return {"confirmed": list(self._receipts), "errors": errors}

    async def read(self, tasks: int) -> dict[str, Any]:
        """How many of the confirmed tasks have a result that this client gets."""
        missing = dict(self._receipts)
        for _ in range(READ_PASSES):
            for number, receipt in list(missing.items()):
                try:
                    found = await self._queue.readable(receipt)
                except Exception:
                    found = False
                if found:
                    del missing[number]
        return {"read": len(self._receipts) - len(missing)}


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def answer(requests: Mapping[str, Callable[[int], Awaitable[dict[str, Any]]]]) -> None:
    """Until the input ends. A request that raises is answered with the error, and the next one is read."""
    # Read by a thread: a client that keeps a session alive has a loop that must turn.
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            say({"done": await requests[request["do"]](request["count"])})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


async def serve(queue: Queue) -> None:
    session = Session(queue, say)
    await queue.open()
    await answer({
        "warm": session.warm,
        "throughput": session.throughput,
        "latency": session.latency,
        "mark": session.mark,
        "read": session.read,
    })
    await queue.close()


if __name__ == "__main__":
    app = importlib.import_module(f"bench.peers.apps.{sys.argv[1]}")
    uvloop.run(serve(app.Queue()))
