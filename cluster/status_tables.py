"""The status of a cluster as tables that fit a terminal of 80 columns."""

from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

# Title -> the rows' key in the report, and its columns: (title, key of a row).
TABLES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "brokers": (
        "brokers",
        (
            ("node", "node"),
            ("pid", "pid"),
            ("role", "role"),
            ("term", "term"),
            ("commit", "commit_index"),
            ("applied", "applied_index"),
            ("digest", "digest"),
            ("sync", "sync"),
        ),
    ),
    "workers": (
        "workers",
        (
            ("node", "node"),
            ("pid", "pid"),
            ("slots", "slots"),
            ("running", "running"),
            ("waiting", "waiting"),
            ("children", "children"),
        ),
    ),
    # Eleven numbers of a queue are more than a line holds.
    "queues, now": (
        "queues",
        (
            ("name", "name"),
            ("ready", "ready"),
            ("waiting", "waiting"),
            ("running", "running"),
            ("delayed", "delayed"),
            ("parked", "parked"),
        ),
    ),
    "queues, ended": (
        "queues",
        (
            ("name", "name"),
            ("completed", "completed"),
            ("failed", "failed"),
            ("dead", "dead"),
            ("cancelled", "cancelled"),
            ("expired", "expired"),
        ),
    ),
}
TEXTS = ("node", "name", "role", "sync", "children")
MAY_WRAP = ("node", "name", "role", "digest", "children")       # other numbers are never cut or wrapped
MARKS = (("quarantined", "role"), ("draining", "node"), ("drained", "node"))     # said below that column's value
COLUMNS_MIN = {"role": len("quarantined"), "node": len("draining"), "digest": len("ffffffff")}


def print_tables(report: dict[str, Any], console: Console, *, stale: bool = False) -> None:
    """Prints the object of `status --json` for people; `stale` says that nobody has confirmed it."""
    console.print(f"leader [bold]{report['leader'] or 'none known'}[/], term {report['term']}", highlight=False)
    if stale:
        newest = max([row["applied_index"] or 0 for row in report["brokers"]], default=0)
        console.print(f"not confirmed by a leader: workers and queues as of entry {newest}", highlight=False)
    for title, (key, columns) in TABLES.items():
        console.print()
        console.print(f"[bold]{title}[/]", highlight=False)
        console.print(_table(columns, report[key]) if report[key] else "  none", highlight=False)


def _table(columns: tuple[tuple[str, str], ...], rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, key in columns:
        table.add_column(
            title,
            justify="left" if key in TEXTS else "right",
            no_wrap=key not in MAY_WRAP,
            overflow="fold",
            min_width=max(len(title), COLUMNS_MIN.get(key, 0)),
        )
    for row in rows:
        table.add_row(*(_cell(row, key) for _, key in columns))
    return table


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        text = "-"
    elif key == "digest":
        index, digest = value
        text = f"{index} {digest:08x}"
    elif isinstance(value, list | tuple):
        text = " ".join(str(item) for item in value)
    else:
        text = str(value)
    return "\n".join((text, *(mark for mark, column in MARKS if column == key and row.get(mark))))
