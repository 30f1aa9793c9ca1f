"""A cluster watched from outside while it works: what its brokers say of themselves, their memory, their disks."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Client, ClusterError

MIB = 1024 * 1024
INTERVAL_S = 2.0            # to read the memory of a large process takes it 10 ms of its own


@dataclass(slots=True)
class Sample:
    """One moment. Lists are per broker, in the order of the topology; what cannot be read is None."""

    at_s: float
    finished: int
    pss_mb: list[float | None]
    disk_mb: list[float]
    turn_ms: list[int | None]       # longest turn of the last minute
    applied: list[int | None]
    snapshots: list[int | None]     # index of the newest


def pss_mb(pid: int) -> float:
    """Proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss line")


def disk_mb(folder: Path) -> float:
    """Blocks that the files below a folder take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue            # a segment or snapshot that has just left
    return total / MIB


@dataclass(slots=True)
class Watcher:
    """Samples every INTERVAL_S seconds until it is stopped. `finished()` is the count that the load keeps."""

    topology: Path
    finished: Any
    samples: list[Sample] = field(default_factory=list)
    compactions: dict[str, set[int]] = field(default_factory=dict)      # broker -> indexes of its snapshots
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        start = time.perf_counter()
        async with Client.connect(self.topology, require_leader=False, only_looks=True, deadline=5.0) as client:
            while True:
                try:
                    status = await client.status(stale=True)
                except ClusterError:
                    await asyncio.sleep(INTERVAL_S)
                    continue
                self.take(time.perf_counter() - start, status)
                await asyncio.sleep(INTERVAL_S)

    def take(self, at_s: float, status: dict[str, Any]) -> None:
        rows = status["brokers"]
        for row in rows:
            if row.get("snapshot_index"):
                self.compactions.setdefault(row["node"], set()).add(row["snapshot_index"])
        data = self.topology.parent / "data"
        self.samples.append(
            Sample(
                round(at_s, 2),
                self.finished(),
                [round(pss_mb(row["pid"]), 1) if row["pid"] else None for row in rows],
                [round(disk_mb(data / row["node"]), 1) for row in rows],
                [row.get("turn_ms_max") for row in rows],
                [row["applied_index"] for row in rows],
                [row.get("snapshot_index") for row in rows],
            )
        )


class Gaps:
    """The longest time in which a count did not grow, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._count = -1
        self._grew_at = time.perf_counter()

    def look(self, count: int) -> None:
        now = time.perf_counter()
        if count != self._count:
            self.longest_s = max(self.longest_s, now - self._grew_at)
            self._count, self._grew_at = count, now
