"""Delays, expiry, and the entry's stamp as the only clock."""

from state_rig import EPOCH_MS, Rig, encode_entry

from cluster.state.commands import OUTCOME_CRASHED, OUTCOME_RETURNED, Tick
from cluster.state.effects import STATE_EXPIRED
from cluster.state.timers import TIMER_TASKS_MAX


def test_a_delayed_task_waits_for_its_time(rig: Rig):
    client, worker = rig.client(), rig.worker()
    tasks = client.submit(delay_ms=500)
    assert rig.queue()["delayed"] == 1
    assert rig.leader.state_of(tasks[0]) == "pending"
    rig.pass_time(499)
    assert worker.inbox == []
    rig.pass_time(1)
    assert worker.tasks() == tasks
    assert rig.queue()["delayed"] == 0


def test_a_task_with_a_date_waits_for_that_and_not_for_a_time(rig: Rig):
    """However late its command comes to the log."""
    client, worker = rig.client(), rig.worker()
    command = client.submit_command(at_ms=EPOCH_MS + 500)
    rig.pass_time(300)
    rig.apply(command)
    assert rig.queue()["delayed"] == 1
    rig.pass_time(199)
    assert worker.inbox == []
    rig.pass_time(1)
    assert len(worker.tasks()) == 1


def test_a_date_that_is_over_is_right_away(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    assert client.submit(at_ms=EPOCH_MS - 1) + client.submit(at_ms=1) == worker.tasks()


def test_any_entry_with_a_later_stamp_will_do(rig: Rig):
    client, worker = rig.client(), rig.worker(prefetch=2)
    (delayed,) = client.submit(delay_ms=500)
    rig.now_ms += 500
    (other,) = client.submit("nobody")
    assert worker.tasks() == [delayed]
    assert rig.leader.state_of(other) == "pending"


def test_a_delayed_task_waits_behind_those_that_became_ready_before(rig: Rig):
    client = rig.client()
    delayed = client.submit(delay_ms=10)
    first = client.submit()
    rig.pass_time(10)
    last = client.submit()
    assert rig.worker(prefetch=9).tasks() == first + delayed + last


def test_the_next_deadline_is_the_earliest_date(rig: Rig):
    client = rig.client()
    assert rig.leader.next_deadline_ms() is None
    client.submit(delay_ms=500)
    client.submit(expires_ms=200)
    client.submit(delay_ms=300, expires_ms=900)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + 200
    rig.pass_time(200)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + 300
    rig.pass_time(700)
    assert rig.leader.next_deadline_ms() == EPOCH_MS + 3_600_000 + 1_000, "only the results of what expired are left"


def test_time_does_not_go_back(rig: Rig):
    client, worker = rig.client(), rig.worker()
    rig.pass_time(1_000)
    rig.now_ms -= 5_000
    tasks = client.submit(delay_ms=100)
    assert rig.leader.now_ms == EPOCH_MS + 1_000
    rig.now_ms = EPOCH_MS
    rig.pass_time(1_099)
    assert worker.inbox == []
    rig.pass_time(1)
    assert worker.tasks() == tasks


def test_an_entry_without_a_stamp_goes_by_the_last_one(rig: Rig):
    client, worker = rig.client(), rig.worker()
    client.submit(delay_ms=100)
    rig.apply_payload(encode_entry(Tick(EPOCH_MS + 10_000)))
    assert worker.inbox == []


def test_a_task_that_nobody_ran_in_time_is_expired(rig: Rig):
    client = rig.client()
    (task,) = client.submit(expires_ms=100)
    rig.pass_time(100)
    (result,) = rig.effects.results[client.session]
    assert (result.task, result.state, result.attempts) == (task, STATE_EXPIRED, 0)
    assert rig.queue()["ready"] == 0 and rig.queue()["expired"] == 1
    assert rig.worker().inbox == []


def test_a_delayed_task_can_expire_before_its_time(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(delay_ms=1_000, expires_ms=100)
    rig.pass_time(100)
    assert rig.leader.state_of(task) == "expired"
    assert rig.queue()["delayed"] == 0
    rig.pass_time(1_000)
    assert worker.inbox == []


def test_a_task_that_becomes_ready_at_the_moment_it_expires_is_expired(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(delay_ms=100, expires_ms=100)
    rig.pass_time(100)
    assert worker.inbox == []
    assert rig.leader.state_of(task) == "expired"


def test_a_task_that_was_handed_out_does_not_expire(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(expires_ms=100)
    rig.pass_time(1_000)
    assert rig.leader.state_of(task) == "processing"
    worker.complete(*worker.inbox)
    assert rig.leader.state_of(task) == "completed"


def test_a_task_that_comes_back_after_its_date_is_expired(rig: Rig):
    client, worker = rig.client(), rig.worker(slots=2)
    returned, crashed = client.submit(count=2, expires_ms=100)
    rig.pass_time(100)
    worker.end(worker.inbox[0], OUTCOME_RETURNED)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    assert [rig.leader.state_of(task) for task in (returned, crashed)] == ["expired", "expired"]
    assert rig.leader.result(returned).attempts == 1


def test_a_flood_of_dates_is_worked_off_in_several_entries(rig: Rig):
    client = rig.client()
    for _ in range(6):
        client.submit(count=1_024, delay_ms=100)
    rig.pass_time(100)
    assert rig.queue()["ready"] == TIMER_TASKS_MAX
    assert rig.leader.next_deadline_ms() == rig.now_ms, "due at once: the leader ticks again"
    rig.pass_time(0)
    assert rig.queue()["ready"] == 6 * 1_024
    assert rig.leader.next_deadline_ms() is None


def test_cancelled_and_delayed_is_gone_for_good(rig: Rig):
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(delay_ms=100)
    client.cancel(task)
    assert rig.queue()["delayed"] == 0
    rig.pass_time(100)
    assert worker.inbox == []
    assert rig.leader.state_of(task) == "cancelled"
