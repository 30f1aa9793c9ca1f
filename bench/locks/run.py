"""`make bench-locks`: locks of quorumq, etcd and Redis, in turn on this machine.

    python -m bench.locks.run [--only NAME] [--quick] [--json] [--plot FILE] [--keep]

Writes `locks.json` and `locks.md` to bench/results or $QUORUMQ_BENCH_DIR, and the chart to --plot. With --only the rows
of the others stay as an earlier run left them. A system that fails has a row that says why; the exit status is then 1,
as it is when a contender of quorumq came too short.
"""

import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.disk import results_folder
from bench.locks.figures import Round
from bench.locks.plot import plot_locks
from bench.locks.report import Report, Row, complaints, load, markdown, merged
from bench.locks.systems import FULL, QUICK, STEPS, Size, System, all_systems, measure
from bench.peers.report import save
from bench.peers.servers import remove
from bench.peers.surroundings import machine, peers_python, versions_of

Measure = Callable[[System, Path, Size, Callable[[str], None]], tuple[Round, Round]]


def run_all(
    systems: Sequence[System], folder: Path, size: Size, console: Console, keep: bool, measure: Measure = measure
) -> list[Row]:
    """A row for each system, whatever becomes of it. All of them have their round before the next one begins: what else
    the machine does meanwhile meets all of them. One that fails has no further rounds."""
    rows = {one.name: Row(one.name, durable=one.durable, settings=one.settings) for one in systems}
    turns = [(number, one) for number in range(size.rounds) for one in systems]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("locks", total=len(turns) * len(STEPS))
        for turn, (number, system) in enumerate(turns):
            row = rows[system.name]
            if row.failed:
                continue
            scratch = Path(tempfile.mkdtemp(prefix=f"{system.name}-", dir=folder))

            def step(name: str, system: System = system, number: int = number, turn: int = turn) -> None:
                text = f"round {number + 1}, {system.name}: {name}"
                progress.update(bar, description=text, completed=turn * len(STEPS) + STEPS.index(name))

            try:
                alone, together = measure(system, scratch, size, step)
            except Exception as error:
                (scratch / "failed.txt").write_text(traceback.format_exc())
                row.failed = f"{type(error).__name__}: {error}"
                console.print(f"[red]{system.name}[/red] {row.failed}; logs stay in {scratch}", highlight=False)
                continue
            row.alone.append(alone)
            row.together.append(together)
            if not keep:
                remove(scratch)
        progress.update(bar, completed=len(turns) * len(STEPS))
    return list(rows.values())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, metavar="NAME", help="Measure this system only; may be repeated.")
@click.option("--quick", is_flag=True, help="One short round, to see whether everything runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, with all rounds.")
@click.option("--plot", "chart", type=click.Path(dir_okay=False, path_type=Path), help="File for the chart (SVG).")
@click.option("--keep", is_flag=True, help="Keep logs and data of the servers.")
def main(only: tuple[str, ...], quick: bool, as_json: bool, chart: Path | None, keep: bool) -> None:
    """Measure locks of quorumq, etcd and Redis, alone and with others that want the same one."""
    python = peers_python()
    systems = all_systems(python)
    if unknown := set(only) - {one.name for one in systems}:
        names = ", ".join(one.name for one in systems)
        raise click.UsageError(f"no system is named {', '.join(sorted(unknown))}; there are {names}")
    chosen = [one for one in systems if not only or one.name in only]
    folder = results_folder()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))   # so that `finally` ends the servers
    console = Console(stderr=True)
    new = Report(machine(folder), versions_of(chosen, python), [])
    new.rows = run_all(chosen, folder, QUICK if quick else FULL, console, keep)
    path = folder / "locks.json"
    report = merged(load(path) if only and path.exists() else None, new)
    save(report, path)
    (folder / "locks.md").write_text(markdown(report))
    if chart is not None:
        plot_locks(report, chart)
    click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2) if as_json else markdown(report), nl=as_json)
    sys.exit(1 if complaints(new) else 0)


if __name__ == "__main__":
    main()
