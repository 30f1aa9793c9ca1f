"""What an idle cluster costs: memory (PSS) and processor time of each process over a minute.

    pytest bench/test_idle.py [--idle-seconds 60]
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.nodes import whole_cluster
from bench.watch import pss_mb
from cluster.local import LocalCluster

SETTLE_S = 3.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def cluster(bench_folder: Path) -> Iterator[LocalCluster]:
    with whole_cluster(bench_folder / "idle") as running:
        yield running


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def children_of(pid: int) -> list[int]:
    """All descendants: a worker's fork server and its executor children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children_of(int(child))]
    return found


def test_idle(benchmark: Any, cluster: LocalCluster, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--idle-seconds")
    time.sleep(SETTLE_S)
    status = cluster.status()
    time.sleep(SETTLE_S)
    rows = {f"broker {row['node']}": [row["pid"]] for row in status["brokers"]}
    rows |= {f"worker {row['node']}": [row["pid"], *children_of(row["pid"])] for row in status["workers"]}
    before = {name: sum(map(cpu_s, pids)) for name, pids in rows.items()}
    benchmark.pedantic(lambda: time.sleep(seconds), rounds=1)
    figures = {
        name: {
            "pss_mb": round(sum(map(pss_mb, pids)), 1),
            "processes": len(pids),
            "cpu_percent": round((sum(map(cpu_s, pids)) - before[name]) / seconds * 100, 2),
        }
        for name, pids in rows.items()
    }
    benchmark.extra_info.update(figures)
    for name, row in figures.items():
        print(f"\n{name}: {row['pss_mb']} MB PSS in {row['processes']} processes, {row['cpu_percent']} % of a core")
