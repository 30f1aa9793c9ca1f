"""What schedules promise of their slots, judged by a calendar that somebody else has made.

The oracle hears what the reference decides about slots (its ledger says it). It knows the slots of the whole time from
`calendar_walk`, and nothing of how they are computed here:

- what is written as the next slot is the calendar's next one, behind what was decided before or behind the moment from
  which the schedule counts: when it came, or was resumed. So nothing is left out, whoever led meanwhile;
- of the slots that have come together each runs under `all`, the last one under `once`, and under `skip` the last one
  if it is late by no more than the grace;
- terms are those of the worker that registered last. Other times count from then on, and of the times before only the
  slot that is next is owed, if it has come;
- no slot is fired before it has come; in calm it is fired within seconds;
- nothing is fired in a pause, or while no live worker announces the schedule; of slots only those that come in a pause
  are skipped for it;
- a slot has one task, and a run that somebody asks for is one more task, whose id he is told;
- in the end each slot that was owed one has a task that has completed, or whose workers were lost each time.

What becomes of these tasks is judged by `calendar_runs`.
"""

from collections.abc import Sequence

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import World
from cluster.simulation.calendar_books import Announced, Answered, Armed, Book, Heard, Slotted
from cluster.simulation.calendar_runs import CalendarRuns
from cluster.simulation.calendar_walk import OTHERS, Kept, Slots, text_of, times_in
from cluster.simulation.state_oracle import StateOracle
from cluster.simulation.verdict import Judge
from cluster.state.commands import STEER_PAUSE, STEER_RESUME, STEER_RUN, Close, Command, ScheduleSpec, Steer
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.effects import ANSWER_BUSY, ANSWER_CROWDED, ANSWER_OK, STATE_COMPLETED, STATE_DEAD, Effects
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


class CalendarOracle:
    """Of one world, whose reference it listens to."""

    def __init__(
        self, world: World, judge: Judge, state: StateOracle, kept: Sequence[Kept], slots: dict[str, Slots],
        others: dict[str, Slots],
    ) -> None:  # fmt: skip
        self.world = world
        self.kept = {one.spec.name: one for one in kept}
        self.slots = dict(slots)        # by the times that counted until now, and those that count now
        self.changed = 0                # schedules that got other terms
        self.books = {name: Book(one.spec) for name, one in self.kept.items()}
        self.runs = CalendarRuns(world, judge, state, self.kept)
        self.disturbed: Nanos = 0       # when something was last broken or mended
        self.broken = 0                 # what is not mended yet
        self.fired = 0                  # slots that got a task
        self.missed = 0                 # that got none
        self.late_ms_max = 0            # in calm
        self._judge = judge
        self._state = state
        self._names: dict[int, str] = {}                # by the version of the terms
        self._heard: list[Heard] = []                   # in this entry
        self._obeyed: set[tuple[int, int]] = set()      # (session, seq) of every Steer that was judged
        self._announced: frozenset[str] = frozenset()   # by live workers, after the last entry
        self._registered: set[int] = set()              # sessions of workers
        self._calendars = {(name, one.times): slots[name] for name, one in self.kept.items()}
        self._calendars |= {(one.spec.name, one.times): others[one.spec.name] for one in OTHERS}
        state.on_entry.append(self._applied)
        _listen(state.reference, self)

    # -- what the reference decides -----------------------------------------------------------------------------------

    def armed(self, version: int, next_ms: int) -> None:
        self._heard.append(Armed(self._name_of(version), next_ms))

    def slotted(self, version: int, slot_ms: int, fate: int, task: int) -> None:
        self._heard.append(Slotted(self._name_of(version), slot_ms, fate, task))

    def answered(self, session: int, seq: int, code: int, value: int) -> None:
        self._heard.append(Answered(session, seq, code, value))

    def registered(self, session: int) -> None:
        """What a worker announces counts when its session is opened, not when it asks for it again."""
        (found,) = [each for each in self._state.reference.sessions_open() if each.id == session]
        if found.worker is not None and session not in self._registered:
            self._registered.add(session)
            self._heard.append(Announced(found.worker.schedules))

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
        heard, self._heard = self._heard, []
        commands = _commands(payload) if effects.ended or effects.answers else []
        self.runs.entry(effects, [command.session for command in commands if isinstance(command, Close)])
        before = self._announced
        if effects.ended or effects.answers or effects.registered:
            self._announced = _announced(reference)
        announced = before | self._announced
        paused = {name for name, book in self.books.items() if book.paused_ms is not None}
        self.follow(heard, [command for command in commands if isinstance(command, Steer)], announced)
        for name, book in self.books.items():
            is_paused = name in paused and book.paused_ms is not None
            self.runs.settle(name, is_held=is_paused or name not in announced)
        for name in effects.schedules:
            schedule = reference.schedules.by_name.get(name)
            if schedule is None or name not in self.books:
                continue
            book = self.books[name]
            if book.since_ms is None:
                book.since_ms = self.now_ms
            same = schedule.next_ms == book.next_ms
            self._require(same, name, f"next is {schedule.next_ms}, said was {book.next_ms}")

    def follow(self, heard: Sequence[Heard], steers: Sequence[Steer], announced: frozenset[str]) -> None:
        """All that was heard in an entry, in its order; `steers` are in it, too, and these schedules are announced."""
        wanted = {(steer.session, steer.seq): steer for steer in steers}
        done = [each for each in heard if isinstance(each, Answered) and each.code == ANSWER_OK]
        runs = [each for each in done if (each.session, each.seq) in wanted.keys() - self._obeyed]
        manual = {each.value for each in runs if wanted[each.session, each.seq].what == STEER_RUN}
        fired = ""                      # what is said of slots belongs to this
        for event in heard:
            if isinstance(event, Slotted):
                self._slotted(event, fired, announced, is_manual=event.task in manual)
                continue
            self._settle(fired)
            fired = ""
            if isinstance(event, Armed):
                fired = self._armed(event, announced)
            elif isinstance(event, Announced):
                for spec in event.schedules:
                    self._changed(spec)
            elif event in done and (steer := wanted.get((event.session, event.seq))) is not None:
                self._steered(steer, event.value)
            elif event.code in (ANSWER_BUSY, ANSWER_CROWDED):
                steer = wanted.get((event.session, event.seq))
                if steer is not None and steer.what == STEER_RUN and (event.session, event.seq) not in self._obeyed:
                    self._obeyed.add((event.session, event.seq))
                    self.runs.refused(steer.name, event.code)
        self._settle(fired)

    def _changed(self, spec: ScheduleSpec) -> None:
        """These are the terms of a schedule from now on, mostly as they were."""
        book = self.books[spec.name]
        before, book.spec = book.spec, spec
        self.changed += before != spec
        if times_in(before) == times_in(spec):
            return
        name, now_ms, is_owed = spec.name, self.now_ms, book.next_ms != UNKNOWN and book.next_ms <= self.now_ms
        calendar = self._calendars[name, times_in(spec)]
        self.slots[name] = self.slots[name].then(book.next_ms if is_owed else now_ms, calendar, now_ms)
        if is_owed:
            book.leave_out(book.next_ms, now_ms)
        else:
            book.next_ms, book.since_ms = UNKNOWN, now_ms

    def _armed(self, event: Armed, announced: frozenset[str]) -> str:
        """Returns the name if slots are decided."""
        name, next_ms = event
        book, slots = self.books[name], self.slots[name]
        if book.next_ms == UNKNOWN:
            since_ms = self.now_ms if book.since_ms is None else book.since_ms
            expected = slots.after(since_ms)
            while book.is_skipped(expected):
                expected = slots.after(expected)
            self._require(next_ms == expected, name, f"counts from {text_of(since_ms)}, so next is {text_of(expected)}")
            book.next_ms = next_ms
            return ""
        self._require(book.paused_ms is None, name, "is fired, and it is paused")
        self._require(name in announced, name, "is fired, and nobody announces it")
        come = slots.between(book.next_ms, next_ms)
        detail = f"{text_of(book.next_ms)} was decided, the next one is said to be"
        self._require(come and next_ms == slots.after(come[-1]), name, f"{detail} {text_of(next_ms)}")
        self._require(come and come[-1] <= self.now_ms, name, f"{detail} {text_of(next_ms)}: it had not come")
        book.open_from, book.next_ms = book.next_ms, next_ms
        return name

    def _slotted(self, event: Slotted, fired: str, announced: frozenset[str], *, is_manual: bool) -> None:
        name, slot_ms, fate, task = event
        book = self.books[name]
        if fate == SLOT_PAUSED:
            self._passed(name, book, slot_ms)
        elif is_manual:
            self._require(name in announced, name, f"run {task} was asked for, and nobody announces it")
            self._require(slot_ms == self.now_ms, name, f"run {task} was asked for, and is for {text_of(slot_ms)}")
            self._require(task not in book.manual, name, f"run {task} was asked for twice")
            book.manual.append(task)
            self.runs.decided(name, slot_ms, fate, task, is_manual=True)
        else:
            self._require(name == fired, name, f"something becomes of {text_of(slot_ms)} and it was not fired")
            book.came.append(event)
            if fate != SLOT_MISSED:
                self.runs.decided(name, slot_ms, fate, task, is_manual=False)

    def _passed(self, name: str, book: Book, slot_ms: int) -> None:
        """A slot that came in a pause is skipped at its end."""
        since_ms = book.paused_ms
        is_right = since_ms is not None and since_ms < slot_ms <= self.now_ms and slot_ms in self.slots[name]
        self._require(is_right, name, f"{text_of(slot_ms)} is skipped for a pause since {since_ms}")
        self._require(slot_ms == book.next_ms, name, f"{text_of(slot_ms)} is skipped before {text_of(book.next_ms)}")
        book.next_ms, book.since_ms = UNKNOWN, self.now_ms

    def _steered(self, steer: Steer, value: int) -> None:
        """What an operator wanted was done; a command that is said again is answered again."""
        name = steer.name
        if (steer.session, steer.seq) in self._obeyed:
            return
        self._obeyed.add((steer.session, steer.seq))
        book = self.books[name]
        if steer.what == STEER_PAUSE and book.paused_ms is None:
            book.paused_ms = self.now_ms
        elif steer.what == STEER_RESUME and book.paused_ms is not None:
            book.resume(self.now_ms)
        elif steer.what == STEER_RUN:
            self._require(value in book.manual, name, f"a run was asked for, and told was {value}")

    def _settle(self, name: str) -> None:
        """What was decided about the slots of a schedule that was fired is judged."""
        if name:
            book = self.books[name]
            came, book.came = book.came, []
            come = self.slots[name].between(book.open_from, book.next_ms)
            self._judge_fired(name, book, [slot_ms for slot_ms in come if not book.is_skipped(slot_ms)], came)

    def _judge_fired(self, name: str, book: Book, come: Sequence[int], came: list[Slotted]) -> None:
        """`come` are the slots that were due by the calendar."""
        if not come:
            return                      # that was said
        policy, late_ms = book.spec.misfire, self.now_ms - come[-1]
        runs = [slot.slot_ms for slot in came if slot.fate != SLOT_MISSED]
        all_run, last_runs = runs == list(come), runs == [come[-1]]
        if policy == "all":
            is_right = all_run if len(come) <= MISFIRES_MAX else last_runs
        elif policy == "once":
            is_right = last_runs
        else:
            is_right = (last_runs and late_ms <= GRACE_MS + PROPOSED_MS_MAX) or (not runs and late_ms > GRACE_MS)
        detail = f"of {[text_of(slot) for slot in come]}, late by {late_ms} ms, these run: {list(map(text_of, runs))}"
        self._require(is_right, name, detail)
        self._judge_lateness(name, late_ms if len(come) == 1 else self.now_ms - come[0])
        for _, slot_ms, fate, task in came:
            if not task:
                self.missed += 1
                owed = policy == "all" and fate != SLOT_MISSED
                self._require(not owed, name, f"{text_of(slot_ms)} was skipped ({fate})")
                continue
            self.fired += 1
            self._require(fate in (SLOT_RUNS, SLOT_WAITS), name, f"{text_of(slot_ms)} has task {task} and fate {fate}")
            known = book.tasks.setdefault(slot_ms, task)
            self._require(known == task, name, f"{text_of(slot_ms)} is task {known} and task {task}")

    def _judge_lateness(self, name: str, late_ms: int) -> None:
        if self.broken or self.world.now - self.disturbed < CALM + late_ms * MILLISECOND:
            return
        self.late_ms_max = max(self.late_ms_max, late_ms)
        self._require(late_ms <= LATE_MS_MAX, name, f"was fired {late_ms} ms late, and nothing was broken")

    # -- what an operator sees ----------------------------------------------------------------------------------------

    def asked(self, name: str) -> None:
        """Somebody wants a run now."""
        self.books[name].asked += 1

    def told(self, name: str, task: int) -> None:
        """... and was told that this is it."""
        self._require(task in self.books[name].manual, name, f"{task} was told to be a run, and nobody knows of it")

    def paused(self, name: str) -> None:
        """Somebody was told that it is paused, and nobody else resumes it."""
        self._require(self.books[name].paused_ms is not None, name, "was told to be paused, and is not")

    # -- in the end ---------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """Everything is mended and had its time."""
        schedules = self._state.reference.schedules
        self._judge.require(not schedules.by_task, "liveness", f"{len(schedules.by_task)} runs have not ended")
        self.runs.judge_end()
        for name, book in self.books.items():
            expected = self.slots[name].after(self.now_ms - LATE_MS_MAX)
            self._require(book.next_ms >= expected, name, f"next is {text_of(book.next_ms)}, and {self.now_ms} is over")
            self._require(len(book.manual) <= book.asked, name, f"{book.manual} for {book.asked} that were asked for")
            if not self.kept[name].runs_all:
                continue
            for slot_ms, task in book.tasks.items():
                record = self._state.terminal.get(task)
                has_run = record is not None and record.state in (STATE_COMPLETED, STATE_DEAD)
                self._require(has_run, name, f"the run for {text_of(slot_ms)} ended as {record}")

    def _require(self, condition: object, name: str, detail: str) -> None:
        if not condition:
            self._judge.violated("schedules", f"{name}: {detail}, at {text_of(self.now_ms)}")


def _commands(payload: bytes) -> list[Command]:
    groups = (decode_entry(payload) or []) if payload else []
    return [each for kind, _, encoded in groups if kind in KINDS for each in decode_commands(kind, encoded)[0]]


def _announced(reference: Machine) -> frozenset[str]:
    """By live workers that do not drain."""
    workers = [session.worker for session in reference.sessions_open() if session.worker and not session.draining]
    return frozenset(spec.name for worker in workers for spec in worker.schedules)


def _listen(reference: Machine, oracle: CalendarOracle) -> None:
    """From now on the oracle hears of slots when the reference decides about them, and what clients are told."""

    class HeardLedger(Ledger):
        __slots__ = ()

        def armed(self, version: int, next_ms: int) -> None:
            super().armed(version, next_ms)
            oracle.armed(version, next_ms)

        def slotted(self, version: int, slot_ms: int, fate: int, task: int) -> None:
            super().slotted(version, slot_ms, fate, task)
            oracle.slotted(version, slot_ms, fate, task)

        def registered(self, name: str, incarnation: int, code: int, session: int, next_seq: int) -> None:
            super().registered(name, incarnation, code, session, next_seq)
            if code == ANSWER_OK:
                oracle.registered(session)

        def answer(self, session: int, seq: int, code: int, value: int) -> None:
            super().answer(session, seq, code, value)
            oracle.answered(session, seq, code, value)

    reference._tables.ledger.__class__ = HeardLedger
