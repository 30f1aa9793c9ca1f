"""A key of a task actor among real brokers and workers in the simulated world: who owns it, and what its instance
counts.
"""

from itertools import pairwise

import pytest
from worker_world import WorkerWorld

MS = 1_000          # of work, in microseconds
CALLS = 12          # of each of two clients
Epochs = dict[int, list[int]]


def busy_with_a_key(seed: int, work_us: int) -> WorkerWorld:
    """Two clients call the instance of one key; when this returns it has answered some of the calls."""
    rig = WorkerWorld(seed, workers=2, slots=2)
    rig.until(lambda: rig.registered("w1") and rig.registered("w2"))
    rig.submit(*[work_us] * CALLS, key="k")
    rig.submit(*[work_us] * CALLS, key="k")
    rig.until(lambda: len(rig.runs) > CALLS // 2)
    return rig


def owner(rig: WorkerWorld) -> str:
    """The worker that runs a call."""
    return next(name for name, worker in rig.actors.items() if any(child.is_working for child in worker._children))


def counted(rig: WorkerWorld) -> Epochs:
    """What the calls returned, by epoch."""
    found: Epochs = {}
    for epoch, number in sorted(rig.results.values()):      # type: ignore[type-var, misc]
        found.setdefault(epoch, []).append(number)
    return found


def one_after_the_other(rig: WorkerWorld) -> bool:
    """Whether no call began while another one, of any task, still ran in a child that lived."""
    runs = sorted((run for runs in rig.runs.values() for run in runs), key=lambda run: run.started)
    ends = [run.ended if run.ended is not None else rig.deaths.get(run.child) for run in runs]
    return all(
        end is not None and end <= following.started
        for end, (_, following) in zip(ends, pairwise(runs), strict=False)
    )


def test_calls_of_one_key_are_counted_by_one_instance():
    rig = busy_with_a_key(1, 10 * MS)
    rig.until(lambda: len(rig.results) == 2 * CALLS)
    ((epoch, numbers),) = counted(rig).items()
    assert epoch > 0 and numbers == list(range(1, 2 * CALLS + 1))
    assert len({run.child for runs in rig.runs.values() for run in runs}) == 1
    assert one_after_the_other(rig)


@pytest.mark.parametrize("seed", range(3))
def test_a_key_whose_worker_is_cut_off_goes_on_elsewhere_in_a_new_epoch(seed: int):
    rig = busy_with_a_key(seed, 1_000 * MS)
    cut_off = owner(rig)
    cuts = rig.world.network.partition([{cut_off}, {"b1", "b2", "b3"}])
    rig.until(lambda: len(rig.results) == 2 * CALLS)
    (_, first), (_, second) = counted(rig).items()
    # What was counted in the old epoch and not known to the cluster was counted again, by the new owner.
    assert first == list(range(1, len(first) + 1)) and second == list(range(1, len(second) + 1))
    assert one_after_the_other(rig)
    rig.world.network.mend(cuts)
    rig.until(lambda: rig.registered(cut_off))


@pytest.mark.parametrize("seed", range(2))
def test_a_worker_that_drains_finishes_its_call_before_the_key_has_another_owner(seed: int):
    rig = busy_with_a_key(seed, 200 * MS)
    rig.drain(owner(rig))
    rig.until(lambda: len(rig.results) == 2 * CALLS)
    numbers = list(counted(rig).values())
    assert len(numbers) == 2 and all(one == list(range(1, len(one) + 1)) for one in numbers)
    assert one_after_the_other(rig)


def test_a_new_leader_leaves_keys_where_they_are():
    rig = busy_with_a_key(4, 300 * MS)
    rig.world.crash(rig.leader())
    rig.until(lambda: len(rig.results) == 2 * CALLS)
    ((_, numbers),) = counted(rig).items()
    assert numbers == list(range(1, 2 * CALLS + 1))
