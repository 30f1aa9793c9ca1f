"""Many tasks that wait: memory, the longest turn of a loop, and how long a broker takes to come back with them.

    pytest bench/test_pending.py --benchmark-only -s [--pending 1000000]

The brokers run without workers while tasks are submitted; one broker is killed and started again under them; then two
workers drain everything. With `--compact-mib` the logs become snapshots earlier than by default, so that compactions
fall into the run.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.nodes import BROKERS, Nodes, status_when
from bench.tasks import noop
from bench.watch import Watcher, pss_mb
from cluster import Client
from cluster.compaction.policy import MIB, CompactionLimits
from cluster.local import write_topology
from cluster.peer.config import BrokerLimits

PAYLOAD = b"x" * 100
SUBMITTED_AT_ONCE = 100_000


@pytest.fixture
def nodes(bench_folder: Path, request: Any) -> Iterator[Nodes]:
    folder = bench_folder / "pending"
    shutil.rmtree(folder, ignore_errors=True)
    topology = write_topology(folder, name="pending", modules=["bench.tasks"])
    compaction = CompactionLimits()
    if mib := request.config.getoption("--compact-mib"):
        compaction = CompactionLimits(log_bytes_min=mib * MIB)
    running = Nodes(topology, BrokerLimits(compaction=compaction))
    yield running
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def pend(nodes: Nodes, count: int) -> dict[str, Any]:
    for name in BROKERS:
        nodes.start(name)
    async with Client.connect(nodes.topology) as client:
        watcher = Watcher(nodes.topology, lambda: 0)
        watcher.start()
        start = time.perf_counter()
        batches = [await client.map(noop, [PAYLOAD] * SUBMITTED_AT_ONCE) for _ in range(count // SUBMITTED_AT_ONCE)]
        submitted_s = time.perf_counter() - start
        status = await status_when(client, lambda status: status["queues"][0]["ready"] == count)
        pids = {row["node"]: row["pid"] for row in status["brokers"]}
        memory = {name: round(pss_mb(pid), 1) for name, pid in pids.items()}

        victim = next(name for name in BROKERS if name != status["leader"])
        nodes.kill(victim)
        start = time.perf_counter()
        nodes.start(victim)

        def votes(status: dict[str, Any]) -> bool:
            row = next(row for row in status["brokers"] if row["node"] == victim)
            return row["pid"] not in (None, pids[victim]) and row["role"] == "follower"

        await status_when(client, votes)
        restart_s = time.perf_counter() - start

        start = time.perf_counter()
        for name in ("w1", "w2"):
            nodes.start(name)
        for batch in batches:
            await batch
        drained_s = time.perf_counter() - start
        await watcher.stop()
    return {
        "pending": count,
        "submitted_per_s": round(count / submitted_s),
        "drained_per_s": round(count / drained_s),
        "pss_mb": memory,
        "restart_until_it_votes_s": round(restart_s, 2),
        "turn_ms_max": max(value for sample in watcher.samples for value in sample.turn_ms if value is not None),
        "compactions": {node: len(indexes) for node, indexes in sorted(watcher.compactions.items())},
    }


def test_pending(benchmark: Any, nodes: Nodes, request: Any) -> None:
    reports: list[dict[str, Any]] = []
    count = request.config.getoption("--pending")
    benchmark.pedantic(lambda: reports.append(uvloop.run(pend(nodes, count))), rounds=1)
    benchmark.extra_info.update(reports[0])
    print(f"\n{json.dumps(reports[0], indent=1)}")
