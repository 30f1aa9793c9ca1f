"""A worker that is asked to stop while it runs a long task: it is given nothing more, others do the rest meanwhile."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster_rig import command_line, is_whole, make_topology, row, run, running, status_when, until
from cluster_tasks import echo_when, wait_at_first

from cluster import Client

DRAIN_RUNNING_S = 9.0       # what runs may go on for so long


def test_a_worker_that_drains_begins_nothing_more_and_finishes_what_runs(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    topology = make_topology(tmp_path, slots=2)
    queued, later = 300, 100

    async def main() -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            long = await client.submit(wait_at_first, str(tmp_path))
            await until("it runs", (tmp_path / "started-1").exists)
            child = int((tmp_path / "started-1").read_text())
            leaving, staying = sorted(status["workers"], key=lambda worker: child not in worker["children"])
            before = await client.map(echo_when, range(queued))
            await until("both workers are at it", lambda: before.progress[0] >= 20)

            os.kill(leaving["pid"], signal.SIGTERM)
            asked = time.monotonic()
            status = await status_when(
                client, "it drains", lambda status: row(status["workers"], leaving["node"])["draining"]
            )
            drained = time.monotonic()
            assert not row(status["workers"], staying["node"])["draining"]
            after = await client.map(echo_when, range(later))
            ran = [*await before.results(timeout=30), *await after.results(timeout=30)]
            done = time.monotonic()

            assert done < asked + DRAIN_RUNNING_S, "this machine is too slow for this test"
            (record,) = await client.records([long.id])
            assert record.state == "processing", "it goes on meanwhile"
            by_leaving = [began for pid, began in ran if pid == leaving["pid"]]
            assert by_leaving and all(began < drained for began in by_leaving)
            assert {pid for pid, _ in ran[queued:]} == {staying["pid"]}
            last_ms, shown_ms = (max(by_leaving) - asked) * 1_000, (drained - asked) * 1_000
            figure(f"the last task began {last_ms:+.0f} ms after SIGTERM; status showed it after {shown_ms:.0f} ms")

            (tmp_path / "go").touch()
            assert await long.result(timeout=10) == leaving["pid"]
            records = await client.records([long.id, *before.ids, *after.ids])
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}
            await status_when(
                client,
                "it was started again, and serves",
                lambda status: is_whole(status, slots=2)
                and len(status["workers"]) == 2
                and row(status["workers"], leaving["node"])["pid"] != leaving["pid"]
                and not any(worker["draining"] for worker in status["workers"]),
            )

    with running(topology):
        run(main())


def test_a_drain_says_how_many_running_tasks_its_limit_has_ended(tmp_path: Path) -> None:
    topology = make_topology(tmp_path, slots=2)

    async def main() -> None:
        async with Client.connect(topology) as client:
            await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            long = await client.submit(wait_at_first, str(tmp_path))
            await until("it runs", (tmp_path / "started-1").exists)
            busy = (await client.task(long.id)).worker
            idle = "w2" if busy == "w1" else "w1"
            done = await asyncio.to_thread(command_line, "cluster", "drain", str(topology), busy, "--timeout", "300ms")
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip().endswith(f" s; 1 running task of {busy} ended and handed back")
            status = await client.status()
            assert row(status["workers"], busy)["cut_off"] == 1 and row(status["workers"], idle)["cut_off"] is None

            (tmp_path / "go").touch()
            await long.result(timeout=10)
            done = await asyncio.to_thread(command_line, "cluster", "drain", str(topology), idle, "--json")
            (turn,) = json.loads(done.stdout)["nodes"]
            assert (turn["node"], turn["cut_off"]) == (idle, 0)

    with running(topology):
        run(main())
