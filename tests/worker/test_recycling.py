"""Slots whose children are replaced between two tasks, or killed for their memory, among real brokers in the
simulated world."""

from itertools import pairwise
from signal import SIGKILL

import pytest
from worker_world import FRESH_BYTES, WorkerWorld

from actors import MILLISECOND
from actors.simulation.processes import ChildLimits
from cluster.state.effects import TaskResult
from cluster.worker.wear import WearLimits

MS = 1_000          # of work, in microseconds
MB = 1_000_000


def tasks_by_child(rig: WorkerWorld) -> list[int]:
    """How many runs each child had, in the order of their first."""
    counts: dict[int, int] = {}
    for run in sorted((run for runs in rig.runs.values() for run in runs), key=lambda run: run.started):
        counts[run.child] = counts.get(run.child, 0) + 1
    return list(counts.values())


def gaps(rig: WorkerWorld) -> list[int]:
    """The time between the last task of a child and the first of the next."""
    runs = sorted((run for runs in rig.runs.values() for run in runs), key=lambda run: run.started)
    return [after.started - before.ended for before, after in pairwise(runs) if before.child != after.child]


def is_orderly(rig: WorkerWorld) -> bool:
    return ("w1", "child_lost") not in rig.log and all(len(runs) == 1 for runs in rig.runs.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_child_runs_exactly_as_many_tasks_as_it_may(seed):
    rig = WorkerWorld(seed, wear=WearLimits(recycle_after=7))
    rig.submit(*[MS] * 70)
    rig.until(lambda: len(rig.results) == 70)
    assert tasks_by_child(rig) == [7] * 10
    assert is_orderly(rig) and max(map(rig.hand_outs, rig.runs)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_successor_is_ready_when_the_last_task_ends(seed):
    rig = WorkerWorld(seed, wear=WearLimits(recycle_after=1))
    rig.submit(*[100 * MS] * 20)
    rig.until(lambda: len(rig.results) == 20)
    assert tasks_by_child(rig) == [1] * 20
    assert is_orderly(rig)
    # A child's start takes up to 60 ms; what is left is the way of the news through pipes, and to the cluster and back
    # for what was not handed out ahead.
    assert sorted(gaps(rig))[9] < 5 * MILLISECOND < ChildLimits().spawn_ns_min * 2


@pytest.mark.parametrize("seed", range(4))
def test_what_leaks_is_replaced_between_two_tasks(seed):
    rig = WorkerWorld(seed, wear=WearLimits(recycle_above=FRESH_BYTES + 500 * MB))
    rig.leaves_bytes = 51 * MB
    rig.submit(*[20 * MS] * 100)
    rig.until(lambda: len(rig.results) == 100)
    *counts, _ = tasks_by_child(rig)
    # Ten tasks fill it. While the successor starts the child works on, as long as that takes.
    assert len(counts) >= 5 and all(10 <= count <= 17 for count in counts)
    assert is_orderly(rig) and max(gaps(rig)) < 5 * MILLISECOND


def test_an_idle_child_that_leaked_is_replaced_without_waiting_for_work():
    rig = WorkerWorld(1, wear=WearLimits(recycle_above=FRESH_BYTES + 40 * MB))
    rig.leaves_bytes = 51 * MB
    rig.submit(MS)
    rig.until(lambda: len(rig.results) == 1)
    ((run,),) = rig.runs.values()
    rig.until(lambda: ("w1", "child_recycled") in rig.log)
    rig.submit(MS)
    rig.until(lambda: len(rig.results) == 2)
    assert rig.runs[max(rig.runs)][0].child != run.child and is_orderly(rig)


def test_what_is_large_only_while_it_runs_is_not_replaced():
    rig = WorkerWorld(2, wear=WearLimits(recycle_above=FRESH_BYTES + 500 * MB))
    rig.needs_bytes = 600 * MB
    rig.submit(*[30 * MS] * 40)
    rig.until(lambda: len(rig.results) == 40)
    assert tasks_by_child(rig) == [40]
    assert is_orderly(rig)


def test_a_task_above_the_memory_limit_is_dead_after_three_times_and_says_limit_and_peak():
    rig = WorkerWorld(3, wear=WearLimits(memory_limit=1_024 << 20))
    rig.submit(MS)
    rig.until(lambda: len(rig.results) == 1)
    rig.needs_bytes = 2_000 << 20
    rig.submit(60_000 * MS)
    rig.until(lambda: rig.runs and len(rig.runs[max(rig.runs)]) == 3)
    task = max(rig.runs)
    rig.until(lambda: isinstance(rig.machine.result(task), TaskResult))
    result = rig.machine.result(task)
    assert isinstance(result, TaskResult) and result.error is not None
    assert result.error.type == "MemoryLimitExceeded"
    assert result.error.message == "its process had 2 GiB in memory, more than its limit of 1 GiB"
    assert result.error.signal == 9
    assert rig.overlapping() == []


def test_a_drain_waits_for_a_child_that_was_let_go_before():
    """Its instances run their `stopped`."""
    rig = WorkerWorld(7, wear=WearLimits(recycle_after=1))
    rig.closing_us = 1_500 * MS
    rig.submit(MS)
    rig.until(lambda: ("w1", "child_recycled") in rig.log)
    ((run,),) = rig.runs.values()
    assert rig.closed == []
    rig.drain("w1")
    rig.until(lambda: not rig.workers[0].alive)
    assert run.child in rig.closed and ("w1", "worker_closed") in rig.log


def test_a_worker_whose_children_are_above_their_memory_limit_without_a_task_does_not_start():
    rig = WorkerWorld(5, wear=WearLimits(memory_limit=FRESH_BYTES - 1))
    rig.until(lambda: "w1" in rig.actors and rig.actors["w1"].start_failure is not None)
    assert ("w1", "child_above_limit") in rig.log and ("w1", "worker_registered") not in rig.log


def test_a_successor_above_the_memory_limit_gets_no_task_and_another_is_tried():
    rig = WorkerWorld(6, wear=WearLimits(recycle_after=1, memory_limit=FRESH_BYTES + 100 * MB))
    rig.until(rig.registered)
    rig.fresh_bytes = FRESH_BYTES + 200 * MB
    rig.submit(*[100 * MS] * 2)
    rig.until(lambda: ("w1", "child_above_limit") in rig.log)
    rig.world.run_for(500 * MILLISECOND)
    assert sum(map(len, rig.runs.values())) == 1, "the first child ran the one that it may"
    rig.fresh_bytes = FRESH_BYTES
    rig.until(lambda: len(rig.results) == 2)
    assert all(len(runs) == 1 for runs in rig.runs.values()), "none was charged"


def test_what_waited_behind_a_task_that_was_killed_for_its_memory_is_not_counted():
    rig = WorkerWorld(4, wear=WearLimits(memory_limit=1_024 << 20))
    rig.submit(*[MS // 2] * 200)            # so short that more wait at the slot
    rig.until(lambda: len(rig.results) == 200)
    rig.needs_bytes = 2_000 << 20
    rig.submit(3_000 * MS)
    rig.until(lambda: len(rig.runs) == 201)
    culprit = max(rig.runs)
    rig.submit(*[MS // 2] * 20)
    rig.until(lambda: len(rig.actors["w1"]._children[0].slot.pairs) > 3)
    rig.until(lambda: len(rig.runs[culprit]) == 1 and not rig.actors["w1"]._children[0].slot.pairs)
    rig.needs_bytes = 0
    rig.until(lambda: len(rig.results) == 200 + 1 + 20)
    assert len(rig.runs[culprit]) == 2
    assert all(len(runs) == 1 for task, runs in rig.runs.items() if task != culprit)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_worn_child_may_not_run_goes_to_others_while_its_successor_cannot_start(seed):
    rig = WorkerWorld(seed, workers=2, wear=WearLimits(recycle_after=210))
    rig.until(lambda: rig.registered("w1") and rig.registered("w2"))
    rig.submit(*[MS // 2] * 400)
    rig.until(lambda: len(rig.results) == 400)
    rig.is_broken = True
    rig.submit(*[MS // 2] * 200)
    rig.until(lambda: ("w1", "child_start_failed") in rig.log and ("w2", "child_start_failed") in rig.log)
    rig.world.run_for(500 * MILLISECOND)
    assert sorted(tasks_by_child(rig)) == [210, 210], "neither runs more, and neither is lost"
    rig.is_broken = False
    rig.until(lambda: len(rig.results) == 600)
    assert is_orderly(rig) and max(tasks_by_child(rig)) == 210


def test_a_child_that_leaks_works_on_while_its_successor_cannot_start():
    rig = WorkerWorld(1, wear=WearLimits(recycle_above=FRESH_BYTES + 500 * MB))
    rig.leaves_bytes = 51 * MB
    rig.until(rig.registered)
    rig.is_broken = True
    rig.submit(*[20 * MS] * 100)
    rig.until(lambda: len(rig.results) == 100)
    assert tasks_by_child(rig) == [100] and max(map(rig.hand_outs, rig.runs)) == 1
    assert 2 <= rig.log.count(("w1", "child_start_failed")) <= 10, "with pauses that grow"
    rig.is_broken = False
    rig.until(lambda: ("w1", "child_recycled") in rig.log)


@pytest.mark.parametrize("seed", range(4))
def test_a_successor_takes_over_from_a_child_that_was_killed(seed):
    rig = WorkerWorld(seed, wear=WearLimits(recycle_after=1))
    rig.submit(*[500 * MS] * 4)
    rig.until(lambda: len(rig.runs) == 1)
    rig.world.run_for((20 + 60 * (seed % 2)) * MILLISECOND)     # while it starts, or when it is ready
    (slot,) = rig.actors["w1"]._children
    started = len(rig.workers[0].machine.children)
    assert slot.child is not None
    slot.child.signal(SIGKILL)
    rig.until(lambda: len(rig.results) == 4)
    assert started == 2 and ("w1", "child_lost") in rig.log
    assert sorted(len(runs) for runs in rig.runs.values()) == [1, 1, 1, 2]
    assert tasks_by_child(rig) == [1] * 5


@pytest.mark.parametrize("seed", range(4))
def test_recycling_survives_drains_crashes_and_lost_sessions(seed):
    rig = WorkerWorld(seed, workers=2, slots=2, wear=WearLimits(2, FRESH_BYTES + 100 * MB, FRESH_BYTES + 400 * MB))
    rig.leaves_bytes = 60 * MB
    rig.submit(*[15 * MS] * 400)
    rig.until(lambda: len(rig.runs) > 50)
    cuts = rig.world.network.partition([{"w1"}, {"b1", "b2", "b3"}])
    rig.until(lambda: ("w1", "worker_session_lost") in rig.log)
    rig.world.network.mend(cuts)
    rig.drain("w2")
    rig.until(lambda: ("w2", "worker_closed") in rig.log)
    rig.until(lambda: len(rig.results) == 400)
    assert rig.overlapping() == []
    rig.world.run_for(5_000 * MILLISECOND)
    alive = [child for child in rig.workers[0].machine.children if child.parent is rig.workers[0].loop]
    assert len(alive) <= 4, "a child for each slot, and a successor"
