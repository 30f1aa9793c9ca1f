"""Bugs that tests plant in schedules: in what leaders compute, and in what the state makes of it."""

from collections.abc import Callable
from enum import Enum
from functools import partial

from actors import handles
from cluster.broker import process as broker_process
from cluster.broker.actor import Broker
from cluster.broker.scheduler import NotComputed, Scheduler
from cluster.peer import actor as peer_actor
from cluster.peer.messages import Leading
from cluster.simulation.launched import StandIns
from cluster.simulation.state_oracle import StateOracle, WatchedMachine
from cluster.state import firing
from cluster.state import tables as state_tables
from cluster.state.commands import BUSY_SKIP, GRACE_NONE, NEVER, Arm, Fire, ScheduleSpec
from cluster.state.effects import ANSWER_BUSY, ANSWER_OK
from cluster.state.lifecycle import cancel
from cluster.state.machine import Machine
from cluster.state.schedule_rows import SLOT_BUSY
from cluster.state.schedules import UNKNOWN, Schedule, Schedules, times_of
from cluster.state.tables import Tables


class PlantedCalendar(Enum):
    """What is wrong with schedules."""

    FORGOTTEN_AT_FAILOVER = "a new leader goes on with the next slot, whatever has come before it led"
    FIRED_TWICE = "a new leader counts from its own clock, and the state takes its word for the next slot"
    RUNS_FORGOTTEN = "a run that has begun is not counted among those that have not ended"
    RUNS_CANCELLED = "runs are cancelled as they are made, but for those of schedules that are owed all"
    ALWAYS_BUSY = "each slot of an exclusive schedule is skipped as busy, if its terms allow that at all"
    NOT_REPLACED = "what runs goes on, whatever is to take its place"
    ALL_WAIT = "what waits goes on waiting beside a newer one"
    LAST_FIRST = "of the runs that wait the last one begins"
    PAUSE_IGNORED = "what is paused fires"
    PARKING_IGNORED = "what nobody announces fires"
    OLD_TIMES_KEPT = "a schedule with other times keeps the next slot of those that it had"
    OWED_FORGOTTEN = "what has come of a schedule is forgotten when it gets other times"
    RUN_TWICE = "who asks for a run gets two"
    RUN_REFUSED = "who asks for a run is told that another one has not ended"


class ForgetfulScheduler(Scheduler):
    """What came while nobody led is gone."""

    def _act(self, schedule: Schedule, now_ms: int) -> None:
        if schedule.next_ms == UNKNOWN or schedule.next_ms > self._led_from_ms:
            super()._act(schedule, now_ms)
            return
        name, version, next_ms = schedule.spec.name, schedule.version, schedule.next_ms
        after = self._calendar.ask(schedule.spec, now_ms, lambda times: times.next_after(now_ms))
        if not isinstance(after, NotComputed):
            self._propose(Fire(name, version, next_ms, [], after or NEVER))

    def restart(self, *, leading: bool) -> None:
        self._led_from_ms = self._stamp_ms() if leading else 0
        super().restart(leading=leading)


class ForgetfulBroker(Broker):
    def started(self) -> None:
        super().started()
        self._schedules.__class__ = ForgetfulScheduler


class HopefulBroker(Broker):
    """When it begins to lead it writes down what its own clock makes of each schedule."""

    @handles
    def on_leading(self, message: Leading) -> None:
        super().on_leading(message)
        wall_ms = self.context.clock.wall_ms()
        for name, schedule in self.machine.schedules.by_name.items():
            after = self._schedules._calendar.ask(schedule.spec, wall_ms, lambda times: times.next_after(wall_ms))
            if schedule.next_ms != UNKNOWN and not isinstance(after, NotComputed):
                self._proposals.propose(Arm(name, schedule.version, after or NEVER), 0)


def _trusting_arm(machine: Machine, command: Arm) -> None:
    schedule = machine.schedules.by_name.get(command.name)
    if schedule is not None and schedule.version == command.version and schedule.next_ms != command.next_ms:
        schedule.next_ms = command.next_ms
        schedule.passed_ms = min(schedule.passed_ms, command.next_ms - 1)
        machine._tables.ledger.armed(schedule.version, schedule.next_ms)
        machine._tables.ledger.schedule_changed(command.name)


# -- in what the state makes of slots ---------------------------------------------------------------------------------

_run, _make_way, _go_on, _run_now = firing._run, firing._make_way, firing._go_on, firing._run_now


def _forget_run(tables: Tables, schedule: Schedule, slot_ms: int, *, is_manual: bool = False) -> int:
    task = _run(tables, schedule, slot_ms, is_manual=is_manual)
    if task in schedule.begun:
        del schedule.begun[task], tables.schedules.by_task[task]
    return task


def _cancel_run(tables: Tables, schedule: Schedule, slot_ms: int, *, is_manual: bool = False) -> int:
    number = _run(tables, schedule, slot_ms, is_manual=is_manual)
    task = tables.tasks.get(number)
    if task is not None and not task.is_terminal and schedule.spec.misfire != "all":
        cancel(tables, task, GRACE_NONE)
    return number


def _skip_run(tables: Tables, schedule: Schedule, slot_ms: int, *, is_manual: bool = False) -> int:
    if is_manual or not schedule.spec.exclusive or schedule.spec.on_busy != BUSY_SKIP:
        return _run(tables, schedule, slot_ms, is_manual=is_manual)
    firing._note(tables, schedule, slot_ms, SLOT_BUSY)
    return 0


def _end_waiting_only(tables: Tables, schedule: Schedule) -> None:
    begun, schedule.begun = schedule.begun, {}
    _make_way(tables, schedule)
    schedule.begun = begun


def _end_none(tables: Tables, schedule: Schedule) -> None: ...


def _begin_with_last(tables: Tables, schedule: Schedule) -> None:
    schedule.waiting = dict.fromkeys(reversed(schedule.waiting))
    _go_on(tables, schedule)
    schedule.waiting = dict.fromkeys(reversed(schedule.waiting))


def _run_twice(tables: Tables, schedule: Schedule) -> tuple[int, int]:
    answer = _run_now(tables, schedule)
    if answer[0] == ANSWER_OK:
        _run_now(tables, schedule)
    return answer


def _run_none(tables: Tables, schedule: Schedule) -> tuple[int, int]:
    return ANSWER_BUSY, 1


class RestlessSchedules(Schedules):
    """Pauses are not looked at."""

    __slots__ = ()

    def may_fire(self, schedule: Schedule) -> bool:
        return not self.is_parked(schedule.spec.name)


class LonelySchedules(Schedules):
    """Nor is whether anybody could run it."""

    __slots__ = ()

    def may_fire(self, schedule: Schedule) -> bool:
        return not schedule.is_paused


class StubbornSchedules(Schedules):
    """Whatever a schedule's times become, what was next is next."""

    __slots__ = ()

    def _replace(self, schedule: Schedule, spec: ScheduleSpec, now_ms: int) -> None:
        kept = schedule.next_ms, schedule.passed_ms, schedule.owed_ms, schedule.since_ms
        super()._replace(schedule, spec, now_ms)
        schedule.next_ms, schedule.passed_ms, schedule.owed_ms, schedule.since_ms = kept


class FreshSchedules(Schedules):
    """Other times count from now on, and nothing else does."""

    __slots__ = ()

    def _replace(self, schedule: Schedule, spec: ScheduleSpec, now_ms: int) -> None:
        has_others = times_of(spec) != times_of(schedule.spec)
        super()._replace(schedule, spec, now_ms)
        if has_others:
            schedule.count_from(now_ms)


# -- where they go ----------------------------------------------------------------------------------------------------

LEADERS: dict[PlantedCalendar, type[Broker]] = {
    PlantedCalendar.FORGOTTEN_AT_FAILOVER: ForgetfulBroker,
    PlantedCalendar.FIRED_TWICE: HopefulBroker,
}
STATES: dict[PlantedCalendar, StandIns] = {
    PlantedCalendar.RUNS_FORGOTTEN: {(firing, "_run"): _forget_run},
    PlantedCalendar.RUNS_CANCELLED: {(firing, "_run"): _cancel_run},
    PlantedCalendar.ALWAYS_BUSY: {(firing, "_run"): _skip_run},
    PlantedCalendar.NOT_REPLACED: {(firing, "_make_way"): _end_waiting_only},
    PlantedCalendar.ALL_WAIT: {(firing, "_make_way"): _end_none},
    PlantedCalendar.LAST_FIRST: {(firing, "_go_on"): _begin_with_last},
    PlantedCalendar.PAUSE_IGNORED: {(state_tables, "Schedules"): RestlessSchedules},
    PlantedCalendar.PARKING_IGNORED: {(state_tables, "Schedules"): LonelySchedules},
    PlantedCalendar.OLD_TIMES_KEPT: {(state_tables, "Schedules"): StubbornSchedules},
    PlantedCalendar.OWED_FORGOTTEN: {(state_tables, "Schedules"): FreshSchedules},
    PlantedCalendar.RUN_TWICE: {(firing, "_run_now"): _run_twice},
    PlantedCalendar.RUN_REFUSED: {(firing, "_run_now"): _run_none},
}
ARM = 16        # the kind of that command


def leaders_of(planted: PlantedCalendar | None) -> StandIns:
    """For a broker that is about to start."""
    return {(broker_process, "Broker"): LEADERS[planted]} if planted in LEADERS else {}


def states_of(planted: PlantedCalendar | None) -> StandIns:
    """While the world is made and runs: for all machines, that of the oracle as well."""
    return STATES.get(planted, {}) if planted is not None else {}


def machine_of(planted: PlantedCalendar | None, oracle: StateOracle) -> Callable[[str], StandIns]:
    """What takes the place of each broker's machine; the reference has the same bug."""
    if planted is not PlantedCalendar.FIRED_TWICE:
        return lambda name: {}

    def make(name: str) -> Machine:
        return _with_trust(WatchedMachine(oracle, name))

    _with_trust(oracle.reference)
    return lambda name: {(peer_actor, "Machine"): partial(make, name)}


def _with_trust(machine: Machine) -> Machine:
    machine._handlers[ARM] = partial(_trusting_arm, machine)
    return machine
