"""`lock`: runs a command while a lock is held. `locks`: who holds what."""

import asyncio
import os
import shutil
import signal
import sys
from contextlib import ExitStack, suppress
from typing import Any

import click
import msgspec

from actors.runtime.child import die_with_parent
from cluster.client.claim import HOLD
from cluster.client.client import DEADLINE_S, Client
from cluster.client.lock_listing import LockInfo
from cluster.client.locks import AsyncLock, Lock
from cluster.command_line.common import (
    DurationText,
    Said,
    busy,
    deadline_option,
    look_options,
    looking,
    run,
    said,
    stderr,
    stdout,
    topology_argument,
)
from cluster.durations import Duration
from cluster.errors import ClusterError, LockBusy, LockLost, TopologyError
from cluster.status_tables import plain_table

EXIT_UNAVAILABLE = 69       # EX_UNAVAILABLE of sysexits.h: without the cluster there is no lock
EXIT_BUSY = 75              # EX_TEMPFAIL of sysexits.h: another time it may go
EXIT_LOST = 76              # no other meaning; the command was ended
EXIT_NOT_RUN = 126          # as a shell says it
EXIT_NOT_FOUND = 127
EXIT_SIGNALLED = 128        # and the number of the signal
MARGIN_USED = 0.8           # of the time from when the loss of a lock is known until others may hold it
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMIT_DEFAULT = 100
COLUMNS = ("name", "kind", "fence", "holder", "since", "waiting")


@click.command()
@topology_argument
@click.argument("name")
@click.option("--hold", default=HOLD, show_default=True, type=DurationText(),
              help="How long it stays held while the cluster hears nothing of this process.")
@click.option("--wait", type=DurationText(), help="How long to wait while others hold it; as long as it takes.")
@click.option("--skip", is_flag=True, help="Do not wait at all.")
@click.option("--note", default="", help="Who this is, for people.")
@deadline_option(DEADLINE_S, "Seconds until the cluster must answer, also with --wait and --skip.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def lock(
    topology: str,
    name: str,
    hold: Duration,
    wait: Duration | None,
    skip: bool,
    note: str,
    deadline: float,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND while the lock NAME is held: `lock TOPOLOGY NAME -- COMMAND [ARG]...`

    COMMAND finds the fence in QUORUMQ_FENCE and the name in QUORUMQ_LOCK. If the lock is lost it is ended: by SIGTERM,
    and by SIGKILL before others may hold the lock.

    Exit status: that of COMMAND, or 128 and the number of the signal that ended it; 69 the cluster cannot be reached or
    refuses, 75 others hold the lock, 76 it was lost, 126 and 127 COMMAND cannot be run.
    """
    if skip and wait is not None:
        raise click.UsageError("--skip does not wait: leave out --wait, or --skip")
    program = shutil.which(command[0])
    if program is None:
        raise Said(f"{command[0]}: no such command", EXIT_NOT_FOUND)
    try:
        sys.exit(run(_lock(topology, name, hold, wait, skip, note, deadline, (program, *command[1:]))))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except TopologyError:
        raise
    except ClusterError as error:       # of the cluster before the command began: what it would exit with is not known
        raise said(error, EXIT_UNAVAILABLE) from None


async def _lock(
    topology: str,
    name: str,
    hold: Duration,
    wait: Duration | None,
    skip: bool,
    note: str,
    deadline: float,
    command: tuple[str, ...],
) -> int:
    """The exit status."""
    async with Client.connect(topology, deadline=deadline) as cluster:
        held = Lock(cluster, name, hold=hold, wait=wait, note=note)
        try:
            async with busy(f'waiting for the lock "{name}"'):
                if not skip:
                    await held.acquire()
                elif not await held.try_acquire():
                    raise LockBusy(name, 0)
        except LockBusy as error:
            raise Said(str(error), EXIT_BUSY) from None
        try:
            return await _run(held, command)
        except LockLost as error:
            raise Said(f"{error}; the command was ended", EXIT_LOST) from None


async def _run(held: AsyncLock, command: tuple[str, ...]) -> int:
    """Runs it until it ends, or the lock is lost. Raises LockLost."""
    environment = {**os.environ, "QUORUMQ_LOCK": held.name, "QUORUMQ_FENCE": str(held.fence)}
    own = os.getpid()
    # What it starts is ended with it, so it leads a group of its own. But only one group may read from a terminal.
    group = None if sys.stdin.isatty() else 0
    process: asyncio.subprocess.Process | None = None
    early: list[int] = []       # signals that came while it was begun

    def pass_on(number: int) -> None:
        if process is None:
            early.append(number)
            return
        with suppress(ProcessLookupError):
            if group is None:
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)

    with ExitStack() as stack:
        loop = asyncio.get_running_loop()
        # Before the command begins: a signal that ended this process alone would leave behind what the command starts.
        for number in FORWARDED:
            if group is None and number == signal.SIGINT:
                loop.add_signal_handler(number, int)        # nothing: Ctrl-C has reached the command as well
            else:
                loop.add_signal_handler(number, pass_on, number)
            stack.callback(loop.remove_signal_handler, number)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, process_group=group, preexec_fn=lambda: die_with_parent(own)
            )
        except OSError as error:
            with suppress(ClusterError):
                await held.release()
            raise Said(f"{command[0]}: {error.strerror}", EXIT_NOT_RUN) from None
        for missed in early:
            pass_on(missed)
        ended = asyncio.ensure_future(process.wait())
        lost = asyncio.ensure_future(held.wait_lost())
        await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        if not ended.done():
            pass_on(signal.SIGTERM)
            timer = loop.call_later(held.margin * MARGIN_USED, pass_on, signal.SIGKILL)
            await ended
            timer.cancel()
            pass_on(signal.SIGKILL)     # what it started, and left behind
            held.assert_held()
    status = ended.result()
    try:
        await held.release()
    except LockLost as error:
        stderr().print(f"warning: {error}")
    except ClusterError as error:       # of the lock, not of the command
        stderr().print(f'warning: others may have to wait for the lock "{held.name}", for its hold time: {error}')
    return status if status >= 0 else EXIT_SIGNALLED - status


@click.command()
@topology_argument
@click.option("--prefix", default="", help="Only those whose names begin so.")
@click.option("--limit", default=LIMIT_DEFAULT, show_default=True, type=click.IntRange(min=0),
              help="At most so many; 0 is all.")
@look_options
def locks(topology: str, prefix: str, limit: int, as_json: bool, deadline: float, stale: bool) -> None:
    """Show the locks that somebody holds or waits for; one JSON object per line with --json."""
    infos = run(_locks(topology, prefix, limit, deadline, as_json=as_json, stale=stale))
    shown = infos[:limit] if limit else infos
    if as_json:
        click.echo(b"".join(msgspec.json.encode(info) + b"\n" for info in shown), nl=False)
    elif shown:
        rows = [row for info in shown for row in _rows(info)]
        stdout().print(plain_table(COLUMNS, rows, whole=("fence", "waiting")))
    else:
        click.echo("no such locks" if prefix else "no locks are held")
    if len(shown) < len(infos):
        stderr().print(f"there are more than these {limit}; --limit 0 shows all")


async def _locks(
    topology: str, prefix: str, limit: int, deadline: float, *, as_json: bool, stale: bool
) -> list[LockInfo]:
    async with looking(topology, deadline, stale=stale) as cluster, busy("looking for locks", quiet=as_json):
        return [info async for info in cluster.locks(prefix, limit + 1 if limit else None, stale=stale)]


def _rows(info: LockInfo) -> list[tuple[str, ...]]:
    """A row for each of its holders that are known; what they have in common stands in the first."""
    rows: list[tuple[Any, ...]] = [
        (
            str(holder.fence),
            "\n".join(filter(None, (holder.note, holder.client, "rests" if holder.rests else ""))),
            holder.since.astimezone().isoformat(" ", "seconds"),
        )
        for holder in info.holders
    ]
    common = [(info.name, info.kind), *[("", "")] * (len(rows) - 1)]
    waiting = [str(info.waiting), *[""] * (len(rows) - 1)]
    return [(*names, *row, count) for names, row, count in zip(common, rows, waiting, strict=False)]
