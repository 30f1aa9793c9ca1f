"""What keys of work promise, judged by what was submitted and what the log decided.

The oracle keeps books of its own, from submits and the effects of the reference, and does not know the table of keys:

- of the tasks of one key (and task name, and key of an actor) that are no duplicates, one is unfinished at a time,
  beside one that was asked to stop: until that has ended, no other starts. None is accepted within the window of an
  earlier one, by the stamps of entries. So at most one starts in a window;
- a duplicate names a task of its key that has it: one that was unfinished before the entry and not asked to stop, was
  accepted in it, or was in its window;
- nothing that was told to be a duplicate is ever handed out.
"""

from dataclasses import dataclass

from cluster.simulation.verdict import Judge
from cluster.state.commands import TASK_NUMBER_BITS, Options, Replay, Submit
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.effects import Effects
from cluster.state.machine import Machine

Scope = tuple[str, str, str]    # task name, key of an actor, key of the work


UNFINISHED = ("pending", "processing")


@dataclass(slots=True)
class Known:
    """A task that has, or had, the key of its work."""

    scope: Scope
    accepted_ms: int
    window_ms: int
    is_unfinished: bool = True
    is_stopping: bool = False       # it runs, and was asked to stop

    def has_its_key(self, now_ms: int) -> bool:
        return (self.is_unfinished and not self.is_stopping) or now_ms < self.accepted_ms + self.window_ms


class DedupOracle:
    """Of one world. `duplicates` counts them, `firsts` those that have run under a key, `successors` those that were
    accepted while another one of their key was being stopped."""

    def __init__(self, judge: Judge) -> None:
        self.duplicates = 0
        self.firsts = 0
        self.successors = 0
        self.duplicate_of: dict[int, int] = {}              # by task
        self._judge = judge
        self._known: dict[int, Known] = {}
        self._of_scope: dict[Scope, list[int]] = {}         # no duplicates; in order of acceptance

    def applied(self, payload: bytes, effects: Effects, machine: Machine) -> None:
        """`machine` has applied an entry."""
        now_ms = machine.now_ms
        submitted, replayed = self._decided(payload, machine)
        for task in replayed:
            self._known[task].is_unfinished = True
        ended = {result.task: result for results in effects.results.values() for result in results}
        before = {task for task, known in self._known.items() if known.has_its_key(now_ms)} if submitted else set()
        for asked in effects.cancelled.values():
            for task, _, _ in asked:
                if task in self._known:
                    self._known[task].is_stopping = True
        for task in ended.keys() & self._known.keys():
            self._known[task].is_unfinished = self._known[task].is_stopping = False
        for task, (name, options) in submitted.items():
            scope = (name, options.key, options.dedup)
            first = ended[task].duplicate_of if task in ended else 0
            if first:
                self._follow(task, first, scope, before, machine.applied_index)
            else:
                self._accept(task, Known(scope, now_ms, options.dedup_ms, task not in ended), machine.applied_index)
        for assignments in effects.assignments.values():
            for given in assignments:
                if given.task in self.duplicate_of:
                    self._judge.violated("duplicates", f"{given.task} runs, and is a duplicate")
                elif given.task in self._known:
                    self._start(given.task, given.attempt, machine)

    def _decided(self, payload: bytes, machine: Machine) -> tuple[dict[int, tuple[str, Options]], list[int]]:
        """Tasks with a key that were accepted just now, and those that run again or wait to."""
        submitted: dict[int, tuple[str, Options]] = {}
        replayed: list[int] = []
        for kind, _, encoded in (decode_entry(payload) or []) if payload else []:
            for command in decode_commands(kind, encoded)[0] if kind in KINDS else []:
                if isinstance(command, Replay):
                    known = [task for task in command.tasks if task in self._known]
                    replayed += [task for task in known if machine.state_of(task) in UNFINISHED]
                elif isinstance(command, Submit):
                    submitted |= self._submitted(command, machine)
        return submitted, replayed

    def _submitted(self, command: Submit, machine: Machine) -> dict[int, tuple[str, Options]]:
        found: dict[int, tuple[str, Options]] = {}
        for group in command.groups:
            if group.options is None or not group.options.dedup:
                continue
            base = command.session << TASK_NUMBER_BITS | group.first
            for task in range(base, base + len(group.bodies)):
                is_known = task in self._known or task in self.duplicate_of
                if not is_known and machine.state_of(task) is not None:
                    found[task] = (group.name, group.options)
        return found

    def _follow(self, task: int, first: int, scope: Scope, before: set[int], index: int) -> None:
        self.duplicates += 1
        self.duplicate_of[task] = first
        known = self._known.get(first)
        what = f"{task} is a duplicate of {first} at entry {index}"
        if known is None or known.scope != scope:
            self._judge.violated("duplicates", f"{what}, which has not its key {scope}")
        else:
            has_it = first in before or (known.is_unfinished and not known.is_stopping)
            self._judge.require(has_it, "duplicates", f"{what}, whose time is over")

    def _accept(self, task: int, known: Known, index: int) -> None:
        for other in self._of_scope.setdefault(known.scope, []):
            free = not self._known[other].has_its_key(known.accepted_ms)
            detail = f"{task} is accepted at entry {index} while {other} has its key {known.scope}"
            self._judge.require(free, "at most one", detail)
            self.successors += self._known[other].is_stopping
        self._of_scope[known.scope].append(task)
        self._known[task] = known

    def _start(self, task: int, attempt: int, machine: Machine) -> None:
        known = self._known[task]
        self.firsts += attempt == 1
        for other in self._of_scope[known.scope]:
            is_alone = other == task or not self._known[other].is_unfinished
            detail = f"{task} and {other} of key {known.scope} are unfinished at entry {machine.applied_index}"
            self._judge.require(is_alone, "at most one", detail)
