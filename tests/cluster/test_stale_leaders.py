"""What a leader may say that was replaced and does not know it: nothing that is true only of a leader."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from client_world import BROKERS, ClientWorld, Parcel, pause, unserved, work

from actors import MILLISECOND, SECOND, Ports
from cluster import Client, DeadlineExceeded, TaskNotFound, Unavailable

HEARTBEAT = 100 * MILLISECOND


class Deposed:
    """A world in which client c1 reaches only a broker that still believes it leads, and `task` was submitted to its
    successor. Both are cut off from everybody else until `mend`. With `replayed`, `task` was cancelled before all that,
    and replayed under the successor."""

    def __init__(self, seed: int = 0, *, replayed: bool = False) -> None:
        self.replayed = replayed
        self.rig = ClientWorld(seed, workers=0)
        self.ready = False
        self.task = 0

    def run(self, program: Any, **options: Any) -> Any:
        rig = self.rig

        async def user(cluster: Client, ports: Ports) -> Any:
            handle = await cluster.submit(unserved)
            if self.replayed:
                await handle.cancel()
                self.task = handle.id
            while not self.ready:
                await pause(ports, 0.01)
            return await program(cluster, ports, self)

        name = rig.start(user, **options)
        rig.until(lambda: rig.leader and len(rig.client_sessions) == 1)
        rig.world.run_for(SECOND // 2)
        self.old = old = rig.leader
        others = [broker for broker in BROKERS if broker != old]
        self.cuts = [rig.world.network.partition([[old, name], others])]
        rig.world.pause(rig.brokers[old])
        rig.until(lambda: rig.leader not in ("", old))
        rig.world.network.partition([[old, name], ["c2"]])

        async def successor(cluster: Client, ports: Ports) -> Any:
            if self.replayed:
                assert await cluster.replay([self.task]) == 1
                return self.task
            return (await cluster.submit(unserved)).id

        self.task = rig.run(successor)
        rig.world.resume(rig.brokers[old])
        assert self.believes
        self.ready = True
        return rig.finish(name)

    @property
    def believes(self) -> bool:
        return self.rig.actor(self.old).leading

    def mend(self) -> None:
        for cuts in self.cuts:
            self.rig.world.network.mend(cuts)


# -- replaced, and it does not know ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_was_replaced_never_says_that_there_is_no_such_task(seed):
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        handle = cluster.handle(world.task)
        records = asyncio.ensure_future(cluster.records([world.task]))
        await pause(ports, 0.3)
        assert world.believes
        seen = handle.done(), records.done()
        await pause(ports, 3.0)
        world.mend()
        found = (await records)[0].state
        await pause(ports, 1.0)
        return seen, found, handle.done()

    assert Deposed(seed).run(user) == ((False, False), "pending", False)


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_was_replaced_never_tells_an_end_that_is_no_more(seed):
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        handle = cluster.handle(world.task)
        await pause(ports, 0.3)
        assert world.believes and world.rig.actor(world.old).machine.state_of(world.task) == "cancelled"
        seen = handle.done()
        await pause(ports, 3.0)
        world.mend()
        await pause(ports, 1.0)
        return seen, handle.done(), (await cluster.records([world.task]))[0].state

    assert Deposed(seed, replayed=True).run(user) == (False, False, "pending")


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_was_replaced_never_tells_a_watcher_an_end_that_is_no_more(seed):
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        heard: list[tuple[str, str]] = []

        async def look() -> None:
            async for event in cluster.handle(world.task).watch():
                heard.append((event.kind, event.text))

        watcher = asyncio.ensure_future(look())
        await pause(ports, 0.3)
        assert world.believes and world.rig.actor(world.old).machine.state_of(world.task) == "cancelled"
        seen = list(heard)
        await pause(ports, 3.0)
        world.mend()
        await pause(ports, 3.0)
        watcher.cancel()
        return seen, heard

    assert Deposed(seed, replayed=True).run(user) == ([], [("queued", "")])


def test_records_that_no_leader_confirms_end_at_the_deadline():
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        start = ports.clock.now()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await cluster.records([world.task])
        return (ports.clock.now() - start) / SECOND

    assert 2.9 < Deposed().run(user, deadline=3.0) < 3.3


def test_a_leader_that_was_replaced_shows_itself_in_the_status_and_no_queues():
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        return world.old, await cluster.status()

    old, status = Deposed().run(user)
    assert (status["leader"], status["workers"], status["queues"]) == (None, [], [])
    rows = {row["node"]: row for row in status["brokers"]}
    assert rows[old]["applied_index"] > 0 and rows[old]["role"] != "down"
    assert [row["role"] for name, row in rows.items() if name != old] == ["down", "down"]


def test_whoever_wants_an_old_answer_gets_it_at_once():
    async def user(cluster: Client, ports: Ports, world: Deposed) -> Any:
        start = ports.clock.now()
        (record,) = await cluster.records([world.task], stale=True)
        waited = ports.clock.now() - start
        status = await cluster.status(stale=True)
        return waited, record.state, status["leader"] == world.old, [row["name"] for row in status["queues"]]

    waited, state, follows_old, queues = Deposed().run(user)
    assert waited < HEARTBEAT
    assert (state, follows_old, queues) == ("unknown", True, ["default"])


# -- all is well -----------------------------------------------------------------------------------------------------


def test_questions_are_answered_within_a_heartbeat():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        task = (await cluster.submit(unserved)).id
        times = [ports.clock.now()]
        (record,) = await cluster.records([task])
        times.append(ports.clock.now())
        status = await cluster.status()
        times.append(ports.clock.now())
        with pytest.raises(TaskNotFound):
            await cluster.handle(1 << 40)
        times.append(ports.clock.now())
        return record.state, status["leader"], [end - start for start, end in pairwise(times)]

    state, leader, spans = rig.run(user)
    assert (state, leader) == ("pending", rig.leader)
    assert max(spans) < HEARTBEAT


def test_one_round_serves_all_questions_that_came_before_it():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        task = (await cluster.submit(unserved)).id
        rounds = rig.actor(rig.leader)._questions._rounds
        before = rounds._number
        found = await asyncio.gather(*(cluster.records([task]) for _ in range(500)), cluster.status())
        return rounds._number - before, len(found)

    rounds, answers = rig.run(user)
    assert answers == 501
    assert 1 <= rounds <= 3, "of the questions; another may be a lease's"


def test_a_result_that_is_there_waits_for_no_round():
    """It never changes."""
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(7))
        await handle
        others = [broker for broker in BROKERS if broker != rig.leader]
        rig.world.network.partition([[rig.leader], others])
        return await cluster.handle(handle.id).result(timeout=0.5)

    assert rig.run(user) == {"number": 7, "label": ""}


# -- leaders change, majorities go ------------------------------------------------------------------------------------


def test_a_question_to_a_leader_that_is_cut_off_is_answered_by_the_next():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        task = (await cluster.submit(unserved)).id
        old = rig.leader
        rig.world.network.partition([[old], [broker for broker in BROKERS if broker != old]])
        (record,) = await cluster.records([task])
        status = await cluster.status()
        return record.state, status["leader"] not in (None, old)

    assert rig.run(user) == ("pending", True)


def test_without_a_majority_the_status_still_says_what_the_brokers_know_of_themselves():
    rig = ClientWorld(workers=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        await pause(ports, 1.0)
        leader = rig.leader
        for name in BROKERS:
            if name != leader:
                rig.world.crash(rig.brokers[name])
        await pause(ports, 0.001)
        at_once = await cluster.status(), await cluster.status(stale=True)
        await pause(ports, 5.0)
        return leader, *at_once, await cluster.status(), await cluster.status(stale=True)

    leader, early, early_stale, late, late_stale = rig.run(user)
    for status in (early, late):
        assert (status["leader"], status["workers"], status["queues"]) == (None, [], [])
        (row,) = (row for row in status["brokers"] if row["role"] != "down")
        assert row["node"] == leader and row["applied_index"] > 0
    for status in (early_stale, late_stale):
        known = {"leader", "term", "brokers", "workers", "queues", "parked", "parked_more", "limits", "limits_more"}
        assert set(status) == known | {"schedules"}
        assert [row["node"] for row in status["workers"]] == ["w1"]
        assert status["queues"][0]["parked"] == 1
    assert late_stale["leader"] is None


def test_an_old_status_is_that_of_the_broker_that_has_applied_most():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        old = rig.leader
        await cluster.submit(unserved)
        await pause(ports, 0.5)
        rig.world.pause(rig.brokers[old])
        await asyncio.gather(*(cluster.submit(unserved) for _ in range(5)))
        rig.world.resume(rig.brokers[old])
        status = await cluster.status(stale=True)
        return status["leader"] != old, status["queues"][0]["parked"]

    assert rig.run(user) == (True, 6)
