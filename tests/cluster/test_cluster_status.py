"""What status says, on every broker and while brokers are away."""

import asyncio
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work

from actors import SECOND, Ports
from cluster import Client

BROKER_KEYS = {"node", "pid", "role", "term", "commit_index", "applied_index", "digest", "sync"}
WORKER_KEYS = {"node", "pid", "slots", "draining", "running", "waiting", "children"}
QUEUE_KEYS = {"name", "ready", "waiting", "running", "delayed", "completed", "failed", "dead"}


async def settled(cluster: Client, ports: Ports) -> dict[str, Any]:
    """The status once heartbeats have told what runs."""
    await pause(ports, 1.5)
    return await cluster.status()


def test_everything_is_named_in_the_order_of_the_topology():
    rig = ClientWorld(workers=2, slots=3)

    async def user(cluster: Client, ports: Ports) -> Any:
        await (await cluster.map(work, [Parcel(number) for number in range(600)]))
        return await settled(cluster, ports)

    status = rig.run(user)
    known = {"leader", "term", "brokers", "workers", "queues", "parked", "parked_more", "limits", "limits_more"}
    assert set(status) == known | {"schedules"}
    assert status["leader"] == rig.leader
    assert [row["node"] for row in status["brokers"]] == list(BROKERS)
    assert [row["pid"] for row in status["brokers"]] == [100, 101, 102]
    assert sorted(row["role"] for row in status["brokers"]) == ["follower", "follower", "leader"]
    assert {row["term"] for row in status["brokers"]} == {status["term"]}
    assert {row["sync"] for row in status["brokers"]} == {"inline"}
    assert all(set(row) >= BROKER_KEYS for row in status["brokers"])
    assert all(set(row) >= WORKER_KEYS for row in status["workers"])
    assert all(set(row) >= QUEUE_KEYS for row in status["queues"])
    workers = [(row["node"], row["slots"], len(row["children"])) for row in status["workers"]]
    assert workers == [("w1", 3, 3), ("w2", 3, 3)]


def test_replicas_that_applied_the_same_have_the_same_digest():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        for number in range(300):
            await cluster.submit(work, Parcel(number))
        return await settled(cluster, ports)

    brokers = rig.run(user)["brokers"]
    (digest,) = {tuple(row["digest"]) for row in brokers}
    assert digest[0] > 0 and digest[0] % 256 == 0
    assert {row["applied_index"] for row in brokers} == {row["commit_index"] for row in brokers}


def test_a_worker_that_is_busy_with_short_tasks_is_shown_as_busy():
    """What its last heartbeat named has ended long ago; as many others run."""
    rig = ClientWorld(workers=1, slots=2)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(2_000)], work_us=2 * MS)
        await pause(ports, 1.2)
        status = await cluster.status()
        await batch
        return status

    status = rig.run(user)
    (worker,) = status["workers"]
    (queue,) = (row for row in status["queues"] if row["name"] == "default")
    assert worker["running"] == queue["running"] == 2
    assert worker["waiting"] == queue["waiting"] > 0


def test_queues_count_what_waits_runs_and_has_ended():
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        fates = [("ok", 3), ("raise", 2), ("die", 1)]
        batches = [await cluster.map(work, [Parcel(n) for n in range(count)], fate=fate) for fate, count in fates]
        for batch in batches:
            async for _ in batch.as_completed():
                pass
        await cluster.map(work, [Parcel(n) for n in range(4)], work_us=60_000 * MS)
        await cluster.submit(unserved)
        await cluster.submit(unserved.options(delay="1h"))
        await cluster.submit(unserved.options(queue="mail"))
        gone = await cluster.submit(unserved)
        await gone.cancel()
        return await settled(cluster, ports)

    status = rig.run(user)
    default, mail = status["queues"]
    assert (default["name"], default["completed"], default["failed"], default["dead"]) == ("default", 3, 2, 1)
    assert (default["running"], default["delayed"]) == (1, 1)
    assert default["ready"] + default["waiting"] == 4 and default["parked"] == 1
    assert (mail["name"], mail["ready"], mail["parked"]) == ("mail", 1, 1)
    (worker,) = status["workers"]
    assert (worker["running"], worker["waiting"]) == (1, default["waiting"])


def test_a_broker_that_is_away_is_down_and_nothing_is_known_of_it():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        victim = next(name for name in BROKERS if name != rig.leader)
        rig.world.crash(rig.brokers[victim])
        await pause(ports, 0.5)
        status = await cluster.status()
        return victim, next(row for row in status["brokers"] if row["node"] == victim), status["leader"]

    victim, row, leader = rig.run(user)
    assert row == dict.fromkeys(BROKER_KEYS) | {"node": victim, "role": "down"}
    assert leader not in (None, victim)


def test_a_broker_that_hangs_is_down_after_two_seconds():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        victim = next(name for name in BROKERS if name != rig.leader)
        rig.world.pause(rig.brokers[victim])
        start = ports.clock.now()
        status = await cluster.status()
        waited = (ports.clock.now() - start) / SECOND
        return waited, [row["node"] for row in status["brokers"] if row["role"] == "down"] == [victim]

    waited, right = rig.run(user)
    assert right and 2.0 <= waited < 2.1


def test_asking_may_be_cancelled():
    """As `asyncio.timeout` does; a task that swallowed it would go on."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        for name in BROKERS:
            rig.world.pause(rig.brokers[name])
        asking = asyncio.ensure_future(cluster.status())
        await pause(ports, 0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        for name in BROKERS:
            rig.world.resume(rig.brokers[name])
        await pause(ports, 3.0)
        return (await cluster.status())["leader"]

    assert rig.run(user) in BROKERS


def test_without_a_leader_brokers_are_shown_and_nothing_else():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        for name in [name for name in BROKERS if name != rig.leader]:
            rig.world.crash(rig.brokers[name])
        await pause(ports, 5.0)
        return await cluster.status()

    status = rig.run(user)
    assert (status["leader"], status["workers"], status["queues"]) == (None, [], [])
    assert sorted(row["role"] for row in status["brokers"])[:2] == ["down", "down"]


# -- a client that has just begun -------------------------------------------------------------------------------------


async def ask_at_once(cluster: Client, ports: Ports) -> Any:
    start = ports.clock.now()
    status = await cluster.status()
    down = [row["node"] for row in status["brokers"] if row["role"] == "down"]
    return down, (ports.clock.now() - start) / SECOND


@pytest.mark.parametrize("only_looks", [False, True])
@pytest.mark.parametrize("extra", [SECOND // 1_000, SECOND // 20])
def test_a_broker_whose_link_comes_up_after_the_leaders_is_not_down(only_looks, extra):
    """As of `python -m cluster status`, which asks as soon as it has a leader."""
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)
    name = rig.start(ask_at_once, only_looks=only_looks)
    for number, broker in enumerate([other for other in BROKERS if other != rig.leader], start=1):
        for path in ((name, broker), (broker, name)):
            rig.world.network.slow(*path, number * extra)
    down, waited = rig.finish(name)
    assert down == []
    assert waited < 0.5


def test_a_broker_that_is_away_is_waited_for_half_a_second_from_the_beginning_and_no_longer():
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)
    victim = next(name for name in BROKERS if name != rig.leader)
    rig.world.crash(rig.brokers[victim])

    async def user(cluster: Client, ports: Ports) -> Any:
        return await ask_at_once(cluster, ports), await ask_at_once(cluster, ports)

    first, second = rig.run(user)
    assert first[0] == second[0] == [victim]
    assert 0.4 < first[1] < 0.55
    assert second[1] < 0.1


def test_asking_may_be_cancelled_while_it_waits_for_a_link():
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)
    rig.world.crash(rig.brokers[next(name for name in BROKERS if name != rig.leader)])

    async def user(cluster: Client, ports: Ports) -> Any:
        asking = asyncio.ensure_future(cluster.status())
        await pause(ports, 0.05)
        asking.cancel()
        start = ports.clock.now()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return ports.clock.now() - start

    assert rig.run(user) < SECOND // 1_000
