"""One seed: a cluster of three brokers, two workers and five clients lives for a minute or more, and is judged.

First everything breaks that may break; then all is healed, in some seeds after a last blackout, and everything that was
acknowledged must come to its end. Oracles look on all the time; the first violation ends the run, since what follows a
broken promise says little.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import History, NetworkLimits, World
from cluster.simulation.compactors import register_compactor
from cluster.simulation.contenders import Contenders
from cluster.simulation.faults import ClusterFaults
from cluster.simulation.launched import BrokerProcess, StandIns, in_place
from cluster.simulation.nodes import (
    BROKERS,
    WORKERS,
    register_executors,
    start_broker_of,
    start_worker_of,
    topology,
)
from cluster.simulation.operator import ONE_IN as OPERATOR_ONE_IN
from cluster.simulation.operator import OperatorProcess
from cluster.simulation.oracles import Oracles
from cluster.simulation.planted import Planted, compactor_of, stand_ins_of
from cluster.simulation.planted_limits import PlantedLimit, plant_limit
from cluster.simulation.planted_locks import PlantedLock, holders_of, leaders_of, plant_lock
from cluster.simulation.planted_needs import PlantedNeed, plant_need
from cluster.simulation.planted_slots import PlantedSlot, plant_slot
from cluster.simulation.snapshot_oracle import Moments
from cluster.simulation.state_oracle import Plant
from cluster.simulation.verdict import Violation
from cluster.simulation.workload import Workload
from cluster.state.machine import Machine

PROLONGED_NS: Nanos = 10 * SECOND       # for faults that must happen and did not
PROLONGED_MAX = 6
DUPLICATES_ONE_IN = 4
DUPLICATE_PPM = 1_000
ASKED_END = "asked_end"
CHUNK_NS: Nanos = 50 * MILLISECOND      # of world time between two looks at the oracles


@dataclass(frozen=True, slots=True)
class Course:
    """How long the parts of a run last."""

    faults_ns: Nanos = 45 * SECOND      # work and faults
    calm_ns: Nanos = 4 * SECOND         # at least, work without faults ...
    tasks_min: int = 600                # ... until so many are acknowledged; after that no new work
    rest_ns_max: Nanos = 90 * SECOND    # until everything acknowledged has ended and all brokers agree
    total_ns_min: Nanos = 60 * SECOND
    is_whole: bool = True               # every fault that must happen does


@dataclass(slots=True)
class Report:
    """What became of one seed."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    simulated_ns: Nanos = 0
    operations: int = 0
    acknowledged: int = 0               # tasks
    lost: int = 0                       # of those, without a terminal record in the end
    duplicated_records: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    elections: int = 0
    runs: int = 0                       # attempts that a child started
    late_outcomes: int = 0              # that the state refused
    replays: int = 0                    # tasks that were run again after their end
    counts: int = 0                     # calls that instances of keys ran
    grants: int = 0                     # of locks
    lapses: int = 0                     # claims on locks that ended since their holders were silent
    limited: int = 0                    # hand-outs under a rate or a concurrency
    full_limits: int = 0                # of those, that came to its bound
    turns: int = 0                      # hand-outs of a share while another one waited
    duplicates: int = 0                 # tasks whose work another one did
    successors: int = 0                 # tasks that waited until another one of their key had stopped
    resizes: int = 0                    # of the open slots of a worker
    entries: int = 0                    # committed
    snapshots: int = 0                  # written by compactors
    restorations: int = 0               # states that came from a snapshot, at starts and on the way
    no_room: dict[str, int] = field(default_factory=dict)       # brokers that a full disk ended, while doing what
    moments: Moments = field(default_factory=Moments)
    digest: int = 0                     # of the whole course


class Scenario:
    """A world with a cluster in it; tests of the oracles plant a bug in its brokers."""

    def __init__(
        self,
        seed: int,
        course: Course | None = None,
        planted: Planted | None = None,
        locks: PlantedLock | None = None,
        limits: PlantedLimit | None = None,
        needs: PlantedNeed | None = None,
        slots: PlantedSlot | None = None,
    ) -> None:
        self.course = course or Course()
        # The network never repeats a message by itself; where it does, the session layer must see it.
        network = NetworkLimits(duplicate_ppm=DUPLICATE_PPM if seed % DUPLICATES_ONE_IN == 0 else 0)
        self.world = world = World(seed, network=network)
        self.oracles = oracles = Oracles(world, _plant(locks, limits, needs, slots))
        self._holders = holders_of(locks)
        self.history = History(lambda: world.now)
        plan = topology()
        # Both ways of syncing the log, whatever the probe would find.
        sync_mode = "inline" if seed // 2 % 2 else "thread"
        register_executors(world, oracles.state.ran, oracles.keys.counted)
        self.snapshots = 0                  # that compactors have finished
        register_compactor(world, self._count_snapshot, compactor_of(planted))

        def stand_ins(name: str) -> StandIns:
            return {**oracles.stand_ins(name), **stand_ins_of(planted), **leaders_of(locks)}

        self.brokers = [start_broker_of(world, name, plan, sync_mode, stand_ins, oracles.ended) for name in BROKERS]
        oracles.brokers = {node.name: node for node in self.brokers}
        for node in self.brokers:
            oracles.snapshots.watch(node)
        self.workers = [start_worker_of(world, name, plan, oracles.ended) for name in WORKERS]
        self.workload = Workload(world, plan, self.history, oracles.acknowledged)
        self.contenders = Contenders(world, plan, oracles.locks, self.workload.new_key)
        self.operator: OperatorProcess | None = None
        self.faults = ClusterFaults(
            world,
            brokers=[node.process for node in self.brokers],
            others=[node.process for node in (*self.workers, *self.workload.clients, *self.contenders.processes)],
            on_damage=self._damaged,
            drains=[node.drain for node in self.workers],
        )
        self.contenders.on_settled.append(self.faults.settled)
        oracles.raft.on_leader.append(self._new_leader)

    def run(self) -> Report:
        """Runs the whole course, or until something is violated."""
        course = self.course
        with self.world, in_place(self._holders):
            self.faults.start(course.faults_ns)
            if self.world.seed % OPERATOR_ONE_IN:
                self.employ_operator()
            self.run_for(course.faults_ns + MILLISECOND)
            for _ in range(PROLONGED_MAX):
                if self.faults.missing and course.is_whole:
                    self.faults.prolong(PROLONGED_NS)
                    self.run_for(PROLONGED_NS + MILLISECOND)
            self.faults.maybe_blackout()
            self.run_for(course.calm_ns)
            self.run_until(lambda: len(self.workload.acknowledged) >= course.tasks_min, course.rest_ns_max)
            return self.settle()

    def employ_operator(self) -> OperatorProcess:
        """From now on somebody restarts and drains nodes."""
        self.operator = OperatorProcess(self.world, self.workload.plan)
        return self.operator

    def settle(self) -> Report:
        """No new work: all that was acknowledged comes to its end, and everything is judged."""
        course, judge = self.course, self.oracles.judge
        self.workload.is_over = self.contenders.is_over = True
        if self.operator is not None:
            self.operator.is_over = True
        self.run_until(lambda: self.is_at_rest, course.rest_ns_max)
        self.run_for(course.total_ns_min - self.world.now)
        # Results are forgotten meanwhile, by entries of their own: one of them may be under way.
        self.run_until(lambda: self.is_at_rest, course.rest_ns_max)
        if not self.oracles.violated:
            self.oracles.judge_end(self.workload.acknowledged, self.workload.refused, self.history)
            count = len(self.workload.acknowledged)
            judge.require(count >= course.tasks_min, "liveness", f"only {count} tasks were acknowledged")
        return self._report()

    def run_for(self, span: Nanos) -> None:
        """Lets time pass, unless something is violated."""
        end = self.world.now + span
        while self.world.now < end and not self.oracles.violated:
            self.world.run_for(min(CHUNK_NS, end - self.world.now))

    def run_until(self, condition: Callable[[], bool], limit: Nanos) -> None:
        """Lets time pass until `condition()`, at most `limit`."""
        end = self.world.now + limit
        while self.world.now < end and not condition() and not self.oracles.violated:
            self.world.run_for(CHUNK_NS)

    @property
    def is_at_rest(self) -> bool:
        if self.operator is not None and self.operator.is_busy:
            return False
        if self.contenders.are_busy:
            return False
        return not self.workload.waits and not self.oracles.unfinished(self.workload.acknowledged)

    def _count_snapshot(self) -> None:
        self.snapshots += 1

    def _damaged(self, name: str, snapshots: list[int]) -> None:
        """Bits of these snapshots have flipped, or, if there are none, one of the log."""
        self.oracles.raft.damaged.add(name)
        if not snapshots:
            self.oracles.raft.undetected.add(name)
        for index in snapshots:
            self.oracles.snapshots.flipped(name, index)

    def _new_leader(self, node: BrokerProcess, voters: list[int]) -> None:
        self.faults.leader_elected(node.process, [self.brokers[number - 1].process for number in sorted(voters)])

    @property
    def _asked_ends(self) -> dict[str, int]:
        """Nodes that an operator ended, and that came back or stayed out as he wanted."""
        return {ASKED_END: self.operator.turns} if self.operator is not None and self.operator.turns else {}

    def _report(self) -> Report:
        oracles = self.oracles
        return Report(
            seed=self.world.seed,
            violations=oracles.judge.violations,
            simulated_ns=self.world.now,
            operations=len(self.history.operations),
            acknowledged=len(self.workload.acknowledged),
            lost=oracles.lost,
            duplicated_records=oracles.state.duplicated_records,
            faults=self.faults.happened | self._asked_ends,
            elections=oracles.raft.elections,
            runs=oracles.state.runs,
            late_outcomes=oracles.state.late_outcomes,
            replays=oracles.state.replays,
            counts=oracles.keys.counts,
            grants=oracles.locks.granted,
            lapses=oracles.locks.lapsed,
            limited=oracles.limits.starts,
            full_limits=oracles.limits.full,
            turns=oracles.limits.turns,
            duplicates=oracles.dedup.duplicates,
            successors=oracles.dedup.successors,
            resizes=oracles.state.resizes,
            entries=len(oracles.raft.committed),
            snapshots=self.snapshots,
            restorations=oracles.state.restorations,
            moments=oracles.snapshots.moments,
            no_room=oracles.no_room,
            digest=self.world.digest,
        )


def _plant(
    lock: PlantedLock | None, limit: PlantedLimit | None, need: PlantedNeed | None, slot: PlantedSlot | None
) -> Plant:
    def plant(machine: Machine) -> None:
        if lock is not None:
            plant_lock(lock, machine)
        if limit is not None:
            plant_limit(limit, machine)
        if need is not None:
            plant_need(need, machine)
        if slot is not None:
            plant_slot(slot, machine)

    return plant


def run_seed(seed: int, course: Course | None = None) -> Report:
    """One seed from beginning to end."""
    return Scenario(seed, course).run()
