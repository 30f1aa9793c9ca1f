"""A leader that takes no submits: who waits, what they are told, and what becomes of what they asked for."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work
from overload_rig import FULL, check_fates, close, crash_or_cut, fate_of, numbers_of_tasks, reopen, tasks_in_the_end

from actors import SECOND, Ports
from cluster import Client, Overloaded, TaskCancelled, Unavailable
from cluster.broker.link import Link
from cluster.state.commands import Submit


def count_submits(rig: ClientWorld) -> list[int]:
    """Numbers of submit commands as they arrive at the leader from now on."""
    actor = rig.actor(rig.leader)
    handle = actor._handlers[Submit]
    seen: list[int] = []

    def counting(link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Submit)
        seen.append(message.seq)
        handle(link, message)

    actor._handlers[Submit] = counting
    return seen


# -- at the deadline --------------------------------------------------------------------------------------------------


def test_a_submit_that_is_not_taken_by_its_deadline_says_why_and_when_to_try_again():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        close(rig)
        start = ports.clock.now()
        with pytest.raises(Overloaded, match=r"disk full on b1.*Nothing of this submit was accepted") as caught:
            await cluster.submit(unserved)
        return caught.value.retry_after, (ports.clock.now() - start) / SECOND

    retry_after, waited = rig.run(user, deadline=3.0)
    assert retry_after == 1.0
    assert 3.0 <= waited < 3.4


@pytest.mark.parametrize("deadline", [0.5, 1.0, 1.5, 2.0, 2.001])
def test_nothing_of_a_submit_that_was_refused_is_done_later(deadline):
    """It is in the window, whose numbers must all come."""
    rig = ClientWorld(workers=0)
    rig.until(lambda: rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(work, Parcel(1))
        close(rig)
        with pytest.raises(Overloaded):
            await cluster.submit(work, Parcel(2))
        reopen(rig)
        await pause(ports, 1.1)         # it was asked to wait a second
        await cluster.submit(work, Parcel(3))
        await pause(ports, 5.0)
        return numbers_of_tasks(rig)

    assert rig.run(user, deadline=deadline) == {1: 1, 3: 1}


def test_submits_that_wait_behind_the_window_are_refused_alike():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(work, Parcel(-1))
        close(rig)
        submits = []
        for number in range(100):       # more commands than a window has
            submits.append(asyncio.ensure_future(cluster.submit(work, Parcel(number))))
            await pause(ports, 0.001)
        errors = await asyncio.gather(*submits, return_exceptions=True)
        reopen(rig)
        await cluster.submit(work, Parcel(-2))
        return {type(error) for error in errors}, numbers_of_tasks(rig)

    assert rig.run(user, deadline=2.0) == ({Overloaded}, {-1: 1, -2: 1})


def test_without_a_leader_it_is_not_the_load_that_is_blamed():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        for name in BROKERS:
            rig.world.crash(rig.brokers[name])
        await pause(ports, 1.0)
        await cluster.submit(unserved)

    with pytest.raises(Unavailable):
        rig.run(user, deadline=2.0)


# -- the gate opens ---------------------------------------------------------------------------------------------------


def test_submits_wait_while_the_gate_is_closed_and_go_through_in_order_when_it_opens():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(work, Parcel(-1))
        close(rig)
        submits = []
        for number in range(200):
            submits.append(asyncio.ensure_future(cluster.submit(work, Parcel(number))))
            await pause(ports, 0.001)
        await pause(ports, 6.0)
        assert not any(submit.done() for submit in submits)
        reopen(rig)
        start = ports.clock.now()
        handles = await asyncio.gather(*submits)
        return [handle.id for handle in handles], (ports.clock.now() - start) / SECOND, numbers_of_tasks(rig)

    ids, waited, tasks = rig.run(user)
    assert ids == sorted(ids)
    assert waited < 1.3, "a client looks once a second"
    assert tasks == dict.fromkeys(range(-1, 200), 1)


def test_a_closed_gate_is_asked_with_one_command_and_not_with_a_window_full_of_them():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        seen = count_submits(rig)
        close(rig)
        submits = []
        for _ in range(64):
            submits.append(asyncio.ensure_future(cluster.submit(unserved)))
            await pause(ports, 0.000_1)
        await pause(ports, 0.05)
        first = len(seen)
        await pause(ports, 10.0)
        tried = len(seen) - first
        reopen(rig)
        await asyncio.gather(*submits)
        return first, tried, len(seen) - first - tried

    first, tried, last = rig.run(user)
    assert first <= 64
    assert 8 <= tried <= 11, "one a second"
    assert last == 64


def test_what_is_behind_a_refused_submit_is_not_written_into_the_log_only_to_be_refused_there():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        actor = rig.actor(rig.leader)
        handle = actor._handlers[Submit]
        close(rig)

        def opening(link: Link, message: msgspec.Struct) -> None:
            handle(link, message)
            reopen(rig)                 # after the first one

        actor._handlers[Submit] = opening
        submits = []
        for _ in range(30):
            submits.append(asyncio.ensure_future(cluster.submit(unserved)))
            await pause(ports, 0.000_1)
        await asyncio.gather(*submits)
        return actor.machine.status()["counters"]["gaps"]

    assert rig.run(user) == 0


def test_a_backlog_of_the_log_closes_the_gate_and_opens_it_again():
    """Two clients, since one has no more than 24 MiB on its way."""
    rig = ClientWorld(workers=0)
    label = "x" * (1024 * 1024 - 100)
    begin = asyncio.Event()

    async def user(cluster: Client, ports: Ports) -> Any:
        while not begin.is_set():
            await pause(ports, 0.01)
        first = ports.entropy.bits(40)
        await asyncio.gather(*(cluster.submit(work, Parcel(first + number, label)) for number in range(30)))

    names = [rig.start(user) for _ in range(2)]
    rig.until(lambda: rig.leader and len(rig.client_sessions) == 2)
    others = [rig.brokers[name] for name in BROKERS if name != rig.leader]
    for broker in others:
        rig.world.pause(broker)
    begin.set()
    rig.world.run_for(8 * SECOND // 10)
    leader = rig.actor(rig.leader)
    backlog = leader._proposals.backlog_bytes
    for broker in others:
        rig.world.resume(broker)
    for name in names:
        rig.finish(name)
    assert 30 < backlog / (1024 * 1024) <= 32 + 2, "what is between Broker and RaftPeer is counted a turn later"
    tasks = numbers_of_tasks(rig)
    assert len(tasks) == 60 and set(tasks.values()) == {1}
    names_of_events = {name for _, name in rig.log}
    assert "submits_refused" in names_of_events and "proposal_refused" not in names_of_events


# -- what is always taken ---------------------------------------------------------------------------------------------


def test_tasks_end_and_are_cancelled_and_workers_come_while_no_submit_is_taken():
    rig = ClientWorld(workers=1, slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        slow = await cluster.submit(work, Parcel(1), 3_000 * MS)
        gone = await cluster.submit(unserved)
        await pause(ports, 0.5)
        close(rig)
        await gone.cancel()
        with pytest.raises(TaskCancelled):
            await gone
        rig.world.crash(rig.workers["w1"])
        rig.world.restart(rig.workers["w1"], after=SECOND)
        return await slow

    assert rig.run(user) == Parcel(1)


# -- across leaders ---------------------------------------------------------------------------------------------------


def test_the_next_leader_may_refuse_as_well_and_nothing_is_lost_or_doubled():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(work, Parcel(-1))
        close(rig)
        submits = []
        for number in range(100):
            submits.append(asyncio.ensure_future(cluster.submit(work, Parcel(number))))
            await pause(ports, 0.001)
        old = rig.leader
        rig.world.crash(rig.brokers[old])
        await pause(ports, 4.0)
        assert rig.leader not in ("", old) and not any(submit.done() for submit in submits)
        reopen(rig)
        handles = await asyncio.gather(*submits)
        return [handle.id for handle in handles], numbers_of_tasks(rig)

    ids, tasks = rig.run(user)
    assert ids == sorted(ids)
    assert tasks == dict.fromkeys(range(-1, 100), 1)


def test_a_submit_that_was_taken_is_confirmed_by_a_leader_that_takes_none():
    """Its answer was lost with the leader before."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(work, Parcel(1))
        submit = asyncio.ensure_future(cluster.submit(work, Parcel(2)))
        await submit
        return numbers_of_tasks(rig)

    name = rig.start(user, deadline=10.0)
    rig.until(lambda: rig.leader and numbers_of_tasks(rig)[2])
    old = rig.leader
    rig.world.network.partition([[old], [name, *(broker for broker in BROKERS if broker != old)]])
    close(rig)
    assert name not in rig.answers
    assert rig.finish(name) == {1: 1, 2: 1}
    assert rig.leader != old


@pytest.mark.parametrize("seed", range(12))
def test_whatever_opens_and_closes_and_whoever_leads_the_answers_are_true(seed):
    """Confirmed submits are there once, refused ones never; those with an unknown outcome at most once."""
    rig = ClientWorld(seed, workers=0)
    random = Random(seed)
    fates: dict[int, str] = {}
    rig.until(lambda: rig.leader)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> None:
            await pause(ports, random.random() * 15)
            parcel = Parcel(number, "x" * random.randrange(3_000))
            fates[number] = await fate_of(cluster.submit(work, parcel))

        first = 10_000 * int(ports.entropy.bits(30))
        await asyncio.gather(*(one(first + number) for number in range(400)))

    names = [rig.start(user, deadline=deadline) for deadline in (0.7, 2.0, 30.0)]
    rig.until(lambda: len(rig.client_sessions) == 3)
    crashed = 0
    for _ in range(18):
        close(rig, random.choice(["", FULL, "the log is waiting for the disk"]))
        rig.world.run_for(int(random.random() * 1.5 * SECOND))
        crashed += crash_or_cut(rig, random, names, may_crash=crashed < 6)
    tasks = tasks_in_the_end(rig, names)
    outcomes = Counter(fates.values())
    assert len(fates) == 1_200 and outcomes["confirmed"] > 300 and outcomes["Overloaded"] > 0, outcomes
    check_fates(fates, tasks)
