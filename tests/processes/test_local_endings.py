"""How a cluster ends: it drains on SIGTERM and on Ctrl-C, with the work that it has, in time, with status 0."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_rig import (
    Process,
    descendants,
    is_whole,
    launched,
    make_topology,
    row,
    run,
    running,
    status_when,
    total,
    until,
    wait_until,
)
from cluster_tasks import echo, hold, hold_a_while, once

from cluster import Client
from cluster.local import LocalCluster

QUICK_S = 5.0           # of a stop when nothing takes long
DRAIN_S = 10.0          # of a stop when something does, from SIGTERM on
SLACK_S = 4.0           # for brokers to stop after the workers, on a busy machine


def stops(cluster: LocalCluster, number: signal.Signals, limit_s: float) -> float:
    """Sends a signal to launch and waits for its end: status 0, nothing left of it. Returns the seconds it took."""
    assert cluster.launch is not None
    everybody: list[Process] = descendants(cluster.launch.pid)
    start = time.monotonic()
    cluster.launch.send_signal(number)
    assert cluster.launch.wait(limit_s + 20) == 0
    seconds = time.monotonic() - start
    assert seconds < limit_s
    assert not any(process.is_alive for process in everybody)
    return seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_recorded_and_what_waits_is_kept(
    tmp_path: Path, number: signal.Signals, figure: Callable[[str], None]
) -> None:
    topology = make_topology(tmp_path, slots=2)
    tasks = 400

    async def begin(stop: Callable[[], float]) -> list[int]:
        async with Client.connect(topology) as client:
            slow = await client.submit(hold_a_while, str(tmp_path), 1.0)
            await until("the slow task runs", (tmp_path / "started-hold").exists)
            batch = await client.map(echo, range(tasks))
            await until("some are finished", lambda: batch.progress[0] >= 20)
            seconds = stop()
            figure(f"stopped in {seconds:.2f} s after {number.name}, with a task of 1 s under way")
            return [slow.id, *batch.ids]

    async def rest(ids: list[int]) -> None:
        async with Client.connect(topology) as client:
            records = {record.task: record for record in await client.records(ids)}
            assert records[ids[0]].state == "completed", "it ran when the signal came, and had the time"
            assert records[ids[0]].attempts == 1
            for index, task in enumerate(ids[1:]):
                assert await client.handle(task).result(timeout=30) == index
            records_now = await client.records(ids)
            assert {(record.state, record.attempts) for record in records_now} == {("completed", 1)}
            assert total(await client.status(), "completed") == 1 + tasks

    with running(topology) as cluster:
        ids = run(begin(lambda: stops(cluster, number, QUICK_S)))
    with running(topology):
        run(rest(ids))


def test_a_cluster_without_work_stops_at_once(tmp_path: Path, figure: Callable[[str], None]) -> None:
    with running(make_topology(tmp_path)) as cluster:
        seconds = stops(cluster, signal.SIGTERM, QUICK_S)
    figure(f"an idle cluster stopped in {seconds:.2f} s")


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_is_no_traceback(tmp_path: Path) -> None:
    topology = make_topology(tmp_path)
    with launched(topology) as launch:
        LocalCluster(topology).wait_ready()
        everybody = descendants(launch.pid)
        os.killpg(launch.pid, signal.SIGINT)
        output, _ = launch.communicate(timeout=QUICK_S)
        assert launch.returncode == 0
    # The terminal told each of them: who launch did not wait for ends a moment after it.
    wait_until("everybody is gone", lambda: not any(process.is_alive for process in everybody))
    assert output.count("event=worker_closed") == 2, "it was a drain"
    assert "Traceback" not in output and "KeyboardInterrupt" not in output


def test_a_part_of_a_cluster_that_never_had_a_leader_stops_at_once(tmp_path: Path) -> None:
    """One broker of three, and a worker that waits for the others."""
    topology = make_topology(tmp_path, workers=1)
    with launched(topology, "--node", "b1") as broker, launched(topology, "--node", "w1") as worker:
        # A child for the slot and one for the event loop, below the fork server of the worker.
        wait_until("both have started", lambda: len(descendants(broker.pid)) == 2 and len(descendants(worker.pid)) == 5)
        for launch in (worker, broker):
            launch.send_signal(signal.SIGTERM)
            assert launch.wait(QUICK_S) == 0


def test_signals_that_come_again_change_nothing(tmp_path: Path) -> None:
    """People press Ctrl-C more than once."""
    topology = make_topology(tmp_path)

    async def main(cluster: LocalCluster) -> int:
        async with Client.connect(topology) as client:
            slow = await client.submit(hold_a_while, str(tmp_path), 1.0)
            await until("the slow task runs", (tmp_path / "started-hold").exists)
            assert cluster.launch is not None
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                cluster.launch.send_signal(number)
            assert await slow.result(timeout=10) == 1.0, "its result came before the brokers went"
            assert cluster.launch.wait(QUICK_S) == 0
            return slow.id

    with running(topology) as cluster:
        run(main(cluster))


@pytest.mark.slow
def test_what_runs_too_long_is_handed_back_uncounted_and_runs_after_the_next_start(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    topology = make_topology(tmp_path)

    async def begin(stop: Callable[[], float]) -> tuple[int, int]:
        async with Client.connect(topology) as client:
            runs = await client.submit(hold, str(tmp_path), 1)
            await until("it runs", (tmp_path / "started-1").exists)
            waits = [await client.submit(hold, str(tmp_path), number) for number in (2, 3)]
            await until("the second one runs", (tmp_path / "started-2").exists)
            figure(f"stopped in {stop():.2f} s after SIGTERM, with tasks under way that never end")
            assert not (tmp_path / "started-3").exists()
            return runs.id, waits[-1].id

    async def rest(runs: int, waits: int) -> None:
        async with Client.connect(topology) as client:
            (record,) = await client.records([runs])
            assert record.state in ("pending", "processing")
            (tmp_path / "go").touch()
            assert await client.handle(runs).result(timeout=30) == 1
            assert await client.handle(waits).result(timeout=30) == 3
            for record in await client.records([runs, waits]):
                assert record.state == "completed"
            assert total(await client.status(), "dead") == 0

    with running(topology) as cluster:
        known = run(begin(lambda: stops(cluster, signal.SIGTERM, DRAIN_S + SLACK_S)))
    with running(topology):
        run(rest(*known))


def test_a_worker_that_is_asked_to_stop_alone_drains_and_is_started_again(tmp_path: Path) -> None:
    """SIGTERM to one node, as an operator might send it: its tasks are finished or go to the other."""
    topology = make_topology(tmp_path)
    tasks = 150

    async def main() -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", is_whole)
            pid = row(status["workers"], "w1")["pid"]
            batch = await client.map(once, range(tasks), folder=str(tmp_path))
            await until("some are finished", lambda: batch.progress[0] >= 20)
            os.kill(pid, signal.SIGTERM)
            assert await batch.results(timeout=30) == list(range(tasks))
            records = await client.records(batch.ids)
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}
            runs = [len((tmp_path / f"ran-{number}").read_text().split()) for number in range(tasks)]
            assert runs == [1] * tasks, "a drain makes nothing run twice"
            await status_when(
                client,
                "it was started again",
                lambda status: is_whole(status)
                and len(status["workers"]) == 2
                and row(status["workers"], "w1")["pid"] != pid,
            )

    with running(topology):
        run(main())
