"""Constant load for minutes: does anything grow, pause or slow down while logs become snapshots?

    pytest bench/test_endurance.py --benchmark-only -s [--endurance-seconds 120] [--plot docs/images/endurance.svg]

The load is that of `test_task_queue.py` by `map`; it goes on until every broker has compacted twice. Its rate is
compared with the mean of two short runs, one before it and one behind it, each with a cluster of its own: in two
minutes the machine may become another one.
"""

import asyncio
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from bench.load import Load
from bench.nodes import whole_cluster
from bench.plot import plot_endurance
from bench.watch import Gaps, Watcher
from cluster import Client

BATCH = 50_000
SHORT_TASKS = 400_000
LONGEST_S = 900.0           # however long two compactions take
GRACE_S = 60.0
LOOK_S = 0.005


async def short_run(topology: Path) -> float:
    """Tasks per second of a cluster that has just begun."""
    async with Client.connect(topology) as client:
        load = Load(client, BATCH)
        await load.run(lambda: load.finished < BATCH)           # warm
        before = load.finished
        return await load.run(lambda: load.finished < before + SHORT_TASKS)


def short_rate(folder: Path) -> float:
    with whole_cluster(folder) as running:
        return uvloop.run(short_run(running.topology))


async def endure(topology: Path, seconds: float) -> dict[str, Any]:
    async with Client.connect(topology) as client:
        load = Load(client, BATCH)
        await load.run(lambda: load.finished < BATCH)           # warm

        gaps = Gaps()
        watcher = Watcher(topology, lambda: load.finished)
        watcher.start()
        start = time.perf_counter()

        def goes_on() -> bool:
            took = time.perf_counter() - start
            compacted = min((len(indexes) for indexes in watcher.compactions.values()), default=0)
            return took < LONGEST_S and (took < seconds or len(watcher.compactions) < 3 or compacted < 2)

        async def look() -> None:
            while True:
                gaps.look(load.finished)
                await asyncio.sleep(LOOK_S)

        looking = asyncio.ensure_future(look())
        rate = await load.run(goes_on)
        took = time.perf_counter() - start
        looking.cancel()
        await watcher.stop()
    samples = watcher.samples
    half = [sample for sample in samples if sample.at_s >= took / 2]
    spans = []
    for broker in range(3):
        memory = [sample.pss_mb[broker] for sample in half]
        known = [value for value in memory if value is not None]
        spans.append(round(max(known) / min(known) - 1, 3))
    return {
        "seconds": round(took, 1),
        "rate": round(rate),
        "longest_gap_ms": round(gaps.longest_s * 1e3),
        "turn_ms_max": max(value for sample in samples for value in sample.turn_ms if value is not None),
        "pss_mb_end": samples[-1].pss_mb,
        "pss_growth_second_half": spans,
        "disk_mb_max": max(max(sample.disk_mb) for sample in samples),
        "compactions": {node: len(indexes) for node, indexes in sorted(watcher.compactions.items())},
        "samples": [asdict(sample) for sample in samples],
    }


def test_endurance(benchmark: Any, bench_folder: Path, request: Any) -> None:
    reports: list[dict[str, Any]] = []
    seconds = request.config.getoption("--endurance-seconds")
    folder = bench_folder / "endurance"

    async def bounded(topology: Path) -> dict[str, Any]:
        async with asyncio.timeout(LONGEST_S + GRACE_S):
            return await endure(topology, seconds)

    short = [short_rate(folder)]
    with whole_cluster(folder) as cluster:
        benchmark.pedantic(lambda: reports.append(uvloop.run(bounded(cluster.topology))), rounds=1)
    short.append(short_rate(folder))
    (report,) = reports
    report["short_rates"] = [round(rate) for rate in short]
    report["rate_ratio"] = round(report["rate"] / statistics.mean(short), 3)
    (bench_folder / "endurance.json").write_text(json.dumps(report))
    figures = {key: value for key, value in report.items() if key != "samples"}
    benchmark.extra_info.update(figures)
    if target := request.config.getoption("--plot"):
        plot_endurance(report, Path(target))
    print(f"\n{json.dumps(figures, indent=1)}")
    assert min(report["compactions"].values()) >= 2
