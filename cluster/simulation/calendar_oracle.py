"""What schedules promise, judged by a calendar that somebody else has made.

The oracle hears what the reference decides about slots (its ledger says it), and which runs children begin. It knows
the slots of the whole time from `calendar_walk`, and nothing of how they are computed here:

- what is written as the next slot is the calendar's next one, behind what was decided before or behind the moment from
  which the schedule counts: when it came, or was resumed. So nothing is left out, whoever led meanwhile;
- of the slots that have come together each runs under `all`, the last one under `once`, and under `skip` the last one
  if it is late by no more than the grace;
- no slot is fired before it has come; in calm it is fired within seconds;
- a slot has one task, and no task is for a slot that is not in the calendar, but for those that somebody asked for;
- an exclusive schedule has one run that has begun, and what is owed a run is not skipped as busy;
- in the end each slot that was owed one has a task that has completed, or whose workers were lost each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import World
from cluster.simulation.calendar_walk import Kept, Slots, text_of
from cluster.simulation.state_oracle import StateOracle
from cluster.simulation.verdict import Judge
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD, Effects
from cluster.state.ledger import Ledger
from cluster.state.machine import Machine
from cluster.state.schedule_rows import SLOT_MISSED, SLOT_PAUSED, SLOT_RUNS, SLOT_WAITS
from cluster.state.schedules import UNKNOWN

# What the guide says.
GRACE_MS = 60_000
MISFIRES_MAX = 100

PROPOSED_MS_MAX = 30_000        # from the decision of a leader until it is applied, by others at the latest
LATE_MS_MAX = 3_000             # of a slot in calm
CALM: Nanos = 60 * SECOND       # after the last disturbance


@dataclass(slots=True)
class Book:
    """Of one schedule. All slots before `next_ms` are decided; it is UNKNOWN while they count from `since_ms`."""

    next_ms: int = UNKNOWN
    since_ms: int | None = None         # None: nobody has announced it
    paused_ms: int | None = None        # None: it is not paused
    gap: tuple[int, int] = (0, 0)       # the last pause before which a slot was owed: what came in it is not
    open_from: int = 0                  # the first slot of what is fired in this entry
    came: list[tuple[int, int, int]] = field(default_factory=list)      # in this entry: slot, fate, task
    tasks: dict[int, int] = field(default_factory=dict)                 # slot -> its task
    owed: list[int] = field(default_factory=list)                       # slots that run
    is_whole: bool = True               # nothing has come of more slots at once than are run one by one


class CalendarOracle:
    """Of one world, whose reference it listens to."""

    def __init__(self, world: World, judge: Judge, state: StateOracle, kept: Sequence[Kept], slots: dict[str, Slots]):
        self.world = world
        self.kept = {one.spec.name: one for one in kept}
        self.slots = slots
        self.books = {name: Book() for name in self.kept}
        self.disturbed: Nanos = 0       # when something was last broken or mended
        self.broken = 0                 # what is not mended yet
        self.fired = 0                  # slots that got a task
        self.missed = 0                 # that got none
        self.late_ms_max = 0            # in calm
        self._judge = judge
        self._state = state
        self._names: dict[int, str] = {}                # by the version of the terms
        self._manual: set[int] = set()                  # tasks that somebody asked for
        self._slot_of: dict[int, tuple[str, int]] = {}  # task -> schedule and slot
        state.on_entry.append(self._applied)
        _listen(state.reference, self)

    # -- what the reference decides -----------------------------------------------------------------------------------

    def armed(self, version: int, next_ms: int) -> None:
        """The next slot of a schedule is written: for the first time, or since slots are decided."""
        name = self._name_of(version)
        book, slots = self.books[name], self.slots[name]
        if book.next_ms == UNKNOWN:
            since_ms = self.now_ms if book.since_ms is None else book.since_ms
            expected = slots.after(since_ms)
            if book.gap[0] < expected <= book.gap[1]:
                expected = slots.after(book.gap[1])
            self._require(next_ms == expected, name, f"counts from {text_of(since_ms)}, so next is {text_of(expected)}")
        else:
            self._settle(name)          # it was fired before in this entry
            book.open_from = book.next_ms
            come = slots.between(book.next_ms, next_ms)
            detail = f"{text_of(book.next_ms)} was decided, the next one is said to be"
            self._require(come and next_ms == slots.after(come[-1]), name, f"{detail} {text_of(next_ms)}")
            self._require(come and come[-1] <= self.now_ms, name, f"{detail} {text_of(next_ms)}: it had not come")
        book.next_ms = next_ms

    def slotted(self, version: int, slot_ms: int, fate: int, task: int) -> None:
        """Something has become of a slot."""
        name = self._name_of(version)
        book = self.books[name]
        if fate == SLOT_PAUSED:
            self._require(slot_ms == book.next_ms, name, f"{text_of(slot_ms)} passed in a pause")
            book.next_ms, book.since_ms = UNKNOWN, self.now_ms
        else:
            book.came.append((slot_ms, fate, task))

    @property
    def now_ms(self) -> int:
        return self._state.reference.now_ms

    def _name_of(self, version: int) -> str:
        if version not in self._names:
            for name, schedule in self._state.reference.schedules.by_name.items():
                self._names[schedule.version] = name
        return self._names[version]

    def _applied(self, payload: bytes, effects: Effects, reference: Machine) -> None:
        """An entry has been applied."""
        for name in effects.schedules:
            schedule = reference.schedules.by_name.get(name)
            if schedule is None or name not in self.books:
                continue
            book = self.books[name]
            if book.since_ms is None:
                book.since_ms = self.now_ms
            self._hear_of_pauses(book, is_paused=schedule.is_paused)
            self._manual.update(slot.task for slot in schedule.history if slot.is_manual)
            self._settle(name)
            same = schedule.next_ms == book.next_ms
            self._require(same, name, f"next is {schedule.next_ms}, said was {book.next_ms}")
            is_alone = not schedule.spec.exclusive or len(schedule.begun) <= 1
            self._require(is_alone, name, f"has {len(schedule.begun)} runs at once")

    def _hear_of_pauses(self, book: Book, *, is_paused: bool) -> None:
        if is_paused and book.paused_ms is None:
            book.paused_ms = self.now_ms
        elif not is_paused and book.paused_ms is not None:
            paused_ms, book.paused_ms = book.paused_ms, None
            owed_ms = book.next_ms if book.next_ms != UNKNOWN else (book.since_ms or 0) + 1
            if owed_ms <= paused_ms:
                before = min(paused_ms, book.gap[0]) if owed_ms <= book.gap[0] else paused_ms
                book.gap = (before, self.now_ms)

    def _settle(self, name: str) -> None:
        """What was decided about its slots is judged."""
        book, first = self.books[name], self.books[name].open_from
        came, book.came = [each for each in book.came if each[2] not in self._manual], []
        if first:
            book.open_from = 0
            come = [slot for slot in self.slots[name].between(first, book.next_ms) if not self._is_left_out(book, slot)]
            self._judge_fired(name, book, come, came)
        else:
            self._require(not came, name, f"something becomes of {came} and it was not fired")

    def _is_left_out(self, book: Book, slot_ms: int) -> bool:
        return book.gap[0] < slot_ms <= book.gap[1]

    def _judge_fired(self, name: str, book: Book, come: Sequence[int], came: list[tuple[int, int, int]]) -> None:
        """`come` are the slots that were due by the calendar."""
        if not come:
            return                      # that was said
        policy, late_ms = self.kept[name].spec.misfire, self.now_ms - come[-1]
        runs = [slot_ms for slot_ms, fate, _ in came if fate != SLOT_MISSED]
        all_run, last_runs = runs == list(come), runs == [come[-1]]
        if policy == "all":
            is_right = all_run if len(come) <= MISFIRES_MAX else last_runs
            book.is_whole = book.is_whole and all_run
        elif policy == "once":
            is_right = last_runs
        else:
            is_right = (last_runs and late_ms <= GRACE_MS + PROPOSED_MS_MAX) or (not runs and late_ms > GRACE_MS)
        detail = f"of {[text_of(slot) for slot in come]}, late by {late_ms} ms, these run: {list(map(text_of, runs))}"
        self._require(is_right, name, detail)
        self._judge_lateness(name, late_ms if len(come) == 1 else self.now_ms - come[0])
        for slot_ms, fate, task in came:
            if not task:
                self.missed += 1
                owed = policy == "all" and fate != SLOT_MISSED
                self._require(not owed, name, f"{text_of(slot_ms)} was skipped ({fate})")
                continue
            self.fired += 1
            self._require(fate in (SLOT_RUNS, SLOT_WAITS), name, f"{text_of(slot_ms)} has task {task} and fate {fate}")
            known = book.tasks.setdefault(slot_ms, task)
            self._require(known == task, name, f"{text_of(slot_ms)} is task {known} and task {task}")
            self._slot_of[task] = (name, slot_ms)
            book.owed.append(slot_ms)

    def _judge_lateness(self, name: str, late_ms: int) -> None:
        if self.broken or self.world.now - self.disturbed < CALM + late_ms * MILLISECOND:
            return
        self.late_ms_max = max(self.late_ms_max, late_ms)
        self._require(late_ms <= LATE_MS_MAX, name, f"was fired {late_ms} ms late, and nothing was broken")

    # -- what children do ---------------------------------------------------------------------------------------------

    def ran(self, name: str, slot_ms: int, task: int) -> None:
        """A child begins an attempt at a run."""
        if task in self._manual:
            return
        known = self.books[name].tasks.get(slot_ms)
        self._require(known == task, name, f"task {task} runs for {text_of(slot_ms)}, which is task {known}")
        self._require(slot_ms in self.slots[name], name, f"a run for {text_of(slot_ms)}, which is none of its slots")

    # -- in the end ---------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """Everything is mended and had its time."""
        schedules = self._state.reference.schedules
        self._judge.require(not schedules.by_task, "liveness", f"{len(schedules.by_task)} runs have not ended")
        for name, book in self.books.items():
            expected = self.slots[name].after(self.now_ms - LATE_MS_MAX)
            self._require(book.next_ms >= expected, name, f"next is {text_of(book.next_ms)}, and {self.now_ms} is over")
            if not self.kept[name].runs_all:
                continue
            for slot_ms in book.owed:
                record = self._state.terminal.get(book.tasks[slot_ms])
                has_run = record is not None and record.state in (STATE_COMPLETED, STATE_DEAD)
                self._require(has_run, name, f"the run for {text_of(slot_ms)} ended as {record}")

    def _require(self, condition: object, name: str, detail: str) -> None:
        if not condition:
            self._judge.violated("schedules", f"{name}: {detail}, at {text_of(self.now_ms)}")


def _listen(reference: Machine, oracle: CalendarOracle) -> None:
    """From now on the oracle hears of slots when the reference decides about them."""

    class HeardLedger(Ledger):
        __slots__ = ()

        def armed(self, version: int, next_ms: int) -> None:
            super().armed(version, next_ms)
            oracle.armed(version, next_ms)

        def slotted(self, version: int, slot_ms: int, fate: int, task: int) -> None:
            super().slotted(version, slot_ms, fate, task)
            oracle.slotted(version, slot_ms, fate, task)

    reference._tables.ledger.__class__ = HeardLedger
