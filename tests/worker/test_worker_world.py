"""A worker among real brokers in the simulated world."""

import pytest
from worker_world import WorkerWorld, nap

from actors import MILLISECOND, SECOND

MS = 1_000          # of work, in microseconds


def test_tasks_of_a_client_run_once_each_and_their_results_arrive():
    rig = WorkerWorld(1, workers=2, slots=2)
    rig.submit(*[MS] * 200)
    rig.until(lambda: len(rig.results) == 200)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_long_task_keeps_its_lease_and_runs_once():
    rig = WorkerWorld(2)
    rig.submit(60_000 * MS)
    rig.until(lambda: len(rig.results) == 1)
    assert [len(runs) for runs in rig.runs.values()] == [1]
    assert ("w1", "worker_session_lost") not in rig.log


def test_a_new_leader_learns_what_is_running_and_nothing_runs_twice():
    for seed in range(2):
        rig = WorkerWorld(seed, workers=2)
        rig.submit(*[3_000 * MS] * 4)
        rig.until(lambda rig=rig: len(rig.runs) == 2)
        rig.world.crash(rig.leader())
        rig.until(lambda rig=rig: len(rig.results) == 4)
        assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_worker_that_is_cut_off_stops_its_tasks_before_another_runs_them():
    for seed in range(2):
        rig = WorkerWorld(seed, workers=2)
        rig.until(lambda rig=rig: rig.registered("w1") and rig.registered("w2"))
        rig.submit(*[30_000 * MS] * 2)
        rig.until(lambda rig=rig: len(rig.runs) == 2)
        cuts = rig.world.network.partition([{"w1"}, {"b1", "b2", "b3"}])
        rig.until(lambda rig=rig: any(len(runs) == 2 for runs in rig.runs.values()))
        assert ("w1", "worker_session_lost") in rig.log
        assert rig.overlapping() == []
        rig.world.network.mend(cuts)
        rig.until(lambda rig=rig: len(rig.results) == 2)
        rig.until(lambda rig=rig: rig.registered("w1"))


def test_a_worker_stopped_past_its_lease_comes_back_as_a_new_session():
    for seed in range(2):
        rig = WorkerWorld(seed)
        rig.until(rig.registered)
        first = rig.actors["w1"].session
        rig.submit(2_000 * MS)
        rig.until(lambda rig=rig: len(rig.runs) == 1)
        rig.world.pause(rig.workers[0])
        rig.world.run_for(15 * SECOND)
        rig.world.resume(rig.workers[0])
        rig.until(lambda rig=rig: len(rig.results) == 1)
        assert rig.actors["w1"].session > first
        assert [len(runs) for runs in rig.runs.values()] == [2]


def test_a_short_pause_costs_nothing():
    rig = WorkerWorld(3)
    rig.submit(*[500 * MS] * 6)
    rig.until(lambda: len(rig.runs) == 2)
    rig.world.pause(rig.workers[0])
    rig.world.run_for(5 * SECOND)
    rig.world.resume(rig.workers[0])
    rig.until(lambda: len(rig.results) == 6)
    assert ("w1", "worker_session_lost") not in rig.log
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_crashed_worker_is_replaced_under_its_name():
    rig = WorkerWorld(4)
    rig.submit(*[500 * MS] * 6)
    rig.until(lambda: len(rig.runs) == 2)
    rig.world.crash(rig.workers[0])
    rig.world.restart(rig.workers[0], after=SECOND)
    rig.until(lambda: len(rig.results) == 6)
    assert rig.overlapping() == []


def test_a_drained_worker_finishes_what_runs_hands_back_the_rest_and_closes():
    rig = WorkerWorld(5)
    rig.submit(*[2_000 * MS] * 3)
    rig.until(lambda: len(rig.runs) == 1)
    rig.drain("w1")
    rig.until(lambda: not rig.workers[0].alive)
    assert ("w1", "worker_closed") in rig.log
    assert len(rig.runs) == 1
    rig.world.restart(rig.workers[0])
    rig.until(lambda: len(rig.results) == 3)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_drained_worker_knows_how_many_tasks_its_limit_has_ended():
    """What runs may go on for nine seconds; half of this does so for longer, at a slot and in the event loop."""
    rig = WorkerWorld(6, slots=2, async_tasks=10)
    rig.until(rig.registered)
    rig.submit(20_000 * MS, 1_000 * MS, 20_000 * MS, 20_000 * MS)
    rig.submit(20_000 * MS, 20_000 * MS, 2_000 * MS, task=nap)
    rig.until(lambda: len(rig.runs) == 5)
    rig.drain("w1")
    rig.until(lambda: not rig.workers[0].alive)
    assert rig.actors["w1"].cut_off == 3
    cut_off = [run for runs in rig.runs.values() for run in runs if run.ended is None]
    assert len(cut_off) == 3
    rig.world.restart(rig.workers[0])
    rig.until(lambda: len(rig.results) == 7)


def test_a_drain_within_its_limit_ends_nothing():
    rig = WorkerWorld(7, slots=2)
    rig.until(rig.registered)
    rig.submit(2_000 * MS, 8_000 * MS, 100 * MS)
    rig.until(lambda: len(rig.runs) == 2)
    rig.drain("w1")
    rig.until(lambda: not rig.workers[0].alive)
    assert rig.actors["w1"].cut_off == 0


def test_what_runs_at_a_draining_worker_that_loses_its_session_is_counted():
    rig = WorkerWorld(8, slots=2)
    rig.until(rig.registered)
    rig.submit(20_000 * MS, 20_000 * MS)
    rig.until(lambda: len(rig.runs) == 2)
    rig.drain("w1")
    for broker in rig.brokers:
        rig.world.pause(broker)
    rig.until(lambda: ("w1", "worker_session_lost") in rig.log)
    assert rig.actors["w1"].cut_off == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_draining_worker_begins_nothing_more_and_others_get_everything_at_once(seed):
    """What comes at the same time as the drain may still be assigned to it, and is handed back."""
    rig = WorkerWorld(seed, workers=2, slots=2)
    rig.until(lambda: rig.registered("w1") and rig.registered("w2"))
    rig.submit(5_000 * MS)
    rig.until(lambda: len(rig.runs) == 1)
    ((long, (run,)),) = rig.runs.items()
    name = next(name for name, actor in rig.actors.items() if run.child in [c.pid for c in actor._children])
    rig.submit(*[10 * MS] * 30)
    rig.until(lambda: len(rig.runs) > 3)
    began, children = rig.world.now, rig.drain(name)
    rig.submit(*[10 * MS] * 30)
    rig.until(lambda: len(rig.results) >= 60)
    assert rig.world.now < began + 2 * SECOND
    assert run.ended is None, "the long task goes on meanwhile"
    assert [one for runs in rig.runs.values() for one in runs if one.child in children and one.started > began] == []
    rig.until(lambda: len(rig.results) == 61)
    assert all(len(runs) == 1 for runs in rig.runs.values())
    assert max(map(rig.hand_outs, rig.runs)) <= 2, "nothing came back to the worker that handed it back"
    assert rig.results[long] == 5_000 * MS
    rig.until(lambda: (name, "worker_closed") in rig.log)


def test_what_was_on_its_way_to_a_worker_when_it_began_to_drain_is_handed_back_at_once():
    rig = WorkerWorld(8, slots=2)
    rig.submit(5_000 * MS)
    rig.until(lambda: len(rig.runs) == 1)
    rig.submit(10 * MS)
    rig.until(lambda: len(rig.machine.held_by(rig.actors["w1"].session)) == 2)
    assert sum(len(child.slot.pairs) for child in rig.actors["w1"]._children) == 1, "the other has not arrived"
    began, children = rig.world.now, rig.drain("w1")
    rig.add_worker("w2")
    rig.until(lambda: len(rig.results) >= 1)
    assert rig.world.now < began + 2 * SECOND
    late = max(rig.runs)
    assert [run.child in children for run in rig.runs[late]] == [False]
    assert rig.hand_outs(late) == 2, "the first went to w1"


def test_what_waits_at_the_slots_of_a_draining_worker_runs_elsewhere_at_once():
    rig = WorkerWorld(7)
    rig.submit(*[MS // 2] * 200)            # so short that they wait at the slot
    rig.until(lambda: len(rig.results) == 200)
    rig.submit(3_000 * MS)
    rig.until(lambda: len(rig.runs) == 201)
    rig.submit(*[MS // 2] * 20)
    rig.until(lambda: len(rig.actors["w1"]._children[0].slot.pairs) > 10)
    children = rig.drain("w1")
    began = rig.world.now
    rig.add_worker("w2")
    rig.until(lambda: len(rig.results) >= 220)
    assert rig.world.now < began + 2 * SECOND, "nothing waits for the long task"
    rig.until(lambda: len(rig.results) == 221)
    assert all(len(runs) == 1 for runs in rig.runs.values())
    assert sum(run.child in children for runs in rig.runs.values() for run in runs) == 201


@pytest.mark.parametrize("seed", range(4))
def test_a_new_leader_hears_of_a_drain_that_began_before_it(seed):
    rig = WorkerWorld(seed, workers=2, slots=2)
    rig.until(lambda: rig.registered("w1") and rig.registered("w2"))
    rig.submit(*[5_000 * MS] * 2)
    rig.until(lambda: len(rig.runs) == 2)
    rig.world.run_for(10 * MILLISECOND)
    began, children = rig.world.now, rig.drain("w1")
    rig.world.run_for(seed * MILLISECOND // 2)      # before, while, after the command is on its way
    rig.world.crash(rig.leader())
    rig.submit(*[10 * MS] * 20)
    rig.until(lambda: len(rig.results) == 22)
    assert all(len(runs) == 1 for runs in rig.runs.values())
    assert max(map(rig.hand_outs, rig.runs)) <= 2
    assert [one for runs in rig.runs.values() for one in runs if one.child in children and one.started > began] == []
    rig.until(lambda: ("w1", "worker_closed") in rig.log)
