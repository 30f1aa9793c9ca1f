"""Many delayed tasks: memory while they wait, and how fast they run once all of them are due.

    pytest bench/test_delayed.py --benchmark-only -s [--pending 1000000]

The cluster is whole from the beginning. Tasks are submitted in chunks, each to be due one second behind the chunk
before, and all of them behind the submitting. What becomes due in one second is more than two workers take, so that
from the first date on there is a backlog: the rate counts from then to the last end.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvloop

from bench.nodes import status_when, whole_cluster
from bench.tasks import noop
from bench.watch import Watcher, pss_mb
from cluster import Client
from cluster.local import LocalCluster

PAYLOAD = b"x" * 100
SUBMITTED_AT_ONCE = 100_000
LEAD = timedelta(seconds=20)        # from now to the first date, and as much again for each million


@pytest.fixture
def running(bench_folder: Any) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "delayed") as cluster:
        yield cluster


async def delay(cluster: LocalCluster, count: int) -> dict[str, Any]:
    chunks = count // SUBMITTED_AT_ONCE
    async with Client.connect(cluster.topology) as client:
        idle = {node: pss_mb(pid) for node, pid in await _pids(client)}
        watcher = Watcher(cluster.topology, lambda: 0)
        watcher.start()
        due = datetime.now(UTC) + LEAD * (1 + count / 1_000_000)
        start = time.perf_counter()
        batches = [
            await client.map(noop.options(at=due + timedelta(seconds=number)), [PAYLOAD] * SUBMITTED_AT_ONCE)
            for number in range(chunks)
        ]
        submitted_s = time.perf_counter() - start
        await status_when(client, lambda status: status["queues"][0]["delayed"] == count)
        assert datetime.now(UTC) < due, "the first was due before the last was submitted"
        memory = {node: pss_mb(pid) for node, pid in await _pids(client)}
        for batch in batches:
            await batch
        ended_s = (datetime.now(UTC) - due).total_seconds()
        await watcher.stop()
    return {
        "delayed": count,
        "submitted_per_s": round(count / submitted_s),
        "pss_mb": {node: round(size, 1) for node, size in memory.items()},
        "pss_mb_before": {node: round(size, 1) for node, size in idle.items()},
        "run_per_s": round(count / ended_s),
        "turn_ms_max": max(value for sample in watcher.samples for value in sample.turn_ms if value is not None),
    }


async def _pids(client: Client) -> list[tuple[str, int]]:
    """Of brokers and workers, which here have one name each."""
    status = await status_when(client, lambda status: all(row["pid"] for row in status["workers"]))
    return [(row["node"], row["pid"]) for kind in ("brokers", "workers") for row in status[kind]]


def test_delayed(benchmark: Any, running: LocalCluster, request: Any) -> None:
    reports: list[dict[str, Any]] = []
    count = request.config.getoption("--pending")
    benchmark.pedantic(lambda: reports.append(uvloop.run(delay(running, count))), rounds=1)
    benchmark.extra_info.update(reports[0])
    print(f"\n{json.dumps(reports[0], indent=1)}")
