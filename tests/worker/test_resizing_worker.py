"""A worker with bounds for its slots among real brokers in the simulated world: it opens slots for what waits, closes
those that are not needed, and loses nothing by it."""

from signal import SIGKILL

from worker_world import WorkerWorld

from actors import SECOND
from cluster.worker.executor_child import State
from cluster.worker.scaling import PACE
from cluster.worker.wear import WearLimits

MS = 1_000          # of work, in microseconds
QUIET = PACE.close_idle + 4 * PACE.close_pause


def slots_open(rig: WorkerWorld, name: str = "w1") -> int:
    """As the log has it."""
    session = rig.machine.session(rig.actors[name].session)
    return session.slots_open if session is not None else 0


def children(rig: WorkerWorld, name: str = "w1") -> int:
    """Slots that have a child."""
    return len([child for child in rig.actors[name].children if child.state is not State.DOWN])


def processes(rig: WorkerWorld) -> int:
    """Of the worker's children, whatever slots know of them."""
    process = rig.workers[0]
    return len([child for child in process.machine.children if child.parent is process.loop])


def running(rig: WorkerWorld) -> int:
    return len([run for runs in rig.runs.values() for run in runs if run.ended is None])


def test_it_begins_with_the_fewest():
    rig = WorkerWorld(1, slots=3, slots_min=1)
    rig.submit(20_000 * MS)
    rig.until(lambda: rig.runs)
    assert (slots_open(rig), children(rig)) == (1, 1)


def test_a_burst_opens_all_and_quiet_closes_them_again():
    rig = WorkerWorld(2, slots=3, slots_min=1)
    rig.submit(*[2_000 * MS] * 20)
    rig.until(lambda: running(rig) == 3)
    rig.until(lambda: len(rig.results) == 20)
    assert all(len(runs) == 1 for runs in rig.runs.values())
    rig.world.run_for(QUIET)
    assert (slots_open(rig), children(rig)) == (1, 1)
    rig.submit(*[2_000 * MS] * 12)
    rig.until(lambda: running(rig) == 3)
    rig.until(lambda: len(rig.results) == 32)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_slot_is_open_in_the_log_only_when_its_child_is_there():
    rig = WorkerWorld(3, slots=2, slots_min=1)
    rig.until(rig.registered)
    rig.is_broken = True
    rig.submit(*[1_000 * MS] * 10)
    rig.until(lambda: ("w1", "child_start_failed") in rig.log)
    assert slots_open(rig) == 1
    rig.is_broken = False
    rig.until(lambda: running(rig) == 2)
    assert slots_open(rig) == 2
    rig.until(lambda: len(rig.results) == 10)


def test_tasks_that_are_done_at_once_open_nothing():
    rig = WorkerWorld(4, slots=8, slots_min=1)
    for _ in range(5):
        rig.submit(*[MS] * 200)
        rig.world.run_for(3 * SECOND)
    assert len(rig.results) == 1_000 and slots_open(rig) == 1


def test_of_one_task_that_waits_one_worker_hears():
    rig = WorkerWorld(5, workers=3, slots=4, slots_min=1)
    rig.until(lambda: all(rig.registered(name) for name in ("w1", "w2", "w3")))
    rig.submit(*[20_000 * MS] * 4)
    rig.until(lambda: running(rig) == 4)
    rig.world.run_for(10 * SECOND)
    assert sorted(slots_open(rig, name) for name in ("w1", "w2", "w3")) == [1, 1, 2]


def test_the_child_of_a_slot_that_is_shut_ends_behind_its_task():
    rig = WorkerWorld(6, slots=2, slots_min=1)
    rig.submit(5_000 * MS, 100_000 * MS)
    rig.until(lambda: running(rig) == 2)
    (long,) = [child for child in rig.actors["w1"].children if child.running == max(rig.runs)]
    assert long.slot.index == 1
    rig.world.run_for(QUIET)
    assert (slots_open(rig), children(rig)) == (1, 2), "what runs is not ended"
    rig.until(lambda: len(rig.results) == 2)
    rig.world.run_for(QUIET)
    assert (slots_open(rig), children(rig)) == (1, 1)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_the_successor_of_a_child_whose_slot_is_shut_is_not_kept():
    """Neither while the child is at its last task, nor when it dies of that."""
    rig = WorkerWorld(11, slots=2, slots_min=1, wear=WearLimits(recycle_after=1))
    rig.submit(5_000 * MS, 300_000 * MS)
    rig.until(lambda: running(rig) == 2)
    (long,) = [child for child in rig.actors["w1"].children if child.running == max(rig.runs)]
    assert long.slot.index == 1
    rig.world.run_for(QUIET)
    assert slots_open(rig) == 1
    assert processes(rig) == 2
    assert long.child is not None
    long.child.signal(SIGKILL)
    rig.until(lambda: rig.machine.state_of(max(rig.runs)) == "processing" and running(rig) == 1)
    rig.world.run_for(SECOND)
    assert processes(rig) == 2, "slot 0 has a child, and that a successor"


def test_a_new_leader_finds_slots_as_they_are_and_opens_more():
    rig = WorkerWorld(7, slots=4, slots_min=1)
    rig.submit(*[3_000 * MS] * 24)
    rig.until(lambda: running(rig) == 2)
    rig.world.crash(rig.leader())
    rig.until(lambda: running(rig) == 4)
    rig.until(lambda: len(rig.results) == 24)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_a_worker_that_lost_its_session_begins_with_the_fewest_again():
    rig = WorkerWorld(8, slots=3, slots_min=1)
    rig.submit(*[3_000 * MS] * 30)
    rig.until(lambda: running(rig) == 3)
    rig.world.pause(rig.workers[0])
    rig.world.run_for(15 * SECOND)
    first = rig.actors["w1"].session
    rig.world.resume(rig.workers[0])
    rig.until(lambda: rig.registered() and rig.actors["w1"].session != first)
    rig.until(lambda: slots_open(rig) == 3)
    rig.until(lambda: len(rig.results) == 30)
    rig.world.run_for(QUIET)
    assert (slots_open(rig), children(rig)) == (1, 1)


def test_a_worker_drains_with_slots_opened_and_shut():
    rig = WorkerWorld(9, workers=2, slots=3, slots_min=1)
    rig.submit(*[2_000 * MS] * 40)
    rig.until(lambda: running(rig) == 6)
    rig.drain("w1")
    rig.until(lambda: len(rig.results) == 40)
    assert all(len(runs) == 1 for runs in rig.runs.values())


def test_keys_of_slots_that_are_shut_find_another_instance():
    rig = WorkerWorld(10, slots=3, slots_min=1)
    rig.until(rig.registered)
    for key in ("a", "b", "c"):
        rig.submit(*[1_000 * MS] * 4, key=key)
    rig.until(lambda: slots_open(rig) > 1)
    rig.until(lambda: len(rig.results) == 12)
    rig.world.run_for(QUIET)
    assert (slots_open(rig), children(rig)) == (1, 1)
    for key in ("a", "b", "c"):
        rig.submit(MS, key=key)
    rig.until(lambda: len(rig.results) == 15)
