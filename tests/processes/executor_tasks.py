"""Tasks that behave, and tasks that do to their process whatever a task can do to it."""

import asyncio
import mmap
import os
import re
import signal
import sys
import time

from cluster.task import current, task


@task
def add(left: int, right: int) -> int:
    return left + right


@task
def who() -> tuple[int, int, str]:
    return current().id, current().attempt, current().name


@task
async def later(value: str) -> str:
    await asyncio.sleep(0)
    return value


@task
def fail(message: str) -> None:
    raise ValueError(message)


@task
def fail_strangely() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    raise Odd


@task
def complain_then_exit(code: int) -> None:
    sys.stderr.write("last words\n")
    sys.exit(code)


@task
def exit_at_once(code: int) -> None:
    os._exit(code)


@task
def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


@task
def stubborn_loop() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sum(range(10**12))


@task
def catastrophe() -> None:
    """A regular expression that backtracks for years inside of C code."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@task
def print_much(megabytes: int) -> int:
    line = "x" * 1023 + "\n"
    for _ in range(megabytes * 512):
        sys.stdout.write(line)
        sys.stderr.write(line)
    sys.stderr.write("the end\n")
    return megabytes


@task
def print_much_then_die(megabytes: int) -> None:
    print_much(megabytes)
    os._exit(7)


@task
def unencodable() -> object:
    return object()


@task
def large(size: int) -> bytes:
    return bytes(size)


@task
def leave_a_grandchild() -> int:
    """The grandchild keeps the child's descriptors open after the child's death."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)        # it outlives the test, but not for long
        signal.pause()
    os._exit(5)


@task
def fork_and_come_back_twice(note: str) -> int:
    """What a user does who forgets that the copy must end itself."""
    pid = os.fork()
    if pid == 0:
        with open(note, "w") as file:
            file.write(str(os.getpid()))
        return -1
    os.waitpid(pid, 0)
    return os.getpid()


@task
def touch(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")


@task
def wait_for_file(path: str) -> None:
    while not os.path.exists(path):
        pass


@task
def pid() -> int:
    return os.getpid()


_leaked: list[bytearray] = []


@task
def leak(megabytes: int) -> int:
    """Leaves so much in memory, and returns the process."""
    _leaked.append(bytearray(b"x") * (megabytes * 1_000_000))
    return os.getpid()


@task
def need(megabytes: int, seconds: float) -> int:
    """Has so much in memory for a while and gives it back."""
    block = mmap.mmap(-1, megabytes * 1_000_000)
    for offset in range(0, len(block), mmap.PAGESIZE):
        block[offset] = 1
    time.sleep(seconds)
    block.close()
    return os.getpid()


@task
def allocate_without_end() -> None:
    """At a pace that leaves a machine some seconds."""
    while True:
        _leaked.append(bytearray(b"x") * 10_000_000)
        time.sleep(0.005)
