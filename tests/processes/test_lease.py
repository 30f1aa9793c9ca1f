"""A worker that hangs past its lease has lost its tasks, whatever it says once it goes on."""

import os
import signal
from pathlib import Path

from cluster_rig import (
    cont,
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    until,
)
from cluster_tasks import echo_from, wait_at_first, worker_of

from cluster import Client

LEASE_S = 10.0


def test_a_worker_stopped_past_its_lease_is_refused_and_comes_back_as_another_incarnation(tmp_path: Path) -> None:
    async def main(topology: Path) -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "the cluster is whole", is_whole)
            workers = {row["pid"]: row for row in status["workers"]}
            handle = await client.submit(wait_at_first, str(tmp_path))
            started = tmp_path / "started-1"
            await until("the task runs", started.exists)
            child = int(started.read_text())
            hung = worker_of(child)
            assert child in workers[hung]["children"]
            (other,) = workers.keys() - {hung}
            os.kill(hung, signal.SIGSTOP)
            try:
                # Its lease expires, so the task goes to the other worker.
                assert await handle.result(timeout=LEASE_S + 20) == other
                # Now the first run finishes too; its outcome lies ready for the worker that still hangs.
                (tmp_path / "go").touch()
                await until("the first run has finished", (tmp_path / "finished-1").exists)
            finally:
                cont(hung)
            again = await status_when(
                client,
                "the worker serves again",
                lambda status: is_whole(status) and hung in [row["pid"] for row in status["workers"]],
            )
            assert len(again["workers"]) == 2
            name = workers[hung]["node"]
            assert child not in row(again["workers"], name)["children"], "what it ran was ended"
            assert await client.handle(handle.id).result(timeout=5) == other, "the record was not overwritten"
            (record,) = await client.records([handle.id])
            assert (record.state, record.attempts) == ("completed", 2)

            # One task at a time per slot, so both workers get some.
            batch = await client.map(echo_from, range(100))
            assert set(await batch.results(timeout=30)) == {hung, other}

    with running(make_topology(tmp_path)) as cluster:
        run(main(cluster.topology))
        assert cluster.log is not None
        log = cluster.log.read_text()
        assert log.count("event=lease_expired") == 1
        assert log.count("event=worker_session_lost") == 1
        assert log.count("event=worker_registered") == 3, "two at the start, then another incarnation"
        assert log.count("event=node_exited") == 0
