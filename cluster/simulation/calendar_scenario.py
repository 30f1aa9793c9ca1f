"""A year of schedules: three brokers, two workers, and a dozen schedules in four zones.

Quiet time is passed over (`leaps`). Around slots, above all in the nights in which clocks change, something breaks
(`calendar_faults`), and a calendar of somebody else's says what should have run (`calendar_oracle`). All other oracles
look on as they do in `scenario`.
"""

from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import msgspec

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import ChildPort, History, NetworkLimits, World, WorldLimits, portable_traceback
from cluster.compaction.policy import CompactionLimits
from cluster.peer.config import BrokerConfig
from cluster.simulation.calendar_faults import CalendarFaults, Program
from cluster.simulation.calendar_oracle import CalendarOracle
from cluster.simulation.calendar_runs import CalendarRuns
from cluster.simulation.calendar_walk import DAY_MS, MINUTE_MS, OPTIONS, SCHEDULES, changes, walk, walk_others
from cluster.simulation.compactors import register_compactor
from cluster.simulation.launched import BrokerProcess, StandIns, WorkerProcess, in_place
from cluster.simulation.leaps import Leaps
from cluster.simulation.nodes import BROKERS, DIRECTORY, LIMITS, WORKERS
from cluster.simulation.oracles import Oracles
from cluster.simulation.planted_calendar import PlantedCalendar, leaders_of, machine_of, states_of
from cluster.simulation.state_oracle import StateOracle
from cluster.simulation.verdict import Violation
from cluster.state.commands import ScheduleSpec
from cluster.task import Task
from cluster.topology import BrokerNode, Topology, WorkerNode
from cluster.worker.child_messages import Ready, Setup, encode
from cluster.worker.config import WorkerConfig
from cluster.worker.executor import Executor
from cluster.worker.slot_child import EXECUTOR_ENTRY

YEAR_START_MS = 1_767_225_600_000       # 2026-01-01, as the wall clocks of a world begin
YEAR_DAYS = 365
AFTER_MS = 20 * DAY_MS                  # that the walk goes on: the last slots of the time have others behind them
NEAR_MS = 3 * 60 * MINUTE_MS            # of a change of clocks
LEAD_MS_MAX = 8_000                     # an incident begins so long before its slot, or ...
LAG_MS_MAX = 2_000                      # ... so long behind it
STEP: Nanos = 200 * MILLISECOND
FRESH: Nanos = 1_500 * MILLISECOND
LEADERLESS_MAX: Nanos = 300 * SECOND    # with everything that is broken mended meanwhile
REST_MAX: Nanos = 6 * 3_600 * SECOND
SLOTS = 2                               # of each worker
FASTER = 21                             # the stamp runs at most by a twentieth faster than clocks

COMPACTION = CompactionLimits(log_bytes_min=1024 * 1024)
NETWORK = NetworkLimits(byte_ns=0)
# Something sets them right all the year; what they do meanwhile no broker sees while it sleeps (`leaps`).
CLOCKS = WorldLimits(drift_ppm_max=2)


@dataclass(frozen=True, slots=True)
class Span:
    """What part of the year is lived through, in dates, and how many incidents there are beside those in the nights in
    which clocks change, of which each slot has one of `near_one_in`; with `kinds` none but these."""

    start_ms: int = YEAR_START_MS
    days: int = YEAR_DAYS
    incidents: int = 80
    near_one_in: int = 2
    kinds: tuple[str, ...] = ()


@dataclass(slots=True)
class YearReport:
    """What became of one year."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    simulated_ns: Nanos = 0
    fired: int = 0                  # slots that became a task
    missed: int = 0                 # and that did not, as their schedules say
    late_ms_max: int = 0            # of slots while nothing was broken
    faults: dict[str, int] = field(default_factory=dict)
    elections: int = 0
    changed: int = 0                # schedules that got other terms
    runs: int = 0                   # attempts
    overlaps: int = 0               # of attempts that may not know of their end with the next ones
    entries: int = 0
    digest: int = 0


class Year:
    """One seed; tests of the oracle plant a bug in it."""

    def __init__(self, seed: int, span: Span | None = None, planted: PlantedCalendar | None = None) -> None:
        self.span = span = span or Span()
        self.world = world = World(seed, limits=CLOCKS, network=NETWORK)
        self._states = states_of(planted)
        with in_place(self._states):
            self.oracles = oracles = Oracles(world)
        oracles.judge.course = "--seeds 0 --years 1"
        end_ms = span.start_ms + span.days * DAY_MS
        self.slots = walk(span.start_ms, end_ms + AFTER_MS)
        others = walk_others(span.start_ms, end_ms + AFTER_MS)
        self.calendar = CalendarOracle(world, oracles.judge, oracles.state, SCHEDULES, self.slots, others)
        self.program = Program()
        plan = _plan()
        world.register_entry(EXECUTOR_ENTRY, self._executor)
        register_compactor(world, lambda: None)
        make = machine_of(planted, oracles.state)

        def stand_ins(name: str) -> StandIns:
            return {**oracles.stand_ins(name), **make(name), **leaders_of(planted)}

        brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
        for name in BROKERS:
            world.machine(name).jump_wall_clock(span.start_ms - YEAR_START_MS)
        self.brokers = [
            BrokerProcess(
                world,
                BrokerConfig(plan.name, name, brokers, DIRECTORY, "inline", LIMITS, COMPACTION),
                oracles.ended,
                stand_ins,
            )
            for name in BROKERS
        ]
        oracles.brokers = {node.name: node for node in self.brokers}
        for node in self.brokers:
            oracles.snapshots.watch(node)
        dialled = tuple((node.name, node.address) for node in plan.brokers)
        self.workers = [
            WorkerProcess(world, WorkerConfig(plan.name, name, dialled, (name,), SLOTS), oracles.ended)
            for name in WORKERS
        ]
        self.leaps = Leaps(world, self.brokers, self.workers, ())
        self.faults = CalendarFaults(world, plan, self.brokers, self.workers, self.calendar, self.program, span.kinds)

    def run(self) -> YearReport:
        """Lives through all of it, or until something is violated."""
        with self.world, in_place(self._states):
            for at_ms, name in self._incidents():
                self._until(at_ms)
                if self.oracles.violated:
                    break
                self.faults.strike(name)
            self._until(self.span.start_ms + self.span.days * DAY_MS)
            self._rest()
            return self._report()

    # -- what is to happen ----------------------------------------------------------------------------------------

    def _incidents(self) -> list[tuple[int, str]]:
        """Dates, and the schedules whose slots are near, ascending."""
        span, random = self.span, self.world.stream("incidents")
        end_ms = span.start_ms + span.days * DAY_MS
        all_slots = sorted((slot, name) for name, slots in self.slots.items() for slot in slots.between(0, end_ms))
        nights = changes(span.start_ms, end_ms)
        near = [each for each in all_slots if any(abs(each[0] - night) <= NEAR_MS for night in nights)]
        chosen = [each for each in near if random.randrange(span.near_one_in) == 0]
        chosen += random.sample(all_slots, min(span.incidents, len(all_slots)))
        return sorted((slot_ms + _offset(random), name) for slot_ms, name in dict.fromkeys(chosen))

    # -- time -----------------------------------------------------------------------------------------------------

    def _until(self, date_ms: int) -> None:
        """Lets time pass until the cluster's time of day is that."""
        world, silent = self.world, 0
        while not self.oracles.violated:
            node = self.faults.leader()
            if node is None:
                world.run_for(STEP)
                silent += STEP
                if silent > LEADERLESS_MAX:
                    self.oracles.judge.violated("liveness", "nobody leads")
                continue
            silent = 0
            assert node.broker is not None
            left = (date_ms - node.broker.raft.stamp_ms()) * MILLISECOND
            if left <= 0 and not self.faults.is_busy:
                return
            self._pass(left - left // FASTER)

    def _pass(self, span: Nanos) -> None:
        """Lets that much time pass, or less."""
        if self.faults.is_busy or span < SECOND or self._is_fresh():
            self.world.run_for(STEP)
        else:
            self.leaps.run(self._is_stopped, self.world.now + span)

    def _is_stopped(self) -> bool:
        """Looked at after every event."""
        return bool(self.oracles.judge.violations or self.world.failures) or self._is_fresh()

    def _is_fresh(self) -> bool:
        """Whether something was broken or mended just now: a leader looks twice a second at what clocks show."""
        return self.world.now - self.calendar.disturbed < FRESH

    def _rest(self) -> None:
        """Everything is mended, what runs ends, all brokers agree, and all is judged."""
        oracles, world = self.oracles, self.world
        self.faults.finish()
        end = world.now + REST_MAX
        while world.now < end and not oracles.violated:
            node = self.faults.leader()
            is_idle = not self.faults.is_busy and not self.calendar.runs.unfinished
            if node is not None and is_idle and not oracles.unfinished({}):
                break
            self._pass(5 * SECOND)
        if not oracles.violated:
            self.calendar.judge_end()
            oracles.judge_end({}, [], History(lambda: world.now))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _executor(self, port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        (name,) = msgspec.msgpack.decode(argument, type=Setup).modules
        (incarnation,) = [node.process.incarnation for node in self.workers if node.name == name]
        return _live(port, self.program.of(name, incarnation), self.oracles.state, self.calendar.runs)

    def _report(self) -> YearReport:
        oracles = self.oracles
        return YearReport(
            seed=self.world.seed,
            violations=oracles.judge.violations,
            simulated_ns=self.world.now,
            fired=self.calendar.fired,
            missed=self.calendar.missed,
            late_ms_max=self.calendar.late_ms_max,
            faults=dict(sorted(self.faults.counts.items())),
            elections=oracles.raft.elections,
            changed=self.calendar.changed,
            runs=oracles.state.runs,
            overlaps=self.calendar.runs.overlaps,
            entries=len(oracles.raft.committed),
            digest=self.world.digest,
        )


def _offset(random: Random) -> int:
    return random.randint(-LEAD_MS_MAX, LAG_MS_MAX)


def _plan() -> Topology:
    return Topology(
        name="year",
        data=DIRECTORY,
        insecure=True,
        brokers=tuple(BrokerNode(name, f"{name}:7100", f"{name}:8100") for name in BROKERS),
        workers=tuple(WorkerNode(name, name, SLOTS, ("default",), ("simulated",), 0, ()) for name in WORKERS),
    )


# -- children ---------------------------------------------------------------------------------------------------------


def _nothing() -> None: ...


TASKS: dict[str, Task[..., Any]] = {kept.spec.task: Task(_nothing, kept.spec.task, OPTIONS) for kept in SCHEDULES}
WORK = {kept.spec.task: kept.work for kept in SCHEDULES}
NAMES = {kept.spec.task: kept.spec.name for kept in SCHEDULES}


async def _live(
    port: ChildPort, schedules: tuple[ScheduleSpec, ...], state: StateOracle, runs: CalendarRuns
) -> None:
    """Of a worker whose program has these schedules."""
    port.at_death(partial(runs.died, port))
    executor = Executor(port, TASKS, describe=portable_traceback)
    port.send(encode(Ready(tuple(sorted(TASKS)), (), False, schedules)))
    while True:
        while executor.claim():
            running = executor.running
            assert running is not None
            state.ran(running.task, running.attempt)
            runs.began(port, NAMES[running.name], running.slot_ms, running.task, running.attempt)
            await port.work(WORK[running.name])
            runs.finished(port)
            executor.run()
        frame = port.poll()
        if frame is None:
            executor.flush()
            frame = await port.receive()
            if frame is None:
                return
        executor.receive(frame)
