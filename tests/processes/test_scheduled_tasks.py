"""Schedules on real processes: a module with `@every` is all that it takes."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cluster_rig import broker_pid, command_line, refused, running, wait_until

from cluster import BlockingClient, Client, ScheduleRefused
from cluster.local import LocalCluster, write_topology

MODULE = "schedule_tasks"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("scheduled")
    topology = write_topology(folder, name="scheduled", modules=[MODULE], workers=2, slots=2)
    shutil.copy(Path(__file__).with_name(f"{MODULE}.py"), folder)
    with running(topology) as started:
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[BlockingClient]:
    with Client.open(cluster.topology) as started:
        yield started


def slots_in(file: Path) -> list[datetime]:
    return [datetime.fromisoformat(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("name", ["ticks", "loop"])
def test_a_task_of_every_second_runs_once_for_each_second(cluster, name):
    file = cluster.topology.with_name(name)
    wait_until("five runs", lambda: len(slots_in(file)) >= 5)
    slots = slots_in(file)
    assert all(slot.microsecond == 0 and slot.utcoffset() == timedelta(0) for slot in slots)
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in pairwise(slots))
    assert abs(datetime.now(UTC) - slots[-1]) < timedelta(seconds=3)


def test_operators_see_and_steer_schedules_from_programs_that_block(client: BlockingClient):
    names = [info.name for info in client.schedules()]
    assert names == ["loop", "nightly", "schedule_tasks:tick", "slow"]
    handle = client.run_now("nightly")
    assert handle.result(30) == [client.history("nightly")[0].slot.astimezone(UTC).isoformat(), 1]
    client.pause("nightly")
    assert client.schedule("nightly").state == "paused"
    client.resume("nightly")
    info = client.schedule("nightly")
    assert info.state == "active" and info.history[0].manual and info.history[0].task == handle.id
    assert str(info.next_slot.tzinfo) == "Asia/Seoul" and len(info.upcoming) == 5
    with pytest.raises(ScheduleRefused, match="live workers announce it"):
        client.delete_schedule("nightly")


def test_a_run_that_is_replaced_hears_of_it(cluster: LocalCluster, client: BlockingClient):
    first = client.run_now("slow")
    wait_until("it runs", lambda: cluster.topology.with_name("slow").exists())
    second = client.run_now("slow")
    assert first.result(30) == "stopped"
    assert client.schedule("slow").unfinished == 1
    second.cancel(0)
    client.pause("slow")


def test_the_command_line_lists_shows_and_steers_schedules(cluster: LocalCluster):
    topology = str(cluster.topology)
    found = command_line("cluster", "cron", topology)
    assert found.returncode == 0, found.stderr
    assert "0 21 * * MON-FRI Asia/Seoul" in found.stdout and "every 1s" in found.stdout
    found = command_line("cluster", "cron", "list", topology, "--json", "--prefix", "n")
    (row,) = map(json.loads, found.stdout.splitlines())
    assert (row["name"], row["task"], row["zone"], row["queue"]) == (
        "nightly", "schedule_tasks:report", "Asia/Seoul", "default",
    )  # fmt: skip
    found = command_line("cluster", "cron", "run", topology, "nightly", "--wait")
    assert found.returncode == 0 and json.loads(found.stdout)[1] == 1
    found = command_line("cluster", "cron", topology, "run", "nightly")
    task = int(found.stdout)
    for command, says in (("pause", "nightly is paused"), ("resume", "nightly fires again")):
        found = command_line("cluster", "cron", command, topology, "nightly")
        assert (found.returncode, found.stdout) == (0, f"{says}\n")
    found = command_line("cluster", "cron", "history", topology, "nightly", "--json")
    assert task in [json.loads(line)["task"] for line in found.stdout.splitlines()]
    found = command_line("cluster", "cron", "show", topology, "nightly")
    assert found.returncode == 0 and "one run at a time" in found.stdout and "asked for" in found.stdout
    for words, says in (
        (("show", topology, "nobody"), 'error: ScheduleNotFound: the cluster has no schedule "nobody"'),
        (("run", topology, "night"), 'error: ScheduleNotFound: the cluster has no schedule "night"'),
        (("pause", topology, "nihgtly"), 'error: ScheduleNotFound: the cluster has no schedule "nihgtly"'),
        (("delete", topology, "nightly"), 'error: ScheduleRefused: schedule "nightly": live workers announce it'),
    ):
        found = command_line("cluster", "cron", *words)
        assert found.returncode == 1 and found.stderr.startswith(says), found.stderr
        assert found.stderr.endswith("list them; did you mean nightly?\n") == (words[0] in ("run", "pause"))


def test_no_second_is_lost_or_doubled_while_a_leader_is_killed(cluster: LocalCluster):
    file = cluster.topology.with_name("ticks")
    for _ in range(2):
        before = len(slots_in(file))
        os.kill(broker_pid(cluster.status(), leading=True), signal.SIGKILL)
        wait_until("runs under the next leader", lambda before=before: len(slots_in(file)) >= before + 4)
        cluster.wait_for(lambda status: all(row["role"] in ("leader", "follower") for row in status["brokers"]))
    slots = slots_in(file)
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in pairwise(slots))


def test_a_module_whose_schedules_cannot_be_announced_keeps_its_worker_from_starting(tmp_path: Path):
    (tmp_path / "wrong_schedules.py").write_text(
        "from cluster import every, task\n\n\n"
        "@task\ndef often() -> None: ...\n\n\n"
        "for number in range(1_025):\n    every('1h', name=f's{number}')(often)\n"
    )
    topology = write_topology(tmp_path, name="wrong", modules=["wrong_schedules"], brokers=1, workers=1)
    said = refused(topology)
    assert "1025 schedules, 1024 are allowed" in said
