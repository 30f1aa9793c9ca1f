"""The two tasks of the simulated users, and the bodies of the children that run them.

A slot's child drives the real `Executor` over the real claim page, a loop's child the real `LoopExecutor` on its
simulated loop. Only what a user's function would do with its time is simulated: the call says how long it takes and how
it ends, and the child waits in virtual time instead of working.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, Never

import msgspec

from actors import MICROSECOND, SECOND
from actors.simulation import ChildPort
from cluster.task import current, task
from cluster.worker.child_messages import Ready, encode
from cluster.worker.executor import Executor
from cluster.worker.loop_executor import LoopExecutor

Fate = Literal["ok", "raise", "raise once", "crash once", "crash always"]

CRASH_EXIT_CODE = 139
BLOCKS_ONE_IN = 16              # of what waits: it does not let go of its loop meanwhile
STAYS_ONE_IN = 24               # it does not end when it is thrown out

OnRun = Callable[[int, int], None]      # task, attempt


class Call(msgspec.Struct, array_like=True, frozen=True):
    """What a simulated user asks for: `work_us` of work that ends as `fate` says. Keys are unique in a world."""

    key: int
    work_us: int
    fate: Fate
    padding: bytes = b""


_decode_body = msgspec.msgpack.Decoder(tuple[tuple[Call], dict[str, object]]).decode


def call_of(body: bytes) -> Call:
    """The call in a task's body."""
    (call,), _ = _decode_body(body)
    return call


class Simulated(Exception):
    """What a simulated function raises."""


@task(name="simulated:work")
def work(call: Call) -> int:
    """Returns the call's key or raises, as it says."""
    if call.fate == "raise" or (call.fate == "raise once" and current().attempt == 1):
        raise Simulated(f"call {call.key}")
    return call.key


_loop_child: ContextVar[tuple[ChildPort, OnRun]] = ContextVar("_loop_child")


@task(name="simulated:wait")
async def wait(call: Call) -> int:
    """As `work`, beside others in the event loop of a worker."""
    port, on_run = _loop_child.get()
    attempt = current().attempt
    on_run(current().id, attempt)
    if call.key % BLOCKS_ONE_IN == 0:
        port.charge(call.work_us * MICROSECOND)
        await asyncio.sleep(0)
    else:
        ends_at = port.now() + call.work_us * MICROSECOND
        while (left := ends_at - port.now()) > 0:
            try:
                await asyncio.sleep(left / SECOND)
            except asyncio.CancelledError:
                if call.key % STAYS_ONE_IN:
                    raise
    if call.fate == "crash always" or (call.fate == "crash once" and attempt == 1):
        asyncio.get_running_loop().call_soon(_crash)
        await asyncio.Event().wait()
    return work(call)


def _crash() -> Never:
    raise SystemExit(CRASH_EXIT_CODE)


# Not the registry: which tasks other modules define in this interpreter must not change the course of a seed.
TASKS = {work.name: work, wait.name: wait}
READY = Ready((wait.name, work.name), (wait.name,))


async def loop_body(port: ChildPort, on_run: OnRun) -> None:
    """What the `main` of a loop's executor does. `on_run` sees each start."""
    _loop_child.set((port, on_run))
    executor = LoopExecutor(port, TASKS, asyncio.get_running_loop())
    port.send(encode(READY))
    while (frame := await port.receive()) is not None:
        executor.receive(frame)
    executor.close()
    await executor.ended


async def executor_body(port: ChildPort, on_run: OnRun) -> None:
    """What the executor's `main` does, with work that takes virtual time. `on_run` sees each start."""
    executor = Executor(port, TASKS)
    port.send(encode(READY))
    while True:
        while executor.claim():
            running = executor.running
            assert running is not None
            call = call_of(running.body)
            on_run(running.task, running.attempt)
            await port.work(call.work_us * MICROSECOND)
            if call.fate == "crash always" or (call.fate == "crash once" and running.attempt == 1):
                raise SystemExit(CRASH_EXIT_CODE)
            executor.run()
        frame = port.poll()
        if frame is None:
            executor.flush()
            frame = await port.receive()
            if frame is None:
                return
        executor.receive(frame)
