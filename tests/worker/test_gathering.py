"""The worker takes outcomes of short tasks by itself: neither does their slot run dry, nor does the worker look where
there is nothing."""

import pytest
from worker_world import WorkerWorld

from actors import MILLISECOND
from cluster.worker.gathering import GATHER_INTERVAL, GATHER_LOOKS

TASKS = 200


def worked(work_us: int, clients: int = 1) -> tuple[WorkerWorld, float, int]:
    """Tasks of one slot, from so many clients, after others that have taught the cluster how long they take: the part
    of its time in which one ran, and how often the worker looked into the ring."""
    rig = WorkerWorld(1)
    rig.submit(*[work_us] * TASKS)
    rig.until(lambda: len(rig.results) == TASKS)
    (child,) = rig.actors["w1"].children
    looks = 0
    gather = child.gather

    def counted() -> None:
        nonlocal looks
        looks += 1
        gather()

    child.gather = counted
    for _ in range(clients):
        rig.submit(*[work_us] * TASKS)
    rig.until(lambda: len(rig.results) == (1 + clients) * TASKS)
    runs = sorted((run.started, run.ended) for task in rig.runs.values() for run in task)[TASKS:]
    share = sum(ended - started for started, ended in runs) / (runs[-1][1] - runs[0][0])
    return rig, share, looks


@pytest.mark.parametrize("work_us", [1_500, 3_500])
def test_a_slot_with_short_tasks_does_not_run_dry(work_us):
    rig, share, looks = worked(work_us)
    assert share > 0.97
    run_ns = TASKS * work_us * 1_000
    assert looks == pytest.approx(run_ns / GATHER_INTERVAL, rel=0.1)
    was = looks
    rig.world.run_for(GATHER_LOOKS * GATHER_INTERVAL + MILLISECOND)
    assert looks == was


@pytest.mark.parametrize("work_us", [50, 6_000])
def test_what_is_announced_in_time_is_not_looked_for(work_us):
    _, _, looks = worked(work_us)
    assert looks == 0


def test_tasks_of_less_than_a_millisecond_are_looked_for():
    """From several clients, since one that submits them one by one is slower than the slot."""
    _, share, looks = worked(500, clients=16)
    assert looks > 0
    assert share > 0.9
