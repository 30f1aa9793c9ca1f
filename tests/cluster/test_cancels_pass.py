"""Cancels are taken while submits are not, also those behind a submit of the same client that was refused."""

import asyncio
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from client_world import BROKERS, ClientWorld, Parcel, pause, unserved, work
from overload_rig import FULL, check_fates, close, crash_or_cut, fate_of, numbers_of_tasks, reopen, tasks_in_the_end

from actors import SECOND, Ports
from cluster import Client, ClusterError, Overloaded, TaskCancelled
from cluster.state.commands import Submit


def begin(cluster: Client, numbers: range) -> list["asyncio.Future[Any]"]:
    return [asyncio.ensure_future(cluster.submit(work, Parcel(number))) for number in numbers]


@pytest.mark.parametrize("submits", [1, 3, 80], ids=["one", "some", "more than a window"])
@pytest.mark.parametrize("wait", [0.0, 0.2, 1.5], ids=["at once", "when they are refused", "when one was tried again"])
def test_a_cancel_behind_refused_submits_is_taken_and_they_are_taken_when_there_is_room(submits, wait):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        close(rig)
        waiting: list[asyncio.Future[Any]] = []
        for number in range(submits):
            waiting += begin(cluster, range(number, number + 1))
            await pause(ports, 0.000_5)
        await pause(ports, wait)
        start = ports.clock.now()
        await gone.cancel()
        took = (ports.clock.now() - start) / SECOND
        with pytest.raises(TaskCancelled):
            await gone
        assert not any(one.done() for one in waiting)
        assert numbers_of_tasks(rig) == {}
        reopen(rig)
        handles = await asyncio.gather(*waiting)
        return took, [handle.id for handle in handles]

    took, ids = rig.run(user)
    assert took < 0.5
    assert ids == sorted(ids)
    assert numbers_of_tasks(rig) == dict.fromkeys(range(submits), 1)
    assert rig.actor(rig.leader).machine.status()["counters"]["gaps"] == 0, "no cancel was written in vain"


def test_submits_that_made_way_for_a_cancel_end_at_their_deadline_and_are_never_done():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        close(rig)
        waiting = begin(cluster, range(5))
        await pause(ports, 0.3)
        await gone.cancel()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        reopen(rig)
        await cluster.submit(work, Parcel(7))
        return {type(error) for error in errors}

    assert rig.run(user, deadline=2.5) == {Overloaded}
    assert numbers_of_tasks(rig) == {7: 1}


def test_a_closed_gate_is_asked_with_one_submit_also_after_submits_made_way():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        close(rig)
        waiting: list[asyncio.Future[Any]] = []
        for number in range(40):
            waiting += begin(cluster, range(number, number + 1))
            await pause(ports, 0.000_5)
        await pause(ports, 0.2)
        await gone.cancel()
        actor = rig.actor(rig.leader)
        handle, asked = actor._handlers[Submit], []
        actor._handlers[Submit] = lambda link, message: (asked.append(message.seq), handle(link, message))
        await pause(ports, 5.0)
        count = len(asked)
        reopen(rig)
        await asyncio.gather(*waiting)
        return count

    assert 3 <= rig.run(user) <= 6


def test_what_rode_with_a_submit_that_made_way_is_said_with_another():
    """Else the results that its client has would be kept for an hour."""
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        await pause(ports, 0.1)
        await cluster.submit(unserved)
        await (await cluster.map(work, [Parcel(number) for number in range(20)]))
        close(rig)
        with pytest.raises(Overloaded):
            await cluster.submit(work, Parcel(99))      # it takes along what was seen
        await pause(ports, 3.0)
        session = rig.client_sessions[0]
        known = rig.actor(rig.leader).machine.session(session)
        return known.unsaid

    assert rig.run(user, deadline=2.5) == 1, "of all but the one that nobody runs its client has said that it has it"


def test_cancels_behind_submits_that_wait_in_the_leader_when_it_closes_are_not_written_in_vain():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        gone = await cluster.submit(unserved)
        others = [name for name in BROKERS if name != rig.leader]
        for name in others:
            rig.world.pause(rig.brokers[name])
        label = "x" * 250_000
        waiting = []
        for number in range(20):
            waiting.append(asyncio.ensure_future(cluster.submit(work, Parcel(number, label))))
            await pause(ports, 0.001)
        await pause(ports, 0.1)
        cancelling = asyncio.ensure_future(gone.cancel())
        await pause(ports, 0.1)
        close(rig)
        for name in others:
            rig.world.resume(rig.brokers[name])
        await cancelling
        assert any(not one.done() for one in waiting)
        reopen(rig)
        await asyncio.gather(*waiting)

    rig.run(user)
    assert numbers_of_tasks(rig) == dict.fromkeys(range(20), 1)
    assert rig.actor(rig.leader).machine.status()["counters"]["gaps"] == 0


@pytest.mark.parametrize("seed", range(10))
def test_whoever_leads_and_whatever_is_lost_cancels_and_submits_have_true_answers(seed):
    """Confirmed submits are there once, refused ones never, those with an unknown outcome at most once; confirmed
    cancels have ended their task."""
    rig = ClientWorld(seed, workers=0)
    random = Random(seed)
    fates: dict[int, str] = {}
    cancelled: list[int] = []
    rig.until(lambda: rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> None:
            await pause(ports, random.random() * 12)
            gone = None
            with suppress(ClusterError):
                gone = await cluster.submit(unserved)
            parcel = Parcel(number, "x" * random.randrange(3_000))
            fates[number] = await fate_of(cluster.submit(work, parcel))
            if gone is not None:
                await pause(ports, random.random() * 2)
                with suppress(ClusterError):
                    await gone.cancel()
                    cancelled.append(gone.id)

        first = 10_000 * int(ports.entropy.bits(30))
        await asyncio.gather(*(one(first + number) for number in range(200)))

    names = [rig.start(user, deadline=deadline) for deadline in (0.7, 2.0, 30.0)]
    rig.until(lambda: len(rig.client_sessions) == 3)
    crashed = 0
    for _ in range(14):
        close(rig, random.choice(["", FULL, FULL]))
        rig.world.run_for(int(random.random() * 1.5 * SECOND))
        crashed += crash_or_cut(rig, random, names, may_crash=crashed < 4)
    tasks = tasks_in_the_end(rig, names)
    outcomes = Counter(fates.values())
    assert len(fates) == 600 and outcomes["confirmed"] > 100 and outcomes["Overloaded"] > 0, outcomes
    check_fates(fates, tasks)
    machine = rig.actor(rig.leader).machine
    assert cancelled and {machine.state_of(task) for task in cancelled} == {"cancelled"}
