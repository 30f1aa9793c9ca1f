"""What a user gets who limits tasks: in a world of three brokers and two workers, by its own clock."""

import asyncio
from functools import partial
from typing import Any

import pytest
from client_world import MS, ClientWorld, Parcel, work

from actors import MILLISECOND, SECOND
from cluster import Client


@pytest.fixture
def rig() -> ClientWorld:
    return ClientWorld(workers=2)


def at_once(spans: list[tuple[int, int]]) -> int:
    """How many ran at one moment, at most."""
    return max([len([1 for began, ended in spans if began <= moment < ended]) for moment, _ in spans])


def test_of_a_task_with_concurrency_one_no_two_run_at_a_time_on_two_workers(rig):
    alone = work.options(concurrency=1)

    async def user(cluster: Client, ports: Any) -> list[Parcel]:
        handles = [await cluster.submit(alone, Parcel(number), 20 * MS) for number in range(12)]
        return await asyncio.gather(*[handle.result() for handle in handles])

    assert [parcel.number for parcel in rig.run(user)] == list(range(12))
    assert len(rig.spans) == 12 and at_once(rig.spans) == 1


def test_without_a_limit_all_four_slots_are_used(rig):
    """The test above would pass as well if the workers had one slot."""

    async def user(cluster: Client, ports: Any) -> list[Parcel]:
        batch = await cluster.map(work, map(Parcel, range(12)), work_us=20 * MS)
        return list(await batch)

    rig.run(user)
    assert at_once(rig.spans) == 4


def test_a_rate_holds_for_all_workers_together_by_their_own_clocks(rig):
    mailed = work.options(rate="5/s")

    async def user(cluster: Client, ports: Any) -> None:
        await (await cluster.map(mailed, map(Parcel, range(17))))

    rig.run(user)
    begun = sorted([began for began, _ in rig.spans])
    assert len(begun) == 17
    # What lies between the stamp of an entry and the start at a worker differs by some milliseconds.
    for first in begun:
        assert sum(first <= moment < first + 950 * MILLISECOND for moment in begun) <= 5
    assert 3 * SECOND <= begun[-1] - begun[0] < 3.5 * SECOND, "and the rate is used"


def test_a_share_with_one_task_does_not_wait_for_one_with_many(rig):
    async def user(cluster: Client, ports: Any) -> int:
        many = await cluster.map(work.options(share="large"), map(Parcel, range(200)), work_us=20 * MS)
        handle = await cluster.submit(work.options(share="small"), Parcel(1), 20 * MS)
        await handle
        done = many.progress[0]
        await many
        return done

    assert rig.run(user) < 30


def test_each_share_has_the_concurrency_for_itself_and_a_named_limit_is_one_for_all(rig):
    async def user(cluster: Client, ports: Any, **options: str) -> int:
        each = work.options(concurrency=1, **options)
        shares = [each.options(share=f"tenant {number % 3}") for number in range(12)]
        handles = [await cluster.submit(share, Parcel(1), 20 * MS) for share in shares]
        await asyncio.gather(*[handle.result() for handle in handles])
        found, rig.spans = at_once(rig.spans), []
        return found

    assert rig.run(user) == 3
    assert rig.run(partial(user, limit="all tenants")) == 1


def test_the_cluster_says_what_a_task_waits_for(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        first = await cluster.submit(work.options(concurrency=1), Parcel(1), 500 * MS)
        second = await cluster.submit(work.options(concurrency=1), Parcel(2))
        slow = [await cluster.submit(work.options(share="a", rate="1/h"), Parcel(number)) for number in range(3)]
        await slow[0]
        infos = [await cluster.task(handle.id) for handle in (first, second, slow[2])]
        listed = {info.id: info async for info in cluster.tasks(state="pending")}
        status = await cluster.status()
        await cluster.cancel([handle.id for handle in slow])
        await second
        return infos, listed, status["limits"], (await cluster.status())["limits"]

    (first, second, slow), listed, limits, after = rig.run(user)
    assert (first.held_back_why, second.held_back_why) == ("", "limit world:work: 1 of 1 are with workers")
    assert second.held_back_until is None and second.state == "pending" and not second.parked
    assert slow.held_back_why == "limit world:work, share a: as many have started as 1/h allows"
    assert slow.held_back_until is not None
    assert [listed[info.id].held_back_why for info in (second, slow)] == [second.held_back_why, slow.held_back_why]
    found = [(row["name"], row["share"], row["ready"]) for row in limits]
    assert found == [("world:work", "a", 2), ("world:work", "", 1)]
    assert after == []


def test_limits_survive_the_death_of_the_leader(rig):
    alone = work.options(concurrency=1)

    async def user(cluster: Client, ports: Any) -> None:
        batch = await cluster.map(alone, map(Parcel, range(40)), work_us=50 * MS)
        leader = (await cluster.status())["leader"]
        rig.world.crash(rig.brokers[leader])
        await batch

    rig.run(user)
    assert len(rig.spans) >= 40 and at_once(rig.spans) == 1
