"""Quiet time costs nothing and changes nothing."""

from datetime import timedelta
from typing import Any

import pytest
from memory_tasks import add, nap, note

from actors.simulation import World
from cluster.broker.link import Link
from cluster.task import _registry
from cluster.testing import MemoryCluster

DAY_EVENTS_MAX = 5_000      # ninety in each second would be eight million


def world_of(cluster: MemoryCluster) -> World:
    assert cluster._made is not None
    return cluster._made


def spent(cluster: MemoryCluster, duration: str) -> int:
    """How many events it takes to let that much time pass."""
    trace = world_of(cluster).trace
    before, began = trace.events, cluster.now()
    cluster.advance(duration)
    assert cluster.now() - began >= timedelta(days=1)
    return trace.events - before


def state_of(cluster: MemoryCluster) -> list[Any]:
    """What heartbeats keep up."""
    return [
        cluster.status()["term"],
        cluster.leader,
        cluster.client._actor.session,
        [(node.worker.session, node.worker.incarnation) for node in cluster._workers if node.worker is not None],
        [line for line in cluster.log if "lost" in line or "expired" in line],
    ]


def links_of(cluster: MemoryCluster) -> list[Link]:
    return [link for node in cluster._brokers if node.broker is not None for link in node.broker._links]


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_day_without_work_is_a_few_events_and_everybody_stays_who_he_is(make_memory_cluster, brokers):
    cluster = make_memory_cluster(brokers=brokers, workers=2)
    assert cluster.submit(add, 1, 2).result() == 3
    before, links = state_of(cluster), links_of(cluster)
    assert spent(cluster, "1d") < DAY_EVENTS_MAX * brokers
    assert state_of(cluster) == before
    assert links_of(cluster) == links, "nobody had to call anybody again"
    assert cluster.submit(add, 1, 2).result("1s") == 3


def test_days_with_one_broker_down_are_cheap_too(make_memory_cluster):
    cluster = make_memory_cluster(brokers=3)
    cluster.kill_leader()
    cluster.advance("10s")
    assert spent(cluster, "1d") < DAY_EVENTS_MAX * 3


def test_days_without_a_worker_are_cheap_too(memory_cluster):
    handle = memory_cluster.submit(add.options(delay="2h"), 1, 2)
    memory_cluster.kill("w1")
    assert spent(memory_cluster, "1d") < DAY_EVENTS_MAX
    assert handle.state() == "pending"
    memory_cluster.restart("w1")
    assert handle.result("10s") == 3


def test_a_day_of_sleeping_tasks_is_cheap_too(memory_cluster):
    handles = [memory_cluster.submit(nap, 23.5 * 3_600) for _ in range(20)]
    before = state_of(memory_cluster)
    assert spent(memory_cluster, "1d") < DAY_EVENTS_MAX
    assert [handle.result("1s") for handle in handles] == ["rested"] * 20
    assert state_of(memory_cluster) == before


def test_nothing_is_late_because_time_was_skipped(memory_cluster):
    """Dates in the state, timers of tasks and of the test, and limits that have no timer at all."""
    began = memory_cluster.now()
    memory_cluster.takes(note, "20h")
    limited = memory_cluster.submit(note.options(timeout="5h", result_ttl="2d"), "late")
    delayed = memory_cluster.submit(add.options(delay="7h", result_ttl="2d"), 1, 2)
    sleeping = memory_cluster.submit(nap.options(timeout="12h", result_ttl="2d"), 11 * 3_600.0)
    beyond = memory_cluster.submit(nap.options(timeout="13h", result_ttl="2d"), 14 * 3_600.0)

    def ends() -> list[tuple[str, float]]:
        rows = []
        for handle in (limited, delayed, sleeping, beyond):
            (attempt,) = memory_cluster.task(handle.id).attempts
            assert attempt.ended_at is not None
            rows.append((attempt.outcome, (attempt.ended_at - began) / timedelta(hours=1)))
        return rows

    memory_cluster.advance("15h")
    assert [(outcome, pytest.approx(hours, abs=1 / 3_600)) for outcome, hours in ends()] == [
        ("timed out", 5.0),
        ("completed", 7.0),
        ("completed", 11.0),
        ("timed out", 13.0),
    ]


def test_a_cancel_ends_a_task_when_its_grace_is_over_and_not_after_the_next_leap(memory_cluster):
    memory_cluster.takes(note, "20h")
    handle = memory_cluster.submit(note.options(timeout="1d"), "late")
    memory_cluster.advance("1h")
    handle.cancel(grace="10m")
    memory_cluster.advance("9m")
    assert handle.state() == "pending"
    memory_cluster.advance("61s")
    assert handle.state() == "cancelled"


def course(seed: int, **options: Any) -> list[object]:
    """What happens in some hours of work, with its times."""
    with MemoryCluster(seed=seed, **options) as cluster:
        cluster.takes(add, "1s", "3s")
        batch = cluster.map(add, range(20), b=1)
        cluster.submit(nap, 1_800.0).result()
        cluster.kill("w1")
        cluster.restart("w1")
        late = cluster.submit(add.options(delay="1h"), 1, 2)
        order = [handle.id for handle in batch.as_completed()]
        late.result()
        return [order, cluster.now(), cluster.log]


def test_a_seed_is_one_course_whatever_else_is_defined_in_the_process(monkeypatch):
    first = course(3, brokers=3, workers=2)
    assert course(3, brokers=3, workers=2) == first
    monkeypatch.setitem(_registry, "a stranger " * 8, add)
    assert course(3, brokers=3, workers=2) == first
    assert course(4, brokers=3, workers=2) != first
