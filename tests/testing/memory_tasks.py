"""What the tests of a cluster in memory let it run."""

import asyncio
import threading
from typing import NoReturn

import msgspec

from cluster import Backoff, SoftTimeLimit, TaskActor, current, task

SEEN: list[object] = []         # what functions have noted; tests clear it


class Parcel(msgspec.Struct):
    weight: int
    label: str = ""


@task
def add(a: int, b: int) -> int:
    return a + b


@task
def note(what: str) -> str:
    SEEN.append(what)
    return what


@task(queue="mail")
def send(to: str) -> None:
    SEEN.append(to)


@task
def repack(parcel: Parcel) -> Parcel:
    assert type(parcel) is Parcel
    return Parcel(parcel.weight + 1, parcel.label)


@task
def stay() -> object:
    return object()


@task(retry=Backoff(times=2, first="1h", cap="2h", on=(ConnectionError,)))
def book(account: str) -> int:
    SEEN.append(account)
    if current().attempt == 1:
        raise ConnectionError("the bank is closed")
    return current().attempt


@task
def fail(text: str) -> NoReturn:
    raise LookupError(text)


@task
def leave(code: int) -> NoReturn:
    raise SystemExit(code)


@task
def speak() -> list[object]:
    now = current()
    now.progress(3, 4)
    now.log.info("three of %d", 4)
    return [now.id, now.attempt, now.name, now.deadline, now.cancelled]


@task
def whereabouts() -> str:
    return threading.current_thread().name


@task
def cautious() -> str:
    return "stopped" if current().cancelled else "done"


@task
def run_a_loop() -> str:
    async def here() -> str:
        await asyncio.sleep(0)
        return "ran"

    return asyncio.run(here())


@task(timeout="25h")
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


@task
async def nap_lightly() -> str:
    try:
        await asyncio.sleep(3_600)
    except SoftTimeLimit:
        raise AssertionError("a coroutine is cancelled") from None
    except asyncio.CancelledError:
        SEEN.append("woken")
        raise
    return "rested"


@task
async def poll() -> int:
    rounds = 0
    while not current().cancelled:
        rounds += 1
        current().progress(rounds)
        await asyncio.sleep(60)
    return rounds


@task
async def in_a_thread() -> list[object]:
    return [await asyncio.to_thread(add, 1, 2), await asyncio.to_thread(lambda: current().attempt)]


@task
async def call_out() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


@task
async def careless() -> str:
    async def breaks() -> None:
        raise RuntimeError("nobody waits for me")

    left = asyncio.create_task(breaks())
    await asyncio.sleep(1)
    assert left.done()
    return "fine"


class Counter(TaskActor):
    """Counts, and knows how often it was made."""

    def started(self) -> None:
        self.count = 0
        SEEN.append(f"started {self.context.key}")

    def stopped(self) -> None:
        SEEN.append(f"stopped {self.context.key}")

    def up(self) -> int:
        self.count += 1
        return self.count


class Slow(TaskActor):
    """Takes its time for everything."""

    async def started(self) -> None:
        await asyncio.sleep(600)
        self.answers = 0

    async def answer(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.answers += 1
        return self.answers + 100 * current().attempt
