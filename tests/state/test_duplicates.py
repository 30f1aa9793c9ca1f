"""Keys of work: one task runs for each key and window, and the others point at it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import assert_equal, assert_goes_on_alike, restore
from state_rig import Client, Rig, Worker, encode_entry, outcome_of

from cluster.state import duplicates
from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    TASK_NUMBER_BITS,
    Close,
    Complete,
    Failure,
    LineRule,
    Needs,
    Options,
    Outcome,
    RetryRule,
    Seen,
    Submit,
    TaskGroup,
)
from cluster.state.effects import ANSWER_REFUSED, STATE_CANCELLED, STATE_COMPLETED
from cluster.state.lifecycle import SILENCE_MS
from cluster.state.machine import PENDING
from cluster.state.retention import SEEN_KEPT_MS

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def firsts(rig: Rig, *tasks: int) -> list[int]:
    """What these tasks are duplicates of; 0 for those that run."""
    found = [rig.leader._tables.tasks.get(task) for task in tasks]
    return [-1 if task is None else task.duplicate_of for task in found]


def keys_taken(rig: Rig) -> int:
    return len(rig.leader._tables.duplicates.by_scope)


def said(rig: Rig) -> list[tuple[int, int]]:
    """(task, of which it is a duplicate) of the results of the last entry."""
    return [(result.task, result.duplicate_of) for result in rig.results()]


def finish_all(*workers: Worker) -> None:
    while busy := [worker for worker in workers if worker.inbox]:
        busy[0].complete(busy[0].inbox[0])


# -- what is a duplicate ------------------------------------------------------------------------------------------


def test_a_second_task_of_a_key_runs_nothing_and_points_at_the_first(rig):
    client, worker = rig.client(), rig.worker(slots=3)
    (first,) = client.submit(dedup="k")
    (second,) = client.submit(dedup="k")
    assert said(rig) == [(second, first)]
    assert worker.tasks() == [first]
    assert firsts(rig, first, second) == [0, first]
    assert [rig.leader.state_of(task) for task in (first, second)] == ["processing", "duplicate"]
    assert rig.leader.attempts(second) == [] and rig.leader.result(first) is PENDING
    assert rig.leader.status()["counters"]["duplicates"] == 1


def test_of_one_group_and_of_one_entry_the_first_runs(rig):
    client, other, worker = rig.client(), rig.client("c2"), rig.worker(slots=9)
    one, two = client.submit_command(count=3, dedup="k"), other.submit_command(count=2, dedup="k")
    rig.apply(one, two)
    assert len(worker.inbox) == 1
    first = worker.inbox[0].task
    assert [of for _, of in said(rig)] == [first] * 4


def test_other_keys_other_names_and_none_are_other_work(rig):
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    tasks = [
        *client.submit(dedup="k"), *client.submit(dedup="K"), *client.submit("g", dedup="k"), *client.submit(count=2),
    ]  # fmt: skip
    assert sorted(worker.tasks()) == tasks


def test_queue_priority_share_and_client_do_not_matter(rig):
    client, other, worker = rig.client(), rig.client("c2"), rig.worker(slots=9, queues=("default", "mail"))
    (first,) = client.submit(dedup="k")
    others = [
        *client.submit(dedup="k", queue="mail"),
        *client.submit(dedup="k", priority=9),
        *other.submit(dedup="k", line=LineRule("share")),
        *other.submit(dedup="k", delay_ms=500),
    ]
    assert firsts(rig, *others) == [first] * 4 and worker.tasks() == [first]
    assert not rig.leader._tables.lines.bundles, "what never waits has no line"


def test_each_key_of_an_actor_has_its_own(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    a, b, a_again = (client.submit(dedup="k", key=key, actor="A")[0] for key in "aba")
    assert firsts(rig, a, b, a_again) == [0, 0, a]
    finish_all(worker)
    assert keys_taken(rig) == 0


# -- for how long -------------------------------------------------------------------------------------------------


def test_without_a_window_the_key_is_free_when_the_first_has_ended(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k")
    rig.pass_time(24 * HOUR_MS)
    assert firsts(rig, *client.submit(dedup="k")) == [first]
    worker.complete(*worker.inbox)
    assert keys_taken(rig) == 0
    assert firsts(rig, *client.submit(dedup="k")) == [0] and len(worker.inbox) == 1


def test_in_the_entry_in_which_the_first_ends_the_next_one_runs(rig):
    client, worker = rig.client(), rig.worker()
    client.submit(dedup="k")
    (given_out,) = worker.inbox
    worker.inbox = []
    done = Complete(worker.session, 1, 1, [outcome_of(given_out, OUTCOME_COMPLETED)])
    rig.apply(done, client.submit_command(dedup="k"))
    assert len(worker.inbox) == 1 and worker.inbox[0].task != given_out.task


def test_a_window_counts_from_acceptance_by_the_stamps_of_entries(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=HOUR_MS)
    rig.pass_time(10 * MINUTE_MS)
    worker.complete(*worker.inbox)
    rig.pass_time(50 * MINUTE_MS - 1)
    assert firsts(rig, *client.submit(dedup="k", dedup_ms=HOUR_MS)) == [first]
    rig.pass_time(1)
    (next_one,) = client.submit(dedup="k", dedup_ms=HOUR_MS)
    assert worker.tasks() == [next_one]


def test_a_first_one_that_is_unfinished_when_its_window_is_over_keeps_its_key(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=MINUTE_MS)
    rig.pass_time(2 * MINUTE_MS)
    assert firsts(rig, *client.submit(dedup="k", dedup_ms=MINUTE_MS)) == [first]
    worker.complete(*worker.inbox)
    assert keys_taken(rig) == 0


def test_the_window_is_that_of_the_first(rig):
    client, worker = rig.client(), rig.worker()
    client.submit(dedup="k", dedup_ms=MINUTE_MS)
    client.submit(dedup="k", dedup_ms=HOUR_MS)
    worker.complete(*worker.inbox)
    rig.pass_time(MINUTE_MS)
    client.submit(dedup="k")
    assert len(worker.inbox) == 1


def test_windows_are_cleared_by_dates_and_an_idle_cluster_has_none_left(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    for number in range(9):
        client.submit(dedup=f"k{number}", dedup_ms=1_500 + number)
    finish_all(worker)
    assert keys_taken(rig) == 9
    rig.pass_time(2_000)
    assert keys_taken(rig) == 0, "all in one entry: their dates are rounded up to a second"


@pytest.mark.parametrize("how", ["cancelled", "failed", "expired", "dead"])
def test_whatever_became_of_the_first_it_has_its_key_for_its_window(rig, how):
    client = rig.client()
    (first,) = client.submit(dedup="k", dedup_ms=HOUR_MS, **({"expires_ms": 10} if how == "expired" else {}))
    if how == "cancelled":
        client.cancel(first)
    elif how == "expired":
        rig.pass_time(10)
    else:
        worker = rig.worker()
        for _ in range(1 if how == "failed" else 3):
            worker.end(worker.inbox[0], OUTCOME_FAILED if how == "failed" else OUTCOME_CRASHED)
    assert rig.leader.state_of(first) == how
    assert firsts(rig, *client.submit(dedup="k")) == [first]


@pytest.mark.parametrize("how", ["cancelled", "failed", "expired", "dead"])
def test_without_a_window_a_first_one_that_ended_badly_leaves_its_key(rig, how):
    client = rig.client()
    (first,) = client.submit(dedup="k", **({"expires_ms": 10} if how == "expired" else {}))
    if how == "cancelled":
        client.cancel(first)
    elif how == "expired":
        rig.pass_time(10)
    else:
        worker = rig.worker()
        for _ in range(1 if how == "failed" else 3):
            worker.end(worker.inbox[0], OUTCOME_FAILED if how == "failed" else OUTCOME_CRASHED)
    assert rig.leader.state_of(first) == how and keys_taken(rig) == 0


def test_too_many_windows_are_forgotten_the_oldest_first_and_counted(rig, monkeypatch):
    monkeypatch.setattr(duplicates, "WINDOWS_MAX", 3)
    monkeypatch.setattr("cluster.state.duplicate_invariants.WINDOWS_MAX", 3)
    client, worker = rig.client(), rig.worker()
    for number in range(5):
        client.submit(dedup=f"k{number}", dedup_ms=HOUR_MS)
    assert keys_taken(rig) == 5, "those of unfinished tasks are as many as these"
    finish_all(worker)
    assert [scope[2] for scope in rig.leader._tables.duplicates.by_scope] == ["k2", "k3", "k4"]
    assert rig.leader.status()["counters"]["forgotten_keys"] == 2
    rig.pass_time(2 * HOUR_MS)
    assert keys_taken(rig) == 0


def test_keys_that_are_forgotten_before_the_end_of_their_windows_leave_no_dates(rig, monkeypatch):
    """Each has a window of its own, far away: what is kept is as much as there are keys, not as there were."""
    monkeypatch.setattr(duplicates, "WINDOWS_MAX", 3)
    monkeypatch.setattr("cluster.state.duplicate_invariants.WINDOWS_MAX", 3)
    client, worker = rig.client(), rig.worker()
    for number in range(200):
        client.submit(dedup=f"k{number}", dedup_ms=HOUR_MS * (200 - number), result_ttl_ms=1_000)
        finish_all(worker)
    rig.pass_time(2_000)
    tables = rig.leader._tables
    assert keys_taken(rig) == 3 and not tables.timers.heap
    assert len(tables.duplicates.buckets) == 3 and len(tables.duplicates._dates) < 100
    assert_equal(restore(rig.leader.image()), rig.leader)
    assert rig.leader.next_deadline_ms() == min(tables.duplicates.buckets)
    for _ in range(4):
        rig.pass_time(HOUR_MS)
    assert keys_taken(rig) == 0 and rig.leader.next_deadline_ms() is None


def test_a_key_that_is_replayed_within_its_window_has_no_date_until_it_has_ended_again(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=MINUTE_MS)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    assert len(rig.leader._tables.duplicates.buckets) == 1
    client.replay(first)
    assert not rig.leader._tables.duplicates.buckets
    finish_all(worker)
    assert len(rig.leader._tables.duplicates.buckets) == 1


def test_more_windows_than_one_entry_may_clear_are_cleared_by_the_next_ones_likewise_after_a_restore(rig, monkeypatch):
    monkeypatch.setattr(duplicates, "CLEARED_MAX", 2)
    client, worker = rig.client(), rig.worker(slots=9)
    for number in range(5):
        client.submit(dedup=f"k{number}", dedup_ms=1_500)
    for place in (3, 0, 2, 0, 0):
        worker.complete(worker.inbox[place])
    cut = len(rig.log)
    rig.pass_time(2_000)
    left = [scope[2] for scope in rig.leader._tables.duplicates.by_scope]
    assert sorted(left) == ["k1", "k2", "k4"] and rig.leader.next_deadline_ms() <= rig.now_ms
    rig.pass_time(0)
    rig.pass_time(0)
    assert keys_taken(rig) == 0
    for place in range(cut, len(rig.log)):
        assert_goes_on_alike(rig.log, place)


# -- the life of the first ----------------------------------------------------------------------------------------


def test_a_first_one_that_is_tried_again_moves_or_is_lost_keeps_its_key(rig):
    client, worker = rig.client(), rig.worker("lost")
    (first,) = client.submit(dedup="k", retries=2, retry=RetryRule(500, 500, jitter=False))
    error = Failure("E", "", kinds=("E",))
    worker.report(Outcome(first, 1, OUTCOME_FAILED, 0, 5, b"", error))
    assert firsts(rig, *client.submit(dedup="k")) == [first]
    rig.pass_time(500)
    worker.expire()
    other = rig.worker("other")
    assert firsts(rig, *client.submit(dedup="k")) == [first]
    assert other.tasks() == [first]


def test_to_cancel_a_duplicate_does_nothing_to_the_first(rig):
    client, worker = rig.client(), rig.worker()
    (first,), (second,) = client.submit(dedup="k"), client.submit(dedup="k")
    client.cancel(second)
    assert rig.leader.state_of(second) == "duplicate" and worker.tasks() == [first]
    client.cancel(first)
    assert firsts(rig, second) == [first] and rig.leader.result(first).state == STATE_CANCELLED


def test_a_delayed_first_one_has_its_key_from_acceptance(rig):
    client = rig.client()
    (first,) = client.submit(dedup="k", delay_ms=HOUR_MS)
    assert firsts(rig, *client.submit(dedup="k")) == [first]
    rig.pass_time(HOUR_MS)
    assert rig.worker().tasks() == [first]


def test_duplicates_take_no_place_under_a_limit(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    rule = LineRule(concurrency=2)
    first, _, third = (client.submit(dedup=key, line=rule)[0] for key in "aab")
    assert sorted(worker.tasks()) == [first, third]
    finish_all(worker)
    assert not rig.leader._tables.limits.by_name and not rig.leader._tables.lines.bundles


def test_a_duplicate_is_not_replayed_and_a_first_one_only_while_nobody_else_has_its_key(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    (first,), (second,) = client.submit(dedup="k"), client.submit(dedup="k")
    client.cancel(first)
    assert client.replay(second) == 0
    assert client.replay(first) == 1
    assert firsts(rig, *client.submit(dedup="k")) == [first], "it has its key again"
    client.cancel(first)
    (other,) = client.submit(dedup="k")
    assert client.replay(first) == 0, "another one has it"
    client.cancel(other)
    assert client.replay(first, other) == 1
    finish_all(worker)
    assert rig.leader.result(first).state == STATE_COMPLETED and rig.leader.result(other).state == STATE_CANCELLED


def test_a_replay_within_the_window_does_not_make_it_longer(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=MINUTE_MS)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    rig.pass_time(MINUTE_MS // 2)
    assert client.replay(first) == 1
    rig.pass_time(MINUTE_MS // 4)
    worker.complete(*worker.inbox)
    assert keys_taken(rig) == 1
    rig.pass_time(MINUTE_MS // 4)
    assert keys_taken(rig) == 0


# -- a first one that is being stopped ----------------------------------------------------------------------------


def stopping(rig: Rig, client: Client, worker: Worker, **options: object) -> int:
    """A task of the key "k" that runs, and was asked to stop."""
    (first,) = client.submit(dedup="k", **options)
    client.cancel(first, grace_ms=5_000)
    assert first in worker.tasks() and rig.leader.state_of(first) == "processing"
    return first


def end(worker: Worker, task: int, status: int = OUTCOME_CANCELLED) -> None:
    (given_out,) = [given_out for given_out in worker.inbox if given_out.task == task]
    worker.end(given_out, status)


@pytest.mark.parametrize("status", [OUTCOME_CANCELLED, OUTCOME_COMPLETED, OUTCOME_FAILED])
def test_what_comes_while_the_first_is_being_stopped_runs_when_that_has_ended(rig, status):
    client, worker = rig.client(), rig.worker(slots=9)
    first = stopping(rig, client, worker)
    (second,), (third,) = client.submit(dedup="k"), client.submit(dedup="k")
    assert firsts(rig, second, third) == [0, second] and worker.tasks() == [first]
    details = rig.leader.details(second)
    assert details is not None
    assert (details.row.state, details.row.missing, details.waits_for, details.needs) == ("pending", 1, [first], 0)
    assert_equal(restore(rig.leader.image()), rig.leader)
    end(worker, first, status)
    assert worker.tasks() == [second] and worker.inbox[0].body == b"2"
    assert firsts(rig, *client.submit(dedup="k")) == [second]
    assert client.replay(first) == 0
    finish_all(worker)
    assert keys_taken(rig) == 0 and not rig.leader._tables.dependencies.by_task
    for cut in range(len(rig.log)):
        assert_goes_on_alike(rig.log, cut)


def test_a_first_one_that_does_not_stop_is_given_up_and_the_next_one_runs(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    first = stopping(rig, client, worker)
    (second,) = client.submit(dedup="k")
    rig.pass_time(5_000)
    assert worker.tasks() == [first]
    rig.pass_time(SILENCE_MS)
    assert worker.tasks() == [first, second] and rig.leader.state_of(first) == "cancelled"


@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_one_that_waits_may_end_before_the_one_that_is_being_stopped_and_the_next_one_waits_as_well(rig, how):
    client, worker = rig.client(), rig.worker(slots=9)
    first = stopping(rig, client, worker)
    (second,) = client.submit(dedup="k", expires_ms=1_000 if how == "expire" else 0)
    if how == "cancel":
        client.cancel(second, grace_ms=5_000)
    else:
        rig.pass_time(1_000)
    assert rig.leader.result(second) is not PENDING and keys_taken(rig) == 1
    assert client.replay(second) == 0, "it would run beside the first"
    (third,) = client.submit(dedup="k")
    assert firsts(rig, third) == [0] and worker.tasks() == [first]
    end(worker, first)
    assert worker.tasks() == [third]
    client.cancel(third)
    assert client.replay(second) == 1


def test_one_that_waits_and_has_a_window_keeps_its_key_for_that_and_then_the_first_one_has_it_again(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    (first,) = client.submit(dedup="k")
    client.cancel(first, grace_ms=2 * MINUTE_MS)
    (second,) = client.submit(dedup="k", dedup_ms=MINUTE_MS)
    client.cancel(second)
    assert firsts(rig, *client.submit(dedup="k")) == [second]
    assert client.replay(second) == 0
    assert_equal(restore(rig.leader.image()), rig.leader)
    rig.pass_time(MINUTE_MS)
    (third,) = client.submit(dedup="k")
    assert firsts(rig, third) == [0] and worker.tasks() == [first]
    assert_equal(restore(rig.leader.image()), rig.leader)
    end(worker, first)
    assert worker.tasks() == [third]


def test_one_that_is_being_stopped_within_its_window_has_its_key(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    first = stopping(rig, client, worker, dedup_ms=MINUTE_MS)
    assert firsts(rig, *client.submit(dedup="k")) == [first]
    end(worker, first)
    assert firsts(rig, *client.submit(dedup="k")) == [first]


def test_one_that_waits_for_another_to_stop_may_need_others_and_have_a_delay(rig):
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    (need,) = client.submit("g")
    first = stopping(rig, client, worker)
    second = client.needy([need], dedup="k", delay_ms=1_000)
    end(worker, first)
    assert rig.leader.details(second).waits_for == [need]
    assert_equal(restore(rig.leader.image()), rig.leader)
    end(worker, need, OUTCOME_COMPLETED)
    rig.pass_time(999)
    assert worker.tasks() == []
    rig.pass_time(1)
    assert worker.tasks() == [second] and rig.leader._tables.dependencies.counted == 1
    finish_all(worker)
    assert not rig.leader._tables.dependencies.by_task and not rig.leader._tables.dependencies.pins


def test_one_that_waits_for_another_to_stop_fails_at_once_if_what_it_needs_does(rig):
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    (need,) = client.submit("g")
    first = stopping(rig, client, worker)
    second = client.needy([need], dedup="k")
    client.cancel(need)
    assert rig.leader.state_of(second) == "failed" and firsts(rig, *client.submit(dedup="k")) == [0]
    assert set(worker.tasks()) == {first, need}


# -- records ------------------------------------------------------------------------------------------------------


def seen(rig: Rig, client: Client, *tasks: int) -> None:
    for task in tasks:
        number = task & ((1 << TASK_NUMBER_BITS) - 1)
        rig.apply(Seen(client.session, [number, number]))


def test_the_result_of_one_that_has_a_duplicate_outlives_its_client_that_has_seen_it(rig):
    client, other, worker = rig.client(), rig.client("c2"), rig.worker(slots=2)
    (plain,), (first,) = client.submit(dedup="a"), client.submit(dedup="b")
    (second,) = other.submit(dedup="b")
    finish_all(worker)
    seen(rig, client, plain, first)
    rig.pass_time(SEEN_KEPT_MS + 1_000)
    assert rig.leader.result(plain) is None
    assert rig.leader.result(first).body == b"done" and firsts(rig, second) == [first]


@pytest.mark.parametrize("window_ms", [MINUTE_MS, 5 * HOUR_MS])
def test_a_result_is_kept_for_the_window_of_its_key(rig, window_ms):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=window_ms)
    worker.complete(*worker.inbox)
    seen(rig, client, first)
    rig.pass_time(window_ms - 1)
    (second,) = client.submit(dedup="k", dedup_ms=window_ms)
    assert firsts(rig, second) == [first] and rig.leader.result(first).body == b"done"
    rig.pass_time(HOUR_MS + 2_000)
    assert rig.leader.result(first) is None


def test_who_says_how_long_a_result_is_kept_is_obeyed(rig):
    client, worker = rig.client(), rig.worker()
    (first,) = client.submit(dedup="k", dedup_ms=HOUR_MS, result_ttl_ms=5_000)
    worker.complete(*worker.inbox)
    rig.pass_time(6_000)
    (second,) = client.submit(dedup="k", dedup_ms=HOUR_MS)
    assert firsts(rig, second) == [first] and rig.leader.result(first) is None


def test_duplicates_are_forgotten_as_others_are(rig):
    client = rig.client()
    (first,) = client.submit(dedup="k")
    some = client.submit(count=100, dedup="k")
    seen(rig, client, some[0])
    rig.pass_time(SEEN_KEPT_MS + 1_000)
    assert rig.leader.result(some[0]) is None and firsts(rig, some[1]) == [first]
    rig.pass_time(HOUR_MS)
    assert [rig.leader.result(task) for task in some] == [None] * 100
    assert rig.leader.state_of(first) == "pending"


def test_what_a_list_and_a_single_task_say_of_a_duplicate(rig):
    client = rig.client()
    (first,), (second,) = client.submit(dedup="k"), client.submit(dedup="k")
    details = rig.leader.details(second)
    assert (details.row.state, details.row.attempt, details.duplicate_of, details.dedup) == ("duplicate", 0, first, "k")
    assert details.arguments is None and details.body_bytes == 0 and details.row.queue == "default"
    assert (rig.leader.details(first).duplicate_of, rig.leader.details(first).dedup) == (0, "k")
    assert [row.task for row in rig.leader.page(0, 10, ("duplicate",)).rows] == [second]
    assert rig.leader.page(0, 10, ("completed",)).rows == []


@pytest.mark.parametrize("options", [Options(dedup="x" * 513), Options(dedup="k", dedup_ms=-1)])
def test_a_key_that_cannot_be_is_refused(rig, options):
    client = rig.client()
    (answer,) = rig.apply(Submit(client.session, 1, 1, [TaskGroup("f", 1, [b"x"], options)])).answers
    assert answer.code == ANSWER_REFUSED and keys_taken(rig) == 0


def test_the_session_of_the_first_may_be_gone(rig):
    client, other = rig.client(), rig.client("c2")
    (first,) = client.submit(dedup="k")
    client.close()
    assert firsts(rig, *other.submit(dedup="k")) == [first]


# -- images -------------------------------------------------------------------------------------------------------


def test_a_restored_machine_knows_who_has_which_key_and_for_how_long(rig):
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(dedup="unfinished", dedup_ms=MINUTE_MS)
    client.submit(dedup="over b", dedup_ms=HOUR_MS)
    client.submit(dedup="over a", dedup_ms=HOUR_MS, line=LineRule("s"))
    client.submit(dedup="over a")
    worker.complete(worker.inbox[2], worker.inbox[1])
    restored = restore(rig.leader.image())
    restored.check()
    assert_equal(restored, rig.leader)
    assert [taken.scope[2] for taken in restored._tables.duplicates.over.values()] == ["over a", "over b"]
    for machine in (restored, rig.leader):
        again = Submit(client.session, client.seq, 1, [TaskGroup("f", 100, [b"x"], Options(dedup="over b"))])
        machine.apply(len(rig.log) + 1, 1, encode_entry(again, now_ms=rig.now_ms), None)
        machine.check()
    assert_equal(restored, rig.leader)


KEYS = ("a", "b")
WINDOWS_MS = (0, 0, 700, 3_000)
Step = tuple[str, int, int, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ("submit", "submit", "submit", "complete", "fail", "stop", "stop", "cancel", "replay", "lose", "reopen")
            ),
            st.integers(0, 3), st.integers(0, 3), st.sampled_from((0, 1, 300, 1_000)),
        ),
        max_size=40,
    ),
    st.integers(0, 40),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_at_most_one_runs_per_key_and_window_whoever_submits_and_whatever_happens(steps: list[Step], cut: int) -> None:
    """And a machine that was restored in between decides alike."""
    rig = Rig()
    clients = [rig.client("c0"), rig.client("c1")]
    worker = rig.worker("w0", slots=3)
    lives = 1
    stopped: set[int] = set()       # were asked to, and have not
    accepted: dict[int, tuple[str, int, int]] = {}      # task -> key, date, window, of those that are no duplicates
    for what, one, other, wait_ms in steps:
        rig.now_ms += wait_ms
        if what == "submit":
            client, key, window_ms = clients[one % 2], KEYS[one // 2], WINDOWS_MS[other]
            before = dict(accepted)
            count, ran = 1 + other % 2, list(accepted)
            needs = [Needs([], [ran[(one + other) % len(ran)]])] * count if ran and wait_ms else []
            for task in client.submit(count=count, needs=needs, dedup=key, dedup_ms=window_ms):
                (of,) = firsts(rig, task)
                if of:
                    assert of in accepted and accepted[of][0] == key
                else:
                    accepted[task] = (key, rig.now_ms, window_ms)
            (new,) = accepted.keys() - before.keys() or (0,)
            for task, (taken, date_ms, since_ms) in before.items():
                if new and taken == key:
                    ended = rig.leader.result(task) is not PENDING or task in stopped
                    assert ended and date_ms + since_ms <= rig.now_ms, f"{new} runs beside {task}"
        elif what in ("complete", "fail") and worker.inbox:
            held = worker.inbox[one % len(worker.inbox)]
            worker.complete(held) if what == "complete" else worker.end(held, OUTCOME_FAILED)
        elif what == "stop" and worker.inbox:
            stopped.add(worker.inbox[one % len(worker.inbox)].task)
            clients[0].cancel(worker.inbox[one % len(worker.inbox)].task, grace_ms=5_000)
        elif what in ("cancel", "replay") and accepted:
            task = list(accepted)[-1 - one % len(accepted)]
            worker.inbox = [kept for kept in worker.inbox if what != "cancel" or kept.task != task]
            clients[0].cancel(task) if what == "cancel" else clients[0].replay(task)
        elif what == "lose":
            worker.expire()
            worker = rig.worker(f"w{lives}", slots=3)
            lives += 1
        elif what == "reopen":
            rig.apply(Close(clients[1].session, lives))
            clients[1] = rig.client(f"c1 {lives} {len(rig.log)}")
        unfinished = [task for task in accepted if rig.leader.result(task) is PENDING]
        stopped &= set(unfinished)
        keys = [accepted[task][0] for task in unfinished if task not in stopped]
        assert len(keys) == len(set(keys)), "two of one key are unfinished"
        running = [accepted[task][0] for task in unfinished if rig.leader.held(task)]
        assert len(running) == len(set(running)), "two of one key run"
        assert set(worker.tasks()) <= set(accepted), "a duplicate runs"
    assert_goes_on_alike(rig.log, min(cut, len(rig.log)))


def test_tasks_without_a_key_leave_nothing_in_the_table(rig):
    client, worker = rig.client(), rig.worker()
    client.submit(count=5, dedup_ms=HOUR_MS)
    finish_all(worker)
    assert keys_taken(rig) == 0
