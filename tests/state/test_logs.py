"""What attempts logged, in the state: kept with the attempt, bounded, and nothing where nothing was said."""

import msgspec
from image_rig import assert_equal, restore
from state_rig import Rig, outcome_of

from cluster.state import evidence
from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_CRASHED, OUTCOME_FAILED, Failure, Outcome
from cluster.state.tasks import LOG_BYTES_MAX


def logged(assignment: object, log: str, status: int = OUTCOME_COMPLETED) -> Outcome:
    error = Failure("", "", log=log) if status == OUTCOME_COMPLETED else Failure("E", "m", log=log)
    return msgspec.structs.replace(outcome_of(assignment, status), error=error)  # type: ignore[arg-type]


def test_a_silent_success_is_written_as_before():
    """Field for field what it was before there were logs."""
    outcome = Outcome(1, 1, OUTCOME_COMPLETED, 5, 6, b"x")
    assert msgspec.msgpack.encode(outcome) == msgspec.msgpack.encode([1, 1, 0, 5, 6, b"x", None])


def test_what_a_completed_attempt_logged_is_kept_and_its_result_is_no_error(rig: Rig):
    client, worker = rig.client(), rig.worker()
    silent, loud = client.submit("f", 2)
    worker.report(outcome_of(worker.inbox[0], OUTCOME_COMPLETED))
    worker.report(logged(worker.inbox[0], "said\n"))
    assert rig.leader._tables.tasks.get(silent).attempts is None  # type: ignore[union-attr]
    (attempt,) = rig.leader.attempts(loud)
    assert attempt.error is not None and attempt.error.log == "said\n"
    (result,) = rig.results()
    assert (result.task, result.error, rig.leader.state_of(loud)) == (loud, None, "completed")
    assert_equal(restore(rig.leader.image()), rig.leader)


def test_each_attempt_keeps_its_own_log_up_to_a_limit(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit("f")
    worker.report(logged(worker.inbox[0], "x" * 10_000 + "end", OUTCOME_CRASHED))
    worker.report(logged(worker.inbox[0], "second", OUTCOME_FAILED))
    first, second = rig.leader.attempts(task)
    assert first.error is not None and second.error is not None
    assert len(first.error.log) == LOG_BYTES_MAX and first.error.log.endswith("xend")
    assert second.error.log == "second"
    (result,) = rig.results()
    assert result.error is not None and result.error.log == "second"


def test_logs_count_as_evidence_and_the_oldest_go_first(rig: Rig, monkeypatch):
    monkeypatch.setattr(evidence, "EVIDENCE_BYTES_MAX", 2 * (evidence.EVIDENCE_OVERHEAD_BYTES + 1_000))
    client, worker = rig.client(), rig.worker()
    tasks = client.submit("f", 3)
    for _ in tasks:
        worker.report(logged(worker.inbox[0], "y" * 1_000))
    logs = [rig.leader.attempts(task)[0].error for task in tasks]
    assert [len(error.log) for error in logs if error is not None] == [0, 1_000, 1_000]
    assert rig.leader.status()["counters"]["blanked_attempts"] == 1
    assert_equal(restore(rig.leader.image()), rig.leader)
