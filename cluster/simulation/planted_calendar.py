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
from cluster.state.commands import NEVER, Arm, Fire
from cluster.state.machine import Machine
from cluster.state.schedules import UNKNOWN, Schedule


class PlantedCalendar(Enum):
    """What is wrong with schedules."""

    FORGOTTEN_AT_FAILOVER = "a new leader goes on with the next slot, whatever has come before it led"
    FIRED_TWICE = "a new leader counts from its own clock, and the state takes its word for the next slot"


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


LEADERS: dict[PlantedCalendar, type[Broker]] = {
    PlantedCalendar.FORGOTTEN_AT_FAILOVER: ForgetfulBroker,
    PlantedCalendar.FIRED_TWICE: HopefulBroker,
}
ARM = 16        # the kind of that command


def leaders_of(planted: PlantedCalendar | None) -> StandIns:
    return {} if planted is None else {(broker_process, "Broker"): LEADERS[planted]}


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
