"""Recycling and the memory limit of a worker, in a cluster, as its topology says."""

from pathlib import Path

import pytest
from cluster_rig import Status, make_topology, row, run, running, status_when
from cluster_tasks import add, allocate_without_end, leak

from cluster import Client, TaskDead


def topology_with(folder: Path, *lines: str) -> Path:
    path = make_topology(folder, brokers=1, workers=1)
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    return path


def test_children_are_replaced_after_three_tasks_without_a_loss(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client.connect(path) as client:
            batch = await client.map(leak, [0] * 30)
            pids = await batch.results(timeout=60)
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3] * 10
            assert {record.attempts for record in await client.records(batch.ids)} == {1}

            def has_successor(status: Status) -> bool:
                (child,) = row(status["workers"], "w1")["children"]
                return child not in pids

            await status_when(client, "the successor of the last child is there", has_successor)

    path = topology_with(tmp_path, "recycle_after = 3", "async_tasks = 0")     # the only child
    with running(path):
        run(main())
    log = path.with_name("launch.log").read_text()
    assert "child_recycled" in log and "child_lost" not in log


def test_a_child_that_leaks_is_replaced_and_a_task_that_takes_all_is_dead(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client.connect(path) as client:
            batch = await client.map(leak, [50] * 40)
            assert 3 <= len(set(await batch.results(timeout=60))) < 40
            assert {record.attempts for record in await client.records(batch.ids)} == {1}
            greedy = await client.submit(allocate_without_end)
            others = await client.map(add, range(50))
            with pytest.raises(TaskDead) as caught:
                await greedy.result(timeout=60)
            evidence = caught.value.evidence
            assert (evidence.type, evidence.signal) == ("MemoryLimitExceeded", 9)
            assert "more than its limit of 953.7 MiB" in evidence.message
            assert await others.results(timeout=60) == list(range(1, 51))
            assert {record.attempts for record in await client.records(others.ids)} == {1}

    path = topology_with(tmp_path, 'recycle_above = "200MB"', 'memory_limit = "1GB"')
    with running(path):
        run(main())
