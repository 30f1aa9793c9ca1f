"""Pages of the table of tasks, and one record whole."""

import random

import msgspec
import pytest
from state_rig import EPOCH_MS, Rig

from cluster.state import inspection
from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    TASK_NUMBER_BITS,
    Failure,
    Outcome,
)
from cluster.state.inspection import DATES_VISITED_MAX, ERROR_BYTES_MAX, PAGE_ROWS_MAX, VISITS_MAX
from cluster.state.machine import Machine
from cluster.state.task_rows import PLACE_NONE, PLACE_UNKNOWN, TaskDetails, TaskRow
from cluster.state.tasks import RUN_BITS, TaskTable, place_of
from cluster.wire import MESSAGE_BYTES_MAX, TaskRows, TaskShown


def everything(machine: Machine, limit: int = PAGE_ROWS_MAX, **asked: object) -> list[TaskRow]:
    """All pages, one behind the other."""
    rows: list[TaskRow] = []
    after = 0
    while True:
        page = machine.page(after, limit, **asked)  # type: ignore[arg-type]
        assert len(page.rows) <= limit
        rows += page.rows
        if not page.after:
            return rows
        after = page.after


def shown(rig: Rig, task: int) -> TaskDetails:
    found = rig.leader.details(task)
    assert found is not None
    assert found == rig.follower.details(task)
    (listed,) = [row for row in everything(rig.leader) if row.task == task]
    assert found.row == listed, "a list says the same of it"
    return found


# -- pages ------------------------------------------------------------------------------------------------------------


def test_a_place_is_that_of_the_table() -> None:
    table = TaskTable()
    ids = [random.Random(4).randrange(1 << 50) for _ in range(200)]
    assert all(table.shards[place_of(task)] is table.shard(task >> RUN_BITS) for task in ids)


def test_an_empty_table_has_one_empty_page(rig: Rig) -> None:
    page = rig.leader.page(0, 10)
    assert (page.rows, page.after) == ([], 0)


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_pages_of_any_size_have_every_task_once_and_in_the_same_order(rig: Rig, limit: int) -> None:
    tasks: list[int] = []
    for number in range(5):
        client = rig.client(f"c{number}")
        tasks += client.submit(count=700)
    whole = [row.task for row in everything(rig.leader)]
    assert sorted(whole) == sorted(tasks)
    if limit > 1:
        assert [row.task for row in everything(rig.leader, limit)] == whole
    assert rig.leader.page(0, limit).rows == everything(rig.leader)[:limit]


def test_no_page_looks_at_more_records_than_allowed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = rig.client()
    for _ in range(10):
        client.submit(count=1_000)
    client.submit("rare")
    pages, after, rows = 0, 0, []
    while pages == 0 or after:
        page = rig.leader.page(after, 100, name="rare")
        pages, after, rows = pages + 1, page.after, rows + page.rows
    assert [row.name for row in rows] == ["rare"]
    assert pages == 1 + 10_001 // VISITS_MAX
    monkeypatch.setattr(inspection, "VISITS_MAX", 3)
    assert len(rig.leader.page(0, 100).rows) == 3


def test_what_is_there_all_the_time_is_found_once_while_others_come_and_go(rig: Rig) -> None:
    clients = [rig.client(f"c{number}") for number in range(3)]
    stays = [task for client in clients for task in client.submit("g", count=400)]
    goes = [task for client in clients for task in client.submit(count=400, result_ttl_ms=1)]
    chance = random.Random(1)
    found: list[int] = []
    after = 0
    while True:
        page = rig.leader.page(after, 50)
        found += [row.task for row in page.rows]
        after = page.after
        if not after:
            break
        client = clients[chance.randrange(3)]
        client.submit(count=40)
        gone = [goes.pop(chance.randrange(len(goes))) for _ in range(min(30, len(goes)))]
        client.cancel(*gone, after)         # also the one that the cursor stands on
        rig.pass_time(2_000)                # forgotten
        assert all(rig.leader.state_of(task) is None for task in gone)
    assert len(found) == len(set(found))
    cancelled = {task for task in stays if rig.leader.state_of(task) == "cancelled"}
    assert set(stays) - cancelled <= set(found)


def test_a_cursor_whose_task_is_forgotten_still_stands_where_it_stood(rig: Rig) -> None:
    client = rig.client()
    tasks = client.submit(count=10, result_ttl_ms=1)
    page = rig.leader.page(0, 4)
    client.cancel(page.after)
    rig.pass_time(2_000)
    assert rig.leader.details(page.after) is None
    assert [row.task for row in rig.leader.page(page.after, 100).rows] == tasks[4:]


def test_states_queues_and_names_are_filters_that_go_together(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker(slots=1, queues=("default", "mail"))
    (done,) = client.submit()
    worker.complete(worker.inbox[0])
    (held,) = client.submit(queue="mail")
    (waits,) = client.submit(queue="mail")
    (late,) = client.submit("g", delay_ms=1_000)
    (gone,) = client.submit()
    client.cancel(gone)

    def ids(**asked: object) -> list[int]:
        return [row.task for row in everything(rig.leader, **asked)]  # type: ignore[arg-type]

    assert ids() == [done, held, waits, late, gone]
    assert ids(states=("pending",)) == [waits, late]
    assert ids(states=("processing", "cancelled")) == [held, gone]
    assert ids(queue="mail") == [held, waits]
    assert ids(name="g") == [late]
    assert ids(states=("pending",), queue="mail") == [waits]
    assert ids(states=("completed",), name="g") == []
    assert ids(states=("nonsense",)) == []


def test_limits_that_make_no_sense_are_put_right(rig: Rig) -> None:
    rig.client().submit(count=1_000)
    rig.client("c2").submit(count=500)
    assert len(rig.leader.page(0, -5).rows) == 1
    assert len(rig.leader.page(0, 1 << 40).rows) == PAGE_ROWS_MAX
    assert rig.leader.page((1 << 64) - 1, 10).rows == rig.leader.page((1 << 64) - 1, 10).rows


def test_a_page_of_the_longest_rows_fits_a_message() -> None:
    text = "\N{SNOWMAN}" * 200
    times = (2**52, 2**52)
    row = TaskRow(2**63, "processing", text, text, 9, 99, 3, 99, *[True] * 3, text, 2**40, 999, 3, *times, "e" * 200)
    assert len(msgspec.msgpack.encode(TaskRows(1, [row] * PAGE_ROWS_MAX, 1))) < MESSAGE_BYTES_MAX


# -- one record -------------------------------------------------------------------------------------------------------


def test_a_task_that_waits(rig: Rig) -> None:
    (task,) = rig.client().submit("nobody", queue="mail", priority=7, timeout_ms=5_000, retries=2, expires_ms=9_000)
    details = shown(rig, task)
    row = details.row
    assert (row.state, row.name, row.queue, row.priority) == ("pending", "nobody", "mail", 7)
    assert (row.attempt, row.is_parked, row.is_delayed, row.worker, row.slot) == (0, True, False, "", -1)
    assert (details.timeout_ms, details.retries, details.expires_at_ms) == (5_000, 2, EPOCH_MS + 9_000)
    assert (details.attempts, details.ready_at_ms, details.grace_ms) == ([], 0, -1)
    assert details.body_bytes == 1 and details.arguments is not None and len(details.arguments) == 1


def test_a_task_is_parked_until_a_worker_announces_its_name(rig: Rig) -> None:
    tasks = rig.client().submit(count=2)
    assert shown(rig, tasks[1]).row.is_parked
    rig.worker(slots=1)
    assert not shown(rig, tasks[1]).row.is_parked


def test_a_delayed_task_says_when_it_is_ready(rig: Rig) -> None:
    client = rig.client()
    tasks = client.submit(count=3, delay_ms=60_000)
    client.submit(count=3, delay_ms=30_000)
    details = shown(rig, tasks[2])
    assert (details.row.state, details.row.is_delayed, details.row.is_parked) == ("pending", True, False)
    assert details.ready_at_ms == EPOCH_MS + 60_000
    rig.pass_time(60_000)
    details = shown(rig, tasks[2])
    assert (details.row.is_delayed, details.ready_at_ms) == (False, 0)


def test_the_date_of_a_delayed_task_behind_too_many_others_is_not_looked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DATES_VISITED_MAX < 1 << 15
    monkeypatch.setattr(inspection, "DATES_VISITED_MAX", 3)
    client = rig.client()
    (last,) = [client.submit(delay_ms=1_000 * number) for number in range(1, 9)][-1]
    details = shown(rig, last)
    assert (details.row.is_delayed, details.ready_at_ms) == (True, 0)


def test_a_held_task_names_its_worker_and_its_slot(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker("w7", slots=2)
    first, second, third = client.submit(count=3)
    rows = [shown(rig, task).row for task in (first, second, third)]
    assert [(row.state, row.worker, row.session) for row in rows[:2]] == [("processing", "w7", worker.session)] * 2
    assert sorted(row.slot for row in rows) == [-1, 0, 1]
    assert [row.attempt for row in rows] == [1, 1, 0]
    assert [row.place for row in rows] == [PLACE_UNKNOWN, PLACE_UNKNOWN, PLACE_NONE]


def test_a_task_that_completed_at_once_has_one_attempt(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    worker.complete(worker.inbox[0], run_us=2_500_000, body=b"12345")
    details = shown(rig, task)
    (attempt,) = details.attempts
    assert (attempt.number, attempt.worker, attempt.ended_ms - attempt.started_ms) == (1, "w1", 2_500)
    row = details.row
    assert (row.state, row.worker, row.attempt, row.error) == ("completed", "w1", 1, "")
    assert (row.started_ms, row.ended_ms) == (EPOCH_MS, EPOCH_MS + 2_500)
    assert details.body_bytes == 5 and details.arguments is None, "that is its result"


def test_attempts_say_how_they_ended(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=1)
    error = Failure("ValueError", "first line\nsecond", "Traceback", kinds=("ValueError",))
    given = worker.inbox[0]
    worker.report(Outcome(task, given.attempt, OUTCOME_FAILED, EPOCH_MS, 1_000, b"", error))
    details = shown(rig, task)
    assert (details.row.state, details.row.is_delayed, details.row.failures) == ("pending", True, 1)
    assert details.ready_at_ms > EPOCH_MS
    assert (details.row.attempt, details.row.error) == (1, "ValueError: first line")
    rig.pass_time(1_000)
    worker.end(worker.inbox[0], OUTCOME_CRASHED)
    worker.end(worker.inbox[0], OUTCOME_RETURNED)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    details = shown(rig, task)
    assert (details.row.state, details.row.crashes, details.row.attempt) == ("failed", 1, 4)
    assert details.row.error == "SomeError: it went wrong"
    assert [attempt.status for attempt in details.attempts] == [
        OUTCOME_FAILED,
        OUTCOME_CRASHED,
        OUTCOME_RETURNED,
        OUTCOME_FAILED,
    ]
    assert [attempt.number for attempt in details.attempts] == [1, 2, 3, 4]


def test_a_task_that_is_being_cancelled_says_so_until_it_has_stopped(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    client.cancel(task, grace_ms=4_000)
    details = shown(rig, task)
    assert (details.row.state, details.row.is_cancelled, details.grace_ms) == ("processing", True, 4_000)
    worker.end(worker.inbox[0], OUTCOME_CANCELLED)
    details = shown(rig, task)
    assert (details.row.state, details.row.is_cancelled, details.grace_ms) == ("cancelled", False, -1)


def test_a_long_error_is_cut_in_a_row_and_whole_in_the_attempt(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit()
    error = Failure("E", "\N{SNOWMAN}" * 1_000)
    worker.report(Outcome(task, 1, OUTCOME_FAILED, EPOCH_MS, 1, b"", error))
    details = shown(rig, task)
    assert len(details.row.error.encode()) <= ERROR_BYTES_MAX
    assert details.attempts[0].error is not None and len(details.attempts[0].error.message) == 1_000


def test_the_largest_record_fits_a_message(rig: Rig) -> None:
    client, worker = rig.client(), rig.worker()
    (task,) = client.submit(retries=20)
    error = Failure("E" * 600, "m" * 5_000, "t" * 9_000, stderr="s" * 5_000, kinds=("E",))
    for number in range(1, 13):
        worker.report(Outcome(task, number, OUTCOME_FAILED, EPOCH_MS, 1, b"", error))
        rig.pass_time(600_000)
    details = shown(rig, task)
    assert [attempt.number for attempt in details.attempts] == list(range(3, 13))
    assert len(msgspec.msgpack.encode(TaskShown(1, details))) < MESSAGE_BYTES_MAX // 8


def test_there_is_nothing_to_tell_of_a_task_that_is_not_known(rig: Rig) -> None:
    rig.client().submit()
    assert rig.leader.details(0) is None
    assert rig.leader.details(99 << TASK_NUMBER_BITS | 1) is None
