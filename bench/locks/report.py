"""Rows of the report: kept as JSON, shown as Markdown."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.locks.figures import Round
from bench.locks.systems import CONTENDERS, PROCESSES
from bench.peers.report import NONE, number, range_of

TITLES = {
    "quorumq": "**quorumq, 3 brokers**",
    "etcd-queue": "etcd, 3 nodes, queue of keys",
    "etcd-service": "etcd, 3 nodes, lock service",
    "redis": "redis, 1 node, not synced",
}
HEADINGS = (
    "lock", "alone, cycles/s", "wait p50 ms", "p99 ms", f"{CONTENDERS} contenders, cycles/s", "wait p50 ms", "p99 ms",
    "longest ms", "least", "durable",
)  # fmt: skip
FAIR_LEAST = 0.5        # of the mean; each contender of quorumq has that in every round


class Row(msgspec.Struct):
    """What was measured of one system. What could not be has its reason in `failed`."""

    name: str
    durable: str = ""
    settings: str = ""
    alone: list[Round] = []
    together: list[Round] = []          # CONTENDERS of them
    failed: str = ""


class Report(msgspec.Struct):
    """One run. `versions` is for the caption."""

    machine: str
    versions: dict[str, str]
    rows: list[Row]


def median_of(rounds: Sequence[Round], figure: Callable[[Round], float]) -> float | None:
    return statistics.median(map(figure, rounds)) if rounds else None


def rate_of(rounds: Sequence[Round]) -> float | None:
    return median_of(rounds, lambda one: one.rate)


def p99_of(rounds: Sequence[Round]) -> float | None:
    return median_of(rounds, lambda one: one.p99_ms)


def least_of(rounds: Sequence[Round]) -> float | None:
    """Of the worst round."""
    return min((one.least for one in rounds), default=None)


def cells(row: Row) -> list[str]:
    def three(rounds: Sequence[Round]) -> list[str]:
        return [
            number(rate_of(rounds)) + range_of([one.rate for one in rounds]),
            number(median_of(rounds, lambda one: one.p50_ms)),
            number(p99_of(rounds)),
        ]

    return [
        TITLES.get(row.name, row.name),
        *three(row.alone),
        *three(row.together),
        number(max((one.longest_ms for one in row.together), default=None)),
        number(least_of(row.together)),
        row.durable or NONE,
    ]


def complaints(report: Report) -> list[str]:
    """What is not as it has to be: systems that failed, contenders of quorumq that came too short."""
    found = [f"- {TITLES.get(row.name, row.name)}: {row.failed}" for row in report.rows if row.failed]
    for row in report.rows:
        least = least_of(row.together)
        if row.name == "quorumq" and least is not None and least < FAIR_LEAST:
            title = TITLES[row.name]
            found.append(f"- {title}: a contender had {number(least)} of the mean, and should have {FAIR_LEAST}")
    return found


def markdown(report: Report) -> str:
    """The table, the quickest under contention first, then complaints and the caption."""
    rows = sorted(report.rows, key=lambda row: -(rate_of(row.together) or 0.0))
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    if found := complaints(report):
        lines += ["", "Failed:", *found]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    settings = "; ".join(f"{TITLES.get(row.name, row.name)}: {row.settings}" for row in rows if row.settings)
    seconds = sorted({one.seconds for row in rows for one in (*row.alone, *row.together)})
    rounds = max((len(row.together) for row in rows), default=0)
    lines += [
        "",
        f"A cycle is lock and unlock, a wait from asking to holding. Median of {rounds} rounds of "
        f"{' or '.join(f'{one:.0f}' for one in seconds)} s in turn (from - to). *Longest* wait and *least*, the cycles "
        "of the contender with the fewest as a part of the mean, are those of the worst round. "
        f"The {CONTENDERS} contenders for one name are tasks of {PROCESSES} processes, with a connection each.",
        "",
        f"{report.machine}. Versions: {versions}. Settings: {settings}.",
    ]
    return "\n".join(lines) + "\n"


def load(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def merged(old: Report | None, new: Report) -> Report:
    """The new rows in the place of those of the same name; others stay."""
    if old is None:
        return new
    measured = {row.name for row in new.rows}
    kept = [row for row in old.rows if row.name not in measured]
    return Report(new.machine, {**old.versions, **new.versions}, [*kept, *new.rows])
