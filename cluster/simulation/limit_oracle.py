"""What rates, concurrency and shares promise, judged by what was submitted and what the log decided.

It keeps books of its own of what is with workers and what has started, from the effects of the reference, and knows
nothing of lines, rings and windows:

- of a limit no more tasks than its concurrency are with workers at a time;
- in any window of its period no more are handed out than its rate allows, by the stamps of entries;
- of two shares that wait in one bundle, none is handed out two tasks more than the other while both wait. Judged where
  nothing but the turn decides: for shares without a limit of their own, and tasks of one priority. Of those that wait
  it counts the ones that may start for certain: not delayed, and never handed out before.

That nothing is held back for ever is seen in the end: everything acknowledged has ended.
"""

from dataclasses import dataclass

from cluster.simulation.verdict import Judge
from cluster.state.commands import TASK_NUMBER_BITS, LineRule, Options, Submit
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.effects import Effects
from cluster.state.machine import Machine

LEAD_MAX = 1            # hand-outs of a share before those of another one that waits all the time

Limit = tuple[str, str]                                         # name, share
Bundle = tuple[str, str, tuple[str, ...], str, int]             # queue, task name, labels, limit's name, priority


@dataclass(frozen=True, slots=True)
class Known:
    """A task with a line."""

    rule: LineRule
    limit: Limit | None
    bundle: Bundle | None       # None: its turns are not judged


class LimitOracle:
    """Of one world. `starts` counts hand-outs under a limit, `full` how often one was found at its bound, `turns`
    hand-outs while another share waited."""

    def __init__(self, judge: Judge) -> None:
        self.starts = 0
        self.full = 0
        self.turns = 0
        self._judge = judge
        self._known: dict[int, Known] = {}                          # by task
        self._running: dict[Limit, dict[int, None]] = {}            # tasks that are with workers
        self._windows: dict[Limit, list[int]] = {}                  # dates of starts
        self._waiting: dict[Bundle, dict[str, dict[int, None]]] = {}        # by share: tasks that may start
        self._leads: dict[Bundle, dict[tuple[str, str], int]] = {}          # of one share before another one

    def applied(self, payload: bytes, effects: Effects, machine: Machine) -> None:
        """`machine` has applied an entry."""
        self._read(payload, machine)
        if not self._known:
            return
        for results in effects.results.values():
            for result in results:
                self._leave(result.task)
        for task in effects.moved:
            self._leave(task)
        served: dict[Bundle, dict[str, int]] = {}
        for assignments in effects.assignments.values():
            for given in assignments:
                known = self._known.get(given.task)
                if known is not None:
                    self._start(given.task, known, machine.now_ms, served)
        for bundle in [*self._waiting]:
            self._judge_turns(bundle, served.get(bundle, {}), machine.applied_index)

    def _read(self, payload: bytes, machine: Machine) -> None:
        """Tasks with a line that were accepted."""
        for kind, _, encoded in (decode_entry(payload) or []) if payload else []:
            for command in decode_commands(kind, encoded)[0] if kind in KINDS else []:
                if isinstance(command, Submit):
                    for group in command.groups:
                        if group.options is not None and group.options.line is not None:
                            base = command.session << TASK_NUMBER_BITS | group.first
                            for task in range(base, base + len(group.bodies)):
                                self._submitted(task, group.name, group.options, group.options.line, machine)

    def _submitted(self, task: int, name: str, options: Options, rule: LineRule, machine: Machine) -> None:
        if task in self._known or machine.state_of(task) is None:
            return              # said again, or refused
        is_limited = bool(rule.concurrency or rule.starts)
        limit = ((rule.limit, "") if rule.limit else (name, rule.share)) if is_limited else None
        bundle = None
        if limit is None or rule.limit:
            bundle = (options.queue, name, tuple(sorted(set(options.labels))), rule.limit, options.priority)
        self._known[task] = Known(rule, limit, bundle)
        if bundle is not None and not options.delay_ms:
            self._waiting.setdefault(bundle, {}).setdefault(rule.share, {})[task] = None

    def _leave(self, task: int) -> None:
        """It is with no worker any more, and if it has ended it does not wait."""
        known = self._known.get(task)
        if known is None:
            return
        if known.limit is not None:
            self._running.get(known.limit, {}).pop(task, None)
        if known.bundle is not None:
            self._waiting.get(known.bundle, {}).get(known.rule.share, {}).pop(task, None)

    def _start(self, task: int, known: Known, now_ms: int, served: dict[Bundle, dict[str, int]]) -> None:
        rule, limit, bundle = known.rule, known.limit, known.bundle
        if bundle is not None:
            counts = served.setdefault(bundle, {})
            counts[rule.share] = counts.get(rule.share, 0) + 1
            self._waiting.get(bundle, {}).get(rule.share, {}).pop(task, None)
        if limit is None:
            return
        self.starts += 1
        what = f"{limit} at {now_ms} with task {task}"
        running = self._running.setdefault(limit, {})
        running[task] = None
        if rule.concurrency:
            detail = f"{what} has {[*running]} with workers"
            self._judge.require(len(running) <= rule.concurrency, "concurrency", detail)
            self.full += len(running) == rule.concurrency
        if rule.starts:
            recent = [date for date in self._windows.get(limit, ()) if date > now_ms - rule.period_ms] + [now_ms]
            self._windows[limit] = recent
            detail = f"{what} starts {len(recent)} in {rule.period_ms} ms: {recent}"
            self._judge.require(len(recent) <= rule.starts, "rate", detail)
            self.full += len(recent) == rule.starts

    def _judge_turns(self, bundle: Bundle, served: dict[str, int], index: int) -> None:
        """Whoever still waits has waited all the while, since an entry hands out when all of it is known."""
        waiting = self._waiting[bundle]
        for share in [share for share, tasks in waiting.items() if not tasks]:
            del waiting[share]
        leads = self._leads.get(bundle, {})
        now: dict[tuple[str, str], int] = {}
        for share in waiting:
            for other in dict.fromkeys((*served, *[first for first, second in leads if second == share])):
                if other != share:
                    lead = max(0, leads.get((other, share), 0) + served.get(other, 0) - served.get(share, 0))
                    detail = f"share {other} of {bundle} is {lead} ahead of {share}, which waits, at entry {index}"
                    self._judge.require(lead <= LEAD_MAX, "turns", detail)
                    self.turns += served.get(other, 0)
                    if lead:
                        now[other, share] = lead
        self._leads[bundle] = now
        if not waiting:
            del self._waiting[bundle]
            del self._leads[bundle]
