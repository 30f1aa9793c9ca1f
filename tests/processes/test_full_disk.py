"""Real processes on a real disk that fills up: a small one in memory, mounted where only these processes see it."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import DEADLINE_S, broker_pid, launched, make_topology, run, until, wait_until
from cluster_tasks import add, hold
from disk_rig import fill, needs_mounts, on_a_disk

from cluster import Client, Overloaded, TaskCancelled
from cluster.local import LocalCluster

SEGMENT_MIB = 64
BODY = "x" * 500_000            # some hundred of these fill a segment


async def fill_log(client: Client) -> Overloaded:
    """Submits until the log has no more room for it."""
    for _ in range(2 * SEGMENT_MIB * 1024 * 1024 // len(BODY)):
        try:
            await client.submit(add, BODY)      # type: ignore[arg-type]
        except Overloaded as refusal:
            return refusal
    raise AssertionError("nothing was refused")


@pytest.mark.slow
@needs_mounts
def test_a_full_disk_refuses_tasks_lets_all_others_end_and_heals_by_itself(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1, slots=3)
    data = tmp_path / "data"
    with launched(path, within=on_a_disk(data, "size=640m")) as launch:
        cluster = LocalCluster(path)
        cluster.wait_ready()
        disk = Path(f"/proc/{launch.pid}/root{data}")     # as those processes see it
        brokers = [disk / name for name in ("b1", "b2", "b3")]

        def spares() -> list[int]:
            return [len(list(broker.glob("*.spare"))) for broker in brokers]

        wait_until("every broker has its spare", lambda: all(spares()))
        filler = disk / "filler"
        fill(filler)

        async def use() -> Any:
            async with Client.connect(path, deadline=3.0) as client:
                at_work = [await client.submit(hold, str(tmp_path), number) for number in range(2)]
                doomed = await client.submit(hold, str(tmp_path), 9)
                await until("they run", lambda: (tmp_path / "started-1").exists() and (tmp_path / "started-9").exists())
                refusal = await fill_log(client)
                assert "disk" in str(refusal) and "full" in str(refusal)
                await doomed.cancel()
                with pytest.raises(TaskCancelled):
                    await doomed.result(timeout=DEADLINE_S)
                (tmp_path / "go").touch()
                assert [await task.result(timeout=DEADLINE_S) for task in at_work] == [0, 1]
                with pytest.raises(Overloaded):
                    await client.submit(add, 1)
                status = await client.status()
                assert all(row["pid"] for row in status["brokers"]), "none has ended"
            async with Client.connect(path) as client:
                submit = asyncio.ensure_future(client.submit(add, 1))
                await asyncio.sleep(1)
                assert not submit.done()
                filler.unlink()
                await submit
                assert await (await client.submit(add, 1)).result(timeout=2 * DEADLINE_S) == 2

        run(use())
        launch.send_signal(signal.SIGTERM)
        output, _ = launch.communicate(timeout=DEADLINE_S)
        assert launch.returncode == 0, output
        assert "event=disk_full" in output and "event=disk_has_room" in output
        assert "event=node_exited" not in output


@needs_mounts
def test_a_broker_that_is_killed_on_a_full_disk_comes_up_with_its_spare(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1)
    data = tmp_path / "data"
    with launched(path, within=on_a_disk(data, "size=500m")) as launch:
        cluster = LocalCluster(path)
        cluster.wait_ready()
        disk = Path(f"/proc/{launch.pid}/root{data}")
        wait_until("every broker has its spare", lambda: len(list(disk.glob("*/*.spare"))) == 3)
        fill(disk / "filler")

        async def work() -> None:
            async with Client.connect(path) as client:
                assert await (await client.submit(add, 1)).result(timeout=DEADLINE_S) == 2

        for leading in (True, False):
            run(work())
            pid = broker_pid(cluster.status(), leading=leading)
            os.kill(pid, signal.SIGKILL)
            cluster.wait_for(
                lambda status, pid=pid: status["leader"]
                and all(row["pid"] and row["pid"] != pid for row in status["brokers"])
            )
        run(work())
        launch.send_signal(signal.SIGTERM)
        output, _ = launch.communicate(timeout=DEADLINE_S)
        assert launch.returncode == 0, output
        assert output.count("event=node_exited") == 2
