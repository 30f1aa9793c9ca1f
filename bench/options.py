"""`make bench-options`: what `apply` costs a task with priorities, shares, delays and rates, however many others wait.

    python -m bench.options [--pending N]... [--rounds N] [--json]

For each number of waiting tasks and each mix of options there is a machine of its own, in which so many tasks of that
mix wait. It is then given more of them, in steps: a second passes, some tasks are submitted, and all that was handed
out is completed. Counted is the processor time of `apply` for each task that ended: submit, dispatch, completion, and
whatever dates and limits do meanwhile. The state leads, the collector is off, and mixes take turns, since other things
that the machine does should meet all of them.

Tasks come in groups of a few, as from many callers; with shares or priorities no two neighbours have the same. A rate
allows one step's tasks in a period that is over by the next one, so that limits are full and open again with every
step; with shares, each share has its part of it for itself. With delays all that waits is delayed for a day, and each
step's tasks until the next one.
"""

import gc
import json
import time
from itertools import product
from statistics import median
from typing import Any

import click
import msgspec
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.state.commands import (
    MACHINE_VERSION,
    OUTCOME_COMPLETED,
    PRIORITY_DEFAULT,
    ROLE_CLIENT,
    ROLE_WORKER,
    Command,
    Complete,
    LineRule,
    Options,
    Outcome,
    Register,
    Stamp,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import Assignment, Effects
from cluster.state.machine import Machine

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
STEP_MS = 1_000
PERIOD_MS = 900             # of rates: over by the next step
STEP_TASKS = 400
GROUP_TASKS = 4
SHARES = 100                # each has a group of every step
PRIORITIES = 10
STEPS = 25                  # of a round, after as many that do not count
SUBMIT_GROUPS = 200         # of a command, when those are submitted that wait
WORKERS = 2
PENDING = (1_000, 100_000, 1_000_000)


class Mix(Struct, frozen=True):
    """Which options tasks have."""

    priority: bool
    shares: bool
    delay: bool
    rate: bool

    def options(self, number: int, delay_ms: int) -> Options | None:
        """Of the n-th group."""
        line = None
        if self.shares or self.rate:
            starts = (STEP_TASKS // SHARES if self.shares else STEP_TASKS) if self.rate else 0
            share = f"tenant {number % SHARES}" if self.shares else ""
            line = LineRule(share=share, starts=starts, period_ms=PERIOD_MS if starts else 0)
        if not (self.priority or self.delay or line):
            return None
        return Options(
            priority=number % PRIORITIES if self.priority else PRIORITY_DEFAULT,
            delay_ms=delay_ms if self.delay else 0,
            line=line,
        )


class Figure(Struct, frozen=True):
    """Microseconds of a task, of each round."""

    pending: int
    mix: Mix
    rounds: list[float]


class Course:
    """A machine with so many tasks of a mix that wait."""

    def __init__(self, mix: Mix, pending: int) -> None:
        self._mix = mix
        self.machine = Machine()
        self._now_ms = NOW_MS
        self._seqs: dict[int, int] = {}
        self._first = 1
        self._groups = 0
        self._spent_s = 0.0
        worker = WorkerSpec(1, ("default",), ("other",), 1, (), ("m:f",), STEP_TASKS // WORKERS)
        # The workers come last: nothing is handed out before.
        self._apply(Register("c", 1, ROLE_CLIENT))
        left = pending // GROUP_TASKS
        while left > 0:
            self._apply(self._submit(min(left, SUBMIT_GROUPS), DAY_MS))
            left -= SUBMIT_GROUPS
        self._given = [self._apply(Register(f"w{number}", 1, ROLE_WORKER, worker)) for number in range(WORKERS)]

    def measure(self) -> float:
        """One round, in microseconds for each task that ended."""
        self._steps()
        self._spent_s = 0.0
        gc.collect()
        gc.disable()
        try:
            ended = self._steps()
        finally:
            gc.enable()
        return self._spent_s / ended * 1e6

    def _steps(self) -> int:
        ended = 0
        for _ in range(STEPS):
            self._now_ms += STEP_MS
            self._given.append(self._apply(self._submit(STEP_TASKS // GROUP_TASKS, STEP_MS)))
            given, self._given = self._given, []
            for assigned in given:
                for session, assignments in assigned.items():
                    outcomes = [Outcome(a.task, a.attempt, OUTCOME_COMPLETED, NOW_MS, 50, b"done") for a in assignments]
                    ended += len(outcomes)
                    seq = self._next(session)
                    self._given.append(self._apply(Complete(session, seq, seq, outcomes)))
        return ended

    def _submit(self, groups: int, delay_ms: int) -> Submit:
        made: list[TaskGroup] = []
        for _ in range(groups):
            options = self._mix.options(self._groups, delay_ms)
            made.append(TaskGroup("m:f", self._first, [b"x" * 100] * GROUP_TASKS, options))
            self._first += GROUP_TASKS
            self._groups += 1
        seq = self._next(1)
        return Submit(1, seq, seq, made)

    def _next(self, session: int) -> int:
        self._seqs[session] = self._seqs.get(session, 0) + 1
        return self._seqs[session]

    def _apply(self, *commands: Command) -> dict[int, list[Assignment]]:
        stamped = (Stamp(self._now_ms, 1), *commands)
        groups = [[command.__struct_config__.tag, MACHINE_VERSION, [command]] for command in stamped]
        payload = msgspec.msgpack.encode(groups)
        effects = Effects()
        start = time.process_time()
        self.machine.apply(self.machine.applied_index + 1, 1, payload, effects)
        self._spent_s += time.process_time() - start
        return effects.assignments


MIXES = [Mix(*flags) for flags in product((False, True), repeat=4)]


def measure_all(sizes: tuple[int, ...], rounds: int, console: Console) -> list[Figure]:
    figures: list[Figure] = []
    for pending in sizes:
        found: dict[Mix, list[float]] = {mix: [] for mix in MIXES}
        turns = [mix for _ in range(rounds) for mix in MIXES]
        for mix in track(turns, f"{pending:,} waiting", console=console, transient=True):
            found[mix].append(Course(mix, pending).measure())
        figures += [Figure(pending, mix, some) for mix, some in found.items()]
    return figures


def table(figures: list[Figure], sizes: tuple[int, ...]) -> Table:
    made = Table(box=SIMPLE_HEAD, show_edge=False)
    for title in Mix.__struct_fields__:
        made.add_column(title)
    for pending in sizes:
        made.add_column(f"{pending:,}", justify="right")
    for mix in MIXES:
        flags = ["on" if getattr(mix, title) else "-" for title in Mix.__struct_fields__]
        of_mix = {figure.pending: median(figure.rounds) for figure in figures if figure.mix == mix}
        made.add_row(*flags, *(f"{of_mix[pending]:.2f}" for pending in sizes))
    return made


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pending", "sizes", multiple=True, type=int, default=PENDING, show_default=True,
              help="Tasks that wait; may be repeated.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print all rounds as JSON.")
def main(sizes: tuple[int, ...], rounds: int, as_json: bool) -> None:
    """Measure what a task costs the state, in microseconds, with options on and off."""
    figures = measure_all(sizes, rounds, Console(stderr=True))
    if as_json:
        rows: list[dict[str, Any]] = [msgspec.to_builtins(figure) for figure in figures]
        click.echo(json.dumps(rows))
    else:
        Console().print("microseconds of a task; columns are tasks that wait meanwhile", highlight=False)
        Console().print(table(figures, sizes))


if __name__ == "__main__":
    main()
