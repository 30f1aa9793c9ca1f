"""Locks in bad times: what becomes of holders and of those who wait when links, leaders, sessions or processes fail."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from client_world import BROKERS, ClientWorld, pause

from actors import MILLISECOND, SECOND, Peer, Ports
from cluster import AsyncLock, Client, ClusterError, DeadlineExceeded, Lock, LockLost, Semaphore, Unavailable
from cluster.client.claim_commands import Parting
from cluster.client.succession import SessionLimits
from cluster.state.effects import ClaimNews
from cluster.wire import ClaimsNews, LeaseAck

Locks = dict[str, AsyncLock]


def cut_off(rig: ClientWorld, client: str) -> Any:
    return rig.world.network.partition([[client], BROKERS])


def fence_in_state(rig: ClientWorld, name: str) -> int:
    """Of the holder in the leader's state; 0 if there is none."""
    if not rig.leader:
        return 0
    holders = rig.actor(rig.leader).machine.locks.row(name).holders
    return holders[0].fence if holders else 0


def holds_for_ever(locks: Locks, name: str, hold: str = "5s") -> Callable[[Client, Ports], Any]:
    """A user that holds "door" until it loses it; its lock is in `locks` under `name`, and what came of it its answer:
    the reason, and for how many milliseconds its clock went on after the lease was over."""

    async def live(cluster: Client, ports: Ports) -> Any:
        lock = locks[name] = Lock(cluster, "door", hold=hold)
        try:
            async with lock:
                assert lock._claim is not None and lock._claim.holding is not None
                claim = lock._claim
                await pause(ports, 1_000)
        except LockLost as error:
            return error, (ports.clock.now() - claim.holding.until) // MILLISECOND
        return None

    return live


# -- the body is told -------------------------------------------------------------------------------------------------


def test_a_holder_that_reaches_nobody_is_cancelled_before_another_one_gets_the_lock():
    rig = ClientWorld(workers=0)
    locks: Locks = {}
    first = rig.start(holds_for_ever(locks, "first"))
    rig.until(lambda: fence_in_state(rig, "door") == 1)
    second = rig.start(holds_for_ever(locks, "second"))
    rig.world.run_for(SECOND)
    cut_off(rig, first)
    began = rig.world.now
    rig.until(lambda: first in rig.answers)
    stopped = rig.world.now
    rig.until(lambda: locks["second"].is_held)
    granted = rig.world.now
    error, late_ms = rig.answers[first]
    assert 3.9 < (stopped - began) / SECOND < 4.7, "the hold time less a tenth, from the last answer"
    assert stopped + 300 * MILLISECOND < granted < began + 6.5 * SECOND
    assert 0 <= late_ms <= 101
    assert (error.name, error.fence) == ("door", 1) and "did not answer" in error.reason
    assert str(error).startswith('lock "door" is lost (fence 1): the cluster did not answer')
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert (first, "lock_lost") in rig.log
    rig.world.crash(rig.clients[second])


def test_the_task_that_entered_is_cancelled_and_no_other_and_goes_on_afterwards():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        beside: list[str] = []

        async def other() -> None:
            await pause(ports, 8)
            beside.append("went on")

        async def hold() -> Any:
            try:
                async with lock:
                    cuts.append(cut_off(rig, "c1"))
                    await pause(ports, 100)
            except LockLost:
                task = asyncio.current_task()
                assert task is not None
                await pause(ports, 1)           # it is cancelled no more
                return task.cancelling()

        cuts: list[Any] = []
        running = asyncio.ensure_future(other())
        cancelling = await asyncio.ensure_future(hold())
        rig.world.network.mend(cuts[0])
        await running
        async with lock:                        # the object is as new
            return cancelling, beside, lock.fence

    assert rig.run(user) == (0, ["went on"], 2)


def test_a_task_that_others_cancel_too_stays_cancelled():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        ends: list[str] = []

        async def hold() -> None:
            try:
                async with Lock(cluster, "door", hold="2s"):
                    try:
                        await pause(ports, 100)
                    except asyncio.CancelledError:
                        task.cancel()
                        raise
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

        task = asyncio.ensure_future(hold())
        await pause(ports, 0.1)
        cuts = cut_off(rig, "c1")
        with pytest.raises(asyncio.CancelledError):
            await task
        rig.world.network.mend(cuts)
        return ends, task.cancelled()

    assert rig.run(user) == (["CancelledError"], True)


@pytest.mark.parametrize("body", ["returns", "swallows", "raises"])
def test_a_body_that_does_not_notice_in_time_is_told_where_it_ends(body):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        try:
            async with lock:
                cuts = cut_off(rig, "c1")
                if body == "swallows":
                    with suppress(asyncio.CancelledError):
                        await pause(ports, 100)
                else:
                    begun = ports.clock.now()
                    rig.world.pause(rig.clients["c1"])          # nothing runs, not even the sweep
                    rig.world.after(3 * SECOND, lambda: rig.world.resume(rig.clients["c1"]))
                    await cluster._next_turn()
                    assert ports.clock.now() - begun >= 3 * SECOND
                    assert not lock.is_held
                    with pytest.raises(LockLost):
                        lock.assert_held()
                    if body == "raises":
                        raise ValueError("of the body")
        except (LockLost, ValueError) as error:
            rig.world.network.mend(cuts)
            await pause(ports, 1)           # it is not cancelled
            return type(error).__name__
        return "nothing"

    assert rig.run(user) == {"raises": "ValueError"}.get(body, "LockLost")


def test_a_process_that_was_stopped_knows_at_once_when_it_wakes():
    """The next one holds the lock by then. No message and no timer was looked at."""
    rig = ClientWorld(workers=0)
    locks: Locks = {}

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        await lock.acquire()
        rig.world.pause(rig.clients["c1"])
        await cluster._next_turn()
        held = lock.is_held
        with pytest.raises(LockLost) as caught:
            _ = lock.fence
        with pytest.raises(LockLost):
            await lock.extend("10s")
        with pytest.raises(LockLost):
            await lock.release()
        with pytest.raises(ClusterError, match="is not acquired"):
            await lock.release()
        return held, caught.value.fence

    first = rig.start(user)
    rig.start(holds_for_ever(locks, "second"))
    rig.until(lambda: "second" in locks and locks["second"].is_held)
    rig.world.resume(rig.clients[first])
    assert rig.finish(first) == (False, 1)
    assert locks["second"].is_held


def test_a_client_that_is_closed_holds_nothing_any_more():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="1h")
        reasons: list[str] = []

        async def hold() -> None:
            try:
                async with lock:
                    await pause(ports, 100)
            except LockLost as error:
                reasons.append(error.reason)

        holding = asyncio.ensure_future(hold())
        await pause(ports, 0.1)
        await cluster._stop()
        held = lock.is_held
        await holding
        with pytest.raises(Unavailable):
            await lock.acquire()
        return held, reasons

    assert rig.run(user) == (False, ["its client was closed"])
    assert ("c1", "lock_lost") not in rig.log, "whoever closes a client knows that"
    rig.world.run_for(SECOND // 10)
    assert fence_in_state(rig, "door") == 0


def test_a_session_that_another_ended_holds_nothing_and_the_next_claim_is_of_a_new_one():
    rig = ClientWorld(workers=0)
    locks: Locks = {}
    name = rig.start(holds_for_ever(locks, "first"))
    rig.until(lambda: fence_in_state(rig, "door") == 1)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        waiting = asyncio.ensure_future(lock.acquire())
        await pause(ports, 1)
        session = cluster._actor.session
        rig.take_over(cluster._actor.name, "thief")     # while it waits
        await pause(ports, 3)
        assert cluster._actor.session not in (0, session)
        rig.world.crash(rig.clients[name])
        first = await waiting
        rig.take_over(cluster._actor.name, "thief 2")   # while it is held
        await pause(ports, 2)
        with pytest.raises(LockLost, match="ended the session"):
            lock.assert_held()
        return first, await lock.acquire()

    first, second = rig.run(user)
    assert 1 < first < second


def test_a_release_whose_session_is_gone_is_done():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door")
        await lock.acquire()
        cuts = rig.world.network.cut(["c1"], BROKERS, both_ways=False)
        releasing = asyncio.ensure_future(lock.release())
        await pause(ports, 0.5)
        rig.take_over(cluster._actor.name, "thief")
        await pause(ports, 1.5)
        assert not releasing.done()
        rig.world.network.mend(cuts)
        await releasing
        return await lock.acquire()

    assert rig.run(user) == 2


# -- leaders and links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_leader_that_is_killed_costs_neither_a_hold_nor_a_place_in_the_queue(seed):
    rig = ClientWorld(seed, workers=0)
    turns: list[int] = []

    def user(number: int) -> Callable[[Client, Ports], Any]:
        async def live(cluster: Client, ports: Ports) -> Any:
            await pause(ports, 1 + number / 10)
            async with Lock(cluster, "door") as lock:
                turns.append(number)
                await pause(ports, 2)
                lock.assert_held()

        return live

    names = [rig.start(user(number)) for number in range(5)]
    rig.until(lambda: fence_in_state(rig, "door"))
    for _ in range(3):
        rig.world.run_for(SECOND)
        leader = rig.leader
        rig.world.crash(rig.brokers[leader])
        rig.world.restart(rig.brokers[leader], after=SECOND)
        rig.until(lambda: rig.leader)
    for name in names:
        rig.finish(name)
    assert turns == list(range(5))


@pytest.mark.parametrize("seed", range(5))
def test_a_leader_that_is_killed_while_claims_are_on_their_way_changes_nothing(seed):
    rig = ClientWorld(seed, workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        inside = most = served = 0

        async def one() -> None:
            nonlocal inside, most, served
            async with Semaphore(cluster, "few", 2) as lock:
                inside += 1
                most = max(most, inside)
                await pause(ports, 0.01)
                lock.assert_held()
                inside -= 1
                served += 1

        working = asyncio.gather(*(one() for _ in range(150)))
        await pause(ports, 0.2)
        rig.world.crash(rig.brokers[rig.leader])
        await working
        return most, served, fence_in_state(rig, "few")

    assert rig.run(user) == (2, 150, 0)


def test_a_grant_whose_news_is_lost_with_the_link_is_asked_for_over_the_next_one():
    rig = ClientWorld(workers=0)
    times: list[int] = []

    async def first(cluster: Client, ports: Ports) -> Any:
        async with Lock(cluster, "door"):
            await pause(ports, 2.2)
            rig.world.network.break_links("c2")
            times.append(rig.world.now)

    async def second(cluster: Client, ports: Ports) -> Any:
        await pause(ports, 0.1)
        async with Lock(cluster, "door") as lock:       # asks by itself after 2 and after 4 seconds
            times.append(rig.world.now)
            return lock.fence

    rig.start(first)
    assert rig.finish(rig.start(second)) == 2
    broken, granted = times
    assert granted - broken < SECOND


def test_a_grant_that_comes_too_late_is_none_and_the_next_one_counts():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        acquiring = asyncio.ensure_future(lock.acquire())
        await pause(ports, 0.000_1)         # it has left
        rig.world.pause(rig.clients["c1"])
        rig.world.after(5 * SECOND, lambda: rig.world.resume(rig.clients["c1"]))
        fence = await acquiring
        claims = len(rig.actor(rig.leader).machine.locks.claims)
        await lock.release()
        return fence, claims

    assert rig.run(user) == (2, 1)
    assert ("c1", "lock_lost") not in rig.log, "it was never held"


def test_a_claim_that_is_answered_again_after_its_grant_is_asked_for_at_once():
    """The answer is that of then: it waits."""
    rig = ClientWorld(workers=0)
    times: list[int] = []

    async def first(cluster: Client, ports: Ports) -> Any:
        async with Lock(cluster, "door"):
            await pause(ports, 2)

    async def second(cluster: Client, ports: Ports) -> Any:
        await pause(ports, 1)
        cuts = rig.world.network.cut(BROKERS, ["c2"], both_ways=False)      # it hears nothing ...
        acquiring = asyncio.ensure_future(Lock(cluster, "door").acquire())
        await pause(ports, 1.5)
        rig.world.network.break_links("c2")                                 # ... and never will of that
        rig.world.network.mend(cuts)
        times.append(ports.clock.now())
        fence = await acquiring
        times.append(ports.clock.now())
        return fence

    rig.start(first)
    rig.until(lambda: fence_in_state(rig, "door") == 1)
    assert rig.finish(rig.start(second)) == 2
    mended, granted = times
    assert granted - mended < 1.5 * SECOND, "with a new link"


def test_a_grant_whose_news_is_lost_without_a_trace_is_asked_for_within_two_seconds(monkeypatch):
    rig = ClientWorld(workers=0)
    lost: list[int] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        other, lock = Lock(cluster, "door"), Lock(cluster, "door")
        await other.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await pause(ports, 0.5)
        actor = cluster._actor
        handler = actor._handlers[ClaimsNews]

        def lose_once(peer: Peer, message: ClaimsNews) -> None:
            lost.append(message.items[0].fence)
            actor._handlers[ClaimsNews] = handler

        actor._handlers[ClaimsNews] = lose_once
        begun = ports.clock.now()
        await other.release()
        fence = await waiting
        return fence, (ports.clock.now() - begun) / SECOND

    fence, took = rig.run(user)
    assert lost == [fence] == [2]
    assert took < 2.2


def test_only_the_leader_is_believed():
    """Another broker may lag, or have been replaced."""
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock, other = Lock(cluster, "door", hold="2s"), Lock(cluster, "door")
        await lock.acquire()
        waiting = asyncio.ensure_future(other.acquire())
        await pause(ports, 0.5)
        actor = cluster._actor
        assert lock._claim is not None and lock._claim.holding is not None
        claim, until = lock._claim.id, lock._claim.holding.until
        stranger = next(peer for peer in actor._links._peers.values() if peer is not actor._links.leader)
        for message in (
            ClaimsNews(actor.session, [ClaimNews(claim, 0), ClaimNews(claim + 1, 9)]),
            LeaseAck(actor.session, ports.clock.now()),
        ):
            actor._on_message(stranger, message)
        unmoved = lock._claim.holding.until == until
        held = lock.is_held, waiting.done()
        await lock.release()
        await waiting
        return held, unmoved, other.fence

    assert rig.run(user) == ((True, False), True, 2)


def test_without_a_leader_a_claim_is_refused_at_the_deadline_and_a_release_is_unknown():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="1m")
        await lock.acquire()
        for name in BROKERS:
            if name != rig.leader:
                rig.world.crash(rig.brokers[name])
        left = rig.leader
        sent = Lock(cluster, "other")
        with pytest.raises(DeadlineExceeded) as caught:      # its leader does not know yet, or cannot write it
            await sent.acquire(wait="1s")
        outcomes = [caught.value.outcome]
        rig.world.crash(rig.brokers[left])
        await pause(ports, 1)
        for call in (Lock(cluster, "third").acquire, Lock(cluster, "third").try_acquire, lock.release):
            begun = ports.clock.now()
            with pytest.raises(Unavailable, match="no leader is known") as unavailable:
                await call()
            assert 4 <= (ports.clock.now() - begun) / SECOND < 4.1
            outcomes.append(unavailable.value.outcome)
        assert not lock.is_held
        for name in BROKERS:
            rig.world.restart(rig.brokers[name])
        async with Lock(cluster, "door"), Lock(cluster, "other"), Lock(cluster, "third"):
            await pause(ports, 1)
        await pause(ports, 0.5)
        return outcomes, len(rig.actor(rig.leader).machine.locks.claims)

    outcomes, left = rig.run(user, deadline=4.0)
    assert outcomes == ["unknown", "refused", "refused", "unknown"]
    assert left == 0


def test_one_that_waits_through_a_silence_longer_than_its_hold_time_waits_anew():
    rig = ClientWorld(workers=0)
    locks: Locks = {}
    first = rig.start(holds_for_ever(locks, "first", hold="10s"))
    rig.until(lambda: fence_in_state(rig, "door") == 1)
    second = rig.start(holds_for_ever(locks, "second", hold="3s"))
    rig.world.run_for(SECOND)
    third = rig.start(holds_for_ever(locks, "third", hold="10s"))
    rig.world.run_for(SECOND)
    cuts = cut_off(rig, second)
    rig.world.run_for(5 * SECOND)
    rig.world.network.mend(cuts)
    rig.world.run_for(3 * SECOND)
    assert rig.actor(rig.leader).machine.locks.row("door").waiting == 2
    rig.world.crash(rig.clients[first])
    rig.until(lambda: locks["third"].is_held)
    rig.world.crash(rig.clients[third])
    rig.until(lambda: locks["second"].is_held)
    rig.world.crash(rig.clients[second])


# -- other hold times -------------------------------------------------------------------------------------------------


def test_a_longer_hold_lasts_through_a_longer_silence():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="2s")
        async with lock:
            await lock.extend("30s")
            cuts = cut_off(rig, "c1")
            await pause(ports, 20)
            lock.assert_held()
            rig.world.network.mend(cuts)
        async with lock:
            cuts = cut_off(rig, "c1")
            begun = ports.clock.now()
            while lock.is_held:
                await pause(ports, 0.01)
            rig.world.network.mend(cuts)
            await pause(ports, 0.1)
            return (ports.clock.now() - begun) / SECOND

    with pytest.raises(LockLost):           # the second time it has its own hold time again
        rig.run(user)


def test_a_shorter_hold_counts_before_it_is_confirmed():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        lock = Lock(cluster, "door", hold="1m")
        await lock.acquire()
        await pause(ports, 1)
        asyncio.get_running_loop().call_soon(lambda: cut_off(rig, "c1"))
        begun = ports.clock.now()
        with pytest.raises(LockLost):
            await lock.extend("2s")
        return (ports.clock.now() - begun) / SECOND

    assert 1.2 < rig.run(user) < 2


def test_an_extension_of_what_the_state_does_not_have_is_a_loss():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        reasons = []
        for _ in range(2):
            lock = Lock(cluster, "door", hold="1m")
            await lock.acquire()
            assert lock._claim is not None
            cluster._actor._claims.commands.release(lock._claim.id, Parting())      # behind its back
            with pytest.raises(LockLost) as caught:
                await lock.extend("2m")
            reasons.append(caught.value.reason)
            assert not lock.is_held
        return reasons

    assert rig.run(user) == ["the cluster does not have it any more"] * 2


# -- from one session to the next -------------------------------------------------------------------------------------


def test_locks_are_held_through_changes_of_the_session_and_released_in_theirs():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        long, waiting = Lock(cluster, "long"), Lock(cluster, "long")
        await long.acquire()
        coming = asyncio.ensure_future(waiting.acquire())
        first = cluster._actor.session
        fences = []
        for _ in range(350):
            async with Lock(cluster, "short") as lock:
                fences.append(lock.fence)
        await pause(ports, 3)
        long.assert_held()
        sessions = set(rig.client_sessions)
        assert first in sessions and cluster._actor.session != first
        await long.release()
        fence = await coming
        await waiting.release()
        await pause(ports, 3)
        return fences, sessions, set(rig.client_sessions), cluster._actor.session, fence

    fences, during, after, current, fence = rig.run(user, limits=SessionLimits(numbers_max=100, numbers_low=40))
    assert fences == sorted(set(fences)) and fence > fences[-1]
    assert len(during) == 2, "the first, which has claims, and the current one"
    assert after == {current}


def test_a_thousand_claims_of_one_turn_are_spread_over_several_sessions():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        async def one(number: int) -> int:
            async with Lock(cluster, f"lock-{number}") as lock:
                return lock.fence

        fences = await asyncio.gather(*(one(number) for number in range(1_000)))
        await pause(ports, 3)
        return len(set(fences)), len(rig.client_sessions)

    assert rig.run(user, limits=SessionLimits(numbers_max=100, numbers_low=40)) == (1_000, 1)
