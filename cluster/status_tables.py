"""The status of a cluster as tables that fit a terminal of 80 columns."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
NUMBER = re.compile(r"[\d.]+|-")
TEXTS = ("node", "name", "role", "sync", "children")
MAY_WRAP = ("node", "name", "role", "digest", "children")       # other numbers are never cut or wrapped
MARKS = (("quarantined", "role"), ("draining", "node"), ("drained", "node"))     # said below that column's value
WAITING_TITLES = {"parked": "parked", "limits": "held back"}
WAITING_LINES_MAX = 20
COLUMNS_MIN = {"role": len("quarantined"), "node": len("draining"), "digest": len("ffffffff")}


def print_tables(report: dict[str, Any], console: Console, *, stale: bool = False) -> None:
    """Prints the object of `status --json` for people; `stale` says that nobody has confirmed it."""
    console.print(who_leads(report), highlight=False)
    if stale:
        newest = max([row["applied_index"] or 0 for row in report["brokers"]], default=0)
        console.print(f"not confirmed by a leader: workers and queues as of entry {newest}", highlight=False)
    for title in TABLES:
        console.print()
        console.print(f"[bold]{title}[/]", highlight=False)
        console.print(_part(title, report, stale=stale), highlight=False)
    _print_waiting("parked", "names", report, console)
    _print_waiting("limits", "limits", report, console)
    counts = [f"{count} {state}" for state, count in (report.get("schedules") or {}).items() if count]
    if counts:
        console.print()
        console.print(f"[bold]schedules[/]: {', '.join(counts)}; `cron` lists them", highlight=False)


def print_part(part: str, report: dict[str, Any], console: Console) -> None:
    """One part of the same, by its key in the report."""
    if part == "brokers":
        console.print(who_leads(report), highlight=False)
    titles = [title for title, (key, _) in TABLES.items() if key == part]
    for number, title in enumerate(titles):
        if number:
            console.print()
        console.print(_part(title, report, stale=True), highlight=False)
    if part == "queues":
        _print_waiting("limits", "limits", report, console)


def _print_waiting(key: str, what: str, report: dict[str, Any], console: Console) -> None:
    """Tasks that wait for something else than their turn, and why."""
    rows, unsaid = report.get(key) or [], report.get(f"{key}_more", 0)
    if not rows:
        return
    console.print()
    console.print(f"[bold]{WAITING_TITLES[key]}[/]", highlight=False)
    for row in rows[:WAITING_LINES_MAX]:
        until = f", until {_time(row['until_ms'])}" if row.get("until_ms") else ""
        console.print(f"  {row['ready']}: {row['why']}{until}", highlight=False, markup=False)
    if len(rows) > WAITING_LINES_MAX:
        console.print(f"  and {len(rows) - WAITING_LINES_MAX} more, see --json", highlight=False)
    if unsaid:
        console.print(f"  and {unsaid} {what} that the status has no room for", highlight=False)


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def who_leads(report: dict[str, Any]) -> str:
    """The first line: who leads, or why nobody does. What to do differs: start it, bring a machine back, or wait."""
    if report["leader"]:
        return f"leader [bold]{report['leader']}[/], term {report['term']}"
    rows = report["brokers"]
    away = [row["node"] for row in rows if row["role"] == "down"]
    votes = len([row for row in rows if row["role"] != "down" and not row.get("quarantined")])
    needed = len(rows) // 2 + 1
    if len(away) == len(rows) and report.get("refusal"):
        return f"refused: {report['refusal']}"
    if len(away) == len(rows):
        return "no broker answers: the cluster does not run, or cannot be reached from here"
    if any(row["role"] == "forming" for row in rows):
        missing = f"; {_names(away)} missing" if away else ""
        return f"not formed yet: the first start waits for all {len(rows)} brokers{missing}"
    if votes < needed:
        lost = "" if not away else f"; {_names(away)} down"
        return f"no majority: {votes} of {len(rows)} brokers can vote, {needed} are needed{lost}"
    return f"no leader: {votes} of {len(rows)} brokers answer and are electing one, or cannot reach each other"


def plain_table(titles: Sequence[str], rows: Iterable[Sequence[str]], whole: Sequence[str] = ()) -> Table:
    """A table of texts that come from users: nothing in them is markup. Columns that are `whole` are never folded, and
    those of numbers among them are aligned to the right."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    rows = list(rows)
    for place, title in enumerate(titles):
        is_number = title in whole and all(NUMBER.fullmatch(row[place]) for row in rows)
        table.add_column(title, justify="right" if is_number else "left", no_wrap=title in whole, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def slots_text(row: dict[str, Any]) -> str:
    """Of a worker: how many are open, and between which bounds it opens and closes them."""
    slots, fewest, most = row["slots"], row["slots_min"], row["slots_max"]
    return str(slots) if fewest == most else f"{slots} ({fewest}..{most})"


def _part(title: str, report: dict[str, Any], *, stale: bool) -> Table | str:
    key, columns = TABLES[title]
    if report[key]:
        return _table(columns, report[key])
    if key != "brokers" and not stale and not report["leader"]:
        return "  not known without a leader"
    return "  none"


def _names(nodes: list[str]) -> str:
    return f"{', '.join(nodes)} {'is' if len(nodes) == 1 else 'are'}"


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
    elif key == "slots":
        text = slots_text(row)
    elif key == "digest":
        index, digest = value
        text = f"{index} {digest:08x}"
    elif isinstance(value, list | tuple):
        text = " ".join(str(item) for item in value)
    else:
        text = str(value)
    return "\n".join((text, *(mark for mark, column in MARKS if column == key and row.get(mark))))
