"""What a user does with tasks: submit, map, wait, look, cancel. A world of three brokers behind it."""

import asyncio
from itertools import count
from typing import Any

import pytest
from client_world import MS, ClientWorld, Parcel, pause, unserved, work

from actors import SECOND
from cluster import (
    Backoff,
    BodyTooLarge,
    Client,
    ClusterError,
    DeadlineExceeded,
    EncodeError,
    Handle,
    Record,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    task,
)


@pytest.fixture(scope="module")
def rig() -> ClientWorld:
    """One world for all tests here: each is another user of it."""
    return ClientWorld(workers=2)


def test_a_result_is_what_the_annotation_says(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(7, "x"))
        return await handle, handle.state(), handle.done(), await handle, await handle.result()

    assert rig.run(user) == (Parcel(7, "x"), "completed", True, Parcel(7, "x"), Parcel(7, "x"))


def test_a_handle_knows_nothing_before_the_result_arrives(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(1), 100 * MS)
        return handle.state(), handle.done(), repr(handle), handle.id

    state, done, text, number = rig.run(user)
    assert (state, done) == ("pending", False)
    assert text == f"<Handle {number} world:work pending>"


def test_several_may_wait_for_one_handle(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(1), 100 * MS)
        return await asyncio.gather(*(handle.result() for _ in range(5)))

    assert rig.run(user) == [Parcel(1)] * 5


def test_submits_of_one_turn_are_numbered_in_order_and_travel_as_one_command(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        before = rig.actor(rig.leader).raft.machine.applied_index
        handles = await asyncio.gather(*(cluster.submit(unserved) for _ in range(500)))
        return [handle.id for handle in handles], rig.actor(rig.leader).raft.machine.applied_index - before

    ids, entries = rig.run(user)
    assert ids == list(range(ids[0], ids[0] + 500))
    assert entries == 1


def test_map_gives_results_in_the_order_of_the_items(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, (Parcel(number) for number in range(2_500)))
        results = await batch
        return results, len(batch), batch.ids, batch.progress

    results, size, ids, progress = rig.run(user)
    assert results == [Parcel(number) for number in range(2_500)]
    assert size == len(set(ids)) == 2_500
    assert ids == sorted(ids)
    assert progress == (2_500, 0, 2_500)
    assert all(rig.runs[number] == 1 for number in ids)


def test_map_passes_keywords_to_every_call(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(1), Parcel(2)], fate="raise")
        return [record.state for record in await finished_records(cluster, batch)]

    assert rig.run(user) == ["failed", "failed"]


async def finished_records(cluster: Client, batch: Any) -> list[Record]:
    async for _ in batch.as_completed():
        pass
    return await cluster.records(batch.ids)


def test_a_map_of_nothing_is_done_at_once(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [])
        return await batch, [handle async for handle in batch.as_completed()], batch.progress

    assert rig.run(user) == ([], [], (0, 0, 0))


def test_as_completed_gives_each_handle_once_as_they_finish(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        # The first runs longest, so it comes last.
        batch = await cluster.map(work, [Parcel(number, "x") for number in range(40)])
        slow = await cluster.submit(work, Parcel(99), 400 * MS)
        seen = [(handle.id, await handle) async for handle in batch.as_completed()]
        return seen, batch.ids, slow.done()

    seen, ids, slow_done = rig.run(user)
    assert sorted(number for number, _ in seen) == ids
    assert not slow_done


def test_as_completed_skips_nothing_while_its_user_is_busy(rig):
    """More finish while the user works on the one at hand."""

    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(60)], work_us=20 * MS)
        seen = []
        async for handle in batch.as_completed():
            seen.append(handle.id)
            await pause(ports, 0.03)
        return seen, batch.ids

    seen, ids = rig.run(user)
    assert sorted(seen) == ids


def test_progress_is_reported_until_all_are_finished(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        reports: list[tuple[int, int, int]] = []
        batch = await cluster.map(work, [Parcel(number) for number in range(40)], work_us=20 * MS)
        await batch.on_progress(lambda *report: reports.append(report), every=0.05)
        return reports

    reports = rig.run(user)
    assert reports == sorted(reports) and len(reports) > 3
    assert reports[-1] == (40, 0, 40)


def test_an_exception_arrives_with_its_type_message_and_traceback(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        await (await cluster.submit(work, Parcel(5), fate="raise"))

    with pytest.raises(TaskFailed, match="ValueError: parcel 5") as caught:
        rig.run(user)
    error = caught.value
    assert (error.type, error.message, error.exit_code, error.signal) == ("ValueError", "parcel 5", None, None)
    assert 'raise ValueError(f"parcel {parcel.number}")' in error.traceback
    assert isinstance(error.__cause__, ValueError)


def test_a_batch_raises_the_first_error_in_the_order_of_its_items_once_all_have_finished(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        slow = await cluster.map(work, [Parcel(1)], work_us=200 * MS)
        batch = await cluster.map(work, [Parcel(2), Parcel(3)], fate="raise")
        try:
            await batch
        except TaskFailed as error:
            return str(error), batch.progress, len(await slow)
        return None

    assert rig.run(user) == ("ValueError: parcel 2", (2, 2, 2), 1)


def test_a_task_that_ends_its_process_three_times_is_dead_with_the_evidence(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(1), 0, "die")
        try:
            await handle
        except TaskDead as error:
            return handle.id, handle.state(), error.attempts, error.evidence.exit_code
        return None

    number, state, attempts, exit_code = rig.run(user)
    assert (state, attempts, exit_code) == ("dead", 3, 3)
    assert rig.runs[number] == 3


def test_a_task_that_waits_too_long_expires(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(unserved.options(expires="1s"))
        await handle

    with pytest.raises(TaskExpired, match="expired before it could run"):
        rig.run(user)


def test_a_task_that_expires_while_it_waits_to_be_tried_again_says_how_its_last_attempt_ended(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        retried = work.options(expires="1s", retry=Backoff(times=3, first="5s"))
        await (await cluster.submit(retried, Parcel(7), 0, "raise"))

    with pytest.raises(TaskExpired, match="expired before it could run again; attempt 1 ended with ValueError: parcel"):
        rig.run(user)


def test_a_delayed_task_runs_when_its_time_has_come(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        start = ports.clock.now()
        await (await cluster.submit(work.options(delay="2s"), Parcel(1)))
        return (ports.clock.now() - start) / 1e9

    assert 1.9 < rig.run(user) < 2.5


def test_a_cancelled_task_does_not_run(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(unserved)
        await handle.cancel()
        try:
            await handle
        except TaskCancelled:
            return handle.state(), (await cluster.records([handle.id]))[0].state
        return None

    assert rig.run(user) == ("cancelled", "cancelled")


def test_a_running_task_is_stopped_by_cancel(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(1), 60_000 * MS)
        while (await cluster.status())["queues"][0]["running"] == 0:
            await pause(ports, 0.2)
        start = ports.clock.now()
        await handle.cancel(grace=1)
        try:
            await handle
        except TaskCancelled:
            return (ports.clock.now() - start) / 1e9
        return None

    assert 1 <= rig.run(user) < 4


def test_cancel_comes_too_late_for_a_result(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(3))
        await handle
        await handle.cancel()
        return (await cluster.records([handle.id]))[0].state, await cluster.handle(handle.id)

    state, again = rig.run(user)
    assert state == "completed"
    assert again == {"number": 3, "label": ""}


def test_a_batch_cancels_what_has_not_finished(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        done = await cluster.map(work, [Parcel(1)])
        await done
        await done.cancel()
        batch = await cluster.map(unserved_number, range(3_000))
        await batch.cancel()
        states = {record.state for record in await finished_records(cluster, batch)}
        return states, batch.progress

    assert rig.run(user) == ({"cancelled"}, (3_000, 3_000, 3_000))


@task(name="world:unserved_number")
def unserved_number(number: int) -> None:
    """No worker of this world announces it."""


def test_a_result_that_is_late_may_be_awaited_again(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(1), 2_000 * MS)
        start = ports.clock.now()
        try:
            await handle.result(timeout=0.5)
        except DeadlineExceeded as error:
            waited = (ports.clock.now() - start) / 1e9
            return isinstance(error, TimeoutError), error.outcome, waited, handle.state(), await handle
        return None

    is_timeout, outcome, waited, state, result = rig.run(user)
    assert (is_timeout, outcome, state, result) == (True, "unknown", "pending", Parcel(1))
    assert 0.5 <= waited < 0.6


def test_results_of_a_batch_that_are_late_may_be_awaited_again(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(1), Parcel(2)], work_us=1_000 * MS)
        try:
            await batch.results(timeout=0.5)
        except DeadlineExceeded as error:
            return str(error), await batch
        return None

    text, results = rig.run(user)
    assert "0 of 2 finished" in text
    assert results == [Parcel(1), Parcel(2)]


def test_another_client_gets_a_result_by_the_id_as_plain_types(rig):
    async def submits(cluster: Client, ports: Any) -> Any:
        return (await cluster.submit(work, Parcel(8), 1_000 * MS)).id

    number = rig.run(submits)

    async def asks(cluster: Client, ports: Any) -> Any:
        handle = cluster.handle(number)
        return await asyncio.gather(handle.result(), cluster.handle(number).result())

    assert rig.run(asks) == [{"number": 8, "label": ""}] * 2
    assert rig.run(asks) == [{"number": 8, "label": ""}] * 2


def test_a_result_that_arrives_several_times_counts_once(rig):
    """Who submitted a task and asks for it by its id as well is told twice."""

    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(20)], work_us=20 * MS)
        again = [cluster.handle(number) for number in batch.ids for _ in range(2)]
        results = await batch
        more = await asyncio.gather(*(handle.result() for handle in again))
        late = await asyncio.gather(*(cluster.handle(number).result() for number in batch.ids))
        return results, batch.progress, len(more), len(late)

    results, progress, more, late = rig.run(user)
    assert results == [Parcel(number) for number in range(20)]
    assert (progress, more, late) == ((20, 0, 20), 40, 20)


def test_a_task_that_nobody_submitted_is_not_found(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        await cluster.handle(123 << 24 | 1)

    with pytest.raises(TaskNotFound, match=r"no record of task \d+: its result is no longer kept.* 60 s .* the id"):
        rig.run(user)


def test_records_say_state_and_attempts_in_the_order_asked_for(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        good = await cluster.submit(work, Parcel(1))
        bad = await cluster.submit(work, Parcel(2), 0, "die")
        await asyncio.gather(good.result(), bad.result(), return_exceptions=True)
        waiting = await cluster.submit(unserved)
        asked = [waiting.id, bad.id, 1, good.id, good.id]
        return [(record.state, record.attempts) for record in await cluster.records(asked)]

    assert rig.run(user) == [("pending", 0), ("dead", 3), ("unknown", 0), ("completed", 1), ("completed", 1)]


def test_more_records_than_a_message_holds_are_asked_for_in_pages(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(5_000)])
        await batch
        return [record.task for record in await cluster.records(batch.ids)] == batch.ids

    assert rig.run(user)


def test_wrong_calls_fail_at_once_and_say_which_argument(rig):
    def plain() -> None: ...

    async def user(cluster: Client, ports: Any) -> Any:
        start = ports.clock.now()
        for error, match, call in [
            (TypeError, "missing a required argument", lambda: cluster.submit(work)),
            (EncodeError, "argument 1 of world:work", lambda: cluster.submit(work, object())),
            (BodyTooLarge, "arguments of world:work", lambda: cluster.submit(work, Parcel(1, "x" * 2**20))),
            (TaskNotFound, "put @task above", lambda: cluster.submit(plain)),
            (TaskNotFound, "put @task above", lambda: cluster.map(plain, [1])),
            (EncodeError, "argument 1", lambda: cluster.map(work, [Parcel(1), lambda: None])),
        ]:
            with pytest.raises(error, match=match):
                await call()
        return ports.clock.now() - start

    assert rig.run(user) < 1e9


def test_a_map_goes_on_while_others_fill_the_window(rig):
    """Its own commands are confirmed long before those of the others have left this process."""

    async def user(cluster: Client, ports: Any) -> Any:
        mapping = asyncio.ensure_future(cluster.map(unserved_number, [1]))
        others = [asyncio.ensure_future(cluster.submit(unserved)) for _ in range(150_000)]
        batch = await mapping
        handles: list[Handle[None]] = await asyncio.gather(*others)
        return len(batch), len({handle.id for handle in handles})

    assert rig.run(user) == (1, 150_000)


def test_two_maps_side_by_side_share_the_window(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        numbers = count()
        batches = await asyncio.gather(
            *(cluster.map(unserved_number, (next(numbers) for _ in range(30_000))) for _ in range(3))
        )
        return [len(batch) for batch in batches], len({number for batch in batches for number in batch.ids})

    assert rig.run(user) == ([30_000] * 3, 90_000)


def test_an_item_that_cannot_travel_and_one_that_failed_are_named_by_their_position(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        with pytest.raises(EncodeError) as refused:
            await cluster.map(unserved_number, [*range(2_000), object()])
        batch = await cluster.map(unserved_number, range(3))
        await batch.cancel()
        with pytest.raises(TaskCancelled) as failed:
            await batch
        return refused.value.__notes__, failed.value.__notes__, batch.ids

    refused, failed, ids = rig.run(user)
    assert refused == ["item 2000 of the map; the 1024 items before its chunk are submitted"]
    assert failed == [f"item 0 of the map, task {ids[0]}"]


def test_a_client_that_was_not_entered_says_how(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        outside = Client(cluster._topology, lambda: ports, 1.0)
        with pytest.raises(ClusterError, match="async with"):
            await outside.submit(unserved)
        with pytest.raises(ClusterError, match="async with"):
            outside.handle(1)

    rig.run(user)


def test_a_record_counts_the_attempts_that_count():
    """A worker dies: only what was alone at its slot may have begun and be to blame."""
    rig = ClientWorld(workers=2, slots=1)

    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(300)], work_us=100)
        await pause(ports, 0.02)
        rig.world.crash(rig.workers["w1"])
        await batch
        return await cluster.records(batch.ids)

    records = rig.run(user)
    assert {record.state for record in records} == {"completed"}
    assert sum(record.attempts - 1 for record in records) <= 1


# -- executor children that die ---------------------------------------------------------------------------------------


def test_a_child_that_died_of_a_task_is_replaced_at_once_and_its_loss_is_logged_once_a_minute():
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Any) -> Any:
        start = ports.clock.now()
        dying = [await cluster.submit(work, Parcel(number), 0, "die") for number in range(10)]
        innocent = await cluster.submit(work, Parcel(-1))
        errors = await asyncio.gather(*dying, return_exceptions=True)
        return errors, await innocent, ports.clock.now() - start

    errors, innocent, span = rig.run(user)
    assert {type(error) for error in errors} == {TaskDead} and innocent == Parcel(-1)
    assert sum(rig.runs.values()) > 20, "every task took a child with it, and more than once"
    assert span < 2 * SECOND, "with the delay of a child that does not start this would be a minute"
    assert [name for _, name in rig.log].count("child_lost") == 1
