"""The command line: `python -m cluster status TOPOLOGY`, `... submit TOPOLOGY MODULE:FUNCTION [ARG...]`."""

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from cluster.client.client import Client
from cluster.errors import ClusterError, TaskNotFound, TopologyError
from cluster.task import Task

BROKER_COLUMNS = ("node", "pid", "role", "term", "commit_index", "applied_index", "digest", "sync")
WORKER_COLUMNS = ("node", "pid", "slots", "running", "waiting", "children")
QUEUE_COLUMNS = ("name", "ready", "waiting", "running", "delayed", "completed", "failed", "dead", "parked")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at a quorumq cluster and give it work. Start one with `python -m cluster.launch TOPOLOGY`."""


@main.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--deadline", default=5.0, show_default=True, help="Seconds to wait for a leader.")
def status(topology: str, as_json: bool, deadline: float) -> None:
    """Show brokers, workers and queues."""
    report = _run(_status(topology, deadline))
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print_tables(report)


@main.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON.")
@click.option("--deadline", default=30.0, show_default=True, help="Seconds until the submit must be confirmed.")
def submit(topology: str, function: str, arguments: tuple[str, ...], wait: bool, deadline: float) -> None:
    """Submit one task; arguments are JSON (a bare word is taken as a string)."""
    task = _find_task(topology, function)
    values = [_argument(text) for text in arguments]
    try:
        task.encode(tuple(values), {})
    except TypeError as error:
        raise click.UsageError(f"{function}: {error}") from None
    click.echo(_run(_submit(topology, task, values, wait, deadline)))


async def _status(topology: str, deadline: float) -> dict[str, Any]:
    async with Client.connect(topology, deadline=deadline, require_leader=False, only_looks=True) as cluster:
        return await cluster.status()


async def _submit(topology: str, task: Task[..., Any], values: list[Any], wait: bool, deadline: float) -> str:
    async with Client.connect(topology, deadline=deadline) as cluster:
        handle = await cluster.submit(task, *values)
        if not wait:
            return str(handle.id)
        return msgspec.json.encode(await handle).decode()


def _find_task(topology: str, function: str) -> Task[..., Any]:
    module_name, colon, name = function.partition(":")
    if not colon or not name:
        raise click.BadParameter(f"{function!r}: write MODULE:FUNCTION", param_hint="MODULE:FUNCTION")
    sys.path.insert(0, str(Path(topology).resolve().parent))
    sys.path.insert(1, str(Path.cwd()))
    try:
        found: object = importlib.import_module(module_name)
    except ImportError as error:
        raise TaskNotFound(f"module {module_name!r} cannot be imported: {error}") from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Task):
        raise TaskNotFound(f"{function} is not a @task")
    return found


def _argument(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def _print_tables(report: dict[str, Any]) -> None:
    console = Console()
    leader = report["leader"] or "none known"
    console.print(f"leader [bold]{leader}[/], term {report['term']}")
    for title, rows, columns in (
        ("brokers", report["brokers"], BROKER_COLUMNS),
        ("workers", report["workers"], WORKER_COLUMNS),
        ("queues", report["queues"], QUEUE_COLUMNS),
    ):
        table = Table(title=title, title_justify="left")
        for column in columns:
            is_text = column in ("node", "name", "role")
            table.add_column(column.replace("_", " "), justify="left" if is_text else "right")
        for row in rows:
            cells = [_cell(row.get(column)) for column in columns]
            if row.get("quarantined"):
                cells[columns.index("role")] += " (quarantined)"
            table.add_row(*cells)
        console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)
    return str(value)


def run() -> None:
    """Errors of ours in one line: exit 2 for a wrong call or topology, 1 for what the cluster said."""
    try:
        main(standalone_mode=True)
    except (TopologyError, TaskNotFound) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except ClusterError as error:
        click.echo(f"error: {type(error).__name__}: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
