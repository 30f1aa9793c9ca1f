"""What a user gets who limits tasks: in a world of three brokers and two workers, by its own clock."""

import asyncio
from typing import Any

import pytest
from client_world import MS, ClientWorld, Parcel, work

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
