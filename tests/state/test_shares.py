"""Tasks of different shares wait in lines of their own, which take turns."""

from collections import OrderedDict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_rig import assert_equal, restore
from msgspec import structs
from state_rig import Client, Rig, Worker, outcome_of

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    PREFETCH_AUTO,
    Complete,
    Failure,
    LineRule,
    Options,
    RetryRule,
    Submit,
    TaskGroup,
)
from cluster.state.effects import ANSWER_REFUSED
from cluster.state.lines import Line


def of(share: str, **options: object) -> dict[str, object]:
    return {"line": LineRule(share=share), **options}


def drain(worker: Worker) -> list[int]:
    """Completes one task after the other; returns their ids in the order in which they ran."""
    order: list[int] = []
    while worker.inbox:
        order.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    return order


def lines_of(rig: Rig) -> list[Line]:
    return [channel for channel in rig.leader._tables.queues.channels.values() if isinstance(channel, Line)]


def nothing_is_left(rig: Rig) -> bool:
    tables = rig.leader._tables
    return not (lines_of(rig) or tables.lines.bundles or tables.queues.bundles or tables.limits.by_index)


# -- turns -----------------------------------------------------------------------------------------------------------


def test_shares_take_turns(rig: Rig) -> None:
    client = rig.client()
    a, b = client.submit(count=3, **of("a")), client.submit(count=3, **of("b"))
    assert drain(rig.worker()) == [a[0], b[0], a[1], b[1], a[2], b[2]]


def test_a_share_with_one_task_is_served_before_a_share_of_a_thousand_gets_its_third_turn(rig: Rig) -> None:
    client = rig.client()
    many = client.submit(count=1_000, **of("large"))
    worker = rig.worker()
    (one,) = client.submit(**of("small"))
    order = []
    while one not in order:
        order.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    assert order in ([many[0], one], [many[0], many[1], one])


@pytest.mark.parametrize("prefetch", [1, 4, PREFETCH_AUTO])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_no_share_gets_a_second_task_of_a_round_before_all_have_one(rig: Rig, slots: int, prefetch: int) -> None:
    client = rig.client()
    tasks = [client.submit(count=50, **of(f"s{share}")) for share in range(10)]
    worker = rig.worker(slots=slots, prefetch=prefetch)
    taken = [len([task for task in worker.tasks() if task in some]) for some in tasks]
    assert sum(taken) >= slots and max(taken) - min(taken) <= 1


def test_a_name_with_many_shares_gets_as_many_turns_as_one_without(rig: Rig) -> None:
    client = rig.client()
    for share in range(100):
        client.submit("f", 2, **of(f"s{share}"))
    plain = client.submit("g", 10)
    worker = rig.worker(names=("f", "g"))
    order = []
    for _ in range(20):
        order.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    assert [task in plain for task in order] == [False, True] * 10


def test_tasks_without_a_share_wait_in_a_line_that_has_turns_too(rig: Rig) -> None:
    client = rig.client()
    shared, plain = client.submit(count=2, **of("a")), client.submit(count=2)
    assert sorted(drain(rig.worker())[:2]) == sorted([shared[0], plain[0]])


def test_priorities_come_before_turns(rig: Rig) -> None:
    client = rig.client()
    low, high = client.submit(count=2, **of("a")), client.submit(count=3, **of("b", priority=9))
    assert drain(rig.worker()) == high + low


def test_a_share_has_a_line_for_each_task_name_queue_and_set_of_labels(rig: Rig) -> None:
    client = rig.client()
    for options in ({}, {"queue": "other"}, {"labels": ("gpu",)}):
        client.submit(**of("a", **options))
    client.submit("g", **of("a"))
    assert len(rig.leader._tables.lines.bundles) == 4
    worker = rig.worker(names=("f", "g"), queues=("default", "other"), labels=("gpu",), prefetch=9)
    assert len(worker.inbox) == 4


Submitted = tuple[int, int, int]        # share, priority, count


def expected(submitted: list[Submitted], ids: list[list[int]]) -> list[int]:
    """Shares as they are described, one task at a time: the highest priority, there the shares in turn."""
    lanes: dict[int, OrderedDict[int, deque[int]]] = {}
    for (share, priority, _), tasks in zip(submitted, ids, strict=True):
        lanes.setdefault(priority, OrderedDict()).setdefault(share, deque()).extend(tasks)
    order: list[int] = []
    for priority in sorted(lanes, reverse=True):
        ring = lanes[priority]
        while ring:
            share, lane = next(iter(ring.items()))
            order.append(lane.popleft())
            ring.move_to_end(share)
            if not lane:
                del ring[share]
    return order


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 5, 9)), st.integers(1, 6)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_turns_in_bulk_are_what_single_turns_would_be(submitted: list[Submitted]) -> None:
    rig = Rig()
    client = rig.client()
    ids = [client.submit(count=count, **of(f"s{share}", priority=priority)) for share, priority, count in submitted]
    assert drain(rig.worker()) == expected(submitted, ids)


# -- whatever else happens -------------------------------------------------------------------------------------------


def test_a_worker_that_comes_later_serves_all_shares_and_one_that_goes_leaves_them_parked(rig: Rig) -> None:
    client = rig.client()
    tasks = client.submit(count=2, **of("a")) + client.submit(count=2, **of("b"))
    assert rig.queue()["parked"] == 4
    (row,) = rig.leader.status()["parked"]
    assert (row["ready"], row["why"]) == (4, "no worker announces f for queue default"), "one row for all shares"
    worker = rig.worker()
    assert rig.queue()["parked"] == 0
    worker.expire()
    assert rig.queue()["parked"] == 4
    assert sorted(drain(rig.worker("w2"))) == tasks


def test_a_task_that_crashed_or_came_back_is_first_in_its_share(rig: Rig) -> None:
    for status in (OUTCOME_CRASHED, OUTCOME_RETURNED):
        client, worker = rig.client(f"c {status}"), rig.worker(f"w {status}")
        a, b = client.submit(count=3, **of("a")), client.submit(count=2, **of("b"))
        assert worker.tasks() == a[:1]
        worker.end(worker.inbox[0], status)
        order = drain(worker)
        assert [task for task in order if task in a] == a and [task for task in order if task in b] == b
        worker.expire()


def test_a_retry_goes_to_the_back_of_its_share(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    tasks = client.submit(count=3, **of("a", retries=1, retry=RetryRule(0, 0)))
    raised = outcome_of(worker.inbox[0], OUTCOME_FAILED)
    worker.report(structs.replace(raised, error=Failure("E", "", kinds=("E",))))
    assert drain(worker) == [*tasks[1:], tasks[0]]


def test_delayed_tasks_of_a_share_wait_in_its_line_when_they_are_due(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    a = client.submit(count=4, **of("a"))
    late = client.submit(count=2, **of("b", delay_ms=100))
    assert rig.queue()["delayed"] == 2
    rig.pass_time(100)
    assert drain(worker) == [a[0], a[1], late[0], a[2], late[1], a[3]]
    assert nothing_is_left(rig)


def test_a_cancelled_or_expired_task_is_passed_over(rig: Rig) -> None:
    client = rig.client()
    a, b = client.submit(count=3, **of("a")), client.submit(count=2, **of("b", expires_ms=50))
    client.cancel(a[0], a[2])
    rig.pass_time(50)
    assert [rig.leader.state_of(task) for task in b] == ["expired"] * 2
    assert drain(rig.worker()) == [a[1]]


def test_a_replayed_task_waits_in_a_line_of_its_share_again(rig: Rig) -> None:
    client = rig.client()
    (task,) = client.submit(**of("a"))
    client.cancel(task)
    assert nothing_is_left(rig)
    others = client.submit(count=2, **of("b"))
    assert client.replay(task) == 1
    assert drain(rig.worker()) == [others[0], task, others[1]]
    assert nothing_is_left(rig)


def test_what_must_go_alone_waits_for_an_idle_slot_and_is_not_overtaken_by_other_shares(rig: Rig) -> None:
    client = rig.client()
    first = rig.worker("first", prefetch=2)
    tasks = client.submit(count=2, **of("a"))
    first.expire()          # both were there: each goes alone from now on
    others = client.submit(count=4, **of("b"))
    worker = rig.worker("second", prefetch=2)
    assert [(a.task, a.alone) for a in worker.inbox] == [(tasks[0], True)]
    while tasks[1] not in worker.tasks():
        worker.complete(worker.inbox[0])
    assert worker.tasks() == [tasks[1]]
    assert drain(worker)[-1] in others


def test_a_draining_worker_gets_nothing_more_of_any_share(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    tasks = client.submit(count=2, **of("a"))
    worker.drain()
    worker.complete(*worker.inbox)
    assert worker.inbox == []
    assert rig.worker("w2").tasks() == [tasks[1]]


def test_an_event_loop_runs_tasks_of_many_shares_at_once(rig: Rig) -> None:
    client = rig.client()
    worker = rig.worker(names=("g",), loop_names=("f",), loop_tasks=30)
    for share in range(20):
        client.submit(count=2, **of(f"s{share}"))
    assert len(worker.inbox) == 30
    assert len({a.body for a in worker.inbox}) == 30


def test_keyed_tasks_and_shares_take_turns_at_a_slot(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(names=("f", "m"))
    keyed = client.submit("m", 3, key="k", actor="A")
    shared = client.submit("f", 3, **of("a"))
    assert drain(worker) == [keyed[0], shared[0], keyed[1], shared[1], keyed[2], shared[2]]


def test_a_share_may_have_tasks_with_and_without_a_limit(rig: Rig) -> None:
    """Those without are not held back by that of the others."""
    client, worker = rig.client(), rig.worker(slots=9)
    limited = client.submit(count=3, line=LineRule("a", concurrency=1))
    free = client.submit(count=3, **of("a"))
    assert sorted(worker.tasks()) == [limited[0], *free]


# -- what is left ----------------------------------------------------------------------------------------------------


def test_ten_thousand_shares_one_after_another_leave_nothing(rig: Rig) -> None:
    client = rig.client()
    worker = rig.worker(slots=100)
    for turn in range(100):
        tenants = range(100 * turn + 1, 100 * turn + 101)
        groups = [TaskGroup("f", tenant, [b""], Options(line=LineRule(f"tenant {tenant}"))) for tenant in tenants]
        rig.apply(Submit(client.session, turn + 1, turn + 1, groups))
        worker.complete(*worker.inbox)
    assert nothing_is_left(rig)
    assert len(rig.leader._tables.queues.specs) == 0, "no spec of a line is remembered"
    assert all(not ring for pool in rig.leader._tables.credit.pools.values() for ring in pool.ready)
    assert rig.leader._tables.queues.made >= 10_000, "no index is used twice"


def test_a_share_that_is_emptied_and_filled_in_one_entry_goes_on(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    client.submit(**of("a"))
    (line,) = lines_of(rig)
    outcome = outcome_of(worker.inbox.pop(), OUTCOME_COMPLETED)
    rig.apply(Complete(worker.session, 1, 1, [outcome]), client.submit_command(**of("a")))
    assert lines_of(rig) == [line] and len(worker.inbox) == 1


def test_a_machine_with_waiting_shares_is_restored_with_their_turns(rig: Rig) -> None:
    client = rig.client()
    worker = rig.worker()
    for share in "abc":
        client.submit(count=3, **of(share))
    worker.complete(*worker.inbox)
    restored = restore(rig.leader.image())
    restored.check()
    assert_equal(restored, rig.leader)
    for _ in range(7):
        worker.complete(worker.inbox[0])
        restored.apply(len(rig.log), 1, rig.log[-1], None)
        assert_equal(restored, rig.leader)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        LineRule(),
        LineRule("x" * 513),
        LineRule("a", limit="l"),
        LineRule(limit="x" * 513, concurrency=1),
        LineRule(concurrency=-1),
        LineRule(concurrency=10**10),
        LineRule(starts=1),
        LineRule(starts=1, period_ms=9),
        LineRule(starts=-1, period_ms=1_000),
        LineRule(starts=10**10, period_ms=1_000),
        LineRule(starts=1, period_ms=367 * 86_400_000),
        LineRule("a", period_ms=1_000),
    ],
)
def test_a_line_that_says_nothing_or_nonsense_is_refused(rig: Rig, line: LineRule) -> None:
    client: Client = rig.client()
    assert client.send(client.submit_command(line=line)).code == ANSWER_REFUSED


def test_a_key_has_no_line(rig: Rig) -> None:
    client = rig.client()
    assert client.send(client.submit_command(line=LineRule("a"), key="k", actor="A")).code == ANSWER_REFUSED
