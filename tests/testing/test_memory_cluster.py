"""A cluster in memory: its words are those of a blocking client, and what it runs really runs."""

import gc
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta

import pytest
from memory_tasks import (
    SEEN,
    Counter,
    Parcel,
    add,
    book,
    cautious,
    fail,
    leave,
    note,
    repack,
    run_a_loop,
    send,
    speak,
    stay,
    whereabouts,
)

from cluster import (
    BlockingClient,
    ClusterError,
    DeadlineExceeded,
    EncodeError,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
)
from cluster.testing import MemoryCluster


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


# -- the words of a blocking client -----------------------------------------------------------------------------------


def test_a_submitted_call_is_run_and_its_result_comes_back(memory_cluster):
    assert isinstance(memory_cluster, BlockingClient)
    assert memory_cluster.submit(add, 1, 2).result() == 3


def test_results_of_a_map_come_in_the_order_of_the_items(memory_cluster):
    batch = memory_cluster.map(add, range(3_000), b=1)
    assert batch.results() == list(range(1, 3_001))
    assert batch.progress == (3_000, 0, 3_000)
    done = memory_cluster.map(add, range(5), b=1).as_completed()
    assert sorted(handle.result() for handle in done) == [1, 2, 3, 4, 5]


def test_bodies_are_encoded_and_decoded_as_on_the_way_to_another_machine(memory_cluster):
    parcel = Parcel(1, "fragile")
    moved = memory_cluster.submit(repack, parcel).result()
    assert moved == Parcel(2, "fragile") and parcel.weight == 1
    with pytest.raises(EncodeError):
        memory_cluster.submit(repack, object())
    with pytest.raises(TaskFailed, match="a value of type object cannot travel") as failed:
        memory_cluster.submit(stay).result()
    assert failed.value.type == "EncodeError"


def test_what_a_function_raises_is_raised_with_its_traceback(memory_cluster):
    with pytest.raises(TaskFailed, match="not here") as failed:
        memory_cluster.submit(fail, "not here").result()
    assert failed.value.type == "LookupError"
    assert "memory_tasks.py" in failed.value.traceback and "cluster/" not in failed.value.traceback


def test_a_function_knows_its_attempt_and_says_how_far_it_is(memory_cluster):
    handle = memory_cluster.submit(speak.options(timeout="10m"))
    number, attempt, name, deadline, cancelled = handle.result()
    assert (number, attempt, name, cancelled) == (handle.id, 1, "memory_tasks:speak", False)
    assert abs(deadline - memory_cluster.now() - timedelta(minutes=10)) < timedelta(seconds=1)
    assert handle.log().endswith("INFO three of 4\n")


def test_tasks_can_be_looked_at_cancelled_and_replayed(memory_cluster):
    handle = memory_cluster.submit(note.options(delay="1h"), "late")
    assert [info.name for info in memory_cluster.tasks(state="pending")] == ["memory_tasks:note"]
    handle.cancel()
    with pytest.raises(TaskCancelled):
        handle.result()
    assert memory_cluster.task(handle.id).state == "cancelled"
    assert memory_cluster.replay([handle.id]) == 1
    assert memory_cluster.handle(handle.id).result() == "late"
    (record,) = memory_cluster.records([handle.id])
    assert record.state == "completed"
    status = memory_cluster.status()
    assert status["leader"] == "b1" and [worker["node"] for worker in status["workers"]] == ["w1"]


def test_events_of_a_task_are_told(memory_cluster):
    handle = memory_cluster.submit(book.options(delay="1s"), "a1")
    told = [(event.kind, event.attempt) for event in handle.watch()]
    assert told == [("queued", 1), ("retrying", 1), ("finished", 2)]


def test_an_actor_keeps_its_state_between_calls_and_each_key_has_its_own(memory_cluster):
    one, other = memory_cluster.actor(Counter, key="one"), memory_cluster.actor(Counter, key="other")
    assert [one.up(), one.up(), other.up(), one.up()] == [1, 2, 1, 3]
    assert sorted(SEEN) == ["started one", "started other"]


def test_plain_functions_run_in_the_thread_of_the_test_and_without_a_loop(memory_cluster):
    assert memory_cluster.submit(whereabouts).result() == threading.current_thread().name
    assert memory_cluster.submit(run_a_loop).result() == "ran"


def test_what_a_test_replaces_is_replaced_for_the_functions_too(memory_cluster, monkeypatch):
    replaced: list[object] = []
    monkeypatch.setattr("memory_tasks.SEEN", replaced)
    memory_cluster.submit(note, "here").result()
    assert replaced == ["here"]


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_pause_before_a_retry_takes_virtual_time(memory_cluster):
    handle = memory_cluster.submit(book, "a1")
    memory_cluster.advance("10m")
    assert handle.state() == "pending" and SEEN == ["a1"]
    began = memory_cluster.now()
    assert handle.result() == 2
    assert timedelta(minutes=10) < memory_cluster.now() - began < timedelta(hours=1)
    assert [attempt.outcome for attempt in memory_cluster.task(handle.id).attempts] == ["failed", "completed"]


def test_a_call_that_would_expire_before_its_date_is_refused_whoever_makes_it(memory_cluster):
    """By the clock of the client: an hour later the same call is taken."""
    dated = {"at": memory_cluster.now() + timedelta(hours=2), "expires": "1h"}
    up = memory_cluster.actor(Counter).up.options(**dated)

    async def submit():
        return await memory_cluster.client.submit(add.options(**dated), 1, 2)

    calls = [
        lambda: memory_cluster.submit(add.options(**dated), 1, 2),
        lambda: memory_cluster.map(add.options(**dated), [1], second=2),
        lambda: memory_cluster.run(submit),
        up,
        lambda: up.map([]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expires: 1h is no longer than until at, which is 2026-01-01 02:0"):
            call()
    memory_cluster.advance("1h1s")
    assert memory_cluster.submit(add.options(**dated), 1, 2).result() == 3


def test_a_delayed_task_has_been_done_when_its_delay_has_passed(memory_cluster):
    handle = memory_cluster.submit(note.options(delay="1h"), "late")
    memory_cluster.advance("59m")
    assert handle.state() == "pending" and SEEN == []
    memory_cluster.advance("1m")
    assert handle.state() == "completed" and SEEN == ["late"]


def test_a_task_expires_if_nobody_begins_it_in_time(make_memory_cluster):
    cluster = make_memory_cluster(workers=0)
    handle = cluster.submit(note.options(expires="5m"), "never")
    cluster.advance("4m")
    assert handle.state() == "pending"
    cluster.advance("61s")
    with pytest.raises(TaskExpired):
        handle.result(0)
    assert SEEN == []


def test_a_result_is_forgotten_when_its_time_is_over(memory_cluster):
    handle = memory_cluster.submit(add.options(result_ttl="1d"), 1, 2)
    assert handle.result() == 3
    memory_cluster.advance("23h")
    assert memory_cluster.task(handle.id).state == "completed"
    memory_cluster.advance("2h")
    with pytest.raises(TaskNotFound):
        memory_cluster.task(handle.id)


def test_a_wait_with_a_timeout_ends_with_it(memory_cluster):
    handle = memory_cluster.submit(add.options(delay="1h"), 1, 2)
    began = memory_cluster.now()
    with pytest.raises(DeadlineExceeded, match="no result after 600 s"):
        handle.result("10m")
    assert memory_cluster.now() - began == timedelta(minutes=10)
    assert handle.result() == 3


def test_a_wait_in_vain_ends_and_says_what_it_waited_for(memory_cluster):
    handle = memory_cluster.submit(send, "anna")
    with pytest.raises(DeadlineExceeded, match=r"memory_tasks:send\) is pending: .*mail") as failed:
        handle.result()
    assert failed.value.outcome == "unknown"


def test_a_wait_without_a_timeout_ends_after_the_patience(make_memory_cluster):
    cluster = make_memory_cluster(patience="2h")
    handle = cluster.submit(add.options(delay="3h"), 1, 2)
    with pytest.raises(DeadlineExceeded, match="2:00:00 of virtual time"):
        handle.result()
    assert handle.result() == 3


def test_a_task_that_takes_longer_than_its_limit_is_ended_and_never_called(memory_cluster):
    memory_cluster.takes(note, "20s")
    handle = memory_cluster.submit(note.options(timeout="10s"), "late")
    with pytest.raises(TaskFailed) as failed:
        handle.result()
    assert failed.value.type == "TimeLimitExceeded" and SEEN == []


def test_each_attempt_may_take_another_time(memory_cluster):
    memory_cluster.takes(note, "20s", "1s")
    handle = memory_cluster.submit(note.options(timeout="10s", retry=2), "again")
    assert handle.result() == "again"
    assert [attempt.outcome for attempt in memory_cluster.task(handle.id).attempts] == ["timed out", "completed"]
    memory_cluster.takes(note, 0)
    began = memory_cluster.now()
    memory_cluster.submit(note, "at once").result()
    assert memory_cluster.now() - began < timedelta(seconds=1)


def test_two_slots_work_side_by_side_in_virtual_time(memory_cluster):
    memory_cluster.takes(add, "10s")
    began = memory_cluster.now()
    memory_cluster.map(add, range(4), b=1).results()
    assert timedelta(seconds=20) <= memory_cluster.now() - began < timedelta(seconds=21)


def test_a_cancelled_task_hears_of_it_while_it_runs(memory_cluster):
    memory_cluster.takes(cautious, "20s")
    handle = memory_cluster.submit(cautious)
    memory_cluster.advance("5s")
    assert memory_cluster.task(handle.id).state == "processing"
    handle.cancel(grace="1m")
    assert handle.result() == "stopped"
    handle = memory_cluster.submit(cautious)
    memory_cluster.advance("5s")
    handle.cancel(grace="5s")
    with pytest.raises(TaskCancelled):
        handle.result("10s")


def test_attempts_have_the_dates_of_virtual_time(memory_cluster):
    memory_cluster.takes(add, "20s")
    began = memory_cluster.now()
    handle = memory_cluster.submit(add, 1, 2)
    handle.result()
    (attempt,) = memory_cluster.task(handle.id).attempts
    assert attempt.started_at is not None and attempt.ended_at is not None
    assert attempt.started_at - began < timedelta(seconds=1)
    assert abs(attempt.ended_at - attempt.started_at - timedelta(seconds=20)) < timedelta(seconds=1)


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_function_that_ends_its_process_is_a_crash_with_evidence(memory_cluster):
    with pytest.raises(TaskDead) as dead:
        memory_cluster.submit(leave, 7).result()
    assert dead.value.evidence.exit_code == 7
    assert memory_cluster.submit(add, 1, 2).result() == 3


def test_closing_ends_everything_and_leaves_nothing():
    before = threading.enumerate()
    with MemoryCluster() as cluster:
        handle = cluster.submit(add.options(delay="1h"), 1, 2)
        world = weakref.ref(cluster._made)
    assert threading.enumerate() == before
    calls = ((handle.result, ()), (cluster.status, ()), (cluster.advance, ("1s",)), (cluster.submit, (add, 1, 2)))
    for call, arguments in calls:
        with pytest.raises(ClusterError, match="closed"):
            call(*arguments)
    with pytest.raises(ClusterError, match="once"):
        cluster.start()
    cluster.close()
    del cluster, handle, call, calls
    gc.collect()
    assert world() is None
