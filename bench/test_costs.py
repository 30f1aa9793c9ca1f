"""What a task costs under circumstances: many others that wait, priorities, delays, retries.

    pytest bench/test_costs.py --benchmark-only -s [--tasks 100000]

Each figure is compared with plain tasks on the same cluster, a moment before: the machine is not the same for long.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.cpu import Meter
from bench.nodes import whole_cluster
from bench.tasks import fails_once, noop
from cluster import Backoff, Client
from cluster.local import LocalCluster

PAYLOAD = b"x" * 100
WARM_UP = 5_000
ROUNDS = 3
PRIORITIES = 10
NOWHERE = "nobody-serves-this"      # a queue: what is submitted to it waits

Work = Callable[[Client, int], Awaitable[object]]


@pytest.fixture
def cluster(bench_folder: Path) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "costs") as running:
        yield running


async def plain(client: Client, tasks: int) -> None:
    await (await client.map(noop, [PAYLOAD] * tasks))


async def priorities(client: Client, tasks: int) -> None:
    share = [PAYLOAD] * (tasks // PRIORITIES)
    batches = [await client.map(noop.options(priority=priority), share) for priority in range(PRIORITIES)]
    for batch in batches:
        await batch


async def delays(client: Client, tasks: int) -> None:
    await (await client.map(noop.options(delay="1ms"), [PAYLOAD] * tasks))


async def retries(client: Client, tasks: int) -> None:
    rule = Backoff(times=1, first="1ms", jitter=False)
    await (await client.map(fails_once.options(retry=rule), [PAYLOAD] * tasks))


async def compare(cluster: LocalCluster, work: Work, tasks: int) -> dict[str, Any]:
    """`us` and `ratio` are of wall time; `processor_us` is that of `work` alone, by role."""
    async with Client.connect(cluster.topology) as client:
        await plain(client, WARM_UP)
        meter = Meter(await client.status())
        ratios, seconds = [], []
        spent: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            base = await timed(plain, client, tasks)
            meter.start()
            seconds.append(await timed(work, client, tasks))
            spent.append(meter.us_per_task(tasks))
            ratios.append(seconds[-1] / base)
    return {
        "us": round(statistics.median(seconds) * 1e6 / tasks, 1),
        "ratio": round(statistics.median(ratios), 2),
        "processor_us": {role: statistics.median(row[role] for row in spent) for role in spent[0]},
    }


async def timed(work: Work, client: Client, tasks: int) -> float:
    start = time.perf_counter()
    await work(client, tasks)
    return time.perf_counter() - start


@pytest.mark.parametrize("work", [priorities, delays, retries], ids=lambda work: work.__name__)
def test_cost_of_an_option(benchmark: Any, cluster: LocalCluster, work: Work, request: Any) -> None:
    tasks = request.config.getoption("--tasks")
    found: dict[str, Any] = {}
    benchmark.pedantic(lambda: found.update(uvloop.run(compare(cluster, work, tasks))), rounds=1)
    benchmark.extra_info.update(found)
    print(f"\n{work.__name__}: {found['us']} us per task, {found['ratio']} of plain ones; {found['processor_us']}")


@pytest.mark.parametrize("waiting", [1_000, 100_000, 1_000_000])
def test_cost_of_a_task_beside_others_that_wait(
    benchmark: Any, cluster: LocalCluster, waiting: int, request: Any
) -> None:
    tasks = request.config.getoption("--tasks")

    async def run() -> dict[str, Any]:
        async with Client.connect(cluster.topology) as client:
            await plain(client, WARM_UP)
            before = statistics.median([await timed(plain, client, tasks) for _ in range(ROUNDS)])
            await client.map(noop.options(queue=NOWHERE), [PAYLOAD] * waiting)
            after = statistics.median([await timed(plain, client, tasks) for _ in range(ROUNDS)])
        return {"us": round(after * 1e6 / tasks, 1), "ratio": round(after / before, 2)}

    found: dict[str, Any] = {}
    benchmark.pedantic(lambda: found.update(uvloop.run(run())), rounds=1)
    benchmark.extra_info.update(found)
    print(f"\nbeside {waiting:,} that wait: {found['us']} us per task, {found['ratio']} of what it was without them")
