"""The event loop of a worker among real brokers in the simulated world."""

from worker_world import WorkerWorld, nap

from actors import SECOND
from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_SUSPECTED
from cluster.worker.loop_child import LoopChild

MS = 1_000          # of work, in microseconds


def loop_of(rig: WorkerWorld, name: str = "w1") -> LoopChild:
    loop = rig.actors[name]._children[-1]
    assert isinstance(loop, LoopChild)
    return loop


def in_flight(rig: WorkerWorld) -> int:
    return sum(run.ended is None for runs in rig.runs.values() for run in runs)


def test_async_tasks_run_at_once_as_many_as_may_and_each_once():
    rig = WorkerWorld(1, workers=2, async_tasks=20)
    rig.submit(*[1_000 * MS] * 100, task=nap)
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, in_flight(rig))
        return len(rig.results) == 100

    rig.until(done)
    assert most == 40
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_the_loop_takes_nothing_from_the_slots_nor_they_from_it():
    rig = WorkerWorld(2, async_tasks=10)
    rig.submit(*[3_000 * MS] * 10, task=nap)
    rig.until(lambda: len(rig.runs) == 10)
    began = rig.world.now
    rig.submit(*[10 * MS] * 5)
    rig.until(lambda: len(rig.results) == 5)
    assert rig.world.now < began + SECOND
    rig.until(lambda: len(rig.results) == 15)


def test_what_ran_in_a_child_that_died_is_suspected_uncounted_and_runs_alone():
    rig = WorkerWorld(4, async_tasks=10)
    rig.submit(*[2_000 * MS] * 5, task=nap)
    rig.until(lambda: in_flight(rig) == 5)
    rig.ports[0]._loop.on_exit(139)
    most = 0

    def done() -> bool:
        nonlocal most
        alone = [run for runs in rig.runs.values() for run in runs[1:] if run.ended is None]
        most = max(most, len(alone))
        return len(rig.results) == 5

    rig.until(done)
    assert most == 1
    assert [len(runs) for runs in rig.runs.values()] == [2] * 5
    for task in rig.runs:
        assert [attempt.status for attempt in rig.machine.attempts(task)] == [OUTCOME_SUSPECTED, OUTCOME_COMPLETED]


def test_a_drained_worker_finishes_the_coroutines_that_run_and_hands_back_the_others():
    rig = WorkerWorld(5, async_tasks=4)
    rig.submit(*[3_000 * MS] * 12, task=nap)
    rig.until(lambda: in_flight(rig) == 4)
    children = rig.drain("w1")
    rig.add_worker("w2")
    rig.until(lambda: not rig.workers[0].alive)
    assert ("w1", "worker_closed") in rig.log
    assert sum(run.child in children for runs in rig.runs.values() for run in runs) == 4
    rig.until(lambda: len(rig.results) == 12)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_worker_that_is_cut_off_ends_its_coroutines_before_another_runs_them():
    for seed in range(2):
        rig = WorkerWorld(seed, workers=2, async_tasks=5)
        rig.until(lambda rig=rig: rig.registered("w1") and rig.registered("w2"))
        rig.submit(*[30_000 * MS] * 10, task=nap)
        rig.until(lambda rig=rig: in_flight(rig) == 10)
        cuts = rig.world.network.partition([{"w1"}, {"b1", "b2", "b3"}])
        rig.until(lambda rig=rig: any(len(runs) == 2 for runs in rig.runs.values()))
        assert ("w1", "worker_session_lost") in rig.log
        assert rig.overlapping() == []
        rig.world.network.mend(cuts)
        rig.until(lambda rig=rig: rig.registered("w1"))


def test_a_new_leader_learns_which_coroutines_run_and_none_runs_twice():
    for seed in range(2):
        rig = WorkerWorld(seed, workers=2, async_tasks=5)
        rig.submit(*[3_000 * MS] * 20, task=nap)
        rig.until(lambda rig=rig: len(rig.runs) == 10)
        rig.world.crash(rig.leader())
        rig.until(lambda rig=rig: len(rig.results) == 20)
        assert all(len(runs) == 1 for runs in rig.runs.values())


def test_the_heartbeat_says_which_coroutines_run():
    rig = WorkerWorld(6, async_tasks=5)
    rig.submit(*[30_000 * MS] * 8, task=nap)
    rig.until(lambda: in_flight(rig) == 5)
    assert sorted(loop_of(rig).running_tasks) == sorted(rig.runs)


def test_who_has_nothing_to_tell_of_is_asked_twice_a_second_at_most():
    rig = WorkerWorld(7, async_tasks=5)
    rig.submit(*[30_000 * MS] * 5, task=nap)
    rig.until(lambda: in_flight(rig) == 5)
    loop, asked = loop_of(rig), 0
    rows = loop.progress

    def progress() -> list[tuple[int, int, int, int]]:
        nonlocal asked
        asked += 1
        return rows()

    loop.progress = progress  # type: ignore[method-assign]
    until = rig.world.now + 10 * SECOND
    rig.until(lambda: rig.world.now >= until)
    assert 15 <= asked <= 21
