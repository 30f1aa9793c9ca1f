"""What waits for slots that a worker could open, and for no other reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_rig import Rig, Worker

from cluster.state.backlog import LOOKED_AT_MAX, Backlog, share_of
from cluster.state.commands import OUTCOME_RETURNED, LineRule


def grown(rig: Rig, *workers: Worker) -> list[Backlog]:
    """Looking changes nothing."""
    before = rig.leader.full_digest()
    found = rig.leader.backlogs([worker.session for worker in workers])
    assert rig.leader.full_digest() == before
    return found


def ready(rig: Rig, worker: Worker) -> int:
    (backlog,) = grown(rig, worker)
    assert backlog.sessions == [worker.session]
    return backlog.ready


@pytest.fixture
def worker(rig: Rig) -> Worker:
    return rig.worker(slots=8, slots_min=1, names=("f", "g"))


def test_what_slots_have_taken_does_not_wait(rig, worker):
    assert ready(rig, worker) == 0
    client = rig.client()
    client.submit(count=5)
    client.submit("g", 3, priority=9)
    assert ready(rig, worker) == 7
    worker.resize(4)
    assert ready(rig, worker) == 4


def test_a_worker_that_has_opened_all_is_not_asked_for_nor_one_that_drains(rig, worker):
    rig.client().submit(count=20)
    fixed, drains = rig.worker("w2", slots=2), rig.worker("w3", slots=2, slots_min=1)
    drains.drain()
    worker.resize(8)
    assert grown(rig, worker, fixed, drains) == [] and rig.leader.backlogs([77]) == []


def test_what_it_may_not_run_is_not_counted(rig, worker):
    client = rig.client()
    client.submit("nobody", 5)
    client.submit(count=5, labels=("gpu",))
    client.submit(count=5, queue="other")
    client.submit(count=5, delay_ms=5_000)
    assert ready(rig, worker) == 0


def test_what_has_ended_where_it_waited_is_not_counted(rig, worker):
    client = rig.client()
    tasks = client.submit(count=10)
    client.cancel(*tasks[5:])
    (backlog,) = grown(rig, worker)
    assert backlog.ready == 4 and backlog.last == (tasks[4], 1)


def test_the_last_one_is_found_though_all_of_a_lower_priority_have_ended(rig, worker):
    client = rig.client()
    client.submit(count=1)
    client.cancel(*client.submit(count=10, priority=2))
    tasks = client.submit(count=4)
    (backlog,) = grown(rig, worker)
    assert backlog.ready == 4 and backlog.last == (tasks[3], 1)


def test_the_last_one_is_far_behind_the_first_though_many_behind_it_have_ended(rig, worker):
    client = rig.client()
    tasks = client.submit(count=1_000)
    client.cancel(*client.submit(count=500))
    (backlog,) = grown(rig, worker)
    assert backlog.ready == 999
    assert tasks.index(backlog.last[0]) > 400, "how long the first one waits says nothing of the others"


def test_a_limit_lets_count_what_it_has_room_for(rig, worker):
    client = rig.client()
    client.submit(count=1)
    client.submit(count=20, line=LineRule(concurrency=3))
    assert ready(rig, worker) == 3
    client.submit("g", 20, line=LineRule(limit="smtp", concurrency=2))
    client.submit("g", 20, line=LineRule(limit="smtp", share="b", concurrency=2))
    assert ready(rig, worker) == 5
    worker.resize(8)
    assert rig.leader.backlogs([worker.session]) == []


def test_what_a_limit_holds_back_is_not_counted(rig, worker):
    client = rig.client()
    client.submit(count=20, line=LineRule(concurrency=1))
    assert ready(rig, worker) == 0 and len(worker.inbox) == 1


def test_of_a_key_without_a_home_one_task_counts_and_of_a_key_with_one_none(rig, worker):
    client = rig.client()
    for key in ("a", "b", "c"):
        client.submit(count=5, key=key, actor="A")
    assert ready(rig, worker) == 2, "the first has its home at the slot that is open"


def test_workers_of_one_kind_share_and_so_do_kinds_that_serve_the_same(rig):
    client = rig.client()
    workers = [rig.worker(f"w{number}", slots=8, slots_min=1) for number in range(2)]
    others = rig.worker("w3", slots=8, slots_min=1, names=("f", "g"))
    client.submit(count=3 + 9)
    first, second = grown(rig, *workers, others)
    assert (first.sessions, second.sessions) == ([worker.session for worker in workers], [others.session])
    assert sorted((first.ready, second.ready)) == [4, 5]
    others.resize(8)
    (first,) = grown(rig, *workers, others)
    assert first.ready == 2, "what is left is theirs alone"


def test_the_last_one_waits_until_it_was_handed_out(rig, worker):
    client = rig.client()
    tasks = client.submit(count=3)
    (backlog,) = grown(rig, worker)
    assert backlog.last == (tasks[2], 1)
    for _ in range(2):
        assert rig.leader.still_waits(backlog.pool, *backlog.last)
        worker.complete(*worker.inbox)
    assert not rig.leader.still_waits(backlog.pool, *backlog.last)
    worker.end(worker.inbox[0], OUTCOME_RETURNED)
    assert not rig.leader.still_waits(backlog.pool, *backlog.last), "it has run there, or somewhere"
    assert not rig.leader.still_waits(backlog.pool, 12345, 1)


def test_what_a_limit_has_come_to_hold_back_waits_for_something_else(rig, worker):
    client = rig.client()
    client.submit(count=1)
    tasks = client.submit(count=4, line=LineRule(concurrency=1))
    (backlog,) = grown(rig, worker)
    assert backlog.last == (tasks[3], 1) and rig.leader.still_waits(backlog.pool, *backlog.last)
    worker.complete(*worker.inbox)
    assert not rig.leader.still_waits(backlog.pool, *backlog.last)


def test_many_channels_are_not_all_looked_at(rig, worker):
    client = rig.client()
    for number in range(LOOKED_AT_MAX + 20):
        client.submit(key=str(number), actor="A")
    assert ready(rig, worker) == LOOKED_AT_MAX


def test_lines_with_one_task_each_are_for_all_who_could_take_them(rig):
    workers = [rig.worker(f"w{number}", slots=8, slots_min=1, labels=(f"host-{number}",)) for number in range(4)]
    client = rig.client()
    client.submit(count=4)
    for number in range(40):
        client.submit(line=LineRule(share=f"tenant-{number}"))
    shares = [backlog.ready for backlog in grown(rig, *workers)]
    assert sum(shares) == 40 and max(shares) - min(shares) <= 1


def test_a_look_at_many_kinds_of_workers_is_bounded_for_all_together(rig, monkeypatch):
    monkeypatch.setattr("cluster.state.backlog.LOOKED_AT_IN_ALL_MAX", 40)
    workers = [rig.worker(f"w{number}", slots=8, slots_min=1, labels=(f"host-{number}",)) for number in range(4)]
    client = rig.client()
    client.submit(count=4)
    for number in range(20):
        client.submit(count=4, line=LineRule(share=f"tenant-{number}"))
    assert [backlog.ready for backlog in grown(rig, *workers)] == [10] * 4
    assert all(any(backlog.last) for backlog in grown(rig, *workers))


@given(st.integers(0, 5_000), st.integers(1, 1_000))
def test_shares_sum_up_to_what_is_ready(ready, sharing):
    shares = [share_of(ready, place, sharing) for place in range(sharing)]
    assert sum(shares) == ready and max(shares) - min(shares) <= 1
