"""Coroutines in a cluster in memory: those of tasks, of task actors, and of the test."""

import asyncio
import gc
import logging
from datetime import timedelta

import pytest
from memory_tasks import (
    SEEN,
    Slow,
    add,
    call_out,
    careless,
    in_a_thread,
    nap,
    nap_lightly,
    note,
    poll,
)

from cluster import Client, ClusterError, DeadlineExceeded, TaskCancelled, TaskFailed
from cluster.testing import MemoryCluster


def test_an_async_task_sleeps_in_virtual_time_beside_others(memory_cluster):
    began = memory_cluster.now()
    batch = memory_cluster.map(nap, [3_600.0] * 50)
    assert batch.results() == ["rested"] * 50
    assert timedelta(0) <= memory_cluster.now() - began - timedelta(hours=1) < timedelta(seconds=1)


def test_an_async_task_has_its_time_limits(memory_cluster):
    with pytest.raises(TaskFailed) as failed:
        memory_cluster.submit(nap.options(timeout="10m"), 3_600.0).result("11m")
    assert failed.value.type == "TimeLimitExceeded"
    SEEN.clear()
    with pytest.raises(TaskFailed, match="soft time limit of 600 s"):
        memory_cluster.submit(nap_lightly.options(soft_timeout="10m")).result("11m")
    assert SEEN == ["woken"]


def test_an_async_task_can_take_time_before_it_begins(memory_cluster):
    memory_cluster.takes(nap, "1h", "1s")
    handle = memory_cluster.submit(nap.options(timeout="30m", retry=1), 1.0)
    assert handle.result() == "rested"
    assert [attempt.outcome for attempt in memory_cluster.task(handle.id).attempts] == ["timed out", "completed"]


def test_an_async_task_says_how_far_it_is_and_hears_that_it_is_cancelled(memory_cluster):
    handle = memory_cluster.submit(poll)
    memory_cluster.advance("10m")
    assert handle.progress() == (10, None)
    handle.cancel(grace="5m")
    assert handle.result("2m") == 10
    handle = memory_cluster.submit(nap, 3_600.0)
    memory_cluster.advance("1m")
    handle.cancel(grace="1s")
    with pytest.raises(TaskCancelled):
        handle.result("5s")


def test_a_job_for_a_thread_is_done_at_once(memory_cluster):
    assert memory_cluster.submit(in_a_thread).result() == [3, 1]


def test_a_task_that_wants_a_socket_is_told_that_there_are_none(memory_cluster):
    with pytest.raises(TaskFailed, match="neither sockets"):
        memory_cluster.submit(call_out).result()


def test_an_error_that_nobody_awaits_is_logged_and_harms_nobody(memory_cluster, caplog):
    with caplog.at_level(logging.ERROR, "asyncio"):
        assert memory_cluster.submit(careless).result() == "fine"
        gc.collect()        # asyncio says so when the task is gone, which its traceback may hold in a cycle
    assert "nobody waits for me" in caplog.text
    assert not any("child_lost" in line for line in memory_cluster.log)


def test_methods_of_a_task_actor_take_virtual_time_too(memory_cluster):
    began = memory_cluster.now()
    actor = memory_cluster.actor(Slow, key="k")
    assert [actor.answer(60.0), actor.answer(60.0)] == [101, 102]
    assert timedelta(minutes=12) <= memory_cluster.now() - began < timedelta(minutes=12, seconds=1)
    with pytest.raises(TaskFailed, match="soft time limit"):
        actor.answer.options(soft_timeout="10m").submit(3_600.0).result()
    with pytest.raises(TaskFailed) as failed:
        actor.answer.options(timeout="20m").submit(3_600.0).result()
    assert failed.value.type == "TimeLimitExceeded"
    assert actor.answer(1.0) == 101, "another child has another instance"


def test_async_tasks_in_slots_take_virtual_time_too(make_memory_cluster, tmp_path):
    topology = tmp_path / "topology.toml"
    topology.write_text(
        '[cluster]\nname = "slots"\n[[broker]]\nname = "b1"\naddress = "127.0.0.1:7101"\n'
        '[[worker]]\nname = "w1"\nmodules = ["memory_tasks"]\nasync_tasks = 0\nslots = 2\n'
    )
    cluster = make_memory_cluster(topology=topology)
    began = cluster.now()
    assert cluster.map(nap, [3_600.0] * 4).results() == ["rested"] * 4
    assert timedelta(0) <= cluster.now() - began - timedelta(hours=2) < timedelta(seconds=1)
    with pytest.raises(TaskFailed, match="soft time limit of 600 s"):
        cluster.submit(nap_lightly.options(soft_timeout="10m")).result()


# -- coroutines of the test -------------------------------------------------------------------------------------------


async def order(cluster: Client) -> list[int]:
    """What a user's service does."""
    handles = await asyncio.gather(*[cluster.submit(add.options(delay="1h"), number, 1) for number in range(3)])
    await asyncio.sleep(1_800)
    async with asyncio.timeout(7_200):
        return [await handle for handle in handles]


def test_a_coroutine_of_the_test_runs_in_the_time_of_the_cluster(memory_cluster):
    began = memory_cluster.now()
    assert memory_cluster.run(order(memory_cluster.client)) == [1, 2, 3]
    assert timedelta(0) <= memory_cluster.now() - began - timedelta(hours=1) < timedelta(seconds=1)
    assert memory_cluster.run(lambda: order(memory_cluster.client)) == [1, 2, 3]


def test_what_a_coroutine_raises_is_raised_by_run(memory_cluster):
    async def breaks() -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(61)

    with pytest.raises(TimeoutError):
        memory_cluster.run(breaks())
    with pytest.raises(ZeroDivisionError):
        memory_cluster.run(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert memory_cluster.submit(add, 1, 2).result() == 3


def test_a_coroutine_that_waits_for_nothing_is_given_up(memory_cluster):
    ended = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(DeadlineExceeded, match="in vain"):
        memory_cluster.run(waits())
    memory_cluster.advance(0)
    assert ended == [True]


def test_in_a_loop_of_the_test_a_cluster_in_memory_says_what_to_do(memory_cluster):
    async def test() -> None:
        with pytest.raises(ClusterError, match="make the test a plain function"):
            memory_cluster.submit(note, "x")
        with pytest.raises(ClusterError, match="make the test a plain function"):
            MemoryCluster().start()

    asyncio.run(test())
    assert memory_cluster.submit(note, "x").result() == "x"
