"""Retries: what raised waits and is tried again, as often as its task says, for the exceptions that it names."""

import pytest
from state_rig import EPOCH_MS, Rig, Worker

from cluster.state.commands import (
    KINDS_MAX,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_TIMED_OUT,
    RETRIES_MAX,
    RETRY_FACTOR_MAX,
    RETRY_TYPES_MAX,
    Failure,
    Options,
    Outcome,
    RetryRule,
    Submit,
    TaskGroup,
)
from cluster.state.effects import ANSWER_REFUSED, STATE_CANCELLED, STATE_COMPLETED, STATE_EXPIRED, STATE_FAILED
from cluster.state.restoration import Restoration
from cluster.state.retries import wait_of

STEADY = RetryRule(first_ms=1_000, cap_ms=8_000, factor=2, jitter=False)
KINDS = ("mail.Refused", "ConnectionError", "OSError", "Exception")


def raises(worker: Worker, kinds: tuple[str, ...] = KINDS, status: int = OUTCOME_FAILED) -> None:
    """What the worker was given first raises."""
    assignment = worker.inbox[0]
    error = Failure(kinds[0] if kinds else "EncodeError", "no", "Traceback ...", kinds=kinds)
    worker.report(Outcome(assignment.task, assignment.attempt, status, EPOCH_MS, 50, b"", error))


def test_a_task_that_raises_is_tried_again_after_pauses_that_grow(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=5, retry=STEADY)
    for attempt, pause in enumerate((1_000, 2_000, 4_000, 8_000, 8_000), start=1):
        assert [(given.task, given.attempt, given.body) for given in worker.inbox] == [(task, attempt, b"1")]
        raises(worker)
        assert rig.results() == []
        assert rig.leader.state_of(task) == "pending" and rig.queue()["delayed"] == 1
        rig.pass_time(pause - 1)
        assert worker.inbox == []
        rig.pass_time(1)
    raises(worker)
    (result,) = rig.results()
    assert (result.state, result.attempts) == (STATE_FAILED, 6)
    assert result.error is not None and result.error.type == "mail.Refused"
    assert [attempt.number for attempt in rig.leader.attempts(task)] == [1, 2, 3, 4, 5, 6]
    assert rig.queue()["failed"] == 1 and rig.queue()["delayed"] == 0


def test_one_that_goes_well_in_the_end_is_completed_and_its_failures_are_written_down(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=1, retry=STEADY)
    raises(worker)
    rig.pass_time(1_000)
    worker.complete(worker.inbox[0])
    (result,) = rig.results()
    assert (result.state, result.attempts) == (STATE_COMPLETED, 2)
    assert [attempt.status for attempt in rig.leader.attempts(task)] == [OUTCOME_FAILED, 0]


def test_without_retries_the_first_exception_is_the_last(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit()
    raises(worker)
    assert rig.results()[0].state == STATE_FAILED


@pytest.mark.parametrize(
    ("on", "kinds", "is_retried"),
    [
        ((), KINDS, True),
        (("OSError",), KINDS, True),
        (("mail.Refused",), KINDS, True),
        (("ValueError", "ConnectionError"), KINDS, True),
        (("ValueError",), KINDS, False),
        (("Refused",), KINDS, False),
        ((), (), False),
        (("Exception",), (), False),
    ],
)
def test_the_exceptions_that_a_retry_is_for_are_named_themselves_or_by_a_base(rig: Rig, on, kinds, is_retried):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=1, retry=RetryRule(on=on))
    raises(worker, kinds)
    assert (rig.results() == []) is is_retried


def test_a_time_limit_is_retried_like_an_exception(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=1, retry=STEADY)
    raises(worker, ("TimeLimitExceeded", "TimeoutError"), OUTCOME_TIMED_OUT)
    assert rig.results() == []


def test_pauses_are_shortened_by_lot_by_half_at_most_and_every_replica_draws_the_same():
    rule = RetryRule(first_ms=10_000, cap_ms=100_000, factor=3)
    first = [wait_of(rule, task, 1) for task in range(2_000)]
    assert all(5_000 < wait <= 10_000 for wait in first)
    assert len({wait // 500 for wait in first}) == 11, "all over the range"
    assert first == [wait_of(rule, task, 1) for task in range(2_000)]
    assert all(50_000 < wait_of(rule, task, 9) <= 100_000 for task in range(100)), "the cap"
    assert wait_of(RetryRule(first_ms=1, cap_ms=10, factor=RETRY_FACTOR_MAX, jitter=False), 1, RETRIES_MAX) == 10


def test_without_a_pause_it_waits_behind_the_others(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(retries=1, retry=RetryRule(first_ms=0, cap_ms=0))
    (second,) = client.submit()
    raises(worker)
    assert worker.tasks() == [second]
    worker.complete(worker.inbox[0])
    assert [(given.task, given.attempt) for given in worker.inbox] == [(first, 2)]


def test_a_late_outcome_of_the_attempt_that_raised_is_refused(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=1, retry=STEADY)
    (given,) = worker.inbox
    raises(worker)
    worker.complete(given)
    assert rig.results() == []
    assert rig.leader.status()["counters"]["refused_outcomes"] == 1


def test_a_task_that_waits_for_its_retry_can_be_cancelled(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=3, retry=STEADY)
    raises(worker)
    client.cancel(task)
    (result,) = rig.results()
    assert (result.state, result.attempts) == (STATE_CANCELLED, 1)
    rig.pass_time(10_000)
    assert worker.inbox == []


def test_a_task_that_expires_while_it_waits_for_its_retry_is_expired(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=3, retry=STEADY, expires_ms=500)
    raises(worker)
    rig.pass_time(500)
    assert rig.results()[0].state == STATE_EXPIRED
    rig.pass_time(10_000)
    assert worker.inbox == []


def test_a_task_that_raises_after_its_time_has_failed(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=3, retry=STEADY, expires_ms=500)
    rig.pass_time(500)
    raises(worker)
    assert rig.results()[0].state == STATE_FAILED


def test_crashes_and_exceptions_are_counted_apart(rig: Rig):
    """A task that has crashed goes alone, also when it comes back from a pause."""
    client, worker = rig.client(), rig.worker(prefetch=4)
    (task,) = client.submit(retries=1, retry=STEADY)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    raises(worker)
    client.submit(count=3)
    rig.pass_time(1_000)
    worker.complete(*worker.inbox)
    assert [(given.task, given.attempt, given.alone) for given in worker.inbox] == [(task, 3, True)]
    raises(worker)
    assert (rig.results()[0].state, rig.results()[0].attempts) == (STATE_FAILED, 3)


@pytest.mark.parametrize(("retries", "is_retried"), [(-5, False), (1 << 60, True)])
def test_a_number_of_retries_that_no_client_of_ours_writes_is_taken_as_the_nearest(rig: Rig, retries, is_retried):
    """Logs may have it: it was not looked at before there were retries."""
    client, worker = rig.client(), rig.worker()
    client.submit(retries=retries, retry=STEADY)
    raises(worker)
    assert (rig.results() == []) is is_retried


def test_of_many_kinds_the_first_are_looked_at(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(retries=1, retry=RetryRule(on=("Exception",)))
    raises(worker, (*map(str, range(KINDS_MAX)), "Exception"))
    assert rig.results()[0].state == STATE_FAILED


def test_a_lost_worker_costs_no_retry(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=1, retry=STEADY)
    raises(worker)
    rig.pass_time(1_000)
    worker.expire()
    second = rig.worker("w2")
    assert second.tasks() == [task]
    raises(second)
    assert rig.results()[0].state == STATE_FAILED


def test_what_waits_for_a_retry_outlives_a_snapshot(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=2, retry=RetryRule(on=("OSError",)))
    raises(worker)
    restoration = Restoration()
    for part in rig.leader.image():
        restoration.add(part)
    machine = restoration.finish()
    assert machine.full_digest() == rig.leader.full_digest()
    assert machine.next_deadline_ms() == rig.leader.next_deadline_ms()
    assert machine.attempts(task) == rig.leader.attempts(task)


@pytest.mark.parametrize(
    "options",
    [
        Options(retry=RetryRule(first_ms=-1)),
        Options(retry=RetryRule(first_ms=2, cap_ms=1)),
        Options(retry=RetryRule(factor=0)),
        Options(retry=RetryRule(factor=RETRY_FACTOR_MAX + 1)),
        Options(retry=RetryRule(on=("x",) * (RETRY_TYPES_MAX + 1))),
        Options(retry=RetryRule(on=("",))),
        Options(retry=RetryRule(on=("x" * 1_000,))),
        Options(soft_timeout_ms=-1),
    ],
)
def test_a_rule_out_of_range_is_refused(rig: Rig, options):
    client = rig.client()
    assert client.send(Submit(client.session, 1, 1, [TaskGroup("f", 1, [b""], options)])).code == ANSWER_REFUSED


