"""A broker that was away for long: by the log, by a snapshot, and what the others do meanwhile.

    pytest bench/test_catch_up.py --benchmark-only -s

By the log: 900 MiB of it are written while the broker is down. By a snapshot: its data directory is emptied, while the
state holds 1.5 GiB of tasks that wait for their time and the others have cut their logs. The load meanwhile is that of
`test_task_queue.py` by `map`, compared with the same load before.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.load import Load
from bench.nodes import BROKERS, Nodes, status_when
from bench.tasks import noop
from cluster import Client
from cluster.compaction.policy import MIB, CompactionLimits
from cluster.local import write_topology
from cluster.peer.config import BrokerLimits

BATCH = 20_000
BASELINE_S = 15.0
LOG_MIB = 900
STATE_MIB = 1_536
LARGE = bytes(64 * 1024)
LARGE_AT_ONCE = 512
NEAR_ENTRIES = 64           # behind the leader: it has caught up


@pytest.fixture
def folder(bench_folder: Path) -> Iterator[Path]:
    folder = bench_folder / "catch_up"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def baseline(client: Client) -> float:
    load = Load(client, BATCH)
    await load.run(_for(2.0))
    return await load.run(_for(BASELINE_S))


def _for(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


async def come_back(nodes: Nodes, client: Client, victim: str) -> tuple[float, float]:
    """Starts `victim` under load; seconds until it has caught up, and the rate of the load until then."""
    nodes.start(victim)
    start = time.perf_counter()

    def is_near(status: dict[str, Any]) -> bool:
        rows = {row["node"]: row["applied_index"] or 0 for row in status["brokers"]}
        return rows[victim] > 0 and rows[victim] + NEAR_ENTRIES >= max(rows.values())

    near = asyncio.ensure_future(status_when(client, is_near))
    rate = await Load(client, BATCH).run(lambda: not near.done())
    await near
    return time.perf_counter() - start, rate


async def start_all(nodes: Nodes) -> None:
    for name in (*BROKERS, "w1", "w2"):
        nodes.start(name)


async def follower(client: Client) -> str:
    status = await status_when(client, lambda status: bool(status["leader"]) and len(status["workers"]) == 2)
    return next(name for name in BROKERS if name != status["leader"])


async def by_log(nodes: Nodes) -> dict[str, Any]:
    await start_all(nodes)
    async with Client.connect(nodes.topology) as client:
        victim = await follower(client)
        before = await baseline(client)
        nodes.kill(victim)
        for _ in range(LOG_MIB * MIB // (len(LARGE) * LARGE_AT_ONCE)):
            await (await client.map(noop, [LARGE] * LARGE_AT_ONCE))
        took, rate = await come_back(nodes, client, victim)
    return {"log_mib": LOG_MIB, "seconds": round(took, 1), "rate": round(rate), "rate_ratio": round(rate / before, 3)}


async def by_snapshot(nodes: Nodes) -> dict[str, Any]:
    await start_all(nodes)
    later = noop.options(delay="6h")
    async with Client.connect(nodes.topology) as client:
        victim = await follower(client)
        for _ in range(STATE_MIB * MIB // (len(LARGE) * LARGE_AT_ONCE)):
            await client.map(later, [LARGE] * LARGE_AT_ONCE)
        await status_when(client, lambda status: all((row["first_index"] or 0) > 1 for row in status["brokers"]))
        before = await baseline(client)
        nodes.kill(victim)
        shutil.rmtree(nodes.topology.parent / "data" / victim)
        took, rate = await come_back(nodes, client, victim)
        status = await client.status()
    row = next(row for row in status["brokers"] if row["node"] == victim)
    assert row["snapshot_index"], "it came by a snapshot"
    return {
        "state_mib": STATE_MIB,
        "seconds": round(took, 1),
        "rate": round(rate),
        "rate_ratio": round(rate / before, 3),
        "turn_ms_max": row["turn_ms_max"],
    }


@pytest.mark.parametrize(
    ("how", "limits"),
    [
        (by_log, BrokerLimits()),
        # With the default its log would be cut only after three times as much.
        (by_snapshot, BrokerLimits(compaction=CompactionLimits(state_factor=0))),
    ],
    ids=["log", "snapshot"],
)
def test_catch_up(benchmark: Any, folder: Path, how: Any, limits: BrokerLimits) -> None:
    nodes = Nodes(write_topology(folder, name="catch-up", modules=["bench.tasks"]), limits)
    reports: list[dict[str, Any]] = []
    try:
        benchmark.pedantic(lambda: reports.append(uvloop.run(how(nodes))), rounds=1)
    finally:
        nodes.stop()
    benchmark.extra_info.update(reports[0])
    print(f"\n{json.dumps(reports[0])}")
