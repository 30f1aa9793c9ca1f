"""A loop in a thread of its own, for callers that have none: they block, and it goes on between their calls."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopEnded(Exception):
    """The loop has been stopped, or is in another process: this one was forked from it."""


def runs_loop() -> bool:
    """Whether the calling thread runs an event loop: to block it would stop everything that it does."""
    return asyncio._get_running_loop() is not None


class LoopThread:
    """`start` it, `call` it from any thread, `stop` it. Its thread does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._started = threading.Event()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None     # while it takes calls
        self._ending: asyncio.Event | None = None
        self._calls: set[Future[Any]] = set()                   # that are not answered yet

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine that `make()` gives returns or raises; it runs on the loop. A caller that is interrupted
        (Ctrl-C) cancels it. Raises LoopEnded."""
        future = self.begin(make)
        try:
            return future.result()
        except CancelledError as error:
            raise LoopEnded from error
        finally:
            future.cancel()     # does nothing to one that has ended

    def begin(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Likewise, without waiting; it is cancelled when the loop is stopped. Raises LoopEnded."""
        if self.is_foreign:    # before the lock, which another thread may have held in the moment of the fork
            raise LoopEnded
        with self._lock:
            if self._loop is None:
                raise LoopEnded
            future = asyncio.run_coroutine_threadsafe(make(), self._loop)
            self._calls.add(future)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._calls.discard(future)

    @property
    def is_foreign(self) -> bool:
        """Of the process that this one was forked from: its thread is not here."""
        return os.getpid() != self._pid

    @property
    def runs_here(self) -> bool:
        """Whether the calling thread is the loop's."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Ends what is under way there (LoopEnded for its callers) and waits for the thread."""
        if self.is_foreign:
            return
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._ending is not None:
            loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()

    def _live(self) -> None:
        import uvloop

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._take_calls())
        finally:
            with self._lock:
                self._loop = None
                left = [*self._calls]
            for future in left:         # came too late for the loop to see them
                future.cancel()
            self._started.set()

    async def _take_calls(self) -> None:
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._started.set()
        await self._ending.wait()
