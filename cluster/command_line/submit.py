"""`submit`: one task from the command line."""

import difflib
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import click

from cluster.client.client import DEADLINE_S, Client
from cluster.command_line.common import DurationText, Said, busy, deadline_option, run, topology_argument
from cluster.command_line.waiting import as_json_text, awaited
from cluster.errors import ClusterError, TaskNotFound
from cluster.task import Task
from cluster.task_actor import MethodTask, TaskActor, checked_key, task_named

NEGATIVE_NUMBER = re.compile(r"-(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
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


@click.command(cls=TakesNegativeNumbers)
@topology_argument
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON.")
@click.option("--keyword", "keywords", multiple=True, metavar="NAME=JSON",
              help="An argument by its name; may be repeated.")
@deadline_option(DEADLINE_S, "Seconds until the submit must be confirmed.")
@click.option("--key", help="For the instance of a TaskActor that owns this key; FUNCTION is then CLASS.METHOD.")
@click.option("--queue", help="Only workers that serve this queue take it.")
@click.option("--priority", type=int, help="0 to 9, 9 comes first.")
@click.option("--delay", type=DurationText(), help="Not before.")
@click.option("--expires", type=DurationText(), help="Not started by then: its state is expired.")
@click.option("--timeout", type=DurationText(), help="A run that takes longer is ended.")
@click.option("--soft-timeout", type=DurationText(), help="SoftTimeLimit is raised in a run that takes longer.")
@click.option("--retry", type=int, help="How often it is tried again if it raises.")
@click.option("--result-ttl", type=DurationText(), help="How long its result is kept.")
@click.option("--share", help="It waits in the line of this share; shares take turns.")
@click.option("--dedup", help="What work it is: while another task has this key, it only follows that.")
@click.option("--dedup-window", type=DurationText(), help="At least for so long from when that was accepted.")
@click.option("--label", "labels", multiple=True, help="Only workers with this label take it; may be repeated.")
def submit(
    topology: str,
    function: str,
    arguments: tuple[str, ...],
    wait: bool,
    keywords: tuple[str, ...],
    deadline: float,
    key: str | None,
    **options: Any,
) -> None:
    """Submit one task; arguments are JSON (a bare word is taken as a string).

    Put JSON into single quotes for the shell: '{"a": 1}'. A string that begins with { [ or " needs both kinds of
    quotes: '"{text}"'. What follows a -- is an argument, whatever it looks like.

    The options from --queue on are those of the task, as in `task.options(...)`: what is not given is as the function's
    decorator says. Durations are text such as 5m, or seconds.
    """
    task = _with_options(_find_task(topology, function), options)
    if key is not None:
        task = _at_key(task, function, key)
    values = [_argument(text) for text in arguments]
    named = _keywords(keywords)
    try:
        task.encode(tuple(values), named)
    except TypeError as error:
        raise click.UsageError(f"{function}: {error}") from None
    click.echo(run(_submit(topology, task, values, named, wait, deadline)))


async def _submit(
    topology: str, task: Task[..., Any], values: list[Any], named: dict[str, Any], wait: bool, deadline: float
) -> str:
    async with AsyncExitStack() as stack:
        async with busy("submitting"):
            cluster = await stack.enter_async_context(Client.connect(topology, deadline=deadline))
            handle = await cluster.submit(task, *values, **named)
        if not wait:
            return str(handle.id)
        click.echo(f"task {handle.id}", err=True)       # known also if the wait fails, or somebody breaks it off
        try:
            return as_json_text(await awaited(cluster, handle))
        except ClusterError as error:
            raise Said(f"{type(error).__name__}: {error} (task {handle.id})") from None
        finally:
            if handle.duplicate_of is not None:
                click.echo(f"task {handle.id} is a duplicate: task {handle.duplicate_of} did its work", err=True)


def _with_options(task: Task[..., Any], options: dict[str, Any]) -> Task[..., Any]:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        return task.options(**given)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _at_key(task: Task[..., Any], function: str, key: str) -> Task[..., Any]:
    if not isinstance(task, MethodTask):
        raise click.UsageError(f"--key is for methods of a TaskActor; {function} is a function")
    try:
        return task.at(checked_key(key))
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None


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
    prefix = f"{module_name}:"
    for part in name.split("."):
        holder, found = found, task_named(found, part) or getattr(found, part, None)
        if found is None:
            raise TaskNotFound(f"{function} is not a @task: {prefix}{part} is not there{_near(holder, prefix, part)}")
        prefix += f"{part}."
    if not isinstance(found, Task):
        raise TaskNotFound(f"{function} is not a @task")
    return found


def _near(holder: object, prefix: str, name: str) -> str:
    """What may be meant: a task, or a class whose methods are tasks."""
    known = [other for other in dir(holder) if _leads_to_task(holder, other)]
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(prefix + other for other in near)}?" if near else ""


def _leads_to_task(holder: object, name: str) -> bool:
    found = task_named(holder, name) or getattr(holder, name, None)
    return isinstance(found, Task) or (isinstance(found, type) and issubclass(found, TaskActor))


def _keywords(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"--keyword {text}: write NAME=JSON")
        if name in found:
            raise click.UsageError(f"--keyword {name} is given twice")
        found[name] = _argument(value)
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
