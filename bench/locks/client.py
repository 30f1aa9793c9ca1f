"""Some contenders of one system: `python -m bench.locks.client APP:CLASS FOLDER WARM_S ROUND_S`, in the environment
that has its library. They are tasks of this process, each with a connection of its own.

Requests and answers are those of `bench.peers.client`: {"do": NAME, "count": CONTENDERS}.
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from bench.locks.contest import Contender, contest
from bench.peers.client import answer


class Contenders:
    def __init__(self, make: Callable[[], Contender], folder: Path, warm_s: float, round_s: float) -> None:
        self._make = make
        self._folder = folder
        self._warm_s = warm_s
        self._round_s = round_s
        self._open: list[Contender] = []

    async def open(self, count: int) -> dict[str, Any]:
        """That many, in the place of those before, for another name."""
        while self._open:
            await self._open.pop().close()
        for _ in range(count):
            contender = self._make()
            await contender.open(f"lock-{count}")
            self._open.append(contender)
        return {}

    async def contend(self, count: int) -> dict[str, Any]:
        """A round of those that are open."""
        assert len(self._open) == count
        room = self._folder / f"room-{count}"
        return dataclasses.asdict(await contest(self._open, room, self._warm_s, self._round_s))


if __name__ == "__main__":
    app, _, kind = sys.argv[1].partition(":")
    make = getattr(importlib.import_module(f"bench.locks.apps.{app}"), kind)
    contenders = Contenders(make, Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    uvloop.run(answer({"open": contenders.open, "contend": contenders.contend}))
