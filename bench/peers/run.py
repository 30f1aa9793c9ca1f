"""`make bench-peers`: quorumq and other task queues, one after another on this machine.

    python -m bench.peers.run [--only NAME] [--quick] [--plot FILE] [--keep]

Writes `peers.json` and `peers.md` to bench/results or $QUORUMQ_BENCH_DIR, and the chart to --plot. With --only the rows
of the others stay as an earlier run left them. A peer that fails has a row that says why; the exit status is then 1.
"""

import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.disk import results_folder
from bench.peers.measure import FULL, QUICK, STEPS, Size, measure
from bench.peers.peers import Peer, all_peers
from bench.peers.plot import plot_peers
from bench.peers.report import Report, Row, load, markdown, merged, save
from bench.peers.servers import remove
from bench.peers.surroundings import machine, peers_python, versions_of


def run_all(peers: Sequence[Peer], folder: Path, size: Size, console: Console, keep: bool) -> list[Row]:
    """A row for each peer, whatever becomes of it."""
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("peers", total=len(peers) * len(STEPS))
        for place, peer in enumerate(peers):
            scratch = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=folder))

            def step(name: str, peer: Peer = peer, place: int = place) -> None:
                done = place * len(STEPS) + STEPS.index(name)
                progress.update(bar, description=f"{peer.name}: {name}", completed=done)

            try:
                rows.append(measure(peer, scratch, size, step))
            except Exception as error:
                (scratch / "failed.txt").write_text(traceback.format_exc())
                reason = f"{type(error).__name__}: {error}"
                rows.append(Row(peer.name, durable=peer.durable, settings=peer.settings, failed=reason))
                console.print(f"[red]{peer.name}[/red] {reason}; logs stay in {scratch}", highlight=False)
            else:
                if not keep:
                    remove(scratch)
        progress.update(bar, completed=len(peers) * len(STEPS))
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, metavar="NAME", help="Measure this peer only; may be repeated.")
@click.option("--quick", is_flag=True, help="A tenth of the work, to see whether everything runs.")
@click.option("--plot", "chart", type=click.Path(dir_okay=False, path_type=Path), help="File for the chart (SVG).")
@click.option("--keep", is_flag=True, help="Keep logs and data of the servers.")
def main(only: tuple[str, ...], quick: bool, chart: Path | None, keep: bool) -> None:
    """Measure quorumq and its peers, and kill a server of each."""
    python = peers_python()
    peers = all_peers(python)
    if unknown := set(only) - {peer.name for peer in peers}:
        names = ", ".join(peer.name for peer in peers)
        raise click.UsageError(f"no peer is named {', '.join(sorted(unknown))}; there are {names}")
    chosen = [peer for peer in peers if not only or peer.name in only]
    folder = results_folder()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))   # so that `finally` ends the servers
    console = Console(stderr=True)
    new = Report(machine(folder), versions_of(chosen, python), [])
    new.rows = run_all(chosen, folder, QUICK if quick else FULL, console, keep)
    path = folder / "peers.json"
    report = merged(load(path) if only and path.exists() else None, new)
    save(report, path)
    (folder / "peers.md").write_text(markdown(report))
    if chart is not None:
        plot_peers(report, chart)
    click.echo(markdown(report), nl=False)
    sys.exit(1 if any(row.failed for row in new.rows) else 0)


if __name__ == "__main__":
    main()
