"""Schedules at the broker: which slot is next, and which are to run now that it has come.

It decides nothing. It computes by the expressions and by the zones of this machine, writes what it found into the log
(Arm, Fire), and forgets it: what counts is what the state makes of that (`cluster.state.schedules`). So it may propose
too often, or twice in two terms, and a slot is decided once all the same. Like the locks' part it is no actor of its
own, since all that it looks at is the Broker's.

There is one timer, at the earliest slot of all. A look at a schedule says what there is to do about it and when to look
again: at its slot; a while after it was proposed, for a proposal may be refused; a while after it could not be
computed, for a zone may be installed meanwhile. While the log is closed nothing fires: the slots are late then, and
judged as such.

Whatever goes wrong in computing one schedule is that schedule's: it is said in the log and shown with it. A leader that
ended for it would take the next one with it, and the one after that.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TypeVar, cast

from actors import Log
from cluster.errors import ScheduleError
from cluster.schedules import parsing
from cluster.schedules.misfire import MISFIRES_MAX, Policy, due
from cluster.schedules.times import EveryTimes, Times, slots_after
from cluster.state.commands import FIRE_SLOTS_MAX, NEVER, Arm, Fire, ScheduleSpec
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.state.schedule_rows import ALARM_CROWDED, ALARM_MISSED, ALARM_NONE, ScheduleView, Slot
from cluster.state.schedules import SCHEDULES_MAX, UNKNOWN, Schedule, times_of, why_parked
from cluster.wire import ListSchedules, ScheduleRows, ScheduleShown, ShowSchedule

LOOKS_PER_TURN = 4              # each takes up to some milliseconds, after a long stop
PROPOSED_RETRY_MS = 5_000       # a proposal of which nothing was applied is made again
CLOSED_RETRY_MS = 1_000         # the log takes nothing that can wait
FAILED_RETRY_MS = 600_000       # a schedule that cannot be computed here
UPCOMING_SLOTS = 5              # that are shown
UPCOMING_MS_MAX = 10 * 366 * 24 * 60 * 60 * 1_000      # how far ahead: what lies years apart takes long to find

ALARM_REASONS = {
    ALARM_MISSED: f"more than {MISFIRES_MAX} slots were missed; one was run for all of them",
    ALARM_CROWDED: "slots are skipped, since too many runs have not ended",
}
assert MISFIRES_MAX <= FIRE_SLOTS_MAX, "what misfire lets run fits a command"

Proposal = Arm | Fire
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class NotComputed:
    """Something cannot be computed here, for this reason."""

    reason: str


class Scheduler:
    """Of one broker; it does something while that leads. `stamp_ms` is its time of day, `propose` writes a command into
    the log, `is_closed` says that nothing is to be written that can wait; at the date that `wake_at` was told last,
    `wake` is called; `next_turn` calls back in the next turn of the loop."""

    def __init__(
        self,
        machine: Machine,
        log: Log,
        stamp_ms: Callable[[], int],
        propose: Callable[[Proposal], None],
        is_closed: Callable[[], bool],
        wake_at: Callable[[int], None],
        next_turn: Callable[[Callable[[], None]], None],
    ) -> None:
        self._machine = machine
        self._log = log
        self._stamp_ms = stamp_ms
        self._propose = propose
        self._is_closed = is_closed
        self._wake_at = wake_at
        self._next_turn = next_turn
        self._leading = False
        self._stirred: dict[str, None] = {}                 # schedules to be looked at
        self._is_called = False                             # `_look_on` is, in the next turn
        self._looks: list[tuple[int, str]] = []             # heap of dates; those that differ from `_look_at` are void
        self._look_at: dict[str, int] = {}
        self._proposed: dict[str, tuple[int, int, int]] = {}        # version and slot it was for, when to do it again
        self._failed: dict[str, int] = {}                   # version that cannot be computed here, as was said
        self._alarms: dict[str, int] = {}                   # that were said
        self._calendar = Calendar()
        self._upcoming: dict[str, tuple[int, int, list[int]]] = {}  # version and slot it was for, slots

    def restart(self, *, leading: bool) -> None:
        """Another term. Who leads looks at everything."""
        self._leading = leading
        for kept in (self._stirred, self._looks, self._look_at, self._proposed, self._failed, self._alarms):
            kept.clear()
        if leading:
            self._stirred = dict.fromkeys(self._machine.schedules.by_name)
            self._look_soon()

    @property
    def uncomputed(self) -> Collection[str]:
        """Names of schedules that this leader cannot compute."""
        return self._failed.keys()

    def carry_out(self, effects: Effects) -> None:
        if effects.schedules:
            for name in effects.schedules:
                self._proposed.pop(name, None)
            self._stirred |= effects.schedules
            self._look_soon()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        """In the next turn, whoever wants it: entries may follow each other faster than turns."""
        if self._stirred and not self._is_called:
            self._is_called = True
            self._next_turn(self._look_on)

    def _look_on(self) -> None:
        """At some of those that are to be looked at; the others have to wait a turn."""
        self._is_called = False
        if not self._leading:
            return
        for _ in range(min(LOOKS_PER_TURN, len(self._stirred))):
            name = next(iter(self._stirred))
            del self._stirred[name]
            self._look(name)
        self._look_soon()
        self._set_timer()

    def _look(self, name: str) -> None:
        """What is there to do about one of them?"""
        schedules, now_ms = self._machine.schedules, self._stamp_ms()
        schedule = schedules.by_name.get(name)
        if schedule is None:
            self._forget(name)
            if schedules.is_full and not schedules.is_parked(name):
                self._log.event("schedule_refused", schedule=name, allowed=SCHEDULES_MAX)
            return
        self._say_alarm(schedule)
        is_due = schedule.next_ms <= now_ms and schedules.may_fire(schedule)
        if schedule.next_ms == NEVER:
            self._failed.pop(name, None)
            self._look_at.pop(name, None)
        elif not is_due:
            self._await(schedule, now_ms)
        elif self._is_closed():
            self._look_later(name, now_ms + CLOSED_RETRY_MS)
        else:
            self._act(schedule, now_ms)

    def _await(self, schedule: Schedule, now_ms: int) -> None:
        """There is nothing to do before its slot, or before it may fire; but that this leader cannot compute it is to
        be known before: who led until now may have had a zone that this machine lacks."""
        name, may_fire = schedule.spec.name, self._machine.schedules.may_fire(schedule)
        found = self._calendar.ask(schedule.spec, now_ms, lambda times: times)
        if isinstance(found, NotComputed):
            self._fail(schedule, found, now_ms)
            if may_fire and schedule.next_ms < self._look_at[name]:
                self._look_later(name, schedule.next_ms)
            return
        self._failed.pop(name, None)
        if may_fire:
            self._look_later(name, schedule.next_ms)
        else:
            self._look_at.pop(name, None)

    def _fail(self, schedule: Schedule, found: "NotComputed", now_ms: int) -> None:
        """It is said once, and tried again much later."""
        name = schedule.spec.name
        if self._failed.get(name) != schedule.version:
            self._failed[name] = schedule.version
            self._log.event("schedule_failed", schedule=name, reason=found.reason)
        self._look_later(name, now_ms + FAILED_RETRY_MS)

    def _say_alarm(self, schedule: Schedule) -> None:
        """Once, until it is over or another one."""
        name = schedule.spec.name
        if self._alarms.get(name, ALARM_NONE) != schedule.alarm:
            self._alarms[name] = schedule.alarm
            if reason := ALARM_REASONS.get(schedule.alarm):
                self._log.event("schedule_alarm", schedule=name, reason=reason)

    def _act(self, schedule: Schedule, now_ms: int) -> None:
        """Its slot has come, or it has none yet."""
        name, subject = schedule.spec.name, (schedule.version, schedule.next_ms)
        *before, again_ms = self._proposed.get(name, (0, 0, 0))
        if tuple(before) == subject and now_ms < again_ms:
            self._look_later(name, again_ms)
            return
        command = self._calendar.ask(schedule.spec, now_ms, lambda times: _proposal(schedule, times, now_ms))
        if isinstance(command, NotComputed):
            self._fail(schedule, command, now_ms)
            return
        self._failed.pop(name, None)
        self._proposed[name] = (*subject, now_ms + PROPOSED_RETRY_MS)
        self._look_later(name, now_ms + PROPOSED_RETRY_MS)
        self._propose(command)

    def _forget(self, name: str) -> None:
        for kept in (self._look_at, self._proposed, self._failed, self._alarms, self._upcoming):
            kept.pop(name, None)

    def _look_later(self, name: str, at_ms: int) -> None:
        if self._look_at.get(name) == at_ms:
            return
        self._look_at[name] = at_ms
        heappush(self._looks, (at_ms, name))
        if len(self._looks) > 2 * len(self._look_at) + LOOKS_PER_TURN:
            self._looks = [(at_ms, name) for name, at_ms in self._look_at.items()]
            heapify(self._looks)

    def _set_timer(self) -> None:
        """At the earliest date."""
        while self._looks and self._look_at.get(self._looks[0][1]) != self._looks[0][0]:
            heappop(self._looks)
        if self._looks:
            self._wake_at(self._looks[0][0])

    def wake(self) -> None:
        """The date may have come."""
        if not self._leading:
            return
        now_ms = self._stamp_ms()
        while self._looks and self._looks[0][0] <= now_ms:
            at_ms, name = heappop(self._looks)
            if self._look_at.get(name) == at_ms:
                del self._look_at[name]
                self._stirred[name] = None
        self._look_soon()
        self._set_timer()

    # -- questions ----------------------------------------------------------------------------------------------------

    def inspect(self, question: ListSchedules | ShowSchedule) -> ScheduleRows | ScheduleShown:
        """Some of them, or one with its whole history."""
        schedules = self._machine.schedules
        if isinstance(question, ShowSchedule):
            schedule = schedules.by_name.get(question.name)
            shown = None if schedule is None else self._view(schedule, list(schedule.history))
            return ScheduleShown(question.request, shown)
        found, more = schedules.page(question.after, question.limit, question.prefix)
        rows = [self._view(schedule, list(schedule.history)[-1:]) for schedule in found]
        return ScheduleRows(question.request, rows, more)

    def _view(self, schedule: Schedule, history: list[Slot]) -> ScheduleView:
        spec = schedule.spec
        is_parked = self._machine.schedules.is_parked(spec.name)
        upcoming = self._upcoming_of(schedule)
        # Of runs that may overlap none holds up another.
        first = next(iter(schedule.begun), 0) if spec.exclusive else 0
        run = self._machine.details(first) if first else None
        is_stuck = run is not None and run.row.is_parked and not is_parked
        return ScheduleView(
            spec,
            schedule.next_ms,
            [] if isinstance(upcoming, NotComputed) else upcoming,
            schedule.is_paused,
            why_parked(spec) if is_parked else "",
            schedule.alarm,
            schedule.alarm_ms,
            upcoming.reason if isinstance(upcoming, NotComputed) else "",
            len(schedule.begun),
            len(schedule.waiting),
            history,
            *((first, run.row.name, run.row.why_parked) if run is not None and is_stuck else (0, "", "")),
            *self._machine.schedules.disputes(spec.name),
        )

    def _upcoming_of(self, schedule: Schedule) -> list[int] | NotComputed:
        """The next slots, also of one that does not fire; or why they are not known."""
        first = schedule.next_ms
        if first == NEVER:
            return []
        name, version = schedule.spec.name, schedule.version
        now_ms = self._stamp_ms() if self._leading else self._machine.now_ms
        known = self._upcoming.get(name)
        if known is not None and known[:2] == (version, first) and first > now_ms:
            return known[2]
        found = self._calendar.ask(schedule.spec, now_ms, lambda times: _slots_from(times, first, now_ms))
        if not isinstance(found, NotComputed):
            if len(self._upcoming) >= SCHEDULES_MAX:
                self._upcoming.clear()
            self._upcoming[name] = (version, first, found)
        return found


class Calendar:
    """Times of schedules, each read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int, int], Times] = {}
        self._no_zones: dict[str, tuple[str, int]] = {}     # what was said of those, and when to ask again

    def ask(self, spec: ScheduleSpec, now_ms: int, question: Callable[[Times], Answer]) -> Answer | NotComputed:
        """The answer, or why there is none."""
        reason, again_ms = self._no_zones.get(spec.zone, ("", 0))
        if now_ms < again_ms:
            return NotComputed(reason)
        try:
            return question(self._times(spec))
        except ScheduleError as error:
            if error.place == "tz":     # to find the zone that is nearly named so takes long, and many may name it
                self._no_zones[spec.zone] = (str(error), now_ms + FAILED_RETRY_MS)
            return NotComputed(str(error))
        except Exception as error:      # of the parser, the calendar, the zones: whatever it is, others do not suffer
            return NotComputed(f"{type(error).__name__}: {error}")

    def _times(self, spec: ScheduleSpec) -> Times:
        if not spec.expression:
            return EveryTimes(spec.period_ms, spec.anchor_ms)
        key = times_of(spec)
        times = self._known.get(key)
        if times is None:
            if len(self._known) >= SCHEDULES_MAX:
                self._known.clear()
                self._no_zones.clear()
            times = self._known[key] = parsing.cron(spec.expression, spec.zone)
        return times


def _proposal(schedule: Schedule, times: Times, now_ms: int) -> Proposal:
    spec = schedule.spec
    if schedule.next_ms == UNKNOWN:
        # Not from now on: who should have written it down may have been lost a slot ago.
        next_ms = times.next_after(schedule.passed_ms)
        if next_ms is not None and schedule.owed_ms < next_ms <= schedule.since_ms:
            next_ms = times.next_after(schedule.since_ms)
        return Arm(spec.name, schedule.version, next_ms or NEVER)
    gap = (schedule.owed_ms, schedule.since_ms) if schedule.since_ms else None
    found = due(times, schedule.next_ms, now_ms, cast("Policy", spec.misfire), gap)
    after_ms = found.next_slot or NEVER
    return Fire(spec.name, schedule.version, schedule.next_ms, list(found.run), after_ms, found.is_alarm)


def _slots_from(times: Times, first_ms: int, now_ms: int) -> list[int]:
    """The slot that is written, if it is yet to come, and those behind it."""
    after_ms = max(first_ms, now_ms)
    slots = [first_ms] if first_ms > now_ms else []
    for slot_ms in islice(slots_after(times, after_ms), UPCOMING_SLOTS - len(slots)):
        slots.append(slot_ms)
        if slot_ms > after_ms + UPCOMING_MS_MAX:
            break
    return slots
