"""Options of the benchmarks, and a folder on a real disk."""

from pathlib import Path

import click
import pytest

from bench.disk import results_folder

LONGEST_S = 1_800           # a benchmark; what it waits for has shorter limits of its own


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quorumq")
    group.addoption("--tasks", type=int, default=100_000, help="tasks of a throughput round")
    group.addoption("--rounds", type=int, default=3, help="rounds of a throughput benchmark")
    group.addoption("--idle-seconds", type=float, default=60.0, help="window of the idle benchmark")
    group.addoption("--endurance-seconds", type=float, default=120.0, help="at least, of the endurance benchmark")
    group.addoption("--plot", default="", help="file for the chart of the endurance benchmark")
    group.addoption("--pending", type=int, default=1_000_000, help="tasks of the benchmark of pending ones")
    group.addoption("--compact-mib", type=int, default=0, help="log that becomes a snapshot, in MiB (0: the default)")
    group.addoption("--rate", type=int, default=10_000, help="tasks per second of the open-loop benchmark")
    group.addoption("--open-loop-seconds", type=float, default=10.0, help="window of the open-loop benchmark")
    group.addoption("--async-tasks", type=int, default=2_000, help="tasks of a round of the async benchmark")
    group.addoption("--slots", type=int, default=1, help="slots of each of the two workers")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit of a test is none for a benchmark: an alarm would end it, or be lost in a callback of the loop."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(LONGEST_S))


@pytest.fixture(scope="session")
def bench_folder() -> Path:
    """A folder on a disk; without one nothing is measured at all."""
    try:
        return results_folder()
    except click.ClickException as error:
        pytest.exit(error.message, returncode=2)
