"""Kill anything with SIGKILL while work is under way: nothing that was acknowledged is lost or recorded twice."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import (
    LOOPS,
    Process,
    broker_pid,
    children,
    descendants,
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    total,
    until,
    wait_until,
)
from cluster_tasks import add, backtrack_at_first, echo, fail_at_length

from cluster import Client, Handle, Record, TaskFailed
from cluster.local import LocalCluster

TASKS = 300             # submitted before the blow
RECORDS_KEPT = "1d"       # they are counted in the end, on a slow machine long after the client has the results
TASKS_DURING = 100      # submitted while the cluster recovers from it
SLOTS = 2
LAUNCH_CHILDREN_GONE_S = 2.0


def kill(pid: int) -> None:
    assert pid > 1, "0 would be the tests' own process group"
    os.kill(pid, signal.SIGKILL)


async def survives(client: Client, strike: Callable[[], None], *beside: Handle[Any]) -> list[Record]:
    """Strikes while hundreds of tasks run and checks that each has its result and one terminal record.

    `beside` are tasks of the caller that run meanwhile; returns the records of the others.
    """
    before = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
    kept = echo.options(result_ttl=RECORDS_KEPT)
    batch = await client.map(kept, range(TASKS))
    await until("some tasks are finished", lambda: batch.progress[0] >= TASKS // 10)
    assert batch.progress[0] < TASKS, "the blow must fall while tasks run"
    strike()
    during = await client.map(kept, range(TASKS_DURING))
    assert await batch.results(timeout=60) == list(range(TASKS))
    assert await during.results(timeout=60) == list(range(TASKS_DURING))
    for handle in beside:
        await handle.result(timeout=60)
    ids = [*batch.ids, *during.ids]
    records = await client.records(ids)
    assert [record.task for record in records] == ids
    assert {record.state for record in records} == {"completed"}
    after = await status_when(client, "there is a leader", lambda status: True)
    assert total(after, "completed") - total(before, "completed") == len(records) + len(beside)
    assert (total(after, "failed"), total(after, "dead")) == (0, 0)
    return records


@pytest.mark.parametrize("leading", [True, False], ids=["leader", "follower"])
def test_a_killed_broker_loses_nothing_and_comes_back(cluster: LocalCluster, leading: bool) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
            pid = broker_pid(status, leading=leading)
            await survives(client, lambda: kill(pid))

            def caught_up(status: dict) -> bool:
                indexes = {row["applied_index"] for row in status["brokers"]}
                return is_whole(status, SLOTS) and len(indexes) == 1

            status = await status_when(client, "the killed broker has caught up", caught_up)
            assert pid not in [row["pid"] for row in status["brokers"]]
            assert len({tuple(row["digest"]) for row in status["brokers"]}) == 1

    run(main())


def test_a_killed_worker_loses_nothing_and_comes_back(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            worker = row((await client.status())["workers"], "w1")
            old = descendants(worker["pid"])
            assert len(old) == 1 + SLOTS + LOOPS, "a fork server, a child for each slot and one for async tasks"
            await survives(client, lambda: kill(worker["pid"]))
            wait_until("what the killed worker had started has ended", lambda: not any(p.is_alive for p in old))
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
            assert row(status["workers"], "w1")["pid"] != worker["pid"]

    run(main())


def test_a_killed_executor_child_costs_one_attempt_of_the_task_that_it_ran(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            worker = row((await client.status())["workers"], "w1")
            victim = worker["children"][0]
            records = await survives(client, lambda: kill(victim))
            again = [record.attempts for record in records if record.attempts != 1]
            assert again in ([], [2]), "one culprit; none, if the blow fell between two tasks"
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
            now = row(status["workers"], "w1")
            assert now["pid"] == worker["pid"]
            assert victim not in now["children"]

    run(main())


def test_a_killed_idle_executor_child_blames_no_task(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
            victims = [child for worker in status["workers"] for child in worker["children"]]
            for victim in victims:
                kill(victim)
            batch = await client.map(add, range(100))
            assert await batch.results(timeout=30) == list(range(1, 101))
            assert {record.attempts for record in await client.records(batch.ids)} == {1}

            def replaced(status: dict) -> bool:
                now = [child for worker in status["workers"] for child in worker["children"]]
                return is_whole(status, SLOTS) and not set(now) & set(victims)

            await status_when(client, "all children are replaced", replaced)

    run(main())


def test_an_executor_child_killed_in_a_c_loop_is_replaced_and_its_task_runs_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(backtrack_at_first, str(tmp_path))
            started = tmp_path / "started-1"
            await until("the task runs", started.exists)
            records = await survives(client, lambda: kill(int(started.read_text())), handle)
            assert {record.attempts for record in records} == {1}, "nobody else is to blame"
            assert await handle == 2
            (record,) = await client.records([handle.id])
            assert (record.state, record.attempts) == ("completed", 2)

    run(main())


def test_failures_with_much_evidence_that_pile_up_without_a_leader_are_recorded_by_the_next(
    tmp_path: Path,
) -> None:
    """Some 12 KiB for each, 512 at each slot: far more than fits into one entry of the log."""
    tasks = 1_500
    topology = make_topology(tmp_path, slots=SLOTS)
    topology.write_text(topology.read_text().replace("slots =", "prefetch = 512\nslots ="))

    async def main() -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, SLOTS))
            batch = await client.map(fail_at_length.options(result_ttl=RECORDS_KEPT), range(tasks))
            kill(broker_pid(status, leading=True))
            with pytest.raises(TaskFailed, match="ValueError: 0 mmmm") as caught:
                await batch.results(timeout=60)
            assert 4_096 < len(caught.value.traceback) <= 8_192
            assert batch.progress == (tasks, tasks, tasks)
            records = await client.records(batch.ids)
            assert {record.state for record in records} == {"failed"}

    with running(topology) as cluster:
        run(main())
        assert cluster.log is not None
        assert cluster.log.read_text().count("event=leading") == 2, "nobody fell over the evidence"


def test_all_processes_of_a_killed_launch_end_and_a_new_launch_recovers(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """One executor child sits in C code, one worker is stopped: the kernel ends them all the same."""
    with running(make_topology(tmp_path, slots=SLOTS)) as cluster:
        assert cluster.launch is not None
        everybody: list[Process] = descendants(cluster.launch.pid)
        nodes = children(children(cluster.launch.pid)[0])
        assert len(nodes) == 5, "three brokers and two workers, under one fork server"
        assert len(everybody) == 1 + 5 + 2 * (1 + SLOTS + LOOPS)

        def strike() -> None:
            os.kill(nodes[-1], signal.SIGSTOP)
            cluster.kill()
            killed_at = time.monotonic()
            wait_until(
                f"all of {everybody} have ended",
                lambda: not any(process.is_alive for process in everybody),
                timeout_s=LAUNCH_CHILDREN_GONE_S,
                poll_s=0.002,
            )
            figure(f"all processes gone {(time.monotonic() - killed_at) * 1_000:.0f} ms after the kill of launch")
            cluster.start()

        async def main() -> None:
            async with Client.connect(cluster.topology) as client:
                early = await client.map(add.options(result_ttl=RECORDS_KEPT), range(200))
                assert await early.results(timeout=30) == list(range(1, 201))
                stuck = await client.submit(backtrack_at_first, str(tmp_path))
                await until("it is stuck in C code", (tmp_path / "started-1").exists)
                await survives(client, strike, stuck)
                assert await stuck == 2
                assert {record.state for record in await client.records(early.ids)} == {"completed"}

        run(main())
        assert cluster.stop() == 0
