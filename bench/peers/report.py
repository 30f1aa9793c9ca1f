"""Rows of the report: kept as JSON, shown as Markdown."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.peers.fates import Fates

TITLES = {
    "quorumq-map": "**quorumq, 3 brokers, `map`**",
    "quorumq-submit": "**quorumq, 3 brokers, `submit`**",
    "celery-redis": "celery + redis",
    "celery-quorum": "celery + rabbitmq, quorum queue of 3",
    "dramatiq-redis": "dramatiq + redis",
    "dramatiq-rabbitmq": "dramatiq + rabbitmq",
    "huey-redis": "huey + redis",
    "taskiq-redis": "taskiq + redis list",
}
HEADINGS = (
    "queue", "tasks/s", "p50 ms", "p99 ms", "durable", "confirmed", "never ran", "ran twice", "results read",
)  # fmt: skip
NONE = "-"


class Row(msgspec.Struct):
    """What was measured of one peer. What could not be has its reason in `failed`."""

    name: str
    durable: str = ""
    settings: str = ""
    rates: list[float] = []             # tasks per second of each round
    p50_ms: float | None = None
    p99_ms: float | None = None
    fates: Fates | None = None
    refused: int = 0                    # submits that raised while the server was away
    read: int | None = None             # confirmed tasks whose result the client got
    failed: str = ""


class Report(msgspec.Struct):
    """One run. `versions` is for the caption."""

    machine: str
    versions: dict[str, str]
    rows: list[Row]


def rate_of(row: Row) -> float | None:
    return statistics.median(row.rates) if row.rates else None


def number(value: float | None) -> str:
    """Three digits that mean something; thousands with a comma."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def range_of(rates: Sequence[float]) -> str:
    return f" ({number(min(rates))} - {number(max(rates))})" if len(rates) > 1 else ""


def cells(row: Row) -> list[str]:
    known = row.fates
    outcome = (known.confirmed, known.lost, known.repeated) if known else (None, None, None)
    return [
        TITLES.get(row.name, row.name),
        number(rate_of(row)) + range_of(row.rates),
        number(row.p50_ms),
        number(row.p99_ms),
        row.durable,
        *map(count, outcome),
        count(row.read),
    ]


def markdown(report: Report) -> str:
    """The table, the quickest first, then what failed and the caption."""
    rows = sorted(report.rows, key=lambda row: -(rate_of(row) or 0.0))
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    failed = [f"- {TITLES.get(row.name, row.name)}: {row.failed}" for row in rows if row.failed]
    if failed:
        lines += ["", "Failed:", *failed]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    settings = "; ".join(f"{TITLES.get(row.name, row.name)}: {row.settings}" for row in rows if row.settings)
    lines += ["", f"{report.machine}. Versions: {versions}. Settings: {settings}."]
    return "\n".join(lines) + "\n"


def save(report: msgspec.Struct, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))


def load(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def merged(old: Report | None, new: Report) -> Report:
    """The new rows in the place of those of the same name; others stay."""
    if old is None:
        return new
    measured = {row.name for row in new.rows}
    kept = [row for row in old.rows if row.name not in measured]
    return Report(new.machine, {**old.versions, **new.versions}, [*kept, *new.rows])
