"""What becomes of a worker's tasks when its session ends, and what the evidence says."""

import pytest
from state_rig import Rig

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    ROLE_WORKER,
    Close,
    Complete,
    Expire,
    Register,
    WorkerSpec,
)
from cluster.state.effects import ANSWER_NO_SESSION, STATE_DEAD


def expire(rig, worker):
    rig.apply(Expire(worker.session, worker.incarnation))


def close(rig, worker):
    rig.apply(Close(worker.session, worker.incarnation))


def register_anew(rig, worker):
    rig.worker(worker.name, incarnation=worker.incarnation + 1, names=("something else",))


@pytest.fixture(params=[expire, register_anew])
def lose(request):
    return request.param


@pytest.fixture(params=[expire, close, register_anew])
def end(request):
    return request.param


def test_what_was_alone_at_its_slot_has_crashed_and_all_else_goes_back_uncounted(rig: Rig, lose):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=2)
    first, second, third = client.submit(count=3)
    assert [a.slot for a in rig.leader.held_by(worker.session)] == [0, 1, 0]
    lose(rig, worker)
    assert worker.session in rig.effects.ended
    crashes = [rig.leader._tables.tasks.get(task).crashes for task in (first, second, third)]
    assert crashes == [0, 1, 0]
    assert [a.status for a in rig.leader.attempts(second)] == [OUTCOME_CRASHED]
    error = rig.leader.attempts(second)[0].error
    assert error.type == "WorkerLost"
    assert error.message.endswith(" was lost while this task was alone at its slot")
    assert [a.status for a in rig.leader.attempts(first)] == [OUTCOME_RETURNED]
    assert rig.queue()["ready"] == 3 and rig.queue()["running"] == 0


def test_all_of_them_go_back_to_the_front_in_order_raised_and_alone(rig: Rig, lose):
    client, worker = rig.client(), rig.worker(slots=3, prefetch=2)
    tasks = client.submit(count=8)
    lose(rig, worker)
    successor = rig.worker("successor", slots=8)
    assert successor.tasks() == tasks
    assert [a.attempt for a in successor.inbox] == [2] * 6 + [1] * 2
    assert [a.alone for a in successor.inbox] == [True] * 6 + [False] * 2


def test_what_a_worker_holds_that_closes_in_order_goes_back_as_if_it_had_not_been_there(rig: Rig):
    """A drain must not count against anybody: the worker has said what became of all that ran."""
    client, worker = rig.client(), rig.worker(slots=2, prefetch=2)
    tasks = client.submit(count=3)
    assert [a.slot for a in rig.leader.held_by(worker.session)] == [0, 1, 0]
    close(rig, worker)
    assert rig.queue()["ready"] == 3 and rig.queue()["running"] == 0
    assert all(rig.leader.attempts(task) == [] for task in tasks)
    assert all(rig.leader._tables.tasks.get(task).crashes == 0 for task in tasks)
    successor = rig.worker("successor", slots=4)
    assert successor.tasks() == tasks
    assert [(a.attempt, a.alone) for a in successor.inbox] == [(2, False)] * 3


def test_they_go_to_another_worker_in_the_same_entry(rig: Rig, end):
    client, worker = rig.client(), rig.worker()
    tasks = client.submit()
    other = rig.worker("other")
    end(rig, worker)
    assert other.tasks() == tasks


def test_a_task_that_loses_three_workers_is_dead(rig: Rig, lose):
    client = rig.client()
    (task,) = client.submit()
    for crash in range(3):
        lose(rig, rig.worker(f"victim {crash}"))
    assert rig.leader.result(task).state == STATE_DEAD
    assert [a.worker for a in rig.leader.attempts(task)] == ["victim 0", "victim 1", "victim 2"]


def test_a_lost_worker_is_not_listened_to(rig: Rig, end):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    end(rig, worker)
    (answer,) = rig.apply(Complete(worker.session, worker.seq, 1, [])).answers
    assert answer.code == ANSWER_NO_SESSION
    assert rig.leader.state_of(task) == "pending"
    assert rig.leader.held_by(worker.session) == []


def test_a_new_incarnation_of_a_worker_gets_its_tasks_back_as_new_attempts(rig: Rig):
    client = rig.client()
    rig.worker()
    (task,) = client.submit()
    again = rig.worker(incarnation=2)
    assert [(a.task, a.attempt) for a in again.inbox] == [(task, 2)]
    again.complete(*again.inbox)
    assert [a.status for a in rig.leader.attempts(task)] == [OUTCOME_CRASHED, OUTCOME_COMPLETED]


def test_a_repeated_registration_loses_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit()
    rig.apply(Register("w1", 1, ROLE_WORKER, WorkerSpec(1, ("default",), ("f",), 1)))
    assert rig.leader.held_by(worker.session) == worker.inbox


def test_held_by_is_what_was_assigned(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=3, prefetch=4)
    client.submit(count=20)
    assert sorted(rig.leader.held_by(worker.session), key=lambda a: a.task) == sorted(
        worker.inbox, key=lambda a: a.task
    )
    assert rig.follower.held_by(worker.session) == rig.leader.held_by(worker.session)


def test_a_worker_without_names_is_a_session_like_any_other(rig: Rig, end):
    worker = rig.worker(names=(), queues=())
    rig.client().submit()
    end(rig, worker)
    assert rig.queue()["ready"] == 1
