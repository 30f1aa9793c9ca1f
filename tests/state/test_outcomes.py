"""How attempts end, and what is kept of them."""

import pytest
from state_rig import EPOCH_MS, Rig, outcome_of

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_TIMED_OUT,
    Complete,
    Failure,
    Outcome,
)
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD, STATE_FAILED, TaskResult
from cluster.state.machine import PENDING
from cluster.state.tasks import ATTEMPTS_KEPT_MAX, STDERR_BYTES_MAX, TRACEBACK_BYTES_MAX, Attempt


def one_task(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    return client, worker, task


def refused(rig: Rig) -> int:
    return rig.leader.status()["counters"]["refused_outcomes"]


def test_a_completion_is_a_terminal_record_for_the_submitting_session(rig):
    client, worker, task = one_task(rig)
    assert rig.leader.result(task) is PENDING
    assert rig.leader.state_of(task) == "processing"
    worker.complete(*worker.inbox, body=b"42")
    expected = TaskResult(task, STATE_COMPLETED, 1, b"42")
    assert rig.effects.results == {client.session: [expected]}
    assert rig.leader.result(task) == expected
    assert rig.leader.state_of(task) == "completed"


def test_a_task_that_does_not_exist_has_no_result(rig):
    assert rig.leader.result(12345) is None
    assert rig.leader.state_of(12345) is None
    assert rig.leader.attempts(12345) == []
    assert rig.leader.queue_of(12345) is None


def test_a_first_try_success_keeps_worker_start_and_end(rig):
    _, worker, task = one_task(rig)
    worker.complete(*worker.inbox, run_us=2_500_000)
    assert rig.leader.attempts(task) == [Attempt(1, "w1", OUTCOME_COMPLETED, EPOCH_MS, EPOCH_MS + 2_500)]
    assert rig.leader._tables.tasks.get(task).attempts is None, "without a list of its own"


def test_a_success_after_a_crash_is_recorded_after_it(rig):
    _, worker, task = one_task(rig)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    worker.complete(*worker.inbox)
    assert [(a.number, a.status) for a in rig.leader.attempts(task)] == [
        (1, OUTCOME_CRASHED),
        (2, OUTCOME_COMPLETED),
    ]
    assert rig.leader.result(task).attempts == 2
    assert rig.leader.result(task).error is None


@pytest.mark.parametrize("status", [OUTCOME_FAILED, OUTCOME_TIMED_OUT])
def test_an_exception_or_a_time_limit_is_terminal(rig, status):
    client, worker, task = one_task(rig)
    worker.end(worker.inbox[0], status)
    (result,) = rig.effects.results[client.session]
    assert (result.state, result.attempts, result.error.type) == (STATE_FAILED, 1, "SomeError")
    assert rig.leader.result(task) == result
    assert rig.queue()["failed"] == 1
    assert worker.inbox == []


def test_a_late_completion_is_refused_by_its_attempt_number(rig):
    """The task went back, and even to the same worker again."""
    _, worker, task = one_task(rig)
    first = worker.inbox[0]
    worker.end(first, OUTCOME_CRASHED)
    worker.report(outcome_of(first, OUTCOME_COMPLETED, body=b"late"))
    assert rig.leader.result(task) is PENDING
    assert refused(rig) == 1
    worker.complete(*worker.inbox, body=b"right")
    assert rig.leader.result(task).body == b"right"


def test_a_completion_by_a_session_that_does_not_hold_the_task_is_refused(rig):
    _, worker, task = one_task(rig)
    other = rig.worker("other")
    other.report(outcome_of(worker.inbox[0], OUTCOME_COMPLETED))
    assert rig.leader.result(task) is PENDING
    assert refused(rig) == 1


def test_a_task_ends_once(rig):
    _, worker, task = one_task(rig)
    (assignment,) = worker.inbox
    worker.report(*[outcome_of(assignment, OUTCOME_COMPLETED, body=body) for body in (b"first", b"second")])
    worker.report(outcome_of(assignment, OUTCOME_FAILED))
    assert rig.leader.result(task).body == b"first"
    assert refused(rig) == 2
    assert rig.queue()["completed"] == 1


@pytest.mark.parametrize("status", [OUTCOME_RETURNED, OUTCOME_CRASHED])
def test_a_task_that_goes_back_cannot_end_again_in_the_same_command(rig, status):
    _, worker, task = one_task(rig)
    (assignment,) = worker.inbox
    worker.report(outcome_of(assignment, status), outcome_of(assignment, OUTCOME_COMPLETED))
    assert rig.leader.result(task) is PENDING
    assert refused(rig) == 1


def test_an_outcome_of_unknown_status_or_task_is_refused_and_the_others_count(rig):
    client, worker = rig.client(), rig.worker(prefetch=3)
    a, b, c = client.submit(count=3)
    of_a, of_b, of_c = worker.inbox
    worker.report(
        outcome_of(of_a, OUTCOME_COMPLETED),
        outcome_of(of_b, 77),
        Outcome(999, 1, OUTCOME_COMPLETED, 0, 0, b""),
        Outcome(-5, 1, OUTCOME_COMPLETED, 0, 0, b""),
        outcome_of(of_c, OUTCOME_COMPLETED),
    )
    assert refused(rig) == 3
    assert [rig.leader.state_of(task) for task in (a, b, c)] == ["completed", "processing", "completed"]


def test_refused_outcomes_are_answered_ok_all_the_same(rig):
    worker = rig.worker()
    (answer,) = rig.apply(Complete(worker.session, 1, 1, [Outcome(999, 1, 0, 0, 0, b"")])).answers
    assert (answer.code, answer.seq) == (0, 1)


def test_results_of_several_submitters_in_one_command_reach_each(rig):
    one, two = rig.client("one"), rig.client("two")
    worker = rig.worker(prefetch=10)
    tasks = one.submit(count=2), two.submit(count=2), one.submit(count=1)
    worker.complete(*worker.inbox)
    by_session = {session: [r.task for r in results] for session, results in rig.effects.results.items()}
    assert by_session == {one.session: tasks[0] + tasks[2], two.session: tasks[1]}


def test_tasks_of_several_names_and_queues_in_one_command_are_counted_apart(rig):
    client = rig.client()
    worker = rig.worker(names=("f", "g"), queues=("default", "other"), prefetch=20)
    for name, queue in (("f", "default"), ("g", "default"), ("f", "other"), ("f", "default")):
        client.submit(name, count=2, queue=queue)
    worker.complete(*worker.inbox)
    assert rig.queue()["completed"] == 6
    assert rig.queue("other")["completed"] == 2


# -- crashes -------------------------------------------------------------------------------------------------


def test_a_task_that_crashes_three_times_is_dead_with_the_evidence(rig):
    client, worker, task = one_task(rig)
    for crash in range(3):
        assert worker.inbox[0].attempt == crash + 1
        worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert worker.inbox == []
    (result,) = rig.effects.results[client.session]
    assert (result.state, result.attempts, result.error.type) == (STATE_DEAD, 3, "SomeError")
    assert [a.status for a in rig.leader.attempts(task)] == [OUTCOME_CRASHED] * 3
    assert rig.queue()["dead"] == 1


def test_a_crashed_task_goes_to_the_front_and_from_then_on_alone(rig):
    client, worker, task = one_task(rig)
    client.submit(count=2)
    assert not worker.inbox[0].alone
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert (worker.inbox[0].task, worker.inbox[0].alone) == (task, True)


def test_a_return_does_not_count_as_a_crash(rig):
    _, worker, task = one_task(rig)
    for _ in range(20):
        worker.end(worker.inbox[0], OUTCOME_RETURNED)
    worker.complete(*worker.inbox)
    assert rig.leader.result(task).attempts == 21


def test_the_last_10_attempts_are_kept(rig):
    _, worker, task = one_task(rig)
    for _ in range(14):
        worker.end(worker.inbox[0], OUTCOME_RETURNED)      # these had started
    assert [a.number for a in rig.leader.attempts(task)] == list(range(5, 15))
    assert len(rig.leader.attempts(task)) == ATTEMPTS_KEPT_MAX


def test_a_return_of_what_never_started_is_no_attempt_to_record(rig):
    _, worker, task = one_task(rig)
    worker.report(Outcome(task, 1, OUTCOME_RETURNED, 0, 0, b""))
    assert rig.leader.attempts(task) == []


def test_evidence_is_cut_to_its_ends(rig):
    _, worker, task = one_task(rig)
    error = Failure("T" * 9_999, "m" * 99_999, "é" * 9_999 + "the end", 1, -1, "s" * 9_999 + "last words")
    worker.report(Outcome(task, 1, OUTCOME_FAILED, EPOCH_MS, 5, b"", error))
    kept = rig.leader.result(task).error
    assert len(kept.traceback.encode()) <= TRACEBACK_BYTES_MAX and kept.traceback.endswith("éthe end")
    assert len(kept.stderr.encode()) <= STDERR_BYTES_MAX and kept.stderr.endswith("last words")
    assert len(kept.type) == 512 and len(kept.message) == 4_096
    assert kept.exit_code == 1


def test_times_that_cannot_be_are_kept_within_what_can_be_encoded(rig):
    _, worker, task = one_task(rig)
    worker.report(Outcome(task, 1, OUTCOME_COMPLETED, (1 << 64) - 1, (1 << 64) - 1, b""))
    assert rig.leader.attempts(task)[0].ended_ms == 1 << 53
    assert rig.leader.full_digest() == rig.follower.full_digest()
