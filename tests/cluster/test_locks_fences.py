"""Submits with a fence: accepted only while a lock is held under it."""

import asyncio
from typing import Any

import pytest
from client_world import BROKERS, ClientWorld, Parcel, pause, work
from overload_rig import numbers_of_tasks

from actors import Ports
from cluster import Client, Lock, LockLost, Semaphore, TaskActor, method, task
from cluster.client.outbox import Outbox
from cluster.task_actor import definition_of


@task(name="fences:plain")
def plain() -> None: ...


@task(name="fences:coroutine")
async def coroutine() -> None: ...


class Desk(TaskActor, name="fences:Desk"):
    def add(self, number: int) -> int:
        return number


def test_a_submit_with_the_fence_of_a_lock_that_is_held_is_accepted():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        async with Lock(cluster, "door") as lock:
            fenced = work.options(fence=lock.fence)
            one = await (await cluster.submit(fenced, Parcel(1)))
            many = await (await cluster.map(fenced, [Parcel(2), Parcel(3)]))
        return [one, *many]

    assert rig.run(user) == [Parcel(1), Parcel(2), Parcel(3)]


def test_a_submit_with_a_fence_is_refused_after_the_loss_also_of_a_client_that_does_not_know():
    rig = ClientWorld(workers=0)
    stale: list[int] = []

    async def first(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        await lock.acquire()
        stale.append(lock.fence)
        rig.world.network.partition([["c1"], BROKERS])
        await pause(ports, 1_000)

    async def second(cluster: Client, ports: Ports) -> Any:
        async with Lock(cluster, "door") as lock:
            refused = work.options(fence=stale[0])
            with pytest.raises(LockLost, match="no lock is held under fence 1: it was lost or released") as caught:
                await cluster.submit(refused, Parcel(1))
            with pytest.raises(LockLost):
                await cluster.map(refused, [Parcel(2)] * 2_000)
            await cluster.submit(work.options(fence=lock.fence), Parcel(3))
            await cluster.submit(work, Parcel(4))
            return caught.value.fence, caught.value.name

    name = rig.start(first)
    rig.until(lambda: stale)
    assert rig.run(second) == (1, "")
    assert numbers_of_tasks(rig) == {3: 1, 4: 1}
    rig.world.crash(rig.clients[name])


def test_of_a_map_whose_fence_is_lost_on_the_way_the_first_items_are_accepted_and_the_error_says_so():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        await lock.acquire()
        parcels = [Parcel(number, "x" * 300_000) for number in range(100)]      # a command each, more than a window
        mapping = asyncio.ensure_future(cluster.map(work.options(fence=lock.fence), parcels))
        while not rig.actor(rig.leader).machine.status()["queues"]:
            await pause(ports, 0.0001)
        await lock.release()
        with pytest.raises(LockLost, match="while the map was submitted, whose first items may have been accepted"):
            await mapping

    rig.run(user)
    accepted = sorted(numbers_of_tasks(rig))
    assert accepted == list(range(len(accepted))) and 0 < len(accepted) < 100


def test_submits_of_one_turn_with_different_fences_have_fates_of_their_own():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        pool = [Semaphore(cluster, "pool", 3) for _ in range(3)]
        for lock in pool:
            await lock.acquire()
        fences = [lock.fence for lock in pool]
        await pool[1].release()
        submits = [cluster.submit(work.options(fence=fences[number % 3]), Parcel(number)) for number in range(30)]
        submits += [cluster.submit(work, Parcel(number)) for number in range(30, 40)]
        ends = await asyncio.gather(*submits, return_exceptions=True)
        return [number for number, end in enumerate(ends) if isinstance(end, LockLost)]

    assert rig.run(user) == list(range(1, 30, 3))
    assert sorted(numbers_of_tasks(rig)) == [number for number in range(40) if number % 3 != 1 or number >= 30]


def test_tasks_share_a_command_with_those_of_their_fence_only():
    outbox: Outbox[object] = Outbox()
    for fence in (0, 0, 7, 7, 0, 8):
        outbox.add("m:f", None, b"", fence)
    outbox.close_turn()
    assert [(draft.fence, draft.count) for draft in outbox.ready] == [(0, 2), (7, 2), (0, 1), (8, 1)]


@pytest.mark.parametrize("found", [plain, coroutine, definition_of(Desk).tasks["add"]], ids=lambda found: found.name)
def test_a_fence_is_kept_by_copies_with_other_options_and_touches_nothing_else(found):
    copy = found.options(fence=7)
    assert (copy.fence, found.fence) == (7, 0)
    assert copy.options(priority=9).fence == 7 and copy.options(fence=8).fence == 8
    assert copy.settings == found.settings and copy.wire_options == found.wire_options
    assert type(copy) is type(found) and copy.name == found.name


@pytest.mark.parametrize("fence", [0, -1, 2**63])
def test_a_fence_is_above_0(fence):
    with pytest.raises(ValueError, match=rf"fence: {fence} is none; that of a lock that is held, lock\.fence"):
        work.options(fence=fence)


@pytest.mark.parametrize("fence", [None, True, "7", 7.0])
def test_a_fence_is_an_integer(fence):
    with pytest.raises(TypeError, match=r"fence: expected that of a lock that is held, lock\.fence, not"):
        work.options(fence=fence)


def test_a_definition_has_no_fence():
    said = r'"fence" is no option of a definition: .* task\.options\(fence=lock\.fence\)'
    with pytest.raises(TypeError, match=said):
        task(name="fences:never", fence=7)          # type: ignore[call-overload]
    with pytest.raises(TypeError, match=said):

        class Never(TaskActor, fence=7):            # type: ignore[call-arg]
            pass

    with pytest.raises(TypeError, match=said):

        class Neither(TaskActor):
            @method(fence=7)                        # type: ignore[call-arg]
            def add(self) -> None: ...
