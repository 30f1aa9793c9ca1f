"""`top`: what the cluster does now, once a second."""

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from cluster.client.client import Client
from cluster.command_line.common import STALE_DEADLINE_S, deadline_option, run, stderr, stdout, topology_argument
from cluster.status_tables import plain_table, slots_text, who_leads

SAMPLE_S = 1.0
KEYS_MAX = 64               # read at once
ENDED = ("completed", "failed", "dead", "cancelled", "expired")
QUEUE_COLUMNS = ("queue", "done/s", "failed/s", "ready", "waiting", "running", "delayed", "parked", "completed")
WORKER_COLUMNS = ("worker", "pid", "slots", "running", "waiting", "")
BROKER_COLUMNS = ("broker", "role", "applied", "entries/s", "turn ms", "sync", "")

Report = dict[str, Any]


@click.command()
@topology_argument
@click.option("--once", is_flag=True, help="Print one picture, after two looks a second apart, and end.")
@deadline_option()
def top(topology: str, once: bool, deadline: float) -> None:
    """Show what the cluster does, once a second, until q or Ctrl-C."""
    if not once and not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise click.UsageError("top draws on a terminal; use --once for a script")
    with suppress(KeyboardInterrupt):
        run(_once(topology, deadline) if once else _live(topology))


async def _once(topology: str, deadline: float) -> None:
    async with Client.connect(topology, deadline=deadline, require_leader=False, only_looks=True) as cluster:
        first, begun = await cluster.status(), time.monotonic()
        await asyncio.sleep(SAMPLE_S)
        second = await cluster.status()
        stdout().print(picture(first, second, time.monotonic() - begun))


async def _live(topology: str) -> None:
    """Without a leader there is something to see, too."""
    ended = asyncio.Event()
    client = Client.connect(topology, deadline=STALE_DEADLINE_S, require_leader=False, only_looks=True)
    with stderr().status("looking for a leader"):
        cluster = await client.__aenter__()
    try:
        with Live(screen=True, auto_refresh=False, console=Console(highlight=False)) as live, _key_q(ended.set):
            before, seen = await cluster.status(), time.monotonic()
            live.update(picture(before, before, 0.0), refresh=True)
            while not await _happens(ended, SAMPLE_S):
                now, at = await cluster.status(), time.monotonic()
                live.update(picture(before, now, at - seen), refresh=True)
                before, seen = now, at
    finally:
        await client.__aexit__(None, None, None)


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within_s)
    return event.is_set()


@contextmanager
def _key_q(pressed: Callable[[], None]) -> Iterator[None]:
    """Keys come at once and unseen; `pressed` is called at q."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)

    def read() -> None:
        keys = os.read(stdin, KEYS_MAX)
        if not keys or b"q" in keys.lower():
            pressed()

    loop.add_reader(stdin, read)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


# -- the picture ------------------------------------------------------------------------------------------------------


def picture(before: Report, now: Report, seconds: float) -> RenderableType:
    """Two reports as one screen; no rates with `seconds` 0, or where one of them does not know."""
    comparable = seconds > 0 and bool(before["leader"]) and bool(now["leader"])
    elapsed = seconds if comparable else 0.0
    queues = [_queue(row, _same(row, before["queues"], "name"), elapsed) for row in now["queues"]]
    brokers = [_broker(row, _same(row, before["brokers"], "node"), seconds) for row in now["brokers"]]
    workers = [
        (
            row["node"],
            _text(row["pid"]),
            slots_text(row),
            str(row["running"]),
            str(row["waiting"]),
            "drained" if row.get("drained") else "draining" if row["draining"] else "",
        )
        for row in now["workers"]
    ]
    done = sum([row[key] for row in now["queues"] for key in ENDED])
    done_before = sum([row[key] for row in before["queues"] for key in ENDED])
    head = f"{who_leads(now)}   {_rate(done - done_before, elapsed)} tasks/s" if elapsed else who_leads(now)
    parts: list[RenderableType] = [head, ""]
    if now["leader"]:
        parts += [
            plain_table(QUEUE_COLUMNS, queues, QUEUE_COLUMNS[1:]) if queues else "no queue was used yet",
            "",
            plain_table(WORKER_COLUMNS, workers, WORKER_COLUMNS[1:5]) if workers else "no worker is registered",
            "",
        ]
    parts.append(plain_table(BROKER_COLUMNS, brokers, BROKER_COLUMNS[2:5]))
    return Group(*parts)


def _queue(row: Report, before: Report | None, seconds: float) -> tuple[str, ...]:
    old = before if before is not None else dict.fromkeys(row, 0)
    done = sum([row[key] - old[key] for key in ENDED])
    bad = row["failed"] + row["dead"] - old["failed"] - old["dead"]
    numbers = [str(row[key]) for key in ("ready", "waiting", "running", "delayed", "parked", "completed")]
    return (row["name"], _rate(done, seconds), _rate(bad, seconds), *numbers)


def _broker(row: Report, before: Report | None, seconds: float) -> tuple[str, ...]:
    marks = "quarantined" if row.get("quarantined") else ""
    applied, old = row["applied_index"], before["applied_index"] if before is not None else None
    rate = _rate(applied - old, seconds) if applied is not None and old is not None and applied >= old else "-"
    turn = row.get("turn_ms_max")
    return (row["node"], row["role"], _text(applied), rate, _text(turn), _text(row["sync"]), marks)


def _same(row: Report, rows: list[Report], key: str) -> Report | None:
    return next((other for other in rows if other[key] == row[key]), None)


def _rate(count: int, seconds: float) -> str:
    if seconds <= 0:
        return "-"
    rate = max(0, count) / seconds
    return f"{rate:.1f}" if 0 < rate < 10 else f"{rate:.0f}"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
