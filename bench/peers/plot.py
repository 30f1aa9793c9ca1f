"""The chart of a report: how quick, and what a kill costs."""

from pathlib import Path

from bench.peers.report import TITLES, Report, number, rate_of

WIDTH_IN, HEIGHT_IN = 10.0, 3.6
OURS, OTHERS, LOST, UNREAD = "#1b7f5c", "#8a94a6", "#c0392b", "#e6b0aa"


def plot_peers(report: Report, target: Path) -> None:
    """Three panels over the same rows: tasks per second, one round trip, and what is gone after a server was killed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "peers"       # the same figures are the same file
    from matplotlib import pyplot

    rows = sorted((row for row in report.rows if row.rates), key=lambda row: rate_of(row) or 0.0)
    names = [TITLES.get(row.name, row.name).replace("*", "").replace("`", "") for row in rows]
    colours = [OURS if row.name.startswith("quorumq") else OTHERS for row in rows]
    figure, (rate, trip, gone) = pyplot.subplots(1, 3, sharey=True, figsize=(WIDTH_IN, HEIGHT_IN))

    rates = [rate_of(row) or 0.0 for row in rows]
    rate.bar_label(rate.barh(names, rates, color=colours), [number(value) for value in rates], padding=3, fontsize=8)
    rate.set_title("no-op tasks per second", fontsize=10)

    trips = [row.p50_ms or 0.0 for row in rows]
    trip.bar_label(trip.barh(names, trips, color=colours), [number(value) for value in trips], padding=3, fontsize=8)
    trip.set_title("one round trip, ms (p50)", fontsize=10)

    known = [row for row in rows if row.fates is not None]
    places = [name for row, name in zip(rows, names, strict=True) if row.fates is not None]
    lost = [row.fates.lost if row.fates else 0 for row in known]
    # Those that never ran have no result either: what is left of the unread ones ran, and its result is gone.
    unread = [
        max(0, row.fates.confirmed - (row.read or 0) - row.fates.lost) if row.fates else 0 for row in known
    ]
    gone.barh(places, lost, color=LOST, label="never ran")
    bars = gone.barh(places, unread, left=lost, color=UNREAD, label="ran, result gone")
    labels = [f"{a:,} + {b:,}" if a or b else "0" for a, b in zip(lost, unread, strict=True)]
    gone.bar_label(bars, labels, padding=3, fontsize=8)
    confirmed = max((row.fates.confirmed for row in known if row.fates), default=0)
    gone.set_title(f"lost of {confirmed:,} confirmed tasks\nwhen the leading server is killed", fontsize=10)
    gone.legend(fontsize=7, frameon=False, loc="lower right")

    for axis in (rate, trip, gone):
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
