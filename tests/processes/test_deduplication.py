"""Keys of work on real processes: many clients at once, a leader that is killed meanwhile, and one run."""

import os
import signal
import threading
from pathlib import Path

from cluster_rig import broker_pid, command_line, wait_until
from cluster_tasks import hold, once

from cluster import BlockingClient, Client
from cluster.local import LocalCluster

CLIENTS = 4
EACH = 25


def test_of_what_many_clients_submit_while_a_leader_is_killed_one_task_runs(
    cluster: LocalCluster, client: BlockingClient, tmp_path: Path
) -> None:
    work = hold.options(dedup=f"hold {tmp_path}")
    first = client.submit(work, str(tmp_path), 7)
    wait_until("it runs", lambda: (tmp_path / "started-7").exists())
    found: list[tuple[int, int | None, int]] = []

    def user() -> None:
        with Client.open(cluster.topology) as own:
            handles = [own.submit(work, str(tmp_path), number) for number in range(EACH)]
            found.extend((handle.id, handle.duplicate_of, handle.result(60)) for handle in handles)

    users = [threading.Thread(target=user) for _ in range(CLIENTS)]
    for thread in users:
        thread.start()
    os.kill(broker_pid(cluster.status(), leading=True), signal.SIGKILL)
    cluster.wait_for(lambda status: all(row["role"] in ("leader", "follower") for row in status["brokers"]))
    (tmp_path / "go").touch()
    for thread in users:
        thread.join()
    assert first.result(60) == 7 and first.duplicate_of is None
    assert len(found) == CLIENTS * EACH == len({task for task, _, _ in found})
    assert {(of, value) for _, of, value in found} == {(first.id, 7)}


def test_a_window_outlives_its_task_and_the_command_line_says_what_a_duplicate_is(
    cluster: LocalCluster, client: BlockingClient, tmp_path: Path
) -> None:
    work = once.options(dedup=f"once {tmp_path}", dedup_window="10m")
    batch = client.map(work, range(50), folder=str(tmp_path))
    assert batch.results(60) == [0] * 50 and [path.name for path in tmp_path.iterdir()] == ["ran-0"]
    again = client.submit(work, 99, str(tmp_path))
    assert again.result(60) == 0 and again.duplicate_of == batch.ids[0]
    shown = command_line("cluster", "tasks", "show", str(cluster.topology), str(again.id)).stdout
    assert ["duplicate", "of", str(batch.ids[0])] in [line.split() for line in shown.splitlines()]
