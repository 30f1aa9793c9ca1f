"""Cancellation: at once, for good, wherever the task is."""

from state_rig import Rig, outcome_of

from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_CRASHED
from cluster.state.effects import STATE_CANCELLED


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
