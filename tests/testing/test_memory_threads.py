"""Functions that block in a cluster in memory: they wait in virtual time, in threads that take turns with the test."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from memory_tasks import add

from cluster import ClusterError, SoftTimeLimit, TaskFailed, current, task
from cluster.testing import MemoryCluster

CLUSTER: list[MemoryCluster] = []       # that the functions below use
SEEN: list[object] = []


def pause(seconds: float) -> None:
    CLUSTER[0].sleep(seconds)


@task(timeout="2h")
def wait(seconds: float) -> list[object]:
    """Returns who it was before and after."""
    before, began = current(), CLUSTER[0].now()
    pause(seconds)
    current().log.info("slept")
    is_late = CLUSTER[0].now() - began >= timedelta(seconds=seconds)
    return [before == current() and is_late, threading.current_thread().name]


@task
def wait_politely() -> str:
    while not current().cancelled:
        pause(10)
    return "stopped"


@task(soft_timeout="10s")
def wait_too_long() -> str:
    try:
        pause(3_600)
    except SoftTimeLimit:
        return "cut short"
    return "not cut"


@task
def wait_for_ever() -> None:
    try:
        while True:
            try:
                pause(60)
            except Exception:
                SEEN.append("swallowed")
    finally:
        SEEN.append("unwound")
        pause(1)
        SEEN.append("after")        # never: nobody sleeps in a process that is dead


@task
def hand_on(numbers: list[int]) -> int:
    batch = CLUSTER[0].map(add, numbers, b=1)
    return sum(batch.results()) + CLUSTER[0].submit(add, 1, 2).result()


@task
def hand_on_in_vain() -> None:
    CLUSTER[0].submit(add.options(queue="nobody"), 1, 2).result("5m")


@pytest.fixture
def cluster(make_memory_cluster: Any) -> Iterator[MemoryCluster]:
    before = threading.active_count()
    CLUSTER[:] = [make_memory_cluster(threads=True)]
    SEEN.clear()
    yield CLUSTER[0]
    CLUSTER[0].close()
    assert threading.active_count() == before


def lasted(cluster: MemoryCluster, began: datetime) -> int:
    return round((cluster.now() - began) / timedelta(seconds=1))


def test_a_function_sleeps_in_virtual_time_and_knows_itself_behind_it(cluster):
    began = cluster.now()
    batch = cluster.map(wait, [3_600.0] * 4).results("3h")      # in two slots
    assert [row[0] for row in batch] == [True] * 4
    assert {row[1] for row in batch} == {"memory cluster"}
    assert lasted(cluster, began) == 7_200
    with pytest.raises(RuntimeError):
        current()


def test_functions_of_different_lengths_do_not_wait_for_each_other(cluster):
    began = cluster.now()
    long, short = cluster.submit(wait, 100.0), cluster.submit(wait, 10.0)
    short.result()
    assert lasted(cluster, began) == 10
    long.result()
    assert lasted(cluster, began) == 100


def test_a_function_that_sleeps_hears_that_it_is_cancelled(cluster):
    handle = cluster.submit(wait_politely)
    cluster.advance("35s")
    handle.cancel(grace="1m")
    assert handle.result("10s") == "stopped"


def test_a_soft_time_limit_is_raised_where_the_function_sleeps(cluster):
    began = cluster.now()
    assert cluster.submit(wait_too_long).result() == "cut short"
    assert lasted(cluster, began) == 10


def test_a_function_whose_process_is_killed_is_unwound_and_sleeps_no_more(cluster):
    with pytest.raises(TaskFailed) as failed:
        cluster.submit(wait_for_ever.options(timeout="5m")).result()
    assert failed.value.type == "TimeLimitExceeded"
    assert SEEN == ["unwound"]
    assert cluster.submit(wait, 1.0).result()[0] is True


def test_a_function_may_wait_for_tasks_that_it_submits(cluster):
    assert cluster.submit(hand_on, [1, 2, 3]).result() == 9 + 3
    with pytest.raises(TaskFailed, match="no result after 300 s"):
        cluster.submit(hand_on_in_vain).result()


def test_threads_take_their_turns_in_the_same_order_every_time(make_memory_cluster):
    courses = []
    for _ in range(2):
        CLUSTER[:] = [make_memory_cluster(threads=True, workers=2, seed=5)]
        batch = CLUSTER[0].map(wait, [1.0, 3.0, 2.0] * 5)
        total = CLUSTER[0].submit(hand_on, [1, 2, 3])
        order = [handle.id for handle in batch.as_completed()]
        courses.append((order, total.result(), CLUSTER[0].now(), CLUSTER[0].log))
    assert courses[0] == courses[1]


def test_functions_that_wait_leave_no_thread_when_their_cluster_is_closed():
    before = threading.active_count()
    with MemoryCluster(threads=True) as cluster:
        CLUSTER[:] = [cluster]
        SEEN.clear()
        handles = [cluster.submit(wait_for_ever) for _ in range(2)]
        cluster.advance("1m")
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    assert SEEN == ["unwound"] * 2 and not any(handle.done() for handle in handles)


def test_without_threads_a_function_that_waits_is_told_how(memory_cluster):
    CLUSTER[:] = [memory_cluster]
    for function, arguments in ((wait, (1.0,)), (hand_on, ([1],))):
        with pytest.raises(TaskFailed, match="threads=True"):
            memory_cluster.submit(function, *arguments).result()


def test_a_test_may_replace_sleep_for_itself_and_its_functions(cluster, monkeypatch):
    import time

    monkeypatch.setattr("time.sleep", cluster.sleep)
    began = cluster.now()
    time.sleep(30)
    assert lasted(cluster, began) == 30


def test_only_the_thread_that_started_a_cluster_moves_it(memory_cluster):
    refused: list[str] = []

    def call() -> None:
        try:
            memory_cluster.status()
        except ClusterError as error:
            refused.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "one thread only" in refused[0]
    with pytest.raises(ClusterError, match="no executor"):
        memory_cluster.executor()
