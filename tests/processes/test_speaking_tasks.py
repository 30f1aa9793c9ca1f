"""What running tasks say of themselves: progress, log, prints; and who hears it. On real processes."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_rig import broker_pid, running
from speaking_tasks import (
    cost_of_progress,
    count,
    log_and_die,
    log_and_hang,
    log_and_raise,
    log_and_return,
    log_asynchronously,
    log_from_threads,
    progress_wrongly,
    say,
    shout,
)

from cluster import BlockingClient, Client, TaskDead, TaskFailed
from cluster.local import LocalCluster, write_topology

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) .*")
LOG_BYTES_MAX = 4 * 1024
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("speaking")
    topology = write_topology(folder, name="speaking", modules=["speaking_tasks"], workers=1, slots=2)
    shutil.copy(Path(__file__).with_name("speaking_tasks.py"), folder)
    with running(topology) as started:
        yield started


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[BlockingClient]:
    with Client.open(cluster.topology) as started:
        yield started


def test_a_watcher_sees_how_far_a_task_is(client):
    handle = client.submit(count, 30, 0.1)
    events = list(handle.watch())
    kinds = [event.kind for event in events]
    assert kinds[0] in ("queued", "started") and kinds[-1] == "finished" and "started" in kinds
    said = [(event.done, event.total) for event in events if event.kind == "progress"]
    assert 3 <= len(said) <= 8 and said == sorted(said) and said[-1][1] == 30
    assert (events[-1].text, events[-1].worker) == ("completed", "w1")
    assert handle.result() == 30


def test_who_stops_watching_goes_on_with_the_client(client):
    handle = client.submit(count, 20, 0.1)
    for event in handle.watch():
        if event.kind == "progress":
            break
    progress = handle.progress()
    assert progress is not None and progress[1] == 20
    info = client.task(handle.id)
    assert info.progress is not None and info.progress >= progress and info.args == (20, 0.1)
    assert handle.result(timeout=TIMEOUT_S) == 20
    assert [event.kind for event in client.handle(handle.id).watch()] == ["finished"]


def test_progress_takes_integers_that_are_not_negative(client):
    said = {kind: client.submit(progress_wrongly, kind).result(TIMEOUT_S) for kind in ("float", "bool", "total")}
    assert all(text.startswith("TypeError: progress() takes integers, not") for text in said.values()), said
    said = {kind: client.submit(progress_wrongly, kind).result(TIMEOUT_S) for kind in ("negative", "huge")}
    assert all(text.startswith("ValueError: progress() takes numbers from 0") for text in said.values()), said


def test_progress_costs_little(client, figure):
    cost = min(client.submit(cost_of_progress, 50_000).result(TIMEOUT_S) for _ in range(3))
    figure(f"progress() {cost * 1e9:.0f} ns")
    assert cost < 10e-6


def test_the_end_of_a_long_log_is_kept_and_costs_only_its_own_task(client, figure):
    handle = client.submit(log_and_return, 50_000)
    seconds = handle.result(TIMEOUT_S)
    figure(f"a line of log {seconds / 50_000 * 1e6:.1f} us")
    log = handle.log()
    assert len(log.encode()) <= LOG_BYTES_MAX
    first, *lines = log.splitlines()
    assert first == "... (cut)" and len(lines) > 80
    assert all(LINE.fullmatch(line) for line in lines), log
    assert lines[-1].endswith("INFO line 49999")


def test_a_silent_task_has_no_log(client):
    handle = client.submit(count, 1, 0.0)
    handle.result(TIMEOUT_S)
    assert handle.log() == ""


def test_what_a_killed_task_logged_is_there(client):
    handle = client.submit(log_and_die, 300)
    with pytest.raises(TaskDead) as caught:
        handle.result(TIMEOUT_S)
    evidence = caught.value.evidence
    assert evidence.signal == 9
    assert evidence.log.endswith("WARNING line 299 of attempt 3\n") and len(evidence.log) <= LOG_BYTES_MAX
    assert handle.log() == evidence.log


def test_what_a_task_logged_before_its_time_limit_is_there(client):
    handle = client.submit(log_and_hang.options(timeout="300ms"))
    with pytest.raises(TaskFailed) as caught:
        handle.result(TIMEOUT_S)
    assert caught.value.type == "TimeLimitExceeded"
    assert LINE.fullmatch(caught.value.log.rstrip("\n")) and caught.value.log.endswith("INFO about to hang\n")


def test_a_log_takes_what_logging_takes(client):
    with pytest.raises(TaskFailed) as caught:
        client.submit(log_and_raise).result(TIMEOUT_S)
    log = caught.value.log
    assert "ERROR outer\nTraceback (most recent call last):" in log and "ValueError: inner" in log
    assert "odd \\udc80 bytes" in log and "not by default" not in log and "wrong" not in log


def test_threads_and_coroutines_of_a_task_log_to_it(client):
    threads, coroutine = client.submit(log_from_threads), client.submit(log_asynchronously)
    threads.result(TIMEOUT_S), coroutine.result(TIMEOUT_S)
    lines = threads.log().splitlines()
    assert sorted(line[-1] for line in lines) == list("01234567") and all(map(LINE.fullmatch, lines))
    assert coroutine.log().endswith("INFO from a coroutine\n")


def test_a_watcher_outlives_the_leader(client, cluster):
    handle = client.submit(count, 60, 0.1)
    kinds: list[str] = []
    for event in handle.watch():
        kinds.append(event.kind)
        if kinds.count("progress") == 2:
            os.kill(broker_pid(cluster.status(), leading=True), signal.SIGKILL)
    assert kinds[-1] == "finished" and kinds.count("finished") == 1
    assert kinds.count("progress") > 4 and "queued" not in kinds[1:]
    cluster.wait_for(lambda status: all(row["role"] in ("leader", "follower") for row in status["brokers"]))


def test_what_a_task_prints_is_what_launch_prints(client, cluster):
    client.submit(say, "hello from a task").result(TIMEOUT_S)
    output = _wait_for_output(client, cluster, "HELLO FROM A TASK")
    assert re.search(r"^w1/[01] \| hello from a task$", output, re.MULTILINE), output
    assert re.search(r"^w1/[01] \| HELLO FROM A TASK$", output, re.MULTILINE)


def test_a_task_that_prints_without_end_fills_nothing_and_holds_up_nobody(client, cluster):
    before = cluster.log.stat().st_size
    shouting = client.submit(shout, 500_000)
    client.submit(count, 1, 0.0).result(TIMEOUT_S)
    shouting.result(TIMEOUT_S)
    output = _wait_for_output(client, cluster, "bytes that were printed are left out")
    assert "| shouting 0" in output
    assert cluster.log.stat().st_size - before < 3 * 1024 * 1024


def _wait_for_output(client: BlockingClient, cluster: LocalCluster, text: str) -> str:
    """The launch's log once it has a text: prints go their own way, a moment behind results."""
    assert cluster.log is not None
    for _ in range(100):
        output = cluster.log.read_text(errors="replace")
        if text in output:
            return output
        client.submit(say, "next").result(TIMEOUT_S)
    raise AssertionError(f"{text!r} is not in {output[-4_000:]}")
