"""The tasks of the simulated users, and the bodies of the children that run them.

A slot's child drives the real `Executor` over the real claim page, a loop's child the real `LoopExecutor` on its
simulated loop. Only what a user's function would do with its time is simulated: the call says how long it takes and how
it ends, and the child waits in virtual time instead of working.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Never

import msgspec

from actors import MICROSECOND, SECOND
from actors.simulation import ChildPort, portable_traceback
from cluster.dependencies import Outcome
from cluster.state.inputs import INPUTS_MARK, Inputs
from cluster.task import Task, current, task
from cluster.task_actor import TaskActor, definition_of
from cluster.worker.child_messages import Ready, encode
from cluster.worker.executor import Executor
from cluster.worker.loop_executor import LoopExecutor
from cluster.worker.wear import WearLimits

Fate = Literal["ok", "raise", "raise once", "crash once", "crash always"]

CRASH_EXIT_CODE = 139
MIB = 1024 * 1024

# What children have in memory. By the key of the call and not by chance: so it leaves other choices as they are.
FRESH_BYTES = 30 * MIB
LEAK_BYTES = 25 * MIB
LEAK_ONE_IN = 4                 # calls that leave so much
HOG_BYTES = 900 * MIB
HOG_ONE_IN = 60                 # calls whose first attempt has so much while it runs, and runs until it is seen
HOG_US = 200_000
WEAR = WearLimits(recycle_after=40, recycle_above=150 * MIB, memory_limit=600 * MIB)

BLOCKS_ONE_IN = 16              # of what waits: it does not let go of its loop meanwhile
STAYS_ONE_IN = 24               # it does not end when it is thrown out

OnRun = Callable[[int, int], None]      # task, attempt


class Call(msgspec.Struct, array_like=True, frozen=True):
    """What a simulated user asks for: `work_us` of work that ends as `fate` says. Keys are unique in a world."""

    key: int
    work_us: int
    fate: Fate
    padding: bytes = b""


_decode_body = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], dict[str, object]]).decode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_inputs = msgspec.msgpack.Decoder(Inputs).decode


def call_of(body: bytes) -> Call:
    """The call in a task's body, or in that of an assignment."""
    if body[:1] == INPUTS_MARK:
        body = _decode_inputs(body).body
    args, _ = _decode_body(body)
    return _decode_call(args[0])


Outcomes = tuple[Outcome[int], ...]


class Simulated(Exception):
    """What a simulated function raises."""


ANY_KEY = 0                     # of a call whose work another one may have done
WRONG_INPUTS = -1               # what a call returns that was given others than it needs


@task(name="simulated:work")
def work(call: Call, wanted: tuple[int, ...] = (), results: tuple[int, ...] = (), outcomes: Outcomes = ()) -> int:
    """Returns the call's key or raises, as it says. `wanted` are the keys of the calls whose results it needs, and then
    of those of which it needs outcomes."""
    given = (*results, *(one.value for one in outcomes))
    is_so = [value is None or key in (value, ANY_KEY) for key, value in zip(wanted, given, strict=False)]
    if len(given) != len(wanted) or not all(is_so) or any(one.ok != (one.value is not None) for one in outcomes):
        return WRONG_INPUTS
    if call.fate == "raise" or (call.fate == "raise once" and current().attempt == 1):
        raise Simulated(f"call {call.key}")
    return call.key


class Count(NamedTuple):
    """One call of a tally: the `number`-th that its instance ran."""

    key: str
    epoch: int
    number: int


_counts: list[Count] = []       # of the task that has just run


class Tally(TaskActor, name="simulated:Tally"):
    """Counts the calls of its key, those that it lets fail too."""

    def started(self) -> None:
        self.number = 0

    def count(self, call: Call) -> int:
        """Does as `work` does."""
        self.number += 1
        _counts.append(Count(self.context.key, self.context.epoch, self.number))
        return work(call)


count = definition_of(Tally).tasks["count"]

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
TASKS: dict[str, Task[..., Any]] = {work.name: work, count.name: count, wait.name: wait}
READY = Ready(tuple(sorted(TASKS)), (wait.name,))


async def loop_body(port: ChildPort, on_run: OnRun) -> None:
    """What the `main` of a loop's executor does. `on_run` sees each start."""
    _loop_child.set((port, on_run))
    executor = LoopExecutor(port, TASKS, asyncio.get_running_loop(), describe=portable_traceback)
    port.send(encode(READY))
    while (frame := await port.receive()) is not None:
        executor.receive(frame)
    executor.close()
    await executor.ended


async def executor_body(
    port: ChildPort, on_run: OnRun, on_count: Callable[[Count], None] = lambda count: None
) -> None:
    """What the executor's `main` does, with work that takes virtual time. `on_run` sees each start, `on_count` what a
    tally counts."""
    executor = Executor(port, TASKS, describe=portable_traceback)
    port.rss_bytes = FRESH_BYTES
    port.send(encode(READY))
    while True:
        while executor.claim():
            running = executor.running
            assert running is not None
            call = call_of(running.body)
            on_run(running.task, running.attempt)
            await _work(port, call, running.attempt)
            if call.fate == "crash always" or (call.fate == "crash once" and running.attempt == 1):
                raise SystemExit(CRASH_EXIT_CODE)
            executor.run()
            while _counts:
                on_count(_counts.pop())
        frame = port.poll()
        if frame is None:
            executor.flush()
            frame = await port.receive()
            if frame is None:
                return
        executor.receive(frame)


async def _work(port: ChildPort, call: Call, attempt: int) -> None:
    is_hog = call.key % HOG_ONE_IN == 0 and attempt == 1
    needs = HOG_BYTES if is_hog else 0
    port.rss_bytes += needs
    await port.work(max(call.work_us, HOG_US if is_hog else 0) * MICROSECOND)
    port.rss_bytes += (LEAK_BYTES if call.key % LEAK_ONE_IN == 0 else 0) - needs
