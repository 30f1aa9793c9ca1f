"""`replay`: runs tasks again that ended without a result."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import click

from cluster.client.client import Client
from cluster.state.commands import REPLAY_TASKS_MAX

DEADLINE_S = 30.0
EXIT_NOT_ALL = 1        # of the tasks that were named could be run again
REPLAYABLE = ("dead", "failed", "cancelled", "expired")


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
        click.echo(f"{done.fitting - done.count} were replayed by somebody else, or are not kept any more", err=True)


@click.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.argument("tasks", metavar="ID...", nargs=-1, required=True, type=click.IntRange(0, (1 << 64) - 1))
@click.option("--dry-run", is_flag=True, help="Only say which of them would be run again.")
@click.option("--deadline", default=DEADLINE_S, show_default=True, help="Seconds until it must be confirmed.")
def replay(topology: str, tasks: tuple[int, ...], dry_run: bool, deadline: float) -> None:
    """Run tasks again that ended without a result: dead, failed, cancelled or expired ones, each under its id.

    Prints a line for each. Exit status 1 if one of them could not be run again.
    """
    done = asyncio.run(_replay(topology, tasks, dry_run, deadline))
    report(done, dry_run=dry_run)
    for info in done.others:
        click.echo(f"not replayed: {info.id} is {info.state}", err=True)
    if done.others or done.count < done.fitting:
        sys.exit(EXIT_NOT_ALL)


async def _replay(topology: str, tasks: Sequence[int], dry_run: bool, deadline: float) -> Replayed:
    async with Client.connect(topology, deadline=deadline, only_looks=dry_run) as cluster:
        return await replay_matching(cluster, named(cluster, tasks), dry_run=dry_run, show=say)
