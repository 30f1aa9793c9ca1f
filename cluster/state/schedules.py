"""Schedules: what is to fire when, and the runs that have not ended.

Problem: a schedule must fire by the clock, once for each slot, whatever becomes of leaders; but when it fires depends
on the rules of time zones, which differ between machines, and the state may only depend on the log.

Idea: slots are numbers here. A leader computes the next one and writes it down (Arm); when the stamp has reached it, it
decides which slots run and which one is next, and writes that down (Fire). Both are compare-and-set: they name the
*version* of the terms and the next slot that the leader saw, and count only if that is still so. So a slot is decided
once, however many leaders thought that it was theirs to decide.

A schedule comes with a worker that announces it, and stays when that goes. The last announcement counts; its version
is the next number of a counter and never used again, also by another schedule of that name. While no live worker
announces it and serves its task's queue with its labels, it is *parked*: nothing fires, and the slots that pass are
judged as misfires when a worker comes back. A worker that drains does not count. What is parked follows from the
sessions.

A run is a task like any other, submitted under a session of the state's own. It is kept track of here until it has
ended (`firing`), since an *exclusive* schedule has one unfinished run at a time. Others wait for it as tasks that are
delayed without a date: so they have an id from the beginning, can be cancelled, and expire.
"""

from collections import deque
from dataclasses import dataclass, field
from heapq import nsmallest

from msgspec.structs import replace

from cluster.state.commands import NEVER, QUEUE_DEFAULT, TASK_NUMBER_BITS, ScheduleSpec, WorkerSpec
from cluster.state.ledger import Ledger
from cluster.state.schedule_rows import ALARM_NONE, HISTORY_SLOTS, SLOT_RUNS, Slot

SCHEDULES_MAX = 4_096
RUNS_MAX = 1_000                # unfinished ones of a schedule that is not exclusive
WAITING_MAX = 100               # of one that is
SCHEDULE_ROWS_MAX = 8           # of one page: the slots of one take the broker up to a millisecond or two
RUN_NUMBER_MAX = (1 << TASK_NUMBER_BITS) - 1
UNKNOWN = 0                     # in place of the next slot: a leader is to say it


@dataclass(slots=True, eq=False)
class Schedule:
    """Invariants: every slot that was decided is at most `passed_ms`, and `next_ms` lies behind that, or is UNKNOWN or
    NEVER. What lies behind `passed_ms` is owed, also while nobody has said yet which slot that is; but while `since_ms`
    is set, only what has come until `owed_ms`, and then what comes behind `since_ms`: between them it was paused, or
    had other times. Then `next_ms` is at most `owed_ms`. An exclusive one has runs that wait only beside one that has
    begun, or while it may not fire."""

    spec: ScheduleSpec
    version: int
    next_ms: int = UNKNOWN
    passed_ms: int = 0
    is_paused: bool = False
    paused_ms: int = 0              # since when; 0 if it is not
    owed_ms: int = 0
    since_ms: int = 0
    begun: dict[int, None] = field(default_factory=dict)        # tasks that have not ended, in order
    waiting: dict[int, None] = field(default_factory=dict)      # ... and that wait for those to end, in order
    history: deque[Slot] = field(default_factory=lambda: deque(maxlen=HISTORY_SLOTS))
    alarm: int = ALARM_NONE
    alarm_ms: int = 0

    def count_from(self, instant_ms: int) -> None:
        """Slots until then are decided, and nobody has said which one is next."""
        self.next_ms, self.passed_ms = UNKNOWN, max(self.passed_ms, instant_ms)
        self.owed_ms = self.since_ms = 0

    def leave_out(self, owed_ms: int, since_ms: int) -> None:
        """What comes between these two is none of its slots. Of two such gaps, what lies between them is not either."""
        self.owed_ms = min(self.owed_ms, owed_ms) if self.since_ms else owed_ms
        self.since_ms = since_ms

    def go_to(self, next_ms: int, passed_ms: int) -> None:
        """What is next is written, and all before it is decided; with that a gap is over if it lies behind that."""
        if next_ms == NEVER or next_ms > self.since_ms:
            passed_ms = max(passed_ms, self.since_ms)
            self.owed_ms = self.since_ms = 0
        self.next_ms, self.passed_ms = next_ms, passed_ms

    def becomes(self, task: int, fate: int, ended_ms: int = 0) -> None:
        """Writes down what has become of the slot of a task, if that is among the last ones."""
        history = self.history
        for place in range(len(history) - 1, -1, -1):
            if history[place].task == task:
                history[place] = replace(history[place], fate=fate, ended_ms=ended_ms)
                return


Offer = tuple[WorkerSpec, ScheduleSpec]     # a worker, and what it announces


class Schedules:
    """All schedules."""

    __slots__ = (
        "_ledger",
        "announced",
        "by_name",
        "by_task",
        "disputed",
        "freed",
        "made",
        "number",
        "offers",
        "session",
        "sessions",
        "stirred",
    )

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.by_name: dict[str, Schedule] = {}          # at most SCHEDULES_MAX
        self.by_task: dict[int, Schedule] = {}          # of each run that has not ended
        self.announced: dict[str, int] = {}             # by how many live workers that could run it, as it is now
        self.disputed: dict[str, int] = {}              # by how many of them with other terms than those that count
        self.offers: dict[str, dict[int, Offer]] = {}   # by name and session, of live workers that do not drain
        self.made = 0                                   # versions given
        self.session = 0                                # whose numbers runs get; 0 before the first
        self.number = 0                                 # the last one given
        self.sessions: dict[int, None] = {}             # that one, and those before it that may have tasks yet
        self.freed: list[int] = []                      # tasks of `sessions` that have ended, until they are settled
        self.stirred: dict[str, None] = {}              # where waiting runs may go on, likewise

    @property
    def is_full(self) -> bool:
        """What is announced now is left out."""
        return len(self.by_name) >= SCHEDULES_MAX

    def is_parked(self, name: str) -> bool:
        """Whether nobody could run it."""
        return name not in self.announced

    def may_fire(self, schedule: Schedule) -> bool:
        return not schedule.is_paused and not self.is_parked(schedule.spec.name)

    # -- workers ------------------------------------------------------------------------------------------------------

    def shared(self, worker: WorkerSpec) -> WorkerSpec:
        """The same, with the terms that are known already as one object: a hundred workers announce them alike."""
        known = [self.by_name.get(spec.name) for spec in worker.schedules]
        pairs = zip(worker.schedules, known, strict=True)
        return replace(
            worker, schedules=tuple([have.spec if have and have.spec == spec else spec for spec, have in pairs])
        )

    def announce(self, session: int, worker: WorkerSpec, now_ms: int) -> int:
        """A worker has come. Returns how many of its schedules are one too many."""
        refused = 0
        self.join(session, worker)
        for spec in worker.schedules:
            known = self.by_name.get(spec.name)
            if known is not None and known.spec == spec:
                continue
            self._stir(spec.name)
            if known is not None:
                self._replace(known, spec, now_ms)
            elif not self.is_full:
                self._add(spec, now_ms)
            else:
                refused += 1
        return refused

    def _add(self, spec: ScheduleSpec, now_ms: int) -> None:
        self.made += 1
        self.by_name[spec.name] = Schedule(spec, self.made, passed_ms=now_ms)
        self.recount(spec.name)

    def _replace(self, schedule: Schedule, spec: ScheduleSpec, now_ms: int) -> None:
        """Other terms. Its next slot is what it was, unless it has other times: those count from now on, and of the
        slots that were before only the one that has come is owed."""
        if times_of(spec) != times_of(schedule.spec):
            if 0 < schedule.next_ms <= now_ms:
                schedule.leave_out(schedule.next_ms, now_ms)
            else:
                schedule.count_from(now_ms)
        self.made += 1
        schedule.spec, schedule.version = spec, self.made
        schedule.alarm = ALARM_NONE
        self.recount(spec.name)

    def delete(self, name: str, now_ms: int) -> None:
        """It is forgotten. If there was no room for others, the first one of those that live workers announce comes in,
        with the terms that were announced last."""
        was_full = self.is_full
        del self.by_name[name]
        self.recount(name)
        left_out = [other for other in self.announced if other not in self.by_name and other != name]
        if was_full and left_out:
            chosen = min(left_out, key=lambda other: (next(iter(self.offers[other])), other))
            _, spec = self.offers[chosen][next(reversed(self.offers[chosen]))]
            self._add(spec, now_ms)
            self._stir(chosen)

    def join(self, session: int, worker: WorkerSpec) -> None:
        """From now on this worker is among those that keep schedules from being parked."""
        for spec in worker.schedules:
            self.offers.setdefault(spec.name, {})[session] = (worker, spec)
            self._count(spec.name, (worker, spec), 1)

    def leave(self, session: int, worker: WorkerSpec) -> None:
        """It is not any more."""
        for spec in worker.schedules:
            offers = self.offers[spec.name]
            self._count(spec.name, offers.pop(session), -1)
            if not offers:
                del self.offers[spec.name]

    def recount(self, name: str) -> None:
        """Other workers could run it by now: its terms are others, or it is another one."""
        self.announced.pop(name, None)
        self.disputed.pop(name, None)
        for offer in self.offers.get(name, {}).values():
            self._count(name, offer, 1)

    def _count(self, name: str, offer: Offer, step: int) -> None:
        """What counts are the present terms, whatever a worker itself announces."""
        worker, spec = offer
        known = self.by_name.get(name)
        if known is not None and spec is not known.spec and spec != known.spec:
            _add_to(self.disputed, name, step)
        if is_served(worker, spec if known is None else known.spec):
            _add_to(self.announced, name, step)
            if self.announced.get(name, 0) == max(step, 0):     # the first one, or the last
                self._stir(name)

    def disputes(self, name: str) -> tuple[int, str]:
        """How many live workers announce other terms than those that count, and the task of one that has another."""
        number, task = self.disputed.get(name, 0), self.by_name[name].spec.task
        if not number:
            return 0, ""
        return number, next((spec.task for _, spec in self.offers[name].values() if spec.task != task), "")

    def has_alarm(self, name: str) -> bool:
        """Whether somebody should know something of it that the state itself says."""
        return self.by_name[name].alarm != ALARM_NONE or bool(self.disputes(name)[1])

    def _stir(self, name: str) -> None:
        """Whether it may fire, or what it does then, may have changed."""
        self.stirred[name] = None
        self._ledger.schedule_changed(name)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def admits(self, task: int, name: str) -> bool:
        """Whether a run that has ended may be run again: unless another one of an exclusive schedule is unfinished, or
        its schedule has been deleted. Nobody would count it, and one that is announced again would run beside it."""
        if not name:
            return True
        schedule = self.by_name.get(name)
        if schedule is None or not schedule.spec.exclusive:
            return schedule is not None
        return schedule.begun.keys() | schedule.waiting.keys() <= {task}

    def replayed(self, task: int, name: str) -> None:
        """It is run again."""
        schedule = self.by_name[name]
        schedule.begun[task] = None
        self.by_task[task] = schedule
        schedule.becomes(task, SLOT_RUNS)

    # -- reading, between entries -------------------------------------------------------------------------------------

    def page(self, after: str, limit: int, prefix: str) -> tuple[list[Schedule], bool]:
        """Those behind `after` that begin with `prefix`, in order of their names, and whether there are more."""
        limit = max(1, min(limit, SCHEDULE_ROWS_MAX))
        found = nsmallest(limit + 1, (name for name in self.by_name if name > after and name.startswith(prefix)))
        return [self.by_name[name] for name in found[:limit]], len(found) > limit


def _add_to(counts: dict[str, int], name: str, step: int) -> None:
    count = counts.pop(name, 0) + step
    if count:
        counts[name] = count


def why_parked(spec: ScheduleSpec) -> str:
    """What a worker would need that ran it."""
    queue, labels = (QUEUE_DEFAULT, ()) if spec.options is None else (spec.options.queue, spec.options.labels)
    if not labels:
        return f"no live worker announces it and serves queue {queue}"
    needs = f"{'label' if len(labels) == 1 else 'labels'} {', '.join(labels)}"
    return f"no live worker announces it, serves queue {queue} and has {needs}"


def times_of(spec: ScheduleSpec) -> tuple[str, str, int, int]:
    """All that says when it fires."""
    return spec.expression, spec.zone, spec.period_ms, spec.anchor_ms


def is_served(worker: WorkerSpec, spec: ScheduleSpec) -> bool:
    """Whether a worker that announces a schedule takes its tasks as well."""
    options = spec.options
    if options is None:
        return QUEUE_DEFAULT in worker.queues
    return options.queue in worker.queues and all(label in worker.labels for label in options.labels)
