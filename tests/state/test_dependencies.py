"""Tasks that need others: who waits, who is let go with what, who fails, and what is kept for whom."""

from itertools import pairwise
from random import Random

import msgspec
import pytest
from image_rig import assert_equal, assert_goes_on_alike, restore
from state_rig import EPOCH_MS, Client, Rig, Worker, outcome_of

from cluster.state import dependencies, needs, replays, retention
from cluster.state.commands import (
    INPUTS_BYTES_MAX,
    NEEDS_MAX,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_UNMET,
    REPLAYED_BITS,
    RESULT_TTL_DEFAULT_MS,
    UNMET_UNKNOWN,
    Complete,
    Failure,
    LineRule,
    Needs,
    Outcome,
    Replay,
    Seen,
    Unmet,
)
from cluster.state.dependencies import INPUT_OVERHEAD_BYTES, INPUTS_AHEAD_BYTES_MAX
from cluster.state.effects import (
    ANSWER_CROWDED,
    ANSWER_OK,
    ANSWER_REFUSED,
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_EXPIRED,
    STATE_FAILED,
    Effects,
    TaskResult,
)
from cluster.state.inputs import End, Inputs
from cluster.state.retention import DEAD_KEPT_MS, OVERDUE, SEEN_KEPT_MS

HOUR_MS = 3_600_000


def inputs_of(worker: Worker, task: int) -> Inputs:
    (body,) = [assignment.body for assignment in worker.inbox if assignment.task == task]
    return msgspec.msgpack.decode(body, type=Inputs)


def end_of(rig: Rig, task: int) -> TaskResult:
    result = rig.leader.result(task)
    assert isinstance(result, TaskResult), f"{task} is {result}"
    return result


def unmet_of(rig: Rig, task: int) -> Unmet:
    result = end_of(rig, task)
    assert result.state == STATE_FAILED and result.error is not None and result.error.type == "DependencyFailed"
    assert result.error.unmet is not None
    return result.error.unmet


def finish(worker: Worker, *tasks: int, body: bytes = b"done") -> None:
    worker.complete(*[given for given in worker.inbox if given.task in tasks], body=body)


def end_as(worker: Worker, task: int, status: int) -> None:
    (given,) = [given for given in worker.inbox if given.task == task]
    worker.end(given, status)


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


@pytest.fixture
def worker(rig: Rig) -> Worker:
    return rig.worker(slots=16, prefetch=20)


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_task_is_handed_out_with_the_results_that_it_needs_when_all_are_there(rig, client, worker):
    first, second = client.submit(count=2)
    needy = client.needy([second, first])
    assert worker.tasks() == [first, second]
    assert rig.queue()["delayed"] == 1
    finish(worker, first, body=b"one")
    assert rig.leader.state_of(needy) == "pending" and needy not in worker.tasks()
    finish(worker, second, body=b"two")
    assert rig.queue()["delayed"] == 0
    own = client.submit_command().groups[0].bodies[0]
    assert inputs_of(worker, needy) == Inputs(
        b"%d" % (int(own) - 1), [End(second, STATE_COMPLETED, b"two"), End(first, STATE_COMPLETED, b"one")], []
    )


def test_a_task_whose_needs_have_all_ended_is_handed_out_at_once(client, worker):
    (first,) = client.submit()
    finish(worker, first)
    needy = client.needy([first], [first])
    inputs = inputs_of(worker, needy)
    assert inputs.results == inputs.outcomes == [End(first, STATE_COMPLETED, b"done")]


def test_what_ends_in_the_entry_in_which_it_is_needed_is_told_in_it(rig, client, worker):
    (first,) = client.submit()
    (given,) = worker.inbox
    submit = client.submit_command("f", 1, [Needs([first])])
    done = Complete(worker.session, worker.seq, worker.seq, [outcome_of(given, OUTCOME_COMPLETED, 50, b"x")])
    worker.seq += 1
    rig.apply(submit, done)
    assert len(worker.tasks()) == 2


def test_tasks_that_wait_for_the_same_are_let_go_in_the_order_of_their_submits(client, worker):
    (first,) = client.submit()
    waiting = [client.needy([first]) for _ in range(5)]
    finish(worker, first)
    assert worker.tasks() == waiting


def test_the_same_task_may_be_needed_twice(client, worker):
    (first,) = client.submit()
    needy = client.needy([first, first], [first])
    finish(worker, first)
    assert len(inputs_of(worker, needy).results) == 2


def test_a_delay_begins_when_nothing_is_missing(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first], delay_ms=5_000)
    rig.pass_time(60_000)
    finish(worker, first)
    assert needy not in worker.tasks() and rig.queue()["delayed"] == 1
    rig.pass_time(4_999)
    assert needy not in worker.tasks()
    rig.pass_time(1)
    assert needy in worker.tasks()


def test_a_date_holds_for_one_that_waits_as_well(rig, client, worker):
    (first,) = client.submit()
    early = client.needy([first], at_ms=EPOCH_MS + 1_000)
    late = client.needy([first], at_ms=EPOCH_MS + 90_000)
    rig.pass_time(60_000)
    finish(worker, first)
    assert worker.tasks() == [early]
    rig.pass_time(30_000)
    assert worker.tasks() == [early, late]


def test_every_attempt_gets_what_the_first_one_got(rig, client):
    worker = rig.worker("w1")
    (first,) = client.submit()
    finish(worker, first, body=b"x")
    needy = client.needy([first], retries=1)
    before = inputs_of(worker, needy)
    worker.expire()
    other = rig.worker("w2")
    assert inputs_of(other, needy) == before
    (held,) = rig.leader.passed_on(rig.leader.held_by(other.session))
    assert msgspec.msgpack.decode(held.body, type=Inputs) == before


def test_tasks_with_keys_and_lines_wait_as_well(rig, client, worker):
    (first,) = client.submit()
    keyed = client.needy([first], key="k", actor="A")
    assert rig.leader.state_of(keyed) == "pending"
    finish(worker, first)
    assert inputs_of(worker, keyed).results == [End(first, STATE_COMPLETED, b"done")]


# -- ends without a result ---------------------------------------------------------------------------------------------


def test_who_needs_a_result_that_is_not_there_fails_without_being_handed_out(rig, client, worker):
    for status, state in ((OUTCOME_FAILED, STATE_FAILED), (OUTCOME_CRASHED, STATE_DEAD)):
        (first,) = client.submit()
        needy = client.needy([first])
        while rig.leader.state_of(first) in ("pending", "processing"):
            end_as(worker, first, status)
        assert unmet_of(rig, needy) == Unmet(first, state, first)
        assert end_of(rig, needy).attempts == 1 and needy not in worker.tasks()
        (attempt,) = rig.leader.attempts(needy)
        assert attempt.status == OUTCOME_UNMET and "SomeError: it went wrong" in attempt.error.message


def test_who_needs_what_is_cancelled_or_expires_fails(rig, client):
    (first,) = client.submit()
    (second,) = client.submit(expires_ms=1_000)
    needy = [client.needy([first]), client.needy([second])]
    client.cancel(first)
    rig.pass_time(1_000)
    assert [unmet_of(rig, task).state for task in needy] == [STATE_CANCELLED, STATE_EXPIRED]
    third = client.needy([second])      # it has ended already
    assert unmet_of(rig, third) == Unmet(second, STATE_EXPIRED, second)


def test_one_failure_ends_a_chain_of_thousands_in_order_and_each_names_what_it_needed_and_the_first_cause(
    rig, client, monkeypatch
):
    monkeypatch.setattr(dependencies, "SETTLED_MAX", 1_000)
    (first,) = client.submit()
    chain = [first]
    for _ in range(2_500):
        chain.append(client.needy([chain[-1]]))
    client.cancel(first)
    while rig.leader._tables.dependencies.ends:
        assert rig.leader.next_deadline_ms() == rig.now_ms
        rig.pass_time(0)
    for before, task in pairwise(chain):
        unmet = unmet_of(rig, task)
        assert (unmet.task, unmet.cause) == (before, first)
    error = end_of(rig, chain[-1]).error
    assert error is not None
    assert error.message == f"task {chain[-2]} was not run, since task {first} was cancelled"


def test_outcomes_are_waited_for_whatever_they_are(rig, client, worker):
    failed, completed, cancelled = client.submit(count=3)
    needy = client.needy([], [failed, completed, cancelled])
    end_as(worker, failed, OUTCOME_FAILED)
    client.cancel(cancelled)
    assert needy not in worker.tasks()
    finish(worker, completed)
    assert inputs_of(worker, needy).outcomes == [
        End(failed, STATE_FAILED, b"", "SomeError", "it went wrong"),
        End(completed, STATE_COMPLETED, b"done"),
        End(cancelled, STATE_CANCELLED),
    ]


def test_a_task_that_is_not_known_fails_who_needs_it_also_for_its_outcome(rig, client):
    (first,) = client.submit()
    for unknown in (first + 1, first + 2, 7):       # itself, a later one, one of nobody
        client_task = client.needy([], [unknown]) if unknown == 7 else client.needy([unknown])
        assert unmet_of(rig, client_task) == Unmet(unknown, UNMET_UNKNOWN, unknown)


def test_a_cycle_cannot_be_made(rig, client, worker):
    """Ids are the client's, so it may name one that it is about to use. All the same nobody waits for ever."""
    first = client.session << 24 | client.number
    command = client.submit_command("f", 3, [Needs([first + 1]), Needs([first + 2]), Needs([], [first])])
    rig.apply(command)
    first_causes = [unmet_of(rig, task).task for task in (first, first + 1)]
    assert first_causes == [first + 1, first + 2]
    assert inputs_of(worker, first + 2).outcomes[0].state == STATE_FAILED       # the one that is older may be needed
    end_as(worker, first + 2, OUTCOME_FAILED)
    assert client.replay(first, first + 1, first + 2) == 3      # by now all are known
    assert [unmet_of(rig, task).task for task in (first, first + 1)] == first_causes
    assert inputs_of(worker, first + 2).outcomes[0].state == STATE_FAILED


# -- dependents that end themselves ------------------------------------------------------------------------------------


def test_one_that_waits_may_be_cancelled_or_expire_and_what_it_needed_goes_on(rig, client, worker):
    (first,) = client.submit()
    cancelled, expired = client.needy([first]), client.needy([first], expires_ms=1_000)
    last = client.needy([cancelled])
    client.cancel(cancelled)
    rig.pass_time(1_000)
    assert end_of(rig, cancelled).state == STATE_CANCELLED and end_of(rig, expired).state == STATE_EXPIRED
    assert unmet_of(rig, last).task == cancelled
    finish(worker, first)
    assert worker.tasks() == [] and end_of(rig, first).state == STATE_COMPLETED
    assert not rig.leader._tables.dependencies.pins


def test_dependents_that_have_ended_leave_nothing_with_what_they_waited_for(rig, client):
    """A task that waits for long is not known by all that ever needed it."""
    first, second = client.submit("parked", 2)
    waited = rig.leader._tables.dependencies.waited
    for _ in range(3):
        some = client.submit("f", 20, [Needs([first, first], [first, second])] * 20)
        client.cancel(*some)
        client.replay(*some[:5])
        client.cancel(*some)
        client.submit("f", 20, [Needs([second])] * 20, expires_ms=1_000)
        rig.pass_time(1_000)
        assert not waited
    early, gone, late = (client.needy([], [first]) for _ in range(3))
    client.cancel(gone)
    assert list(waited[first]) == [-early, -late]
    client.cancel(late)
    assert_equal(restore(rig.leader.image()), rig.leader)
    last = client.needy([first])
    assert_equal(restore(rig.leader.image()), rig.leader)
    client.cancel(first)
    assert rig.leader.state_of(early) == "pending" and unmet_of(rig, last).task == first and not waited


def test_what_is_needed_twice_is_waited_for_once(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first, first], [first])
    details = rig.leader.details(needy)
    assert details is not None and (details.needs, details.row.missing) == (3, 2)
    finish(worker, first)
    assert [end.task for end in inputs_of(worker, needy).results] == [first, first]


def test_tasks_outlive_the_sessions_of_their_clients(rig, client, worker):
    (first,) = client.submit()
    other = rig.client("c2")
    needy = other.needy([first])
    other.close()
    client.close()
    finish(worker, first)
    assert worker.tasks() == [needy]


def test_a_dependent_is_replayed_with_what_it_needs_in_whatever_order_they_are_named(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first])
    last = client.needy([needy])
    end_as(worker, first, OUTCOME_FAILED)
    assert [rig.leader.state_of(task) for task in (first, needy, last)] == ["failed"] * 3
    assert client.replay(last, needy, first) == 3
    assert [rig.leader.state_of(task) for task in (first, needy, last)] == ["processing", "pending", "pending"]


def test_attempts_of_a_dependent_have_numbers_of_their_own_though_one_was_not_run(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first])
    end_as(worker, first, OUTCOME_FAILED)
    assert client.replay(first, needy) == 2
    worker.inbox[:] = [given for given in worker.inbox if given.task == first and given.attempt == 2]
    finish(worker, first)
    (given,) = [given for given in worker.inbox if given.task == needy]
    assert given.attempt == 2


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_who_needs_a_duplicate_gets_the_result_of_the_task_that_does_its_work(rig, client, worker):
    first, second = client.submit(dedup="k")[0], client.submit(dedup="k")[0]
    needy = client.needy([second], [first])
    assert worker.tasks() == [first]
    finish(worker, first, body=b"x")
    end = End(first, STATE_COMPLETED, b"x")
    assert inputs_of(worker, needy) == Inputs(inputs_of(worker, needy).body, [end], [end])


def test_a_task_with_a_key_may_need_others_and_its_duplicates_need_nothing(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first], dedup="k")
    duplicate = client.needy([first], dedup="k")
    assert end_of(rig, duplicate).duplicate_of == needy
    client.cancel(first)
    assert unmet_of(rig, needy).task == first
    assert client.replay(first, needy) == 2
    finish(worker, first)
    assert len(inputs_of(worker, needy).results) == 1
    unknown = client.needy([12], dedup="other")
    assert unmet_of(rig, unknown).task == 12 and client.replay(unknown) == 1 and unmet_of(rig, unknown)


# -- replays -----------------------------------------------------------------------------------------------------------


def test_a_dependent_that_failed_can_be_replayed_after_what_it_needs_and_waits_for_it_again(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first], delay_ms=5_000)
    end_as(worker, first, OUTCOME_FAILED)
    assert client.replay(needy, needy) == 1
    assert unmet_of(rig, needy).task == first           # that has not changed
    assert client.replay(first, needy) == 2
    assert rig.leader.state_of(needy) == "pending" and worker.tasks() == [first]
    finish(worker, first)
    assert inputs_of(worker, needy).results == [End(first, STATE_COMPLETED, b"done")]
    end_as(worker, needy, OUTCOME_FAILED)
    assert client.replay(needy) == 1                    # one that has run gets the same once more
    assert inputs_of(worker, needy).results == [End(first, STATE_COMPLETED, b"done")]


def test_a_dependent_that_is_replayed_in_the_entry_in_which_it_ended_waits_again(rig, client, worker):
    first, other = client.submit(count=2)
    needy = client.needy([first, other])
    cancel = client.rig.leader
    assert cancel.state_of(needy) == "pending"
    client.cancel(needy)
    client.replay(needy)
    finish(worker, first)
    assert needy not in worker.tasks()
    finish(worker, other)
    assert len(inputs_of(worker, needy).results) == 2


def test_an_end_is_told_once_to_one_that_has_waited_for_it_in_an_earlier_life_too(rig, client, worker):
    first, second = client.submit("parked", 2)
    needy = client.needy([first], [second])
    client.cancel(needy)
    assert client.replay(needy) == 1
    client.cancel(second, first)
    assert unmet_of(rig, needy) == Unmet(first, STATE_CANCELLED, first)


def test_one_that_waits_for_outcomes_waits_again_for_a_member_that_is_replayed(rig, client, worker):
    first, second = client.submit(count=2)
    needy = client.needy([], [first, second])
    end_as(worker, first, OUTCOME_FAILED)
    assert client.replay(first) == 1
    finish(worker, second)
    assert needy not in worker.tasks()
    finish(worker, first)
    assert [end.state for end in inputs_of(worker, needy).outcomes] == [STATE_COMPLETED, STATE_COMPLETED]


def test_a_member_is_not_replayed_while_somebody_has_its_end(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([], [first])
    end_as(worker, first, OUTCOME_FAILED)
    assert needy in worker.tasks()
    assert client.replay(first) == 0
    finish(worker, needy)
    assert client.replay(first) == 1


# -- retention ---------------------------------------------------------------------------------------------------------


def test_what_others_wait_for_is_kept_beyond_its_date_until_they_have_ended(rig, client, worker):
    (first,) = client.submit(result_ttl_ms=1_000)
    (slow,) = client.submit(delay_ms=2 * HOUR_MS)
    needy = client.needy([first, slow])
    finish(worker, first)
    rig.pass_time(HOUR_MS)
    assert rig.leader.state_of(first) == "completed"
    assert rig.leader._tables.tasks.get(first).lot <= OVERDUE
    assert_equal(restore(rig.leader.image()), rig.leader)
    rig.pass_time(HOUR_MS)
    finish(worker, slow)
    assert len(inputs_of(worker, needy).results) == 2
    rig.pass_time(HOUR_MS // 2)
    assert rig.leader.state_of(first) == "completed"        # for another attempt
    finish(worker, needy)
    rig.pass_time(SEEN_KEPT_MS + 1_000)
    assert rig.leader.state_of(first) is None
    assert rig.leader.next_deadline_ms() is not None


def test_what_its_client_has_seen_is_kept_for_those_that_need_it(rig, client, worker):
    (first,) = client.submit()
    (slow,) = client.submit(delay_ms=10 * SEEN_KEPT_MS)
    client.needy([first, slow])
    finish(worker, first)
    rig.apply(Seen(client.session, [1, 1]))
    rig.pass_time(5 * SEEN_KEPT_MS)
    assert rig.leader.state_of(first) == "completed"
    rig.pass_time(RESULT_TTL_DEFAULT_MS)
    assert rig.leader.state_of(slow) == "processing" and rig.leader.state_of(first) == "completed"


def test_too_much_beyond_its_date_is_forgotten_and_who_needs_it_fails(rig, client, worker, monkeypatch):
    monkeypatch.setattr(retention, "OVERDUE_BYTES_MAX", 100)
    (first,) = client.submit(result_ttl_ms=1_000)
    (slow,) = client.submit(delay_ms=60_000)
    needy, report = client.needy([first, slow]), client.needy([], [first, slow])
    finish(worker, first)
    rig.pass_time(60_000)
    finish(worker, slow)
    assert unmet_of(rig, needy) == Unmet(first, UNMET_UNKNOWN, first)
    assert inputs_of(worker, report).outcomes[0] == End(first, UNMET_UNKNOWN)


def test_a_record_that_a_surplus_met_before_its_date_has_that_date_again_when_nobody_needs_it(
    rig, client, worker, monkeypatch
):
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 5_000)
    (first,) = client.submit(result_ttl_ms=2 * HOUR_MS)
    (slow,) = client.submit(delay_ms=60_000)
    needy = client.needy([first, slow])
    finish(worker, first)
    for other in client.submit(count=3, result_ttl_ms=9 * HOUR_MS):     # due later, so that one goes first
        finish(worker, other, body=bytes(2_000))
    assert rig.leader._tables.tasks.get(first).lot <= OVERDUE
    rig.pass_time(60_000)
    finish(worker, slow)
    finish(worker, needy)
    rig.pass_time(2 * HOUR_MS - 61_000)
    assert end_of(rig, first).body == b"done"
    rig.pass_time(2_000)
    assert rig.leader.state_of(first) is None
    assert_goes_on_alike(rig.log, len(rig.log) - 4)


def test_a_dead_letter_that_others_need_is_not_dropped_for_younger_ones(rig, client, worker, monkeypatch):
    monkeypatch.setattr(retention, "DEAD_TASKS_MAX", 2)
    dead = client.submit(count=5)
    (slow,) = client.submit(delay_ms=60_000)
    needy = client.needy([], [dead[1], slow])
    for task in dead:
        while rig.leader.state_of(task) in ("pending", "processing"):
            end_as(worker, task, OUTCOME_CRASHED)
    assert [rig.leader.state_of(task) for task in dead] == [None, "dead", None, "dead", "dead"]
    rig.pass_time(60_000)
    finish(worker, slow)
    assert [end.state for end in inputs_of(worker, needy).outcomes] == [STATE_DEAD, STATE_COMPLETED]
    assert_goes_on_alike(rig.log, len(rig.log) - 2)
    finish(worker, needy)               # it is one of the dead letters again, the last of them
    assert [rig.leader.state_of(task) for task in dead] == [None, "dead", None, None, "dead"]
    rig.pass_time(DEAD_KEPT_MS - 62_000)
    assert rig.leader.state_of(dead[1]) == "dead"
    rig.pass_time(62_000)
    assert rig.leader.state_of(dead[1]) is None


def test_a_dead_letter_that_was_set_aside_for_others_can_be_replayed(rig, client, worker, monkeypatch):
    monkeypatch.setattr(retention, "DEAD_TASKS_MAX", 0)
    (first,) = client.submit()
    (slow,) = client.submit(delay_ms=60_000)
    needy = client.needy([], [first, slow])
    while rig.leader.state_of(first) in ("pending", "processing"):
        end_as(worker, first, OUTCOME_CRASHED)
    assert rig.leader._tables.tasks.get(first).lot <= OVERDUE
    assert client.replay(first) == 1
    rig.pass_time(60_000)
    finish(worker, slow)
    assert needy not in worker.tasks()
    finish(worker, first)
    assert [end.state for end in inputs_of(worker, needy).outcomes] == [STATE_COMPLETED, STATE_COMPLETED]


def test_a_worker_that_is_told_of_a_result_that_is_gone_says_so_and_the_task_was_not_run(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first], retries=3)
    last = client.needy([needy])
    finish(worker, first)
    (given,) = worker.inbox
    gone = Unmet(first, UNMET_UNKNOWN, first)
    error = Failure("DependencyFailed", f"task {first} is not known", kinds=("DependencyFailed",), unmet=gone)
    worker.report(Outcome(needy, given.attempt, OUTCOME_UNMET, EPOCH_MS, 1, b"", error))
    assert unmet_of(rig, needy) == gone and end_of(rig, needy).attempts == 1
    assert unmet_of(rig, last) == Unmet(needy, STATE_FAILED, first)
    assert client.replay(needy) == 1


def test_only_an_attempt_that_did_not_begin_can_say_that_a_result_was_gone(rig, client, worker):
    (first,) = client.submit()
    (given,) = worker.inbox
    error = Failure("DependencyFailed", "task 7 is not known", unmet=Unmet(7, UNMET_UNKNOWN, 7))
    worker.report(Outcome(first, given.attempt, OUTCOME_FAILED, EPOCH_MS, 1, b"", error))
    failed = end_of(rig, first)
    assert failed.state == STATE_FAILED and failed.error is not None and failed.error.unmet is None


def test_needs_are_forgotten_with_the_record_of_who_needed_them(rig, client, worker):
    (first,) = client.submit()
    needy = client.needy([first])
    client.cancel(first)
    known = rig.leader._tables.dependencies
    assert needy in known.kept
    rig.pass_time(RESULT_TTL_DEFAULT_MS + 1_000)
    assert not known.kept and not known.by_task and not known.waited and not known.pins


def test_needs_that_are_kept_for_a_replay_count_as_bytes_of_the_record(rig, client, worker, monkeypatch):
    members = client.submit("parked", 500)
    plain, needy = client.submit("parked")[0], client.needy(members)
    retention_ = rig.leader._tables.retention
    client.cancel(plain)
    record = retention_.bytes
    client.cancel(needy)
    needs_bytes = needs.KEPT_BYTES + 500 * needs.NEED_BYTES
    assert retention_.bytes == 2 * record + needs_bytes
    restored = restore(rig.leader.image())
    assert restored._tables.retention.bytes == retention_.bytes
    client.replay(needy)
    assert retention_.bytes == record
    client.cancel(needy)
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 2 * record + needs_bytes - 1)
    rig.pass_time(1)
    assert rig.leader.state_of(plain) is None and rig.leader.state_of(needy) == "cancelled"
    assert retention_.bytes == record + needs_bytes
    client.cancel(*client.submit("parked"))
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 2 * record)
    rig.pass_time(1)
    assert rig.leader.state_of(needy) is None and retention_.bytes == record, "no more than what is too much goes"


def test_needs_of_dead_letters_count_among_the_bytes_of_these(rig, client, worker, monkeypatch):
    members = client.submit(count=100)
    needy = client.needy(members)
    finish(worker, *members)
    for _ in range(3):
        end_as(worker, needy, OUTCOME_CRASHED)
    tables = rig.leader._tables
    assert rig.leader.state_of(needy) == "dead"
    assert tables.retention.dead_bytes > 100 * needs.NEED_BYTES
    assert_equal(restore(rig.leader.image()), rig.leader)
    monkeypatch.setattr(retention, "DEAD_BYTES_MAX", 100 * needs.NEED_BYTES)
    rig.pass_time(1)
    assert rig.leader.state_of(needy) is None and not tables.retention.dead_bytes and not tables.dependencies.kept


def test_needs_of_one_that_others_need_count_while_it_is_kept_beyond_its_date(rig, client, worker):
    members = client.submit("parked", 50)
    needy = client.needy(members, result_ttl_ms=1_000)
    (slow,) = client.submit(delay_ms=HOUR_MS)
    report = client.needy([], [needy, slow])
    client.cancel(needy)
    rig.pass_time(5_000)
    tables = rig.leader._tables
    assert tables.tasks.get(needy).lot <= OVERDUE
    assert tables.retention.overdue_bytes > 50 * needs.NEED_BYTES
    assert_equal(restore(rig.leader.image()), rig.leader)
    client.cancel(report)
    assert not tables.retention.overdue_bytes
    rig.pass_time(2 * SEEN_KEPT_MS)
    assert rig.leader.state_of(needy) is None and list(tables.dependencies.kept) == [report]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_fan_in_of_the_largest_size_is_let_go_and_one_more_is_refused(rig, client, worker):
    members: list[int] = []
    while len(members) < NEEDS_MAX:
        members += client.submit("parked", min(1_024, NEEDS_MAX - len(members)))
    needy = client.needy([], members)
    refused = client.submit_command("f", 1, [Needs([*members, members[0]])])
    (answer,) = rig.apply(refused).answers
    assert answer.code == ANSWER_REFUSED
    for start in range(0, NEEDS_MAX, 1_024):
        client.cancel(*members[start : start + 1_024])
    assert len(inputs_of(worker, needy).outcomes) == NEEDS_MAX


@pytest.mark.parametrize(
    "wrong",
    [[Needs([])], [Needs([0])], [Needs([1]), Needs([1])], [Needs([-3])], [Needs([], [-3])]],
    ids=["none", "zero", "too many", "negative", "a negative outcome"],
)
def test_needs_that_cannot_be_are_refused(rig, client, wrong):
    (answer,) = rig.apply(client.submit_command("f", 1, wrong)).answers
    assert answer.code == ANSWER_REFUSED
    (answer,) = rig.apply(client.submit_command("f", 2, [Needs([1])])).answers
    assert answer.code == ANSWER_REFUSED


def test_results_that_are_too_large_together_fail_who_needs_them(rig, client, worker):
    members = client.submit(count=5)
    needy = client.needy(members)
    for member in members:
        finish(worker, member, body=bytes(INPUTS_BYTES_MAX // 5 + 1))
    error = end_of(rig, needy).error
    assert error is not None and error.type == "BodyTooLarge"
    assert f"{INPUTS_BYTES_MAX // 5 * 5 + 5} bytes encoded, the limit is {INPUTS_BYTES_MAX}" in error.message


def test_thousands_of_long_failures_are_told_in_a_bounded_number_of_bytes(rig, client, worker):
    members = [task for _ in range(4) for task in client.submit(count=1_000)]
    needy = client.needy([], members)
    while any(given.task != needy for given in worker.inbox):
        long = msgspec.structs.replace(outcome_of(worker.inbox[0], OUTCOME_FAILED).error, message="m" * 4_000)
        given = [one for one in worker.inbox if one.task != needy]
        worker.report(*[Outcome(one.task, one.attempt, OUTCOME_FAILED, EPOCH_MS, 1, b"", long) for one in given])
    told = inputs_of(worker, needy)
    assert {len(end.message) for end in told.outcomes} == {dependencies.FAILURES_BYTES_MAX // 4_000 // 2}


def test_more_needs_than_the_state_keeps_count_of_are_not_taken(rig, client, monkeypatch):
    monkeypatch.setattr(needs, "NEEDS_KNOWN_MAX", 3)
    (first,) = client.submit()
    client.needy([first, first])
    client.needy([first])
    (answer,) = rig.apply(client.submit_command("f", 1, [Needs([first])])).answers
    assert answer.code == ANSWER_CROWDED
    assert client.submit()
    client.cancel(first)
    (answer,) = rig.apply(client.submit_command("f", 1, [Needs([first])])).answers
    assert answer.code == ANSWER_OK


def test_large_inputs_are_given_to_idle_slots_only_and_no_more_than_one_of_them_to_a_slot(rig, client):
    worker = rig.worker(slots=2, prefetch=20)
    (large, small) = client.submit(count=2)
    finish(worker, large, body=bytes(INPUTS_AHEAD_BYTES_MAX))
    finish(worker, small, body=bytes(INPUTS_AHEAD_BYTES_MAX // 2))
    light = [client.needy([small]) for _ in range(6)]
    assert worker.tasks() == light                          # three for each slot, one behind the other
    heavy = [client.needy([large]) for _ in range(3)]
    assert worker.tasks() == light
    finish(worker, *light)
    assert worker.tasks() == heavy[:2]
    later = client.needy([small])
    assert worker.tasks() == heavy[:2]                      # nothing waits behind them
    finish(worker, heavy[0])
    assert worker.tasks() == heavy[1:]
    finish(worker, heavy[1])
    assert worker.tasks() == [heavy[2], later]


def test_many_inputs_are_as_heavy_as_large_ones_also_as_failures_and_after_a_delay(rig, client):
    worker = rig.worker(prefetch=2_000, slots=1)
    members = client.submit(count=1_000)
    finish(worker, *members[1:], body=bytes(INPUTS_AHEAD_BYTES_MAX // 999 - INPUT_OVERHEAD_BYTES // 2))
    end_as(worker, members[0], OUTCOME_FAILED)
    (running,) = client.submit()
    heavy = client.needy(members[1:])
    assert worker.tasks() == [running]
    finish(worker, running)
    assert worker.tasks() == [heavy]
    late = client.needy(members[1:], delay_ms=1_000)
    failures = client.needy([], members[:1] * 1_000)
    rig.pass_time(1_000)
    assert worker.tasks() == [heavy]
    finish(worker, heavy)
    assert worker.tasks() == [failures]
    finish(worker, failures)
    assert worker.tasks() == [late]


def test_what_runs_in_a_loop_gets_large_inputs_beside_others(rig, client):
    """Nothing waits in a loop, so nothing that is large lies ready there."""
    worker = rig.worker(slots=1, loop_names=("f",), loop_tasks=5)
    (large,) = client.submit()
    finish(worker, large, body=bytes(INPUTS_AHEAD_BYTES_MAX))
    (first,) = client.submit()
    lines = [{"line": LineRule(tenant)} for tenant in ("a", "b")]
    heavy = [client.needy([large], **options) for options in ({}, {}, *lines)]
    assert worker.tasks() == [first, *heavy]
    end_as(worker, heavy[0], OUTCOME_CRASHED)
    assert heavy[0] not in worker.tasks()                   # it goes alone now, as any that is suspected
    finish(worker, first, *heavy[1:])
    assert worker.tasks() == [heavy[0]]


def test_large_inputs_go_alone_whatever_their_task_stands_in(rig, client):
    worker = rig.worker(slots=1, prefetch=20)
    (large,) = client.submit()
    finish(worker, large, body=bytes(INPUTS_AHEAD_BYTES_MAX))
    for options in ({}, {"key": "k", "actor": "A"}, {"line": LineRule("tenant")}):
        first, *heavy = [client.submit(**options)[0], *[client.needy([large], **options) for _ in range(2)]]
        assert worker.tasks() == [first]
        finish(worker, first)
        assert worker.tasks() == heavy[:1]
        assert_equal(restore(rig.leader.image()), rig.leader)
        finish(worker, heavy[0])
        assert worker.tasks() == heavy[1:]
        finish(worker, heavy[1])


def _refused_dependents(client, worker, count, needs_each):
    """So many that failed, since what each of them needs did."""
    members = client.submit(count=needs_each)
    waiting = client.submit("f", count, [Needs(members)] * count)
    for member in members:
        end_as(worker, member, OUTCOME_FAILED)
    return members, waiting


def test_a_replay_runs_as_many_again_as_a_submit_may_bring_and_says_where_it_stopped(rig, client, worker, monkeypatch):
    monkeypatch.setattr(replays, "NEEDS_COMMAND_MAX", 7)
    members, waiting = _refused_dependents(client, worker, 5, 3)
    (plain,) = client.submit("parked")
    client.cancel(plain)
    answer = client.send(Replay(client.session, client.seq, client.seq, [*members, plain, 5, *waiting]))
    assert (answer.code, divmod(answer.value, 1 << REPLAYED_BITS)) == (ANSWER_CROWDED, (3 + 2 + 2, 3 + 1 + 2))
    states = [rig.leader.state_of(task) for task in (plain, *waiting)]
    assert states == ["pending", "pending", "pending", "failed", "failed", "failed"]
    assert rig.leader._tables.dependencies.counted == 6
    rest = waiting[2:]
    answer = client.send(Replay(client.session, client.seq, client.seq, rest))
    assert (answer.code, divmod(answer.value, 1 << REPLAYED_BITS)) == (ANSWER_CROWDED, (2, 2))
    assert client.replay(*rest[2:]) == 1
    assert_goes_on_alike(rig.log, len(rig.log) - 2)


def test_a_replay_brings_no_needs_when_there_are_too_many_and_what_needs_nothing_runs_again(
    rig, client, worker, monkeypatch
):
    members, waiting = _refused_dependents(client, worker, 2, 3)
    monkeypatch.setattr(needs, "NEEDS_KNOWN_MAX", 2)
    (other,) = client.submit("parked")
    client.needy([other, other])
    answer = client.send(Replay(client.session, client.seq, client.seq, [members[0], *waiting, members[1]]))
    assert (answer.code, divmod(answer.value, 1 << REPLAYED_BITS)) == (ANSWER_CROWDED, (1, 1))
    answer = client.send(Replay(client.session, client.seq, client.seq, waiting))
    assert (answer.code, answer.value) == (ANSWER_CROWDED, 0)
    assert client.replay(*members[1:]) == 2
    client.cancel(other)
    assert client.replay(*waiting[:1]) == 1


# -- people ------------------------------------------------------------------------------------------------------------


def test_a_task_says_what_it_waits_for(rig, client, worker):
    members = client.submit(count=15)
    needy = client.needy(members[:14], members[13:])
    details = rig.leader.details(needy)
    assert details is not None
    assert (details.needs, details.row.missing, details.waits_for) == (16, 16, members[:10])
    assert details.row.is_delayed and details.ready_at_ms == 0
    finish(worker, *members[:13])
    details = rig.leader.details(needy)
    assert details is not None and details.waits_for == members[13:] and details.row.missing == 3
    finish(worker, *members[13:])
    details = rig.leader.details(needy)
    assert details is not None and (details.needs, details.row.missing, details.waits_for) == (16, 0, [])


# -- any graph ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_in_any_graph_everything_ends_once_whatever_ends_first(rig, client, seed):
    """Random graphs with random ends in random order: nothing waits for ever, and each end is one that can be."""
    worker = rig.worker(slots=4, prefetch=10)
    random = Random(seed)
    tasks: list[int] = []
    graph: dict[int, Needs] = {}
    told: dict[int, int] = {}

    def note() -> None:
        for result in rig.results():
            assert result.task not in told, f"{result.task} ended twice"
            told[result.task] = result.state
        rig.effects = Effects()
        worker.inbox = [given for given in worker.inbox if given.task not in told]

    def step() -> None:
        if random.random() < 0.1:
            client.cancel(random.choice(tasks))
        elif worker.inbox:
            given = random.choice(worker.inbox)
            status = random.choice([OUTCOME_COMPLETED] * 8 + [OUTCOME_FAILED, OUTCOME_CRASHED])
            worker.report(outcome_of(given, status, 50, b"done" if status == OUTCOME_COMPLETED else b""))
        note()

    for _ in range(random.randint(5, 40)):
        known = random.choices(tasks, k=random.choice((0, 1, 2, 5))) if tasks else []
        cut = random.randint(0, len(known))
        if known:
            task = client.needy(known[:cut], known[cut:])
            graph[task] = Needs(known[:cut], known[cut:])
        else:
            (task,) = client.submit()
        note()
        tasks.append(task)
        if random.random() < 0.5:
            step()
    for _ in range(1_000):
        if len(told) == len(tasks):
            break
        step()
    assert told.keys() == set(tasks), "something waits for ever"
    for task, some in graph.items():
        error = end_of(rig, task).error
        if error is not None and error.unmet is not None:
            assert error.unmet.task in some.results
            assert told[error.unmet.task] == error.unmet.state != STATE_COMPLETED
        if told[task] == STATE_COMPLETED:
            assert all(told[need] == STATE_COMPLETED for need in some.results)
    assert not rig.leader._tables.dependencies.by_task and not rig.leader._tables.dependencies.waited
