"""Async tasks on a whole cluster: many in flight, one that kills them all, and a worker that is asked to stop."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import loop_tasks as tasks
import pytest
from cluster_rig import row, run, running, status_when, until

from cluster import Client, TaskDead
from cluster.local import LocalCluster, write_topology

AT_ONCE = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("async")
    topology = write_topology(folder, name="tests", modules=["loop_tasks"], workers=2, slots=1)
    text = topology.read_text().replace('["loop_tasks"]', f'["loop_tasks"]\nasync_tasks = {AT_ONCE}')
    topology.write_text(text)
    shutil.copy(Path(tasks.__file__), folder)
    with running(topology) as cluster:
        yield cluster


def test_as_many_are_in_flight_as_both_workers_may_have(cluster: LocalCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            batch = await client.map(tasks.meet, [str(tmp_path)] * 2 * AT_ONCE, count=2 * AT_ONCE)
            assert await batch.results(timeout=30) == batch.ids
            records = await client.records(batch.ids)
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}

    run(main())


def test_the_status_counts_what_is_in_flight_as_running(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handles = [await client.submit(tasks.look) for _ in range(20)]

            def all_run(status: dict) -> bool:
                return sum(worker["running"] for worker in status["workers"]) == 20

            status = await status_when(client, "all run", all_run)
            assert [worker["waiting"] for worker in status["workers"]] == [0, 0]
            await asyncio.gather(*(handle.cancel(grace=30) for handle in handles))
            assert [await handle for handle in handles] == ["stopped"] * 20

    run(main())


def test_one_that_kills_its_process_takes_the_others_with_it_once_and_is_dead_in_the_end(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            others = await client.map(tasks.nap, [0.5] * 10)
            culprit = await client.submit(tasks.die, str(tmp_path / "go"), 7)

            def all_run(status: dict) -> bool:
                return sum(worker["running"] for worker in status["workers"]) == 11

            await status_when(client, "all run", all_run)
            (tmp_path / "go").touch()
            with pytest.raises(TaskDead) as dead:
                await culprit.result(timeout=30)
            assert "exit code 7" in str(dead.value)
            assert await others.results(timeout=30) == [0.5] * 10
            records = await client.records(others.ids)
            assert {record.attempts for record in records} == {1, 2}, "suspected at one worker, not at the other"

    run(main())


def test_a_worker_that_is_asked_to_stop_finishes_the_coroutines_that_run(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            batch = await client.map(tasks.nap, [2.0] * 20)

            def all_run(status: dict) -> bool:
                return sum(worker["running"] for worker in status["workers"]) == 20

            status = await status_when(client, "all run", all_run)
            leaving = row(status["workers"], "w1")
            os.kill(leaving["pid"], signal.SIGTERM)
            asked = time.monotonic()
            after = await client.map(tasks.nap, [0.0] * 20)
            await after.results(timeout=10)
            assert time.monotonic() < asked + 1.5, "the other worker has them at once"
            assert await batch.results(timeout=30) == [2.0] * 20
            records = await client.records([*batch.ids, *after.ids])
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}
            await until("it has left", lambda: not Path(f"/proc/{leaving['pid']}").exists())

    run(main())
