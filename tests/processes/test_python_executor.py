"""CPython's own tests of executors, against a cluster: those of the Python that runs this, as it came."""

import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from cluster_rig import running

from cluster import Client
from cluster.client.executor import ClusterExecutor
from cluster.local import write_topology

pytest.importorskip(
    "test.test_concurrent_futures",
    reason="this Python came without its own tests (Debian: libpython3.x-testsuite): they are run where they are",
)

import futures_tasks

MODULES = futures_tasks.python_modules()
MIXINS = ("ExecutorTest", "WaitTests", "AsCompletedTests", "ExecutorShutdownTest")

# What cannot be asked of tasks, which are found by name and carry data.
BY_PICKLE = "submits a method of an object of its own, or returns one, which only pickle could carry"
BY_IMPORT = "runs a script that imports the executor from concurrent.futures by its name"
NOT_ASKED = {
    "test_no_stale_references": BY_PICKLE,
    "test_free_reference": BY_PICKLE,
    "test_interpreter_shutdown": BY_IMPORT,
    "test_submit_after_interpreter_shutdown": BY_IMPORT,
    "test_hang_gh83386": BY_IMPORT,
}


class OfPython(ClusterExecutor):
    """Made with a number of workers, as the tests do; its client lives and ends with it."""

    topology: Path

    def __init__(self, max_workers: int) -> None:
        if max_workers > 0:
            self.client = Client.open(self.topology).start()
            super().__init__(self.client._client, self.client._connected, max_workers)
        else:
            super().__init__(None, None, max_workers)  # type: ignore[arg-type]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return super().submit(STAND_INS.get(fn, fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self.client.close()


def find(name: str) -> Any:
    return next(vars(module)[name] for module in MODULES if name in vars(module))


STAND_INS: dict[Callable[..., Any], Any] = {
    str: futures_tasks.as_text,
    int: futures_tasks.as_number,
    divmod: futures_tasks.divide,
    find("capture"): futures_tasks.capture,
}


def cases() -> Iterator[unittest.TestCase]:
    mixin = type("Mixin", (find("ExecutorMixin"),), {"executor_type": OfPython})
    for name in MIXINS:
        kind = type(name, (find(name), mixin, find("BaseTestCase")), {})
        for method in unittest.TestLoader().getTestCaseNames(kind):
            yield kind(method)


CASES = list(cases())


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("python")
    OfPython.topology = write_topology(
        folder, name="python", modules=["futures_tasks"], brokers=1, workers=1, slots=5
    )
    copy(futures_tasks.__file__, folder)
    with running(OfPython.topology):
        yield


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{type(case).__name__}.{case._testMethodName}")
def test_python_says_that_it_is_an_executor(case: unittest.TestCase) -> None:
    if reason := NOT_ASKED.get(case._testMethodName):
        pytest.skip(reason)
    result = unittest.TestResult()
    case.run(result)
    assert result.testsRun == 1 and not result.skipped
    for _, text in (*result.failures, *result.errors):
        pytest.fail(text, pytrace=False)


def test_all_but_a_few_are_asked() -> None:
    asked = [case for case in CASES if case._testMethodName not in NOT_ASKED]
    assert len(asked) >= 20
    assert NOT_ASKED.keys() <= {case._testMethodName for case in CASES} | {"test_hang_gh83386"}
