"""One replica of an application that writes a report every night. Start as many as you like, on any machine:

    python -m examples.nightly_report.report TOPOLOGY DATABASE [--every 86400] [--takes 0] [--nights 0]

Every replica wants to do the job when the night comes, and one has the turn. If that one dies or hangs, another one
takes over. The database refuses a replica that was stopped in its turn and wakes up behind its successor, by the fence.
"""

import argparse
import signal
import sqlite3
import sys
import time
from pathlib import Path

from cluster import BlockingClient, Client, LockBusy, LockLost

TABLE = "CREATE TABLE IF NOT EXISTS reports (night INTEGER PRIMARY KEY, fence INTEGER, replica TEXT, text TEXT)"
WRITE = "INSERT INTO reports VALUES (:night, :fence, :replica, :text) ON CONFLICT DO NOTHING"
BEGIN = "INSERT INTO turns VALUES (0, :fence) ON CONFLICT DO UPDATE SET fence = :fence WHERE fence < :fence"


class Reports:
    """The reports of all nights, in a file that all replicas write to."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        self.database.execute(TABLE)
        self.database.execute("CREATE TABLE IF NOT EXISTS turns (id INTEGER PRIMARY KEY, fence INTEGER)")

    def has(self, night: int) -> bool:
        return self.database.execute("SELECT 1 FROM reports WHERE night = ?", (night,)).fetchone() is not None

    def begin(self, fence: int) -> None:
        """From now on whoever has a lower fence is refused."""
        self.database.execute(BEGIN, {"fence": fence})

    def write(self, night: int, fence: int, replica: str, text: str) -> bool:
        """False if a later turn has begun, or the report is there."""
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            (newest,) = database.execute("SELECT fence FROM turns").fetchone()
            row = {"night": night, "fence": fence, "replica": replica, "text": text}
            return newest == fence and database.execute(WRITE, row).rowcount == 1
        finally:
            database.execute("COMMIT")


def main() -> None:
    parser = argparse.ArgumentParser(description="One replica of an application that writes a report every night.")
    parser.add_argument("topology")
    parser.add_argument("database", type=Path)
    parser.add_argument("--replica", default="replica", help="who this is, for people")
    parser.add_argument("--every", type=float, default=86_400, help="seconds between two nights")
    parser.add_argument("--takes", type=float, default=0, help="seconds that the work takes")
    parser.add_argument("--nights", type=int, default=0, help="end after so many; 0 = never")
    options = parser.parse_args()
    # Else the end of a deployment would keep the turn from others for its hold time.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reports = Reports(options.database)
    last = int(time.time() / options.every) + options.nights
    with Client.open(options.topology) as cluster:
        while True:
            night = int(time.time() / options.every)
            if options.nights and night > last:
                return
            if not reports.has(night):
                say(options.replica, have_a_turn(cluster, reports, night, options))
            time.sleep(options.every / 10)


def have_a_turn(cluster: BlockingClient, reports: Reports, night: int, options: argparse.Namespace) -> str:
    """What came of it."""
    try:
        with cluster.exclusive("nightly-report", at_most="10m", hold="2s", note=options.replica) as turn:
            reports.begin(turn.fence)
            say(options.replica, f"begins night {night}")
            text = work(options.takes)
            # Asks the clock, so it is right also if this process was stopped. But it may be stopped behind this line.
            turn.assert_held()
            written = reports.write(night, turn.fence, options.replica, text)
            return f"{'wrote' if written else 'was refused'} night {night}"
    except LockBusy:
        return ""
    except LockLost as lost:
        return f"lost night {night}: {lost}"


def work(seconds: float) -> str:
    time.sleep(seconds)
    return f"all is well, after {seconds:g} s of looking"


def say(replica: str, text: str) -> None:
    if text:
        sys.stdout.write(f"{replica} {text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
