"""The command lines: `python -m cluster` and `python -m cluster.launch`, their output and their exit status."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cluster_rig import (
    DEADLINE_S,
    children,
    command_line,
    launched,
    make_topology,
    refused,
    row,
    run,
    stopped,
)
from cluster_tasks import add, exit_at_once, fail, hold

from cluster import Client, TaskInfo
from cluster.local import LocalCluster

EXIT_OPERATOR = 2
LOCK_PATIENCE_S = 10.0

BROKER_KEYS = {"node", "pid", "role", "term", "commit_index", "applied_index", "digest", "sync"}
ALIVE_KEYS = BROKER_KEYS | {"quarantined", "has_start", "first_index", "snapshot_index", "turn_ms_max"}
WORKER_KEYS = {
    "node", "pid", "slots", "slots_min", "slots_max", "async_tasks", "draining", "drained", "cut_off", "running",
    "waiting", "children",
}  # fmt: skip
QUEUE_KEYS = {
    "name", "ready", "waiting", "running", "delayed", "completed", "failed", "dead", "cancelled", "expired", "parked",
}  # fmt: skip


# -- status ------------------------------------------------------------------------------------------------------


def test_status_as_json_is_one_object_with_documented_keys(cluster: LocalCluster) -> None:
    async def work() -> None:
        async with Client.connect(cluster.topology) as client:
            assert await (await client.map(add, range(10))).results(timeout=30) == list(range(1, 11))

    run(work())
    found = command_line("cluster", "status", str(cluster.topology), "--json")
    assert (found.returncode, found.stderr) == (0, "")
    status = json.loads(found.stdout)
    known = {"leader", "term", "brokers", "workers", "queues", "parked", "parked_more", "limits", "limits_more"}
    assert set(status) == known | {"schedules"}
    assert status["leader"] in ("b1", "b2", "b3") and status["term"] >= 1
    assert [broker["node"] for broker in status["brokers"]] == ["b1", "b2", "b3"]
    for broker in status["brokers"]:
        assert set(broker) == ALIVE_KEYS
        assert broker["role"] == ("leader" if broker["node"] == status["leader"] else "follower")
        assert broker["sync"] in ("inline", "thread")
        assert broker["term"] == status["term"]
        assert broker["commit_index"] >= broker["applied_index"] > 0
        index, value = broker["digest"]
        assert index % 256 == 0 and value >= 0
        os.kill(broker["pid"], 0)
    assert [worker["node"] for worker in status["workers"]] == ["w1", "w2"]
    for worker in status["workers"]:
        assert set(worker) == WORKER_KEYS
        assert (worker["slots"], worker["running"], worker["waiting"]) == (2, 0, 0)
        assert len(worker["children"]) == 2 + 1, "one for each slot, and the event loop"
        assert sorted(worker["children"]) == sorted(children(children(worker["pid"])[0]))
    queue = row(status["queues"], "default")
    assert set(queue) == QUEUE_KEYS
    assert queue["completed"] >= 10
    assert [queue[key] for key in ("ready", "waiting", "running", "delayed", "dead", "parked")] == [0] * 6


def test_status_as_tables_shows_the_same_to_people(cluster: LocalCluster) -> None:
    found = command_line("cluster", "status", str(cluster.topology))
    assert found.returncode == 0
    for word in ("leader b", "brokers", "workers", "queues", "follower", "w1", "w2", "commit", "cancelled", "expired"):
        assert word in found.stdout


def test_status_of_a_cluster_that_is_down_says_so(tmp_path: Path) -> None:
    topology = make_topology(tmp_path)
    found = command_line("cluster", "status", str(topology), "--json", "--deadline", "0.5")
    assert found.returncode == 0
    status = json.loads(found.stdout)
    assert (status["leader"], status["workers"], status["queues"]) == (None, [], [])
    assert [broker["role"] for broker in status["brokers"]] == ["down"] * 3
    assert all(set(broker) == BROKER_KEYS for broker in status["brokers"])
    found = command_line("cluster", "brokers", str(topology), "--deadline", "0.5")
    assert found.returncode == 0
    assert found.stdout.startswith("no broker answers: the cluster does not run, or cannot be reached from here\n")


# -- submit ------------------------------------------------------------------------------------------------------


def test_submit_prints_the_id_or_waits_for_the_result_as_json(cluster: LocalCluster) -> None:
    topology = str(cluster.topology)
    found = command_line("cluster", "submit", topology, "cluster_tasks:add", "20", "22", "--wait")
    assert (found.returncode, found.stdout) == (0, "42\n")
    assert re.fullmatch(r"task \d+\n", found.stderr), "known before the result is"
    found = command_line("cluster", "submit", topology, "cluster_tasks:add", "20", "--keyword", "right=5", "--wait")
    assert (found.returncode, found.stdout) == (0, "25\n")
    found = command_line("cluster", "submit", topology, "cluster_tasks:later", "word", "--wait")
    assert (found.returncode, found.stdout) == (0, '"word!"\n')
    found = command_line("cluster", "submit", topology, "cluster_tasks:add", "-5", "--wait")
    assert (found.returncode, found.stdout) == (0, "-4\n")
    found = command_line("cluster", "submit", topology, "cluster_tasks:add", "1")
    assert found.returncode == 0

    async def result() -> object:
        async with Client.connect(topology) as client:
            return await client.handle(int(found.stdout)).result(timeout=10)

    assert run(result()) == 2


def test_submit_says_that_another_task_did_the_work_whose_result_it_prints(cluster: LocalCluster) -> None:
    call = ("cluster", "submit", str(cluster.topology), "--dedup", "said", "--dedup-window", "1m", "--wait")
    first = command_line(*call, "cluster_tasks:add", "1")
    again = command_line(*call, "cluster_tasks:add", "2")
    assert (first.stdout, again.stdout) == ("2\n", "2\n")
    (task,) = re.findall(r"task (\d+)", first.stderr)
    assert first.stderr == f"task {task}\n"
    assert re.search(rf"^task \d+ is a duplicate: task {task} did its work$", again.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("cluster_tasks:fail", "no luck", "--wait"), 1, "error: TaskFailed: ValueError: no luck"),
        (("cluster_tasks:exit_at_once", "3", "--wait"), 1, "error: TaskDead: gave up after 3 attempts"),
        (("cluster_tasks:worker_of", "1"), 2, "error: cluster_tasks:worker_of is not a @task"),
        (("cluster_tasks:nothing",), 2, "error: cluster_tasks:nothing is not a @task"),
        (("no_such_module:add", "1"), 2, "error: module 'no_such_module' cannot be imported"),
        (("cluster_tasks.add", "1"), 2, "write MODULE:FUNCTION"),
        (("cluster_tasks:add",), 2, "missing a required argument: 'left'"),
        (("cluster_tasks:add", "1", "2", "3"), 2, "too many positional arguments"),
        (("cluster_tasks:later", '{"a":'), 2, '{"a": is not valid JSON: '),
        (("cluster_tasks:add", "1", "--wiat"), 2, "--wiat"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_submit_says_what_is_wrong_in_one_line(
    cluster: LocalCluster, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found = command_line("cluster", "submit", str(cluster.topology), *arguments)
    assert found.returncode == status
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    if said := re.match(r"task (\d+)\n", found.stderr):
        assert f"(task {said[1]})" in found.stderr.splitlines()[-1]


def test_submit_where_nobody_listens_is_unavailable_by_the_deadline(tmp_path: Path) -> None:
    topology = make_topology(tmp_path)
    found = command_line("cluster", "submit", str(topology), "cluster_tasks:add", "1", "--deadline", "0.5")
    assert found.returncode == 1
    assert found.stderr.startswith("error: Unavailable: no session in 0.5 s: no leader answered (b1 127.0.0.1:")
    assert found.stderr.endswith("; `quorumq status` says why\n")


def test_submit_takes_the_options_of_a_task(cluster: LocalCluster) -> None:
    topology = str(cluster.topology)
    options = ("--queue", "later", "--priority", "8", "--delay", "1h", "--retry", "2", "--timeout", "90")
    found = command_line("cluster", "submit", topology, "cluster_tasks:add", "1", *options)
    assert found.returncode == 0, found.stderr

    async def look() -> TaskInfo:
        async with Client.connect(topology) as client:
            info = await client.task(int(found.stdout))
            await client.cancel([info.id])
            return info

    info = run(look())
    assert (info.queue, info.priority, info.delayed, info.retries, info.timeout_s) == ("later", 8, True, 2, 90.0)
    for wrong, says in ((("--priority", "77"), "priority: 77 is out of range"), (("--delay", "soon"), '"soon" is no')):
        found = command_line("cluster", "submit", topology, "cluster_tasks:add", "1", *wrong)
        assert found.returncode == EXIT_OPERATOR and says in found.stderr


def test_a_wait_for_a_task_that_nobody_can_run_says_so_after_two_seconds(cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "cluster", "submit", str(cluster.topology), "cluster_tasks:add", "1"]
    with subprocess.Popen([*command, "--queue", "nobody", "--wait"], stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("task ")
        line = waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(DEADLINE_S) == 1
    assert line.startswith("waiting: no worker announces cluster_tasks:add for queue nobody")


# -- single tasks ------------------------------------------------------------------------------------------------


def test_tasks_are_listed_and_shown_with_what_became_of_them(cluster: LocalCluster, tmp_path: Path) -> None:
    topology = str(cluster.topology)
    folder = str(tmp_path)

    async def work() -> list[int]:
        async with Client.connect(topology) as client:
            handles = [
                await client.submit(fail.options(queue="default"), "[bold] luck"),
                await client.submit(exit_at_once, 3),
                await client.submit(hold, folder, 1),
            ]
            for handle in handles[:2]:
                await handle.wait()
            return [handle.id for handle in handles]

    failed, dead, held = run(work())
    try:
        cluster.wait_for(lambda status: any(worker["running"] for worker in status["workers"]))
        found = command_line("cluster", "tasks", "list", topology, "--limit", "0", "--json")
        assert found.returncode == 0, found.stderr
        rows = {row["id"]: row for row in map(json.loads, found.stdout.splitlines())}
        assert rows[failed]["error"] == "ValueError: [bold] luck"
        assert (rows[dead]["state"], rows[dead]["crashes"], rows[dead]["attempt"]) == ("dead", 3, 3)
        assert (rows[held]["state"], rows[held]["running"]) == ("processing", True)
        assert rows[held]["worker"] in ("w1", "w2") and rows[held]["slot"] in (0, 1)
        found = command_line("cluster", "tasks", topology, "--state", "failed", "--state", "processing", "--limit", "1")
        assert found.returncode == 0
        assert "there are more than these 1, which need not be the newest: --state" in found.stderr
        found = command_line("cluster", "tasks", topology, "--state", "processing")
        assert str(held) in found.stdout and "running" in found.stdout and str(failed) not in found.stdout
        found = command_line("cluster", "tasks", "show", topology, str(dead))
        assert found.stdout.count("exit code 3") >= 3 and "last words of 3" in found.stdout
        shown = json.loads(command_line("cluster", "tasks", "show", topology, str(failed), "--json").stdout)
        (attempt,) = shown["attempts"]
        assert (attempt["outcome"], attempt["error_message"]) == ("failed", "[bold] luck")
        assert "Traceback" in attempt["traceback"]
        assert (shown["args"], shown["kwargs"], shown["progress"]) == (["[bold] luck"], {}, None)
        found = command_line("cluster", "tasks", "show", topology, str(held))
        assert f'arguments     "{folder}", 1\n' in found.stdout
    finally:
        (tmp_path / "go").touch()
    found = command_line("cluster", "tasks", "show", topology, "5")
    assert found.returncode == 1
    assert found.stderr.startswith("error: TaskNotFound: the cluster has no record of task 5: ")


def test_result_tells_by_its_exit_status_what_became_of_a_task(cluster: LocalCluster) -> None:
    topology = str(cluster.topology)

    async def work() -> list[int]:
        async with Client.connect(topology) as client:
            late = add.options(delay="1h")
            submits = [(add, 1), (fail, "luck"), (exit_at_once, 3), (late, 1), (late, 2)]
            handles = [await client.submit(task, argument) for task, argument in submits]   # type: ignore[arg-type]
            handles.append(await client.submit(add.options(queue="nobody", expires=0.001), 1))
            await handles[-1].wait()
            return [handle.id for handle in handles]

    done, failed, dead, late, cancelled, expired = run(work())
    found = command_line("cluster", "cancel", topology, str(cancelled), str(done), "5", "--grace", "1s")
    assert found.returncode == 1 and found.stdout.splitlines()[::2] == [f"{cancelled} cancelled", "5 unknown"]
    for task, status, says in (
        (failed, 3, "error: TaskFailed: ValueError: luck"),
        (dead, 4, "error: TaskDead: gave up after 3 attempts"),
        (cancelled, 5, "error: TaskCancelled: "),
        (expired, 6, "error: TaskExpired: "),
        (5, 1, "error: TaskNotFound: "),
    ):
        found = command_line("cluster", "result", topology, str(task))
        assert (found.returncode, found.stdout) == (status, ""), found
        assert found.stderr.startswith(says)
    found = command_line("cluster", "result", topology, str(late), "--timeout", "100ms")
    assert found.returncode == 7
    found = command_line("cluster", "result", topology, str(done))
    assert (found.returncode, found.stdout, found.stderr) == (0, "2\n", "")


def test_top_prints_one_picture_for_a_script(cluster: LocalCluster) -> None:
    found = command_line("cluster", "top", str(cluster.topology), "--once")
    assert found.returncode == 0
    for word in ("tasks/s", "default", "w1", "w2", "b3", "follower"):
        assert word in found.stdout


def test_top_draws_until_q_on_a_terminal(cluster: LocalCluster) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cluster", "top", str(cluster.topology)]
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        while b"tasks/s" not in seen:               # the second picture: there are rates
            seen += os.read(ours, 65_536)
        os.write(ours, b"q")
        with suppress(OSError):                     # of a terminal whose other side is closed
            while os.read(ours, 65_536):
                pass
        assert process.wait(DEADLINE_S) == 0
    os.close(ours)
    assert b"default" in seen and b"w1" in seen


def test_the_command_completes_what_a_shell_asks_it() -> None:
    """As a shell asks it: the words so far in the environment."""
    asked = {"_QUORUMQ_COMPLETE": "bash_complete", "COMP_WORDS": "quorumq tasks sh", "COMP_CWORD": "2"}
    found = subprocess.run(
        [sys.executable, "-m", "cluster"], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "plain,show\n")


def test_no_majority_is_told_from_a_cluster_that_is_down(cluster: LocalCluster) -> None:
    topology = str(cluster.topology)
    status = cluster.status()
    away = [row for row in status["brokers"] if row["node"] != status["leader"]]
    with stopped(*[row["pid"] for row in away]):
        found = command_line("cluster", "status", topology, "--deadline", "1")
        assert found.returncode == 0
        names = ", ".join(row["node"] for row in away)
        assert found.stdout.startswith(f"no majority: 1 of 3 brokers can vote, 2 are needed; {names} are down\n")
        assert found.stdout.count("not known without a leader") == 3
        found = command_line("cluster", "queues", topology, "--deadline", "0.5")
        assert found.returncode == 1 and found.stderr.startswith("error: queues are not known: no majority: ")
        found = command_line("cluster", "tasks", topology, "--stale", "--limit", "2", "--json")
        assert found.returncode == 0 and len(found.stdout.splitlines()) == 2
    cluster.wait_for(lambda status: status["leader"] is not None)


@pytest.mark.parametrize("command", [("cluster", "status"), ("cluster", "submit"), ("cluster.launch",)])
def test_a_topology_that_is_not_there_or_wrong_is_one_line_and_status_2(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    rest = ("cluster_tasks:add", "1") if command[-1] == "submit" else ()
    shutil.copy(Path(__file__).with_name("cluster_tasks.py"), tmp_path)
    path = tmp_path / "topology.toml"
    found = command_line(*command, str(path), *rest)
    assert (found.returncode, found.stderr) == (2, f"error: {path}: No such file or directory\n")
    path.write_text("[cluster\n")
    found = command_line(*command, str(path), *rest)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {path}: not valid TOML: ")


# -- launch: what is wrong with the topology ---------------------------------------------------------------------


EDITS: list[tuple[str, Callable[[str], str], str]] = [
    (
        "unknown key",
        lambda text: text.replace("slots = 1", "slot = 1", 1),
        "{line}: unknown key 'slot' in [worker]; did you mean 'slots'?",
    ),
    (
        "unknown table",
        lambda text: text.replace("[[worker]]", "[[workers]]"),
        "{line}: unknown table [workers]; did you mean 'worker'?",
    ),
    (
        "duplicate name",
        lambda text: text.replace('name = "w2"', 'name = "b1"'),
        "{line}: name 'b1' is taken by a broker",
    ),
    (
        "2 brokers",
        lambda text: text[: text.index('[[broker]]\nname = "b3"')] + text[text.index("[[worker]]") :],
        "{line}: 2 brokers: use 3, 5 or 7 (1 for development)",
    ),
    (
        "not loopback",
        lambda text: text.replace("127.0.0.1", "192.0.2.1", 1),
        "{line}: address = '192.0.2.1:{port}' is not a loopback address",
    ),
    (
        "same port",
        lambda text: text.replace('name = "b1"', 'name = "b1"\nbulk_address = "127.0.0.1:{port}"'),
        "{line}: 'b1': bulk_address 127.0.0.1:{port} is already the address of 'b1'",
    ),
    (
        "wrong type",
        lambda text: text.replace("slots = 1", 'slots = "1"', 1),
        "{line}: slots = '1': must be a whole number",
    ),
]
LINES = {
    "unknown key": "slot = 1",
    "unknown table": "[[workers]]",
    "duplicate name": 'name = "b1"',
    "2 brokers": "[[broker]]",
    "not loopback": "192.0.2.1",
    "same port": "bulk_address",
    "wrong type": "slots",
}


@pytest.mark.parametrize(("what", "edit", "message"), EDITS, ids=[edit[0] for edit in EDITS])
def test_a_wrong_topology_is_refused_with_its_line(
    tmp_path: Path, what: str, edit: Callable[[str], str], message: str
) -> None:
    path = make_topology(tmp_path)
    text = path.read_text()
    port = text[text.index("127.0.0.1:") :].partition('"')[0].rpartition(":")[2]
    wrong = edit(text).replace("{port}", port)
    path.write_text(wrong)
    numbers = [number for number, line in enumerate(wrong.splitlines(), 1) if LINES[what] in line]
    line = numbers[-1] if what == "duplicate name" else numbers[0]
    output = refused(path)
    assert output.startswith(f"error: {path}:" + message.format(line=line, port=port)), output
    assert output.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_node_that_the_topology_does_not_name_is_refused(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    assert refused(path, "--node", "b9") == f"error: {path}: no node is named 'b9'\n"


def test_a_topology_without_a_node_of_this_machine_asks_for_one(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    text = path.read_text().replace("127.0.0.1", "192.0.2.1").replace("slots = 1", 'slots = 1\nhost = "192.0.2.1"')
    path.write_text(text.replace("[cluster]", "[cluster]\ninsecure = true"))
    assert refused(path) == (
        f"error: {path}: no node has an address of this machine; start each with --node NAME\n"
    )


# -- launch: one node --------------------------------------------------------------------------------------------


def test_nodes_may_be_launched_one_by_one(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1)
    started: dict[str, subprocess.Popen[str]] = {}

    def launch(names: list[str]) -> None:
        if not names:
            work()
            return
        with launched(path, "--node", names[0]) as process:
            started[names[0]] = process
            launch(names[1:])

    def work() -> None:
        whole = LocalCluster(path)
        whole.wait_ready()
        status = whole.wait_for(lambda status: all(broker["pid"] for broker in status["brokers"]))
        for broker in status["brokers"]:
            node = started[broker["node"]]
            assert children(children(node.pid)[0]) == [broker["pid"]], "this node and no other"
        found = command_line("cluster", "submit", str(path), "cluster_tasks:add", "1", "--wait")
        assert found.stdout == "2\n"
        for process in reversed(started.values()):
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0

    launch(["b1", "b2", "b3", "w1"])
