"""This process as the operating system sees it: its id, its signals, its memory."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable

GC_THRESHOLDS = (50_000, 20, 100)       # allocations before a young collection; hot paths make few cycles


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
