"""A slot that runs all that it holds at once: a worker's event loop."""

import pytest
from state_rig import Rig, Worker, outcome_of

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    ROLE_WORKER,
    Register,
    WorkerSpec,
)
from cluster.state.credit import PREFETCH_MAX, SLOTS_MAX
from cluster.state.effects import ANSWER_OK, ANSWER_REFUSED, Assignment


def loop_worker(rig: Rig, name: str = "w1", slots: int = 2, loop_tasks: int = 4) -> Worker:
    return rig.worker(name, slots=slots, names=("f", "g"), loop_names=("g",), loop_tasks=loop_tasks)


def at(worker: Worker, slot: int) -> list[Assignment]:
    return [assignment for assignment in worker.inbox if assignment.slot == slot]


def test_a_loop_has_the_index_behind_the_slots_and_takes_as_many_as_it_runs(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 6)
    assert [assignment.slot for assignment in worker.inbox] == [2] * 4
    worker.complete(worker.inbox[1])
    assert worker.tasks() == [tasks[0], *tasks[2:5]]


def test_the_other_slots_do_not_serve_what_the_loop_serves(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    client.submit("f", 3)
    assert sorted(assignment.slot for assignment in worker.inbox) == [0, 1]
    client.submit("g", 9)
    assert len(at(worker, 2)) == 4 and len(worker.inbox) == 6


def test_a_worker_whose_loop_has_no_room_for_tasks_has_none(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig, loop_tasks=0)
    client.submit("g", 4)
    assert sorted(assignment.slot for assignment in worker.inbox) == [0, 1]


def test_its_room_is_by_number_however_long_its_tasks_take(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    client.submit("g", 20)
    for _ in range(5):
        worker.complete(worker.inbox[0], run_us=60_000_000)
    assert len(worker.inbox) == 4


def test_what_a_loop_hands_back_does_not_close_it_while_others_run(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 6)
    worker.report(*[outcome_of(assignment, OUTCOME_RETURNED) for assignment in worker.inbox[2:]])
    assert worker.tasks() == tasks[:4]
    assert [assignment.attempt for assignment in worker.inbox] == [1, 1, 2, 2]


def test_suspects_of_a_lost_child_are_not_counted_and_go_alone_from_then_on(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 6)
    worker.report(*[outcome_of(assignment, OUTCOME_SUSPECTED) for assignment in worker.inbox])
    (alone,) = worker.inbox
    assert (alone.task, alone.attempt, alone.alone) == (tasks[0], 2, True)
    assert rig.leader._tables.tasks.get(tasks[0]).crashes == 0
    assert [attempt.status for attempt in rig.leader.attempts(tasks[0])] == [OUTCOME_SUSPECTED]
    worker.end(alone, OUTCOME_CRASHED)
    assert rig.leader._tables.tasks.get(tasks[0]).crashes == 1
    (alone,) = worker.inbox
    worker.complete(alone)
    assert len(worker.inbox) == 1 and worker.inbox[0].alone


def test_a_suspect_that_was_cancelled_has_ended(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 2)
    client.cancel(tasks[0], grace_ms=100)
    worker.report(*[outcome_of(assignment, OUTCOME_SUSPECTED) for assignment in worker.inbox])
    assert rig.leader.state_of(tasks[0]) == "cancelled"
    assert worker.tasks() == tasks[1:]


@pytest.mark.parametrize(("held", "crashes"), [(1, 1), (3, 0)])
def test_of_a_lost_worker_only_what_was_alone_in_its_loop_has_crashed(rig: Rig, held: int, crashes: int) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", held)
    worker.expire()
    assert [rig.leader._tables.tasks.get(task).crashes for task in tasks] == [crashes] * held
    successor = loop_worker(rig, "next")
    assert successor.tasks() == tasks
    assert [assignment.alone for assignment in successor.inbox] == [held == 1] * held


def test_async_tasks_of_a_lost_machine_run_together_again_and_what_comes_later_is_not_held_up(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig, loop_tasks=100)
    tasks = client.submit("g", 90)
    successor = loop_worker(rig, "next", loop_tasks=100)
    worker.expire()
    assert successor.tasks() == tasks
    assert {(assignment.attempt, assignment.alone) for assignment in successor.inbox} == {(2, False)}
    assert client.submit("g", 5, priority=9) == successor.tasks()[90:]
    assert [attempt.status for attempt in rig.leader.attempts(tasks[0])] == [OUTCOME_RETURNED]
    assert rig.leader._tables.tasks.get(tasks[0]).crashes == 0


def test_of_the_async_tasks_of_a_second_lost_worker_those_go_alone_that_were_lost_before(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig, loop_tasks=100)
    lost_twice = client.submit("g", 2)
    worker.expire()
    second = loop_worker(rig, "second", loop_tasks=100)
    lost_once = client.submit("g", 2)
    assert second.tasks() == lost_twice + lost_once
    second.report(*[outcome_of(assignment, OUTCOME_RETURNED) for assignment in second.inbox[2:]])     # had begun
    second.expire()
    third = loop_worker(rig, "third", loop_tasks=100)
    assert [(assignment.task, assignment.alone) for assignment in third.inbox] == [(lost_twice[0], True)]
    for _ in lost_twice:
        third.complete(third.inbox[0])
    assert [(assignment.task, assignment.alone) for assignment in third.inbox] == [(task, False) for task in lost_once]


def test_a_suspect_of_a_lost_child_is_still_alone_after_its_worker_was_lost(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 2)
    worker.report(*[outcome_of(assignment, OUTCOME_SUSPECTED) for assignment in worker.inbox])
    worker.expire()
    assert [rig.leader._tables.tasks.get(task).crashes for task in tasks] == [1, 0]
    (alone,) = loop_worker(rig, "next").inbox
    assert (alone.task, alone.alone) == (tasks[0], True)


def test_a_loop_that_drains_gets_nothing_more_and_its_names_are_parked(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    client.submit("g", 2)
    worker.drain()
    client.submit("g")
    assert len(worker.inbox) == 2 and rig.queue()["parked"] == 1
    assert rig.leader._tables.credit.pools == {}
    worker.report(*[outcome_of(assignment, OUTCOME_COMPLETED) for assignment in worker.inbox])
    worker.expire()
    assert len(loop_worker(rig, "next").inbox) == 1


def test_loops_of_several_workers_take_turns(rig: Rig) -> None:
    client = rig.client()
    workers = [loop_worker(rig, name, loop_tasks=40) for name in ("a", "b")]
    client.submit("g", 60)
    assert [len(worker.inbox) for worker in workers] == [30, 30]


def test_a_task_that_fails_in_a_loop_leaves_the_others_alone(rig: Rig) -> None:
    client, worker = rig.client(), loop_worker(rig)
    tasks = client.submit("g", 5)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    assert worker.tasks() == tasks[1:]


@pytest.mark.parametrize(
    ("loop_names", "loop_tasks", "code"),
    [
        (("g",), PREFETCH_MAX, ANSWER_OK),
        (("g",), PREFETCH_MAX + 1, ANSWER_REFUSED),
        (("g",), -1, ANSWER_REFUSED),
        (("",), 1, ANSWER_REFUSED),
        (tuple(map(str, range(4_097))), 1, ANSWER_REFUSED),
    ],
)
def test_loops_out_of_range_are_refused(rig: Rig, loop_names: tuple[str, ...], loop_tasks: int, code: int) -> None:
    spec = WorkerSpec(SLOTS_MAX, ("default",), ("f",), loop_names=loop_names, loop_tasks=loop_tasks)
    (registered,) = rig.apply(Register("w", 1, ROLE_WORKER, spec)).registered
    assert registered.code == code
