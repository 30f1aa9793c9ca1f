"""Clusters that tests share, and figures that they measure."""

from collections.abc import Callable, Iterator

import pytest
from cluster_rig import make_topology, running

from cluster import BlockingClient, Client
from cluster.local import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three brokers, two workers of two slots; one for all tests of a module."""
    with running(make_topology(tmp_path_factory.mktemp("cluster"), slots=2)) as started:
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[BlockingClient]:
    """A blocking one of that cluster."""
    with Client.open(cluster.topology) as started:
        yield started


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Notes what a test measured, for the end of the report."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, text in report.user_properties:
                if name == "figure" and report.when == "call":
                    terminalreporter.write_line(f"measured: {text}")
