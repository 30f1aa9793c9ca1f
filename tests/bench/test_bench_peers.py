"""What `make bench-peers` counts and says. Servers are for the benchmark itself."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers import work
from bench.peers.client import Session
from bench.peers.fates import Fates, fates, runs_in
from bench.peers.peers import all_peers
from bench.peers.processes import Conversation, PeerFailed, end, free_ports, start, tail
from bench.peers.report import TITLES, Report, Row, load, markdown, merged, number, save

ROOT = Path(__file__).parents[2]
DURABLE = {"-", "majority", "majority (queue), - (results)", "1 node (queue), - (results)"}     # as docs/performance.md


def test_a_confirmed_task_without_a_run_is_lost_and_one_with_two_is_repeated():
    assert fates([1, 2, 3, 4], [1, 2, 2, 4, 4, 4]) == Fates(confirmed=4, lost=1, repeated=2)


def test_runs_of_tasks_that_were_never_confirmed_are_not_counted():
    assert fates([1], [1, 7, 7]) == Fates(confirmed=1, lost=0, repeated=0)


def test_a_task_is_confirmed_once():
    with pytest.raises(AssertionError, match="confirmed twice"):
        fates([1, 1], [1])


def test_a_mark_is_a_line_in_the_file_of_its_process(tmp_path, monkeypatch):
    monkeypatch.setenv(work.RUNS_FOLDER, str(tmp_path))
    assert [work.mark(number, work.PAYLOAD) for number in (5, 6, 5)] == [5, 6, 5]
    assert sorted(runs_in(tmp_path)) == [5, 5, 6]


def test_a_line_that_is_just_being_written_is_not_read(tmp_path):
    (tmp_path / "ran.1").write_text("10\n1")
    (tmp_path / "ran.2").write_text("")
    assert runs_in(tmp_path) == [10]


class Memory:
    """A queue that refuses every third submit, and forgets the results of even numbers."""

    async def mark(self, number: int) -> int:
        if number % 3 == 2:
            raise ConnectionError("away")
        return number

    async def readable(self, receipt: int) -> bool:
        if receipt % 2 == 0:
            raise KeyError(receipt)
        return True


def test_submits_that_raise_are_not_repeated_and_others_take_their_place():
    said: list[dict[str, int]] = []
    session = Session(Memory(), said.append)
    answer = asyncio.run(session.mark(4))
    assert answer == {"confirmed": [0, 1, 3, 4], "errors": ["ConnectionError"]}


def test_results_that_cannot_be_read_are_counted_as_such():
    session = Session(Memory(), print)
    asyncio.run(session.mark(4))
    assert asyncio.run(session.read(0)) == {"read": 2}


ROWS = [
    Row("huey-redis", "-", "polled", [4_000.0, 5_000.0, 4_833.0], 1.4, 12.34, Fates(2_000, 600, 3), 7, 1_000),
    Row("quorumq-map", "majority", "three brokers", [94_900.0], 1.91, 3.0, Fates(2_000, 0, 0), 0, 2_000),
    Row("taskiq-redis", "-", "list", failed="PeerFailed: warm: no answer"),
]
REPORT = Report("2 cores", {"huey": "3.5.4", "CPython": "3.11.7"}, ROWS)


def test_the_table_has_the_quickest_first_and_says_why_a_row_is_empty():
    lines = markdown(REPORT).splitlines()
    assert lines[2] == "| **quorumq, 3 brokers, `map`** | 94,900 | 1.91 | 3.00 | majority | 2,000 | 0 | 0 | 2,000 |"
    assert lines[3] == "| huey + redis | 4,833 (4,000 - 5,000) | 1.40 | 12.3 | - | 2,000 | 600 | 3 | 1,000 |"
    assert lines[4] == "| taskiq + redis list | - | - | - | - | - | - | - | - |"
    assert "- taskiq + redis list: PeerFailed: warm: no answer" in lines
    assert lines[-1].startswith("2 cores. Versions: CPython 3.11.7, huey 3.5.4. Settings: ")


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.583, "0.58"), (12.34, "12.3"), (60_100.4, "60,100")])
def test_numbers_have_three_digits_that_mean_something(value, shown):
    assert number(value) == shown


def test_a_report_is_read_as_it_was_written(tmp_path):
    save(REPORT, tmp_path / "new/peers.json")
    assert load(tmp_path / "new/peers.json") == REPORT


def test_a_run_of_one_peer_replaces_its_row_and_no_other():
    again = Row("huey-redis", "-", rates=[5_100.0])
    both = merged(REPORT, Report("4 cores", {"huey": "3.6"}, [again]))
    assert [row.name for row in both.rows] == ["quorumq-map", "taskiq-redis", "huey-redis"]
    assert both.rows[-1] == again
    assert both.versions == {"huey": "3.6", "CPython": "3.11.7"}
    assert merged(None, REPORT) == REPORT


def test_every_peer_has_a_name_a_title_and_a_known_word_for_what_is_durable():
    peers = all_peers(Path(sys.executable))
    assert [peer.name for peer in peers] == list(TITLES)
    assert {peer.durable for peer in peers} == DURABLE
    assert all(peer.settings for peer in peers)


def client_of(script: str, folder: Path) -> Conversation:
    return Conversation([sys.executable, "-u", "-c", script], folder / "client.log", {})


def test_a_client_that_reports_and_answers_is_understood(tmp_path):
    client = client_of('input(); print(\'{"so_far": 50}\'); print(\'{"done": {"seconds": 1.5}}\'); input()', tmp_path)
    seen: list[int] = []
    try:
        assert client.ask("throughput", 100, 30.0, seen.append) == {"seconds": 1.5}
    finally:
        client.end()
    assert seen == [50]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("input(); input()", "warm: no answer of the client within 0 s"),
        ("input(); raise SystemExit('no broker')", "warm: the client ended: no broker"),
        ("input(); print('{\"error\": \"ValueError: x\"}'); input()", "warm: ValueError: x"),
    ],
)
def test_a_client_without_an_answer_is_a_failure_with_its_reason(script, reason, tmp_path):
    client = client_of(script, tmp_path)
    timeout_s = 0.2 if "no answer" in reason else 30.0
    try:
        with pytest.raises(PeerFailed, match=reason):
            client.ask("warm", 1, timeout_s)
    finally:
        client.end()


def test_ending_a_process_ends_what_it_started(tmp_path):
    process = start(["sh", "-c", "sleep 600 & echo started; wait"], tmp_path / "log", {}, talks=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    end(process)
    assert process.stdout.read() == "", "it ends when nobody holds the pipe any more"


def test_a_tail_is_the_last_line_that_says_something(tmp_path):
    (tmp_path / "log").write_text("one\ntwo\n\n  \n")
    assert tail(tmp_path / "log") == "two"
    assert tail(tmp_path / "none") == "it said nothing"


def test_without_root_the_set_up_names_the_packages_that_are_missing(tmp_path):
    for name, script in (("dpkg-query", "exit 1"), ("id", "echo 1000"), ("apt-get", "exit 9")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "bench/peers/setup.sh", str(tmp_path / "venv"), sys.executable, "redis-server", "etcd-server"],
        cwd=ROOT, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("As root: apt-get install --no-install-recommends redis-server etcd-server\n")
    assert not (tmp_path / "venv").exists()


def test_free_ports_are_all_different():
    assert len(set(free_ports(8))) == 8
