"""Tasks that say something while they run. The test copies this file beside its topology."""

import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from cluster import current, task


@task
def count(steps: int, pause_s: float) -> int:
    for step in range(steps):
        current().progress(step, steps)
        time.sleep(pause_s)
    return steps


@task
def log_and_return(lines: int) -> float:
    """Seconds that it took."""
    log = current().log
    began = time.monotonic()
    for number in range(lines):
        log.info("line %d", number)
    return time.monotonic() - began


@task
def log_and_die(lines: int) -> None:
    for number in range(lines):
        current().log.warning("line %d of attempt %d", number, current().attempt)
    os.kill(os.getpid(), 9)


@task
def log_and_hang() -> None:
    current().log.info("about to hang")
    time.sleep(600)


@task
def log_and_raise() -> None:
    log = current().log
    log.debug("not by default")
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("outer")
    log.info("odd \udc80 bytes")
    log.info("wrong %d", "arguments")
    raise RuntimeError("at last")


@task
def log_from_threads() -> None:
    log = current().log
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.info("from thread %d", number), range(8)))


@task
async def log_asynchronously() -> str:
    current().log.info("from a coroutine")
    current().progress(1)
    return logging.getLogger("cluster.task").name


@task
def progress_wrongly(kind: str) -> str:
    wrong = {"float": (0.5,), "bool": (True,), "negative": (-1, 3), "total": (1, 2.0), "huge": (1 << 63,)}
    try:
        current().progress(*wrong[kind])  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


@task
def cost_of_progress(calls: int) -> float:
    """Seconds of one call."""
    me = current()
    began = time.perf_counter()
    for number in range(calls):
        me.progress(number, calls)
    return (time.perf_counter() - began) / calls


@task
def say(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


@task
def shout(lines: int) -> None:
    for number in range(lines):
        print(f"shouting {number}")
