"""Locks as users hold them: whose turn it is, who waits, who gives up, and that nothing is left behind."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from client_world import ClientWorld, pause

from actors import MICROSECOND, MILLISECOND, SECOND, Ports
from cluster import (
    AsyncLock,
    Client,
    ClusterError,
    Lock,
    LockBusy,
    LockInfo,
    LockMismatch,
    ReadWriteLock,
    Semaphore,
    Unavailable,
)
from cluster.client.claim import Claim, State


def claims_of(rig: ClientWorld) -> list[tuple[str, bool]]:
    """All claims of the leader's state: the lock, and whether it is held."""
    locks = rig.actor(rig.leader).machine.locks
    return [(claim.lock.name, claim.fence > 0) for claim in locks.claims.values()]


async def held_elsewhere(cluster: Client, ports: Ports) -> None:
    """Holds "door" for five seconds."""
    async with Lock(cluster, "door", note="elsewhere"):
        await pause(ports, 5)


# -- turns ------------------------------------------------------------------------------------------------------------


def test_one_holds_at_a_time_and_each_gets_a_higher_fence():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        spans: list[tuple[int, int, int]] = []

        async def one() -> None:
            async with Lock(cluster, "nightly") as lock:
                begun = ports.clock.now()
                await pause(ports, 0.01)
                spans.append((begun, ports.clock.now(), lock.fence))

        await asyncio.gather(*(one() for _ in range(20)))
        return spans

    spans = [*rig.run(user), *rig.run(user)]
    assert len(spans) == 40
    for half in (spans[:20], spans[20:]):       # each client has a clock of its own
        assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(half))
    assert [fence for _, _, fence in spans] == sorted({fence for _, _, fence in spans})
    assert claims_of(rig) == []


def test_clients_get_their_turns_in_the_order_in_which_they_came():
    rig = ClientWorld(workers=0)
    turns: list[int] = []

    def user(number: int) -> Callable[[Client, Ports], Any]:
        async def live(cluster: Client, ports: Ports) -> Any:
            await pause(ports, 1 + number / 10)
            async with Lock(cluster, "door"):
                turns.append(number)
                await pause(ports, 1)

        return live

    names = [rig.start(user(number)) for number in (3, 1, 4, 2, 5)]
    for name in names:
        rig.finish(name)
    assert turns == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("contenders", "entries_max"), [(2, 1.7), (5, 1.55)])
def test_a_claim_that_waits_shares_its_entry_with_the_release_that_comes_soon(contenders, entries_max):
    """Entries per turn of a lock that several want all the time. If a claim that has to wait left at once, and not with
    the next that does not, or after 2 ms, that would be 2.0 and 1.74."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        while True:
            async with lock:
                pass

    for _ in range(contenders):
        rig.start(user)
    rig.until(lambda: rig.leader and rig.actor(rig.leader).machine.locks.fences > 50)
    machine = rig.actor(rig.leader).machine
    index, turns = machine.applied_index, machine.locks.fences
    rig.until(lambda: machine.locks.fences >= turns + 200)
    assert (machine.applied_index - index) / 200 < entries_max


def test_locks_of_other_names_do_not_wait_for_each_other():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        async with Lock(cluster, "a") as a, Lock(cluster, "b") as b:
            return a.fence, b.fence, a.is_held, b.is_held

    assert rig.run(user) == (1, 2, True, True)


def test_to_try_is_not_to_wait():
    rig = ClientWorld(workers=0)
    rig.start(held_elsewhere)
    rig.until(lambda: rig.leader and claims_of(rig) == [("door", True)])

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        begun = ports.clock.now()
        tried = [await lock.try_acquire()]
        took = ports.clock.now() - begun
        assert not lock.is_held
        await pause(ports, 6)
        tried.append(await lock.try_acquire())
        assert lock.is_held
        await lock.release()
        return tried, took

    tried, took = rig.run(user)
    assert tried == [False, True]
    assert took < 50 * MILLISECOND
    assert claims_of(rig) == []


@pytest.mark.parametrize("where", ["of the lock", "of the call"])
def test_who_waited_for_long_enough_is_told_that_it_is_busy(where):
    rig = ClientWorld(workers=0)
    rig.start(held_elsewhere)
    rig.until(lambda: rig.leader and claims_of(rig) == [("door", True)])

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", wait="2s" if where == "of the lock" else "1h")
        begun = ports.clock.now()
        with pytest.raises(LockBusy, match='lock "door" is busy: others hold it') as caught:
            if where == "of the lock":
                await lock.acquire()
            else:
                await lock.acquire(wait=2)
        waited = (ports.clock.now() - begun) / SECOND
        await pause(ports, 0.1)
        left = claims_of(rig)
        assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, ClusterError)
        assert not lock.is_held
        fence = await lock.acquire(wait=None)       # as long as it takes
        await lock.release()
        return waited, caught.value.waited, caught.value.name, left, fence

    waited, told, name, left, fence = rig.run(user)
    assert 2.0 <= waited < 2.01 and 2.0 <= told < 2.01
    assert (name, left, fence) == ("door", [("door", True)], 2)


def test_a_semaphore_is_held_by_so_many_at_a_time():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        inside = most = 0

        async def one() -> None:
            nonlocal inside, most
            async with Semaphore(cluster, "three", 3):
                inside += 1
                most = max(most, inside)
                await pause(ports, 0.05)
                inside -= 1

        begun = ports.clock.now()
        await asyncio.gather(*(one() for _ in range(12)))
        return most, (ports.clock.now() - begun) / SECOND

    most, took = rig.run(user)
    assert most == 3
    assert 0.2 <= took < 0.4


def test_readers_share_and_a_writer_that_waits_is_not_passed_by_them():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        index = ReadWriteLock(cluster, "index")
        seen: list[str] = []

        async def read(name: str, after: float) -> None:
            await pause(ports, after)
            async with index.read():
                seen.append(f"+{name}")
                await pause(ports, 1)
                seen.append(f"-{name}")

        async def write(name: str, after: float) -> None:
            await pause(ports, after)
            async with index.write():
                seen.append(f"+{name}")
                await pause(ports, 1)
                seen.append(f"-{name}")

        await asyncio.gather(read("r1", 0), read("r2", 0.1), write("w", 0.2), read("r3", 0.3), read("r4", 0.4))
        return seen

    assert rig.run(user) == ["+r1", "+r2", "-r1", "-r2", "+w", "-w", "+r3", "+r4", "-r3", "-r4"]


def test_a_thousand_claims_of_one_turn_are_all_served():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        held: list[int] = []

        async def one(number: int) -> None:
            async with Lock(cluster, f"lock-{number % 100}"):
                held.append(number)

        await asyncio.gather(*(one(number) for number in range(1_000)))
        return held

    held = rig.run(user)
    assert sorted(held) == list(range(1_000))
    for lock in range(100):
        turns = [number for number in held if number % 100 == lock]
        assert turns == sorted(turns)
    assert claims_of(rig) == []


# -- giving up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "held by another until then"])
def test_one_that_is_cancelled_at_any_point_of_its_way_leaves_nothing_behind(is_busy):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        ends: dict[str, int] = {}
        other = Lock(cluster, "door")
        for step in range(200):
            if is_busy:
                await other.acquire()
            lock = Lock(cluster, "door")
            trying = asyncio.ensure_future(lock.acquire())
            wait = step * 20 * MICROSECOND / SECOND
            if is_busy:         # it is granted at about the same time
                await pause(ports, 0.002)
                freeing = asyncio.ensure_future(other.release())
                await pause(ports, wait)
            else:
                await pause(ports, wait)
            trying.cancel()
            try:
                await trying
            except asyncio.CancelledError:
                end = "cancelled"
                assert not lock.is_held
            else:
                end = "held"
                await lock.release()
            ends[end] = ends.get(end, 0) + 1
            if is_busy:
                await freeing
            await other.acquire(wait="1s")      # raises if anything holds it
            await other.release()
        return ends

    ends = rig.run(user)
    assert ends["cancelled"] > 50 and ends["held"] > 5
    assert claims_of(rig) == []


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after it waited"])
def test_one_that_is_cancelled_in_the_turn_in_which_it_is_granted_holds_nothing(monkeypatch, waits):
    rig = ClientWorld(workers=0)
    become = Claim.become

    async def user(cluster: Client, ports: Ports) -> Any:
        other = Lock(cluster, "door")
        if waits:
            await other.acquire()
        lock = Lock(cluster, "door")
        trying = asyncio.ensure_future(lock.acquire())
        await pause(ports, 0.000_01)
        granted: list[int] = []

        def become_and_cancel(claim: Claim, state: State) -> None:
            become(claim, state)
            if state is State.HELD:
                granted.append(claim.fence)
                trying.cancel()

        monkeypatch.setattr(Claim, "become", become_and_cancel)
        if waits:
            await other.release()
        with pytest.raises(asyncio.CancelledError):
            await trying
        monkeypatch.undo()
        assert len(granted) == 1 and not lock.is_held
        return await other.acquire(wait="1s") - granted[0]

    assert rig.run(user) == 1


def test_one_that_is_cancelled_before_it_left_is_never_written():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        before = rig.actor(rig.leader).machine.applied_index
        trying = [asyncio.ensure_future(Lock(cluster, f"lock-{number}").acquire()) for number in range(200)]
        await cluster._next_turn()
        for one in trying:
            one.cancel()
        await asyncio.gather(*trying, return_exceptions=True)
        await pause(ports, 1)
        fences = rig.actor(rig.leader).machine.locks.fences
        return fences, rig.actor(rig.leader).machine.applied_index - before

    fences, entries = rig.run(user)
    assert fences <= 56, "no more than the window took"
    assert entries < 20
    assert claims_of(rig) == []


def test_what_the_body_raises_comes_out_and_the_lock_is_free():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        with pytest.raises(ValueError, match="of the body"):
            async with lock:
                raise ValueError("of the body")
        return lock.is_held, claims_of(rig)

    assert rig.run(user) == (False, [])


def test_a_body_that_is_cancelled_waits_for_nothing_and_the_lock_is_free():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")

        async def hold() -> None:
            async with lock:
                await pause(ports, 100)

        holding = asyncio.ensure_future(hold())
        await pause(ports, 0.1)
        assert lock.is_held
        cuts = rig.world.network.partition([["c1"], ["b1", "b2", "b3"]])
        holding.cancel()
        begun = ports.clock.now()
        with pytest.raises(asyncio.CancelledError):
            await holding
        took = ports.clock.now() - begun
        rig.world.network.mend(cuts)
        begun = ports.clock.now()
        await Lock(cluster, "door").acquire()
        return took, (ports.clock.now() - begun) / SECOND

    took, again = rig.run(user)
    assert took < MILLISECOND
    assert again < 3


def test_the_locks_of_a_client_that_leaves_are_free_at_once():
    rig = ClientWorld(workers=0)
    errors: list[BaseException | None] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        for name in ("door", "gate"):
            await Lock(cluster, name, hold="1h").acquire(wait="10s")
        waiting = asyncio.ensure_future(Lock(cluster, "door").acquire())
        waiting.add_done_callback(lambda future: errors.append(future.exception()))
        await pause(ports, 0.1)

    rig.run(user)
    assert [type(error) for error in errors] == [Unavailable]
    rig.world.run_for(SECOND // 10)
    assert claims_of(rig) == []


# -- one object is one claim ------------------------------------------------------------------------------------------


def test_an_object_is_not_entered_twice_and_says_so():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        async with lock:
            for again in (lock.acquire, lock.try_acquire, lock.__aenter__):
                with pytest.raises(ClusterError, match="acquired already, or about to be: one object is one claim"):
                    await again()
        trying = asyncio.ensure_future(lock.acquire())
        await cluster._next_turn()
        with pytest.raises(ClusterError, match="about to be"):
            await lock.acquire()
        await trying
        with pytest.raises(ClusterError, match="acquired already"):
            async with lock:
                pass
        await lock.release()
        async with lock:            # one after the other is fine
            return lock.fence

    assert rig.run(user) == 3


def test_a_lock_that_another_thread_lets_go_between_two_looks_is_not_held():
    """`is_held` may be asked in any thread."""

    class Torn(AsyncLock):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name == "_claim":
                self.looks += 1
                return found if self.looks == 1 else None
            return found

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        await lock.acquire()
        torn = Torn(cluster, lock._wanted, None)
        torn._claim = lock._claim
        return torn.is_held, torn.is_held

    assert ClientWorld(workers=0).run(user) == (True, False)


def test_one_that_is_not_acquired_has_no_fence_and_cannot_be_released():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        for _ in range(2):
            assert not lock.is_held
            with pytest.raises(ClusterError, match=r'^lock "door" is not acquired'):
                await lock.release()
            with pytest.raises(ClusterError, match="is not acquired"):
                _ = lock.fence
            with pytest.raises(ClusterError, match="is not acquired"):
                lock.assert_held()
            with pytest.raises(ClusterError, match="is not acquired"):
                await lock.extend("5m")
            async with lock:
                lock.assert_held()
        async with lock:
            await lock.release()        # inside is fine, too
        return claims_of(rig)

    assert rig.run(user) == []


# -- what it is -------------------------------------------------------------------------------------------------------


def test_a_name_is_one_kind_of_lock_while_it_is_in_use():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        said = []
        async with Semaphore(cluster, "door", 5):
            for lock in (Lock(cluster, "door"), Semaphore(cluster, "door", 6), ReadWriteLock(cluster, "door").read()):
                with pytest.raises(LockMismatch) as caught:
                    await lock.acquire()
                with pytest.raises(LockMismatch):
                    await lock.try_acquire()
                said.append((caught.value.asked_as, caught.value.in_use_as, caught.value.name))
        async with ReadWriteLock(cluster, "door").write():
            with pytest.raises(LockMismatch, match='"door" is in use as a read-write lock, and was asked for as a mu'):
                await Lock(cluster, "door").acquire()
        async with Lock(cluster, "door"):
            return said

    assert rig.run(user) == [
        ("mutex", "semaphore of 5", "door"),
        ("semaphore of 6", "semaphore of 5", "door"),
        ("read-write lock", "semaphore of 5", "door"),
    ]
    assert claims_of(rig) == []


def test_locks_are_listed_with_who_holds_them_and_how_many_wait():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        for number in range(300):
            await Lock(cluster, f"many-{number:03}").acquire()
        await Semaphore(cluster, "pool", 20, note="one").acquire()
        await Semaphore(cluster, "pool", 20, note="two").acquire()
        await ReadWriteLock(cluster, "index", note="me").write().acquire()
        waiting = asyncio.ensure_future(ReadWriteLock(cluster, "index").read().acquire())
        await pause(ports, 0.1)
        found = {info.name: info async for info in cluster.locks()}
        names = [info.name async for info in cluster.locks("many-")]
        few = [info.name async for info in cluster.locks("many-1", limit=3)]
        stale = [info.name async for info in cluster.locks("i", stale=True)]
        none = [info async for info in cluster.locks("", limit=0)] + [info async for info in cluster.locks("zz")]
        waiting.cancel()
        return found, names, few, stale, none, ports.clock.wall_ms()

    found, names, few, stale, none, wall_ms = rig.run(user)
    assert names == sorted(names) == [f"many-{number:03}" for number in range(300)]
    assert few == ["many-100", "many-101", "many-102"]
    assert (stale, none) == (["index"], [])
    pool, index = found["pool"], found["index"]
    assert isinstance(pool, LockInfo)
    assert (pool.kind, pool.held, pool.waiting) == ("semaphore of 20", 2, 0)
    assert [holder.note for holder in pool.holders] == ["one", "two"]
    assert (index.kind, index.held, index.waiting) == ("read-write lock", 1, 1)
    (writer,) = index.holders
    assert (writer.note, writer.writes, writer.rests, writer.fence) == ("me", True, False, 303)
    assert writer.client.startswith("client-")
    assert abs(writer.since.timestamp() * 1_000 - wall_ms) < 5_000
    assert found["many-000"].kind == "mutex" and not found["many-000"].holders[0].writes
