"""A worker among real brokers in the simulated world."""

from worker_world import WorkerWorld

from actors import SECOND
from cluster.worker.process import drain

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
    drain(rig.systems["w1"])
    rig.until(lambda: not rig.workers[0].alive)
    assert ("w1", "worker_closed") in rig.log
    assert len(rig.runs) == 1
    rig.world.restart(rig.workers[0])
    rig.until(lambda: len(rig.results) == 3)
    assert all(len(runs) == 1 for runs in rig.runs.values())
