"""The example of a mailer on real processes: the rate of the mail server, and turns between tenants."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import broker_pid, running, wait_until

from cluster.local import LocalCluster, free_ports, write_topology

ROOT = Path(__file__).parents[2]
PER_SECOND = 20             # as the task says
LARGE, SMALL = 150, 5       # readers
TENANTS = ("ada", "bob", "cyd")


@pytest.fixture
def mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a mail server writes down, at which workers that are started from now on send."""
    path = tmp_path / "mails.jsonl"
    path.touch()
    *_, port = free_ports(60)       # behind those of brokers
    monkeypatch.setenv("MAILER_SMTP", f"127.0.0.1:{port}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with begun("sink", f"127.0.0.1:{port}", str(path)) as process:
        assert process.stdout is not None and "go to" in process.stdout.readline()
        yield path


@pytest.fixture
def mailer(mails: Path, tmp_path: Path) -> Iterator[LocalCluster]:
    topology = write_topology(tmp_path / "mailer", name="mailer", modules=["examples.mailer.tasks"], slots=3)
    with running(topology) as cluster:
        yield cluster


@contextmanager
def begun(program: str, *arguments: str, text: str = "") -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"examples.mailer.{program}", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def newsletter(cluster: LocalCluster, tenant: str, readers: int) -> Any:
    """The process that sends one."""
    addresses = "\n".join(f"reader{number}@{tenant}.example" for number in range(readers))
    return begun("newsletter", str(cluster.topology), tenant, "June", text=addresses)


def sent(mails: Path) -> list[dict[str, Any]]:
    """All mails so far, in the order in which they came."""
    return [json.loads(line) for line in mails.read_text().splitlines()]


def tenants(rows: list[dict[str, Any]]) -> list[str]:
    return [row["from"].removeprefix("news@").removesuffix(".example") for row in rows]


def test_the_rate_holds_for_all_workers_and_a_large_newsletter_delays_no_other_tenant(
    mailer: LocalCluster, mails: Path
) -> None:
    with newsletter(mailer, "large", LARGE) as large:
        wait_until("the large newsletter has begun", lambda: len(sent(mails)) > PER_SECOND)
        os.kill(broker_pid(mailer.status(), leading=True), signal.SIGKILL)
        for tenant in TENANTS:
            before = len(sent(mails))
            with newsletter(mailer, tenant, SMALL) as small:
                assert small.wait(60) == 0
                assert small.stdout is not None and small.stdout.read() == f"{SMALL} of {SMALL} sent\n"
            mine = tenants(sent(mails)[before:])
            first, last = mine.index(tenant), len(mine) - 1 - mine[::-1].index(tenant)
            assert last - first < 4 * SMALL, f"{tenant} had its turns: {mine}"
        assert large.poll() is None, "which has far to go"
        assert large.wait(60) == 0
    rows = sent(mails)
    assert len(rows) == LARGE + len(TENANTS) * SMALL and len({row["id"] for row in rows}) == len(rows)
    dates = [row["at"] for row in rows]
    # A mail comes some time after its start was counted, how long depends on the machine: hence a second of slack.
    for seconds in (2, 4, 6):
        steps = zip(dates, dates[PER_SECOND * seconds :], strict=False)
        assert all(late - early > seconds - 1 for early, late in steps), f"more than {PER_SECOND} a second"

    with newsletter(mailer, "large", LARGE) as again:
        assert again.wait(60) == 0
        assert again.stdout is not None
        assert again.stdout.read() == f"{LARGE} of {LARGE} sent, {LARGE} of them by an earlier call\n"
    assert len(sent(mails)) == len(rows), "nobody was written to twice"


def test_a_reader_who_stands_there_twice_is_counted_once_and_no_earlier_call_is_blamed(
    mailer: LocalCluster, mails: Path
) -> None:
    for says in ("2 of 2 sent\n", "2 of 2 sent, 2 of them by an earlier call\n"):
        with begun("newsletter", str(mailer.topology), "ada", "July", text="bob\nada\nbob\n") as process:
            assert process.wait(60) == 0
            assert process.stdout is not None and process.stdout.read() == says
    assert len(sent(mails)) == 2
