"""How much of the time slots work: tasks that sleep, on two slots, and what lies between the end of one and the next.

    pytest bench/test_slots.py --benchmark-only -s
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.nodes import whole_cluster
from bench.tasks import nap
from cluster import Client
from cluster.local import LocalCluster

SLOTS = 2
SECONDS = 6.0               # of work for each slot
EDGE = 0.1                  # of the run at each end, which is not looked at: slots fill and run dry one after the other
WARM_UP = 40


@pytest.fixture(scope="module")
def cluster(bench_folder: Path) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "slots") as running:
        yield running


async def spans(topology: Path, milliseconds: float) -> list[tuple[float, float]]:
    """When each task began and ended, in seconds of the clock that all processes share."""
    async with Client.connect(topology) as client:
        await (await client.map(nap, [milliseconds] * WARM_UP))
        return await (await client.map(nap, [milliseconds] * int(SLOTS * SECONDS * 1e3 / milliseconds)))


def busy(taken: list[tuple[float, float]]) -> float:
    """The part of the slots' time in which a task ran, away from both ends of the run."""
    first, last = min(start for start, _ in taken), max(end for _, end in taken)
    low, high = first + (last - first) * EDGE, last - (last - first) * EDGE
    ran = sum(max(0.0, min(end, high) - max(start, low)) for start, end in taken)
    return ran / (SLOTS * (high - low))


@pytest.mark.parametrize("milliseconds", [0.2, 0.5, 1, 10, 100])
def test_slots_are_busy(benchmark: Any, cluster: LocalCluster, milliseconds: float) -> None:
    taken: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: taken.extend(uvloop.run(spans(cluster.topology, milliseconds))), rounds=1)
    share = busy(taken)
    benchmark.extra_info["busy_share"] = round(share, 4)
    print(f"\ntasks of {milliseconds} ms: slots are busy for {share:.1%} of the time")
