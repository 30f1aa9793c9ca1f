"""What a client does when the cluster is away, changes its leader, forgets it, or does not want it."""

import asyncio
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, topology, unserved, work

from actors import SECOND, Ports
from actors.simulation import NetworkLimits
from cluster import Client, ClusterError, DeadlineExceeded, TaskCancelled, Unavailable
from cluster.state.commands import TASK_NUMBER_BITS


def cut_off(rig: ClientWorld, client: str) -> Any:
    return rig.world.network.partition([[client], BROKERS])


def outcome_of(error: BaseException) -> str:
    assert isinstance(error, Unavailable | DeadlineExceeded)
    return error.outcome


# -- nobody there -----------------------------------------------------------------------------------------------------


def test_without_a_leader_nobody_enters_and_the_error_names_the_brokers():
    rig = ClientWorld(workers=0)
    for name in ("b2", "b3"):
        rig.world.crash(rig.brokers[name])

    async def user(cluster: Client, ports: Ports) -> Any:
        return "entered"

    with pytest.raises(Unavailable, match="no leader answered") as caught:
        rig.run(user, deadline=3.0)
    assert all(name in str(caught.value) for name in BROKERS)
    assert caught.value.outcome == "refused"


def test_without_a_leader_one_may_enter_to_look():
    rig = ClientWorld(workers=0)
    for name in ("b2", "b3"):
        rig.world.crash(rig.brokers[name])

    async def user(cluster: Client, ports: Ports) -> Any:
        status = await cluster.status()
        with pytest.raises(Unavailable) as caught:
            await cluster.submit(unserved)
        with pytest.raises(Unavailable):
            await cluster.records([1])
        return status["leader"], [row["role"] for row in status["brokers"]], caught.value.outcome

    leader, roles, outcome = rig.run(user, deadline=2.0, require_leader=False)
    assert leader is None
    assert roles[0] in ("forming", "follower", "pre_candidate", "candidate") and roles[1:] == ["down", "down"]
    assert outcome == "refused"


def test_a_client_of_another_cluster_is_told_so():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        return "entered"

    with pytest.raises(Unavailable, match="this is a broker of cluster 'world', not of 'other'"):
        rig.run(user, deadline=5.0, cluster="other")
    assert rig.world.now < SECOND, "no broker will ever say anything else"


def test_the_status_says_why_brokers_refuse():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        return await cluster.status()

    status = rig.run(user, deadline=5.0, cluster="other", require_leader=False)
    assert status["leader"] is None and status["refusal"] == "this is a broker of cluster 'world', not of 'other'"
    assert rig.world.now < 2 * SECOND, "not after its deadline"


def test_a_client_that_comes_before_the_brokers_waits_for_them():
    rig = ClientWorld()
    for process in rig.brokers.values():
        rig.world.crash(process)
        rig.world.restart(process, after=5 * SECOND)

    async def user(cluster: Client, ports: Ports) -> Any:
        return await (await cluster.submit(work, Parcel(1)))

    assert rig.run(user) == Parcel(1)


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_a_submit_that_left_has_an_unknown_outcome_at_its_deadline():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        cuts = cut_off(rig, "c1")
        start = ports.clock.now()
        with pytest.raises(DeadlineExceeded) as caught:
            await cluster.submit(unserved)
        waited = (ports.clock.now() - start) / SECOND
        rig.world.network.mend(cuts)
        handle = await cluster.submit(unserved)
        return caught.value.outcome, waited, handle.id & (1 << TASK_NUMBER_BITS) - 1

    outcome, waited, number = rig.run(user, deadline=2.0)
    assert outcome == "unknown"
    assert 2.0 <= waited < 2.3
    assert number == 3


def test_a_submit_that_never_left_is_refused_at_its_deadline():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        for name in BROKERS:
            rig.world.crash(rig.brokers[name])
        await pause(ports, 1.0)
        with pytest.raises(Unavailable, match="fewer than a majority") as caught:
            await cluster.submit(unserved)
        return caught.value.outcome

    assert rig.run(user, deadline=2.0) == "refused"


def test_one_call_may_have_a_deadline_of_its_own_with_the_tools_of_asyncio():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(unserved)
        waiting = asyncio.ensure_future(handle.result())
        await pause(ports, 0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await handle.cancel()
        with pytest.raises(TaskCancelled):
            await handle
        return "went on"

    assert rig.run(user) == "went on"


def test_a_cancel_that_is_not_confirmed_has_an_unknown_outcome():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(unserved)
        cuts = cut_off(rig, "c1")
        with pytest.raises(DeadlineExceeded) as caught:
            await handle.cancel()
        rig.world.network.mend(cuts)
        with pytest.raises(TaskCancelled):       # it was in the window, and left when the link came back
            await handle
        return caught.value.outcome

    assert rig.run(user, deadline=2.0) == "unknown"


def test_submits_wait_while_there_is_no_leader_and_go_on_under_the_next():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        rig.world.crash(rig.brokers[rig.leader])
        await pause(ports, 0.001)
        handles = await asyncio.gather(*(cluster.submit(unserved) for _ in range(3_000)))
        return [handle.id for handle in handles]

    ids = rig.run(user)
    assert ids == list(range(ids[0], ids[0] + 3_000))


def test_more_than_the_cluster_takes_at_once_is_taken_bit_by_bit():
    """60 MiB: more than an outbox holds, and more than a leader lets wait; the client repeats it until it is taken."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        label = "x" * (1024 * 1024 - 100)
        handles = await asyncio.gather(*(cluster.submit(work, Parcel(number, label)) for number in range(60)))
        ids = [handle.id for handle in handles]
        return ids, [record.state for record in await cluster.records(ids)]

    ids, states = rig.run(user)
    assert ids == list(range(ids[0], ids[0] + 60))
    assert states == ["pending"] * 60


# -- leaders come and go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_doubled_when_the_leader_dies_under_a_stream_of_tasks(seed):
    rig = ClientWorld(seed, workers=2)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> Parcel:
            await pause(ports, number * 0.005)
            return await (await cluster.submit(work, Parcel(number), MS))

        return await asyncio.gather(*(one(number) for number in range(400)))

    name = rig.start(user)
    rig.until(lambda: len(rig.runs) > 100)
    leader = rig.leader
    rig.world.crash(rig.brokers[leader])
    rig.world.restart(rig.brokers[leader], after=3 * SECOND)
    assert rig.finish(name) == [Parcel(number) for number in range(400)]
    assert len(rig.runs) == 400


def test_results_that_were_pushed_while_the_link_was_down_arrive_afterwards():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(50)], work_us=10 * MS)
        cuts = cut_off(rig, "c1")
        await pause(ports, 10)
        rig.world.network.mend(cuts)
        return await batch

    assert rig.run(user) == [Parcel(number) for number in range(50)]
    assert set(rig.runs.values()) == {1}


def test_connections_that_break_now_and_then_are_not_seen():
    rig = ClientWorld(3)
    chance = rig.world.stream("breaks")
    rig.world.every(SECOND // 10, lambda: rig.world.network.break_links(chance.choice(["c1", *BROKERS])))

    async def user(cluster: Client, ports: Ports) -> Any:
        results = []
        for number in range(40):
            batch = await cluster.map(work, [Parcel(number), Parcel(-number)])
            results += await batch
        return results

    expected = [parcel for number in range(40) for parcel in (Parcel(number), Parcel(-number))]
    assert rig.run(user) == expected
    assert len(rig.runs) == 80


def test_messages_that_arrive_twice_change_nothing():
    rig = ClientWorld(4, network=NetworkLimits(duplicate_ppm=300_000))

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(500)])
        results = await batch
        return results, batch.progress, [record.attempts for record in await cluster.records(batch.ids)]

    results, progress, attempts = rig.run(user)
    assert results == [Parcel(number) for number in range(500)]
    assert progress == (500, 0, 500)
    assert set(attempts) == {1}


# -- the end of a session ---------------------------------------------------------------------------------------------


def test_a_client_whose_session_ended_goes_on_under_a_new_one():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        slow = await cluster.submit(work, Parcel(1), 3_000 * MS)
        waiting = await cluster.submit(unserved)
        rig.take_over(cluster._actor.name, "thief")
        while "thief" not in rig.answers:
            await pause(ports, 0.05)
        # Whatever the next call meets, its error says that nothing is known of it; the one after that succeeds.
        try:
            await cluster.submit(work, Parcel(2))
        except Unavailable as error:
            assert error.outcome == "unknown"
        again = await cluster.submit(work, Parcel(3))
        await waiting.cancel()
        with pytest.raises(TaskCancelled):
            await waiting
        return slow.id >> TASK_NUMBER_BITS, again.id >> TASK_NUMBER_BITS, await again, await slow

    first, second, again, slow = rig.run(user)
    assert second > first
    assert (again, slow) == (Parcel(3), Parcel(1))
    assert ("c1", "client_session_lost") in rig.log


def test_a_map_whose_session_ends_in_between_fails_or_has_every_task_once():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        rig.take_over(cluster._actor.name, "thief")
        batches, lost = [], 0
        while not (batches and "thief" in rig.answers):
            try:
                batches.append(await cluster.map(work, [Parcel(number) for number in range(3_000)]))
            except Unavailable as error:
                assert error.outcome == "unknown"
                lost += 1
        results = [await batch for batch in batches]
        more = await (await cluster.map(work, [Parcel(1)]))
        return results, [batch.ids for batch in batches], more

    results, ids, more = rig.run(user)
    assert all(found == [Parcel(number) for number in range(3_000)] for found in results)
    flat = [number for batch in ids for number in batch]
    assert len(set(flat)) == len(flat) and all(number >> TASK_NUMBER_BITS for number in flat)
    assert more == [Parcel(1)]


def test_a_cancel_without_a_session_waits_for_one():
    rig = ClientWorld(workers=0)

    async def submits(cluster: Client, ports: Ports) -> Any:
        return (await cluster.submit(unserved)).id

    number = rig.run(submits)
    for name in BROKERS:
        rig.world.crash(rig.brokers[name])
        rig.world.restart(rig.brokers[name], after=4 * SECOND)

    async def cancels(cluster: Client, ports: Ports) -> Any:
        handle = cluster.handle(number)
        await pause(ports, 1)
        with pytest.raises(ClusterError):
            await handle.cancel()
        await pause(ports, 10)
        await handle.cancel()
        try:
            await handle
        except TaskCancelled:
            return await cluster.submit(unserved)
        return None

    assert rig.run(cancels, deadline=1.0, require_leader=False) is not None


@pytest.mark.slow
def test_an_idle_client_keeps_its_session_for_longer_than_an_hour():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        first = await cluster.submit(unserved)
        await pause(ports, 3_700)
        again = await cluster.submit(unserved)
        return first.id >> TASK_NUMBER_BITS == again.id >> TASK_NUMBER_BITS

    name = rig.start(user)
    assert rig.finish(name, 4_000 * SECOND)


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_leaving_ends_the_session_and_tells_everyone_who_still_waits():
    rig = ClientWorld(workers=0)
    kept: dict[str, Any] = {}

    async def user(cluster: Client, ports: Ports) -> Any:
        kept["client"] = cluster
        kept["handle"] = await cluster.submit(unserved)
        kept["batch"] = await cluster.map(work, [Parcel(1)])
        kept["waiting"] = asyncio.ensure_future(kept["handle"].result())
        await pause(ports, 0)
        return "left"

    assert rig.run(user) == "left"
    assert isinstance(kept["waiting"].exception(), Unavailable)
    assert outcome_of(kept["waiting"].exception()) == "unknown"
    assert kept["handle"].done() and kept["batch"].progress == (1, 1, 1)
    rig.until(lambda: not any(session.worker is None for session in rig.actor(rig.leader).machine.sessions_open()))


def test_a_client_that_was_left_takes_nothing_more():
    rig = ClientWorld(workers=0)

    async def user(still: Client, ports: Ports) -> Any:
        async with Client(topology(), lambda: ports, 30.0) as cluster:
            handle = await cluster.submit(unserved)
        start = ports.clock.now()
        outcomes = []
        for call in (
            lambda: cluster.submit(unserved),
            lambda: cluster.map(work, [Parcel(1)]),
            lambda: cluster.records([1]),
            lambda: cluster.status(),
            lambda: handle.cancel(),
        ):
            try:
                await call()
            except Unavailable as error:
                outcomes.append(error.outcome)
        try:
            cluster.handle(1)
        except Unavailable as error:
            outcomes.append(error.outcome)
        return outcomes, ports.clock.now() - start, (await still.submit(unserved)).state()

    outcomes, waited, state = rig.run(user)
    assert outcomes == ["refused"] * 6
    assert waited < SECOND
    assert state == "pending"


def test_tasks_of_a_client_that_died_live_on():
    rig = ClientWorld()
    kept: list[int] = []

    async def dies(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(20)], work_us=200 * MS)
        kept.extend(batch.ids)
        await pause(ports, 1_000)

    name = rig.start(dies)
    rig.until(lambda: kept)
    rig.world.crash(rig.clients[name])

    async def comes_back(cluster: Client, ports: Ports) -> Any:
        return [(await cluster.handle(number))["number"] for number in kept]

    assert rig.run(comes_back) == list(range(20))
