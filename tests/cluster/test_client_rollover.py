"""A client that submits more tasks than a session has numbers for: the next session follows, and nobody notices."""

import asyncio
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work

from actors import MILLISECOND, SECOND, Ports
from actors.simulation import NetworkLimits
from cluster import Client, ClusterError, TaskCancelled, Unavailable, task
from cluster.client.actor import STRAGGLERS_MAX
from cluster.client.succession import SessionLimits
from cluster.state import sessions as state_sessions
from cluster.state.commands import TASK_NUMBER_BITS

FEW = SessionLimits(numbers_max=100, numbers_low=40)
NUMBER_MASK = (1 << TASK_NUMBER_BITS) - 1


MEBIBYTE_OF_TEXT = "x" * (1024 * 1024 - 100)


@task(name="rollover:unserved_number")
def unserved_number(number: int) -> None:
    """No worker announces it."""


@task(name="rollover:unserved_text")
def unserved_text(text: str) -> None:
    """No worker announces it."""


def session_of(task: int) -> int:
    return task >> TASK_NUMBER_BITS


def parcels(count: int) -> list[Parcel]:
    return [Parcel(number) for number in range(count)]


# -- from one session to the next -------------------------------------------------------------------------------------


def test_a_client_that_has_used_its_numbers_goes_on_in_another_session():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        handles = [await cluster.submit(work, Parcel(number)) for number in range(350)]
        return [handle.id for handle in handles], [await handle for handle in handles]

    ids, results = rig.run(user, limits=FEW)
    assert results == parcels(350)
    assert len({session_of(number) for number in ids}) >= 4
    assert ids == sorted(set(ids))
    assert max(number & NUMBER_MASK for number in ids) <= 100
    assert set(rig.runs.values()) == {1}
    assert ("c1", "client_session_succeeded") in rig.log


def test_more_submits_of_one_turn_than_a_session_takes_are_spread_over_several():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        handles = await asyncio.gather(*(cluster.submit(work, Parcel(number)) for number in range(1_000)))
        return [handle.id for handle in handles], [await handle for handle in handles]

    ids, results = rig.run(user, limits=FEW)
    assert results == parcels(1_000)
    assert len(set(ids)) == 1_000 and len({session_of(number) for number in ids}) >= 10


def test_a_map_across_sessions_keeps_the_order_of_its_items():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, parcels(2_500))
        results = await batch
        return results, batch.ids, batch.progress, [record.task for record in await cluster.records(batch.ids)]

    results, ids, progress, recorded = rig.run(user, limits=SessionLimits(numbers_max=900, numbers_low=300))
    assert results == parcels(2_500)
    assert (recorded, progress) == (ids, (2_500, 0, 2_500))
    assert len({session_of(number) for number in ids}) >= 3


def test_no_submit_waits_for_the_next_session_while_numbers_are_left():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        firsts, last = [], 0                # of how long the first submit of each session but the first took
        for _ in range(500):
            start = ports.clock.now()
            session = session_of((await cluster.submit(unserved)).id)
            if last and session != last:
                firsts.append(ports.clock.now() - start)
            last = session
        return firsts

    ordinary = 2 * MILLISECOND              # of this world: there and back, and a sync
    spans = rig.run(user, limits=SessionLimits(numbers_max=200, numbers_low=120))
    waits = rig.run(user, limits=SessionLimits(numbers_max=200, numbers_low=0))
    assert len(spans) >= 2 and max(spans) < ordinary
    assert min(waits) > ordinary, "a session that is used up is waited for"


def test_a_session_that_is_used_up_before_the_next_one_stands_is_refused_at_the_deadline(monkeypatch):
    rig = ClientWorld(workers=0)
    monkeypatch.setattr(state_sessions, "SESSIONS_MAX", 1)

    async def user(cluster: Client, ports: Ports) -> Any:
        first = [await cluster.submit(unserved) for _ in range(100)]
        start = ports.clock.now()
        with pytest.raises(Unavailable, match="too many clients") as caught:
            await cluster.submit(unserved)
        waited = (ports.clock.now() - start) / SECOND
        await first[0].cancel()                 # takes no number
        monkeypatch.setattr(state_sessions, "SESSIONS_MAX", 2)
        again = await cluster.submit(unserved)
        return caught.value.outcome, waited, session_of(again.id) > session_of(first[-1].id)

    outcome, waited, is_next = rig.run(user, deadline=3.0, limits=FEW)
    assert outcome == "refused" and is_next
    assert 3.0 <= waited < 3.3


# -- tasks of a session that ended ------------------------------------------------------------------------------------


def test_a_retired_session_is_closed_as_soon_as_nothing_of_it_is_under_way():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        before = rig.client_sessions
        await (await cluster.map(work, parcels(150)))
        await pause(ports, 3)
        return before, rig.client_sessions

    before, after = rig.run(user, limits=FEW)
    assert len(before) == len(after) == 1 and after > before


def test_tasks_of_a_closed_session_are_awaited_cancelled_and_asked_for_as_before():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        slow = await cluster.submit(work, Parcel(1), 8_000 * MS)
        done = await cluster.submit(work, Parcel(2))
        waiting = await cluster.submit(unserved)
        batch = await cluster.map(work, parcels(120), work_us=100 * MS)
        while session_of(slow.id) in rig.client_sessions:
            await pause(ports, 0.1)
        again = cluster.handle(done.id)
        assert await again.result(timeout=1.0) == {"number": 2, "label": ""}
        with pytest.raises(TimeoutError):
            await slow.result(timeout=0.1)
        await waiting.cancel()
        with pytest.raises(TaskCancelled):
            await waiting
        states = [record.state for record in await cluster.records([done.id, waiting.id, slow.id])]
        return states, await done, await slow, await batch, (await cluster.status())["leader"]

    states, done, slow, batch, leader = rig.run(user, limits=FEW)
    assert states == ["completed", "cancelled", "processing"]
    assert (done, slow, batch) == (Parcel(2), Parcel(1), parcels(120))
    assert leader in BROKERS
    assert set(rig.runs.values()) == {1}


def test_a_retired_session_lives_while_it_waits_for_many_results():
    rig = ClientWorld()
    few = SessionLimits(numbers_max=STRAGGLERS_MAX + 500, numbers_low=400)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, parcels(STRAGGLERS_MAX + 600), work_us=20 * MS)
        await pause(ports, 3)
        assert len(rig.client_sessions) == 2
        return await batch

    assert rig.run(user, limits=few) == parcels(STRAGGLERS_MAX + 600)


def test_an_unanswered_cancel_keeps_its_session():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        handles = [await cluster.submit(unserved) for _ in range(59)]
        cuts = rig.world.network.partition([["c1"], BROKERS])
        cancels = [asyncio.ensure_future(handle.cancel()) for handle in handles[:5]]
        rolled = asyncio.ensure_future(cluster.map(unserved_number, range(30)))
        await pause(ports, 4)
        rig.world.network.mend(cuts)
        await asyncio.gather(*cancels)
        batch = await rolled
        return [record.state for record in await cluster.records([handle.id for handle in handles[:6]])], len(batch)

    assert rig.run(user, limits=FEW) == (["cancelled"] * 5 + ["pending"], 30)


def test_a_retired_session_lives_until_all_that_was_submitted_in_it_is_confirmed():
    """45 MiB: the next session stands long before a leader has taken that."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        label = "x" * (1024 * 1024 - 100)
        first = cluster._actor
        handles = [asyncio.ensure_future(cluster.submit(work, Parcel(number, label))) for number in range(50)]
        while cluster._actor is first:
            await pause(ports, 0.01)
        assert not all(handle.done() for handle in handles), "some are under way in the session that is retired"
        ids = [handle.id for handle in await asyncio.gather(*handles)]
        return len({session_of(number) for number in ids}), {record.state for record in await cluster.records(ids)}

    assert rig.run(user, limits=SessionLimits(numbers_max=45, numbers_low=20)) == (2, {"pending"})


def test_who_waits_for_a_session_when_it_is_retired_looks_for_another():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        actor = cluster._actor
        actor._lose_session()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        actor.registered(waiter)
        actor.retire(lambda sinks: None)
        await waiter
        return actor.session

    assert rig.run(user) == 0


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_doubled_when_the_leader_dies_between_two_sessions(seed):
    rig = ClientWorld(seed, workers=2)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> tuple[int, Parcel]:
            await pause(ports, number * 0.005)
            handle = await cluster.submit(work, Parcel(number), MS)
            return handle.id, await handle

        found = await asyncio.gather(*(one(number) for number in range(500)))
        await pause(ports, 5)
        return found, rig.client_sessions

    name = rig.start(user, limits=SessionLimits(numbers_max=30, numbers_low=12))
    rig.until(lambda: len(rig.runs) > 100 + 10 * seed)
    leader = rig.leader
    rig.world.crash(rig.brokers[leader])
    rig.world.restart(rig.brokers[leader], after=3 * SECOND)
    found, sessions = rig.finish(name)
    assert [parcel for _, parcel in found] == parcels(500)
    assert len({number for number, _ in found}) == len(rig.runs) == 500
    assert len(sessions) == 1


def test_connections_that_break_and_messages_that_come_twice_are_not_seen_across_sessions():
    rig = ClientWorld(5, network=NetworkLimits(duplicate_ppm=200_000))
    chance = rig.world.stream("breaks")
    rig.world.every(SECOND // 10, lambda: rig.world.network.break_links(chance.choice(["c1", *BROKERS])))

    async def user(cluster: Client, ports: Ports) -> Any:
        results = []
        for number in range(40):
            results += await (await cluster.map(work, [Parcel(number)] * 7))
        return results

    assert rig.run(user, limits=FEW) == [Parcel(number) for number in range(40) for _ in range(7)]
    assert len(rig.runs) == 280


def test_results_of_a_retired_session_that_is_lost_still_arrive():
    rig = ClientWorld()
    many = STRAGGLERS_MAX + 1_000

    async def user(cluster: Client, ports: Ports) -> Any:
        first = cluster._actor
        batch = await cluster.map(work, parcels(many), work_us=10 * MS)
        assert cluster._actor is first
        handle = await cluster.submit(work, Parcel(-1))
        await cluster.map(unserved_number, range(60))
        while cluster._actor is first:
            await pause(ports, 0.1)
            await cluster.submit(unserved)
        rig.take_over(first.name, "thief")
        while not first.has_ended:
            await pause(ports, 0.1)
        more = await cluster.submit(work, Parcel(-2))
        return batch.progress[0] < many, await batch, await handle, await more

    name = rig.start(user, limits=SessionLimits(numbers_max=many + 100, numbers_low=50))
    early, batch, handle, more = rig.finish(name)
    assert early, "the session was lost while results of it were awaited"
    assert (batch, handle, more) == (parcels(many), Parcel(-1), Parcel(-2))
    assert ("c1", "client_session_lost") in rig.log


def test_a_session_that_is_lost_while_its_successor_registers_is_not_missed():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        rig.take_over(cluster._actor.name, "thief")
        results, lost = [], 0
        while len(results) < 400:
            try:
                results.append(await (await cluster.submit(work, Parcel(len(results)))))
            except Unavailable as error:
                assert error.outcome == "unknown"
                lost += 1
        return results, lost

    results, lost = rig.run(user, limits=FEW)
    assert results == parcels(400)
    assert lost <= 1


def test_a_session_that_follows_a_new_leader_takes_the_others_off_the_old_one():
    """The old one would say that it has no record of a task that the new one has confirmed."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        first = cluster._actor
        await cluster.map(unserved_number, range(STRAGGLERS_MAX + 100))
        await cluster.submit(unserved)      # few numbers are left: the second session registers
        await pause(ports, 1)
        second = cluster._actor
        assert second is not first and not first.has_ended
        second._links.term -= 1             # as if it had not yet heard of the last election
        first._rejoin(first._links.leader)
        lost = second._links.leader is None and first._links.leader is not None
        await pause(ports, 1)
        return lost, second._links.leader is not None, first.term == second.term

    assert rig.run(user, limits=SessionLimits(numbers_max=STRAGGLERS_MAX + 110, numbers_low=20)) == (True, True, True)


def test_leaving_ends_every_session_and_tells_everyone_who_still_waits():
    rig = ClientWorld(seed=2, workers=0)
    kept: dict[str, Any] = {}

    async def user(cluster: Client, ports: Ports) -> Any:
        kept["batch"] = await cluster.map(unserved_number, range(2 * STRAGGLERS_MAX))
        kept["waiting"] = asyncio.ensure_future(kept["batch"].results())
        await pause(ports, 1)
        return len(rig.client_sessions)

    sessions = rig.run(user, limits=SessionLimits(numbers_max=STRAGGLERS_MAX + 400, numbers_low=300))
    assert sessions == 2
    assert isinstance(kept["waiting"].exception(), Unavailable)
    assert kept["batch"].progress == (2 * STRAGGLERS_MAX,) * 3
    rig.until(lambda: not rig.client_sessions, 10 * SECOND)


def test_a_client_that_leaves_while_its_next_session_registers_leaves_nothing_behind():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.map(unserved_number, range(60))
        waiting = asyncio.ensure_future(cluster.submit(unserved))
        await pause(ports, 0)
        return waiting

    waiting = rig.run(user, limits=FEW)
    assert isinstance(waiting.exception(), ClusterError)


def test_who_only_looks_gets_results_across_a_change_of_leader():
    rig = ClientWorld()

    async def submits(cluster: Client, ports: Ports) -> Any:
        return (await cluster.submit(work, Parcel(8), 9_000 * MS)).id

    number = rig.run(submits)

    async def looks(cluster: Client, ports: Ports) -> Any:
        handle = cluster.handle(number)
        await pause(ports, 0.5)
        leader = rig.leader
        rig.world.crash(rig.brokers[leader])
        rig.world.restart(rig.brokers[leader], after=SECOND)
        return await handle

    assert rig.run(looks, only_looks=True) == {"number": 8, "label": ""}


@pytest.mark.parametrize("limits", [(0, 0), (10, 10), (1 << TASK_NUMBER_BITS, 5)])
def test_limits_that_cannot_work_are_refused(limits):
    with pytest.raises(AssertionError):
        SessionLimits(*limits)


# -- under pressure ---------------------------------------------------------------------------------------------------


def test_results_of_a_retired_session_arrive_although_the_link_of_the_next_one_was_full():
    rig = ClientWorld(workers=1, slots=2)

    async def user(cluster: Client, ports: Ports) -> Any:
        first = cluster._actor
        slow = [await cluster.submit(work, Parcel(number), 3_000 * MS) for number in range(2)]
        while cluster._actor is first:
            await cluster.submit(unserved)
        # The leader takes nothing for a moment, too short for an election, while the new session sends much.
        leader = rig.brokers[rig.leader]
        rig.world.pause(leader)
        rig.world.after(600 * MILLISECOND, lambda: rig.world.resume(leader))
        await asyncio.gather(*(cluster.submit(unserved_text, MEBIBYTE_OF_TEXT) for _ in range(60)))
        return await asyncio.gather(*(handle.result(timeout=100) for handle in slow))

    results = rig.run(user, deadline=100.0, limits=SessionLimits(numbers_max=200, numbers_low=120))
    assert results == parcels(2)


def test_a_submit_that_waited_for_a_session_has_what_is_left_of_its_deadline(monkeypatch):
    rig = ClientWorld(workers=0)
    monkeypatch.setattr(state_sessions, "SESSIONS_MAX", 1)

    async def user(cluster: Client, ports: Ports) -> Any:
        for _ in range(100):
            await cluster.submit(unserved)
        start = ports.clock.now()
        first = cluster._actor
        last = asyncio.ensure_future(cluster.submit(unserved))
        await pause(ports, 2.0)
        monkeypatch.setattr(state_sessions, "SESSIONS_MAX", 2)
        while cluster._actor is first:
            await pause(ports, 0.0001)
        rig.world.network.partition([["c1"], BROKERS])
        with pytest.raises(ClusterError):
            await last
        return (ports.clock.now() - start) / SECOND

    assert rig.run(user, deadline=3.0, limits=FEW) < 3.3
