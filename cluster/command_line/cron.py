"""`cron`: the schedules that the cluster fires, what became of their slots, and what an operator does to them."""

import difflib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.table import Table

from cluster.client.client import DEADLINE_S, Client
from cluster.client.schedules import ScheduleInfo, SlotInfo, checked_name
from cluster.command_line.common import (
    ListsByDefault,
    Said,
    busy,
    deadline_option,
    explained,
    look_options,
    looking,
    run,
    said,
    stderr,
    stdout,
    topology_argument,
)
from cluster.command_line.waiting import as_json_text, awaited
from cluster.errors import ClusterError, ScheduleNotFound
from cluster.status_tables import plain_table

LIMIT_DEFAULT = 100
NAMES_MAX = 1_000           # that are looked at for one that is near
NEAR_MAX = 3                # that are said
COLUMNS = ("schedule", "state", "next", "last")
SLOT_COLUMNS = ("slot", "outcome", "task", "ended")
confirmed_option = deadline_option(DEADLINE_S, "Seconds until it must be confirmed.")


class ScheduleName(click.ParamType):  # type: ignore[type-arg]
    """What `cron list` prints."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked_name(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


name_argument = click.argument("name", metavar="NAME", type=ScheduleName())


@click.group(cls=ListsByDefault)
def cron() -> None:
    """Look at schedules and steer them: `cron TOPOLOGY` lists them."""


# -- to look ----------------------------------------------------------------------------------------------------------


@click.command("list")
@topology_argument
@click.option("--prefix", default="", help="Only those whose names begin so.")
@click.option("--limit", default=LIMIT_DEFAULT, show_default=True, type=click.IntRange(min=0),
              help="At most so many; 0 is all.")
@look_options
def list_(topology: str, prefix: str, limit: int, as_json: bool, deadline: float, stale: bool) -> None:
    """List schedules by name; one JSON object per line with --json. Times are those of each schedule's zone."""
    infos = run(_list(topology, prefix, limit, as_json, deadline, stale))
    shown = infos[:limit] if limit else infos
    if as_json:
        click.echo(b"".join(msgspec.json.encode(info) + b"\n" for info in shown), nl=False)
    elif shown:
        stdout().print(listing(shown))
    else:
        click.echo("no such schedules")
    if len(infos) > len(shown):
        stderr().print(f"there are more than these {limit}; --limit 0 shows all")


async def _list(
    topology: str, prefix: str, limit: int, as_json: bool, deadline: float, stale: bool
) -> list[ScheduleInfo]:
    async with busy("looking for schedules", quiet=as_json), looking(topology, deadline, stale=stale) as cluster:
        infos: AsyncIterator[ScheduleInfo] = cluster.schedules(prefix, limit + 1 if limit else None, stale=stale)
        return [info async for info in infos]


@click.command()
@topology_argument
@name_argument
@look_options
def show(topology: str, name: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show one schedule: its terms, its next slots, and what became of the last."""
    info = run(_show(topology, name, as_json, deadline, stale))
    if as_json:
        click.echo(msgspec.json.encode(info))
        return
    for line in described(info):
        click.echo(line)
    if info.history:
        click.echo()
        stdout().print(slots(info.history))


@click.command()
@topology_argument
@name_argument
@look_options
def history(topology: str, name: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show what became of the last 20 slots; one JSON object per line with --json."""
    info = run(_show(topology, name, as_json, deadline, stale))
    if as_json:
        click.echo(b"".join(msgspec.json.encode(slot) + b"\n" for slot in info.history), nl=False)
    elif info.history:
        stdout().print(slots(info.history))
    else:
        click.echo("no slot has come yet")


async def _show(topology: str, name: str, as_json: bool, deadline: float, stale: bool) -> ScheduleInfo:
    async with (
        busy("looking for a leader", quiet=as_json),
        looking(topology, deadline, stale=stale) as cluster,
        _near_names(cluster, name, stale=stale),
    ):
        return await cluster.schedule(name, stale=stale)


def listing(infos: Sequence[ScheduleInfo]) -> Table:
    """Below the name of a schedule stands when it fires, below a date how far its zone is from UTC: beside it a
    terminal has no room."""
    rows = [
        (
            "\n".join(filter(None, (info.name, when(info), info.alarm))),
            "\n".join(filter(None, (info.state, info.parked_why))),
            _in_two_lines(info.next_slot),
            "" if info.last is None else f"{_in_two_lines(info.last.slot)} {outcome(info.last)}",
        )
        for info in infos
    ]
    return plain_table(COLUMNS, rows, whole=("next", "last"))


def slots(history: Sequence[SlotInfo]) -> Table:
    rows = [
        (_date(slot.slot), outcome(slot), "" if slot.task is None else str(slot.task), _date(slot.ended_at))
        for slot in history
    ]
    return plain_table(SLOT_COLUMNS, rows, whole=("slot", "task", "ended"))


def described(info: ScheduleInfo) -> Iterator[str]:
    """One schedule for people, line by line."""
    one = f"one run at a time; if it is unfinished: {info.on_busy}"
    runs = f"{info.unfinished} unfinished" + (f", {info.waiting} waiting for that" if info.waiting else "")
    fields = {
        "schedule": info.name,
        "task": f"{info.task}, queue {info.queue}",
        "fires": when(info),
        "state": f"{info.state} ({info.parked_why})" if info.parked_why else info.state,
        "alarm": info.alarm,
        "runs": runs if info.unfinished or info.waiting else "none unfinished",
        "exclusive": "runs may overlap" if info.on_busy is None else one,
        "misfire": info.misfire,
        "next slots": ", ".join(map(_date, info.upcoming)) or "none",
    }
    width = max(map(len, fields))
    for name, value in fields.items():
        if value:
            yield f"{name:<{width}}  {value}"


def when(info: ScheduleInfo) -> str:
    return f"{info.times} {info.zone}" if info.zone else info.times


def outcome(slot: SlotInfo) -> str:
    return f"{slot.outcome}, asked for" if slot.manual else slot.outcome


def _date(date: datetime | None) -> str:
    """In the zone of the schedule, which the offset tells from that of its neighbours."""
    return "" if date is None else date.isoformat(" ", "seconds")


def _in_two_lines(date: datetime | None) -> str:
    return "" if date is None else f"{date:%Y-%m-%d %H:%M:%S}\n{date.isoformat()[-len('+00:00'):]}"


# -- to steer ---------------------------------------------------------------------------------------------------------


@click.command("run")
@topology_argument
@name_argument
@click.option("--wait", is_flag=True, help="Wait for its result and print it as JSON.")
@confirmed_option
def run_now(topology: str, name: str, wait: bool, deadline: float) -> None:
    """Run a schedule's task now, as if a slot had come; print the task's id."""
    run(_run(topology, name, wait, deadline))


async def _run(topology: str, name: str, wait: bool, deadline: float) -> None:
    async with Client.connect(topology, deadline=deadline) as cluster:
        async with _near_names(cluster, name):
            handle = await cluster.run_now(name)
        if not wait:
            click.echo(handle.id)
            return
        stderr().print(f"task {handle.id}")
        try:
            click.echo(as_json_text(await awaited(cluster, handle)))
        except ClusterError as error:
            raise said(error) from None


@click.command()
@topology_argument
@name_argument
@confirmed_option
def pause(topology: str, name: str, deadline: float) -> None:
    """Let a schedule not fire until it is resumed. What runs goes on."""
    run(_steer(topology, name, deadline, lambda cluster: cluster.pause(name)))
    click.echo(f"{name} is paused")


@click.command()
@topology_argument
@name_argument
@confirmed_option
def resume(topology: str, name: str, deadline: float) -> None:
    """Let a schedule fire again; its alarm is over. Slots that have passed meanwhile are skipped."""
    run(_steer(topology, name, deadline, lambda cluster: cluster.resume(name)))
    click.echo(f"{name} fires again")


@click.command()
@topology_argument
@name_argument
@confirmed_option
def delete(topology: str, name: str, deadline: float) -> None:
    """Forget a schedule that no live worker announces."""
    run(_steer(topology, name, deadline, lambda cluster: cluster.delete_schedule(name)))
    click.echo(f"{name} is deleted")


async def _steer(
    topology: str, name: str, deadline: float, action: Callable[[Client], Coroutine[Any, Any, None]]
) -> None:
    async with Client.connect(topology, deadline=deadline) as cluster, _near_names(cluster, name):
        await action(cluster)


@asynccontextmanager
async def _near_names(cluster: Client, name: str, *, stale: bool = False) -> AsyncIterator[None]:
    """For a schedule that is not there: those are said that may be meant."""
    try:
        yield
    except ScheduleNotFound as error:
        names = [info.name async for info in cluster.schedules(limit=NAMES_MAX, stale=stale)]
        near = [known for known in names if name in known] or difflib.get_close_matches(name, names)
        meant = f"; did you mean {' or '.join(near[:NEAR_MAX])}?" if near else ""
        raise Said(f"{explained(error)}{meant}") from None
