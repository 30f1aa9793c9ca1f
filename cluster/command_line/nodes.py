"""`drain` and `restart`: an operator takes nodes out and back in."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors import MILLISECOND, Nanos
from cluster.client.client import Client
from cluster.client.nodes import carry_out
from cluster.client.rolling import SECOND, Ask, Course, GiveUp, Limits, Rest, Step, Turn, Wanted
from cluster.command_line.common import deadline_option
from cluster.durations import milliseconds
from cluster.topology import Topology, load
from cluster.wire import END_LIMIT_MS_MAX

NUMBER = re.compile(r"\d+(\.\d+)?")
ROLE = {True: "broker", False: "worker"}


def _duration(ctx: click.Context, param: click.Parameter, value: str) -> Nanos:
    try:
        found = milliseconds("duration", float(value) if NUMBER.fullmatch(value) else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not 0 < found <= END_LIMIT_MS_MAX:
        raise click.BadParameter(f"{value} is out of range: more than 0, and up to 24h")
    return found * MILLISECOND


timeout_option = click.option(
    "--timeout", default="9s", show_default=True, callback=_duration,
    help="How long what runs at a worker may go on; then it is ended, and runs again elsewhere.",
)  # fmt: skip
wait_option = click.option(
    "--wait", default="60s", show_default=True, callback=_duration,
    help="How long a node may take to be back, beside that.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object in the end, nothing else.")


@click.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.argument("worker")
@timeout_option
@wait_option
@json_option
@deadline_option()
def drain(topology: str, worker: str, timeout: Nanos, wait: Nanos, as_json: bool, deadline: float) -> None:
    """Take WORKER out: it is given nothing more, hands back what waits, finishes what runs, and ends.

    It stays out, and `status` shows it as drained, until `restart --node WORKER` or until its launch is started anew.
    """
    plan = load(Path(topology))
    if worker not in [node.name for node in plan.workers]:
        raise click.BadParameter(_unknown(plan, worker, "worker"), param_hint="WORKER")
    course = Course(Wanted.OUT, [worker], [], named=True, limits=Limits(timeout, wait))
    _carry_out(topology, course, as_json, deadline)


@click.command()
@click.argument("topology", type=click.Path(dir_okay=False))
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@click.option("--workers", "only_workers", is_flag=True, help="Only all workers.")
@click.option("--brokers", "only_brokers", is_flag=True, help="Only all brokers.")
@timeout_option
@wait_option
@json_option
@deadline_option()
def restart(
    topology: str,
    nodes: tuple[str, ...],
    only_workers: bool,
    only_brokers: bool,
    timeout: Nanos,
    wait: Nanos,
    as_json: bool,
    deadline: float,
) -> None:
    """Restart all nodes, or some, one after another, without a lost or repeated task.

    Workers first: each drains, ends and comes back with the modules as they are then. Brokers next, the leader last,
    each when all are there and have caught up. A drained worker is left out, unless it is named: then it comes back.
    """
    if nodes and (only_workers or only_brokers):
        raise click.UsageError("--node says which nodes: leave out --workers and --brokers")
    plan = load(Path(topology))
    workers, brokers = [node.name for node in plan.workers], [node.name for node in plan.brokers]
    for name in nodes:
        if name not in (*workers, *brokers):
            raise click.BadParameter(_unknown(plan, name, "node"), param_hint="--node")
    if nodes:
        workers, brokers = [name for name in workers if name in nodes], [name for name in brokers if name in nodes]
    elif only_workers != only_brokers:
        workers, brokers = (workers, []) if only_workers else ([], brokers)
    course = Course(Wanted.AGAIN, workers, brokers, named=bool(nodes), limits=Limits(timeout, wait))
    _carry_out(topology, course, as_json, deadline)


def _unknown(plan: Topology, name: str, what: str) -> str:
    known = [*([node.name for node in plan.brokers] if what == "node" else []), *[node.name for node in plan.workers]]
    is_broker = name in [node.name for node in plan.brokers]
    kind = f"{name} is a broker: `restart --node {name}` restarts it" if is_broker else f"no {what} is named {name!r}"
    return f"{kind}; {what}s are {', '.join(known)}"


def _carry_out(topology: str, course: Course, as_json: bool, deadline: float) -> None:
    """Runs the course, shows how it goes, and ends the program: with status 1 if it was given up."""
    shown = Shown(course, is_quiet=as_json)

    async def run() -> tuple[GiveUp | None, Nanos]:
        async with Client.connect(topology, deadline=deadline, require_leader=False, only_looks=True) as client:
            clock = client._ports.clock
            begun = clock.now()
            return await carry_out(client, course, shown.step), clock.now() - begun

    with shown.progress:
        failure, took = asyncio.run(run())
    if failure is not None:
        failure = replace(failure, reason=failure.reason.replace("TOPOLOGY", topology))
    if as_json:
        click.echo(json.dumps(report(course, failure, took)))
    elif failure is None:
        click.echo(f"{_done(course)} in {took / SECOND:.1f} s{_cut_off(course)}")
    if failure is not None:
        click.echo(f"error: {failure.reason}", err=True)
        raise SystemExit(1)


def _done(course: Course) -> str:
    names = ", ".join(turn.node for turn in course.turns) or "nothing"
    return f"drained: {names}" if course.wanted is Wanted.OUT else f"restarted: {names}"


def _cut_off(course: Course) -> str:
    """What the limit of a drain has cost, and where."""
    return "".join(
        f"; {turn.cut_off} running {'task' if turn.cut_off == 1 else 'tasks'} of {turn.node} ended and handed back"
        for turn in course.turns
        if turn.cut_off
    )


def report(course: Course, failure: GiveUp | None, took: Nanos) -> dict[str, object]:
    """The object of `--json`."""
    return {
        "nodes": [_turn(course, turn) for turn in course.turns],
        "skipped": [{"node": node, "reason": reason} for node, reason in course.skipped],
        "failed": None if failure is None else {"node": failure.node or None, "reason": failure.reason},
        "left": course.left,
        "seconds": round(took / SECOND, 3),
    }


def _turn(course: Course, turn: Turn) -> dict[str, object]:
    return {
        "node": turn.node,
        "role": ROLE[turn.node in course.brokers],
        "old_pid": turn.old_pid or None,
        "new_pid": turn.new_pid or None,
        "cut_off": turn.cut_off,
        "seconds": round(turn.took / SECOND, 3),
    }


class Shown:
    """How a course goes, for people: a bar on a terminal, else a line for each thing that happens."""

    def __init__(self, course: Course, *, is_quiet: bool) -> None:
        self._course = course
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_quiet = is_quiet
        self._turns = self._skipped = 0
        self._node = self._advice = ""
        columns = (TextColumn("{task.fields[node]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[doing]}"))  # fmt: skip
        self.progress = Progress(*columns, console=self._console, disable=is_quiet or not self._console.is_terminal)
        self._bar = self.progress.add_task("nodes", total=course.total, node="", doing="")

    def step(self, step: Step) -> None:
        course = self._course
        for node, why in course.skipped[self._skipped :]:
            self._say(f"{node} is left out: {why}")
        for turn in course.turns[self._turns :]:
            became = f"runs again, pid {turn.new_pid}" if turn.new_pid else "is drained"
            self._say(f"{turn.node} {became}, after {turn.took / SECOND:.1f} s")
        self._turns, self._skipped = len(course.turns), len(course.skipped)
        doing = ""
        if isinstance(step, Ask):
            if step.node != self._node:
                self._say(f"{step.node} is asked to {'come back' if not step.pid else 'end'}")
            self._node, doing = step.node, "is asked"
        elif isinstance(step, Rest):
            doing = step.doing
            if step.advice and step.advice != self._advice:
                self._say(step.advice)
                self._advice = step.advice
        self.progress.update(self._bar, completed=self._turns + self._skipped, node=self._node, doing=doing)

    def _say(self, text: str) -> None:
        if not self._is_quiet:
            self._console.print(text, markup=False)
