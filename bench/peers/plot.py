"""The chart of a report: how quick, and what a kill costs."""

from pathlib import Path
from statistics import median

from bench.peers.report import TITLES, Report, number

WIDTH_IN, HEIGHT_IN = 10.0, 3.6
OURS, OTHERS, LOST, UNREAD = "#1b7f5c", "#8a94a6", "#c0392b", "#e6b0aa"


def plot_peers(report: Report, target: Path) -> None:
    """Three panels over the same rows: tasks per second, one round trip, and what is gone after a server was killed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "peers"       # the same figures are the same file
    from matplotlib import pyplot

    rows = sorted((row for row in report.rows if row.rates), key=lambda row: median(row.rates))
    names = [TITLES.get(row.name, row.name).replace("*", "").replace("`", "") for row in rows]
    colours = [OURS if row.name.startswith("quorumq") else OTHERS for row in rows]
    figure, (rate, trip, gone) = pyplot.subplots(1, 3, sharey=True, figsize=(WIDTH_IN, HEIGHT_IN))

    for axis, title, values in (
        (rate, "no-op tasks per second", [median(row.rates) for row in rows]),
        (trip, "one round trip, ms (p50)", [row.p50_ms or 0.0 for row in rows]),
    ):
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [number(value) for value in values], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10)

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

    for axis in (rate, trip, gone):
        axis.margins(x=0.3)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)
