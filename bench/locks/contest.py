"""What contenders do for a round, the same for all systems; and whether who holds the lock is alone."""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from bench.locks.figures import Share, Visit, share_of

# Before the round a holder stays for a while: who is let in too early meets somebody. In the round it stays for one
# turn of the loop: what is measured there is the lock.
WARM_HOLD_S = 0.001
NUMBER_BYTES = 20


class Contender(Protocol):
    """One user of one lock, with a connection of its own. Errors are the library's."""

    async def open(self, name: str) -> None: ...

    def lock(self) -> AbstractAsyncContextManager[int | None]:
        """Waits, holds, unlocks. What it gives is a number above those of all holders before, or None where the system
        has no such numbers."""

    async def close(self) -> None: ...


class NotExclusive(Exception):
    """Two held the lock at the same time, or a later holder had no higher number."""


class Door:
    """The way of one contender to what the lock protects: a file, which has the number of the last who was there.

    The kernel tells whether somebody else is in it, of this process or of another one.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)

    def enter(self, number: int | None) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotExclusive("two hold the lock at the same time") from None
        if number is None:
            return
        last = os.pread(self._file, NUMBER_BYTES, 0)
        if last and number <= int(last):
            raise NotExclusive(f"who holds the lock after number {int(last)} has number {number}")
        os.pwrite(self._file, b"%0*d" % (NUMBER_BYTES, number), 0)

    def leave(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


async def contest(
    contenders: Sequence[Contender],
    room: Path,
    warm_s: float,
    round_s: float,
    now: Callable[[], float] = time.perf_counter,
) -> Share:
    """All lock and unlock as often as they can, for `warm_s` and then `round_s` seconds. Raises what they do."""
    begin = now() + warm_s
    end = begin + round_s
    doors = [Door(room) for _ in contenders]

    async def cycles(contender: Contender, door: Door) -> list[Visit]:
        visits = []
        while (asked := now()) < end:
            async with contender.lock() as number:
                held = now()
                door.enter(number)
                await asyncio.sleep(WARM_HOLD_S if held < begin else 0)
                door.leave()
            visits.append(Visit(asked, held, now()))
        return visits

    tasks = [asyncio.create_task(cycles(*pair)) for pair in zip(contenders, doors, strict=True)]
    try:
        return share_of(await asyncio.gather(*tasks), begin, end)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for door in doors:
            door.close()
