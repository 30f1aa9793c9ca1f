"""The chart of a report: how many cycles alone, how many for one name, and how long one waits there."""

from pathlib import Path

from bench.locks.report import TITLES, Report, p99_of, rate_of
from bench.locks.systems import CONTENDERS
from bench.peers.plot import bars_of, colour_of, plain, save_panels, three_panels

HEIGHT_IN = 2.3


def plot_locks(report: Report, target: Path) -> None:
    rows = sorted((row for row in report.rows if row.together), key=lambda row: rate_of(row.together) or 0.0)
    names = [plain(TITLES.get(row.name, row.name)) for row in rows]
    colours = [colour_of(row.name) for row in rows]
    figure, (alone, together, wait) = three_panels(HEIGHT_IN)
    bars_of(alone, "lock and unlock\nper second, alone", names, [rate_of(row.alone) or 0.0 for row in rows], colours)
    title = f"per second,\n{CONTENDERS} contenders for one name"
    bars_of(together, title, names, [rate_of(row.together) or 0.0 for row in rows], colours)
    bars_of(wait, "wait of these, ms (p99)", names, [p99_of(row.together) or 0.0 for row in rows], colours)
    save_panels(figure, target)
