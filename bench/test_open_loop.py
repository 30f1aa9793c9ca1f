"""Latency under a load that does not wait: tasks are submitted by the clock, whether earlier ones have ended or not.

    pytest bench/test_open_loop.py --benchmark-only -s [--rate 10000] [--open-loop-seconds 10]

The latency of a task counts from the moment at which it was due, not from the one at which the client came to submit
it, so that a stall is charged to everything that was due in it.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.nodes import whole_cluster
from bench.tasks import noop
from cluster import Client
from cluster.local import LocalCluster

PAYLOAD = b"x" * 100
WARM_UP = 20_000
ROUNDS = 3
BEAT_S = 0.001          # what is due in one beat is submitted together


@pytest.fixture(scope="module")
def cluster(bench_folder: Path) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "open_loop") as running:
        yield running


async def open_loop(topology: Path, rate: int, seconds: float) -> list[float]:
    """Milliseconds from the due moment to the result, sorted."""
    async with Client.connect(topology) as client:
        await (await client.map(noop, [PAYLOAD] * WARM_UP))
        taken: list[float] = []

        async def one(due: float) -> None:
            await (await client.submit(noop, PAYLOAD))
            taken.append((time.perf_counter() - due) * 1e3)

        running: set[asyncio.Task[None]] = set()        # no more than are under way: a collector would visit them all
        start = time.perf_counter()
        count, total = 0, int(rate * seconds)
        while count < total:
            now = time.perf_counter() - start
            until = min(int(now * rate), total)
            for number in range(count, until):
                task = asyncio.ensure_future(one(start + number / rate))
                running.add(task)
                task.add_done_callback(running.discard)
            count = until
            await asyncio.sleep(BEAT_S)
        await asyncio.gather(*running)
    return sorted(taken)


def test_latency_at_a_constant_rate(benchmark: Any, cluster: LocalCluster, request: Any) -> None:
    rate = request.config.getoption("--rate")
    seconds = request.config.getoption("--open-loop-seconds")
    rounds: list[list[float]] = []
    benchmark.pedantic(
        lambda: rounds.append(uvloop.run(open_loop(cluster.topology, rate, seconds))), rounds=ROUNDS
    )
    p50, p99 = ([round(row[int(len(row) * part)], 2) for row in rounds] for part in (0.5, 0.99))
    median = {"p50_ms": statistics.median(p50), "p99_ms": statistics.median(p99)}
    benchmark.extra_info.update(rate=rate, p99_ms_all=p99, **median)
    print(f"\nopen loop, {rate:,} tasks/s: {median}, p99 of the rounds {p99}")
