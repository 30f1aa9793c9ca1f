"""Async tasks that mostly wait: many at once in the event loop of a worker, or one at a time in each of its slots.

    pytest bench/test_async_tasks.py [--async-tasks 2000]

Three brokers with synced logs, one worker of two slots, one client, everything on this machine. Each task sleeps for a
tenth of a second, so the loop needs at least tasks / 200 * 0.1 s, the slots tasks / 2 * 0.1 s; they get a twentieth of
the tasks. Figures go to `extra_info` (`--benchmark-json FILE`).
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.naps import nap
from cluster import Client
from cluster.local import LocalCluster, write_topology
from cluster.topology import ASYNC_TASKS_DEFAULT

SLOTS = 2
SLEEP_S = 0.1
WARM_UP = 200
SLOTS_SHARE = 20


@contextmanager
def one_worker(folder: Path, async_tasks: int) -> Iterator[LocalCluster]:
    shutil.rmtree(folder, ignore_errors=True)
    topology = write_topology(folder, name="bench", modules=["bench.naps"], workers=1, slots=SLOTS)
    with topology.open("a") as file:
        file.write(f"async_tasks = {async_tasks}\n")
    with LocalCluster(topology, log=folder / "launch.log") as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


async def seconds_for(topology: Path, tasks: int) -> float:
    async with Client.connect(topology) as client:
        await (await client.map(nap, [0.0] * WARM_UP))
        start = time.perf_counter()
        results = await (await client.map(nap, [SLEEP_S] * tasks))
        seconds = time.perf_counter() - start
    assert results == [SLEEP_S] * tasks
    return seconds


@pytest.mark.parametrize("async_tasks", [ASYNC_TASKS_DEFAULT, 0], ids=["loop", "slots"])
def test_async_tasks(benchmark: Any, bench_folder: Path, request: pytest.FixtureRequest, async_tasks: int) -> None:
    tasks = request.config.getoption("--async-tasks") // (1 if async_tasks else SLOTS_SHARE)
    at_once = async_tasks or SLOTS
    with one_worker(bench_folder / "async_tasks", async_tasks) as cluster:
        rounds: list[float] = []
        benchmark.pedantic(
            lambda: rounds.append(asyncio.run(seconds_for(cluster.topology, tasks))), rounds=3, warmup_rounds=0
        )
    benchmark.extra_info.update(
        tasks=tasks,
        at_once=at_once,
        seconds=[round(seconds, 3) for seconds in rounds],
        least_seconds=round(tasks / at_once * SLEEP_S, 3),
        tasks_per_second=[round(tasks / seconds) for seconds in rounds],
    )
