"""`replay`: runs tasks again that ended without a result."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import click

from cluster.client.client import DEADLINE_S, Client
from cluster.command_line.common import EXIT_SAID, TaskId, deadline_option, run, topology_argument
from cluster.state.commands import REPLAY_TASKS_MAX

REPLAYABLE = ("dead", "failed", "cancelled", "expired")
REPLAYED_BY_DEFAULT = ("dead", "failed")        # of those that a filter finds: the others ended as somebody wished


class Info(Protocol):
    """One task, as far as it matters here; "" where somebody does not know."""

    @property
    def id(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...


@dataclass(slots=True)
class Replayed:
    """What became of some tasks. Of `fitting` ones `count` were run again; with a dry run, would be."""

    count: int = 0
    fitting: int = 0
    others: list[Info] = field(default_factory=list)     # that are in no state to be run again


@dataclass(frozen=True, slots=True)
class Named:
    """A task that somebody gave the id of."""

    id: int
    state: str
    name: str = ""
    queue: str = ""


async def replay_matching(
    cluster: Client, infos: AsyncIterator[Info], *, dry_run: bool, show: Callable[[Info], None] = lambda info: None
) -> Replayed:
    """Runs those of these tasks again that ended without a result; `show` is told of each before. With `dry_run` that
    is all. A task that has ended otherwise by now, or was replayed by somebody else, is not counted. Raises as
    `Client.replay`, and then those told of before the last 1,024 are replayed.
    """
    done = Replayed()
    chunk: list[int] = []

    async def flush() -> None:
        done.fitting += len(chunk)
        done.count += len(chunk) if dry_run else await cluster.replay(chunk)
        chunk.clear()

    async for info in infos:
        if info.state not in REPLAYABLE:
            done.others.append(info)
            continue
        show(info)
        chunk.append(info.id)
        if len(chunk) == REPLAY_TASKS_MAX:
            await flush()
    if chunk:
        await flush()
    return done


async def named(cluster: Client, tasks: Sequence[int]) -> AsyncIterator[Info]:
    """Each of these tasks once, as the cluster has them now."""
    for record in await cluster.records(dict.fromkeys(tasks)):
        yield Named(record.task, record.state)


def say(info: Info) -> None:
    """One line for a task that is, or would be, run again."""
    what = " of ".join(filter(None, (info.name, info.queue)))
    click.echo(f"{info.id} {info.state}{f' {what}' if what else ''}")


def report(done: Replayed, *, dry_run: bool) -> None:
    """How many, after the lines of `say`."""
    tasks = f"{done.count} task{'' if done.count == 1 else 's'}"
    click.echo(f"{tasks} would be replayed" if dry_run else f"replayed {tasks}")
    if done.count < done.fitting:
        why = "replayed by somebody else, not kept any more, or another task has their key or their turn"
        click.echo(f"{done.fitting - done.count} passed over: {why}", err=True)


@click.command()
@topology_argument
@click.argument("tasks", metavar="[ID]...", nargs=-1, type=TaskId())
@click.option("--state", "states", multiple=True, type=click.Choice(REPLAYABLE), help="All of these; may be repeated.")
@click.option("--queue", help="All of this queue.")
@click.option("--name", help="All of this task name, as in MODULE:FUNCTION.")
@click.option("--dry-run", is_flag=True, help="Only say which of them would be run again.")
@deadline_option(DEADLINE_S, "Seconds until it must be confirmed.")
def replay(
    topology: str,
    tasks: tuple[int, ...],
    states: tuple[str, ...],
    queue: str | None,
    name: str | None,
    dry_run: bool,
    deadline: float,
) -> None:
    """Run tasks again that ended without a result: dead, failed, cancelled or expired ones, each under its id.

    They are named by their ids, or by what they have in common: with --queue or --name alone these are the dead and the
    failed ones. Prints a line for each. Exit status 1 if one that was named could not be run again.
    """
    by_filter = bool(states or queue or name)
    if by_filter and tasks:
        raise click.UsageError("name the tasks by their ids, or by --state, --queue and --name, not both")
    if not by_filter and not tasks:
        raise click.UsageError("name the tasks by their ids, or by --state, --queue and --name")
    asked = {"state": list(states or REPLAYED_BY_DEFAULT), "queue": queue, "name": name}
    done = run(_replay(topology, tasks, asked, dry_run, deadline))
    report(done, dry_run=dry_run)
    for info in done.others:
        click.echo(f"not replayed: {info.id} is {info.state}", err=True)
    if done.others or done.count < done.fitting:
        sys.exit(EXIT_SAID)


async def _replay(
    topology: str, tasks: Sequence[int], asked: dict[str, Any], dry_run: bool, deadline: float
) -> Replayed:
    async with Client.connect(topology, deadline=deadline, only_looks=dry_run) as cluster:
        infos = named(cluster, tasks) if tasks else cluster.tasks(**asked)
        return await replay_matching(cluster, infos, dry_run=dry_run, show=say)
