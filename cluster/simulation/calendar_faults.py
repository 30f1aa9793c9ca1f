"""What happens around slots: leaders are lost, machines sleep, clocks jump, workers go, an operator pauses schedules or
deploys others.

An incident begins a moment before a slot, or behind it; all that it breaks is mended again after seconds or hours. Most
of them are where clocks change.
"""

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from random import Random

from actors import MILLISECOND, SECOND, Nanos, Ports
from actors.simulation import Process, World
from cluster.client import Client
from cluster.errors import ClusterError
from cluster.simulation.calendar_oracle import CalendarOracle
from cluster.simulation.calendar_walk import OTHERS, SCHEDULES
from cluster.simulation.launched import BrokerProcess, WorkerProcess
from cluster.simulation.workload import ports_pause
from cluster.state.commands import ScheduleSpec
from cluster.topology import Topology

MINUTE: Nanos = 60 * SECOND
HOUR: Nanos = 60 * MINUTE
SOON: tuple[Nanos, Nanos] = (2 * SECOND, 40 * SECOND)           # until something is mended whose absence costs work
LATER: tuple[Nanos, Nanos] = (10 * SECOND, 9 * HOUR)            # ... of which it does not
JUMP: tuple[Nanos, Nanos] = (20 * SECOND, 5 * HOUR)
SET_RIGHT: tuple[Nanos, Nanos] = (5 * MINUTE, 30 * HOUR)        # after so long a clock shows what others show
PAUSES: tuple[Nanos, Nanos] = (5 * SECOND, 12 * HOUR)
SECOND_LOSS: tuple[Nanos, Nanos] = (500 * MILLISECOND, 4 * SECOND)
ROLLING: tuple[Nanos, Nanos] = (1 * SECOND, 2 * MINUTE)         # from one worker to the next in a deployment
DEPLOYED: tuple[Nanos, Nanos] = (1 * HOUR, 240 * HOUR)          # until what was before is deployed again
DEADLINE_S = 30.0


class Program:
    """What is installed where the workers run: the terms of each schedule. A process goes on with what was there when
    it started, in all its children."""

    def __init__(self) -> None:
        self._specs = {kept.spec.name: kept.spec for kept in SCHEDULES}
        self._others = {kept.spec.name: kept.spec for kept in OTHERS}
        self._of: dict[tuple[str, int], tuple[ScheduleSpec, ...]] = {}

    def change(self, name: str) -> None:
        """The other terms of a schedule take the place of these."""
        self._specs[name], self._others[name] = self._others[name], self._specs[name]

    def of(self, worker: str, incarnation: int) -> tuple[ScheduleSpec, ...]:
        """What a process announces; asked for the first time when it starts."""
        return self._of.setdefault((worker, incarnation), tuple(self._specs.values()))


class CalendarFaults:
    """Of one world. `strike` lets one thing happen, chosen by chance, of `kinds` if some are named; `finish` mends all
    that is broken."""

    def __init__(
        self,
        world: World,
        plan: Topology,
        brokers: list[BrokerProcess],
        workers: list[WorkerProcess],
        oracle: CalendarOracle,
        program: Program,
        kinds: Collection[str] = (),
    ) -> None:
        self.world = world
        self.counts: Counter[str] = Counter()
        self._plan = plan
        self._brokers = brokers
        self._workers = workers
        self._oracle = oracle
        self._program = program
        self._only = kinds
        self._is_over = False
        self._random: Random = world.stream("calendar faults")
        self._repairs: dict[int, Callable[[], object]] = {}
        self._number = 0
        self._orders: list[tuple[str, str]] = []            # of the operator, of what schedule
        self._operator: Process = world.process("operator", self._operate)
        self._kinds: dict[str, tuple[int, Callable[[], object]]] = {
            "leader_killed": (6, self._kill_leader),
            "leaders_killed": (3, self._kill_leaders),
            "leader_power_lost": (2, self._cut_power),
            "leader_cut_off": (4, self._cut_off),
            "leader_paused": (3, self._pause_leader),
            "clock_jumped": (2, partial(self._jump, 1)),
            "clocks_jumped": (4, partial(self._jump, 3)),
            "slept": (2, self._sleep),
            "all_down": (3, self._stop_all),
            "worker_lost": (2, partial(self._lose_workers, 1)),
            "workers_lost": (3, partial(self._lose_workers, 2)),
            "worker_drained": (1, self._drain),
            "schedule_paused": (2, self._pause_schedule),
            "run_now": (1, self._run_now),
            "redeployed": (3, self._redeploy),
        }

    @property
    def is_busy(self) -> bool:
        """Whether the operator is at work."""
        return self._operator.alive

    def strike(self, name: str) -> None:
        """A slot of the schedule `name` is near."""
        weights = [weight if not self._only or kind in self._only else 0 for kind, (weight, _) in self._kinds.items()]
        (kind,) = self._random.choices(list(self._kinds), weights)
        self._name = name
        self._disturb()
        self.counts[kind] += 1
        self._kinds[kind][1]()

    def finish(self) -> None:
        """Mends everything now, and what is broken by that."""
        self._is_over = True
        while self._repairs:
            self._repair(next(iter(self._repairs)))

    # -- brokers --------------------------------------------------------------------------------------------------

    def leader(self) -> BrokerProcess | None:
        for node in self._brokers:
            if node.process.alive and not node.process.paused and node.broker is not None and node.broker.leading:
                return node
        return None

    def _kill_leader(self) -> None:
        node = self.leader()
        if node is not None:
            self._kill([node.process], LATER if self._random.randrange(4) == 0 and self._are_whole() else SOON)

    def _kill_leaders(self) -> None:
        """One, and soon after that the next one."""
        self._kill_leader()
        self.world.after(self._random.randint(*SECOND_LOSS), self._kill_leader)

    def _are_whole(self) -> bool:
        return all(node.process.alive for node in self._brokers)

    def _kill(self, processes: list[Process], span: tuple[Nanos, Nanos]) -> None:
        self._disturb()
        for process in processes:
            self.world.crash(process)
        self._mend_after(span, partial(self._restart, processes))

    def _restart(self, processes: list[Process]) -> None:
        for process in processes:
            self.world.power_on(process.machine)
            if not process.alive:
                self.world.restart(process)

    def _cut_power(self) -> None:
        node = self.leader()
        if node is not None:
            self.world.power_off(node.process.machine)
            self._mend_after(SOON, partial(self._restart, [node.process]))

    def _cut_off(self) -> None:
        """Its machine hears nobody, or the brokers only do not hear each other."""
        node = self.leader()
        if node is not None:
            names = [other.name for other in self._brokers if other is not node]
            if self._random.randrange(2):
                names = [name for name in self.world.machines if name != node.name]
            cuts = self.world.network.partition([[node.name], names])
            self._mend_after(SOON, partial(self.world.network.mend, cuts))

    def _pause_leader(self) -> None:
        node = self.leader()
        if node is not None:
            self.world.pause(node.process)
            self._mend_after(SOON, partial(self.world.resume, node.process))

    # -- clocks and machines --------------------------------------------------------------------------------------

    def _jump(self, count: int) -> None:
        """Clocks of brokers are put forward or back. In half of the cases another leader takes its time from them."""
        ms = self._random.randint(*JUMP) // MILLISECOND * self._random.choice((1, 1, -1))
        machines = [node.process.machine for node in self._random.sample(self._brokers, count)]

        def jump(ms: int) -> None:
            for machine in machines:
                machine.jump_wall_clock(ms)

        jump(ms)
        self._mend_after(SET_RIGHT, partial(jump, -ms))
        if self._random.randrange(2):
            self.world.after(self._random.randint(*SECOND_LOSS), self._kill_leader)

    def _sleep(self) -> None:
        self.world.sleep(self.world.now + self._random.randint(*LATER))
        self._disturb()

    def _stop_all(self) -> None:
        processes = [node.process for node in (*self._brokers, *self._workers) if node.process.alive]
        for process in processes:
            self.world.crash(process)
        self._sleep()
        self._mend_after(SOON, partial(self._restart, processes))

    # -- workers --------------------------------------------------------------------------------------------------

    def _lose_workers(self, count: int) -> None:
        processes = [node.process for node in self._workers if node.process.alive]
        self._kill(processes[:count], LATER)

    def _drain(self) -> None:
        self._random.choice(self._workers).drain()

    def _redeploy(self) -> None:
        """Another version of the program has other terms for the schedule, and is given up one day."""
        name = self._name
        self._deploy(name)
        low, high = DEPLOYED
        self.world.after(low + int((high - low) * self._random.random() ** 3), partial(self._deploy, name))

    def _deploy(self, name: str) -> None:
        """The workers start anew, one after another; those that are away start with it when they come back."""
        if self._is_over:
            return
        self._disturb()
        self._program.change(name)
        first, second = self._random.sample(self._workers, 2)
        self._start_anew(first)
        self._mend_after(ROLLING, partial(self._start_anew, second))

    def _start_anew(self, node: WorkerProcess) -> None:
        if self._random.randrange(2):
            node.drain()
        elif node.process.alive:
            self._kill([node.process], SOON)

    # -- the operator ---------------------------------------------------------------------------------------------

    def _pause_schedule(self) -> None:
        self._order("pause", self._name)
        self._mend_after(PAUSES, partial(self._order, "resume", self._name))

    def _run_now(self) -> None:
        self._order("run_now", self._name)

    def _order(self, what: str, name: str) -> None:
        self._orders.append((what, name))
        if not self._operator.alive:
            self.world.restart(self._operator)

    async def _operate(self, ports: Ports) -> None:
        """Does what was ordered, and does it again until it was done."""
        while self._orders:
            try:
                async with Client(self._plan, lambda: ports, DEADLINE_S) as client:
                    while self._orders:
                        what, name = self._orders[0]
                        await self._carry_out(client, what, name)
                        del self._orders[0]
            except ClusterError:        # nobody leads, or it cannot run now
                if self._orders and self._orders[0][0] == "run_now":
                    del self._orders[0]
                await ports_pause(ports, SECOND)

    async def _carry_out(self, client: Client, what: str, name: str) -> None:
        if what == "run_now":
            self._oracle.asked(name)
            self._oracle.told(name, (await client.run_now(name)).id)
        elif what == "pause":
            await client.pause(name)
            self._oracle.paused(name)
        else:
            await client.resume(name)

    # -- mending --------------------------------------------------------------------------------------------------

    def _mend_after(self, span: tuple[Nanos, Nanos], repair: Callable[[], object]) -> None:
        self._number += 1
        self._repairs[self._number] = repair
        self._oracle.broken += 1
        # Mostly soon: what lasts seconds and what lasts hours meet different code.
        low, high = span
        wait = low + int((high - low) * self._random.random() ** 3)
        self.world.after(wait, partial(self._repair, self._number))

    def _repair(self, number: int) -> None:
        repair = self._repairs.pop(number, None)
        if repair is not None:
            self._oracle.broken -= 1
            self._disturb()
            repair()

    def _disturb(self) -> None:
        self._oracle.disturbed = self.world.now
