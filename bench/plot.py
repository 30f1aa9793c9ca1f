"""Charts of benchmark reports."""

from itertools import pairwise
from pathlib import Path
from typing import Any

BROKERS = ("b1", "b2", "b3")
WIDTH_IN, HEIGHT_IN = 9.0, 8.0


def plot_endurance(report: dict[str, Any], target: Path) -> None:
    """Rate, memory, disk and the longest turn of each broker over the time of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = report["samples"]
    times = [sample["at_s"] for sample in samples]
    figure, (rate, memory, disk, turn) = pyplot.subplots(4, 1, sharex=True, figsize=(WIDTH_IN, HEIGHT_IN))
    finished = [sample["finished"] for sample in samples]
    steps = pairwise(zip(times, finished, strict=True))
    rate.plot(times[1:], [(after - before) / (end - start) / 1e3 for (start, before), (end, after) in steps], lw=0.8)
    rate.set_ylabel("1,000 tasks/s")
    for number, name in enumerate(BROKERS):
        for axis, key in ((memory, "pss_mb"), (disk, "disk_mb"), (turn, "turn_ms")):
            axis.plot(times, [sample[key][number] for sample in samples], label=name, lw=0.8)
        marks = [
            later["at_s"]
            for earlier, later in pairwise(samples)
            if later["snapshots"][number] != earlier["snapshots"][number]
        ]
        for mark in marks:
            disk.axvline(mark, color=f"C{number}", lw=0.5, ls=":")
    memory.set_ylabel("memory, MB (PSS)")
    disk.set_ylabel("disk, MB\n(dotted: snapshot)")
    turn.set_ylabel("longest turn of\nthe last minute, ms")
    turn.set_xlabel("seconds")
    for axis in (rate, memory, disk, turn):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    memory.legend(loc="lower right", ncols=3)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
