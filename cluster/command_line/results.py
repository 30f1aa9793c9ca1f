"""`result` and `cancel`: what becomes of tasks that were submitted."""

import sys
from typing import Any

import click

from cluster.client.client import DEADLINE_S, Client
from cluster.client.handle import CANCEL_GRACE
from cluster.command_line.common import (
    EXIT_SAID,
    DurationText,
    TaskId,
    busy,
    deadline_option,
    known,
    looking,
    run,
    said,
    topology_argument,
)
from cluster.command_line.waiting import as_json_text, awaited
from cluster.durations import milliseconds
from cluster.errors import ClusterError, DeadlineExceeded, TaskCancelled, TaskDead, TaskExpired, TaskFailed

EXIT_FAILED = 3
EXIT_DEAD = 4
EXIT_CANCELLED = 5
EXIT_EXPIRED = 6
EXIT_NOT_YET = 7
EXITS: dict[type[ClusterError], int] = {
    TaskFailed: EXIT_FAILED,
    TaskDead: EXIT_DEAD,
    TaskCancelled: EXIT_CANCELLED,
    TaskExpired: EXIT_EXPIRED,
    DeadlineExceeded: EXIT_NOT_YET,
}


@click.command()
@topology_argument
@click.argument("task", metavar="ID", type=TaskId())
@click.option("--timeout", type=DurationText(), help="How long to wait for it; for ever without.")
@deadline_option()
def result(topology: str, task: int, timeout: str | float | None, deadline: float) -> None:
    """Wait for the result of a task and print it as JSON.

    Exit status: 3 the task has failed, 4 it is dead, 5 it was cancelled, 6 it has expired, 7 it has not ended within
    --timeout.
    """
    timeout_s = None if timeout is None else milliseconds("timeout", timeout) / 1_000
    click.echo(run(known(_result(topology, task, timeout_s, deadline))))


async def _result(topology: str, task: int, timeout_s: float | None, deadline: float) -> str:
    async with looking(topology, deadline, stale=False) as cluster:
        try:
            return as_json_text(await awaited(cluster, cluster.handle(task), timeout_s))
        except tuple(EXITS) as error:
            raise said(error, EXITS[type(error)]) from None


@click.command()
@topology_argument
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True, type=TaskId())
@click.option("--grace", default=CANCEL_GRACE, show_default=True, type=DurationText(),
              help="From being asked to stop until its process is ended.")
@deadline_option(DEADLINE_S, "Seconds until it must be confirmed.")
def cancel(topology: str, task_ids: tuple[int, ...], grace: str | float, deadline: float) -> None:
    """Cancel tasks; print the state of each after that.

    A task that waits is cancelled for good when this returns. One that runs is asked to stop, and shown as processing
    until it has. Exit status 1 if one of them is not known.
    """
    try:
        states = run(_cancel(topology, task_ids, grace, deadline))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for task, state in zip(task_ids, states, strict=True):
        click.echo(f"{task} {state}")
    if "unknown" in states:
        sys.exit(EXIT_SAID)


async def _cancel(topology: str, tasks: tuple[int, ...], grace: Any, deadline: float) -> list[str]:
    async with busy("cancelling"), Client.connect(topology, deadline=deadline) as cluster:
        await cluster.cancel(tasks, grace)
        return [record.state for record in await cluster.records(tasks)]
