"""What the clusters of these tests run. The rig copies this file beside each topology, where workers find it."""

import asyncio
import ctypes
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct

from cluster import Backoff, Outcome, SoftTimeLimit, current, task

POLL_S = 0.005


@task
def echo(value: int) -> int:
    """Some hundreds of these keep a small cluster busy for a second or two."""
    time.sleep(0.01)
    return value


@task
def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
def echo_from(value: int) -> int:
    """The pid of the worker that ran it."""
    time.sleep(0.01)
    return worker_of(os.getpid())


@task
def echo_when(value: int) -> tuple[int, float]:
    """The pid of the worker that ran it, and when it began: seconds of a clock that all processes share."""
    began = time.monotonic()
    time.sleep(0.01)
    return worker_of(os.getpid()), began


@task
def add(left: int, right: int = 1) -> int:
    return left + right


# -- who runs this, and when -------------------------------------------------------------------------------------


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker_of(child: int) -> int:
    """The pid of the worker that an executor child belongs to: between them is a fork server."""
    return _parent(_parent(child))


def mark(folder: str, what: str) -> None:
    """Tells the test, in one step, that this attempt got so far, and in which process."""
    partial = Path(folder, f".{what}.{os.getpid()}")
    partial.write_text(str(os.getpid()))
    partial.replace(Path(folder, what))


def leave_line(folder: str, name: str) -> None:
    """Tells the test how often a task came here: a line for each time."""
    with open(Path(folder, name), "a") as file:
        file.write(f"{os.getpid()}\n")


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(POLL_S)


@task(timeout="5m")
def wait_at_first(folder: str) -> int:
    """The first attempt waits for the file "go", later ones do not. Returns the pid of its worker."""
    attempt = current().attempt
    worker = worker_of(os.getpid())
    mark(folder, f"started-{attempt}")
    if attempt == 1:
        wait_for(Path(folder, "go"))
    mark(folder, f"finished-{attempt}")
    return worker


@task(timeout="5m")
def hold(folder: str, number: int) -> int:
    """Waits for the file "go"."""
    mark(folder, f"started-{number}")
    wait_for(Path(folder, "go"))
    return number


@task
def hold_a_while(folder: str, seconds: float) -> float:
    mark(folder, "started-hold")
    time.sleep(seconds)
    return seconds


@task
def once(number: int, folder: str) -> int:
    """Leaves a line for each time it runs. Takes long enough to be alone at its slot."""
    time.sleep(0.03)
    leave_line(folder, f"ran-{number}")
    return number


@task(timeout="10m")
def sleep_long(seconds: float, folder: str) -> int:
    """Leaves a line for each time it begins. Returns its attempt."""
    leave_line(folder, "began")
    time.sleep(seconds)
    return current().attempt


@task(timeout="10m")
def keep_the_lock(seconds: int, folder: str) -> int:
    """Likewise, inside of C code that keeps the interpreter's lock: no other thread of its process runs."""
    leave_line(folder, "began")
    ctypes.PyDLL(None).sleep(seconds)
    return current().attempt


@task(queue="night")
def at_night(number: int) -> int:
    return -number


# -- what a task can do to its process ---------------------------------------------------------------------------


@task(timeout="5m")
def stop_when_asked(folder: str) -> str:
    """Looks whether it is cancelled, and cleans up."""
    mark(folder, "started-polite")
    while not current().cancelled:
        time.sleep(POLL_S)
    mark(folder, "cleaned-up")
    raise InterruptedError("asked to stop")


@task(soft_timeout=0.3, timeout="5m")
def finish_when_warned(folder: str) -> list[str]:
    """Catches the warning, and goes on for longer than its limit once more."""
    caught = []
    try:
        while True:
            try:
                time.sleep(POLL_S)
            except OSError:
                caught.append("taken for a failure of something that waits")
    except SoftTimeLimit as warning:
        caught.append(f"{type(warning).__name__}: {warning}")
    time.sleep(0.6)
    return caught


@task(soft_timeout=0.3, timeout="5m")
def ignore_the_warning(number: int) -> None:
    while True:
        time.sleep(POLL_S)


@task(soft_timeout=0.3, timeout="5m")
async def wait_asynchronously(number: int) -> None:
    await asyncio.sleep(60)


@task(soft_timeout=0.3, timeout="5m")
async def wait_busily(number: int) -> None:
    """Its loop is never at rest: most of the time is spent in callbacks of others."""

    async def work() -> None:
        while True:
            sum(range(20_000))
            await asyncio.sleep(0)

    await asyncio.gather(work(), work(), work())


@task(soft_timeout=0.3, timeout="5m")
async def clean_up_asynchronously(number: int) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "cleaned up"
    return "nobody said anything"


@task(timeout="5m")
def stop_at_sigterm(folder: str) -> None:
    """Looks at nothing; its handler says when SIGTERM came."""
    signal.signal(signal.SIGTERM, lambda number, frame: (mark(folder, "terminated"), sys.exit(0)))
    mark(folder, "started-rude")
    while True:
        time.sleep(POLL_S)


@task(timeout="5m")
def never_stop(folder: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: mark(folder, "terminated"))
    mark(folder, "started-deaf")
    while True:
        time.sleep(POLL_S)


class Flaky(ConnectionError):
    """What goes better the next time, perhaps."""


@task(retry=Backoff(times=3, first=0.05, on=(ConnectionError,)))
def fail_at_first(failures: int) -> int:
    """Returns the attempt that went well."""
    if current().attempt <= failures:
        raise Flaky(f"attempt {current().attempt}")
    return current().attempt


@task
def fail(message: str) -> None:
    raise ValueError(message)


@task
def fail_at_length(number: int, depth: int = 60) -> None:
    """Leaves as much evidence as an exception may."""
    if depth:
        fail_at_length(number, depth - 1)
    raise ValueError(f"{number} " + "m" * 4_000)


class Strange(Exception):
    """Not one of Python's own."""


@task
def fail_strangely() -> None:
    raise Strange("there is no name for it")


@task
def exit_at_once(code: int) -> None:
    sys.stderr.write(f"last words of {current().attempt}\n")
    os._exit(code)


@task
def exit_until(path: str) -> str:
    """Ends its process until that file is there."""
    if not Path(path).exists():
        print("it is not there yet", flush=True)
        os._exit(7)
    return Path(path).read_text()


@task
def exit_politely(code: int) -> None:
    sys.stderr.write("goodbye\n")
    sys.exit(code)


@task
def exit_at_first(code: int) -> int:
    if current().attempt == 1:
        os._exit(code)
    return current().attempt


@task
def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def read_nothing() -> None:
    """A segmentation fault."""
    ctypes.string_at(0)


def backtrack() -> None:
    """A regular expression that backtracks for years inside of C code, which no signal handler can stop."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@task
def backtrack_forever() -> None:
    backtrack()


@task(timeout="5m")
def backtrack_at_first(folder: str) -> int:
    attempt = current().attempt
    mark(folder, f"started-{attempt}")
    if attempt == 1:
        backtrack()
    return attempt


@task
def print_much(megabytes: int) -> int:
    line = "x" * 1023 + "\n"
    for _ in range(megabytes * 512):
        sys.stdout.write(line)
        sys.stderr.write(line)
    return megabytes


@task
def print_much_and_exit(megabytes: int, code: int) -> None:
    print_much(megabytes)
    sys.stderr.write("the end\n")
    os._exit(code)


@task
def return_an_object() -> object:
    return object()


@task
def return_bytes(size: int) -> bytes:
    return bytes(size)


# -- how arguments and results travel ----------------------------------------------------------------------------


@dataclass
class Order:
    article: str
    pieces: int
    due: datetime


class Price(Struct, frozen=True):
    cents: int
    currency: str = "EUR"


class Invoice(Struct):
    total: Price
    sent: datetime
    lines: list[str]


@task
def bill(order: Order, price: Price, *, days: timedelta) -> Invoice:
    assert isinstance(order, Order) and isinstance(order.due, datetime)
    assert isinstance(price, Price) and isinstance(days, timedelta)
    total = Price(order.pieces * price.cents, price.currency)
    return Invoice(total, order.due + days, [f"{order.pieces} x {order.article}"])


@task
async def later(value: str) -> str:
    await asyncio.sleep(0.001)
    return value + "!"


@task(timeout="1m", name="tests:who")
def who() -> tuple[int, int, str, bool]:
    """What `current` says; and whether its deadline lies within the next minute."""
    task = current()
    left = (task.deadline - datetime.now(UTC)).total_seconds()
    return task.id, task.attempt, task.name, 0 < left <= 60


_kept: list[bytearray] = []


@task
def allocate_without_end() -> None:
    """At a pace that leaves a machine some seconds."""
    while True:
        _kept.append(bytearray(b"x") * 10_000_000)
        time.sleep(0.005)


@task
def leak(megabytes: int) -> int:
    """Leaves so much in memory, and returns the process."""
    _kept.append(bytearray(b"x") * (megabytes * 1_000_000))
    return os.getpid()


# -- restarts -----------------------------------------------------------------------------------------------------


@task
def append(number: int, folder: str, seconds: float) -> None:
    """Takes so long, and then notes its id and when it ended; a short line arrives whole or not at all."""
    time.sleep(seconds)
    with Path(folder, "appended").open("a") as file:
        file.write(f"{current().id} {time.monotonic()}\n")


@task
def version() -> str:
    return "one"


@task
def refuse(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


@task
def judge_all(outcomes: list[Outcome[int]]) -> tuple[int, list[str]]:
    """The sum of what there is, and why the others are not there."""
    values = [outcome.get() for outcome in outcomes if outcome.ok]
    return sum(values), sorted(outcome.error or outcome.state for outcome in outcomes if not outcome.ok)


@task
async def add_all(values: list[int]) -> int:
    return sum(values)
