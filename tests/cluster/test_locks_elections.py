"""Elections: who leads, who is told, and what those who watch see while leaders, brokers and sessions change."""

import asyncio
from typing import Any

import pytest
from client_world import BROKERS, ClientWorld, pause

from actors import SECOND, Ports
from cluster import Client, Election, Leader, Lock, LockLost, Unavailable
from cluster.client.succession import SessionLimits


def stands(rig: ClientWorld, note: str, wait: float = 0.0, leads: float = 2.0, hold: str = "3s") -> str:
    """A client that stands for "boss" after `wait` seconds, and leads for so long."""

    async def live(cluster: Client, ports: Ports) -> Any:
        await pause(ports, wait)
        async with Election(cluster, "boss", note, hold=hold):
            await pause(ports, leads)

    return rig.start(live)


def watches(rig: ClientWorld, until: str, **options: Any) -> str:
    """A client that watches "boss" until this one leads; its answer is the notes of those that it saw."""

    async def live(cluster: Client, ports: Ports) -> Any:
        seen: list[str | None] = []
        async for leader in Election(cluster, "boss", "nobody").watch():
            seen.append(leader.note if leader is not None else None)
            if leader is not None and leader.note == until:
                break
        return seen

    return rig.start(live, **options)


def test_the_leader_is_who_was_elected_and_is_told_who_it_is():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await Lock(cluster, "bos").acquire()
        await Lock(cluster, "boss of bosses").acquire()
        election = Election(cluster, "boss", "me")
        before = await election.leader()
        async with election:
            leader = await election.leader()
            assert election.is_held
            election.assert_held()
            await election.extend("1m")
            return before, leader, election.fence, ports.clock.wall_ms()

    before, leader, fence, wall_ms = rig.run(user)
    assert before is None
    assert isinstance(leader, Leader)
    assert (leader.note, leader.fence) == ("me", fence) and leader.client.startswith("client-")
    assert abs(leader.since.timestamp() * 1_000 - wall_ms) < 5_000


def test_nobody_leads_while_the_lock_rests():
    """An exclusive job of the same name has ended, and keeps others out for a while."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        election = Election(cluster, "boss", "me")
        watch = election.watch()
        async with cluster.exclusive("boss", at_most="1m", at_least="1m", note="a job"):
            held = [await election.leader(), await anext(watch)]
        rests = [await election.leader(), await anext(watch)]
        await watch.aclose()
        (info,) = [info async for info in cluster.locks()]
        return held, rests, info.holders[0].rests

    held, rests, is_resting = rig.run(user)
    assert [leader.note for leader in held] == ["a job", "a job"]
    assert rests == [None, None] and is_resting


def test_who_watches_sees_the_present_leader_first_and_then_every_change():
    rig = ClientWorld(workers=0)
    stands(rig, "one", leads=4)
    rig.world.run_for(2 * SECOND)
    watching = watches(rig, "three")
    stands(rig, "two", leads=2)
    stands(rig, "three", wait=10)
    assert rig.finish(watching) == ["one", "two", None, "three"]


def test_who_leads_and_reaches_nobody_leads_no_more_and_the_next_one_does():
    rig = ClientWorld(workers=0)
    first = stands(rig, "first", leads=1_000)
    rig.until(lambda: rig.leader and rig.actor(rig.leader).machine.locks.claims)
    second, watching = stands(rig, "second", leads=100), watches(rig, "second")
    rig.world.run_for(SECOND)
    rig.world.network.partition([[first], BROKERS])
    assert rig.finish(watching) == ["first", "second"]
    with pytest.raises(LockLost):
        rig.finish(first)
    rig.finish(second)


@pytest.mark.parametrize("seed", range(4))
def test_a_watch_goes_on_through_changes_of_brokers_and_tells_nothing_twice(seed):
    rig = ClientWorld(seed, workers=0)
    stands(rig, "one", leads=6, hold="30s")
    rig.until(lambda: rig.leader and rig.actor(rig.leader).machine.locks.claims)
    watching = watches(rig, "three")
    rig.world.run_for(SECOND)
    for other in ("two", "three"):
        stands(rig, other, leads=4, hold="30s")
        rig.world.run_for(SECOND // 2)
        leader = rig.leader
        rig.world.crash(rig.brokers[leader])
        rig.world.restart(rig.brokers[leader], after=SECOND)
        rig.until(lambda: rig.leader)
        rig.world.run_for(SECOND)
        rig.world.network.break_links(watching)
    seen = rig.finish(watching)
    assert seen[0] == "one" and [note for note in seen if note is not None] == ["one", "two", "three"]


def test_a_watch_goes_on_in_the_next_session():
    rig = ClientWorld(workers=0)
    stands(rig, "one", wait=1, leads=8)
    stands(rig, "two", wait=2, leads=8)

    async def user(cluster: Client, ports: Ports) -> Any:
        seen: list[str | None] = []

        async def watch() -> None:
            async for leader in Election(cluster, "boss", "nobody").watch():
                seen.append(leader.note if leader is not None else None)
                if "two" in seen:
                    return

        watching = asyncio.ensure_future(watch())
        await pause(ports, 5)
        first = cluster._actor.session
        for _ in range(150):
            async with Lock(cluster, "other"):
                pass
        assert cluster._actor.session != first
        await watching
        return seen

    assert rig.run(user, limits=SessionLimits(numbers_max=100, numbers_low=40)) == [None, "one", "two"]


def test_who_takes_what_it_watches_slowly_gets_the_last():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        election = Election(cluster, "boss", "one")
        seen: list[int] = []
        async for leader in election.watch():
            seen.append(leader.fence if leader is not None else 0)
            if len(seen) == 2:
                break
            for _ in range(5):
                async with Election(cluster, "boss", "two"):
                    await pause(ports, 0.1)
            await election.acquire()
            await pause(ports, 0.1)
        return seen

    assert rig.run(user) == [0, 6]


def test_a_watch_ends_with_its_client_and_leaves_nothing_at_the_broker():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        service = rig.actor(rig.leader)._locks
        watch = Election(cluster, "boss", "me").watch()
        assert await anext(watch) is None
        watched = [len(service._watchers)]
        await watch.aclose()
        await pause(ports, 0.1)
        watched.append(len(service._watchers))
        watch = Election(cluster, "boss", "me").watch()
        await anext(watch)
        await cluster._stop()
        with pytest.raises(Unavailable, match="the client ended"):
            await anext(watch)
        return watched

    assert rig.run(user) == [1, 0]
