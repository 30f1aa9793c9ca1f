"""The fixtures of `cluster.testing` for pytest, which finds this module by its entry point.

It stands beside the packages, because pytest loads it in every session of every project where quorumq is installed:
`cluster` is imported when a test asks for a fixture, and not before.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cluster.testing import MemoryCluster

LOG_LINES = 40                          # of a cluster, behind a test that failed
MARKER = "memory_cluster"

_clusters = pytest.StashKey["list[MemoryCluster]"]()


@pytest.fixture
def make_memory_cluster(request: pytest.FixtureRequest) -> "Iterator[Callable[..., MemoryCluster]]":
    """Makes clusters in memory, with the options of `cluster.testing.MemoryCluster`; they end with the test."""
    from cluster.testing import MemoryCluster

    made = request.node.stash.setdefault(_clusters, [])
    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> MemoryCluster:
            cluster = MemoryCluster(*args, **options)
            made.append(cluster)
            return stack.enter_context(cluster)

        yield make


@pytest.fixture
def memory_cluster(
    request: pytest.FixtureRequest, make_memory_cluster: "Callable[..., MemoryCluster]"
) -> "MemoryCluster":
    """A cluster in memory, in virtual time; `@pytest.mark.memory_cluster(brokers=3)` gives it options."""
    marker = request.node.get_closest_marker(MARKER)
    return make_memory_cluster(*marker.args, **marker.kwargs) if marker is not None else make_memory_cluster()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(...): options of the fixture memory_cluster, as of MemoryCluster")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """What nodes have logged, behind a test that failed."""
    report: pytest.TestReport = (yield).get_result()
    if report.when == "call" and report.failed:
        for cluster in item.stash.get(_clusters, []):
            report.sections.append((f"log of {cluster!r}", "\n".join(cluster.log[-LOG_LINES:])))
