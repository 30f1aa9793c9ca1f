"""Schedules on real processes: a module with `@every` is all that it takes."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cluster_rig import running, wait_until

from cluster.local import LocalCluster, write_topology

MODULE = "schedule_tasks"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("scheduled")
    topology = write_topology(folder, name="scheduled", modules=[MODULE], workers=2, slots=2)
    shutil.copy(Path(__file__).with_name(f"{MODULE}.py"), folder)
    with running(topology) as started:
        yield started


def slots_in(file: Path) -> list[datetime]:
    return [datetime.fromisoformat(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("name", ["ticks", "loop"])
def test_a_task_of_every_second_runs_once_for_each_second(cluster, name):
    file = cluster.topology.with_name(name)
    wait_until("five runs", lambda: len(slots_in(file)) >= 5)
    slots = slots_in(file)
    assert all(slot.microsecond == 0 and slot.utcoffset() == timedelta(0) for slot in slots)
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in pairwise(slots))
    assert abs(datetime.now(UTC) - slots[-1]) < timedelta(seconds=3)
