"""What is left when everything stops and starts again, and how soon a crashed node is replaced."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_rig import (
    Process,
    Status,
    children,
    descendants,
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    total,
    wait_until,
)
from cluster_tasks import add, at_night, fail

from cluster import Client, TaskFailed
from cluster.local import LocalCluster

REPLACED_S = 1.0        # far above what is expected, for busy machines; the figure is in the report


def test_state_survives_a_stop_and_start_of_everything(tmp_path: Path) -> None:
    topology = make_topology(tmp_path)

    async def first() -> tuple[list[int], int, list[int]]:
        async with Client.connect(topology) as client:
            done = await client.map(add, range(100))
            assert await done.results(timeout=30) == list(range(1, 101))
            failed = await client.submit(fail, "before the stop")
            with pytest.raises(TaskFailed, match="before the stop"):
                await failed.result(timeout=30)
            pending = await client.map(at_night, range(50))
            assert pending.progress[0] == 0, "no worker serves this queue yet"
            return done.ids, failed.id, pending.ids

    async def second(done: list[int], failed: int, pending: list[int]) -> None:
        async with Client.connect(topology) as client:
            assert [await client.handle(task).result(timeout=10) for task in done] == list(range(1, 101))
            with pytest.raises(TaskFailed, match="before the stop") as caught:
                await client.handle(failed).result(timeout=10)
            assert caught.value.type == "ValueError"
            assert "cluster_tasks.py" in caught.value.traceback
            results = [await client.handle(task).result(timeout=30) for task in pending]
            assert results == [-number for number in range(50)]
            records = await client.records([*done, failed, *pending])
            assert [record.state for record in records] == ["completed"] * 100 + ["failed"] + ["completed"] * 50
            assert {record.attempts for record in records} == {1}
            # New work of a new client gets new ids.
            batch = await client.map(add, range(10))
            assert await batch.results(timeout=30) == list(range(1, 11))
            assert not set(batch.ids) & {*done, failed, *pending}
            assert total(await client.status(), "completed") == 100 + 50 + 10

    with running(topology) as cluster:
        known = run(first())
        assert cluster.launch is not None
        everybody = descendants(cluster.launch.pid)
        assert cluster.stop() == 0
        assert not any(process.is_alive for process in everybody)
    text = topology.read_text()
    topology.write_text(text + 'queues = ["default", "night"]\n')        # of the last worker
    with running(topology) as cluster:
        run(second(*known))
        assert cluster.stop() == 0


@pytest.mark.parametrize("kind", ["worker", "broker"])
def test_a_crashed_node_is_replaced_at_once(
    cluster: LocalCluster, kind: str, figure: Callable[[str], None]
) -> None:
    """The first restart is at once; pauses grow only when a node keeps crashing."""
    assert cluster.launch is not None
    (server,) = children(cluster.launch.pid)
    name = "w2" if kind == "worker" else "b3"

    async def pid_of_node(other_than: int) -> int:
        def pid_in(status: Status) -> int:
            pid: int = row(status[f"{kind}s"], name)["pid"]
            return pid

        async with Client.connect(cluster.topology) as client:
            status = await status_when(
                client, f"{name} serves", lambda status: is_whole(status, 2) and pid_in(status) != other_than
            )
            return pid_in(status)

    pid = run(pid_of_node(0))
    before = set(children(server))
    assert pid in before
    process = Process(pid)
    killed_at = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    wait_until(
        "another process has its place",
        lambda: len(set(children(server)) - before) == 1,
        timeout_s=REPLACED_S,
        poll_s=0.0002,
    )
    seconds = time.perf_counter() - killed_at
    figure(f"{kind} process replaced {seconds * 1_000:.1f} ms after its SIGKILL")
    (replacement,) = set(children(server)) - before
    assert not process.is_alive
    assert run(pid_of_node(pid)) == replacement
