"""What docs/promises.md promises and no other test shows. Those that wait for longer than leases are slow tests."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster_rig import is_whole, launched, make_topology, row, run, running, status_when
from cluster_tasks import echo, keep_the_lock, once, sleep_long

from bench.watch import pss_mb
from cluster import Client, Task, TaskCancelled

LEASE_S = 10.0
LONG_S = int(6 * LEASE_S)
DELAYED_TASKS = 1_000_000
SUBMITTED_AT_ONCE = 100_000
GROWTH_MB_MAX = 2.0


@pytest.mark.slow
@pytest.mark.parametrize("task", [sleep_long, keep_the_lock], ids=lambda task: task.__name__)
def test_a_task_that_lives_through_six_leases_runs_once(tmp_path: Path, task: Task[[float, str], int]) -> None:
    """Promises 2 and 4: the worker renews its lease, whatever the task's process does."""

    async def main(topology: Path) -> None:
        async with Client.connect(topology) as client:
            handle = await client.submit(task, LONG_S, str(tmp_path))
            assert await handle.result(timeout=LONG_S + 3 * LEASE_S) == 1
            (record,) = await client.records([handle.id])
            assert (record.state, record.attempts) == ("completed", 1)
        assert len((tmp_path / "began").read_text().splitlines()) == 1

    with running(make_topology(tmp_path)) as cluster:
        run(main(cluster.topology))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_delayed_tasks_cost_workers_nothing(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """Promise 7."""

    async def main(topology: Path) -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", is_whole)
            pids = [pid for worker in status["workers"] for pid in (worker["pid"], *worker["children"])]
            await (await client.map(echo, range(20)))
            before = [pss_mb(pid) for pid in pids]
            later = echo.options(delay="1h")
            for _ in range(DELAYED_TASKS // SUBMITTED_AT_ONCE):
                await client.map(later, range(SUBMITTED_AT_ONCE))
            status = await status_when(client, "all of them wait", is_whole)
            assert row(status["queues"], "default")["delayed"] == DELAYED_TASKS
            grown = [pss_mb(pid) - was for pid, was in zip(pids, before, strict=True)]
            figure(f"a million delayed tasks: workers and children grew by {max(grown):.1f} MB at most")
            assert max(grown) < GROWTH_MB_MAX

    with running(make_topology(tmp_path)) as cluster:
        run(main(cluster.topology))


def test_a_cancel_holds_although_no_worker_was_there(tmp_path: Path) -> None:
    """Promise 8."""
    topology = make_topology(tmp_path, workers=1)

    async def cancel() -> int:
        async with Client.connect(topology) as client:
            handle = await client.submit(once, 1, str(tmp_path))
            await handle.cancel()
            with pytest.raises(TaskCancelled):
                await handle.result(timeout=5)
            return handle.id

    async def look(cancelled: int) -> None:
        async with Client.connect(topology) as client:
            assert await (await client.submit(once, 2, str(tmp_path))).result(timeout=20) == 2
            (record,) = await client.records([cancelled])
            assert record.state == "cancelled"

    with ExitStack() as nodes:
        for name in ("b1", "b2", "b3"):
            nodes.enter_context(launched(topology, "--node", name))
        cancelled = run(cancel())
        nodes.enter_context(launched(topology, "--node", "w1"))
        run(look(cancelled))
    assert not (tmp_path / "ran-1").exists() and (tmp_path / "ran-2").exists()
