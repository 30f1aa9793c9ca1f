"""`python -m cluster.simulation`: runs seeds and prints one line of JSON; exit status 1 if a promise was broken.

A violation names its seed, the time, the oracle, and the command that shows it again: a seed is one course of events.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from time import perf_counter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors import SECOND
from actors.simulation import World
from cluster.simulation.calendar_scenario import Year, YearReport
from cluster.simulation.scenario import Report, Scenario

SECONDS_PER_HOUR = 3_600
FIELD_CHARACTERS_MAX = 200


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=50, show_default=True, type=click.IntRange(min=0), help="How many seeds to run.")
@click.option(
    "--years",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many of them to live through as a year of schedules as well; each takes about a minute.",
)
@click.option("--from", "first", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them.")
@click.option("--json", "only_json", is_flag=True, help="Print the JSON line and nothing else.")
@click.option("--verbose", is_flag=True, help="Print the events of every seed, and a line about each.")
def main(seeds: int, years: int, first: int, only_json: bool, verbose: bool) -> None:
    """Simulate a cluster of three brokers, two workers and five clients, a minute or more for each seed."""
    if not seeds and not years:
        raise click.UsageError("nothing to run: give --seeds or --years")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    started = perf_counter()
    reports: list[Report] = []
    lived: list[YearReport] = []
    columns = (TextColumn("seed {task.fields[seed]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = only_json or verbose or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden) as progress:
        bar = progress.add_task("seeds", total=seeds + years, seed=first)
        shown = console if verbose and not only_json else None
        for number in range(seeds + years):
            seed = first + (number if number < seeds else number - seeds)
            progress.update(bar, seed=seed)
            report: Report | YearReport
            if number < seeds:
                report = _run(seed, shown)
                reports.append(report)
            else:
                report = _live(seed, shown)
                lived.append(report)
            for violation in report.violations:
                console.print(str(violation), markup=False)
            progress.advance(bar)
    line = summary(reports, lived, perf_counter() - started)
    click.echo(json.dumps(line))
    sys.exit(1 if line["violations"] else 0)


def summary(reports: list[Report], lived: list[YearReport], wall_seconds: float) -> dict[str, object]:
    """The line that is printed: sums over all seeds; `violations` counts those of years as well. `slots` are those of
    schedules that became a task in the years."""
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
    return {
        "seeds": len(reports),
        "violations": sum(len(report.violations) for report in reports) + sum(len(year.violations) for year in lived),
        "simulated_hours": round(sum(report.simulated_ns for report in reports) / SECOND / SECONDS_PER_HOUR, 3),
        "operations": sum(report.operations for report in reports),
        "acknowledged": sum(report.acknowledged for report in reports),
        "lost": sum(report.lost for report in reports),
        "duplicated_records": sum(report.duplicated_records for report in reports),
        "faults": dict(sorted(faults.items())),
        "elections": sum(report.elections for report in reports),
        "wall_seconds": round(wall_seconds, 2),
        "snapshots": sum(report.snapshots for report in reports),
        "restorations": sum(report.restorations for report in reports),
        "copies": sum(report.moments.copies for report in reports),
        "transfers": sum(report.moments.transfers for report in reports),
        "interrupted_transfers": sum(report.moments.interrupted_transfers for report in reports),
        "refetches": sum(report.moments.refetches for report in reports),
        "crashes_in_compaction": sum(report.moments.crashes_in_compaction for report in reports),
        "replays": sum(report.replays for report in reports),
        "grants": sum(report.grants for report in reports),
        "lapses": sum(report.lapses for report in reports),
        "limited": sum(report.limited for report in reports),
        "turns": sum(report.turns for report in reports),
        "duplicates": sum(report.duplicates for report in reports),
        "resizes": sum(report.resizes for report in reports),
        "years": len(lived),
        "slots": sum(year.fired for year in lived),
    }


def _run(seed: int, console: Console | None) -> Report:
    scenario = Scenario(seed)
    if console is None:
        return scenario.run()
    scenario.world.on_log.append(_shower(scenario.world, console))
    report = scenario.run()
    console.print(
        f"seed {seed}: {report.simulated_ns / SECOND:.0f} s, {report.acknowledged} acknowledged, "
        f"{report.entries} entries, {report.runs} runs, {report.late_outcomes} late outcomes refused, "
        f"{report.snapshots} snapshots, {report.moments.copies} copied, {report.moments.transfers} sent, "
        f"{report.restorations} restored, "
        f"{report.elections} elections, faults {report.faults}, digest {report.digest:08x}",
        markup=False,
    )
    return report


def _live(seed: int, console: Console | None) -> YearReport:
    year = Year(seed)
    if console is None:
        return year.run()
    year.world.on_log.append(_shower(year.world, console))
    report = year.run()
    console.print(
        f"year of seed {seed}: {report.fired} slots became tasks, {report.missed} did not, "
        f"at most {report.late_ms_max} ms late in calm, {report.runs} runs, {report.entries} entries, "
        f"{report.elections} elections, faults {report.faults}, digest {report.digest:08x}",
        markup=False,
    )
    return report


def _shower(world: World, console: Console) -> Callable[[str, str, dict[str, object]], None]:
    """Prints what nodes log."""

    def show(process: str, name: str, fields: dict[str, object]) -> None:
        text = " ".join(f"{key}={str(value)[:FIELD_CHARACTERS_MAX]!r}" for key, value in fields.items())
        console.print(f"{world.now / SECOND:11.6f} {process} {name} {text}", markup=False)

    return show


if __name__ == "__main__":
    main()
