"""How long a cluster is away: the longest gap between two confirmed submits when the leader dies or hangs.

Open loop: 2,000 submits a second leave on time whether or not earlier ones were confirmed.

    pytest bench/test_failover.py
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.nodes import whole_cluster
from bench.tasks import noop
from cluster import Client
from cluster.local import LocalCluster

RATE = 2_000                # submits a second
BEFORE_S, AFTER_S = 1.5, 4.0
TRIALS = 5


@pytest.fixture(scope="module")
def cluster(bench_folder: Path) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "failover") as running:
        yield running


async def longest_gap_s(topology: Path, number: signal.Signals) -> float:
    """Sends `number` to the leader under load; seconds between the two confirmations that lie furthest apart."""
    confirmed: list[float] = []

    async def one(client: Client) -> None:
        await client.submit(noop, b"x" * 100)
        confirmed.append(time.perf_counter())

    async with Client.connect(topology) as client:
        status = await client.status()
        leader = next(row["pid"] for row in status["brokers"] if row["node"] == status["leader"])
        start = time.perf_counter()
        killed = False
        waiting: set[asyncio.Task[None]] = set()
        sent = 0
        while (now := time.perf_counter() - start) < BEFORE_S + AFTER_S:
            if not killed and now >= BEFORE_S:
                killed = True
                os.kill(leader, number)
            for _ in range(int(now * RATE) - sent):
                task = asyncio.ensure_future(one(client))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                sent += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*waiting)
        if number == signal.SIGSTOP:
            os.kill(leader, signal.SIGCONT)
    assert len(confirmed) == sent, "every submit is confirmed in the end"
    return max(later - earlier for earlier, later in pairwise(confirmed))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_failover(benchmark: Any, cluster: LocalCluster, number: signal.Signals) -> None:
    gaps: list[float] = []

    def trial() -> None:
        gaps.append(uvloop.run(longest_gap_s(cluster.topology, number)))
        cluster.wait_for(lambda status: all(row["role"] in ("leader", "follower") for row in status["brokers"]))

    benchmark.pedantic(trial, rounds=TRIALS)
    median, longest = statistics.median(gaps), max(gaps)
    benchmark.extra_info.update(
        gap_s_median=round(median, 3), gap_s_max=round(longest, 3), gaps_s=[round(gap, 3) for gap in gaps]
    )
    print(f"\nleader {number.name}: longest gap median {median:.3f} s, max {longest:.3f} s of {len(gaps)}")
