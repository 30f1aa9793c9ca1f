"""The command line: `python -m cluster status TOPOLOGY`, `... submit TOPOLOGY MODULE:FUNCTION [ARG...]`."""

import asyncio
import difflib
import importlib
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console

from cluster.client.client import Client
from cluster.command_line.nodes import drain, restart
from cluster.errors import ClusterError, TaskNotFound, TopologyError
from cluster.status_tables import print_tables
from cluster.task import Task

NEGATIVE_NUMBER = re.compile(r"-(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
STALE_DEADLINE_S = 1.0      # `--stale` needs links, not a leader; a link is there within milliseconds
LOOKS_LIKE_JSON = ("{", "[", '"')


class TakesNegativeNumbers(click.Command):
    """A command whose arguments may be negative numbers, without a `--` before them. Other unknown options are
    refused as ever.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = True
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for arg in itertools.takewhile(lambda arg: arg != "--", args):
            name = arg.partition("=")[0]
            if name.startswith("-") and name not in ("-", *known) and NEGATIVE_NUMBER.fullmatch(arg) is None:
                raise click.NoSuchOption(name, possibilities=difflib.get_close_matches(name, known), ctx=ctx)
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at a quorumq cluster and give it work. Start one with `python -m cluster.launch TOPOLOGY`."""


main.add_command(drain)
main.add_command(restart)


@main.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--deadline", default=5.0, show_default=True, help="Seconds to wait for a leader.")
@click.option("--stale", is_flag=True, help="Ask no leader; show what the newest of the brokers has.")
def status(topology: str, as_json: bool, deadline: float, stale: bool) -> None:
    """Show brokers, workers and queues."""
    report = _run(_status(topology, min(deadline, STALE_DEADLINE_S) if stale else deadline, stale))
    if as_json:
        click.echo(json.dumps(report))
    else:
        print_tables(report, Console(), stale=stale)


@main.command(cls=TakesNegativeNumbers)
@click.argument("topology", type=click.Path(dir_okay=False))
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON.")
@click.option("--deadline", default=30.0, show_default=True, help="Seconds until the submit must be confirmed.")
def submit(topology: str, function: str, arguments: tuple[str, ...], wait: bool, deadline: float) -> None:
    """Submit one task; arguments are JSON (a bare word is taken as a string).

    Put JSON into single quotes for the shell: '{"a": 1}'. A string that begins with { [ or " needs both kinds of
    quotes: '"{text}"'. What follows a -- is an argument, whatever it looks like.
    """
    task = _find_task(topology, function)
    values = [_argument(text) for text in arguments]
    try:
        task.encode(tuple(values), {})
    except TypeError as error:
        raise click.UsageError(f"{function}: {error}") from None
    click.echo(_run(_submit(topology, task, values, wait, deadline)))


async def _status(topology: str, deadline: float, stale: bool) -> dict[str, Any]:
    async with Client.connect(topology, deadline=deadline, require_leader=False, only_looks=True) as cluster:
        return await cluster.status(stale=stale)


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
    """The value of one argument: JSON, or else the text itself, unless that was clearly meant to be JSON."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        if not text.lstrip().startswith(LOOKS_LIKE_JSON):
            return text
        raise click.UsageError(
            f"{text} is not valid JSON: {error}. Put JSON into single quotes for the shell: '{{\"a\": 1}}'; "
            "a string that begins with { [ or \" needs both kinds of quotes: '\"{text}\"'"
        ) from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is a word")      # NaN and Infinity are Python's, not JSON's


def _run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


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
