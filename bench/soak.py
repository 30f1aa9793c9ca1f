"""`make soak`: minutes of constant work while brokers die, and what became of every single task.

    python -m bench.soak [--minutes 10] [--rate 5000] [--kill-every 20] [--json]

Tasks leave on time whether or not earlier ones have ended. One broker after another, chosen by lot, is killed with
SIGKILL; its supervisor starts it again. In the end every task must have returned what it was given, the brokers must
count one terminal record for each, their digests must agree, and no data directory may ever have been above 1 GiB.
Exit status 1 if one of these does not hold.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.disk import file_system_of, results_folder
from bench.tasks import echo
from bench.watch import Watcher
from cluster import Batch, Client
from cluster.local import LocalCluster, write_topology

BATCHES_PER_S = 20
PAYLOAD = bytes(256)        # so that logs become snapshots a few times
DEADLINE_S = 60.0           # of a submit, and of everything once no more is submitted
DISK_MB_MAX = 1_024.0
SETTLE_S = 60.0
FAILURES_SHOWN_MAX = 10


@dataclass(slots=True)
class Course:
    """What happened so far."""

    submitted: int = 0
    returned: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)


async def keep_submitting(client: Client, course: Course, rate: int, until: float) -> None:
    """Batches on time, each awaited by a task of its own."""
    size = max(1, rate // BATCHES_PER_S)
    running: set[asyncio.Task[None]] = set()

    async def one(numbers: range) -> None:
        try:
            batch: Batch[int] = await client.map(echo, [(number, PAYLOAD) for number in numbers])
            results = await batch
        except Exception as error:
            course.failed.append(f"{numbers}: {type(error).__name__}: {error}")
        else:
            course.returned += len(results)
            course.wrong += sum(result != number for result, number in zip(results, numbers, strict=True))

    start = time.perf_counter()
    while (now := time.perf_counter()) < until:
        while course.submitted < (now - start) * rate:
            task = asyncio.ensure_future(one(range(course.submitted, course.submitted + size)))
            running.add(task)
            task.add_done_callback(running.discard)
            course.submitted += size
        await asyncio.sleep(0.5 / BATCHES_PER_S)
    await asyncio.wait_for(asyncio.gather(*running), DEADLINE_S)


async def keep_killing(client: Client, course: Course, every_s: float, until: float) -> None:
    chance = random.Random()
    while time.perf_counter() + every_s < until:
        await asyncio.sleep(every_s)
        status = await client.status(stale=True)
        alive = [row for row in status["brokers"] if row["pid"]]
        victim = chance.choice(alive)
        os.kill(victim["pid"], signal.SIGKILL)
        course.kills.append(f"{victim['node']} ({victim['role']})")


async def settled(client: Client) -> dict[str, Any]:
    """The status once all brokers are there, have applied the same and say the same digest."""
    end = time.perf_counter() + SETTLE_S
    while True:
        status = await client.status()
        rows = status["brokers"]
        same = {(row["applied_index"], tuple(row["digest"] or ())) for row in rows}
        if (status["leader"] and len(same) == 1) or time.perf_counter() > end:
            return status
        await asyncio.sleep(0.2)


async def soak(topology: Path, minutes: float, rate: int, every_s: float, console: Console) -> dict[str, Any]:
    course = Course()
    async with Client.connect(topology, deadline=DEADLINE_S) as client:
        watcher = Watcher(topology, lambda: course.returned)
        watcher.start()
        until = time.perf_counter() + minutes * 60
        work = asyncio.gather(
            keep_submitting(client, course, rate, until), keep_killing(client, course, every_s, until)
        )
        columns = (TextColumn("{task.fields[text]}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("soak", total=minutes * 60, text="")
            while not work.done():
                await asyncio.sleep(1.0)
                text = f"{course.returned:,} of {course.submitted:,} tasks, {len(course.kills)} kills"
                progress.update(bar, completed=minutes * 60 - (until - time.perf_counter()), text=text)
        await work
        status = await settled(client)
        await watcher.stop()
    rows = status["brokers"]
    queue = status["queues"][0]
    disk = max(value for sample in watcher.samples for value in sample.disk_mb)
    return {
        "minutes": minutes,
        "rate": rate,
        "tasks": course.submitted,
        "returned": course.returned,
        "completed_records": queue["completed"],
        "kills": len(course.kills),
        "leaders_killed": sum("leader" in kill for kill in course.kills),
        "compactions": {node: len(indexes) for node, indexes in sorted(watcher.compactions.items())},
        "disk_mb_max": round(disk, 1),
        "pss_mb_end": watcher.samples[-1].pss_mb,
        "digest": rows[0]["digest"],
        "problems": [*course.failed[:FAILURES_SHOWN_MAX], *problems_of(course, status, disk)],
    }


def problems_of(course: Course, status: dict[str, Any], disk_mb: float) -> Iterator[str]:
    """What does not hold in the end, for people."""
    queue = status["queues"][0]
    if course.submitted != course.returned:
        yield f"{course.submitted - course.returned} tasks did not return"
    if course.wrong:
        yield f"{course.wrong} results are another task's"
    if queue["completed"] != course.submitted:
        yield f"{queue['completed']} records of {course.submitted} tasks"
    for kind in ("failed", "dead", "ready", "running", "delayed"):
        if queue[kind]:
            yield f"{queue[kind]} tasks are {kind}"
    if len({(row["applied_index"], tuple(row["digest"] or ())) for row in status["brokers"]}) != 1:
        yield "the digests of the brokers differ"
    if disk_mb > DISK_MB_MAX:
        yield f"a data directory had {disk_mb:.0f} MB"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=10.0, show_default=True, type=float)
@click.option("--rate", default=5_000, show_default=True, type=int, help="Tasks a second.")
@click.option("--kill-every", default=20.0, show_default=True, type=float, help="Seconds between two kills.")
@click.option("--json", "only_json", is_flag=True, help="Print the JSON line and nothing else.")
def main(minutes: float, rate: int, kill_every: float, only_json: bool) -> None:
    """Run three brokers and two workers under load, kill brokers, and account for every task."""
    console = Console(stderr=True, quiet=only_json)
    folder = results_folder() / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    topology = write_topology(folder, name="soak", modules=["bench.tasks"])
    console.print(f"data in {folder} ({file_system_of(folder)})")
    with LocalCluster(topology, log=folder / "launch.log") as cluster:
        report = uvloop.run(soak(cluster.topology, minutes, rate, kill_every, console))
    click.echo(json.dumps(report))
    if report["problems"]:
        console.print(f"[red]{len(report['problems'])} problems[/red]; logs and data stay in {folder}")
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
