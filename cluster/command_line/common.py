"""What commands share: arguments and options, one loop per call, patience that can be seen."""

import asyncio
import difflib
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from cluster.client.client import Client
from cluster.durations import milliseconds
from cluster.errors import ClusterError, TaskNotFound, Unavailable

EXIT_SAID = 1               # what the cluster said, or that it did not
EXIT_WRONG_CALL = 2         # or topology

LOOK_DEADLINE_S = 5.0       # for a leader to be found, by who only looks
STALE_DEADLINE_S = 1.0      # `--stale` needs links, not a leader; a link is there within milliseconds
SPINNER_AFTER_S = 1.0
UNBOUNDED_COLUMNS = 1 << 20     # of what is no terminal

T = TypeVar("T")


class Said(Exception):
    """Ends the command with one line on stderr and this exit status."""

    def __init__(self, message: str, exit_code: int = EXIT_SAID) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- arguments and options --------------------------------------------------------------------------------------------


class TaskId(click.ParamType):  # type: ignore[type-arg]
    """What `submit` prints."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 1 << 64:
            self.fail(f"{value!r} is no task's id: give the number that `submit` or `tasks list` prints", param, ctx)
        return int(text)


class DurationText(click.ParamType):  # type: ignore[type-arg]
    """Text such as 5m, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        try:
            seconds: str | float = float(value)
        except ValueError:
            seconds = str(value)
        try:
            milliseconds(str(param.name) if param is not None else "duration", seconds)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return seconds


class ListsByDefault(click.Group):
    """A group whose commands begin with the topology: `tasks TOPOLOGY` is `tasks list TOPOLOGY`, and in `tasks TOPOLOGY
    show ID` the two words may stand either way."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else "-"
        if not first.startswith("-") and first not in self.commands and (
            first.endswith(".toml") or Path(first).exists()
        ):
            second = args[1] if len(args) > 1 else ""
            args = [second, first, *args[2:]] if second in self.commands else ["list", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are {', '.join(sorted(self.commands))}."
            ctx.fail(f"{args[0]!r} is no command of `{self.name}`, and no such topology is there.{hint}")
        return super().resolve_command(ctx, args)


Command = Callable[..., None]

topology_argument = click.argument("topology", type=click.Path(dir_okay=False))
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text for people.")
_stale = click.option("--stale", is_flag=True, help="Ask no leader: show what a broker has, which may be old.")


def deadline_option(
    default_s: float = LOOK_DEADLINE_S, help: str = "Seconds to wait for a leader."
) -> Callable[[Command], Command]:
    """`--deadline`, a number of seconds above 0."""
    above_0 = click.FloatRange(min=0, min_open=True)
    return click.option("--deadline", default=default_s, show_default=True, type=above_0, help=help)


def look_options(command: Command) -> Command:
    """`--json`, `--deadline` and `--stale`, of a command that changes nothing."""
    return json_option(deadline_option()(_stale(command)))


# -- calls ------------------------------------------------------------------------------------------------------------


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def looking(topology: str, deadline: float, *, stale: bool) -> Client:
    """A client that leaves no trace. With `stale` it is content without a leader."""
    patience = min(deadline, STALE_DEADLINE_S) if stale else deadline
    return Client.connect(topology, deadline=patience, require_leader=not stale, only_looks=True)


async def known(answer: Coroutine[Any, Any, T]) -> T:
    """The answer of the cluster. A task that it does not know is no wrong call."""
    try:
        return await answer
    except TaskNotFound as error:
        raise said(error) from None


def said(error: ClusterError, exit_code: int = EXIT_SAID) -> Said:
    return Said(explained(error), exit_code)


def explained(error: ClusterError) -> str:
    """What an error says in one line. A client that finds no leader cannot tell why there is none; `status` can."""
    advice = "; `quorumq status` says why" if isinstance(error, Unavailable) else ""
    return f"{type(error).__name__}: {error}{advice}"


def stdout() -> Console:
    """For tables. Without a terminal nothing is folded or wrapped, unless COLUMNS asks for it: a line is a row."""
    is_unbounded = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=UNBOUNDED_COLUMNS if is_unbounded else None)


# -- patience ---------------------------------------------------------------------------------------------------------


@functools.cache
def stderr() -> Console:
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@asynccontextmanager
async def busy(text: str, *, quiet: bool = False) -> AsyncIterator[None]:
    """A spinner on a terminal while something takes longer than a second."""
    if quiet or not stderr().is_terminal:
        yield
        return
    spinner = stderr().status(text)
    timer = asyncio.get_running_loop().call_later(SPINNER_AFTER_S, spinner.start)
    try:
        yield
    finally:
        timer.cancel()
        spinner.stop()
