"""The leader's part of schedules by itself: when it looks, what it proposes, and what it leaves alone."""

from collections.abc import Callable

import msgspec
import pytest

from cluster.broker import scheduler as module
from cluster.broker.link import Links
from cluster.broker.scheduler import LOOKS_PER_TURN, Scheduler
from cluster.broker.status import cluster_status
from cluster.client.schedules import info_of
from cluster.state.commands import (
    MACHINE_VERSION,
    ROLE_CLIENT,
    ROLE_WORKER,
    STEER_PAUSE,
    STEER_RESUME,
    Arm,
    Command,
    Fire,
    Register,
    ScheduleSpec,
    Stamp,
    Steer,
    WorkerSpec,
)
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.wire import ScheduleShown, ShowSchedule

EPOCH_MS = 1_767_225_600_000        # the first minute of 2026
MINUTE_MS = 60_000


def spec(name: str, expression: str = "* * * * *", zone: str = "UTC", **terms: object) -> ScheduleSpec:
    plain = ScheduleSpec(name, "f", expression, zone, 0, 0, "once", "skip", False, b"\x92\x90\x80")
    return msgspec.structs.replace(plain, **terms)


class Leader:
    """A scheduler over a machine. What it proposes is in `proposed` until it is `applied`."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.now_ms = EPOCH_MS + 1
        self.index = 0
        self.operators = 0
        self.leads = False
        self.proposed: list[Command] = []
        self.said: list[tuple[str, dict[str, object]]] = []
        self.is_closed = False
        self.turns: list[Callable[[], None]] = []
        self.due: int | None = None
        self.scheduler = Scheduler(
            self.machine,
            self,  # type: ignore[arg-type]
            lambda: self.now_ms,
            self.proposed.append,
            lambda: self.is_closed,
            self._wake_at,
            self.turns.append,
        )

    def event(self, name: str, /, **fields: object) -> None:
        self.said.append((name, fields))

    def _wake_at(self, date_ms: int) -> None:
        self.due = date_ms

    def lead(self, leads: bool) -> None:
        """What was proposed and not applied is lost with a leader."""
        self.leads = leads
        self.proposed.clear()
        self.scheduler.restart(leading=leads)

    def apply(self, *commands: Command) -> None:
        groups = [[command.__struct_config__.tag, MACHINE_VERSION, [command]] for command in commands]
        payload = msgspec.msgpack.encode([[0, MACHINE_VERSION, [Stamp(self.now_ms, 1)]], *groups])
        self.index += 1
        effects = Effects()
        self.machine.apply(self.index, 1, payload, effects)
        if self.leads:
            self.scheduler.carry_out(effects)

    def applied(self) -> list[Command]:
        """All that was proposed becomes one entry."""
        commands = list(self.proposed)
        self.proposed.clear()
        self.apply(*commands)
        return commands

    def settle(self) -> None:
        """Until nothing is proposed and no turn is to come."""
        while self.proposed or self.turns:
            self.take_turn()
            if self.proposed:
                self.applied()

    def take_turn(self) -> None:
        turns = list(self.turns)
        self.turns.clear()
        for callback in turns:
            callback()

    def pass_time(self, ms: int) -> None:
        """With the timer and a turn for each time that it rings, but without applying anything."""
        end = self.now_ms + ms
        while self.due is not None and self.due <= end:
            self.now_ms, self.due = max(self.now_ms, self.due), None
            self.scheduler.wake()
            self.take_turn()
        self.now_ms = end

    def pause(self, name: str) -> None:
        self._steer(name, STEER_PAUSE)

    def resume(self, name: str) -> None:
        self._steer(name, STEER_RESUME)

    def _steer(self, name: str, what: int) -> None:
        """By an operator, of whom nothing is left then."""
        self.operators += 1
        self.apply(Register(f"operator {self.operators}", 1, ROLE_CLIENT, None))
        session = self.machine._tables.sessions.last_id
        self.apply(Steer(session, 1, 1, name, what))

    def announce(self, *specs: ScheduleSpec, worker: str = "w1", incarnation: int = 1) -> None:
        offer = WorkerSpec(4, ("default",), ("f",), 1, schedules=specs)
        self.apply(Register(worker, incarnation, ROLE_WORKER, offer))


@pytest.fixture
def leader() -> Leader:
    made = Leader()
    made.lead(True)
    return made


def names(commands: list[Command]) -> list[str]:
    assert all(isinstance(command, Arm | Fire) for command in commands)
    return [command.name for command in commands]  # type: ignore[attr-defined]


def test_one_timer_stands_at_the_earliest_slot(leader):
    leader.announce(spec("hourly", "0 * * * *"), spec("often"), spec("yearly", "0 0 1 1 *"))
    leader.settle()
    assert leader.due == EPOCH_MS + MINUTE_MS
    leader.pass_time(MINUTE_MS - 2)
    assert leader.proposed == []
    leader.pass_time(1)
    assert names(leader.proposed) == ["often"]
    leader.settle()
    assert leader.due == EPOCH_MS + 2 * MINUTE_MS


def test_a_timer_that_comes_before_its_stamp_is_set_again(leader):
    leader.announce(spec("often"))
    leader.settle()
    leader.now_ms, leader.due = EPOCH_MS + MINUTE_MS - 10, None
    leader.scheduler.wake()
    assert leader.proposed == [] and leader.due == EPOCH_MS + MINUTE_MS


def test_a_slot_that_comes_before_anybody_wrote_it_down_is_not_lost():
    """Announced a second before its slot, and the leader is lost before it has said a word about it."""
    leader = Leader()
    leader.now_ms = EPOCH_MS + MINUTE_MS - 1_000
    leader.announce(spec("often"), spec("later", "0 0 1 1 *"))
    leader.now_ms += 30 * 1_000
    leader.lead(True)
    leader.settle()
    assert [slot.slot_ms for slot in leader.machine.schedules.by_name["often"].history] == [EPOCH_MS + MINUTE_MS]
    assert not leader.machine.schedules.by_name["later"].history


@pytest.mark.parametrize("times", ["* * * * *", "*/1 * * * *"])
def test_nor_is_one_that_comes_between_the_end_of_a_pause_and_the_next_leader(leader, times):
    """Whatever was announced in that pause."""
    leader.announce(spec("often"))
    leader.settle()
    leader.pause("often")
    leader.pass_time(10 * MINUTE_MS - 5_000)
    if times != "* * * * *":
        leader.announce(spec("often", times), incarnation=2)
        leader.pass_time(MINUTE_MS)
    resumed_ms = leader.now_ms
    leader.lead(False)
    leader.resume("often")
    leader.now_ms += 20 * 1_000
    leader.lead(True)
    leader.settle()
    history = leader.machine.schedules.by_name["often"].history
    assert [slot.slot_ms for slot in history if slot.task] == [(resumed_ms // MINUTE_MS + 1) * MINUTE_MS]


@pytest.mark.parametrize(
    ("misfire", "minutes"), [("all", [1, 2, 3, 9, 10]), ("once", [3, 10]), ("skip", [10])], ids=["all", "once", "skip"]
)
@pytest.mark.parametrize("is_written", [True, False])
def test_what_came_before_a_pause_misfires_and_what_came_in_it_does_not(leader, misfire, minutes, is_written):
    if not is_written:
        leader.lead(False)
    leader.announce(spec("often", misfire=misfire))
    leader.settle()
    leader.lead(False)
    leader.now_ms += 3 * MINUTE_MS
    leader.pause("often")
    leader.now_ms += 5 * MINUTE_MS
    leader.resume("often")
    leader.now_ms += 2 * MINUTE_MS
    leader.lead(True)
    leader.settle()
    history = leader.machine.schedules.by_name["often"].history
    assert [(slot.slot_ms - EPOCH_MS) // MINUTE_MS for slot in history if slot.task] == minutes
    assert leader.machine.schedules.by_name["often"].next_ms == EPOCH_MS + 11 * MINUTE_MS


@pytest.mark.parametrize(("misfire", "minutes"), [("all", [5, 9, 12]), ("once", [5, 12]), ("skip", [12])])
def test_a_slot_that_came_before_other_times_did_is_fired_and_no_slot_of_those_before_they_came(
    leader, misfire, minutes
):
    leader.announce(spec("often", "*/5 * * * *", misfire=misfire))
    leader.settle()
    leader.lead(False)
    leader.now_ms += 8 * MINUTE_MS
    leader.announce(spec("often", "*/3 * * * *", misfire=misfire), incarnation=2)
    leader.now_ms += 4 * MINUTE_MS
    leader.lead(True)
    leader.settle()
    history = leader.machine.schedules.by_name["often"].history
    assert [(slot.slot_ms - EPOCH_MS) // MINUTE_MS for slot in history if slot.task] == minutes


def test_many_that_are_due_at_once_take_several_turns(leader):
    for half in (range(50), range(50, 100)):
        leader.announce(*[spec(f"s{number:03}") for number in half], worker=f"w{half.start}")
        assert leader.proposed == [] and len(leader.turns) == 1, "however many entries there are in a turn"
    for turns in (1, 2):
        leader.take_turn()
        assert len(leader.proposed) == turns * LOOKS_PER_TURN and len(leader.turns) == 1
    leader.settle()
    leader.pass_time(MINUTE_MS)
    assert len(leader.proposed) == LOOKS_PER_TURN
    leader.settle()
    assert all(len(one.history) == 1 for one in leader.machine.schedules.by_name.values())


def test_what_is_proposed_is_not_proposed_again_until_a_while_has_passed(leader):
    leader.announce(spec("often"))
    leader.settle()
    leader.pass_time(MINUTE_MS)
    first = list(leader.proposed)
    leader.announce(spec("other", "0 0 1 1 *"), worker="w2")
    leader.pass_time(1_000)
    assert [command for command in leader.proposed if isinstance(command, Fire)] == first
    leader.pass_time(module.PROPOSED_RETRY_MS)
    fires = [command for command in leader.proposed if isinstance(command, Fire)]
    assert len(fires) == 2, "the first may have been refused"
    leader.settle()
    assert len(leader.machine.schedules.by_name["often"].history) == 1


def test_nothing_fires_while_the_log_is_closed_and_then_what_was_late(leader):
    leader.announce(spec("often"))
    leader.settle()
    leader.is_closed = True
    leader.pass_time(5 * MINUTE_MS)
    assert leader.proposed == []
    leader.is_closed = False
    leader.pass_time(module.CLOSED_RETRY_MS)
    (fire,) = leader.applied()
    assert isinstance(fire, Fire) and fire.slots == [EPOCH_MS + 5 * MINUTE_MS]


def test_who_does_not_lead_any_more_does_nothing(leader):
    leader.announce(*[spec(f"s{number:03}") for number in range(40)])
    leader.proposed.clear()
    leader.scheduler.restart(leading=False)
    leader.take_turn()
    leader.pass_time(10 * MINUTE_MS)
    assert leader.proposed == []


def test_a_new_leader_looks_at_everything(leader):
    leader.announce(spec("often"), spec("parked", options=None), spec("yearly", "0 0 1 1 *"))
    leader.settle()
    leader.proposed.clear()
    leader.now_ms += 10 * MINUTE_MS
    leader.scheduler.restart(leading=True)
    leader.take_turn()
    assert names(leader.proposed) == ["often", "parked"]


def test_what_cannot_be_computed_is_said_once_and_tried_again_much_later(leader, monkeypatch):
    asked: list[str] = []

    def cron(expression: str, zone: str) -> object:
        asked.append(zone)
        return known(expression, zone)

    known = module.parsing.cron
    monkeypatch.setattr(module.parsing, "cron", cron)
    leader.announce(*[spec(f"s{number}", zone="Mars/Olympus") for number in range(10)], spec("well"))
    leader.settle()
    assert [name for name, _ in leader.said] == ["schedule_failed"] * 10
    assert asked == ["Mars/Olympus", "UTC"], "the nearest names are looked for once"
    leader.pass_time(module.FAILED_RETRY_MS)
    assert asked[2:] == ["Mars/Olympus"] and len(leader.said) == 10


def test_a_leader_that_cannot_compute_what_another_one_wrote_down_knows_it_before_the_slot_comes(leader, monkeypatch):
    """A zone that is installed on some machines only, say."""
    known = module.parsing.cron
    leader.announce(spec("daily", "0 0 * * *"), spec("paused"))
    leader.pause("paused")
    leader.settle()
    monkeypatch.setattr(module.parsing, "cron", lambda expression, zone: known(expression, "Mars/Olympus"))
    leader.lead(False)
    assert set(leader.scheduler.uncomputed) == set()
    leader.scheduler._calendar = module.Calendar()
    leader.lead(True)
    leader.settle()
    assert [name for name, _ in leader.said] == ["schedule_failed"] * 2 and leader.proposed == []
    assert set(leader.scheduler.uncomputed) == {"daily", "paused"}
    assert alarms(leader) == 2

    monkeypatch.setattr(module.parsing, "cron", known)
    leader.pass_time(module.FAILED_RETRY_MS)
    assert set(leader.scheduler.uncomputed) == set() and alarms(leader) == 0
    leader.pass_time(24 * 60 * MINUTE_MS - module.FAILED_RETRY_MS)
    assert names(leader.proposed) == ["daily"]


def test_a_schedule_that_cannot_be_computed_is_one_alarm_whatever_else_there_is_to_say_of_it(leader):
    leader.announce(spec("wrong", zone="Mars/Olympus"))
    leader.announce(spec("wrong", zone="Mars/Olympus", task="g"), worker="w2")
    leader.settle()
    assert set(leader.scheduler.uncomputed) == {"wrong"} and alarms(leader) == 1
    for worker in ("w1", "w2"):
        leader.announce(spec("wrong"), worker=worker, incarnation=2)
        leader.settle()
    assert set(leader.scheduler.uncomputed) == set() and alarms(leader) == 0


def alarms(leader: Leader) -> object:
    """As `status` counts them."""
    status = cluster_status(leader.machine, Links(leader.machine), leader.scheduler.uncomputed)
    schedules = status["schedules"]
    assert isinstance(schedules, dict)
    return schedules["alarms"]


def test_whatever_breaks_in_one_schedule_breaks_no_other(leader, monkeypatch):
    def next_after(self: object, instant_ms: int) -> int:
        raise ZeroDivisionError("a bug of the calendar")

    monkeypatch.setattr(module.EveryTimes, "next_after", next_after)
    leader.announce(spec("broken", "", period_ms=1_000), spec("well"))
    leader.settle()
    assert leader.said == [
        ("schedule_failed", {"schedule": "broken", "reason": "ZeroDivisionError: a bug of the calendar"})
    ]
    assert leader.machine.schedules.by_name["well"].next_ms == EPOCH_MS + MINUTE_MS


def test_a_schedule_that_the_cluster_has_no_room_for_is_said(leader, monkeypatch):
    monkeypatch.setattr("cluster.state.schedules.SCHEDULES_MAX", 1)
    leader.announce(spec("first"), spec("second"))
    leader.take_turn()
    assert [(name, fields["schedule"]) for name, fields in leader.said] == [("schedule_refused", "second")]


def test_that_live_workers_announce_different_terms_is_shown(leader):
    leader.announce(spec("often"))
    leader.announce(spec("often", "*/2 * * * *"), worker="w2")
    assert alarm_of(leader) == (
        "1 live worker announces different terms; those of the worker that registered last count"
    )
    leader.announce(spec("often", "*/2 * * * *", task="g"), worker="w3")
    assert alarm_of(leader).startswith("2 live workers announce different terms, one of them task f; ")
    for worker in ("w1", "w2"):
        leader.announce(spec("often", "*/2 * * * *", task="g"), worker=worker, incarnation=2)
    assert alarm_of(leader) == ""


def alarm_of(leader: Leader) -> str:
    shown = leader.scheduler.inspect(ShowSchedule(1, "often", stale=False))
    assert isinstance(shown, ScheduleShown) and shown.found is not None
    return info_of(shown.found).alarm


def test_an_alarm_is_said_once_until_it_is_over(leader):
    leader.announce(spec("often", misfire="all"))
    leader.settle()
    for _ in range(2):
        leader.scheduler.restart(leading=False)
        leader.now_ms += 200 * MINUTE_MS
        leader.scheduler.restart(leading=True)
        leader.settle()
        leader.pass_time(3 * MINUTE_MS)
        leader.settle()
    assert [name for name, _ in leader.said] == ["schedule_alarm"] * 2, "of each leader"
    assert leader.said[0][1]["schedule"] == "often" and "100 slots were missed" in str(leader.said[0][1]["reason"])


def test_dates_that_changed_do_not_pile_up(leader):
    leader.announce(spec("often"))
    leader.settle()
    for number in range(500):
        leader.announce(spec("often", f"{number % 60} * * * *"), incarnation=number + 2)
        leader.settle()
    assert len(leader.scheduler._looks) <= LOOKS_PER_TURN + 3
