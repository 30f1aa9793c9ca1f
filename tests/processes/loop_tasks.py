"""Tasks for the event loop of a worker: those that behave, and those that do to it what a task can do to it."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from cluster.task import current, task


@task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
async def meet(folder: str, count: int) -> int:
    """Ends when `count` of them run at once."""
    (Path(folder) / str(current().id)).touch()
    while len(os.listdir(folder)) < count:
        await asyncio.sleep(0.005)
    return current().id


@task
async def who(pause: float) -> tuple[int, int, int]:
    """What it is told before a pause, after it, and in a thread and a subtask of its own."""
    before = current().id
    await asyncio.sleep(pause)
    in_thread = await asyncio.to_thread(lambda: current().id)
    in_subtask = await asyncio.create_task(_who())
    assert before == current().id
    return before, in_thread, in_subtask


async def _who() -> int:
    return current().id


@task
async def fail(message: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(message)


@task
async def leave(code: int) -> None:
    await asyncio.sleep(0)
    sys.exit(code)


@task
async def large(size: int) -> bytes:
    return bytes(size)


@task
async def swallow(note: str) -> str:
    """Ends by itself when it is thrown out, and leaves a note."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        Path(note).touch()
        return "cleaned up"
    return "not reached"


@task
async def clean_up(note: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        Path(note).touch()


@task
async def stubborn() -> None:
    """Stays, however often it is thrown out."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@task
async def look() -> str:
    """Ends soon after it was asked to stop."""
    while not current().cancelled:
        await asyncio.sleep(0.005)
    return "stopped"


@task
async def block(seconds: float) -> None:
    await asyncio.sleep(0)
    time.sleep(seconds)


@task
async def block_after(note: str, seconds: float) -> None:
    while not Path(note).exists():
        await asyncio.sleep(0.005)
    time.sleep(seconds)


@task
async def die(note: str, code: int) -> None:
    """Ends its process when the note is there."""
    while not Path(note).exists():
        await asyncio.sleep(0.005)
    sys.stderr.write("last words\n")
    os._exit(code)


@task
async def kill_self() -> None:
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@task
async def fork_and_come_back_twice(note: str) -> int:
    """What a user does who forgets that the copy must end itself."""
    pid = os.fork()
    if pid == 0:
        Path(note).write_text(str(os.getpid()))
        return -1
    os.waitpid(pid, 0)
    return os.getpid()


@task
async def tell(folder: str, number: int) -> None:
    """Says how far it is and logs, beside others that do the same, until the folder has a file "go"."""
    current().progress(number, 100)
    current().log.info("this is number %d", number)
    while not (Path(folder) / "go").exists():
        await asyncio.sleep(0.005)
    await asyncio.to_thread(current().log.warning, "from a thread of %d", number)
    if number % 2:
        raise ValueError(str(number))


async def _when_there(path: str) -> None:
    while not os.path.exists(path):
        await asyncio.sleep(0.005)


@task
async def exit_in_subtask(go: str) -> None:
    """Its subtask calls sys.exit, which asyncio lets through to the process."""

    async def leave() -> None:
        await _when_there(go)
        sys.exit("bad configuration")

    async with asyncio.TaskGroup() as group:
        group.create_task(leave())


@task
async def stop_loop(go: str) -> None:
    await _when_there(go)
    asyncio.get_running_loop().stop()
    await asyncio.sleep(60)


@task
async def cancel_all(go: str) -> None:
    """As a program does that thinks the loop is its own."""
    await _when_there(go)
    for other in asyncio.all_tasks():
        if other is not asyncio.current_task():
            other.cancel()
    await asyncio.sleep(1)


@task
async def cancelled_within() -> None:
    """Waits for a subtask that it has cancelled itself: nobody cancelled the task."""
    subtask = asyncio.create_task(asyncio.sleep(60))
    subtask.cancel()
    await subtask
