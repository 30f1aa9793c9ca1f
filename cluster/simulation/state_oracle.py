"""What the replicated state promises, judged entry by entry as brokers apply them.

The first broker that applies an entry moves a *reference* on: a machine of the oracle's own, which always collects
effects, as if it led. Every other broker must then get the same entry at that index and the same digest from it. From
the effects of the reference the oracle keeps books of its own, which know nothing of queues and credit:

- who holds which attempt: (task, attempt) is handed out once, and not while another attempt is still out;
- an outcome counts only if it comes from the session that holds that attempt at that moment;
- a worker that drains is given nothing more, and begins nothing more;
- a slot that its worker has shut is given nothing more;
- a task with labels goes only to workers that have them all;
- tasks of one key are held by one slot at a time, in each epoch by that of its owner, and epochs of a key rise;
- a task gets one terminal record, and only from its holder or by cancellation or expiry; one more for each time that a
  command has replayed it, and no end that was replayed is its last;
- a task that raised is tried again as often as its options say, for what they name, not before its pause, and has then
  failed;
- a task that its worker was told to stop is handed out no more, and ends as cancelled or as what it came to before;
- a task that needs others is handed out after all of them have ended, with what is recorded of them; it fails without
  having been handed out if one that it needs the result of has none, or was not known;
- a call is in the log once, however often its client had to say it; one that was refused never.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import msgspec

from cluster.simulation.tasks import call_of
from cluster.simulation.verdict import Judge
from cluster.state.commands import (
    OUTCOME_FAILED,
    OUTCOME_TIMED_OUT,
    REPLAYED_BITS,
    TASK_NUMBER_BITS,
    UNMET_UNKNOWN,
    Close,
    Command,
    Complete,
    Drain,
    Expire,
    Failure,
    Needs,
    Options,
    Register,
    Replay,
    Resize,
    RetryRule,
    Submit,
    Unmet,
)
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.effects import (
    ANSWER_CROWDED,
    ANSWER_OK,
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_EXPIRED,
    STATE_FAILED,
    Assignment,
    Effects,
    TaskResult,
)
from cluster.state.inputs import Inputs
from cluster.state.machine import Machine
from cluster.storage.snapshot_format import SnapshotMeta

FULL_DIGEST_INTERVAL = 16       # entries between comparisons of everything; snapshots that brokers share are of these
CHECK_INTERVAL = 128            # entries between checks of all invariants of the state

Pair = tuple[int, int]          # task id, attempt
Place = tuple[str, str, str, tuple[str, ...]]       # queue, actor, key, labels
Plant = Callable[[Machine], None]


class WatchedMachine(Machine):
    """A broker's machine that reports every entry it applied."""

    __slots__ = ("_node", "_oracle")

    def __init__(self, oracle: "StateOracle", node: str) -> None:
        super().__init__()
        self._oracle = oracle
        self._node = node
        oracle.plant(self)

    def apply(self, index: int, term: int, payload: bytes, effects: Effects | None) -> None:
        super().apply(index, term, payload, effects)
        self._oracle.applied(self._node, self, index, term, payload)

    def replace(self, other: Machine) -> Iterator[None]:
        old = super().replace(other)
        self._oracle.plant(self)
        self._oracle.restored(self._node, self)
        return old


@dataclass(frozen=True, slots=True)
class Applied:
    """What the reference did at one index."""

    term: int
    crc: int                    # of the payload
    rolling: int                # digest after it
    full: int | None            # full digest after it, at multiples of FULL_DIGEST_INTERVAL


class StateOracle:
    """Invariant of the books: `_held[task]` = (session, attempt) exactly while the state has handed that out."""

    def __init__(self, judge: Judge, plant: Plant = lambda machine: None) -> None:
        self.plant = plant              # told of all machines, and again when one gets a state: tests plant bugs there
        self.reference = Machine()
        plant(self.reference)
        self.applied_entries: list[Applied] = []            # from index 1 on
        self.terminal: dict[int, TaskResult] = {}           # terminal record of each task that has ended for now
        self.records: dict[int, list[TaskResult]] = {}      # all that it ever got
        self.task_of_key: dict[int, int] = {}               # simulated call -> its task
        self.duplicated_records = 0
        self.restorations = 0           # states that came from snapshots, at starts and on the way
        self.on_entry: list[Callable[[bytes, Effects, Machine], None]] = []     # told of what the reference applied
        self._judge = judge
        self._planned: dict[int, int] = {}                  # index of a snapshot -> full digest of the state
        self._held: dict[int, Pair] = {}                    # task -> (session, attempt)
        self._given: dict[Pair, int] = {}                   # every pair ever handed out -> session
        self._ran: set[Pair] = set()
        self._said_drain: set[Pair] = set()                 # (session, seq) of every Drain in the log
        self._draining: set[int] = set()                    # sessions of which one was accepted
        self._said_resize: dict[Pair, int] = {}             # (session, seq) of every Resize in the log -> its slots
        self._resized: dict[int, Pair] = {}                 # session -> seq of the last one accepted, its slots
        self.resizes = 0                                    # that were accepted
        self._options: dict[int, Options] = {}              # of tasks that have some
        self._failures: dict[int, int] = {}                 # task -> attempts that raised and were tried again
        self._not_before: dict[int, int] = {}               # task -> end of its pause, in ms
        self._raised: dict[int, Failure] = {}               # task -> why an attempt ended, in this entry
        self._stopped: set[int] = set()                     # tasks that a worker was told to stop
        self._said_replay: dict[Pair, list[int]] = {}       # (session, seq) of a Replay in the log -> its tasks
        self._replays: dict[int, int] = {}                  # task -> how often it was replayed
        self._needs: dict[int, Needs] = {}                  # of tasks that need others
        self.told = 0                                       # attempts that were given what they need
        self.unmet = 0                                      # tasks that were not run for what they need
        self._owners: dict[int, tuple[Place, Pair]] = {}    # epoch -> whose it is, and the session and slot that own it
        self._epochs: dict[Place, int] = {}                 # the last one
        self._keyed: dict[Place, dict[int, Pair]] = {}      # tasks that slots hold, maybe; session and slot of each

    # -- what brokers apply -----------------------------------------------------------------------------------------

    def applied(self, node: str, machine: Machine, index: int, term: int, payload: bytes) -> None:
        if index == len(self.applied_entries) + 1:
            self._advance(index, term, payload)
        elif index > len(self.applied_entries):
            self._judge.violated("apply", f"{node} applied entry {index} before anyone applied the one before it")
            return
        first = self.applied_entries[index - 1]
        if (first.term, first.crc) != (term, crc32(payload)):
            self._judge.violated(
                "state machine safety", f"{node} applied an entry of term {term} at {index}, others one of {first.term}"
            )
        elif machine.rolling != first.rolling or (first.full is not None and machine.full_digest() != first.full):
            self._judge.violated("digest", f"{node} differs from others after entry {index}")

    def planned(self, node: str, machine: Machine, index: int, checkpoint: SnapshotMeta | None) -> None:
        """A broker plans a snapshot of what it was at this entry: whoever restores that snapshot gets that state.
        `checkpoint` is what it noted there."""
        if checkpoint is not None:
            there = self.applied_entries[index - 1]
            same = (checkpoint.term, checkpoint.rolling) == (there.term, there.rolling)
            self._judge.require(same, "digest", f"{node} noted {checkpoint} at entry {index}")
        full = self.applied_entries[index - 1].full
        if full is None:
            self._judge.require(index == machine.applied_index, "snapshot", f"{node} plans one of entry {index}")
            full = machine.full_digest()
        if index == self.reference.applied_index:
            self._judge.require(full == self.reference.full_digest(), "digest", f"{node} differs at entry {index}")
        same = self._planned.setdefault(index, full) == full
        self._judge.require(same, "digest", f"{node} differs from others that plan a snapshot of entry {index}")

    def restored(self, node: str, machine: Machine) -> None:
        """A broker's state is that of a snapshot now."""
        index = machine.applied_index
        if index > len(self.applied_entries) or index not in self._planned:
            self._judge.violated("snapshot", f"{node} restored a state after entry {index}, which nobody had")
        elif machine.rolling != self.applied_entries[index - 1].rolling or (
            machine.full_digest() != self._planned[index]
        ):
            self._judge.violated("snapshot", f"{node} restored a state that differs from others' after entry {index}")
        self.restorations += 1

    def _advance(self, index: int, term: int, payload: bytes) -> None:
        self._raised.clear()
        claims = self._read(payload)
        effects = Effects()
        reference = self.reference
        reference.apply(index, term, payload, effects)
        if index % CHECK_INTERVAL == 0:
            self.check()
        full = reference.full_digest() if index % FULL_DIGEST_INTERVAL == 0 else None
        self.applied_entries.append(Applied(term, crc32(payload), reference.rolling, full))
        self._book(index, effects, claims)
        for look in self.on_entry:
            look(payload, effects, reference)

    def check(self) -> None:
        """All invariants of the state."""
        try:
            self.reference.check()
        except AssertionError as error:
            self._judge.violated("invariant", f"state after entry {self.reference.applied_index}: {error}")

    # -- what an entry asks for -------------------------------------------------------------------------------------

    def _read(self, payload: bytes) -> set[int]:
        """Walks through the commands in their order, before they are applied. Returns the tasks whose attempt its
        holder ended."""
        ended: set[int] = set()
        gone: set[int] = set()          # sessions that end within this entry
        for kind, _, encoded in (decode_entry(payload) or []) if payload else []:
            commands = decode_commands(kind, encoded)[0] if kind in KINDS else []
            for command in commands:
                if isinstance(command, Submit):
                    self._read_submit(command)
                elif isinstance(command, Complete):
                    self._read_complete(command, gone, ended)
                elif isinstance(command, Drain):
                    self._said_drain.add((command.session, command.seq))
                elif isinstance(command, Resize):
                    self._said_resize[command.session, command.seq] = command.slots
                elif isinstance(command, Replay):
                    self._said_replay.setdefault((command.session, command.seq), command.tasks)
                elif isinstance(command, Expire | Close | Register):
                    gone.update(self._ends(command))
        return ended

    def _read_submit(self, command: Submit) -> None:
        """Notes which task stands for which simulated call. A command that is said again names the same tasks."""
        for group in command.groups:
            for offset, body in enumerate(group.bodies):
                task = (command.session << TASK_NUMBER_BITS) | (group.first + offset)
                if group.options is not None:
                    self._options[task] = group.options
                if group.needs:
                    self._needs[task] = group.needs[offset]
                key = call_of(body).key
                known = self.task_of_key.setdefault(key, task)
                self._judge.require(
                    known == task, "exactly once", f"call {key} was submitted as task {known} and again as {task}"
                )

    def _read_complete(self, command: Complete, gone: set[int], ended: set[int]) -> None:
        if command.session not in gone:
            for outcome in command.outcomes:
                if self._held.get(outcome.task) == (command.session, outcome.attempt):
                    ended.add(outcome.task)
                    if outcome.status in (OUTCOME_FAILED, OUTCOME_TIMED_OUT) and outcome.error is not None:
                        self._raised[outcome.task] = outcome.error

    def _ends(self, command: Command) -> list[int]:
        """Sessions that this command ends, if it is obeyed."""
        if isinstance(command, Expire | Close):
            known = self.reference.session(command.session)
            return [known.id] if known is not None and known.incarnation == command.incarnation else []
        assert isinstance(command, Register)
        return [
            session.id
            for session in self.reference.sessions_open()
            if (session.role, session.name) == (command.role, command.name)
            and session.incarnation != command.incarnation
        ]

    # -- what came of it ----------------------------------------------------------------------------------------------

    def _book(self, index: int, effects: Effects, ended: set[int]) -> None:
        for answer in effects.answers:
            if answer.code == ANSWER_OK and (answer.session, answer.seq) in self._said_drain:
                self._draining.add(answer.session)
            slots = self._said_resize.get((answer.session, answer.seq), 0)
            if answer.code == ANSWER_OK and slots and answer.seq > self._resized.get(answer.session, (0, 0))[0]:
                self._resized[answer.session] = (answer.seq, slots)
                self.resizes += 1
        replayed = self._count_replays(index, effects)
        lost = set(effects.ended)
        withdrawn = {task for pairs in effects.withdrawn.values() for task, _ in pairs}
        for results in effects.results.values():
            for result in results:
                self._end(index, result, ended, lost)
        for results in effects.results.values():
            for result in results:
                if (unmet := None if result.error is None else result.error.unmet) is not None:
                    self._judge_unmet(index, result, unmet, ended)
        for task in ended:
            del self._held[task]
        for task, failure in self._raised.items():
            if task not in replayed:
                self._judge_failure(index, task, failure)
        if lost:
            self._held = {task: holder for task, holder in self._held.items() if holder[0] not in lost}
        for task in withdrawn:
            self._held.pop(task, None)
        self._begin_anew(index, replayed)
        self._stopped.update(task for stopped in effects.cancelled.values() for task, _, _ in stopped)
        for session_id, assignments in effects.assignments.items():
            for assignment in assignments:
                self._give(index, session_id, (assignment.task, assignment.attempt))
                self._judge_slot(index, session_id, assignment)
                if assignment.key or assignment.task in self._options:
                    self._own(index, session_id, assignment)
                if assignment.task in self._needs:
                    for given in self.reference.passed_on([assignment]):
                        self._judge_inputs(index, given)

    @property
    def replays(self) -> int:
        return sum(self._replays.values())

    def _count_replays(self, index: int, effects: Effects) -> list[int]:
        """Which tasks commands of this entry have replayed; a command says how many."""
        replayed: list[int] = []
        said = 0
        for answer in effects.answers:
            named = self._said_replay.get((answer.session, answer.seq), [])
            if answer.code in (ANSWER_OK, ANSWER_CROWDED) and named:
                self._said_replay[answer.session, answer.seq] = []      # if it is said again, this is its answer
                said += answer.value & ((1 << REPLAYED_BITS) - 1)
                for task in dict.fromkeys(named):
                    if self.reference.replays_of(task) > self._replays.get(task, 0):
                        self._replays[task] = self._replays.get(task, 0) + 1
                        replayed.append(task)
        known = sum([self.reference.replays_of(task) - self._replays[task] for task in replayed])
        detail = f"entry {index} says that it replayed {said} tasks, the state {replayed}"
        self._judge.require(said == len(replayed) and not known, "replay", detail)
        return replayed

    def _begin_anew(self, index: int, replayed: list[int]) -> None:
        """These had ended, and may have ended again since. What counted for their last life does not any more."""
        for task in replayed:
            records, replays = self.records.get(task, []), self._replays[task]
            has_ended = len(records) >= replays and records[replays - 1].state != STATE_COMPLETED
            self._judge.require(has_ended, "replay", f"task {task} was replayed at entry {index}, and had not ended")
            if len(records) == replays:
                self.terminal.pop(task, None)
            self._stopped.discard(task)
            self._failures.pop(task, None)
            self._not_before.pop(task, None)

    def _judge_failure(self, index: int, task: int, failure: Failure) -> None:
        """An attempt that was held has raised, or ran too long."""
        options = self._options.get(task, Options())
        rule = options.retry or RetryRule()
        count = self._failures.get(task, 0)
        is_named = bool(failure.kinds) and (not rule.on or not set(rule.on).isdisjoint(failure.kinds))
        is_due = is_named and count < options.retries
        state = self.reference.state_of(task)
        if state == "pending":
            self._failures[task] = count + 1
            pause_ms = min(rule.cap_ms, rule.first_ms * rule.factor**count)
            self._not_before[task] = self.reference.now_ms + (pause_ms // 2 if rule.jitter else pause_ms)
            self._judge.require(is_due, "retry", f"task {task} is tried again at entry {index} after {failure.type}")
        elif state == "failed":
            is_late = bool(options.expires_ms)
            detail = f"task {task} failed at entry {index} after {count} retries of {options.retries}"
            self._judge.require(is_late or not is_due, "retry", detail)

    def _end(self, index: int, result: TaskResult, ended: set[int], lost: set[int]) -> None:
        """A task got a terminal record."""
        judge, task = self._judge, result.task
        records = self.records.setdefault(task, [])
        if len(records) > self._replays.get(task, 0):
            self.duplicated_records += 1
            judge.violated("one terminal record", f"task {task} ended again at entry {index}, as {result.state}")
            return
        records.append(result)
        self.terminal[task] = result
        is_allowed = task not in self._stopped or result.state in (STATE_CANCELLED, STATE_COMPLETED)
        judge.require(is_allowed, "cancel", f"{task} was told to stop and ended as {result.state}")
        if result.state in (STATE_CANCELLED, STATE_EXPIRED) or result.duplicate_of:
            return
        holder = self._held.get(task)
        if task in self._needs and holder is None and result.state == STATE_FAILED:
            return              # it may not have been run, `_judge_unmet` sees to that
        by_loss = result.state == STATE_DEAD and holder is not None and holder[0] in lost
        judge.require(
            task in ended or by_loss,
            "expired holder",
            f"task {task} ended at entry {index} as {result.state}, but not by its holder {holder}",
        )

    def _give(self, index: int, session: int, pair: Pair) -> None:
        """An attempt was handed out."""
        oracle, require = "double dispatch", self._judge.require
        holder = self._held.get(pair[0])
        require(pair not in self._given, oracle, f"{pair} was handed out again at entry {index}")
        require(holder is None, oracle, f"{pair} was handed out at entry {index} while {holder} holds the task")
        require(pair[0] not in self.terminal, oracle, f"{pair} was handed out at entry {index}, after its end")
        require(session not in self._draining, "drain", f"{pair} was given at entry {index} to {session}, which drains")
        require(pair[0] not in self._stopped, "cancel", f"{pair} was handed out at entry {index}, after its cancel")
        worker = self.reference.session(session)
        has = worker.worker.labels if worker is not None and worker.worker is not None else ()
        asked = self._options[pair[0]].labels if pair[0] in self._options else ()
        require(set(asked) <= set(has), "labels", f"{pair} was given at entry {index} to {session}: it lacks {asked}")
        early = self._not_before.get(pair[0], 0) - self.reference.now_ms
        require(early <= 0, "retry", f"{pair} was handed out at entry {index}, {early} ms before the end of its pause")
        self._given[pair] = session
        self._held[pair[0]] = (session, pair[1])

    def _judge_slot(self, index: int, session: int, assignment: Assignment) -> None:
        """An attempt was given to a slot. Entries hand out behind all of their commands."""
        known = self.reference.session(session)
        assert known is not None and known.worker is not None
        spec, slot = known.worker, assignment.slot
        count = self._resized[session][1] if session in self._resized else spec.slots_min or spec.slots
        is_open = slot < count or (slot == spec.slots and bool(spec.loop_names))
        detail = f"{assignment.task} was given at entry {index} to slot {slot} of {session}, which has {count} open"
        self._judge.require(is_open, "shut slot", detail)

    def _judge_unmet(self, index: int, result: TaskResult, unmet: Unmet, ended: set[int]) -> None:
        """A task was not run."""
        self.unmet += 1
        task = result.task
        said = self._needs.get(task, Needs([]))
        needs = self._resolved(said)
        states = [record.state for record in self.records.get(unmet.task, ())]
        # Of a duplicate that is forgotten the state does not know any more who did its work.
        meant = (*said.results, *said.outcomes, *needs.results, *needs.outcomes)
        is_unknown = unmet.state == UNMET_UNKNOWN and unmet.task in meant
        is_so = unmet.state != STATE_COMPLETED and unmet.task in needs.results and unmet.state in states
        is_known = self.reference.state_of(unmet.task) is not None
        detail = f"task {task} was not run at entry {index} for {unmet}, and needs {needs}"
        self._judge.require(is_so or (is_unknown and not is_known), "needs", detail)
        was_gone = is_unknown and task in ended     # so said who was to run it
        self._judge.require(was_gone or task not in self._held, "needs", f"{detail}; it was handed out")

    def _resolved(self, needs: Needs) -> Needs:
        """With the tasks that did the work of duplicates in place of these."""

        def first(task: int) -> int:
            record = self.terminal.get(task)
            return task if record is None else record.duplicate_of or task

        return Needs(list(map(first, needs.results)), list(map(first, needs.outcomes)))

    def _judge_inputs(self, index: int, assignment: Assignment) -> None:
        """An attempt was given what its task needs."""
        self.told += 1
        needs = self._resolved(self._needs[assignment.task])
        inputs = msgspec.msgpack.decode(assignment.body, type=Inputs)
        told = [[end.task for end in ends] for ends in (inputs.results, inputs.outcomes)]
        detail = f"task {assignment.task}, given at entry {index},"
        is_all = told == [needs.results, needs.outcomes]
        self._judge.require(is_all, "needs", f"{detail} needs {needs}, was told {told}")
        for end in (*inputs.results, *inputs.outcomes):
            record = self.terminal.get(end.task)
            is_so = record is not None and (end.state, end.body) == (record.state, record.body)
            self._judge.require(is_so, "needs", f"{detail} was told {end}, and recorded is {record}")
        done = all(end.state == STATE_COMPLETED for end in inputs.results)
        self._judge.require(done, "needs", f"{detail} has not all the results that it needs")

    def _own(self, index: int, session: int, assignment: Assignment) -> None:
        """A slot was given a task that may have a key."""
        options = self._options.get(assignment.task, Options())
        asked = (options.actor, options.key) if options.key else ("", "")
        require, task = self._judge.require, assignment.task
        require((assignment.actor, assignment.key) == asked, "keys", f"{task} was given without its key {asked}")
        if not options.key:
            return
        where = (session, assignment.slot)
        place = (options.queue, *asked, tuple(sorted(set(options.labels))))
        owner = self._owners.setdefault(assignment.epoch, (place, where))
        detail = f"{task} of {place} was given at entry {index} to {where}"
        require(owner == (place, where), "keys", f"{detail} in epoch {assignment.epoch}, which is {owner}'s")
        require(self._epochs.get(place, 0) <= assignment.epoch, "keys", f"{detail} in an epoch that is over")
        self._epochs[place] = assignment.epoch
        there = self._keyed.setdefault(place, {})
        there.pop(task, None)
        for other, other_where in list(there.items()):
            if self._held.get(other, (0, 0))[0] != other_where[0]:
                del there[other]
            else:
                require(other_where == where, "keys", f"{detail} while {other_where} holds {other}")
        there[task] = where

    # -- what became of it: records vanish from the state, not from here ----------------------------------------------

    def has_known(self, task: int) -> bool:
        """Whether a broker has applied the submit of a task."""
        return task in self.terminal or self.reference.state_of(task) is not None

    def is_forgotten(self, task: int) -> bool:
        """Whether a task has ended, and its record was dropped in the order of the log."""
        return task in self.terminal and self.reference.state_of(task) is None

    # -- what workers do ----------------------------------------------------------------------------------------------

    def ran(self, task: int, attempt: int) -> None:
        """A child starts an attempt."""
        pair = (task, attempt)
        self._judge.require(pair in self._given, "double dispatch", f"{pair} runs, and nobody handed it out")
        self._judge.require(pair not in self._ran, "double dispatch", f"{pair} runs a second time")
        # It takes back what waits before it says so.
        drains = self._given.get(pair) in self._draining
        self._judge.require(not drains, "drain", f"{pair} begins at a worker after the log has its drain")
        self._ran.add(pair)

    @property
    def runs(self) -> int:
        return len(self._ran)

    @property
    def late_outcomes(self) -> int:
        """Outcomes of attempts that their sender no longer held; the state refused them."""
        return self.reference.status()["counters"]["refused_outcomes"]
