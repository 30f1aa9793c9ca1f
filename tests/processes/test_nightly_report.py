"""The example of a nightly report on real processes: of three replicas one is killed, and one stopped in its turn."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from cluster_rig import wait_until

from cluster import BlockingClient
from cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]
EVERY_S = 4.0
TAKES_S = 1.0


@contextmanager
def replica(cluster: LocalCluster, database: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    call = [sys.executable, "-m", "examples.nightly_report.report", str(cluster.topology), str(database)]
    options = ["--replica", name, "--every", str(EVERY_S), "--takes", str(TAKES_S)]
    with (database.parent / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*call, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def holder(client: BlockingClient, but: str = "") -> str:
    """The replica that has its turn, if it is not this one; "" for nobody."""
    notes = [one.note for info in client.locks("nightly-report") for one in info.holders]
    return notes[0] if notes and notes[0] != but else ""


def log_of(database: Path, name: str) -> str:
    return (database.parent / f"{name}.log").read_text()


def test_a_report_is_written_every_night_whichever_replica_is_killed_or_stopped_in_its_turn(
    cluster: LocalCluster, client: BlockingClient, tmp_path: Path
) -> None:
    database = tmp_path / "reports.db"
    with ExitStack() as stack:
        replicas = {name: stack.enter_context(replica(cluster, database, name)) for name in ("r1", "r2", "r3")}
        wait_until("somebody has its turn", lambda: holder(client))
        killed = holder(client)
        replicas[killed].kill()
        wait_until("another one has its turn", lambda: holder(client, but=killed))
        stopped = holder(client, but=killed)
        replicas[stopped].send_signal(signal.SIGSTOP)
        (left,) = set(replicas) - {killed, stopped}
        wait_until("the last one has its turn", lambda: holder(client, but=stopped) == left)
        wait_until("it has written its report", lambda: f"{left} wrote night" in log_of(database, left))
        replicas[stopped].send_signal(signal.SIGCONT)
        wait_until("the other one finds out", lambda: f"{stopped} lost night" in log_of(database, stopped))
        before = len(nights(database))
        wait_until("two more nights have passed", lambda: len(nights(database)) >= before + 2)
    written = nights(database)
    assert len({night for night, _, _ in written}) == len(written), "a night has one report"
    fences = [fence for _, fence, _ in written]
    assert fences == sorted(fences)
    assert killed not in {name for _, _, name in written}
    lines = "".join(log_of(database, name) for name in replicas)
    for night, _, name in written[:-1]:         # the last one may not have said it yet
        assert lines.count(f"wrote night {night}\n") == 1, f"{name} wrote night {night}"


def nights(database: Path) -> list[tuple[int, int, str]]:
    """Night, fence and replica of each report."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT night, fence, replica FROM reports ORDER BY night").fetchall()
