"""Locks at their limits: what can be asked for, how many claims there may be, and a leader that takes no submits."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from client_world import ClientWorld, Parcel, pause, topology, unserved, work
from overload_rig import FULL, close, numbers_of_tasks, reopen

from actors import SECOND, Ports
from cluster import (
    BlockingClient,
    Client,
    ClusterError,
    Election,
    Lock,
    LockBusy,
    Overloaded,
    ReadWriteLock,
    Semaphore,
)
from cluster.client import claims
from cluster.state import locks as state_locks
from cluster.state.commands import Submit


def some_client() -> Client:
    def ports() -> Ports:
        raise AssertionError("it is never entered")

    return Client(topology(), ports, 1.0)


# -- what can be asked for --------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[..., object]] = {
    "lock": Lock,
    "semaphore": lambda cluster, name, **options: Semaphore(cluster, name, 3, **options),
    "read-write lock": ReadWriteLock,
    "election": lambda cluster, name, note="me", **options: Election(cluster, name, note, **options),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("cluster", [some_client(), BlockingClient(some_client())], ids=["async", "blocking"])
@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        (7, {}, TypeError, "name: expected a lock's name as a str, not 7"),
        (b"door", {}, TypeError, "name: expected a lock's name as a str, not b'door'"),
        ("", {}, ValueError, "name: 1 to 512 bytes of UTF-8 are allowed, not 0"),
        ("ä" * 257, {}, ValueError, "name: 1 to 512 bytes of UTF-8 are allowed, not 514"),
        ("\ud800", {}, ValueError, "no valid Unicode"),
        ("door", {"hold": 1.999}, ValueError, "hold: 1.999 is out of range, 2 s to 1 h are allowed"),
        ("door", {"hold": "61m"}, ValueError, "hold: '61m' is out of range, 2 s to 1 h are allowed"),
        ("door", {"hold": "soon"}, ValueError, 'hold: "soon" is no duration; write for example'),
        ("door", {"hold": None}, TypeError, "hold: expected a timedelta, seconds or text"),
        ("door", {"wait": -1}, ValueError, "wait: -1 is negative"),
        ("door", {"wait": b"1s"}, TypeError, "wait: expected a timedelta, seconds or text"),
        ("door", {"note": 7}, TypeError, "note: expected a few words as a str, not 7"),
        ("door", {"note": "x" * 257}, ValueError, "note: up to 256 bytes of UTF-8 are allowed, not 257"),
    ],
)
def test_what_is_no_lock_is_refused_where_it_is_made(make, cluster, name, options, kind, message):
    with pytest.raises(kind) as caught:
        make(cluster, name, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_lock_is_of_a_client(make):
    for other in (None, "topology.toml", Client):
        with pytest.raises(TypeError, match=r"cluster: expected what Client.connect or Client.open gave"):
            make(other, "door")


@pytest.mark.parametrize("permits", [0, -1, 1_000_000_000, True, 2.0, "2", None])
def test_permits_are_a_number_of_them(permits):
    kind = ValueError if type(permits) is int else TypeError
    with pytest.raises(kind, match="permits: "):
        Semaphore(some_client(), "door", permits)


@pytest.mark.parametrize("hold", [2, "1h", timedelta(minutes=5)])
def test_the_bounds_are_allowed(hold):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        for name in ("x" * 512, "ä" * 256):
            async with Lock(cluster, name, hold=hold, wait=0, note="n" * 256) as lock:
                await lock.extend(hold)
        async with Semaphore(cluster, "most", 999_999_999):
            return True

    assert rig.run(user)


def test_arguments_of_calls_are_looked_at_before_anything_is_claimed():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        with pytest.raises(ValueError, match="wait: -1 is negative"):
            await lock.acquire(wait=-1)
        async with lock:
            with pytest.raises(ValueError, match="hold: 1 is out of range"):
                await lock.extend(1)
            lock.assert_held()
        with pytest.raises(TypeError, match="limit: expected a number of locks"):
            cluster.locks(limit="3")        # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit: -3 is negative"):
            cluster.locks(limit=-3)
        with pytest.raises(TypeError, match="prefix: expected a str"):
            cluster.locks(3)                # type: ignore[arg-type]
        return rig.actor(rig.leader).machine.locks.fences

    assert rig.run(user) == 1


def test_a_lock_may_be_made_before_its_client_is_connected_and_taken_only_behind_that():
    client = some_client()
    lock = Lock(client, "door")
    assert not lock.is_held

    async def take() -> None:
        await lock.acquire()

    with pytest.raises(ClusterError, match="not connected"):
        asyncio.run(take())


def test_a_client_that_only_looks_takes_no_locks_and_sees_them():
    rig = ClientWorld(workers=0)

    async def looks(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(ClusterError, match=r"only looks: connect without only_looks to .* lock"):
            await Lock(cluster, "door").acquire()
        election = Election(cluster, "door", "nobody")
        leaders = [await election.leader()]
        async for leader in election.watch():
            leaders.append(leader)
            if len(leaders) == 3:
                break
        return [leader and leader.note for leader in leaders], [info.name async for info in cluster.locks()]

    async def user(cluster: Client, ports: Ports) -> Any:
        async with Election(cluster, "door", "me"):
            await pause(ports, 3)

    rig.start(user)
    rig.until(lambda: rig.leader and rig.actor(rig.leader).machine.locks.claims)
    assert rig.run(looks, only_looks=True) == (["me", "me", None], [])


# -- how many there may be --------------------------------------------------------------------------------------------


def test_more_claims_than_a_client_may_have_are_refused_at_once(monkeypatch):
    rig = ClientWorld(workers=0)
    monkeypatch.setattr(claims, "OPEN_CLAIMS_MAX", 100)

    async def user(cluster: Client, ports: Ports) -> Any:
        held = [Lock(cluster, f"lock-{number}") for number in range(60)]
        await asyncio.gather(*(lock.acquire() for lock in held))
        waiting = [asyncio.ensure_future(Lock(cluster, "lock-0").acquire()) for _ in range(60)]
        await cluster._next_turn()
        refused = [one for one in waiting if one.done()]
        errors = {type(one.exception()) for one in refused}
        with pytest.raises(Overloaded, match="this client has 100 claims on locks, and no more at a time"):
            await Lock(cluster, "other").acquire()
        await held[1].release()
        async with Lock(cluster, "other"):
            pass
        for one in waiting:
            one.cancel()
        return len(refused), errors

    assert rig.run(user) == (20, {Overloaded})


def test_more_claims_than_the_cluster_takes_of_one_session_are_refused(monkeypatch):
    rig = ClientWorld(workers=0)
    monkeypatch.setattr(state_locks, "SESSION_CLAIMS_MAX", 5)

    async def user(cluster: Client, ports: Ports) -> Any:
        held = [Lock(cluster, f"lock-{number}") for number in range(5)]
        for lock in held:
            await lock.acquire()
        with pytest.raises(Overloaded, match='lock "other" is not waited for: 5 claims are allowed') as caught:
            await Lock(cluster, "other").acquire()
        await held[0].release()
        async with Lock(cluster, "other"):
            return caught.value.retry_after

    assert rig.run(user) == 1.0


def test_claims_leave_numbers_of_the_window_to_cancels_and_releases():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        task = await cluster.submit(unserved)
        first = Lock(cluster, "first")
        await first.acquire()
        claiming = [asyncio.ensure_future(Lock(cluster, f"lock-{number}").acquire()) for number in range(300)]
        await cluster._next_turn()
        leaving = [asyncio.ensure_future(task.cancel()), asyncio.ensure_future(first.release())]
        await cluster._next_turn()
        commands = cluster._actor._commands
        unanswered, has_release = commands.unanswered, commands._claims.has_release
        await asyncio.gather(*leaving)
        left = sum(not one.done() for one in claiming)
        await asyncio.gather(*claiming)
        return unanswered, has_release, left

    unanswered, has_release, left = rig.run(user)
    assert unanswered == 58, "56 claims, a cancel and a release"
    assert not has_release
    assert left > 200, "they did not stand behind the claims"


def test_releases_of_many_locks_travel_together():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        held = [Lock(cluster, f"lock-{number}") for number in range(3_000)]
        await asyncio.gather(*(lock.acquire() for lock in held))
        session = rig.actor(rig.leader).machine.session(cluster._actor.session)
        before = session.next_seq
        await asyncio.gather(*(lock.release() for lock in held))
        return session.next_seq - before, len(rig.actor(rig.leader).machine.locks.claims)

    assert rig.run(user) == (4, 0)


def test_submits_and_claims_of_one_client_take_turns():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        order: list[str] = []

        async def submit(number: int) -> None:
            await cluster.submit(work.options(queue=f"q{number}"), Parcel(number, "x" * 200_000))
            order.append("submit")

        async def claim(number: int) -> None:
            await Lock(cluster, f"lock-{number}").acquire()
            order.append("claim")

        jobs = [*(claim(number) for number in range(150)), *(submit(number) for number in range(150))]
        await asyncio.gather(*jobs)
        return order

    order = rig.run(user)
    for kind in ("submit", "claim"):
        assert order.count(kind) == 150
        assert 60 < order[:200].count(kind) < 140


# -- a leader that takes no submits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("submits", [0, 3, 80], ids=["none", "some", "more than a window"])
def test_locks_are_taken_held_and_released_while_submits_are_not(submits):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        before = Lock(cluster, "before", hold="3s")
        await before.acquire()
        close(rig)
        waiting: list[asyncio.Future[Any]] = []
        for number in range(submits):
            waiting.append(asyncio.ensure_future(cluster.submit(work, Parcel(number))))
            await pause(ports, 0.000_5)
        begun = ports.clock.now()
        await before.extend("4s")
        await before.release()
        held = [Lock(cluster, f"lock-{number}") for number in range(100)]
        await asyncio.gather(*(lock.acquire() for lock in held))
        for lock in held[:50]:
            await lock.release()
        took = (ports.clock.now() - begun) / SECOND
        await pause(ports, 5)
        for lock in held[50:]:
            lock.assert_held()
        assert not any(one.done() for one in waiting) and numbers_of_tasks(rig) == {}
        reopen(rig)
        await asyncio.gather(*waiting)
        return took

    assert rig.run(user) < 2
    assert numbers_of_tasks(rig) == dict.fromkeys(range(submits), 1)
    assert rig.actor(rig.leader).machine.status()["counters"]["gaps"] == 0, "nothing was written in vain"


def test_a_claim_that_left_behind_a_submit_that_is_refused_is_taken():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        close(rig)
        waiting = asyncio.ensure_future(cluster.submit(work, Parcel(1)))
        await cluster._next_turn()
        begun = ports.clock.now()
        async with Lock(cluster, "door"):
            took = (ports.clock.now() - begun) / SECOND
        reopen(rig)
        await waiting
        return took

    assert rig.run(user) < 0.5
    assert numbers_of_tasks(rig) == {1: 1}


def test_a_claim_behind_a_window_full_of_submits_that_are_refused_is_taken():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        close(rig)
        large = "x" * 250_000           # one to a command
        waiting = [asyncio.ensure_future(cluster.submit(work, Parcel(number, large))) for number in range(70)]
        await cluster._next_turn()
        assert cluster._actor._commands.unanswered == 56
        begun = ports.clock.now()
        async with Lock(cluster, "door"):
            took = (ports.clock.now() - begun) / SECOND
        reopen(rig)
        await asyncio.gather(*waiting)
        return took

    assert rig.run(user) < 1
    assert numbers_of_tasks(rig) == dict.fromkeys(range(70), 1)


@pytest.mark.parametrize("rest", [0.0, 30.0], ids=["released", "with a rest"])
def test_a_release_is_not_held_up_by_a_submit_that_was_perhaps_taken(rest):
    """Its copy was lost with the link. It cannot make way, for it may be in a log, and it is refused for long."""
    rig = ClientWorld(workers=0)
    order: list[str] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        turn = cluster.exclusive("door", at_most="60s", at_least=rest)
        other = Lock(cluster, "other")
        await other.acquire()
        async with turn:
            close(rig)
            waiting = asyncio.ensure_future(cluster.submit(work, Parcel(1)))
            await cluster._next_turn()
            rig.world.network.break_links("c1")
            await pause(ports, 1)
            assert cluster._actor._commands._refusals.in_doubt(2) == 1
            await other.release()
            order.append("other is released")
            rig.start(someone)
            if rest:
                await pause(ports, 3)
                reopen(rig)
        order.append("released")
        await pause(ports, 3)
        assert rest or not waiting.done()
        reopen(rig)
        await waiting
        assert cluster._actor._claims.commands.is_empty

    async def someone(cluster: Client, ports: Ports) -> None:
        async with Lock(cluster, "other"):
            order.append("other is taken")
        turn = cluster.exclusive("door", at_most="60s", on_busy="wait", wait="20s")
        try:
            async with turn:
                order.append("taken")
        except LockBusy:
            order.append("busy")

    rig.run(user)
    rig.finish("c2")
    expected = ["other is released", "other is taken", "released", "busy" if rest else "taken"]
    assert order == expected
    assert numbers_of_tasks(rig) == {1: 1}


def test_a_claim_that_was_cancelled_before_its_answer_is_not_held_by_a_submit_that_was_perhaps_taken():
    """All three were said before the link broke; then the Acquire is taken, and neither the submit nor the Release."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        close(rig)
        claiming = asyncio.ensure_future(Lock(cluster, "door").acquire())
        await cluster._next_turn()
        waiting = asyncio.ensure_future(cluster.submit(work, Parcel(1)))
        await cluster._next_turn()
        rig.world.network.break_links("c1")
        claiming.cancel()
        await pause(ports, 4)
        locks = rig.actor(rig.leader).machine.locks
        fences, held = locks.fences, len(locks.claims)
        assert cluster._actor._commands._refusals.in_doubt(3) == 1
        reopen(rig)
        await waiting
        assert cluster._actor._claims.commands.is_empty
        return fences, held

    assert rig.run(user) == (1, 0)
    assert numbers_of_tasks(rig) == {1: 1}


def test_a_lock_that_is_taken_does_not_open_a_closed_gate():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.submit(unserved)
        close(rig, FULL)
        waiting: list[asyncio.Future[Any]] = []
        for number in range(40):
            waiting.append(asyncio.ensure_future(cluster.submit(work, Parcel(number))))
            await pause(ports, 0.000_5)
        await pause(ports, 0.2)
        actor = rig.actor(rig.leader)
        handle, asked = actor._handlers[Submit], []
        actor._handlers[Submit] = lambda link, message: (asked.append(message.seq), handle(link, message))
        for _ in range(50):
            async with Lock(cluster, "door"):
                await pause(ports, 0.1)
        count = len(asked)
        reopen(rig)
        await asyncio.gather(*waiting)
        return count

    assert 3 <= rig.run(user) <= 6
