"""A worker that drains has closed its slots: it gets nothing more, keeps what it holds, and hands back what it will."""

import pytest
from state_rig import Rig, outcome_of

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    Cancel,
    Close,
    Complete,
    Drain,
    Expire,
    Outcome,
)
from cluster.state.effects import ANSWER_GAP, ANSWER_NO_SESSION, ANSWER_OK, ANSWER_REFUSED


def returned(assignment) -> Outcome:
    """Unrun, as a worker says it."""
    return Outcome(assignment.task, assignment.attempt, OUTCOME_RETURNED, 0, 0, b"")


def test_idle_and_open_slots_get_nothing_from_the_entry_of_the_command_on(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=3, prefetch=4)
    (running,) = client.submit()
    rig.apply(worker.drain_command(), client.submit_command(count=20))
    client.submit(count=20)
    assert worker.tasks() == [running]
    assert rig.queue()["ready"] == 40


def test_what_it_holds_is_completed_under_its_session(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.drain()
    worker.complete(*worker.inbox)
    assert rig.leader.state_of(task) == "completed"
    assert [attempt.worker for attempt in rig.leader.attempts(task)] == ["w1"]
    client.submit()
    assert worker.inbox == [], "its slot is idle, and still gets nothing"


@pytest.mark.parametrize("status", [OUTCOME_CRASHED, OUTCOME_RETURNED])
def test_what_it_gives_back_does_not_come_back(rig: Rig, status):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=4)
    client.submit(count=5)
    worker.drain()
    worker.report(*[outcome_of(assignment, status) for assignment in worker.inbox])
    assert worker.inbox == []
    assert rig.queue()["ready"] == 5


def test_what_is_returned_goes_to_others_in_order_uncounted_with_its_attempt_raised(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=4)
    tasks = client.submit(count=6)
    worker.drain()
    worker.report(*map(returned, worker.inbox[1:]))
    other = rig.worker("other", prefetch=9)
    assert other.tasks() == tasks[1:]
    assert [(a.attempt, a.alone) for a in other.inbox] == [(2, False)] * 3 + [(1, False)] * 2
    other.complete(*other.inbox)
    # One attempt each, as users count them: those that were handed back had not begun.
    assert [[(a.number, a.worker) for a in rig.leader.attempts(task)] for task in tasks[1:]] == [
        *[[(2, "other")]] * 3,
        *[[(1, "other")]] * 2,
    ]
    worker.complete(*worker.inbox)
    assert rig.leader.state_of(tasks[0]) == "completed"


def test_a_late_completion_of_what_was_returned_is_refused(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    client.submit(count=2)
    second = worker.inbox[1]
    worker.drain()
    worker.report(returned(second))
    worker.complete(second)
    assert rig.leader.state_of(second.task) == "pending"
    assert rig.leader.status()["counters"]["refused_outcomes"] == 1


def test_what_waits_goes_to_the_other_worker_of_its_kind_in_the_same_entry(rig: Rig):
    client, worker, other = rig.client(), rig.worker(prefetch=2), rig.worker("other", slots=4, prefetch=1)
    tasks = client.submit(count=6)
    assert len(worker.inbox) == 2
    other.complete(*other.inbox)
    worker.drain()
    worker.report(*map(returned, worker.inbox[1:]))
    assert set(worker.tasks()) | set(other.tasks()) == set(tasks) - {
        task for task in tasks if rig.leader.state_of(task) == "completed"
    }
    assert len(worker.inbox) == 1


def test_a_name_that_only_draining_workers_serve_is_parked_until_another_comes(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit()
    worker.drain()
    (task,) = client.submit()
    assert rig.queue()["parked"] == 1
    assert rig.worker("other").tasks() == [task]
    assert rig.queue()["parked"] == 0


def test_the_same_kind_of_worker_may_come_while_the_old_one_drains_and_outlive_it(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit()
    worker.drain()
    other = rig.worker("other")
    (second,) = client.submit()
    worker.complete(*worker.inbox)
    rig.apply(Close(worker.session, worker.incarnation))
    other.complete(*other.inbox)
    (third,) = client.submit()
    assert rig.leader.state_of(second) == "completed"
    assert other.tasks() == [third]


def test_a_task_that_must_go_alone_does_not_wait_for_a_slot_that_drains(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    client.submit()
    victim = rig.worker("victim", names=("g",))
    (alone,) = client.submit("g")
    victim.expire()
    leaving = rig.worker("leaving", names=("f", "g"), queues=("default",), prefetch=2)
    assert leaving.tasks() == [alone]
    leaving.drain()
    leaving.report(returned(leaving.inbox[0]))
    other = rig.worker("other", names=("g",))
    assert [(a.task, a.attempt, a.alone) for a in other.inbox] == [(alone, 3, True)]
    assert len(worker.inbox) == 1


def test_said_again_it_gets_its_answer_again_and_changes_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(count=3)
    command = worker.drain_command()
    for _ in range(2):
        (answer,) = rig.apply(command).answers
        assert (answer.seq, answer.code) == (command.seq, ANSWER_OK)
    worker.drain()
    assert rig.leader.session(worker.session).draining
    assert worker.tasks() == [worker.inbox[0].task]


def test_it_is_applied_in_its_turn_only(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (answer,) = rig.apply(Drain(worker.session, 2, 1)).answers
    assert (answer.code, answer.value) == (ANSWER_GAP, 1)
    (task,) = client.submit()
    assert worker.tasks() == [task]


def test_only_workers_drain(rig: Rig):
    client = rig.client()
    (answer,) = rig.apply(Drain(client.session, 1, 1)).answers
    assert answer.code == ANSWER_REFUSED
    assert not rig.leader.session(client.session).draining


@pytest.mark.parametrize("place", ["before", "with", "after"])
@pytest.mark.parametrize("end", [Close, Expire])
def test_the_session_may_end_before_it_with_it_or_after_it(rig: Rig, end, place):
    client, worker = rig.client(), rig.worker(prefetch=2)
    tasks = client.submit(count=4)
    drain, ending = worker.drain_command(), end(worker.session, worker.incarnation)
    entries = {"before": [[ending], [drain]], "with": [[drain, ending]], "after": [[drain], [ending]]}[place]
    answers = [answer for entry in entries for answer in rig.apply(*entry).answers]
    assert [answer.code for answer in answers] == [ANSWER_NO_SESSION if place == "before" else ANSWER_OK]
    assert rig.leader.session(worker.session) is None
    assert rig.worker("other", slots=4).tasks() == tasks


def test_a_draining_worker_that_is_lost_is_lost_like_any_other(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.drain()
    worker.expire()
    assert [a.status for a in rig.leader.attempts(task)] == [OUTCOME_CRASHED]


def test_a_new_incarnation_of_a_draining_worker_serves(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.drain()
    again = rig.worker(incarnation=2)
    assert [(a.task, a.attempt) for a in again.inbox] == [(task, 2)]
    again.complete(*again.inbox)
    (second,) = client.submit()
    assert again.tasks() == [second]


def test_a_cancelled_task_of_a_draining_worker_is_withdrawn(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.drain()
    effects = rig.apply(Cancel(client.session, client.seq, client.seq, [task]))
    assert effects.withdrawn == {worker.session: [(task, 1)]}
    assert rig.leader.state_of(task) == "cancelled"


def test_the_command_and_returns_may_share_an_entry_with_completions(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=3)
    tasks = client.submit(count=4)
    first, *rest = worker.inbox
    drain = worker.drain_command()
    said = [outcome_of(first, OUTCOME_COMPLETED), *map(returned, rest)]
    effects = rig.apply(drain, Complete(worker.session, drain.seq + 1, 1, said))
    assert effects.assignments == {}
    assert [rig.leader.state_of(task) for task in tasks] == ["completed"] + ["pending"] * 3


def test_digests_and_status_tell_who_drains(rig: Rig):
    worker = rig.worker()
    before, full = rig.leader.rolling, rig.leader.full_digest()
    assert [row["draining"] for row in rig.leader.status()["workers"]] == [False]
    worker.drain()
    assert [row["draining"] for row in rig.leader.status()["workers"]] == [True]
    assert rig.leader.full_digest() == rig.follower.full_digest() != full
    other = Rig()
    other.worker()
    assert (other.leader.rolling, other.leader.full_digest()) == (before, full)
    other.apply(Complete(worker.session, 1, 1, []))
    assert other.leader.rolling != rig.leader.rolling, "the same answer, another decision"
