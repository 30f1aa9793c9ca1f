"""Options and summary lines that all tests share."""

import ctypes
import gc
from collections import Counter
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--transcripts",
        action="append",
        metavar="DIR",
        help="folder with transcripts of etcd's Raft tests for tests/conformance/test_etcd_raft.py; may be repeated",
    )


@pytest.fixture(autouse=True, scope="module")
def _worlds_are_let_go() -> Iterator[None]:
    """A simulated world is one large cycle that runs with the collector off, and glibc keeps what it freed: a session
    would have gigabytes."""
    yield
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of etcd's transcripts passed, ran and were skipped for which reasons."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if not any(name == "transcript" for name, _ in getattr(report, "user_properties", ())):
                continue
            outcomes[outcome] += 1
            if outcome == "skipped":
                reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if not outcomes:
        return
    listed = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
    terminalreporter.write_line(
        f"transcripts: {outcomes['passed']} passed, {outcomes['passed'] + outcomes['failed']} run, "
        f"{outcomes['skipped']} skipped ({listed or 'none'})"
    )
