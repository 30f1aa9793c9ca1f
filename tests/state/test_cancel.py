"""Cancellation: at once, for good, wherever the task waits; what a worker has is asked to stop first."""

import pytest
from state_rig import Rig, outcome_of

from cluster.state.commands import (
    GRACE_MS_MAX,
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_TIMED_OUT,
    Outcome,
    RetryRule,
)
from cluster.state.effects import STATE_CANCELLED
from cluster.state.lifecycle import SILENCE_MS


def test_a_waiting_task_is_cancelled_at_once(rig: Rig):
    client = rig.client()
    first, second, third = client.submit(count=3)
    client.cancel(second)
    (result,) = rig.effects.results[client.session]
    assert (result.task, result.state, result.attempts) == (second, STATE_CANCELLED, 0)
    assert rig.queue()["ready"] == 2 and rig.queue()["cancelled"] == 1
    assert rig.worker(prefetch=5).tasks() == [first, third]


def test_a_held_task_is_terminal_at_once_and_withdrawn_from_its_worker(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task)
    assert rig.effects.withdrawn == {worker.session: [(task, 1)]}
    assert rig.leader.result(task).state == STATE_CANCELLED
    assert rig.leader.result(task).attempts == 1
    worker.report(outcome_of(worker.inbox[0], OUTCOME_COMPLETED, body=b"late"))
    assert rig.leader.result(task).state == STATE_CANCELLED
    assert rig.leader.status()["counters"]["refused_outcomes"] == 1


def test_the_slot_of_a_cancelled_task_is_free_again(rig: Rig):
    client, worker = rig.client(), rig.worker()
    first, second = client.submit(count=2)
    worker.inbox.clear()
    client.cancel(first)
    assert worker.tasks() == [second]


def test_a_cancel_of_what_has_ended_or_never_was_changes_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.complete(*worker.inbox)
    client.cancel(task, 99_999, -1)
    assert rig.leader.state_of(task) == "completed"
    assert rig.effects.results == {} and rig.effects.withdrawn == {}
    client.cancel(task, task)


def test_another_client_may_cancel(rig: Rig):
    """A handle can be attached again under another session."""
    client, other = rig.client("one"), rig.client("two")
    (task,) = client.submit()
    other.cancel(task)
    assert rig.leader.state_of(task) == "cancelled"
    assert rig.effects.results.keys() == {client.session}


def test_a_cancelled_head_that_was_to_go_alone_blocks_nobody(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=3)
    (task,) = client.submit()
    client.submit(count=8)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert rig.queue()["ready"] > 1, "the crashed one waits for an idle slot"
    waiting = rig.queue()["ready"]
    client.cancel(task)
    assert rig.queue()["ready"] < waiting - 1


def test_a_task_in_its_second_attempt_says_so_when_cancelled_waiting(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.expire()
    client.cancel(task)
    assert rig.leader.result(task).attempts == 1


# -- with a grace -----------------------------------------------------------------------------------------------------


def test_what_a_worker_has_is_asked_to_stop_and_ends_when_the_worker_says_so(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=500)
    assert rig.effects.cancelled == {worker.session: [(task, 1, 500)]}
    assert rig.effects.withdrawn == {} and rig.results() == []
    assert rig.leader.state_of(task) == "processing"
    worker.end(worker.inbox[0], OUTCOME_CANCELLED)
    (result,) = rig.results()
    assert (result.state, result.attempts) == (STATE_CANCELLED, 1)
    assert rig.queue()["cancelled"] == 1 and rig.queue()["running"] == 0


def test_with_a_grace_what_waits_is_cancelled_at_once_as_well(rig: Rig):
    client = rig.client()
    tasks = client.submit() + client.submit(delay_ms=1_000)
    client.cancel(*tasks, grace_ms=60_000)
    assert [rig.leader.state_of(task) for task in tasks] == ["cancelled", "cancelled"]
    assert rig.effects.cancelled == {}


def test_one_that_is_quicker_than_its_cancel_is_completed(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=500)
    worker.complete(*worker.inbox)
    assert rig.leader.state_of(task) == "completed"


@pytest.mark.parametrize("status", [OUTCOME_FAILED, OUTCOME_CRASHED, OUTCOME_TIMED_OUT, OUTCOME_RETURNED])
def test_a_cancelled_task_is_tried_again_by_nobody(rig: Rig, status: int):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=5, retry=RetryRule(0, 0))
    client.cancel(task, grace_ms=500)
    worker.end(worker.inbox[0], status)
    assert rig.leader.state_of(task) == "cancelled"
    assert worker.inbox == []


@pytest.mark.parametrize("held", [1, 3])
def test_a_cancelled_task_whose_worker_is_lost_is_cancelled(rig: Rig, held: int):
    client, worker = rig.client(), rig.worker(prefetch=3)
    tasks = client.submit(count=held)
    client.cancel(tasks[0], grace_ms=500)
    worker.expire()
    assert rig.leader.state_of(tasks[0]) == "cancelled"
    assert rig.worker("w2", prefetch=3).tasks() == tasks[1:2], "the others go on, one by one"


def test_of_several_graces_the_shortest_counts(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    for grace_ms, said in ((500, [(task, 1, 500)]), (900, None), (500, None), (100, [(task, 1, 100)])):
        client.cancel(task, grace_ms=grace_ms)
        assert rig.effects.cancelled.get(worker.session) == said
    assert rig.leader.cancelled_at(worker.session) == [(task, 1, 100)], "for a leader to come"


def test_a_grace_has_a_limit(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=1 << 60)
    assert rig.effects.cancelled == {worker.session: [(task, 1, GRACE_MS_MAX)]}


def test_a_worker_that_says_nothing_does_not_keep_a_cancelled_task_for_ever(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=900)
    client.cancel(task, grace_ms=500)
    rig.pass_time(500 + SILENCE_MS - 1)
    assert rig.leader.state_of(task) == "processing"
    rig.pass_time(1)
    assert rig.leader.state_of(task) == "cancelled"
    assert rig.effects.withdrawn == {worker.session: [(task, 1)]}
    rig.pass_time(60_000)


def test_the_date_of_a_cancel_that_was_obeyed_means_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=500)
    worker.complete(*worker.inbox)
    (other,) = client.submit()
    rig.pass_time(60_000)
    assert (rig.leader.state_of(task), rig.leader.state_of(other)) == ("completed", "processing")


def test_a_worker_cannot_cancel_by_itself(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.end(worker.inbox[0], OUTCOME_CANCELLED)
    assert [(given.task, given.attempt) for given in worker.inbox] == [(task, 2)], "it came back"


def test_to_give_up_what_waits_behind_a_slow_task_opens_its_slot_to_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=3)
    _, second, third = client.submit(count=3)
    worker.end(worker.inbox[2], OUTCOME_RETURNED)
    assert third not in worker.tasks(), "the slot has closed itself"
    client.cancel(second, grace_ms=500)
    worker.report(Outcome(second, 1, OUTCOME_CANCELLED, 0, 0, b""))
    assert third not in worker.tasks()


def test_a_grace_that_is_given_up_ends_it_at_once(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=500)
    client.cancel(task)
    assert rig.leader.state_of(task) == "cancelled"
    assert rig.effects.withdrawn == {worker.session: [(task, 1)]}


def test_the_slot_of_a_task_that_is_stopping_is_not_free_before_it_has_stopped(rig: Rig):
    client, worker = rig.client(), rig.worker()
    first, second = client.submit(count=2)
    client.cancel(first, grace_ms=500)
    assert worker.tasks() == [first]
    worker.end(worker.inbox[0], OUTCOME_CANCELLED)
    assert worker.tasks() == [second]
