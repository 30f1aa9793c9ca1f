"""This process as the operating system sees it: its id, its signals, its memory."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable

from actors.runtime.ports import SECOND, Clock, Nanos

GC_THRESHOLDS = (50_000, 20, 100)       # allocations before a young collection; hot paths make few cycles
GC_NO_OLD = 1_000_000_000               # young collections before one of everything: never
IDLE_LOOK: Nanos = 5 * SECOND
BUSY_MAX: Nanos = 3_600 * SECOND        # without an idle moment, then everything is collected all the same


def process_id() -> int:
    return os.getpid()


def on_terminate(stop: Callable[[], None], *, interrupt: bool = False) -> None:
    """Calls `stop` on the running loop when SIGTERM comes (and SIGINT, with `interrupt`)."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    if interrupt:
        loop.add_signal_handler(signal.SIGINT, stop)


def freeze_memory() -> None:
    """What is loaded now stays for the life of the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def collect_when_idle(clock: Clock, work_done: Callable[[], int]) -> None:
    """Collects everything in idle moments only: with much in memory that holds a loop for tens of milliseconds.

    `work_done()` is a count that grows while there is work; a moment is idle if it has not grown for IDLE_LOOK. Young
    collections, which take less than one, go on by themselves. Call it once, after `freeze_memory`.
    """
    young, middle, _ = GC_THRESHOLDS
    gc.set_threshold(young, middle, GC_NO_OLD)
    seen, collected_at, is_clean = work_done(), clock.now(), True

    def look() -> None:
        nonlocal seen, collected_at, is_clean
        clock.call_at(clock.now() + IDLE_LOOK, look)
        count = work_done()
        is_idle, seen = count == seen, count
        if not is_idle:
            is_clean = False
        if not is_clean and (is_idle or clock.now() - collected_at > BUSY_MAX):
            gc.collect()
            collected_at, is_clean = clock.now(), is_idle

    clock.call_at(clock.now() + IDLE_LOOK, look)
