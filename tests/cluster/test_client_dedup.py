"""What a user gets who gives work a key: in a world of three brokers and two workers."""

import asyncio
from typing import Any

import pytest
from client_world import MS, ClientWorld, Parcel, work

from actors import SECOND
from cluster import Client, TaskCancelled, TaskFailed, TaskNotFound
from cluster.command_line.waiting import waits_for
from cluster.errors import ClusterError
from cluster.simulation.workload import ports_pause

ONCE = work.options(dedup="k")


@pytest.fixture
def rig() -> ClientWorld:
    return ClientWorld(workers=2)


def test_a_duplicate_has_an_id_of_its_own_and_the_result_of_the_first(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(ONCE, Parcel(1), 100 * MS)
        second = await cluster.submit(ONCE, Parcel(2), 100 * MS)
        parcels = [await second, await first]
        (record,) = await cluster.records([second.id])
        info = await cluster.task(second.id)
        listed = [info.id async for info in cluster.tasks(state="duplicate")]
        return first, second, parcels, record, info, listed

    first, second, parcels, record, info, listed = rig.run(user)
    assert parcels == [Parcel(1), Parcel(1)] and rig.runs == {first.id: 1}
    assert first.id != second.id and (first.duplicate_of, second.duplicate_of) == (None, first.id)
    assert (second.state(), record.state, record.attempts) == ("completed", "duplicate", 0)
    assert (info.state, info.duplicate_of, info.dedup, info.args) == ("duplicate", first.id, "k", None)
    assert listed == [second.id]


def test_of_submits_of_many_clients_at_once_one_runs(rig):
    async def user(cluster: Client, ports: Any) -> list[Parcel]:
        handles = await asyncio.gather(*[cluster.submit(ONCE, Parcel(number), 200 * MS) for number in range(5)])
        return [await handle for handle in handles]

    names = [rig.start(user) for _ in range(3)]
    parcels = [parcel for name in names for parcel in rig.finish(name)]
    assert len(rig.runs) == 1 and parcels == [parcels[0]] * 15


def test_a_batch_of_one_key_is_one_run_and_says_so(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(ONCE, map(Parcel, range(50)), work_us=50 * MS)
        results = await batch
        finished = [handle async for handle in batch.as_completed()]
        return batch, results, finished

    batch, results, finished = rig.run(user)
    assert results == [Parcel(0)] * 50 and batch.progress == (50, 0, 50)
    assert batch.duplicates == dict.fromkeys(batch.ids[1:], batch.ids[0])
    assert {handle.duplicate_of for handle in finished} == {None, batch.ids[0]} and len(rig.runs) == 1


def test_a_duplicate_has_the_failure_of_the_first_and_says_whose_it_is(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(ONCE, Parcel(7), 50 * MS, "raise")
        second = await cluster.submit(ONCE, Parcel(8), 50 * MS)
        with pytest.raises(TaskFailed, match="parcel 7") as failed:
            await second
        with pytest.raises(ClusterError, match=f"is a duplicate of task {first.id}: replay that one"):
            await second.replay()
        third = await cluster.submit(ONCE, Parcel(9))
        return first, second, failed.value, await third

    first, second, error, third = rig.run(user)
    assert error.__notes__ == [f"task {second.id} is a duplicate of task {first.id}"]
    assert second.state() == "failed" and third == Parcel(9), "the key was free"


def test_to_cancel_a_duplicate_does_nothing_to_the_first_and_the_first_ends_both(rig):
    async def user(cluster: Client, ports: Any) -> None:
        first = await cluster.submit(ONCE.options(delay="1h"), Parcel(1))
        second = await cluster.submit(ONCE, Parcel(2))
        await second.cancel()
        (record,) = await cluster.records([first.id])
        assert record.state == "pending" and not second.done()
        await cluster.handle(second.duplicate_of).cancel()
        for handle in (first, second):
            with pytest.raises(TaskCancelled):
                await handle

    rig.run(user)


def test_what_is_submitted_after_a_cancel_runs_though_the_first_has_not_stopped_yet(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(ONCE, Parcel(1), 60_000 * MS)
        while (await cluster.task(first.id)).state != "processing":
            await ports_pause(ports, SECOND // 10)
        await first.cancel("3s")
        second = await cluster.submit(ONCE, Parcel(2))
        third = await cluster.submit(ONCE, Parcel(3))
        info = await cluster.task(second.id)
        with pytest.raises(TaskCancelled):
            await first
        return first.id, second, third, info, await second, await third

    first, second, third, info, value, followed = rig.run(user)
    assert (second.duplicate_of, third.duplicate_of) == (None, second.id)
    assert (info.state, info.waits_for, info.needs) == ("pending", (first,), 0)
    assert waits_for(info) == f"task {first}, which is being stopped and has its key, to end"
    assert value == followed == Parcel(2)


def test_within_the_window_a_later_one_has_the_result_of_one_that_ended_long_ago(rig):
    windowed = ONCE.options(dedup_window="1h")

    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(windowed, Parcel(1))
        await first
        await ports_pause(ports, 200 * SECOND)
        second = await cluster.submit(windowed, Parcel(2))
        return first.id, second.duplicate_of, await second

    first, of, parcel = rig.run(user)
    assert (of, parcel) == (first, Parcel(1))


def test_a_first_one_whose_result_is_not_kept_is_a_clear_error(rig):
    short = ONCE.options(dedup_window="1h", result_ttl="1s")

    async def user(cluster: Client, ports: Any) -> int:
        first = await cluster.submit(short, Parcel(1))
        await first
        await ports_pause(ports, 5 * SECOND)
        second = await cluster.submit(short, Parcel(2))
        with pytest.raises(TaskNotFound, match=f"task {second.id} is a duplicate of task {first.id}, of"):
            await second
        return 1

    assert rig.run(user) == 1


def test_a_handle_of_another_client_follows_too_and_watching_shows_the_first(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(ONCE, Parcel(1), 2_000 * MS)
        second = await cluster.submit(ONCE, Parcel(2))
        again = cluster.handle(second.id)
        events = [event async for event in cluster.handle(second.id).watch()]
        return first.id, await again, again.duplicate_of, [event.kind for event in events], events[-1].text

    first, plain, of, kinds, end = rig.run(user)
    assert plain == {"number": 1, "label": ""} and of == first
    assert kinds[-1] == "finished" and "started" in kinds and end == "completed"


def test_followers_survive_the_death_of_the_leader(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(ONCE, Parcel(1), 3_000 * MS)
        followers = [await cluster.submit(ONCE, Parcel(number)) for number in range(5)]
        rig.world.crash(rig.brokers[(await cluster.status())["leader"]])
        followers.append(await cluster.submit(ONCE, Parcel(9)))
        return first.id, [await handle for handle in followers], [handle.duplicate_of for handle in followers]

    first, parcels, of = rig.run(user)
    assert of == [first] * 6 and parcels == [Parcel(1)] * 6 and list(rig.runs) == [first]
