"""Who gets what, and in which order."""

from collections import Counter

import pytest
from state_rig import PREFETCH_AUTO, Rig, outcome_of

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    Options,
    Submit,
    TaskGroup,
)
from cluster.state.credit import ESTIMATE_UNKNOWN_US, SLOT_MESSAGES_MAX


def estimate_of(rig: Rig, name: str = "f") -> int:
    return rig.leader._tables.queues.names[name].estimate_us


def teach(rig: Rig, run_us: int, name: str = "f") -> None:
    """Lets a name's estimate settle near `run_us`, with a worker that leaves again."""
    client = rig.client(f"teacher of {name}")
    worker = rig.worker(f"pupil of {name}", names=(name,))
    for _ in range(120):
        client.submit(name)
        worker.complete(*worker.inbox, run_us=run_us)
    worker.expire()
    assert abs(estimate_of(rig, name) - run_us) <= 8


def drain(worker) -> list[int]:
    """Completes one task after the other; returns their ids in the order in which they ran."""
    order = []
    while worker.inbox:
        order.append(worker.inbox[0].task)
        worker.complete(worker.inbox[0])
    return order


# -- order ---------------------------------------------------------------------------------------------------


def test_tasks_of_one_lane_run_first_in_first_out(rig):
    client, worker = rig.client(), rig.worker()
    tasks = client.submit(count=3) + client.submit(count=2)
    assert drain(worker) == tasks


def test_the_highest_priority_goes_first(rig):
    client = rig.client()
    low, middle, high = (client.submit(priority=priority) for priority in (0, 5, 9))
    assert drain(rig.worker()) == high + middle + low


def test_priority_counts_across_names_and_queues(rig):
    client = rig.client()
    low = client.submit("f", priority=1)
    high = client.submit("g", priority=2, queue="other")
    assert drain(rig.worker(names=("f", "g"), queues=("default", "other"))) == high + low


def test_names_of_one_priority_take_turns(rig):
    client = rig.client()
    of_f, of_g = client.submit("f", count=3), client.submit("g", count=3)
    order = drain(rig.worker(names=("f", "g")))
    assert order == [of_f[0], of_g[0], of_f[1], of_g[1], of_f[2], of_g[2]]


def test_a_task_of_a_later_command_is_handed_out_at_once_if_a_slot_is_idle(rig):
    worker, client = rig.worker(), rig.client()
    tasks = client.submit()
    assert worker.tasks() == tasks
    assert rig.effects.assignments.keys() == {worker.session}


def test_dispatch_comes_at_the_end_of_the_entry(rig):
    """A higher priority that comes later in the same entry is still first."""
    client, worker = rig.client(), rig.worker()
    rig.apply(
        Submit(client.session, 1, 1, [TaskGroup("f", 1, [b"low"])]),
        Submit(client.session, 2, 1, [TaskGroup("f", 2, [b"high"], Options(priority=9))]),
    )
    assert [assignment.body for assignment in worker.inbox] == [b"high"]


def test_names_take_turns_on_busy_slots_as_well(rig):
    client = rig.client()
    blocker = client.submit("f")
    of_f, of_g = client.submit("f", count=4), client.submit("g", count=4)
    worker = rig.worker(names=("f", "g"), prefetch=7)
    assert set(worker.tasks()) == {*blocker, *of_f[:3], *of_g[:3]}


# -- who is served -------------------------------------------------------------------------------------------


def test_only_workers_that_announce_the_name_and_consume_the_queue_are_served(rig):
    client = rig.client()
    right = rig.worker("right", names=("f", "x"), queues=("q", "p"))
    wrong_name = rig.worker("wrong name", names=("x",), queues=("q",))
    wrong_queue = rig.worker("wrong queue", names=("f",), queues=("p",))
    client.submit("f", queue="q")
    assert (len(right.inbox), len(wrong_name.inbox), len(wrong_queue.inbox)) == (1, 0, 0)


def test_a_name_that_no_live_worker_announces_is_parked_until_one_does(rig):
    client, other = rig.client(), rig.worker("other", names=("g",))
    tasks = client.submit("f", count=2)
    assert rig.queue()["parked"] == rig.queue()["ready"] == 2
    why = "no worker announces f for queue default"
    assert rig.leader.status()["parked"] == [{"queue": "default", "name": "f", "labels": [], "ready": 2, "why": why}]
    worker = rig.worker("late")
    assert rig.queue()["parked"] == 0
    assert drain(worker) == tasks
    worker.expire()
    client.submit("f")
    assert rig.queue()["parked"] == 1
    assert other.inbox == []


def test_a_parked_name_stands_in_nobodys_way(rig):
    client, worker = rig.client(), rig.worker(names=("g",))
    client.submit("nobody", count=3, priority=9)
    tasks = client.submit("g")
    assert drain(worker) == tasks


def test_the_order_in_which_a_worker_lists_its_names_does_not_matter(rig):
    rig.worker("a", names=("f", "g"), queues=("p", "q"))
    rig.worker("b", names=("g", "f", "g"), queues=("q", "p"))
    assert len(rig.leader._tables.credit.pools) == 1


# -- which slot ----------------------------------------------------------------------------------------------


def test_idle_slots_come_first(rig):
    client = rig.client()
    worker = rig.worker(slots=4, prefetch=3)
    client.submit(count=4)
    assert Counter(a.slot for a in worker.inbox) == {0: 1, 1: 1, 2: 1, 3: 1}
    worker.complete(worker.inbox[2])
    client.submit()
    assert Counter(a.slot for a in worker.inbox) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_busy_slots_are_served_in_turn(rig):
    client = rig.client()
    workers = [rig.worker(name, slots=2, prefetch=5) for name in ("a", "b", "c")]
    for count in (1, 4, 2, 7, 1):
        client.submit(count=count)
        per_slot = [sum(a.slot == slot for a in worker.inbox) for worker in workers for slot in (0, 1)]
        assert max(per_slot) - min(per_slot) <= 1


def test_a_busy_slot_keeps_its_turn_when_one_of_its_tasks_ends(rig):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=5)
    client.submit(count=4)
    worker.complete(next(a for a in worker.inbox if a.slot == 0))
    (task,) = client.submit()
    assert [a.slot for a in worker.inbox if a.task == task] == [0]


def test_a_batch_is_spread_over_the_slots_and_each_gets_its_part_in_order(rig):
    client = rig.client()
    worker = rig.worker(slots=2, prefetch=3)
    tasks = client.submit(count=9)
    first = [a.task for a in worker.inbox if a.slot == 0]
    second = [a.task for a in worker.inbox if a.slot == 1]
    assert (first, second) == (tasks[0:6:2], tasks[1:6:2])


def test_workers_of_different_kinds_share_a_batch(rig):
    """One announces more names than the other, so they are no single pool."""
    client = rig.client()
    old = rig.worker("old", slots=2, prefetch=50)
    new = rig.worker("new", names=("f", "g"), slots=2, prefetch=50)
    client.submit(count=100)
    assert len(old.inbox) == len(new.inbox) == 50


def test_the_oldest_idle_slot_is_next(rig):
    client = rig.client()
    a, b = rig.worker("a"), rig.worker("b")
    client.submit(count=2)
    b.complete(*b.inbox)
    a.complete(*a.inbox)
    client.submit()
    assert (len(a.inbox), len(b.inbox)) == (0, 1)


# -- credit --------------------------------------------------------------------------------------------------


def test_prefetch_1_is_strict(rig):
    client, worker = rig.client(), rig.worker(slots=2, prefetch=1)
    client.submit(count=5)
    assert [a.slot for a in worker.inbox] == [0, 1]
    worker.complete(worker.inbox[1])
    assert [a.slot for a in worker.inbox] == [0, 1]


def test_a_fixed_prefetch_ignores_the_estimate(rig):
    client, worker = rig.client(), rig.worker(prefetch=7)
    client.submit(count=20)
    assert len(worker.inbox) == 7


def test_a_name_that_never_ran_is_not_prefetched(rig):
    client, worker = rig.client(), rig.worker(prefetch=PREFETCH_AUTO)
    client.submit(count=5)
    assert [a.estimate_us for a in worker.inbox] == [ESTIMATE_UNKNOWN_US]


def test_the_estimate_moves_by_an_eighth_of_the_difference(rig):
    client, worker = rig.client(), rig.worker()
    client.submit(count=3)
    worker.complete(worker.inbox[0], run_us=4_000)
    assert estimate_of(rig) == 20_000 - 2_000
    worker.complete(worker.inbox[0], run_us=100_000)
    assert estimate_of(rig) == 18_000 + 82_000 // 8
    worker.complete(worker.inbox[0], run_us=-(1 << 62))
    assert estimate_of(rig) == 1, "nonsense is bounded"


def test_auto_fills_a_slot_up_to_its_work_and_the_last_may_overshoot(rig):
    teach(rig, 3_000)
    estimate_us = estimate_of(rig)
    client, worker = rig.client(), rig.worker(prefetch=PREFETCH_AUTO)
    client.submit(count=20)
    assert len(worker.inbox) == -(-20_000 // estimate_us) == 7
    assert {a.estimate_us for a in worker.inbox} == {estimate_us}


def test_auto_is_bounded_by_512_messages(rig):
    teach(rig, 1)
    client, worker = rig.client(), rig.worker(prefetch=PREFETCH_AUTO)
    client.submit(count=1_000)
    assert len(worker.inbox) == SLOT_MESSAGES_MAX


def test_a_slot_with_a_long_task_gets_no_more_and_the_others_do(rig):
    teach(rig, 1_000, "short")
    client, worker = rig.client(), rig.worker(slots=2, names=("long", "short"), prefetch=PREFETCH_AUTO)
    client.submit("long")
    client.submit("short", count=100)
    assert Counter(a.slot for a in worker.inbox)[0] == 1
    assert Counter(a.slot for a in worker.inbox)[1] >= 20


def test_an_assignment_keeps_the_estimate_it_was_counted_with(rig):
    teach(rig, 3_000)
    client, worker = rig.client(), rig.worker(prefetch=PREFETCH_AUTO)
    client.submit(count=7)
    counted = worker.inbox[0].estimate_us
    worker.complete(worker.inbox[0], run_us=60_000)
    assert estimate_of(rig) > 2 * counted
    assert {a.estimate_us for a in rig.leader.held_by(worker.session)} == {counted}
    worker.complete(*worker.inbox, run_us=60_000)
    (slot,) = rig.leader.session(worker.session).slots.values()
    assert (slot.count, slot.load_us) == (0, 0)


# -- alone ---------------------------------------------------------------------------------------------------


def with_a_crashed_task(rig: Rig, prefetch: int = 4):
    """A client, a worker of two slots, and the id of a task that crashed once and waits to be run alone."""
    client, worker = rig.client(), rig.worker("w", slots=2, prefetch=prefetch)
    (task,) = client.submit()
    client.submit(count=10)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    return client, worker, task


def test_a_task_that_goes_alone_waits_for_an_idle_slot_and_nothing_overtakes_it(rig):
    _, worker, task = with_a_crashed_task(rig)
    waiting = rig.queue()["ready"]
    assert task not in worker.tasks()
    while [a for a in worker.inbox if a.slot == 1]:
        worker.complete(next(a for a in worker.inbox if a.slot == 1))
        if task not in worker.tasks():
            assert rig.queue()["ready"] == waiting
        else:
            break
    (assignment,) = [a for a in worker.inbox if a.slot == 1]
    assert (assignment.task, assignment.attempt, assignment.alone) == (task, 2, True)


def test_a_slot_that_runs_a_task_alone_gets_nothing_until_it_ends(rig):
    client, worker, task = with_a_crashed_task(rig)
    while task not in worker.tasks():
        worker.complete(next(a for a in worker.inbox if a.slot == 1))
    (alone,) = [a for a in worker.inbox if a.task == task]
    client.submit(count=20)
    assert [a.task for a in worker.inbox if a.slot == alone.slot] == [task]
    worker.complete(alone)
    assert len([a for a in worker.inbox if a.slot == alone.slot]) == 4


def test_idle_slots_take_tasks_that_go_alone_one_each(rig):
    client = rig.client()
    doomed = rig.worker("doomed", prefetch=6)
    tasks = client.submit(count=6)
    doomed.expire()
    worker = rig.worker("next", slots=2, prefetch=6)
    assert worker.tasks() == tasks[:2]
    assert all(a.alone for a in worker.inbox)
    assert drain(worker) == tasks


def test_a_worker_that_leaves_while_a_task_waits_to_go_alone_leaves_nothing_behind(rig):
    _, worker, task = with_a_crashed_task(rig)
    assert rig.leader._tables.credit.dirty != {}
    worker.expire()
    assert rig.leader._tables.credit.dirty == {}
    assert rig.queue()["parked"] == rig.queue()["ready"] == 11
    assert task in drain(rig.worker("next"))


# -- returned ------------------------------------------------------------------------------------------------


def test_what_a_slot_hands_back_goes_to_the_front_in_order_with_its_attempt_raised(rig):
    client, worker = rig.client(), rig.worker(prefetch=4)
    tasks = client.submit(count=6)
    worker.report(*[outcome_of(a, OUTCOME_RETURNED) for a in reversed(worker.inbox[1:])])
    assert rig.queue()["ready"] == 5
    other = rig.worker("other", prefetch=5)
    assert other.tasks() == tasks[1:]
    assert [a.attempt for a in other.inbox] == [2, 2, 2, 1, 1]
    assert not any(a.alone for a in other.inbox)


@pytest.mark.parametrize("how", [OUTCOME_COMPLETED, OUTCOME_CRASHED])
def test_a_slot_that_handed_back_gets_nothing_until_its_running_task_ends(rig, how):
    client, worker = rig.client(), rig.worker(prefetch=3)
    client.submit(count=3)
    running, *waiting = worker.inbox
    worker.report(*[outcome_of(a, OUTCOME_RETURNED) for a in waiting])
    client.submit(count=3)
    assert worker.inbox == [running]
    worker.end(running, how)
    assert worker.inbox != []


def test_a_slot_that_handed_back_opens_although_it_still_holds_another(rig):
    """One assignment was on its way while the slot handed back; it stayed."""
    client, worker = rig.client(), rig.worker(prefetch=3)
    client.submit(count=6)
    running, returned, stayed = worker.inbox
    worker.report(outcome_of(returned, OUTCOME_RETURNED))
    assert worker.inbox == [running, stayed]
    worker.complete(running)
    assert len(worker.inbox) == 3


def test_a_slot_that_handed_back_opens_when_its_running_task_is_cancelled(rig):
    client, worker = rig.client(), rig.worker(prefetch=3)
    tasks = client.submit(count=3)
    worker.report(*[outcome_of(a, OUTCOME_RETURNED) for a in worker.inbox[1:]])
    worker.inbox.clear()
    client.cancel(tasks[0])
    assert worker.tasks() == tasks[1:]


def test_a_slot_that_handed_back_everything_is_idle(rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    tasks = client.submit(count=2)
    worker.report(*[outcome_of(a, OUTCOME_RETURNED) for a in worker.inbox])
    assert [(a.task, a.attempt) for a in worker.inbox] == [(tasks[0], 2), (tasks[1], 2)]


# -- cost ----------------------------------------------------------------------------------------------------


def test_lanes_forget_what_was_cancelled_in_them(rig):
    client = rig.client()
    client.submit(count=1)
    for _ in range(5):
        client.cancel(*client.submit(count=500))
    (channel,) = rig.leader._tables.queues.channels
    assert channel.waiting == 1
    assert channel.stale < 100
