"""What schedules promise of their runs, judged by what children really do and by how tasks end.

The books here begin where the reference says that a slot has become a task, and end with the terminal record of that
task. Of the counts that the state keeps of runs they know nothing:

- a slot is skipped as busy, or since too many wait, only while so many runs are unfinished; it waits only behind
  another one, and begins at once only beside none. Who asks for a run is refused likewise;
- what a newer run takes the place of ends as `on_busy` says: what waited is cancelled at once, what has begun is asked
  to stop. Nothing else is cancelled;
- runs of an exclusive schedule begin in the order in which they were made, each when all before it have ended, and not
  in a pause or while nobody announces the schedule;
- of such a schedule one child is at work at a time, but for attempts whose process may not know yet that it is to end:
  that of a worker that was lost, since its session has ended otherwise than by the worker's own word; and that of a run
  which was to make way, and of which its worker has not said in time, by the cluster's time of day, that it has;
- a run has completed only if its child came to the end of that attempt, failed only if it took longer than it may, and
  is dead only if its workers were lost as often as that takes.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import World
from cluster.simulation.calendar_walk import Kept, text_of
from cluster.simulation.state_oracle import StateOracle
from cluster.simulation.verdict import Judge
from cluster.state.commands import BUSY_QUEUE, BUSY_REPLACE, BUSY_SKIP
from cluster.state.effects import (
    ANSWER_BUSY,
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_FAILED,
    Effects,
    TaskResult,
)
from cluster.state.queues import DELAYED
from cluster.state.schedule_rows import SLOT_BUSY, SLOT_CROWDED, SLOT_RUNS, SLOT_WAITS

# What the guide says.
RUNS_MAX = 1_000
WAITING_MAX = 100
LOSSES_MAX = 3
REPLACE_GRACE_MS = 10_000
SILENCE_MS = 30_000             # behind that, as the internals say

CLOCKS_DIFFER: Nanos = SECOND       # in the time that a run may take


class Made(NamedTuple):
    """A slot that became a task."""

    name: str
    slot_ms: int


class Attempt(NamedTuple):
    """What a child is at."""

    name: str
    task: int
    attempt: int
    since: Nanos


@dataclass(slots=True)
class Line:
    """Of one schedule. `begun` are those of `unfinished` that do not wait for others any more."""

    unfinished: dict[int, None] = field(default_factory=dict)       # tasks, in the order in which they are to begin
    begun: set[int] = field(default_factory=set)
    replaced: dict[int, int] = field(default_factory=dict)          # that may end as cancelled, and since when, in ms
    overtaken: list[int] = field(default_factory=list)              # in this entry, for a newer one


class CalendarRuns:
    """Of one world. `kept` has the terms of all schedules, by name."""

    def __init__(self, world: World, judge: Judge, state: StateOracle, kept: dict[str, Kept]) -> None:
        self.overlaps = 0               # of attempts that may not know yet that they are to end, with others
        self.made: dict[int, Made] = {}
        self._world = world
        self._judge = judge
        self._state = state
        self._kept = kept
        self._lines = {name: Line() for name in kept}
        self._children: dict[Hashable, Attempt] = {}        # those at work
        self._begun_at: dict[tuple[int, int], Nanos] = {}   # of each attempt that a child has begun
        self._finished: set[tuple[int, int]] = set()        # those that came to their end
        self._lost: set[int] = set()                        # sessions of workers
        self._given_up: set[tuple[int, int]] = set()        # attempts whose workers have not said that they ended
        self._ends: dict[int, TaskResult] = {}              # in this entry

    @property
    def unfinished(self) -> list[int]:
        return [task for line in self._lines.values() for task in line.unfinished]

    # -- what the reference decides -----------------------------------------------------------------------------------

    def entry(self, effects: Effects, closed: Sequence[int]) -> None:
        """An entry was applied; `closed` are sessions that said in it that they end."""
        self._lost.update(session for session in effects.ended if session not in closed)
        for pair in [pair for pairs in effects.withdrawn.values() for pair in pairs if pair[0] in self.made]:
            name = self.made[pair[0]].name
            since_ms = self._lines[name].replaced.get(pair[0], self._state.reference.now_ms)
            is_late = self._state.reference.now_ms - since_ms >= REPLACE_GRACE_MS + SILENCE_MS
            self._require(is_late, name, f"{pair} was taken from its worker, and was to make way since {since_ms}")
            self._given_up.add(pair)
        self._ends = {result.task: result for results in effects.results.values() for result in results}

    def decided(self, name: str, slot_ms: int, fate: int, task: int, *, is_manual: bool) -> None:
        """This has become of a slot in the entry, in the order of its commands."""
        spec, line = self._kept[name].spec, self._lines[name]
        known = list(line.unfinished)
        # When in this entry something has ended nobody says here.
        left = [other for other in known if other not in self._ends]
        if not spec.exclusive:
            is_right = fate == SLOT_RUNS and len(left) < RUNS_MAX
            is_right = is_right or (fate == SLOT_CROWDED and len(known) >= RUNS_MAX)
        elif fate == SLOT_RUNS:
            # Only a pause holds those that wait, and whoever wants a run now knows of it.
            is_right = not left or (is_manual and line.begun.isdisjoint(left))
        elif fate == SLOT_BUSY:
            is_right = bool(known) and spec.on_busy == BUSY_SKIP
        elif fate == SLOT_CROWDED:
            is_right = len(known) > WAITING_MAX and spec.on_busy == BUSY_QUEUE
        else:
            is_crowded = spec.on_busy == BUSY_QUEUE and len(left) > WAITING_MAX
            is_right = fate == SLOT_WAITS and bool(known) and spec.on_busy != BUSY_SKIP and not is_crowded
        self._require(is_right, name, f"{text_of(slot_ms)} has fate {fate}, and unfinished are {known}")
        if task:
            self.made[task] = Made(name, slot_ms)
            self._enter(line, task, fate, known, spec.on_busy)

    def refused(self, name: str, code: int) -> None:
        """Somebody asked for a run, and was told that others have not ended."""
        spec, line = self._kept[name].spec, self._lines[name]
        if code == ANSWER_BUSY:
            is_right = spec.exclusive and spec.on_busy == BUSY_SKIP and bool(line.begun)
        elif spec.exclusive:
            is_right = spec.on_busy == BUSY_QUEUE and len(line.unfinished) > WAITING_MAX
        else:
            is_right = len(line.unfinished) >= RUNS_MAX
        unfinished = list(line.unfinished)
        self._require(is_right, name, f"a run was asked for and refused ({code}), and unfinished are {unfinished}")

    def _enter(self, line: Line, task: int, fate: int, known: list[int], on_busy: str) -> None:
        waiting = [other for other in known if other not in line.begun]
        if on_busy not in (BUSY_SKIP, BUSY_QUEUE):
            line.overtaken = known
            for other in known if on_busy == BUSY_REPLACE else waiting:
                line.replaced.setdefault(other, self._state.reference.now_ms)
        line.unfinished[task] = None
        if fate == SLOT_RUNS:
            line.begun.add(task)
            for other in waiting:       # it goes before them
                line.unfinished[other] = line.unfinished.pop(other)

    def settle(self, name: str, *, is_held: bool) -> None:
        """The entry is over; `is_held`: paused all through it, or announced by nobody."""
        line = self._lines[name]
        overtaken, line.overtaken = line.overtaken, []
        for task in list(line.unfinished):
            if (result := self._ends.get(task)) is not None:
                self._judge_end(name, line, result)
                del line.unfinished[task]
                line.begun.discard(task)
                line.replaced.pop(task, None)
        if len(line.unfinished) != len(line.begun):
            self._let_go(name, line, is_held=is_held)
        left = [task for task in overtaken if task in line.unfinished]
        if self._kept[name].spec.on_busy == BUSY_REPLACE:
            is_right = all(self._state.is_stopped(task) for task in left)
        else:
            is_right = len(left) <= 1 and line.begun.issuperset(left)
        self._require(is_right, name, f"a newer run takes the place of {overtaken}, and {left} go on")

    def _let_go(self, name: str, line: Line, *, is_held: bool) -> None:
        """What waited may have begun."""
        for task in line.unfinished:
            found = self._state.reference._tables.tasks.get(task)
            if task not in line.begun and found is not None and found.state != DELAYED:
                line.begun.add(task)
                self._require(not is_held, name, f"run {task} begins, and the schedule is paused or parked")

    def _judge_end(self, name: str, line: Line, result: TaskResult) -> None:
        pair = (result.task, result.attempts)
        if result.state == STATE_COMPLETED:
            is_right = pair in self._finished
        elif result.state == STATE_CANCELLED:
            is_right = result.task in line.replaced
        elif result.state == STATE_FAILED:
            options = self._kept[name].spec.options
            assert options is not None
            took = self._world.now - self._begun_at.get(pair, self._world.now)
            is_right = took >= options.timeout_ms * MILLISECOND - CLOCKS_DIFFER
        else:
            attempts = range(1, result.attempts + 1)
            lost = [number for number in attempts if self._is_lost(result.task, number)]
            is_right = result.state == STATE_DEAD and len(lost) >= LOSSES_MAX
        where = text_of(self.made[result.task].slot_ms)
        self._require(is_right, name, f"nothing accounts for the end of the run for {where}: {result}")

    # -- what children do ---------------------------------------------------------------------------------------------

    def began(self, child: Hashable, name: str, slot_ms: int, task: int, attempt: int) -> None:
        """A child begins an attempt at a run."""
        made = self.made.get(task)
        is_known = made == (name, slot_ms)
        self._require_at_work(is_known, name, f"task {task} runs for {text_of(slot_ms)}, and is of {made}")
        if self._kept[name].spec.exclusive and not self._may_overlap(task, attempt):
            for other in self._children.values():
                if other.name == name:
                    is_right = self._may_overlap(other.task, other.attempt)
                    self.overlaps += is_right
                    self._require_at_work(is_right, name, f"{task} begins attempt {attempt} beside {other}")
            before = next(iter(self._lines[name].unfinished), 0)
            self._require_at_work(before == task, name, f"run {task} begins, and it is the turn of {before}")
        self._children[child] = Attempt(name, task, attempt, self._world.now)
        self._begun_at[task, attempt] = self._world.now

    def finished(self, child: Hashable) -> None:
        """It has come to the end of its attempt."""
        attempt = self._children.pop(child)
        self._finished.add((attempt.task, attempt.attempt))

    def died(self, child: Hashable) -> None:
        """A child has ended, whatever it was at."""
        self._children.pop(child, None)

    def _is_lost(self, task: int, attempt: int) -> bool:
        return self._state.given_to(task, attempt) in self._lost

    def _may_overlap(self, task: int, attempt: int) -> bool:
        return (task, attempt) in self._given_up or self._is_lost(task, attempt)

    # -- in the end ---------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """Everything is mended and had its time."""
        self._judge.require(not self.unfinished, "liveness", f"runs {self.unfinished} have not ended")

    def _require(self, condition: object, name: str, detail: str) -> None:
        if not condition:
            self._judge.violated("runs", f"{name}: {detail}, at {text_of(self._state.reference.now_ms)}")

    def _require_at_work(self, condition: object, name: str, detail: str) -> None:
        if not condition:
            self._judge.violated("overlap", f"{name}: {detail}, at {text_of(self._state.reference.now_ms)}")
