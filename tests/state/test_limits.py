"""Limits: how many tasks are with workers at a time, and how many start in a period, in the whole cluster."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import assert_equal, restore
from msgspec import msgpack, structs
from state_rig import EPOCH_MS, Rig, Worker, encode_entry, outcome_of

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    PREFETCH_AUTO,
    Failure,
    LineRule,
    Options,
    RetryRule,
    Submit,
    TaskGroup,
    Tick,
)
from cluster.state.lifecycle import SILENCE_MS
from cluster.state.limits import PARTS, Limit

ONE = LineRule(concurrency=1)
TWO = LineRule(concurrency=2)
TWO_A_SECOND = LineRule(starts=2, period_ms=1_000)


def limit_of(rig: Rig, name: str = "f", share: str = "") -> Limit:
    return rig.leader._tables.limits.by_name[name, share]


def limits_known(rig: Rig) -> int:
    return len(rig.leader._tables.limits.by_index)


def with_workers(*workers: Worker) -> list[int]:
    return sorted([task for worker in workers for task in worker.tasks()])


def drain(*workers: Worker) -> list[int]:
    """Completes one task after the other; returns their ids in the order in which they ran."""
    order: list[int] = []
    while busy := [worker for worker in workers if worker.inbox]:
        order.append(busy[0].inbox[0].task)
        busy[0].complete(busy[0].inbox[0])
    return order


# -- concurrency -----------------------------------------------------------------------------------------------------


def test_at_most_as_many_as_its_concurrency_are_with_all_workers_together(rig: Rig) -> None:
    client = rig.client()
    workers = [rig.worker(name, slots=4) for name in ("w1", "w2", "w3")]
    tasks = client.submit(count=10, line=TWO)
    assert with_workers(*workers) == tasks[:2]
    for done in range(8):
        busy = next(worker for worker in workers if worker.inbox)
        busy.complete(busy.inbox[0])
        assert len(with_workers(*workers)) == 2, f"the next one starts in the entry in which the {done + 1}. has ended"


def test_what_waits_at_a_slot_counts_as_well(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(prefetch=9)
    tasks = client.submit(count=5, line=LineRule(concurrency=3))
    assert worker.tasks() == tasks[:3]


def test_others_pass_what_a_limit_holds_back(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=2, names=("f", "g"))
    limited = client.submit(count=5, line=ONE, priority=9)
    others = client.submit("g", 2, priority=0)
    assert with_workers(worker) == [limited[0], others[0]]


@pytest.mark.parametrize("status", [OUTCOME_COMPLETED, OUTCOME_FAILED, OUTCOME_CRASHED, OUTCOME_RETURNED])
def test_the_next_one_starts_whatever_became_of_the_one_before(rig: Rig, status: int) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=3, line=ONE)
    worker.end(worker.inbox[0], status)
    goes_again = status in (OUTCOME_CRASHED, OUTCOME_RETURNED)
    assert worker.tasks() == [tasks[0] if goes_again else tasks[1]], "what comes back is first in its line"
    assert limit_of(rig).running == 1


def test_a_retry_leaves_its_place_to_others_for_its_pause(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=2, line=ONE, retries=1, retry=RetryRule(500, 500, jitter=False))
    raised = structs.replace(outcome_of(worker.inbox[0], OUTCOME_FAILED), error=Failure("E", "", kinds=("E",)))
    worker.report(raised)
    assert worker.tasks() == [tasks[1]]
    rig.pass_time(500)
    assert worker.tasks() == [tasks[1]] and rig.queue()["ready"] == 1
    assert drain(worker) == [tasks[1], tasks[0]]


def test_a_lost_worker_frees_what_it_had(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker("lost", slots=3)
    tasks = client.submit(count=5, line=TWO)
    other = rig.worker("other", slots=3)
    assert other.inbox == []
    worker.expire()
    assert other.tasks() == tasks[:2]


def test_a_draining_worker_keeps_its_part_until_it_hands_it_back(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker("leaving", prefetch=2)
    tasks = client.submit(count=4, line=TWO)
    other = rig.worker("other", slots=3)
    worker.drain()
    assert other.inbox == []
    worker.end(worker.inbox[1], OUTCOME_RETURNED)
    assert other.tasks() == [tasks[1]]


def test_a_cancelled_task_counts_until_its_worker_has_stopped_it(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=4, line=ONE)
    client.cancel(tasks[0], grace_ms=1_000)
    assert worker.tasks() == [tasks[0]]
    worker.report(structs.replace(outcome_of(worker.inbox[0], OUTCOME_CANCELLED), started_ms=EPOCH_MS))
    assert worker.tasks() == [tasks[1]]
    client.cancel(tasks[1])         # without a grace
    assert worker.tasks()[-1] == tasks[2]


def test_cancelled_and_expired_tasks_of_a_line_that_is_held_back_are_passed_over(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=2, line=ONE)
    late = client.submit(count=2, line=ONE, expires_ms=10)
    last = client.submit(line=ONE)
    client.cancel(tasks[1])
    rig.pass_time(10)
    worker.complete(worker.inbox[0])
    assert worker.tasks() == last
    assert [rig.leader.state_of(task) for task in late] == ["expired"] * 2


def test_a_limit_of_which_all_that_waited_was_cancelled_is_gone(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=3, line=ONE)
    client.cancel(*tasks[1:])
    worker.complete(*worker.inbox)
    assert limits_known(rig) == 0


def test_what_must_go_alone_does_so_under_its_limit(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker("lost", prefetch=3)
    tasks = client.submit(count=4, line=TWO)
    worker.expire()
    other = rig.worker("other", slots=3, prefetch=3)
    assert [(a.task, a.alone) for a in other.inbox] == [(tasks[0], True), (tasks[1], True)]
    assert drain(other) == tasks


def test_an_event_loop_runs_no_more_than_the_limit_allows(rig: Rig) -> None:
    client = rig.client()
    worker = rig.worker(names=("g",), loop_names=("f",), loop_tasks=100)
    tasks = client.submit(count=20, line=LineRule(concurrency=7))
    assert worker.tasks() == tasks[:7]


def test_a_replayed_task_is_under_its_limit(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=2, line=ONE)
    client.cancel(tasks[1])
    assert client.replay(tasks[1]) == 1
    assert worker.tasks() == [tasks[0]]
    assert drain(worker) == tasks
    assert limits_known(rig) == 0


def test_a_replay_is_a_start_of_its_rate(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    tasks = client.submit(count=2, line=TWO_A_SECOND)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    assert client.replay(tasks[0]) == 1
    assert worker.tasks() == [tasks[1]], "both starts of this second are spent"
    rig.pass_time(1_000)
    assert worker.tasks() == [tasks[1], tasks[0]]


def test_a_dead_task_that_is_replayed_goes_alone_and_under_its_limit(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3, prefetch=3)
    (task,) = client.submit(line=ONE)
    for _ in range(3):
        worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert rig.leader.state_of(task) == "dead" and limits_known(rig) == 0
    (other,) = client.submit(line=ONE)
    assert client.replay(task) == 1
    assert worker.tasks() == [other]
    worker.complete(*worker.inbox)
    assert [(given.task, given.alone) for given in worker.inbox] == [(task, True)]


def test_a_retry_is_held_back_by_a_limit_that_others_have_filled_meanwhile(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    (first,) = client.submit(line=ONE, retries=1, retry=RetryRule(500, 500, jitter=False))
    raised = structs.replace(outcome_of(worker.inbox[0], OUTCOME_FAILED), error=Failure("E", "", kinds=("E",)))
    worker.report(raised)
    assert limit_of(rig).running == 0
    (second,) = client.submit(line=ONE)
    rig.pass_time(500)
    assert worker.tasks() == [second] and rig.queue()["ready"] == 1
    worker.complete(*worker.inbox)
    assert [(given.task, given.attempt) for given in worker.inbox] == [(first, 2)]


def test_what_is_cancelled_while_it_pauses_before_a_retry_leaves_nothing(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    (task,) = client.submit(line=ONE, retries=1, retry=RetryRule(500, 500, jitter=False))
    raised = structs.replace(outcome_of(worker.inbox[0], OUTCOME_FAILED), error=Failure("E", "", kinds=("E",)))
    worker.report(raised)
    client.cancel(task)
    assert rig.leader.state_of(task) == "cancelled" and limits_known(rig) == 0
    rig.pass_time(500)
    assert worker.inbox == []


def test_a_worker_that_says_nothing_of_a_cancelled_task_does_not_keep_its_limit_full(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    tasks = client.submit(count=2, line=ONE)
    client.cancel(tasks[0], grace_ms=1_000)
    rig.pass_time(1_000 + SILENCE_MS)
    assert rig.leader.state_of(tasks[0]) == "cancelled" and worker.tasks()[-1] == tasks[1]


# -- who is under a limit --------------------------------------------------------------------------------------------


def test_without_a_name_each_share_has_the_limit_for_itself(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    a, b, none = (client.submit(count=3, line=LineRule(share, concurrency=1)) for share in ("a", "b", ""))
    assert with_workers(worker) == sorted([a[0], b[0], none[0]])


def test_without_a_name_each_task_has_the_limit_for_itself_in_whatever_queue(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"), queues=("default", "other"))
    first = client.submit("f", 2, line=ONE)
    client.submit("f", 2, line=ONE, queue="other")
    client.submit("f", 2, line=ONE, priority=9, labels=())
    (g,) = client.submit("g", line=ONE)
    assert with_workers(worker) == [first[0], g]


def test_a_limit_with_a_name_is_one_for_all_tasks_and_shares_that_name_it(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    for name, share in (("f", ""), ("g", ""), ("f", "a"), ("g", "b")):
        client.submit(name, 2, line=LineRule(share, "smtp", concurrency=3))
    assert len(worker.inbox) == 3


def test_shares_take_turns_under_a_limit_with_a_name(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    a, b = (client.submit(count=4, line=LineRule(share, "smtp", concurrency=1)) for share in "ab")
    assert drain(worker) == [a[0], a[1], b[0], a[2], b[1], a[3], b[2], b[3]], "b came when a's second was next in turn"


def test_tasks_under_one_limit_take_turns_though_they_have_other_workers(rig: Rig) -> None:
    client = rig.client()
    workers = [rig.worker("of f", slots=3), rig.worker("of g", slots=3, names=("g",)), rig.worker("h", names=("h",))]
    rule = LineRule(limit="smtp", concurrency=1)
    tasks = {name: client.submit(name, 4, line=rule) for name in "fgh"}
    order = drain(*workers)
    names = [name for task in order for name in "fgh" if task in tasks[name]]
    assert names[1:10] == ["g", "h", "f"] * 3 or names[1:10] == ["f", "g", "h"] * 3


def test_the_higher_priority_has_the_limit_first_though_it_has_other_workers(rig: Rig) -> None:
    client = rig.client()
    workers = [rig.worker("of f", slots=3), rig.worker("of g", slots=3, names=("g",))]
    rule = LineRule(limit="smtp", concurrency=1)
    first = client.submit("f", line=rule)
    low, high = client.submit("f", 2, line=rule, priority=1), client.submit("g", 2, line=rule, priority=8)
    assert drain(*workers) == first + high + low


def test_tasks_that_nobody_can_run_do_not_keep_others_from_their_limit(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=3)
    rule = LineRule(limit="smtp", concurrency=1)
    parked = client.submit("nobody", 3, line=rule, priority=9)
    tasks = client.submit("f", 3, line=rule)
    assert drain(worker) == tasks
    assert [rig.leader.state_of(task) for task in parked] == ["pending"] * 3
    assert rig.queue()["parked"] == 3


def test_tasks_whose_workers_are_busy_do_not_keep_others_from_their_limit(rig: Rig) -> None:
    client = rig.client()
    busy, free = rig.worker("busy", names=("f", "x")), rig.worker("free", names=("g",))
    rule = LineRule(limit="smtp", concurrency=1)
    client.submit("x")
    waits = client.submit("f", 2, line=rule, priority=9)
    others = client.submit("g", 2, line=rule)
    assert free.tasks() == others[:1]
    busy.complete(*busy.inbox)
    assert busy.inbox == []
    free.complete(*free.inbox)
    assert busy.tasks() == waits[:1] and free.inbox == [], "it has its turn as soon as there is one"


@given(st.lists(st.tuples(st.sampled_from("fgh"), st.sampled_from(("", "a", "b")), st.integers(1, 4)), max_size=15))
@settings(max_examples=50, deadline=None)
def test_all_tasks_under_one_limit_run_in_the_end_in_order_within_their_line(
    submits: list[tuple[str, str, int]],
) -> None:
    rig = Rig()
    client = rig.client()
    workers = [rig.worker(name, slots=2, names=(name,), prefetch=2) for name in "fgh"]
    tasks: dict[tuple[str, str], list[int]] = {}
    for name, share, count in submits:
        tasks.setdefault((name, share), []).extend(
            client.submit(name, count, line=LineRule(share, "l", concurrency=2))
        )
    order = drain(*workers)
    assert sorted(order) == sorted([task for some in tasks.values() for task in some])
    for some in tasks.values():
        assert [task for task in order if task in some] == some
    assert limits_known(rig) == 0


# -- terms -----------------------------------------------------------------------------------------------------------


def test_the_terms_that_were_submitted_last_hold(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=6, line=ONE)
    assert len(worker.inbox) == 1
    client.submit(line=LineRule(concurrency=4))
    assert len(worker.inbox) == 4, "also for what was there"
    client.submit(line=TWO)
    for left in (3, 2, 2):
        worker.complete(worker.inbox[0])
        assert len(worker.inbox) == left


def test_a_limit_may_become_one_of_another_kind(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=8, line=ONE)
    client.submit(line=TWO_A_SECOND)
    assert len(worker.inbox) == 3, "two starts, whatever runs"
    client.submit(line=LineRule(concurrency=4))
    assert len(worker.inbox) == 4
    worker.complete(*worker.inbox)
    assert len(worker.inbox) == 4


def test_a_replay_does_not_bring_old_terms_back(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    (old,) = client.submit(line=ONE)
    client.cancel(old, grace_ms=0)
    worker.end(worker.inbox[0], OUTCOME_CANCELLED)
    client.submit(count=4, line=TWO)
    assert client.replay(old) == 1
    assert len(worker.inbox) == 2 == limit_of(rig).concurrency


# -- rates -----------------------------------------------------------------------------------------------------------


def starts_of(rig: Rig, client, worker: Worker, ms: int, steps: int) -> list[tuple[int, int]]:
    """How many start at which time, while everything ends at once and time passes in steps."""
    found: list[tuple[int, int]] = []
    for _ in range(steps):
        while worker.inbox:
            found.append((rig.now_ms - EPOCH_MS, len(worker.inbox)))
            worker.complete(*worker.inbox)
        rig.pass_time(ms)
    return found


def test_as_many_start_at_once_as_the_rate_allows_and_the_rest_a_period_later(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=5, line=TWO_A_SECOND)
    assert starts_of(rig, client, worker, 100, 25) == [(0, 2), (1_000, 2), (2_000, 1)]


def test_starts_of_different_moments_come_free_one_by_one(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(line=TWO_A_SECOND)
    rig.pass_time(300)
    client.submit(count=3, line=TWO_A_SECOND)
    assert len(worker.inbox) == 2
    worker.complete(*worker.inbox)
    assert starts_of(rig, client, worker, 100, 25) == [(1_000, 1), (1_300, 1)]


def test_a_limit_that_holds_something_back_has_a_date(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=2, line=TWO_A_SECOND)
    worker.complete(*worker.inbox)
    date_ms = rig.leader.next_deadline_ms()
    assert date_ms is not None and date_ms == limit_of(rig).date_ms, "until its starts may be forgotten"
    tasks = client.submit(count=2, line=TWO_A_SECOND)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + 1_000
    rig.pass_time(999)
    assert worker.inbox == []
    rig.pass_time(1)
    assert worker.tasks() == tasks


def test_a_limit_that_holds_nothing_back_has_none(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(line=TWO_A_SECOND)
    assert rig.leader.next_deadline_ms() is None
    client.submit("g", 5, line=LineRule(starts=1, period_ms=1_000))
    assert rig.leader.next_deadline_ms() is None, "what waits has no workers"
    assert len(worker.inbox) == 1


def test_every_hand_out_is_a_start(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    tasks = client.submit(count=2, line=TWO_A_SECOND)
    worker.end(worker.inbox[0], OUTCOME_RETURNED)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert worker.inbox == []
    rig.pass_time(1_000)
    assert with_workers(worker) == tasks


@pytest.mark.parametrize("prefetch", [PREFETCH_AUTO, 4])
def test_what_is_under_a_rate_is_not_handed_out_ahead(rig: Rig, prefetch: int) -> None:
    """It would start at a moment that nobody has counted."""
    client, worker = rig.client(), rig.worker(slots=2, names=("f", "g"), prefetch=prefetch)
    for _ in range(60):     # both are known as short
        client.submit("f"), client.submit("g")
        worker.complete(*worker.inbox, run_us=10)
    tasks = client.submit(count=9, line=LineRule(starts=9, period_ms=1_000))
    assert worker.tasks() == tasks[:2]
    others = client.submit("g", 9)
    rig.pass_time(0)
    assert worker.tasks() == tasks[:2], "and nothing overtakes it, or no slot would ever be idle"
    worker.complete(worker.inbox[0])
    rig.pass_time(0)
    assert with_workers(worker) == [*tasks[1:3], *others[:2]], "they take turns: a round over slots is one"
    assert len(drain(worker)) == 17


def test_a_slot_that_a_key_keeps_busy_comes_to_what_is_under_a_rate(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", "m"), prefetch=3)
    keyed = client.submit("m", 20, key="k", actor="A")
    (task,) = client.submit("f", line=TWO_A_SECOND)
    order = drain(worker)
    assert sorted(order) == sorted([*keyed, task]) and order.index(task) < 8


def test_a_loop_gets_all_that_the_rate_allows_at_once(rig: Rig) -> None:
    client = rig.client()
    worker = rig.worker(names=("g",), loop_names=("f",), loop_tasks=50)
    tasks = client.submit(count=30, line=LineRule(starts=20, period_ms=1_000))
    assert worker.tasks() == tasks[:20]


def test_a_rate_and_a_concurrency_hold_together(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=9, line=LineRule(concurrency=2, starts=3, period_ms=1_000))
    assert len(worker.inbox) == 2
    worker.complete(*worker.inbox)
    assert len(worker.inbox) == 1
    rig.pass_time(1_000)
    assert len(worker.inbox) == 2, "three may start, but two may run"


def test_an_entry_without_a_later_stamp_starts_nothing(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=3, line=TWO_A_SECOND)
    rig.apply_payload(encode_entry(Tick(EPOCH_MS + 10_000)))
    assert len(worker.inbox) == 2


def test_any_entry_with_a_later_stamp_will_do(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=3, line=TWO_A_SECOND)
    rig.now_ms += 1_000
    client.submit("nobody")
    assert len(worker.inbox) == 3


@given(
    starts=st.one_of(st.integers(1, 5), st.integers(PARTS - 1, 3 * PARTS)),
    period_ms=st.one_of(st.integers(10, 2_000), st.just(60_000)),
    course=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 60), st.booleans()), min_size=5, max_size=40),
)
@settings(max_examples=80, deadline=None)
def test_no_window_has_more_starts_than_the_rate(
    starts: int, period_ms: int, course: list[tuple[int, int, bool]]
) -> None:
    rig = Rig()
    client = rig.client()
    worker = rig.worker(names=("g",), loop_names=("f",), loop_tasks=4_000)
    dates: list[int] = []
    exact: list[int] = []       # when they would start if nothing were counted together
    submitted = 0
    for ms, count, ends in course:
        rig.pass_time(ms)
        if count:
            client.submit(count=count, line=LineRule(starts=starts, period_ms=period_ms))
            submitted += count
        while len(exact) < submitted and sum(date > rig.now_ms - period_ms for date in exact) < starts:
            exact.append(rig.now_ms)
        started = [number & 0xFFFFFF for number in worker.tasks()]
        dates += [rig.now_ms] * (max(started, default=len(dates)) - len(dates))
        if ends:
            worker.complete(*worker.inbox)
        assert not limits_known(rig) or len(limit_of(rig).window) <= PARTS + 1
    for first in dates:
        assert sum(first <= date < first + period_ms for date in dates) <= starts
    if starts <= PARTS:
        assert dates == exact
    else:
        assert all(date >= early for date, early in zip(dates, exact, strict=False)) and len(dates) <= len(exact)


def test_with_many_starts_in_a_period_they_are_counted_in_a_hundred_parts_of_it(rig: Rig) -> None:
    """Never too many, and at most a hundredth of the period late."""
    client = rig.client()
    worker = rig.worker(names=("g",), loop_names=("f",), loop_tasks=4_096)
    rule = LineRule(starts=1_000, period_ms=60_000)
    rig.now_ms += 7
    rig.pass_time(0)
    for _ in range(250):
        client.submit(count=4, line=rule)
        rig.pass_time(10)
    client.submit(line=rule)
    assert len(worker.inbox) == 1_000
    assert len(limit_of(rig).window) == 5
    date_ms = rig.leader.next_deadline_ms()
    assert date_ms is not None and EPOCH_MS + 60_007 <= date_ms <= EPOCH_MS + 60_007 + 600
    rig.pass_time(date_ms - rig.now_ms)
    assert len(worker.inbox) == 1_001


def test_a_limit_that_nobody_uses_is_remembered_until_its_starts_have_left_its_window(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    client.submit(count=2, line=TWO_A_SECOND)
    worker.complete(*worker.inbox)
    assert limits_known(rig) == 1
    client.submit(line=TWO_A_SECOND)
    assert worker.inbox == [], "or a rate could be had again and again by doing little at a time"
    rig.pass_time(1_000)
    worker.complete(*worker.inbox)
    rig.pass_time(1_000)
    assert limits_known(rig) == 0
    client.submit(count=2, line=TWO_A_SECOND)
    assert len(worker.inbox) == 2 and limit_of(rig).index == 2, "no index is used twice"


def test_a_thousand_limits_are_forgotten_in_a_few_ticks(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    for share in range(1_000):
        client.submit(line=LineRule(f"s{share}", starts=1, period_ms=1_500))
        worker.complete(*worker.inbox)
        rig.now_ms += 2
    ticks = 0
    while limits_known(rig):
        date_ms = rig.leader.next_deadline_ms()
        assert date_ms is not None
        rig.pass_time(max(0, date_ms - rig.now_ms))
        ticks += 1
    assert ticks <= 4
    assert not [item for item in rig.leader._tables.timers.heap if item[3] == 3]


def test_a_flood_of_limits_that_are_due_is_worked_off_in_several_entries(rig: Rig, monkeypatch) -> None:
    monkeypatch.setattr("cluster.state.timers.TIMER_TASKS_MAX", 10)
    client, worker = rig.client(), rig.worker(slots=100)
    for share in range(30):
        client.submit(count=2, line=LineRule(f"s{share}", starts=1, period_ms=1_000))
    worker.complete(*worker.inbox)
    rig.pass_time(1_000)
    assert len(worker.inbox) == 10
    assert rig.leader.next_deadline_ms() == rig.now_ms, "due at once: the leader ticks again"
    rig.pass_time(0)
    rig.pass_time(0)
    assert len(worker.inbox) == 30


# -- restored --------------------------------------------------------------------------------------------------------


def test_a_restored_machine_knows_what_runs_what_has_started_and_who_is_next(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    for name, share in (("f", "a"), ("g", "b"), ("f", "c")):
        client.submit(name, 4, line=LineRule(share, "l", concurrency=2, starts=3, period_ms=500))
        client.submit(name, 4, line=LineRule(share, concurrency=1))
        rig.pass_time(20)
    restored = restore(rig.leader.image())
    restored.check()
    assert_equal(restored, rig.leader)
    for turn in range(30):
        if worker.inbox and turn % 3:
            worker.complete(worker.inbox[0])
        else:
            rig.pass_time(100)
        restored.apply(len(rig.log), 1, rig.log[-1], None)
        assert_equal(restored, rig.leader)
        assert list(restored.image()) == list(rig.leader.image())


# -- what people see -------------------------------------------------------------------------------------------------


def test_status_says_what_is_held_back_by_which_limit(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9, names=("f", "g"))
    client.submit("f", 5, line=LineRule("a", concurrency=2))
    client.submit("g", 9, line=LineRule(limit="smtp", starts=3, period_ms=10_000))
    client.submit("g", 3, line=LineRule("b", "smtp", starts=3, period_ms=10_000))
    status = rig.leader.status()
    smtp, of_f = status["limits"]
    assert smtp == {
        "name": "smtp",
        "share": "",
        "ready": 9,
        "running": 3,
        "concurrency": 0,
        "rate": "3/10s",
        "until_ms": EPOCH_MS + 10_000,
        "why": "limit smtp: as many have started as 3/10s allows",
    }
    assert (of_f["name"], of_f["share"], of_f["ready"], of_f["until_ms"]) == ("f", "a", 3, 0)
    assert of_f["why"] == "limit f, share a: 2 of 2 are with workers"
    assert status["limits_more"] == 0
    worker.expire()
    assert rig.leader.status()["limits"] == [], "what nobody serves is parked"
    assert rig.queue()["parked"] == 17


def test_a_single_task_says_what_it_waits_for(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=9)
    runs, waits = client.submit(count=2, line=ONE)
    limited = client.submit(count=3, line=LineRule("a", starts=2, period_ms=60_000))
    rows = {number: rig.leader.details(number).row for number in (runs, waits, limited[2])}
    assert rows[runs].why_held_back == ""
    assert (rows[waits].why_held_back, rows[waits].until_ms) == ("limit f: 1 of 1 are with workers", 0)
    why = "limit f, share a: as many have started as 2/m allows"
    assert (rows[limited[2]].why_held_back, rows[limited[2]].until_ms) == (why, EPOCH_MS + 60_000)
    worker.complete(*worker.inbox)
    assert rig.leader.details(waits).row.why_held_back == ""


def test_limits_take_a_bounded_part_of_the_status(rig: Rig) -> None:
    client = rig.client()
    rig.worker(names=("g",), loop_names=("f",), loop_tasks=2_000)
    for seq in (1, 2, 3):
        shares = [f"{number:04}" + "x" * 500 for number in range(400 * seq, 400 * seq + 400)]
        options = [Options(line=LineRule(share, concurrency=1)) for share in shares]
        first = 1_000 * seq
        groups = [TaskGroup("f", first + 2 * place, [b"", b""], given) for place, given in enumerate(options)]
        rig.apply(Submit(client.session, seq, seq, groups))
    status = rig.leader.status()
    assert 0 < len(status["limits"]) < 1_000 and len(status["limits"]) + status["limits_more"] == 1_200
    assert len(msgpack.encode(status)) < 1024 * 1024


def test_the_record_of_a_task_outlives_its_line(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(line=LineRule("a", concurrency=1))
    (keyed,) = client.submit("f", key="k", actor="A")
    worker.complete(*worker.inbox)
    worker.complete(*worker.inbox)
    worker.expire()
    assert limits_known(rig) == 0 and not rig.leader._tables.keys.by_key
    assert [rig.leader.details(number).row.state for number in (task, keyed)] == ["completed"] * 2
