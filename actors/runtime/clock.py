"""The real clock: the kernel's time, and the turn of a running asyncio loop."""

import asyncio
import time
from collections.abc import Callable

from actors.runtime.ports import MILLISECOND, Cancel, Nanos

# Counts suspended time, so that a lease runs out while a laptop sleeps. Elsewhere than on Linux the monotonic
# clock is the nearest there is.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class LoopClock:
    """The Clock port over one asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> Nanos:
        return time.clock_gettime_ns(_CLOCK)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_soon(self, callback: Callable[[], None]) -> Cancel:
        return self._loop.call_soon(callback)

    def call_at(self, when: Nanos, callback: Callable[[], None]) -> Cancel:
        return _Timer(self._loop, when, callback)


class _Timer:
    """Loops round delays to milliseconds and may wake early; `when` is a promise, so it is checked."""

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: Nanos, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._when = when
        self._callback: Callable[[], None] | None = callback
        self._arm()

    def cancel(self) -> None:
        self._callback = None
        self._handle.cancel()

    def _arm(self) -> None:
        left = self._when - time.clock_gettime_ns(_CLOCK)
        # Whole milliseconds, rounded up: what is left of one would be rounded to none, and the loop would
        # spin for it.
        whole_ms = -(-max(left, 0) // MILLISECOND)
        self._handle: asyncio.Handle = self._loop.call_later(whole_ms / 1_000, self._fire)

    def _fire(self) -> None:
        callback = self._callback
        if callback is None:
            return
        if time.clock_gettime_ns(_CLOCK) < self._when:
            self._arm()
            return
        self._callback = None
        callback()
