"""Nodes are taken out and back in while a cluster works: no task is lost, none is repeated, nobody waits for long."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import (
    DEADLINE_S,
    Process,
    Status,
    broker_pid,
    command_line,
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    stopped,
)
from cluster_tasks import add, append, version

from cluster import Client

SHORT, LONG = 3_000, 40
LONG_S = 0.2
GAP_S = 3.0             # that no task ends in, and no submit waits for; far above the figures, for busy machines


def operator(*arguments: str) -> dict[str, Any]:
    """What `python -m cluster ... --json` says of a course that came to its end."""
    done = command_line("cluster", *arguments, "--json", timeout_s=60)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["failed"] is None and report["left"] == []
    return report


def put(module: Path, text: str) -> None:
    """Replaces a module at once: a worker that starts in this moment must not find the first half of it."""
    whole = module.with_suffix(".new")
    whole.write_text(text)
    whole.replace(module)


def pids(status: Status) -> dict[str, int]:
    return {row["node"]: row["pid"] for row in (*status["brokers"], *status["workers"])}


def test_a_rolling_restart_under_load_loses_nothing_and_repeats_nothing(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Promise: workers reconnect by themselves after any broker restart, and none idles silently."""
    topology = make_topology(tmp_path, slots=2)
    waits: list[float] = []

    async def main() -> None:
        async with Client.connect(topology) as client:
            before = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            batches = [await client.map(append, range(SHORT), folder=str(tmp_path), seconds=0.0)]
            batches.append(await client.map(append, range(LONG), folder=str(tmp_path), seconds=LONG_S))
            restart = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cluster", "restart", str(topology), "--json", stdout=subprocess.PIPE
            )
            goes_on = asyncio.ensure_future(restart.communicate())
            while not goes_on.done():
                # What is submitted meanwhile: a few at a time, so that there is work until the end.
                begun = time.monotonic()
                batches.append(await client.map(append, range(20), folder=str(tmp_path), seconds=0.005))
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.02)
            report = json.loads((await goes_on)[0])
            assert restart.returncode == 0 and report["failed"] is None, report
            ids = [task for batch in batches for task in batch.ids]
            for batch in batches:
                await batch.results(timeout=60)

            for start in range(0, len(ids), 4_000):
                records = await client.records(ids[start : start + 4_000])
                assert {(record.state, record.attempts) for record in records} == {("completed", 1)}
            after = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            assert set(pids(after)) == set(pids(before))
            assert not set(pids(after).values()) & set(pids(before).values()), "every process is a new one"
            assert sum(queue["completed"] for queue in after["queues"]) == len(ids)
            assert [turn["node"] for turn in report["nodes"]][:2] == ["w1", "w2"]
            assert [turn["node"] for turn in report["nodes"]][-1] == before["leader"]

            lines = [line.split() for line in (tmp_path / "appended").read_text().splitlines()]
            assert sorted(int(task) for task, _ in lines) == sorted(ids), "each ran exactly once"
            ends = sorted(float(ended) for _, ended in lines)
            gap = max(later - earlier for earlier, later in pairwise(ends))
            assert gap < GAP_S and max(waits) < GAP_S
            figure(
                f"restart of 5 nodes under load: {report['seconds']:.1f} s, {len(ids)} tasks; the longest time without "
                f"a task that ended {gap * 1_000:.0f} ms, the longest submit {max(waits) * 1_000:.0f} ms"
            )

    with running(topology) as cluster:
        run(main())
        assert cluster.log is not None
        log = cluster.log.read_text()
        assert "node_exited" not in log and "child_ended" not in log, "no end is taken for a crash"


def test_brokers_may_be_restarted_again_and_again_under_load(
    cluster: Any, figure: Callable[[str], None]
) -> None:
    """Each time every worker finds the next leader, and the pause that a client sees is the election's."""
    waits: list[float] = []

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            for _ in range(3):
                restart = asyncio.ensure_future(
                    asyncio.to_thread(operator, "restart", str(cluster.topology), "--brokers")
                )
                while not restart.done():
                    begun = time.monotonic()
                    assert await (await client.submit(add, 1)).result(timeout=DEADLINE_S) == 2
                    waits.append(time.monotonic() - begun)
                assert len((await restart)["nodes"]) == 3
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            assert len(status["workers"]) == 2

    run(main())
    assert max(waits) < GAP_S
    longest_ms = max(waits) * 1_000
    figure(f"restarts of three brokers, three times: the longest round trip of {len(waits)} was {longest_ms:.0f} ms")


def test_a_drained_worker_is_shown_as_such_and_comes_back_when_it_is_named(cluster: Any) -> None:
    topology = str(cluster.topology)

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            w1 = Process(row(status["workers"], "w1")["pid"])
            (turn,) = (await asyncio.to_thread(operator, "drain", topology, "w1"))["nodes"]
            assert (turn["node"], turn["old_pid"], turn["new_pid"]) == ("w1", w1.pid, None)
            assert not w1.is_alive and turn["cut_off"] == 0
            status = await client.status()
            assert row(status["workers"], "w1")["drained"] and row(status["workers"], "w1")["pid"] is None
            assert not row(status["workers"], "w2")["drained"]
            assert "drained" in command_line("cluster", "status", topology).stdout

            os.kill(broker_pid(status, leading=True), signal.SIGKILL)
            await status_when(
                client, "another leader knows it, too",
                lambda later: later["term"] > status["term"] and row(later["workers"], "w1")["drained"],
            )  # fmt: skip
            await status_when(client, "the brokers are back", lambda later: all(row["pid"] for row in later["brokers"]))
            again = await asyncio.to_thread(operator, "restart", topology)
            assert again["skipped"] == [{"node": "w1", "reason": "it is drained"}]
            assert row((await client.status())["workers"], "w1")["drained"]

            (turn,) = (await asyncio.to_thread(operator, "restart", topology, "--node", "w1"))["nodes"]
            assert turn["old_pid"] is None and turn["new_pid"] and turn["cut_off"] is None
            status = await status_when(client, "it serves", lambda later: is_whole(later, slots=2))
            assert len(status["workers"]) == 2

    run(main())


def test_a_restart_brings_the_new_code_of_the_tasks(tmp_path: Path) -> None:
    topology = make_topology(tmp_path, workers=1)
    module = tmp_path / "cluster_tasks.py"

    async def main() -> None:
        async with Client.connect(topology) as client:
            assert await (await client.submit(version)).result(timeout=DEADLINE_S) == "one"
            module.write_text(module.read_text().replace('return "one"', 'return "two, and longer"'))
            assert await (await client.submit(version)).result(timeout=DEADLINE_S) == "one"
            await asyncio.to_thread(operator, "restart", str(topology), "--workers")
            assert await (await client.submit(version)).result(timeout=DEADLINE_S) == "two, and longer"

    with running(topology):
        run(main())


def test_new_code_that_cannot_be_imported_stops_the_restart_at_the_first_worker_and_nothing_else(
    tmp_path: Path,
) -> None:
    topology = make_topology(tmp_path)
    module = tmp_path / "cluster_tasks.py"
    good = module.read_text()

    async def main() -> None:
        async with Client.connect(topology) as client:
            before = await status_when(client, "the cluster is whole", is_whole)
            module.write_text("import no_such_module\n" + good)
            failed = await asyncio.to_thread(
                command_line, "cluster", "restart", str(topology), "--json", "--wait", "2s", "--timeout", "1s"
            )
            assert failed.returncode == 1
            report = json.loads(failed.stdout)
            assert report["failed"]["node"] == "w1" and report["nodes"] == []
            assert report["left"] == ["w1", "w2", "b1", "b2", "b3"]
            assert "w2, b1, b2, b3 had no turn" in failed.stderr
            assert f"python -m cluster restart {topology} --node w1 --node w2" in failed.stderr
            assert await (await client.submit(version)).result(timeout=DEADLINE_S) == "one", "w2 goes on"

            module.write_text(good)
            after = await status_when(
                client, "w1 is back by itself", lambda status: is_whole(status) and len(status["workers"]) == 2
            )
            assert {node for node, pid in pids(after).items() if pid != pids(before)[node]} == {"w1"}

    with running(topology) as cluster:
        run(main())
        assert cluster.log is not None and "no_such_module" in cluster.log.read_text()


@pytest.mark.parametrize("arguments", [(), ("--brokers",), ("--node", "b1")])
def test_nothing_is_restarted_while_a_broker_is_missing(cluster: Any, arguments: tuple[str, ...]) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            before = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            with stopped(row(before["brokers"], "b2")["pid"]):
                done = await asyncio.to_thread(
                    command_line, "cluster", "restart", str(cluster.topology), *arguments
                )
                assert done.returncode == 1
                assert "broker b2 is down" in done.stderr and "Nothing was done" in done.stderr
            after = await status_when(client, "it is back", lambda status: is_whole(status, slots=2))
            assert pids(after) == pids(before)

    run(main())


def test_what_cannot_be_meant_is_refused_clearly(cluster: Any) -> None:
    topology = str(cluster.topology)
    for arguments, said in (
        (("restart", topology, "--node", "b9"), "no node is named 'b9'; nodes are b1, b2, b3, w1, w2"),
        (("restart", topology, "--node", "b1", "--workers"), "leave out --workers"),
        (("drain", topology, "b1"), "restart --node b1"),
        (("drain", topology, "w9"), "workers are w1, w2"),
        (("drain", topology, "w1", "--timeout", "soon"), "is no duration"),
        (("drain", topology, "w1", "--timeout", "25h"), "up to 24h"),
        (("drain", topology), "Missing argument 'WORKER'"),
        (("restart", topology + "x"), "topology.tomlx"),
    ):
        done = command_line("cluster", *arguments)
        assert done.returncode == 2, arguments
        assert said in done.stderr, done.stderr
