"""The chart of a report: how quick, and what a kill costs."""

from pathlib import Path
from typing import Any

from bench.peers.report import TITLES, Report, number, rate_of

WIDTH_IN, HEIGHT_IN = 10.0, 3.6
OURS, OTHERS, LOST, UNREAD = "#1b7f5c", "#8a94a6", "#c0392b", "#e6b0aa"


def plot_peers(report: Report, target: Path) -> None:
    """Three panels over the same rows: tasks per second, one round trip, and what is gone after a server was killed."""
    rows = sorted((row for row in report.rows if row.rates), key=lambda row: rate_of(row) or 0.0)
    names = [plain(TITLES.get(row.name, row.name)) for row in rows]
    colours = [colour_of(row.name) for row in rows]
    figure, (rate, trip, gone) = three_panels(HEIGHT_IN)
    bars_of(rate, "no-op tasks per second", names, [rate_of(row) or 0.0 for row in rows], colours)
    bars_of(trip, "one round trip, ms (p50)", names, [row.p50_ms or 0.0 for row in rows], colours)

    killed = [(name, row.fates, row.read or 0) for name, row in zip(names, rows, strict=True) if row.fates is not None]
    places = [name for name, _, _ in killed]
    lost = [fates.lost for _, fates, _ in killed]
    # Those that never ran have no result either: what is left of the unread ones ran, and its result is gone.
    unread = [max(0, fates.confirmed - read - fates.lost) for _, fates, read in killed]
    gone.barh(places, lost, color=LOST, label="never ran")
    bars = gone.barh(places, unread, left=lost, color=UNREAD, label="ran, result gone")
    labels = [f"{a:,} + {b:,}" if a or b else "0" for a, b in zip(lost, unread, strict=True)]
    gone.bar_label(bars, labels, padding=3, fontsize=8)
    confirmed = max((fates.confirmed for _, fates, _ in killed), default=0)
    gone.set_title(f"lost of {confirmed:,} confirmed tasks\nwhen the leading server is killed", fontsize=10)
    gone.legend(fontsize=7, frameon=False, loc="lower right")
    save_panels(figure, target)


def three_panels(height_in: float) -> tuple[Any, Any]:
    """A figure and its axes, which share the names at the left."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "peers"       # the same figures are the same file
    from matplotlib import pyplot

    return pyplot.subplots(1, 3, sharey=True, figsize=(WIDTH_IN, height_in))


def bars_of(axis: Any, title: str, names: list[str], values: list[float], colours: list[str]) -> None:
    bars = axis.barh(names, values, color=colours)
    axis.bar_label(bars, [number(value) for value in values], padding=3, fontsize=8)
    axis.set_title(title, fontsize=10)


def save_panels(figure: Any, target: Path) -> None:
    from matplotlib import pyplot

    for axis in figure.axes:
        axis.margins(x=0.3)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


def plain(title: str) -> str:
    """Without the marks of Markdown."""
    return title.replace("*", "").replace("`", "")


def colour_of(name: str) -> str:
    return OURS if name.startswith("quorumq") else OTHERS
