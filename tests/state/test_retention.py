"""How long results are kept, and that what an entry has to forget is bounded."""

import pytest
from state_rig import EPOCH_MS, Client, Rig, Worker

from cluster.state import eviction, evidence, retention
from cluster.state.commands import OUTCOME_CRASHED, OUTCOME_FAILED, Failure, Outcome, Seen, Submit, TaskGroup
from cluster.state.effects import ANSWER_OK, Assignment
from cluster.state.eviction import EVICTIONS_MAX
from cluster.state.retention import RECORD_OVERHEAD_BYTES, SEEN_KEPT_MS

HOUR_MS = 3_600_000
SECOND_MS = 1_000
BATCH = 1_024               # of one submit

assert EPOCH_MS % SECOND_MS == 0


def known(rig: Rig, tasks: list[int]) -> list[int]:
    return [task for task in tasks if rig.leader.state_of(task) is not None]


def ended_tasks(rig: Rig, count: int = 1, *, body: bytes = b"done", **options: object) -> tuple[Client, list[int]]:
    """Tasks that have just been completed, and their client."""
    client, worker = rig.client(), rig.worker(prefetch=4_096)
    return client, complete_more(client, worker, count, body=body, **options)


def complete_more(
    client: Client, worker: Worker, count: int = 1, *, body: bytes = b"done", **options: object
) -> list[int]:
    tasks: list[int] = []
    while len(tasks) < count:
        tasks += client.submit(count=min(BATCH, count - len(tasks)), **options)
        worker.complete(*worker.inbox, body=body)
    return tasks


def say_seen(client: Client, *flat: int) -> None:
    client.rig.apply(Seen(client.session, list(flat)))


def counter(rig: Rig, name: str) -> int:
    return rig.leader.status()["counters"][name]


def retained(rig: Rig) -> retention.Retention:
    return rig.leader._tables.retention


# -- dates -----------------------------------------------------------------------------------------------------------


def test_a_result_that_nobody_has_seen_is_kept_for_an_hour(rig: Rig):
    _, tasks = ended_tasks(rig)
    rig.pass_time(HOUR_MS - 1)
    assert rig.leader.state_of(tasks[0]) == "completed"
    rig.pass_time(1)
    assert rig.leader.state_of(tasks[0]) is None
    assert rig.leader.result(tasks[0]) is None
    assert rig.leader.attempts(tasks[0]) == []


def test_a_result_that_its_client_has_is_kept_for_a_minute(rig: Rig):
    client, tasks = ended_tasks(rig)
    rig.now_ms += 10 * SECOND_MS
    say_seen(client, 1, 1)
    rig.pass_time(SEEN_KEPT_MS - 1)
    assert known(rig, tasks) == tasks
    rig.pass_time(1)
    assert known(rig, tasks) == []


def test_a_submit_carries_what_its_client_has(rig: Rig):
    client, tasks = ended_tasks(rig, 3)
    answer = client.send(Submit(client.session, client.seq, 1, [TaskGroup("nobody", 9, [b""])], [1, 2]))
    assert answer.code == ANSWER_OK
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == tasks[2:]


def test_a_submit_that_is_said_again_says_seen_once(rig: Rig):
    client, _ = ended_tasks(rig, 3)
    command = Submit(client.session, client.seq, 1, [TaskGroup("nobody", 9, [b""])], [1, 2])
    client.send(command)
    rig.apply(command)
    assert counter(rig, "ignored_seen") == 0


def test_dates_are_rounded_up_to_the_second(rig: Rig):
    rig.now_ms += 1
    client, tasks = ended_tasks(rig, 2)
    say_seen(client, 1, 1)
    rig.now_ms = EPOCH_MS
    rig.pass_time(SEEN_KEPT_MS + SECOND_MS - 1)
    assert known(rig, tasks) == tasks
    rig.pass_time(1)
    assert known(rig, tasks) == tasks[1:]
    rig.now_ms = EPOCH_MS + HOUR_MS
    rig.pass_time(SECOND_MS - 1)
    assert known(rig, tasks) == tasks[1:]
    rig.pass_time(1)
    assert known(rig, tasks) == []


def test_an_explicit_ttl_is_not_shortened_by_seen(rig: Rig):
    client, tasks = ended_tasks(rig, 2, result_ttl_ms=300 * SECOND_MS)
    say_seen(client, 1, 2)
    rig.pass_time(299 * SECOND_MS)
    assert known(rig, tasks) == tasks
    rig.pass_time(SECOND_MS)
    assert known(rig, tasks) == []


def test_an_explicit_ttl_may_be_longer_than_an_hour_and_shorter_than_a_minute(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=9)
    short = complete_more(client, worker, result_ttl_ms=5 * SECOND_MS)
    long = complete_more(client, worker, result_ttl_ms=2 * HOUR_MS)
    rig.pass_time(5 * SECOND_MS)
    assert known(rig, short + long) == long
    rig.pass_time(2 * HOUR_MS - 5 * SECOND_MS - 1)
    assert known(rig, long) == long
    rig.pass_time(1)
    assert known(rig, long) == []


def test_a_ttl_of_nothing_lets_the_result_be_pushed_and_keeps_nothing(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(result_ttl_ms=0)
    worker.complete(*worker.inbox)
    assert [result.task for result in rig.results()] == [task]
    assert rig.leader.state_of(task) is None


def test_tasks_of_one_command_have_dates_of_their_own(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=9)
    tasks = [client.submit(result_ttl_ms=ttl_ms)[0] for ttl_ms in (4_000, 2_000, 4_000, HOUR_MS, 2_000)]
    worker.complete(*worker.inbox)
    rig.pass_time(2_000)
    assert known(rig, tasks) == [tasks[0], tasks[2], tasks[3]]
    rig.pass_time(2_000)
    assert known(rig, tasks) == [tasks[3]]


def test_whatever_way_a_task_ends_it_is_forgotten(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=3)
    (expired,) = client.submit("nobody", expires_ms=100)
    (delayed,) = client.submit(delay_ms=500)
    failed, crashed, held = client.submit(count=3)
    (waiting,) = client.submit()
    client.cancel(held, waiting, delayed)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    for _ in range(3):
        (again,) = [assignment for assignment in worker.inbox if assignment.task == crashed]
        worker.end(again, OUTCOME_CRASHED)
    rig.pass_time(100)
    tasks = [expired, delayed, failed, crashed, held, waiting]
    states = ["expired", "cancelled", "failed", "dead", "cancelled", "cancelled"]
    assert [rig.leader.state_of(task) for task in tasks] == states
    rig.pass_time(HOUR_MS + SECOND_MS)
    assert known(rig, tasks) == [crashed], "somebody may want to look at it"
    rig.pass_time(retention.DEAD_KEPT_MS)
    assert known(rig, tasks) == []
    row = rig.queue()
    assert [row[name] for name in ("failed", "dead", "cancelled", "expired")] == [1, 1, 3, 1]


def test_what_has_not_ended_is_never_forgotten(rig: Rig):
    client, worker = rig.client(), rig.worker()
    held, waiting = client.submit(count=2)
    (delayed,) = client.submit(delay_ms=9 * HOUR_MS)
    say_seen(client, 1, 3)
    rig.pass_time(3 * HOUR_MS)
    assert known(rig, [held, waiting, delayed]) == [held, waiting, delayed]
    worker.complete(*worker.inbox)
    assert rig.leader.state_of(held) == "completed"


def test_totals_do_not_fall_when_tasks_are_forgotten(rig: Rig):
    ended_tasks(rig, 5)
    rig.pass_time(HOUR_MS)
    assert rig.queue()["completed"] == 5
    assert counter(rig, "evicted") == 5
    assert counter(rig, "evicted_early") == 0


# -- who looks for a forgotten task ------------------------------------------------------------------------------------


def test_a_late_outcome_of_a_forgotten_task_is_refused(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    late = worker.inbox[0]
    client.cancel(task)
    rig.pass_time(HOUR_MS)
    assert rig.leader.state_of(task) is None
    worker.complete(late)
    assert counter(rig, "refused_outcomes") == 1
    assert rig.leader.state_of(task) is None


def test_a_forgotten_task_can_be_cancelled_without_effect(rig: Rig):
    client, tasks = ended_tasks(rig)
    rig.pass_time(HOUR_MS)
    client.cancel(*tasks)
    assert known(rig, tasks) == [] and rig.queue()["cancelled"] == 0


def test_dates_of_a_forgotten_task_are_void(rig: Rig):
    client = rig.client()
    (task,) = client.submit(delay_ms=2 * HOUR_MS, expires_ms=3 * HOUR_MS)
    client.cancel(task)
    rig.pass_time(HOUR_MS)
    assert rig.leader.state_of(task) is None
    rig.pass_time(HOUR_MS)
    rig.pass_time(HOUR_MS)
    assert rig.leader.state_of(task) is None
    assert rig.leader.next_deadline_ms() is None


def test_a_lane_may_hold_what_is_forgotten(rig: Rig):
    client = rig.client()
    first, second, third = client.submit(count=3)
    client.cancel(first, third)
    rig.pass_time(HOUR_MS)
    assert known(rig, [first, second, third]) == [second]
    assert rig.worker(prefetch=9).tasks() == [second]


def test_the_number_of_a_forgotten_task_is_not_used_again(rig: Rig):
    client, tasks = ended_tasks(rig)
    rig.pass_time(HOUR_MS)
    answer = client.send(Submit(client.session, client.seq, 1, [TaskGroup("f", 1, [b"again"])]))
    assert answer.code != ANSWER_OK
    assert known(rig, tasks) == []


# -- ticks -----------------------------------------------------------------------------------------------------------


def test_the_next_date_is_one_of_results_as_well(rig: Rig):
    client, _ = ended_tasks(rig)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + HOUR_MS
    say_seen(client, 1, 1)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + SEEN_KEPT_MS
    client.submit("nobody", delay_ms=300)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + 300


def test_an_idle_cluster_has_no_dates_when_all_was_seen(rig: Rig):
    """Else the leader would tick for an hour, once for each second in which something had ended."""
    client, worker = rig.client(), rig.worker(prefetch=9)
    for _ in range(20):
        rig.now_ms += SECOND_MS
        number = client.number
        complete_more(client, worker, 3)
        say_seen(client, number, client.number - 1)
    ticks = 0
    while (due := rig.leader.next_deadline_ms()) is not None:
        rig.pass_time(due - rig.now_ms)
        ticks += 1
    assert ticks == 20
    assert rig.now_ms == EPOCH_MS + 20 * SECOND_MS + SEEN_KEPT_MS
    assert not retained(rig).buckets and not retained(rig).lots and retained(rig).bytes == 0


def test_memory_does_not_hold_the_ids_of_an_hour(rig: Rig):
    """One in a thousand is never seen, and keeps its own id only."""
    client, worker = rig.client(), rig.worker(prefetch=4_096)
    for _ in range(6):
        rig.now_ms += SECOND_MS
        first = client.number
        complete_more(client, worker, 1_000)
        say_seen(client, first, first + 499, first + 501, first + 999)
    while rig.leader.next_deadline_ms() < EPOCH_MS + HOUR_MS:
        rig.pass_time(rig.leader.next_deadline_ms() - rig.now_ms)
    assert sum([len(lot.ids) for lot in retained(rig).lots.values()]) == 6
    rig.pass_time(HOUR_MS)
    assert retained(rig).bytes == 0


# -- the bound of one entry --------------------------------------------------------------------------------------------


def test_an_entry_forgets_so_many_more_than_have_ended_in_it(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=4_096)
    tasks = complete_more(client, worker, 5 * EVICTIONS_MAX)
    client.submit(count=10)
    rig.now_ms += HOUR_MS
    worker.complete(*worker.inbox)
    left = 4 * EVICTIONS_MAX - 10
    assert len(known(rig, tasks)) == left
    assert rig.leader.next_deadline_ms() <= rig.now_ms, "due at once: the leader ticks again"
    while left > 0:
        rig.pass_time(0)
        left -= EVICTIONS_MAX
        assert len(known(rig, tasks)) == max(0, left)
    assert rig.leader.next_deadline_ms() == rig.now_ms + HOUR_MS


def test_what_ended_first_goes_first(rig: Rig):
    _, tasks = ended_tasks(rig, 2 * EVICTIONS_MAX)
    rig.pass_time(HOUR_MS)
    assert known(rig, tasks) == tasks[EVICTIONS_MAX:]


def test_a_range_is_worked_off_in_slices(rig: Rig):
    client, tasks = ended_tasks(rig, 3 * EVICTIONS_MAX)
    say_seen(client, 1, len(tasks))
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == tasks[EVICTIONS_MAX:]
    rig.pass_time(0)
    rig.pass_time(0)
    assert known(rig, tasks) == []


class Looks:
    """Counts how often the leader looks a task of a range up."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        walk = eviction._Sweep._walk

        def counted(sweep: eviction._Sweep, first: int, last: int, enough_bytes: int) -> int:
            stopped = walk(sweep, first, last, enough_bytes)
            if sweep._tables is rig.leader._tables:
                self.count += stopped - first + 1
            return stopped

        monkeypatch.setattr(eviction._Sweep, "_walk", counted)


def test_what_is_passed_over_is_bounded_as_well(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    client = rig.client()
    for _ in range(12):
        client.submit("nobody", BATCH)
    say_seen(client, 1, 12 * BATCH)
    looks = Looks(rig, monkeypatch)
    rig.pass_time(SEEN_KEPT_MS)
    assert looks.count == eviction.LOOKS_PER_EVICTION * EVICTIONS_MAX
    entries = 1
    while retained(rig).buckets:
        rig.pass_time(0)
        entries += 1
    assert entries == 3 and looks.count == 12 * BATCH


def test_a_client_that_says_one_big_range_a_thousand_times_has_said_it_once(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    client, tasks = ended_tasks(rig, 2 * BATCH)
    looks = Looks(rig, monkeypatch)
    rig.apply(*[Seen(client.session, [1, 2 * BATCH]) for _ in range(1_000)])
    assert counter(rig, "ignored_seen") == 999
    while rig.leader.next_deadline_ms() is not None:
        rig.pass_time(rig.leader.next_deadline_ms() - rig.now_ms)
    assert looks.count == 2 * BATCH
    assert known(rig, tasks) == []


def test_a_client_cannot_claim_numbers_that_it_jumped_over(rig: Rig):
    """One task with the highest number, then sixteen million numbers: that would be four thousand entries of looks."""
    client = rig.client()
    client.number = (1 << 24) - 1
    client.submit("nobody")
    say_seen(client, 1, (1 << 24) - 1)
    assert counter(rig, "ignored_seen") == 1
    assert not retained(rig).buckets


@pytest.mark.parametrize(
    "flat", [[0, 1], [-3, 1], [2, 1], [1, 5], [5, 9], [1 << 24, 1 << 24], [1 << 62, 1 << 63], [-(1 << 63), 1], [1]]
)
def test_what_a_client_cannot_have_is_ignored(rig: Rig, flat):
    client, tasks = ended_tasks(rig, 4)
    say_seen(client, *flat)
    assert counter(rig, "ignored_seen") == 1
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == tasks


def test_a_good_range_counts_beside_a_bad_one(rig: Rig):
    client, tasks = ended_tasks(rig, 4)
    say_seen(client, 3, 9, 1, 2, 7)
    assert counter(rig, "ignored_seen") == 2
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == tasks[2:]


def test_seen_is_of_the_session_that_says_it(rig: Rig):
    _, tasks = ended_tasks(rig, 2)
    other = rig.client("c2")
    say_seen(other, 1, 2)
    rig.apply(Seen(12_345, [1, 2]), Seen(rig.leader.worker_sessions()[0].id, [1, 1]))
    assert counter(rig, "ignored_seen") == 2 and counter(rig, "unknown_sessions") == 1
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == tasks


def test_ranges_outlive_their_session(rig: Rig):
    client, tasks = ended_tasks(rig)
    say_seen(client, 1, 1)
    client.close()
    rig.pass_time(SEEN_KEPT_MS)
    assert known(rig, tasks) == []


# -- limits in bytes --------------------------------------------------------------------------------------------------


def test_results_are_limited_in_bytes_and_the_earliest_date_goes_first(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    body = b"x" * 1_000
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 10 * (1_000 + RECORD_OVERHEAD_BYTES))
    client, worker = rig.client(), rig.worker(prefetch=99)
    late = complete_more(client, worker, 4, body=body, result_ttl_ms=2 * HOUR_MS)
    soon = complete_more(client, worker, 4, body=body)
    seen = complete_more(client, worker, 2, body=body)
    say_seen(client, 9, 10)
    assert known(rig, late + soon + seen) == late + soon + seen
    new = complete_more(client, worker, 1, body=body)
    assert known(rig, late + soon + seen + new) == late + soon + seen[1:] + new
    new += complete_more(client, worker, 4, body=body)
    assert known(rig, late + soon + seen + new) == late + soon[3:] + new
    assert counter(rig, "evicted") == counter(rig, "evicted_early") == 5
    assert retained(rig).bytes == 10 * (1_000 + RECORD_OVERHEAD_BYTES)


def test_records_without_a_body_are_limited_as_well(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 100 * RECORD_OVERHEAD_BYTES)
    _, tasks = ended_tasks(rig, 300, body=b"")
    assert known(rig, tasks) == tasks[200:]


def test_one_big_record_takes_the_place_of_many_small_ones_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """By number alone the total would grow: the entry ended one task, and forgets many."""
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 4 * EVICTIONS_MAX * RECORD_OVERHEAD_BYTES)
    client, worker = rig.client(), rig.worker(prefetch=4_096)
    complete_more(client, worker, 4 * EVICTIONS_MAX, body=b"")
    (big,) = complete_more(client, worker, 1, body=b"x" * (3 * EVICTIONS_MAX * RECORD_OVERHEAD_BYTES))
    assert retained(rig).surplus_bytes <= 0
    assert rig.leader.state_of(big) == "completed"


def test_what_is_too_much_is_worked_off_by_ticks(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    _, tasks = ended_tasks(rig, 3 * EVICTIONS_MAX, body=b"")
    monkeypatch.setattr(retention, "RESULTS_BYTES_MAX", 0)
    assert rig.leader.next_deadline_ms() == rig.now_ms
    rig.pass_time(0)
    assert known(rig, tasks) == tasks[EVICTIONS_MAX:]
    rig.pass_time(0)
    rig.pass_time(0)
    assert known(rig, tasks) == [] and rig.leader.next_deadline_ms() is None


def fail(rig: Rig, worker: Worker, assignment: Assignment, size: int, status: int = OUTCOME_FAILED) -> None:
    error = Failure("ValueError", "no", "T" * size, 3, -1, "E" * size)
    worker.report(Outcome(assignment.task, assignment.attempt, status, rig.now_ms, 50, b"", error))


def errors(rig: Rig, task: int) -> list[tuple[int, int]]:
    """Lengths of traceback and stderr of its attempts."""
    found = [attempt.error for attempt in rig.leader.attempts(task)]
    assert all(error.type == "ValueError" and error.message == "no" and error.exit_code == 3 for error in found)
    return [(len(error.traceback), len(error.stderr)) for error in found]


def test_evidence_is_limited_in_bytes_and_the_oldest_is_blanked(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "EVIDENCE_BYTES_MAX", 3 * (2_000 + evidence.EVIDENCE_OVERHEAD_BYTES))
    monkeypatch.setattr("cluster.state.invariants.EVIDENCE_BYTES_MAX", evidence.EVIDENCE_BYTES_MAX)
    client, worker = rig.client(), rig.worker()
    (crashes,) = client.submit()
    fail(rig, worker, worker.inbox[0], 1_000, OUTCOME_CRASHED)
    fail(rig, worker, worker.inbox[0], 1_000, OUTCOME_CRASHED)
    failed = client.submit(count=2)
    fail(rig, worker, worker.inbox[0], 1_000, OUTCOME_CRASHED)
    assert errors(rig, crashes) == [(1_000, 1_000)] * 3
    fail(rig, worker, worker.inbox[0], 1_000)
    assert errors(rig, crashes) == [(0, 0), (1_000, 1_000), (1_000, 1_000)]
    assert rig.leader.state_of(crashes) == "dead", "the record stays"
    fail(rig, worker, worker.inbox[0], 100)
    assert errors(rig, crashes)[:2] == [(0, 0), (0, 0)]
    assert [errors(rig, task) for task in failed] == [[(1_000, 1_000)], [(100, 100)]]
    assert counter(rig, "blanked_attempts") == 2


def test_evidence_goes_with_its_task(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(count=2)
    fail(rig, worker, worker.inbox[0], 100)
    fail(rig, worker, worker.inbox[0], 100)
    say_seen(client, 1, 1)
    rig.pass_time(SEEN_KEPT_MS)
    assert len(rig.leader._tables.evidence.attempts) == 1
    rig.pass_time(HOUR_MS)
    assert rig.leader._tables.evidence.bytes == 0


# -- digests ----------------------------------------------------------------------------------------------------------


def test_replicas_compare_what_they_forget(rig: Rig):
    """Two logs that differ in what was seen only."""
    digests = []
    for last in (1, 2):
        rig = Rig()
        client, _ = ended_tasks(rig, 3)
        say_seen(client, 1, last)
        before = rig.leader.rolling
        rig.pass_time(SEEN_KEPT_MS)
        digests.append((before, rig.leader.rolling))
        assert rig.leader.full_digest() == rig.follower.full_digest()
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]
