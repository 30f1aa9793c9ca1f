"""What `launch` cannot run: one line says what is wrong and what to do, status 2, and what runs is not disturbed."""

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_rig import (
    DEADLINE_S,
    Status,
    descendants,
    launched,
    make_topology,
    refused,
    run,
    running,
    until,
    wait_until,
)
from cluster_tasks import add, hold
from disk_rig import fill, needs_mounts, on_a_disk

from cluster import Client
from cluster.local import LocalCluster
from cluster.topology import BULK_PORT_OFFSET

LOCK_PATIENCE_S = 10.0
UNGREETED = re.compile(r"time=\S+ event=(garbage|peer_events_suppressed) node=(?!b1 )")
SLACK_S = 5.0               # for starting and stopping on a busy machine; half a second is expected


def one_line(output: str) -> str:
    """A refusal says one thing: no event, no traceback. Its neighbours had begun, and are ended in the middle of their
    handshakes; that a connection was none is all that they may say.
    """
    lines = [line for line in output.splitlines() if not UNGREETED.match(line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), output
    return lines[0]


# -- launch: what is wrong with this machine ---------------------------------------------------------------------


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    text = path.read_text()
    address = text[text.index("127.0.0.1:") :].partition('"')[0]
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        said = one_line(refused(path))
    assert said == (
        f"error: node 'b1' cannot run: address {address} is in use; "
        "stop what listens there, or give this broker another `address` in the topology"
    )


def test_a_bulk_port_in_use_is_said_to_be_one_since_nobody_wrote_its_number(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    text = path.read_text()
    address = text[text.index("127.0.0.1:") :].partition('"')[0]
    port = int(address.rpartition(":")[2]) + BULK_PORT_OFFSET
    with socket.create_server(("127.0.0.1", port)):
        said = one_line(refused(path))
    assert said == (
        f"error: node 'b1' cannot run: address 127.0.0.1:{port} is in use; it is this broker's bulk port, 1000 above "
        "that of its `address` unless `bulk_address` says another; stop what listens there, or give this broker "
        "another of these in the topology"
    )


def test_a_module_that_cannot_be_imported_is_named_with_its_traceback(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    path.write_text(path.read_text().replace("cluster_tasks", "broken_tasks"))
    (tmp_path / "broken_tasks.py").write_text("from cluster import task\nimport no_such_thing\n")
    output = refused(path)
    assert output.count("Traceback") == 1, "that of the module: here it is what an operator needs"
    said = output[output.index("error: node 'w") :].splitlines()
    assert said[0].endswith("cannot run: module broken_tasks cannot be imported:")
    assert said[1].startswith("Traceback")
    assert any(f'File "{tmp_path}/broken_tasks.py", line 2' in line for line in said)
    assert said[-1] == "ModuleNotFoundError: No module named 'no_such_thing'"


def test_a_module_that_does_not_exist_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    path = make_topology(tmp_path)
    path.write_text(path.read_text().replace("cluster_tasks", "absent_tasks"))
    output = refused(path)
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith("error: node 'w")
    assert "module absent_tasks cannot be imported: No module named 'absent_tasks' (looked beside the topology" in last


@pytest.mark.parametrize("place", ["a file", "below a file", "/sys/quorumq", "/proc/quorumq"])
def test_a_data_path_that_cannot_be_used_is_named(tmp_path: Path, place: str) -> None:
    path = make_topology(tmp_path)
    (tmp_path / "a file").write_text("this is no folder")
    data = {"a file": tmp_path / "a file", "below a file": tmp_path / "a file" / "data"}.get(place, Path(place))
    path.write_text(path.read_text().replace('data = "data"', f'data = "{data}"'))
    said = one_line(refused(path))
    assert said.startswith("error: node 'b")
    assert f"the data directory '{data}" in said


@needs_mounts
@pytest.mark.parametrize(
    ("options", "said", "advice"),
    [
        ("nr_inodes=1", "No space left on device (ENOSPC)", "make room on that disk"),
        ("ro", "Read-only file system (EROFS)", "mount it writable"),
    ],
)
@pytest.mark.parametrize("node", ["b1", "w1"])
def test_a_disk_that_is_full_or_read_only_at_the_start_is_named(
    tmp_path: Path, options: str, said: str, advice: str, node: str
) -> None:
    path = make_topology(tmp_path)
    data = tmp_path / "data"
    line = one_line(refused(path, "--node", node, within=on_a_disk(data, options)))
    refusal = f"error: node {node!r} cannot run: the data directory '{data}/{node}' cannot be used: "
    assert line.startswith(refusal + said)
    assert advice in line


@needs_mounts
def test_a_disk_that_fills_up_later_is_waited_for(tmp_path: Path) -> None:
    """A broker that ran is no reason to stop its neighbours: it tries again until there is room."""
    path = make_topology(tmp_path, brokers=1, workers=1)

    async def work() -> None:
        async with Client.connect(path) as client:
            assert await (await client.submit(add, 1)).result(timeout=DEADLINE_S) == 2

    with launched(path, within=on_a_disk(tmp_path / "data", "size=200m")) as launch:
        alone = LocalCluster(path)
        alone.wait_ready()
        run(work())
        disk = Path(f"/proc/{launch.pid}/root{tmp_path}/data")     # as that process sees it
        assert launch.stdout is not None
        wait_until("the next segment is prepared", lambda: list(disk.glob("b1/*.spare")))
        pid = alone.status()["brokers"][0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        # A start would go on in the spare, or in what is left of the segment, and need no room.
        next(disk.glob("b1/*.spare")).unlink()
        segment = max(disk.glob("b1/*.wal"))
        os.truncate(segment, len(segment.read_bytes().rstrip(b"\0")))
        fill(disk / "filler")
        os.kill(pid, signal.SIGKILL)
        while "code=75" not in (line := launch.stdout.readline()):
            assert launch.poll() is None
        assert "event=node_exited" in line and "node=b1" in line and "No space left on device" in line
        (disk / "filler").unlink()
        alone.wait_ready()
        run(work())
        launch.send_signal(signal.SIGTERM)
        output, _ = launch.communicate(timeout=DEADLINE_S)
        assert launch.returncode == 0, output


def test_the_data_of_another_broker_is_refused(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1)
    with running(path) as cluster:
        assert cluster.stop() == 0
    data = tmp_path / "data"
    shutil.rmtree(data / "b2")
    (data / "b1").rename(data / "b2")
    said = refused(path).splitlines()[-1]
    assert said.startswith("error: node 'b2' cannot run: ")
    assert str(data / "b2") in said
    assert "'b1'" in said, "whose it is"
    assert "correct `data` in the topology" in said


def test_the_data_of_another_cluster_is_refused(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1)
    with running(path) as cluster:
        assert cluster.stop() == 0
    path.write_text(path.read_text().replace('name = "tests"', 'name = "others"'))
    said = one_line(refused(path))
    assert said.startswith("error: node 'b")
    assert "'tests'" in said and "'others'" in said


# -- what runs already -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("node", [None, "b2", "w1"])
def test_a_second_launch_disturbs_nothing_and_names_the_holder(
    tmp_path: Path, node: str | None, figure: Callable[[str], None]
) -> None:
    path = make_topology(tmp_path, workers=2)

    async def begin() -> list[int]:
        async with Client.connect(path) as client:
            tasks = [await client.submit(hold, str(tmp_path), number) for number in range(2)]
            await until("they run", lambda: all((tmp_path / f"started-{number}").exists() for number in range(2)))
            return [task.id for task in tasks]

    async def end(tasks: list[int]) -> None:
        (tmp_path / "go").touch()
        async with Client.connect(path) as client:
            assert [await client.handle(task).result(timeout=DEADLINE_S) for task in tasks] == [0, 1]
            assert [record.attempts for record in await client.records(tasks)] == [1, 1]

    def pids_of(status: Status) -> dict[str, int]:
        return {row["node"]: row["pid"] for row in (*status["brokers"], *status["workers"])}

    with running(path) as cluster:
        tasks = run(begin())
        before = cluster.status()
        pids = pids_of(before)
        start = time.monotonic()
        said = one_line(refused(path, *(("--node", node) if node else ())))
        seconds = time.monotonic() - start
        assert LOCK_PATIENCE_S < seconds < LOCK_PATIENCE_S + SLACK_S
        figure(f"a second launch{f' of {node}' if node else ''} ended after {seconds:.1f} s")
        refuser = said.removeprefix("error: node '").partition("'")[0]
        assert refuser == node or (node is None and refuser in ("b1", "b2", "b3"))
        assert f"{tmp_path}/data/{refuser}/lock is locked by process {pids[refuser]}; " in said
        after = cluster.status()
        assert (after["leader"], after["term"], pids_of(after)) == (before["leader"], before["term"], pids)
        run(end(tasks))
        log = (tmp_path / "launch.log").read_text()
        assert log.count("event=worker_registered") == 2, "nobody took their names"


def test_a_second_launch_from_another_folder_that_finds_the_ports_taken_disturbs_no_worker(tmp_path: Path) -> None:
    """With data of its own it is stopped by the ports, and its workers must not have registered by then."""
    path = make_topology(tmp_path / "one", workers=1)
    with running(path) as cluster:
        (tmp_path / "two").mkdir()
        copy = Path(shutil.copy(path, tmp_path / "two"))
        shutil.copy(path.with_name("cluster_tasks.py"), tmp_path / "two")
        assert "is in use" in one_line(refused(copy))
        assert cluster.status()["workers"][0]["pid"]
        assert (path.with_name("launch.log")).read_text().count("event=worker_registered") == 1


def test_a_new_launch_waits_for_the_end_of_the_old_one(tmp_path: Path) -> None:
    path = make_topology(tmp_path, workers=1)
    with running(path) as cluster:
        assert cluster.launch is not None
        with launched(path) as second:
            # The fork server and three brokers; the worker waits for them.
            wait_until("the second launch has its processes", lambda: len(descendants(second.pid)) == 4)
            assert cluster.stop() == 0
            adopted = LocalCluster(path)
            adopted.wait_ready()
            assert second.poll() is None
            second.send_signal(signal.SIGTERM)
            assert second.wait(DEADLINE_S) == 0


