"""A task that ended without a result runs again under its own id, and dead ones are kept for those who look at them."""

from collections.abc import Iterable, Iterator

import pytest
from image_rig import assert_equal, restore
from state_rig import EPOCH_MS, Client, Rig, Worker, encode_entry

from cluster.state import image, retention
from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    REPLAY_TASKS_MAX,
    Failure,
    Outcome,
    Replay,
    RetryRule,
    Seen,
    Submit,
    TaskGroup,
    Tick,
)
from cluster.state.effects import ANSWER_OK, ANSWER_REFUSED, STATE_COMPLETED, STATE_DEAD, STATE_FAILED
from cluster.state.retention import DEAD_KEPT_MS, RECORD_OVERHEAD_BYTES, SEEN_KEPT_MS
from cluster.state.rows import Row, Section
from cluster.state.tasks import CRASHES_MAX

HOUR_MS = 3_600_000
SECOND_MS = 1_000


def kill(worker: Worker, task: int) -> None:
    """The task ends its child until it is dead."""
    for _ in range(CRASHES_MAX):
        (given,) = [assignment for assignment in worker.inbox if assignment.task == task]
        worker.end(given, OUTCOME_CRASHED)
    assert worker.rig.leader.state_of(task) == "dead"


def fail(worker: Worker, task: int) -> None:
    (given,) = [assignment for assignment in worker.inbox if assignment.task == task]
    worker.end(given, OUTCOME_FAILED)


def dead_task(rig: Rig, **options: object) -> tuple[Client, Worker, int]:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(**options)
    kill(worker, task)
    return client, worker, task


def test_what_is_shown_of_a_dead_task_is_how_long_it_is_kept_as_one(rig: Rig) -> None:
    _, _, short = dead_task(rig, result_ttl_ms=1_000)
    details = rig.leader.details(short)
    assert details is not None and details.result_ttl_ms == DEAD_KEPT_MS


def say_seen(client: Client, *flat: int) -> None:
    client.rig.apply(Seen(client.session, list(flat)))


def retained(rig: Rig) -> retention.Retention:
    return rig.leader._tables.retention


# -- from one life to the next -----------------------------------------------------------------------------------------


def test_a_dead_task_runs_again_with_its_arguments_and_ends_once_more(rig: Rig):
    client, worker, task = dead_task(rig)
    assert client.replay(task) == 1
    (given,) = worker.inbox
    assert (given.task, given.body, given.attempt) == (task, b"1", CRASHES_MAX + 1)
    worker.complete(given, body=b"at last")
    (result,) = rig.results()
    assert (result.task, result.state, result.body, result.attempts) == (task, STATE_COMPLETED, b"at last", 4)
    assert [attempt.number for attempt in rig.leader.attempts(task)] == [1, 2, 3, 4]


def test_what_was_dead_goes_alone_and_may_crash_as_often_again(rig: Rig):
    client, worker, task = dead_task(rig)
    client.replay(task)
    assert worker.inbox[0].alone
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert rig.leader.state_of(task) == "processing"
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert rig.leader.state_of(task) == "dead"
    assert [attempt.number for attempt in rig.leader.attempts(task)] == [1, 2, 3, 4, 5, 6]
    assert client.replay(task) == 1, "and as often as somebody wants"


def test_a_failed_task_has_all_its_retries_again(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=1, retry=RetryRule(0, 0))
    error = Failure("E", "m", kinds=("E",))
    for _ in range(2):
        given = worker.inbox[0]
        worker.report(Outcome(task, given.attempt, OUTCOME_FAILED, 0, 1, b"", error))
    assert rig.leader.state_of(task) == "failed"
    assert client.replay(task) == 1
    assert not worker.inbox[0].alone
    given = worker.inbox[0]
    worker.report(Outcome(task, given.attempt, OUTCOME_FAILED, 0, 1, b"", error))
    assert rig.leader.state_of(task) == "processing"
    worker.complete(worker.inbox[0])
    assert rig.leader.state_of(task) == "completed"


def test_it_waits_behind_the_others_of_its_lane(rig: Rig):
    client, worker = rig.client(), rig.worker()
    first, *others = client.submit(count=4)
    fail(worker, first)
    client.replay(first)
    order = []
    while worker.inbox:
        order.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    assert order == [*others, first]


def test_completed_pending_and_unknown_tasks_are_passed_over_and_not_counted(rig: Rig):
    client, worker = rig.client(), rig.worker()
    done, failed, held, waiting = client.submit(count=4)
    worker.complete(worker.inbox[0])
    fail(worker, failed)
    assert rig.leader.state_of(held) == "processing"
    assert client.replay(done, failed, held, waiting, 0, -1, 1 << 62, failed) == 1
    states = [rig.leader.state_of(task) for task in (done, failed, held, waiting)]
    assert states == ["completed", "pending", "processing", "pending"]


def test_clients_are_not_told_the_arguments_of_what_has_ended(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (failed,) = client.submit()
    fail(worker, failed)
    assert rig.results()[0].body == b"" == rig.leader.result(failed).body
    (cancelled,) = client.submit("nobody")
    client.cancel(cancelled)
    assert rig.results()[0].body == b"" == rig.leader.result(cancelled).body
    (expired,) = client.submit("nobody", expires_ms=5)
    rig.pass_time(5)
    assert rig.results()[0].body == b"" == rig.leader.result(expired).body


def test_a_command_that_is_said_again_replays_once_and_gets_its_answer_again(rig: Rig):
    client, worker, task = dead_task(rig)
    command = Replay(client.session, client.seq, client.seq, [task])
    assert client.send(command).value == 1
    kill(worker, task)
    (again,) = rig.apply(command).answers
    assert (again.code, again.value) == (ANSWER_OK, 1)
    assert rig.leader.state_of(task) == "dead"


def test_any_client_may_replay_and_a_worker_may_not(rig: Rig):
    client, worker, task = dead_task(rig)
    (answer,) = rig.apply(Replay(worker.session, worker.seq, worker.seq, [task])).answers
    worker.seq += 1
    assert answer.code == ANSWER_REFUSED and rig.leader.state_of(task) == "dead"
    client.close()
    assert rig.client("c2").replay(task) == 1


def test_too_many_tasks_for_one_command_are_refused(rig: Rig):
    client, _, task = dead_task(rig)
    answer = client.send(Replay(client.session, client.seq, client.seq, [task] * (REPLAY_TASKS_MAX + 1)))
    assert answer.code == ANSWER_REFUSED and rig.leader.state_of(task) == "dead"


def test_what_an_earlier_holder_still_says_does_not_count(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    late = worker.inbox[0]
    client.cancel(task)
    worker.inbox.clear()
    assert client.replay(task) == 1
    assert worker.inbox[0].attempt == 2
    worker.complete(late, body=b"of the first life")
    assert rig.leader.state_of(task) == "processing"
    worker.complete(worker.inbox[0], body=b"of the second")
    assert rig.leader.result(task).body == b"of the second"


def test_totals_count_every_end(rig: Rig):
    client, worker, task = dead_task(rig)
    client.replay(task)
    worker.complete(*worker.inbox)
    row = rig.queue()
    assert (row["dead"], row["completed"], row["ready"], row["running"]) == (1, 1, 0, 0)
    assert rig.leader.status()["counters"]["replayed"] == 1


def test_an_image_of_an_earlier_version_has_no_arguments_to_replay(rig: Rig):
    client = rig.client()
    rig.apply(Submit(client.session, client.seq, 1, [TaskGroup("f", 1, [b""])]))
    client.seq += 1
    (given,) = rig.worker().inbox
    rig.workers[rig.leader.worker_sessions()[0].id].end(given, OUTCOME_FAILED)
    assert client.replay(given.task) == 0


# -- what was left of the earlier life ---------------------------------------------------------------------------------


def test_a_stale_entry_of_the_lane_does_not_come_to_life(rig: Rig):
    client = rig.client()
    first, second = client.submit(count=2)
    client.cancel(first)
    assert client.replay(first) == 1
    restored = restore(rig.leader.image())
    restored.check()
    assert list(restored.image()) == list(rig.leader.image())
    worker = rig.worker(prefetch=9)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)
    assert worker.tasks() == [second, first]
    worker.complete(*worker.inbox)
    assert rig.queue()["completed"] == 2


def test_an_expiry_counts_neither_past_nor_to_come(rig: Rig):
    client = rig.client()
    past, to_come = client.submit("nobody", expires_ms=100)[0], client.submit("nobody", expires_ms=10_000)[0]
    client.cancel(to_come)
    rig.pass_time(100)
    assert client.replay(past, to_come) == 2
    rig.pass_time(HOUR_MS)
    worker = rig.worker(names=("nobody",))
    assert worker.tasks() == [past]
    worker.expire()
    assert rig.leader.state_of(past) == "pending", "it may also go back to its lane"


def test_a_delay_that_was_not_over_is_over(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(delay_ms=5_000)
    client.cancel(task)
    assert client.replay(task) == 1
    assert worker.tasks() == [task]


def test_dates_of_an_earlier_life_do_not_shorten_a_pause_of_the_next(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(delay_ms=5_000, retries=1, retry=RetryRule(60_000, 60_000, jitter=False))
    client.cancel(task)
    client.replay(task)
    (given,) = worker.inbox
    error = Failure("E", "m", kinds=("E",))
    worker.report(Outcome(task, given.attempt, OUTCOME_FAILED, 0, 1, b"", error))
    rig.pass_time(59_999)
    assert worker.inbox == []
    rig.pass_time(1)
    assert worker.tasks() == [task]


def test_the_silence_after_an_earlier_cancel_ends_no_later_one(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=0)
    fail(worker, task)
    assert rig.leader.state_of(task) == "cancelled"
    client.replay(task)
    rig.pass_time(29_000)
    client.cancel(task, grace_ms=600_000)
    rig.pass_time(29_000)
    assert rig.leader.state_of(task) == "processing"


def test_it_leaves_its_lot_and_is_filed_anew(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    fail(worker, task)
    client.replay(task)
    assert not retained(rig).lots and not retained(rig).buckets and retained(rig).bytes == 0
    rig.now_ms += 10 * SECOND_MS
    fail(worker, task)
    assert retained(rig).next_deadline_ms(rig.now_ms) == EPOCH_MS + HOUR_MS + 10 * SECOND_MS
    rig.pass_time(HOUR_MS - 1)
    assert rig.leader.state_of(task) == "failed"
    rig.pass_time(1)
    assert rig.leader.state_of(task) is None


def test_it_may_end_again_in_the_very_lot_that_it_left(rig: Rig):
    client, worker = rig.client(), rig.worker()
    first, second = client.submit(count=2)
    fail(worker, first)
    fail(worker, second)
    client.replay(first)
    fail(worker, first)
    (lot,) = retained(rig).lots.values()
    assert lot.ids == [second, first]


# -- what was seen -----------------------------------------------------------------------------------------------------


def test_what_was_seen_of_the_first_end_does_not_take_the_task_while_it_waits(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    fail(worker, task)
    say_seen(client, 1, 1)
    worker.expire()
    client.replay(task)
    rig.pass_time(SEEN_KEPT_MS)
    assert rig.leader.state_of(task) == "pending"


def test_what_was_seen_of_the_first_end_does_not_take_the_second_record(rig: Rig):
    """The range is due a moment after the second end, and nobody has seen that."""
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    fail(worker, task)
    say_seen(client, 1, 1)
    client.replay(task)
    rig.now_ms += SEEN_KEPT_MS - 500
    worker.complete(*worker.inbox)
    rig.pass_time(500)
    rig.pass_time(HOUR_MS - 1)
    assert rig.leader.state_of(task) == "completed"
    rig.pass_time(1)
    assert rig.leader.state_of(task) is None
    assert rig.leader.next_deadline_ms() is None


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_a_dead_task_is_kept_for_a_week_although_it_was_seen(rig: Rig):
    client, _, task = dead_task(rig)
    say_seen(client, 1, 1)
    rig.pass_time(DEAD_KEPT_MS - 1)
    assert rig.leader.state_of(task) == "dead"
    assert rig.leader.result(task).error.type == "SomeError"
    rig.pass_time(1)
    assert rig.leader.state_of(task) is None
    assert not retained(rig).dead and retained(rig).dead_bytes == retained(rig).bytes == 0


@pytest.mark.parametrize(("ttl_ms", "kept_ms"), [(0, DEAD_KEPT_MS), (2 * DEAD_KEPT_MS, 2 * DEAD_KEPT_MS)])
def test_a_ttl_counts_for_dead_tasks_only_if_it_is_longer(rig: Rig, ttl_ms, kept_ms):
    _, _, task = dead_task(rig, result_ttl_ms=ttl_ms)
    rig.pass_time(kept_ms - 1)
    assert rig.leader.state_of(task) == "dead"
    rig.pass_time(1)
    assert rig.leader.state_of(task) is None


def test_a_dead_task_that_was_replayed_is_a_result_like_others_when_it_has_one(rig: Rig):
    client, worker, task = dead_task(rig)
    client.replay(task)
    worker.complete(*worker.inbox)
    assert not retained(rig).dead and retained(rig).dead_bytes == 0
    rig.pass_time(HOUR_MS)
    assert rig.leader.state_of(task) is None


def more_dead(rig: Rig, client: Client, worker: Worker, count: int, **options: object) -> list[int]:
    tasks: list[int] = []
    for _ in range(count):
        rig.now_ms += SECOND_MS
        tasks += client.submit(**options)
        kill(worker, tasks[-1])
    return tasks


def test_the_oldest_dead_tasks_go_when_there_are_too_many(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "DEAD_TASKS_MAX", 3)
    client, worker = rig.client(), rig.worker()
    long = more_dead(rig, client, worker, 1, result_ttl_ms=2 * DEAD_KEPT_MS)
    short = more_dead(rig, client, worker, 4)
    assert [rig.leader.state_of(task) for task in long + short] == [None, None, "dead", "dead", "dead"]
    assert rig.leader.status()["counters"]["evicted_early"] == 2


def test_dead_tasks_are_limited_in_bytes_and_push_out_no_results_of_others(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    client, worker = rig.client(), rig.worker()
    (result,) = client.submit()
    worker.complete(*worker.inbox)
    (first,) = more_dead(rig, client, worker, 1)
    size = retained(rig).dead_bytes
    assert size > RECORD_OVERHEAD_BYTES
    monkeypatch.setattr(retention, "DEAD_BYTES_MAX", 4 * size)
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 5 * size)
    tasks = [first, *more_dead(rig, client, worker, 7)]
    assert [rig.leader.state_of(task) for task in tasks] == [None] * 4 + ["dead"] * 4
    assert rig.leader.state_of(result) == "completed"


def test_what_is_too_much_of_the_dead_goes_in_slices(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    client, worker = rig.client(), rig.worker()
    tasks = more_dead(rig, client, worker, 12)
    monkeypatch.setattr("cluster.state.eviction.EVICTIONS_MAX", 4)
    monkeypatch.setattr(retention, "DEAD_TASKS_MAX", 2)
    left = 12
    while left > 2:
        assert rig.leader.next_deadline_ms() <= rig.now_ms, "due at once: the leader ticks again"
        rig.pass_time(0)
        left = max(2, left - 4)
        assert [task for task in tasks if rig.leader.state_of(task)] == tasks[12 - left :]
    assert rig.leader.next_deadline_ms() > rig.now_ms


def test_kept_arguments_count_in_bytes(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    client = rig.client()
    body = b"x" * 10_000
    for number in range(1, 6):
        rig.apply(Submit(client.session, client.seq, 1, [TaskGroup("nobody", number, [body])]))
        client.seq += 1
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 3 * (len(body) + RECORD_OVERHEAD_BYTES))
    tasks = [client.session << 24 | number for number in range(1, 6)]
    for task in tasks:
        rig.now_ms += SECOND_MS
        client.cancel(task)
    assert [rig.leader.state_of(task) for task in tasks] == [None, None] + ["cancelled"] * 3
    assert client.replay(*tasks) == 3
    assert retained(rig).bytes == 0


def test_all_ways_to_end_without_a_result_can_be_replayed(rig: Rig):
    client, worker, dead = dead_task(rig)
    (failed,) = client.submit()
    fail(worker, failed)
    (expired,) = client.submit("nobody", expires_ms=5)
    (cancelled,) = client.submit("nobody")
    client.cancel(cancelled)
    rig.pass_time(5)
    assert [rig.leader.result(task).state for task in (dead, failed)] == [STATE_DEAD, STATE_FAILED]
    assert client.replay(dead, failed, expired, cancelled) == 4
    every = rig.worker("w2", slots=4, names=("f", "nobody"))
    for given in [*worker.inbox, *every.inbox]:
        (worker if given in worker.inbox else every).complete(given)
    states = [rig.leader.result(task).state for task in (dead, failed, expired, cancelled)]
    assert states == [OUTCOME_COMPLETED] * 4


def test_an_image_of_an_earlier_version_does_not_list_its_dead(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """They have the dates that they had, and go when these come."""
    client, _, task = dead_task(rig)
    whole = image._sections

    def without(*args: object) -> Iterator[tuple[Section, Iterable[Row]]]:
        return ((section, rows) for section, rows in whole(*args) if section != Section.DEAD)

    with monkeypatch.context() as earlier:
        earlier.setattr(image, "_sections", without)
        parts = list(rig.leader.image())
    restored = restore(parts)
    assert restored.state_of(task) == "dead" and restored._tables.retention.dead_bytes == 0
    replaying = restore(parts)
    client.send(Replay(client.session, client.seq, client.seq, [task]))
    replaying.apply(len(rig.log), 1, rig.log[-1], None)
    replaying.check()
    restored.apply(len(rig.log), 1, encode_entry(Tick(0), now_ms=rig.now_ms + DEAD_KEPT_MS), None)
    restored.check()
    assert replaying.state_of(task) == "processing" and restored.state_of(task) is None
