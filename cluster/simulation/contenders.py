"""Simulated users of locks: they want the same few, in every way in which one can want a lock.

Each is a process on a machine of its own, which the fault plan stops, cuts off and kills like any other. They tell the
oracle when they begin and cease to believe that they hold something, and sometimes act on it: with a submit that
carries the fence.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from actors import MILLISECOND, SECOND, Nanos, Ports
from actors.simulation import Process, World
from cluster.client import Client
from cluster.client.claim_commands import Parting
from cluster.client.exclusive import OnBusy
from cluster.client.locks import AsyncLock, Lock, ReadWriteLock, Semaphore
from cluster.errors import ClusterError, LockBusy, LockLost, Unavailable
from cluster.simulation.launched import Node
from cluster.simulation.lock_oracle import Believer, LockOracle
from cluster.simulation.tasks import Call, work
from cluster.simulation.workload import ports_pause
from cluster.state.commands import LOCK_LIMIT_MAX, Close
from cluster.topology import Topology

CONTENDERS = ("k1", "k2", "k3")
LANES = 2                                       # locks that one wants side by side
MUTEXES = ("m1", "m2")
POOL, PERMITS = "pool", 2
INDEX = "index"
HOLDS_S = (2.0, 2.5, 4.0)
JOB = "job"                                     # an exclusive one
TURNS_S = (1.5, 3.0)
RESTS_S = (0.0, 0.0, 0.3, 1.0)
BUSY: tuple[OnBusy, ...] = ("skip", "wait", "queue", "replace")
WORK_MEAN_NS = 60 * MILLISECOND
LONG_ONE_IN = 12                                # holds that last for seconds
LONG_NS_MAX: Nanos = 5 * SECOND
SETTLED_NS: Nanos = 3 * SECOND                  # who holds for longer is one to aim at
PAUSE_MEAN_NS = 100 * MILLISECOND
WAITS_S = (0.05, 0.5, 2.0)
DEADLINES_S = (1.5, 5.0)
TASK_US = 200
VISIT_NS_MIN: Nanos = 5 * SECOND
VISIT_NS_MAX: Nanos = 30 * SECOND


class Contenders:
    """All of one world."""

    def __init__(self, world: World, plan: Topology, oracle: LockOracle, new_key: Callable[[], int]) -> None:
        self.world = world
        self.plan = plan
        self.oracle = oracle
        self.new_key = new_key
        self.is_over = False                    # nothing new is asked for
        self.on_settled: list[Callable[[Process], None]] = []       # told of who is going to hold something for seconds
        self.processes = [ContenderProcess(self, name) for name in CONTENDERS]

    @property
    def are_busy(self) -> bool:
        return any(one.process.alive and one.is_busy for one in self.processes)


class ContenderProcess(Node):
    """One user."""

    def __init__(self, contenders: Contenders, name: str) -> None:
        self.contenders = contenders
        self.random = contenders.world.stream(f"contender {name}")
        self.is_busy = False
        self._left = 0                          # the session that it ended badly
        super().__init__(contenders.world, name)
        self.process.on_exit.append(lambda exit: self._died())

    def _died(self) -> None:
        self.is_busy = False
        self.contenders.oracle.died(self.name)

    async def _start(self, ports: Ports) -> None:
        self.is_busy = True
        while not self.contenders.is_over:
            leave_at = ports.clock.now() + self.random.randint(VISIT_NS_MIN, VISIT_NS_MAX)
            with suppress(Unavailable):         # no session by the deadline
                async with Client(self.contenders.plan, lambda: ports, self.random.choice(DEADLINES_S)) as client:
                    await asyncio.gather(*[self._lane(client, ports, leave_at) for _ in range(LANES)])
        self.is_busy = False
        await ports_pause(ports, 1_000 * SECOND)

    async def _lane(self, client: Client, ports: Ports, leave_at: Nanos) -> None:
        ways: tuple[Callable[[Client, Ports], Coroutine[Any, Any, None]], ...] = (
            self._enter,
            self._try,
            self._wait,
            self._interrupt,
            self._have_a_turn,
            self._meddle,
            self._leave_badly,
        )
        while not self.contenders.is_over and ports.clock.now() < leave_at:
            way = self.random.choices(ways, (40, 15, 20, 15, 20, 5, 1))[0]
            with suppress(ClusterError):        # busy, lost, refused or unknown: what it believed is told
                await way(client, ports)
            await ports_pause(ports, int(self.random.expovariate(1.0) * PAUSE_MEAN_NS))

    # -- ways of wanting a lock ---------------------------------------------------------------------------------------

    async def _enter(self, client: Client, ports: Ports) -> None:
        lock, units, limit = self._lock(client)
        async with lock:
            await self._hold(client, ports, lock, units, limit)

    async def _try(self, client: Client, ports: Ports) -> None:
        lock, units, limit = self._lock(client)
        if await lock.try_acquire():
            await self._hold_and_release(client, ports, lock, units, limit)

    async def _wait(self, client: Client, ports: Ports) -> None:
        lock, units, limit = self._lock(client)
        try:
            await lock.acquire(wait=self.random.choice(WAITS_S))
        except LockBusy:
            return
        await self._hold_and_release(client, ports, lock, units, limit)

    async def _interrupt(self, client: Client, ports: Ports) -> None:
        """Whoever wanted it changes its mind, at any moment."""
        entering = asyncio.ensure_future(self._enter(client, ports))
        await ports_pause(ports, self.random.randrange(LONG_NS_MAX // 4))
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)

    async def _have_a_turn(self, client: Client, ports: Ports) -> None:
        """Of an exclusive job: bounded, with a rest behind it, and in any of the ways to be late."""
        random = self.random
        on_busy = random.choice(BUSY)
        turn = client.exclusive(
            JOB,
            at_most=random.choice(TURNS_S),
            at_least=random.choice(RESTS_S),
            on_busy=on_busy,
            wait=random.choice(WAITS_S) if on_busy == "wait" else None,
            hold=random.choice(HOLDS_S),
        )
        async with turn:
            if random.randrange(4) == 0:
                await turn.prolong(random.choice((None, *TURNS_S)))
            hangs = random.randrange(3) == 0
            await self._hold(client, ports, turn, 1, 1, LONG_NS_MAX if hangs else 0)

    async def _meddle(self, client: Client, ports: Ports) -> None:
        """Releases what another one holds, as no client of ours would. Nothing must come of it."""
        strangers = self.contenders.oracle.claims_of_others(client._actor.session)
        if strangers:
            commands = client._actor._commands
            commands._claims.release(self.random.choice(strangers), Parting(is_applied=True))
            commands.pump()

    async def _leave_badly(self, client: Client, ports: Ports) -> None:
        """Ends the session whatever it holds and waits for, as no client of ours would. Its lock objects hear of it
        later, so what they say of that session does not count any more."""
        actor = client._actor
        if actor.session and actor._links.leader is not None:
            self._left = actor.session
            self.contenders.oracle.died(self.name)
            actor._links.leader.send(Close(actor.session, actor.incarnation))

    # -- while it is held ---------------------------------------------------------------------------------------------

    async def _hold_and_release(self, client: Client, ports: Ports, lock: AsyncLock, units: int, limit: int) -> None:
        try:
            await self._hold(client, ports, lock, units, limit)
        finally:
            await lock.release()

    async def _hold(
        self, client: Client, ports: Ports, lock: AsyncLock, units: int, limit: int, span: Nanos = 0
    ) -> None:
        """For so long, 0 = by chance. Raises LockLost if it notices that it is lost."""
        oracle = self.contenders.oracle
        left = self._left
        believer = Believer(self.name, units, lock.fence, lambda: self._left == left and lock.is_held)
        if client._actor.session == self._left:
            return
        oracle.begins(lock.name, limit, believer)
        try:
            await self._work(client, ports, lock, span)
        finally:
            oracle.ends(lock.name, believer)

    async def _work(self, client: Client, ports: Ports, lock: AsyncLock, span: Nanos) -> None:
        span = span or int(self.random.expovariate(1.0) * WORK_MEAN_NS)
        if self.random.randrange(LONG_ONE_IN) == 0:
            span = self.random.randrange(LONG_NS_MAX)
        if span > SETTLED_NS:
            for told in self.contenders.on_settled:
                told(self.process)
        fence = lock.fence
        roll = self.random.randrange(10)
        if roll == 0:
            await lock.extend(self.random.choice(HOLDS_S))
        await ports_pause(ports, span)
        if roll == 1:       # without asking whether it still holds it: the cluster must
            call = Call(self.contenders.new_key(), TASK_US, "ok")
            with suppress(LockLost):
                await client.submit(work.options(fence=fence), call)
        lock.assert_held()

    def _lock(self, client: Client) -> tuple[AsyncLock, int, int]:
        hold, roll = self.random.choice(HOLDS_S), self.random.randrange(10)
        if roll < 5:
            return Lock(client, self.random.choice(MUTEXES), hold=hold), 1, 1
        if roll < 7:
            return Semaphore(client, POOL, PERMITS, hold=hold), 1, PERMITS
        index = ReadWriteLock(client, INDEX, hold=hold)
        if roll < 9:
            return index.read(), 1, LOCK_LIMIT_MAX
        return index.write(), LOCK_LIMIT_MAX, LOCK_LIMIT_MAX
