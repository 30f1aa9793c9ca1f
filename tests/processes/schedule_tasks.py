"""Scheduled tasks; what they did stands in files beside this one, which is copied beside a topology."""

import time
from datetime import datetime
from pathlib import Path

from cluster import cron, current, every, task

FOLDER = Path(__file__).parent


def slot_of_this_run() -> datetime:
    scheduled = current().scheduled
    assert scheduled is not None
    return scheduled


# A machine that is busy may be late by more than a second: then none is skipped.
@every("1s", misfire="all", on_busy="queue")
@task(result_ttl="1m")
def tick() -> str:
    with (FOLDER / "ticks").open("a") as file:
        file.write(f"{slot_of_this_run().isoformat()}\n")
    return slot_of_this_run().isoformat()


@every("1s", name="loop", misfire="all", on_busy="queue")
async def tick_in_the_loop() -> None:
    with (FOLDER / "loop").open("a") as file:
        file.write(f"{slot_of_this_run().isoformat()}\n")


@cron("0 21 * * MON-FRI", tz="Asia/Seoul", name="nightly", misfire="once", on_busy="queue")
@task(timeout="1m")
def report(times: int = 1) -> list[object]:
    return [slot_of_this_run().isoformat(), times]


@cron("0 0 1 1 *", name="slow", on_busy="replace")
@task(timeout="5m")
def slow() -> str:
    (FOLDER / "slow").touch()
    while not current().cancelled:
        time.sleep(0.01)
    return "stopped"
