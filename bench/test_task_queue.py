"""The whole pipeline: three brokers with synced logs, two workers of one slot, one client, everything on this machine.

    pytest bench/test_task_queue.py [--tasks 100000] [--slots 1]

Figures go to `extra_info` (`--benchmark-json FILE`), medians of the rounds to the table.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
import zmq

from bench.cpu import Meter
from bench.disk import file_system_of, sync_p50_ms
from bench.nodes import whole_cluster
from bench.tasks import noop
from cluster import Client
from cluster.local import LocalCluster

PAYLOAD = b"x" * 100
IN_FLIGHT = 16_384
SINGLES = 500
WARM_UP = 5_000


@pytest.fixture(scope="module")
def cluster(bench_folder: Path, request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "task_queue", slots=request.config.getoption("--slots")) as running:
        yield running


async def by_map(topology: Path, tasks: int) -> float:
    async with Client.connect(topology) as client:
        await (await client.map(noop, [PAYLOAD] * WARM_UP))
        start = time.perf_counter()
        batch = await client.map(noop, (PAYLOAD for _ in range(tasks)))
        results = await batch
        seconds = time.perf_counter() - start
    assert len(results) == tasks and not any(results)
    return tasks / seconds


async def by_gathered_submit(topology: Path, tasks: int) -> float:
    async with Client.connect(topology) as client:
        await (await client.map(noop, [PAYLOAD] * WARM_UP))
        left = iter(range(tasks))

        async def lane() -> None:
            """One place in flight: the next submit leaves when the result of the last one is here."""
            for _ in left:
                await (await client.submit(noop, PAYLOAD))

        start = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        return tasks / (time.perf_counter() - start)


async def singles(topology: Path, count: int) -> list[float]:
    """Milliseconds of `count` round trips, one after another."""
    async with Client.connect(topology) as client:
        await (await client.map(noop, [PAYLOAD] * WARM_UP))
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            await (await client.submit(noop, PAYLOAD))
            taken.append((time.perf_counter() - start) * 1e3)
    return sorted(taken)


def describe(benchmark: Any, cluster: LocalCluster, folder: Path) -> None:
    status = cluster.status()
    benchmark.extra_info.update(
        slots=sum(row["slots"] for row in status["workers"]),
        children=sum(len(row["children"]) for row in status["workers"]),
        transport=f"ZeroMQ {zmq.zmq_version()} over TCP loopback",
        file_system=file_system_of(folder),
        sync_p50_ms=sync_p50_ms(folder),
        sync_modes=[row["sync"] for row in status["brokers"]],
    )


@pytest.mark.parametrize("how", [by_map, by_gathered_submit], ids=["map", "submit"])
def test_throughput(benchmark: Any, cluster: LocalCluster, bench_folder: Path, how: Any, request: Any) -> None:
    tasks = request.config.getoption("--tasks")
    rates: list[float] = []
    rounds = request.config.getoption("--rounds")
    meter = Meter(cluster.status())
    meter.start()
    benchmark.pedantic(
        lambda: rates.append(uvloop.run(how(cluster.topology, tasks))), rounds=rounds
    )
    processor_us = meter.us_per_task(rounds * (tasks + WARM_UP))
    benchmark.extra_info["processor_us_per_task"] = processor_us
    benchmark.extra_info["tasks_per_second"] = round(statistics.median(rates))
    benchmark.extra_info["tasks_per_second_all"] = [round(rate) for rate in rates]
    describe(benchmark, cluster, bench_folder)
    print(f"\n{how.__name__}: {statistics.median(rates):,.0f} tasks/s (rounds {[round(rate) for rate in rates]})")
    print(f"processor time of a task, us: {processor_us}")


def test_single_round_trip(benchmark: Any, cluster: LocalCluster, bench_folder: Path) -> None:
    taken: list[list[float]] = []
    benchmark.pedantic(lambda: taken.append(uvloop.run(singles(cluster.topology, SINGLES))), rounds=3)
    p50 = statistics.median(row[len(row) // 2] for row in taken)
    p99 = statistics.median(row[int(len(row) * 0.99)] for row in taken)
    benchmark.extra_info.update(p50_ms=round(p50, 3), p99_ms=round(p99, 3))
    describe(benchmark, cluster, bench_folder)
    print(f"\nsingle round trip: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
