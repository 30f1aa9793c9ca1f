"""Which node an operator's restart or drain takes next, when that one is back, and when to give up.

Pure: it is given a look at the cluster's status and the time, again and again, and says what to do. Nodes go one at a
time: workers first, then the brokers that follow, and last the one that leads, so that there is one election. No broker
is asked to end before every broker is there, serves and has caught up, and none is asked again before that is so: so at
any moment at most one is missing, and a majority is not at stake.

A request may be lost, and so may its answer. It names the process that is meant, so it is said again until the status
shows its effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

SECOND = 1_000_000_000              # in nanoseconds, as all times here
LAG_ENTRIES_MAX = 256               # behind the leader's state; more than two looks at a busy cluster differ by
ASK_AGAIN_AFTER = 2 * SECOND
SETTLE = 1 * SECOND                 # everybody who dials a broker that is back has reached it: their longest pause
LATE_AFTER = 5 * SECOND             # from when a process is gone; as a rule the next one is there within a second
LEAVE_AFTER = 2 * SECOND            # a worker's last answers and its goodbye, behind the limit of what runs

Nanos = int


class Wanted(Enum):
    """What is to become of the nodes."""

    AGAIN = "again"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Limits:
    """`running`: how long what runs at a worker may go on. `back`: how long a node may take to be back after it ended,
    and the cluster to be whole before the next one."""

    running: Nanos = 9 * SECOND
    back: Nanos = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for the end of this process of `node`."""

    node: str
    pid: int
    again: bool
    is_broker: bool


@dataclass(frozen=True, slots=True)
class Rest:
    """Look again soon. `doing` says for people what is waited for; `advice` where to look, once that takes long."""

    doing: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """All nodes have had their turn."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing more is asked of anybody. `node` is the one that is to blame, "" if it has not begun. `reason` also says
    what to do, with commands in which TOPOLOGY stands for the topology's path."""

    node: str
    reason: str


Step = Ask | Rest | Done | GiveUp


@dataclass(frozen=True, slots=True)
class Turn:
    """One node that had its turn; pid 0 where there was no process, or is none now. `cut_off`: tasks that still ran
    when the limit of its drain was over, if it stays out and that is known."""

    node: str
    old_pid: int
    new_pid: int
    took: Nanos
    cut_off: int | None = None


class Look:
    """One look at the cluster: the report of `Client.status`."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.leader: str = report["leader"] or ""
        self.brokers: dict[str, dict[str, Any]] = {row["node"]: row for row in report["brokers"]}
        self.workers: dict[str, dict[str, Any]] = {row["node"]: row for row in report["workers"]}

    def pid(self, node: str) -> int:
        """Of the process that runs; 0 if there is none."""
        row = self.brokers.get(node) or self.workers.get(node) or {}
        return row.get("pid") or 0

    def is_drained(self, worker: str) -> bool:
        return bool(self.workers.get(worker, {}).get("drained"))

    def cut_off(self, worker: str) -> int | None:
        """Of a drained one: how many tasks its drain has ended, if that is known."""
        return self.workers.get(worker, {}).get("cut_off")

    def is_serving(self, worker: str) -> bool:
        """Registered, with all its children, of slots that it opens and closes the fewest, and not leaving."""
        row = self.workers.get(worker, {})
        return bool(row.get("pid")) and not row["draining"] and len(row["children"]) >= _children(row)

    def flaw(self) -> str:
        """Why no broker may be missed now; "" if all are there, follow, and have caught up."""
        for node, row in self.brokers.items():
            if row["role"] not in ("leader", "follower"):
                return f"broker {node} is {row['role']}"
            if row["quarantined"]:
                return f"broker {node} is quarantined"
            if not row.get("has_start", True):
                return f"broker {node} could not start from its disk any more"
        if not self.leader:
            return "no broker leads"
        newest = max(row["applied_index"] for row in self.brokers.values())
        for node, row in self.brokers.items():
            if (lag := newest - row["applied_index"]) > LAG_ENTRIES_MAX:
                return f"broker {node} catches up, {lag} entries to go"
        return ""


def _workers(names: Sequence[str]) -> str:
    return f"worker {names[0]} is" if len(names) == 1 else f"workers {', '.join(names)} are"


def _children(row: dict[str, Any]) -> int:
    """Of a worker that is whole, at least: one for each slot, and one for all its async tasks."""
    return int(row["slots_min"]) + int(row["async_tasks"] > 0)


@dataclass(slots=True)
class _Current:
    node: str
    is_broker: bool
    pid: int
    since: Nanos
    asked: Nanos = 0
    refusal: str = ""
    well_since: Nanos | None = None     # of a broker that is back
    gone_since: Nanos | None = None     # it was seen without a process


@dataclass(slots=True)
class Course:
    """One restart or drain. `workers` and `brokers` are those whose turn it will be; with `named` an operator gave
    their names, so that all must be there."""

    wanted: Wanted
    workers: Sequence[str]
    brokers: Sequence[str]
    named: bool
    limits: Limits = field(default_factory=Limits)
    turns: list[Turn] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)    # node, why
    _left: list[tuple[str, bool]] | None = None                     # node, whether it is a broker; None: not begun
    _current: _Current | None = None
    _idle_since: Nanos | None = None
    _absent_since: Nanos | None = None      # workers, before it has begun

    @property
    def total(self) -> int:
        return len(self.workers) + len(self.brokers)

    @property
    def left(self) -> list[str]:
        """Nodes whose turn is not over, in order."""
        if self._left is None:
            return [*self.workers, *self.brokers]
        now = [self._current.node] if self._current is not None else []
        return now + [node for node, _ in self._left]

    def next(self, look: Look, now: Nanos) -> Step:
        """What to do now. After Ask, `refused` tells the answer if it was no."""
        if self._left is None:
            if objection := self._objection(look):
                return GiveUp("", objection)
            if absent := [node for node in self.workers if node not in look.workers]:
                return self._await(absent, now)
            self._begin(look)
        if (current := self._current) is not None:
            step = self._watch(current, look, now)
            if step is not None:
                return step
        return self._go_on(look, now)

    def refused(self, reason: str) -> None:
        """The node that was asked will not, for now: it may be that the leader has just changed. It is asked again."""
        assert self._current is not None
        self._current.refusal = reason

    # -- beginning --------------------------------------------------------------------------------------------------

    def _objection(self, look: Look) -> str:
        """Why it cannot begin."""
        if self.brokers and (flaw := look.flaw()):
            return (
                f"{flaw}: every broker must be there and have caught up before one is restarted, or the cluster could "
                "be left without a majority. Nothing was done. Start what is missing, look at `status`, and try again"
            )
        if not look.leader:
            return "no broker leads, so no worker can be asked. Nothing was done. Start what is missing, and try again"
        return ""

    def _await(self, absent: Sequence[str], now: Nanos) -> Step:
        """Workers of the topology are not there, perhaps not yet: their launch has just begun. To leave one out would
        pass for success, and it would go on with old code."""
        if self._absent_since is None:
            self._absent_since = now
        if now - self._absent_since < self.limits.back:
            return Rest(f"{_workers(absent)} not there yet")
        seconds = self.limits.back // SECOND
        options = " ".join(f"--node {node}" for node in self.left if node not in absent)
        others = f", or go on without: python -m cluster restart TOPOLOGY {options}" if options else ""
        return GiveUp(
            "",
            f"{_workers(absent)} not there, after {seconds} s. Nothing was done. Look at the log of the launch that "
            f"runs {absent[0]}, or start it, on its machine (python -m cluster.launch TOPOLOGY --node {absent[0]}), "
            f"and try again{others}",
        )

    def _begin(self, look: Look) -> None:
        self._left = []
        for node in self.workers:
            if look.is_drained(node) and (self.wanted is Wanted.OUT or not self.named):
                self.skipped.append((node, "it is drained"))
            else:
                self._left.append((node, False))
        self._left += [(node, True) for node in self.brokers]

    def _go_on(self, look: Look, now: Nanos) -> Step:
        """Nobody has their turn: whose is it now?"""
        assert self._left is not None
        assert self._current is None
        if not self._left:
            return Done()
        if self._idle_since is None:
            self._idle_since = now
        node, is_broker = self._pick(look)
        flaw = look.flaw() if is_broker else "" if look.leader else "no broker leads"
        if not flaw and not is_broker and not (look.is_drained(node) or look.pid(node)):
            flaw = f"worker {node} is not there"
        if flaw:
            if now - self._idle_since > self.limits.back:
                seconds = self.limits.back // SECOND
                return self._give_up(node, f"{node} was not asked, because for {seconds} s {flaw}")
            return Rest(flaw)
        self._idle_since = None
        self._left.remove((node, is_broker))
        self._current = _Current(node, is_broker, look.pid(node), now)
        return self._ask(self._current, now)

    def _pick(self, look: Look) -> tuple[str, bool]:
        """In order, but a broker that leads comes last."""
        assert self._left
        first = self._left[0]
        if first[1] and first[0] == look.leader:
            return next((entry for entry in self._left if entry[0] != look.leader), first)
        return first

    # -- one node's turn ----------------------------------------------------------------------------------------------

    def _ask(self, current: _Current, now: Nanos) -> Ask:
        current.asked, current.refusal = now, ""
        return Ask(current.node, current.pid, self.wanted is Wanted.AGAIN, current.is_broker)

    def _watch(self, current: _Current, look: Look, now: Nanos) -> Step | None:
        """None: its turn is over."""
        if self._has_arrived(current, look, now):
            took, cut_off = now - current.since, look.cut_off(current.node)
            self.turns.append(Turn(current.node, current.pid, look.pid(current.node), took, cut_off))
            self._current = None
            return None
        running = 0 if current.is_broker else self.limits.running + LEAVE_AFTER
        if now - current.since > running + self.limits.back:
            seconds = (now - current.since) // SECOND
            state = self._state(current, look)
            what = "end" if current.pid or self.wanted is Wanted.OUT else "come back"
            return self._give_up(current.node, f"{current.node} was asked to {what} {seconds} s ago, and {state}")
        if current.is_broker and look.flaw():
            return self._rest(current, look, now)       # another one may have died since it was asked
        if now - current.asked >= ASK_AGAIN_AFTER and not self._is_heard(current, look):
            if self.wanted is Wanted.OUT:
                current.pid = look.pid(current.node)        # its launch may have replaced one that crashed
            return self._ask(current, now)
        return self._rest(current, look, now)

    def _rest(self, current: _Current, look: Look, now: Nanos) -> Rest:
        """Only its launch knows why a node does not come back: a module that cannot be imported, for example."""
        is_seen = current.is_broker or bool(look.leader)
        if self.wanted is Wanted.OUT or look.pid(current.node):
            current.gone_since = None
        elif current.gone_since is None and is_seen:
            current.gone_since = now
        advice, gone_since = "", current.gone_since
        if gone_since is not None and is_seen and now - gone_since >= LATE_AFTER:
            advice = f"{current.node} has not come back so far; the log of the launch that runs it says why"
        return Rest(self._state(current, look), advice)

    def _has_arrived(self, current: _Current, look: Look, now: Nanos) -> bool:
        """A broker has when all brokers have been well for a moment: before the next one ends, all links to this one
        should be there again, those of brokers that would vote for it, and those of workers and clients.
        """
        if self.wanted is Wanted.OUT:
            return look.is_drained(current.node)
        pid = look.pid(current.node)
        if not pid or pid == current.pid:
            return False
        if not current.is_broker:
            return look.is_serving(current.node)
        if look.flaw():
            current.well_since = None
            return False
        if current.well_since is None:
            current.well_since = now
        return now - current.well_since >= SETTLE

    def _is_heard(self, current: _Current, look: Look) -> bool:
        """Whether the node is on its way out, or back."""
        pid = look.pid(current.node)
        if current.is_broker:
            return pid != current.pid
        if not look.leader:
            return True                     # nobody to ask
        if self.wanted is Wanted.OUT:
            return not pid or bool(look.workers[current.node]["draining"])
        if not current.pid:
            return not look.is_drained(current.node)
        return pid != current.pid or bool(look.workers[current.node]["draining"])

    def _state(self, current: _Current, look: Look) -> str:
        """What is waited for."""
        row, pid = look.workers.get(current.node, {}), look.pid(current.node)
        why = f" ({current.refusal})" if current.refusal else ""
        if current.is_broker:
            if pid and pid == current.pid:
                return f"its process has not ended{why}" + (f", and {flaw}" if (flaw := look.flaw()) else "")
            return look.flaw() or "it is back, and is dialled by all"
        if not look.leader:
            return "no broker leads"
        if row.get("draining"):
            return f"it drains, with {row['running']} running"
        if pid and pid == current.pid:
            return f"its process has not ended{why}"
        if self.wanted is Wanted.OUT:
            return "it runs again" if pid else "its launch does not say that it stays out"
        return "its children have not all started" if pid else f"it is not back{why}"

    def _give_up(self, node: str, reason: str) -> GiveUp:
        rest = [other for other in self.left if other != node]
        advice = f"look at the log of the launch that runs {node}, and at `status`"
        if self.wanted is Wanted.OUT:
            return GiveUp(node, f"{reason}. What to do: {advice}")
        again = " ".join(f"--node {other}" for other in [node, *rest])
        untouched = f"; {', '.join(rest)} had no turn" if rest else ""
        return GiveUp(
            node,
            f"{reason}. What to do: {advice}{untouched}. When {node} is well, go on with: "
            f"python -m cluster restart TOPOLOGY {again}",
        )
