"""`make demo`: 2,000 thumbnails by a cluster of three brokers and two workers; the leader is killed half-way.

What it prints at the end comes from the brokers' records and the files on disk, not from counters of this client.
Exit status 0 only if nothing was lost: one terminal record for each task, one whole file for each, and the killed
broker restarted by its supervisor and caught up.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster import Batch, Client
from cluster.local import LocalCluster
from examples.thumbnails.tasks import Crop, thumbnail

FOLDER = Path(__file__).parent
TOPOLOGY = FOLDER / "topology.toml"
OUT = FOLDER / "out"
TASKS = 2_000
PHOTOGRAPHS = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
WIDTHS = (48, 64, 96, 128, 160)
ZOOMS = (1.0, 0.75, 0.5, 0.35)
POSITIONS_PER_ZOOM = 10
CATCH_UP_TIMEOUT_S = 30.0
RECORDS_KEPT = "2h"

assert len(PHOTOGRAPHS) * len(WIDTHS) * len(ZOOMS) * POSITIONS_PER_ZOOM == TASKS


def photographs() -> list[Path]:
    """The photographs that ship inside scikit-image."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("error: the photographs come with scikit-image: run `make venv`, or pip install quorumq[examples]")
    folder = Path(spec.origin).parent / "data"
    return [folder / name for name in PHOTOGRAPHS]


def crops() -> list[Crop]:
    """Every combination of photograph, width, zoom and position."""
    found = []
    for photograph in photographs():
        for width in WIDTHS:
            for zoom in ZOOMS:
                for position in range(POSITIONS_PER_ZOOM):
                    free = 1.0 - zoom
                    left = free * (position % 5) / 4
                    top = free * (position // 5)
                    box = (left, top, left + zoom, top + zoom)
                    name = f"{photograph.stem}-{width}-{int(zoom * 100)}-{position}.jpg"
                    found.append(Crop(str(photograph), box, width, str(OUT / name)))
    return found


class Watch:
    """Follows a batch: the longest time without a result, and the kill half-way."""

    def __init__(self, batch: Batch[tuple[int, int]], progress: Progress) -> None:
        self.batch = batch
        self.progress = progress
        self.row = progress.add_task("thumbnails", total=len(batch))
        self.longest_gap_s = 0.0
        self.killed: dict[str, Any] | None = None

    async def follow(self, cluster: Client) -> None:
        last = time.monotonic()
        done = 0
        async for _ in self.batch.as_completed():
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            done += 1
            self.progress.update(self.row, completed=done)
            if self.killed is None and done >= len(self.batch) // 2:
                self.killed = await kill_leader(cluster)
                self.progress.console.print(
                    f"killed the leader {self.killed['node']} (pid {self.killed['pid']}) with SIGKILL"
                )


async def kill_leader(cluster: Client) -> dict[str, Any]:
    status = await cluster.status()
    leader: dict[str, Any] = next(row for row in status["brokers"] if row["node"] == status["leader"])
    os.kill(leader["pid"], signal.SIGKILL)
    return leader


async def caught_up(cluster: Client, killed: dict[str, Any]) -> dict[str, Any] | None:
    """The status once the killed broker is back under another pid with everything applied; None if not in time."""
    end = time.monotonic() + CATCH_UP_TIMEOUT_S
    while time.monotonic() < end:
        status = await cluster.status()
        row = next(row for row in status["brokers"] if row["node"] == killed["node"])
        ahead = max(broker["applied_index"] or 0 for broker in status["brokers"])
        if row["pid"] not in (None, killed["pid"]) and row["role"] == "follower" and row["applied_index"] == ahead:
            return status
        await asyncio.sleep(0.1)
    return None


def whole_files(wanted: list[Crop]) -> int:
    """Files on disk that are JPEGs of the right width, from first to last byte."""
    count = 0
    for crop in wanted:
        try:
            with Image.open(crop.target) as image:
                image.load()
                count += image.width == crop.width
        except OSError:
            continue
    return count


async def run(console: Console) -> bool:
    wanted = crops()
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    async with Client.connect(TOPOLOGY) as cluster:
        before = (await cluster.status())["queues"]
        start = time.monotonic()
        # Kept for longer than the default, so that a slow machine still finds every record in the end.
        batch = await cluster.map(thumbnail.options(result_ttl=RECORDS_KEPT), wanted)
        with progress:
            watch = Watch(batch, progress)
            await watch.follow(cluster)
        seconds = time.monotonic() - start
        assert watch.killed is not None
        status = await caught_up(cluster, watch.killed)
        after = (await cluster.status())["queues"]
        records = await cluster.records(batch.ids)
    completed = sum(record.state == "completed" for record in records)
    counted = _total(after, "completed") - _total(before, "completed")
    others = sum(_total(after, key) - _total(before, key) for key in ("failed", "dead"))
    files = whole_files(wanted)
    again = sum(record.attempts > 1 for record in records)
    console.print(f"{completed} of {TASKS} tasks have a completed record, {others} failed or died (brokers' records)")
    console.print(f"{files} whole thumbnails in {OUT}")
    console.print(f"{TASKS / seconds:,.0f} tasks/s over {seconds:.1f} s, longest gap {watch.longest_gap_s:.2f} s")
    console.print(f"{again} tasks ran again")
    killed = watch.killed["node"]
    if status is None:
        console.print(f"[red]the killed broker {killed} did not catch up in {CATCH_UP_TIMEOUT_S:.0f} s[/]")
    else:
        console.print(f"{killed} was restarted by its supervisor and has caught up; {status['leader']} leads")
    return completed == counted == files == TASKS and others == 0 and status is not None


def _total(queues: list[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in queues)


def main() -> int:
    console = Console()
    for folder in (OUT, FOLDER / "data"):
        shutil.rmtree(folder, ignore_errors=True)
    OUT.mkdir(parents=True)
    log = FOLDER / "out" / "launch.log"
    console.print("starting three brokers and two workers of two slots ...")
    with LocalCluster(TOPOLOGY, log=log):
        good = asyncio.run(run(console))
    console.print("[green]nothing was lost[/]" if good else f"[red]something was lost[/]; see {log}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
