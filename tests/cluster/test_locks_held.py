"""Locks as users hold them: whose turn it is, who waits, who gives up, and that nothing is left behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from client_world import ClientWorld, pause

from actors import MILLISECOND, SECOND, Ports
from cluster import AsyncLock, Client, ClusterError, Lock, LockBusy, LockMismatch, ReadWriteLock, Semaphore


def claims_of(rig: ClientWorld) -> list[tuple[str, bool]]:
    """All claims of the leader's state: the lock, and whether it is held."""
    locks = rig.actor(rig.leader).machine.locks
    return [(claim.lock.name, claim.fence > 0) for claim in locks.claims.values()]


def test_one_holds_at_a_time_and_each_gets_a_higher_fence():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        spans: list[tuple[int, int, int]] = []

        async def one() -> None:
            lock = Lock(cluster, "nightly")
            async with lock:
                begun = ports.clock.now()
                await pause(ports, 0.01)
                spans.append((begun, ports.clock.now(), lock.fence))

        await asyncio.gather(*(one() for _ in range(20)))
        return spans

    spans = [*rig.run(user), *rig.run(user)]
    assert len(spans) == 40
    assert all(end <= begin for (_, end, _), (begin, _, _) in zip(spans[:20], spans[1:20], strict=False))
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
