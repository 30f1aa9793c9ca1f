"""Waiting for a task, and saying so if it can take for ever."""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from cluster.client.client import Client
from cluster.client.handle import Handle
from cluster.client.inspection import TaskInfo
from cluster.command_line.common import Said, busy, stderr
from cluster.errors import ClusterError

WORD_AFTER_S = 2.0          # of a wait that may be in vain
WORD_AGAIN_S = 10.0         # looked at again, as long as nothing was said


async def awaited(cluster: Client, handle: Handle[Any], timeout_s: float | None = None) -> Any:
    """The result, or DeadlineExceeded, or what became of the task."""
    watcher = asyncio.ensure_future(_say_what_it_waits_for(cluster, handle.id))
    try:
        async with busy(f"waiting for task {handle.id}"):
            await handle.wait(timeout_s)
    finally:
        watcher.cancel()
    return handle.value()


async def _say_what_it_waits_for(cluster: Client, task: int) -> None:
    await asyncio.sleep(WORD_AFTER_S)
    while True:
        with suppress(ClusterError):        # whoever waits is told
            if reason := waits_for(await cluster.task(task)):
                stderr().print(f"waiting: {reason}")
                return
        await asyncio.sleep(WORD_AGAIN_S)


def waits_for(info: TaskInfo) -> str:
    """What a task waits for other than its turn; "" if it is that."""
    if info.parked:
        why = info.parked_why or f"no worker that serves the queue {info.queue!r} has {info.name}"
        return f"{why}; `status` shows the workers"
    if info.delayed and info.ready_at is not None:
        return f"not due before {info.ready_at:%Y-%m-%d %H:%M:%S} UTC"
    if info.missing:
        if info.dedup and not info.needs and info.waits_for:
            return f"task {info.waits_for[0]}, which is being stopped and has its key, to end"
        first = f"task {info.waits_for[0]}" if info.missing == 1 and info.waits_for else f"{info.missing} tasks"
        return f"{first} that it needs, to end"
    if info.held_back_until is not None:
        return f"{info.held_back_why}, until {info.held_back_until:%Y-%m-%d %H:%M:%S} UTC"
    return info.held_back_why


def as_json_text(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise Said(f"the task has completed, but its result cannot be written as JSON: {error}") from None
