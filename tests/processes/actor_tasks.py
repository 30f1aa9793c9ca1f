"""Task actors that behave, and some that do not. Files in a folder tell the test what became of an instance."""

import asyncio
import os
import time
from pathlib import Path

from cluster import SoftTimeLimit, TaskActor, current, method


class Counter(TaskActor, timeout="1m"):
    """Counts its calls, and says who it is."""

    def __init__(self) -> None:
        self.total = 0
        self.folder = ""

    def add(self, number: int) -> tuple[int, int]:
        """The new total, and the process that has it."""
        self.total += number
        return self.total, os.getpid()

    async def add_later(self, number: int) -> tuple[int, int]:
        before = self.total
        await asyncio.sleep(0.001)
        assert self.total == before, "one task at a time"
        self.total = before + number
        return self.total, os.getpid()

    def who(self) -> tuple[str, int, str]:
        return self.context.key, self.context.epoch, current().name

    def fail(self, message: str) -> None:
        raise ValueError(message)

    def start_afresh(self) -> None:
        self.context.restart()

    def leave_word(self, folder: str) -> None:
        """When it is stopped, `stopped-KEY` is written there."""
        self.folder = folder

    def stopped(self) -> None:
        if self.folder:
            Path(self.folder, f"stopped-{self.context.key}").write_text(str(self.total))

    def exit(self, code: int) -> None:
        os._exit(code)

    @method(timeout="10m")
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class AlsoCounter(Counter):
    """A class with tasks and instances of its own."""


class Picky(TaskActor):
    """Starts if the file `ready` is there. Its key is the folder, so it is for keyed calls only."""

    async def started(self) -> None:
        await asyncio.sleep(0)
        folder = Path(self.context.key)
        with open(folder / "starts", "a") as file:
            file.write("x")
        if not (folder / "ready").exists():
            raise FileNotFoundError(f"no file ready in {folder}")

    def starts(self) -> int:
        return len(Path(self.context.key, "starts").read_text())


class Slow(TaskActor):
    """Takes long to start, but heeds a soft time limit."""

    def started(self) -> None:
        try:
            time.sleep(60)
        except SoftTimeLimit as error:
            raise ValueError("interrupted") from error

    def work(self) -> None: ...


class Lingering(TaskActor):
    """Its end takes a while. The folder that it is told gets a line for the beginning and end of each instance."""

    folder = ""

    def begin(self, folder: str) -> int:
        self.folder = folder
        self._say("began")
        return os.getpid()

    def stopped(self) -> None:
        if self.folder:
            time.sleep(0.3)
            self._say("ended")

    def _say(self, what: str) -> None:
        with Path(self.folder, "lives").open("a") as lives:
            lives.write(f"{what} {os.getpid()}\n")
