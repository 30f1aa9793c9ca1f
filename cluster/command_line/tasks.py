"""`tasks`: lists of tasks, and one task with its attempts."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.table import Table

from cluster.client.inspection import STATES, AttemptInfo, TaskInfo
from cluster.command_line.common import (
    ListsByDefault,
    TaskId,
    busy,
    known,
    look_options,
    looking,
    run,
    stderr,
    stdout,
    topology_argument,
)
from cluster.command_line.waiting import as_json_text, waits_for
from cluster.status_tables import plain_table

LIMIT_DEFAULT = 100
TABLE_ROWS = 1_000          # in one table, whose columns are as wide as its rows need
COLUMNS = ("id", "state", "task", "queue", "worker", "tries")


@click.group(cls=ListsByDefault)
def tasks() -> None:
    """Look at single tasks: `tasks TOPOLOGY` lists them."""


@click.command("list")
@topology_argument
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; may be repeated.")
@click.option("--queue", help="Only of this queue.")
@click.option("--name", help="Only of this task name, as in MODULE:FUNCTION.")
@click.option("--limit", default=LIMIT_DEFAULT, show_default=True, type=click.IntRange(min=0),
              help="At most so many; 0 is all.")
@look_options
def list_(
    topology: str,
    states: tuple[str, ...],
    queue: str | None,
    name: str | None,
    limit: int,
    as_json: bool,
    deadline: float,
    stale: bool,
) -> None:
    """List tasks, in an order of the cluster's own; one JSON object per line with --json."""
    asked = {"state": list(states) or None, "queue": queue, "name": name, "stale": stale}
    try:
        more = run(_list(topology, asked, limit, as_json, deadline))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if more:
        stderr().print(
            f"there are more than these {limit}, which need not be the newest: --state, --queue and --name choose, "
            "--limit 0 shows all"
        )


async def _list(topology: str, asked: dict[str, Any], limit: int, as_json: bool, deadline: float) -> bool:
    """Prints them; whether there are more."""
    shown = 0
    async with looking(topology, deadline, stale=asked["stale"]) as cluster:
        infos: AsyncIterator[TaskInfo] = cluster.tasks(**asked, limit=limit + 1 if limit else None)
        while True:
            chunk: list[TaskInfo] = []
            async with busy(f"looking for tasks; {shown} so far", quiet=as_json):
                async for info in infos:
                    chunk.append(info)
                    if len(chunk) == TABLE_ROWS:
                        break
            more = bool(limit) and shown + len(chunk) > limit
            chunk = chunk[: limit - shown] if more else chunk
            if chunk or not shown:
                _print_list(chunk, as_json)
            shown += len(chunk)
            if more or len(chunk) < TABLE_ROWS:
                return more


def _print_list(infos: list[TaskInfo], as_json: bool) -> None:
    infos = sorted(infos, key=lambda info: info.id)
    if as_json:
        click.echo(b"".join(msgspec.json.encode(_listed(info)) + b"\n" for info in infos), nl=False)
    elif infos:
        stdout().print(listing(infos))
    else:
        click.echo("no such tasks")


def listing(infos: Sequence[TaskInfo]) -> Table:
    """Below the name of a task stands what there is to say of it: beside it a terminal has no room."""
    rows = [
        (
            str(info.id),
            info.state,
            "\n".join(filter(None, (info.name, note(info)))),
            info.queue,
            info.worker,
            str(info.attempt),
        )
        for info in infos
    ]
    return plain_table(COLUMNS, rows, whole=("id", "state", "tries"))


def _listed(info: TaskInfo) -> dict[str, Any]:
    """Without what a list does not know."""
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    return {name: fields[name] for name in list(fields)[: list(fields).index("attempts")]}


def note(info: TaskInfo) -> str:
    """What its state does not say, in a few words."""
    if info.cancelling:
        return "is being cancelled"
    if info.state == "processing":
        return {True: "running", False: f"waits at slot {info.slot}", None: ""}[info.running]
    if info.parked:
        return f"parked: {info.parked_why or 'no worker has it'}"
    if info.missing:
        return f"waits for {info.missing} {'task' if info.missing == 1 else 'tasks'}"
    if info.delayed:
        return f"delayed; {info.error}" if info.error else "delayed"
    if info.held_back_why:
        return f"held back: {info.held_back_why}"
    return info.error


# -- one task ---------------------------------------------------------------------------------------------------------


@click.command()
@topology_argument
@click.argument("task", metavar="ID", type=TaskId())
@look_options
def show(topology: str, task: int, as_json: bool, deadline: float, stale: bool) -> None:
    """Show all that the cluster has of one task."""
    info = run(known(_show(topology, task, as_json, deadline, stale)))
    if as_json:
        click.echo(msgspec.json.encode(info))
    else:
        for line in described(info):
            click.echo(line)


async def _show(topology: str, task: int, as_json: bool, deadline: float, stale: bool) -> TaskInfo:
    async with busy("looking for a leader", quiet=as_json), looking(topology, deadline, stale=stale) as cluster:
        return await cluster.task(task, stale=stale)


def described(info: TaskInfo) -> Iterator[str]:
    """One task for people, line by line."""
    what = waits_for(info) or note(info)
    fields = {
        "task": str(info.id),
        "name": info.name,
        "state": f"{info.state} ({what})" if what else info.state,
        "queue": f"{info.queue}, priority {info.priority}",
        "needs": needs_text(info),
        "schedule": f"{info.schedule}, {_date(info.scheduled_at)}" if info.schedule else "",
        "dedup": info.dedup,
        "duplicate of": "" if info.duplicate_of is None else str(info.duplicate_of),
        "worker": info.worker + (f", slot {info.slot}" if info.slot is not None else ""),
        "tries": f"{info.attempt}, of which {info.crashes} crashed" if info.crashes else str(info.attempt),
        "started": _date(info.started_at),
        "ended": _date(info.ended_at),
        "ready at": _date(info.ready_at),
        "expires at": _date(info.expires_at),
        "timeout": _seconds(info.timeout_s),
        "soft timeout": _seconds(info.soft_timeout_s),
        "retries": f"{info.failures} of {info.retries}" if info.retries else "",
        "cancel grace": _seconds(info.cancel_grace_s),
        "result kept": _seconds(info.result_ttl_s),
        "progress": "" if info.progress is None else progress_text(*info.progress),
        "arguments": arguments_text(info),
        "result": f"{info.body_bytes} bytes" if info.state == "completed" else "",
    }
    width = max(map(len, fields))
    for name, value in fields.items():
        if value:
            yield f"{name:<{width}}  {value}"
    for attempt in info.attempts:
        yield ""
        yield from _attempt(attempt)


def needs_text(info: TaskInfo) -> str:
    if not info.needs:
        return ""
    text = f"{info.needs} {'task' if info.needs == 1 else 'tasks'}"
    if not info.missing:
        return text
    more = ", ..." if info.missing > len(info.waits_for) else ""
    return f"{text}, {info.missing} not ended: {', '.join(map(str, info.waits_for))}{more}"


def progress_text(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done} of {total}"


def arguments_text(info: TaskInfo) -> str:
    """As in a call, with the values as JSON."""
    if info.args is None or info.kwargs is None:
        return info.arguments_why
    named = [f"{name if name.isidentifier() else as_json_text(name)}={as_json_text(value)}"
             for name, value in info.kwargs.items()]  # fmt: skip
    return ", ".join([*map(as_json_text, info.args), *named]) or "none"


def _attempt(attempt: AttemptInfo) -> Iterator[str]:
    took = ""
    if attempt.started_at is not None and attempt.ended_at is not None:
        took = f" after {(attempt.ended_at - attempt.started_at).total_seconds():g} s"
    where = f" on {attempt.worker}" if attempt.worker else ""
    when = _date(attempt.ended_at) and f", {_date(attempt.ended_at)}"
    yield f"attempt {attempt.number}{where}: {attempt.outcome}{took}{when}"
    if attempt.error_type:
        yield f"  {attempt.error_type}: {attempt.error_message}" if attempt.error_message else f"  {attempt.error_type}"
    for name, value in (("exit code", attempt.exit_code), ("signal", attempt.signal)):
        if value is not None:
            yield f"  {name} {value}"
    texts = (("traceback", attempt.traceback), ("stderr, its end", attempt.stderr), ("log, its end", attempt.log))
    for name, text in texts:
        if text.strip():
            yield f"  {name}:"
            yield from (f"    {line}" for line in text.rstrip().splitlines())


def _date(date: datetime | None) -> str:
    return "" if date is None else f"{date:%Y-%m-%d %H:%M:%S}.{date.microsecond // 1_000:03} UTC"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g} s"


