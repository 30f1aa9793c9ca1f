"""OTP's rules of supervision as a pure core: events in, actions out, no clock and no actors.

    stopped -> starting -> running -> (ends) -> starting | waiting -> starting | stopped | forgotten
                                  stopping -> stopped | forgotten

Rules, from `supervisor.erl`. Children start from left to right, each when the one before has started. At the
first start a failure ends the supervisor, without retries. Later each attempt to restart is counted, whether
it succeeds or not; more than `intensity` within `period_ns`, and the supervisor stops all and ends with
`shutdown`, so that a transient supervisor is not started again by its own. Who must be started again is a
table by restart type and reason; whom it concerns is a table by strategy. Ours is the pause between attempts:
the first comes at once, the next ones wait, so that a child which cannot start does not use up the intensity
within a millisecond. While a child waits or starts, everything else goes on: nothing here blocks.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from actors.messages import EXPECTED, SHUTDOWN, ExitReason, Failed
from actors.runtime.ports import Nanos
from actors.supervision.spec import ChildSpec, Restart, Strategy, SupervisorSpec

# (restart type, did it end as it should?) -> start it again?
RESTARTS = {
    (Restart.PERMANENT, True): True,
    (Restart.PERMANENT, False): True,
    (Restart.TRANSIENT, True): False,
    (Restart.TRANSIENT, False): True,
    (Restart.TEMPORARY, True): False,
    (Restart.TEMPORARY, False): False,
}

# Strategy -> which children stop and start anew with the one at this place, given how many there are.
AFFECTED: dict[Strategy, Callable[[int, int], range]] = {
    Strategy.ONE_FOR_ONE: lambda place, count: range(place, place + 1),
}


class State(Enum):
    """Of one child."""

    STOPPED = "stopped"
    STARTING = "starting"      # for the first time, or because somebody asked
    RESTARTING = "restarting"  # after it ended; the supervisor keeps trying
    WAITING = "waiting"        # for the next attempt
    RUNNING = "running"
    STOPPING = "stopping"      # because somebody asked


@dataclass(frozen=True, slots=True)
class Start:
    """Make the actor and start it; then `started` or `ended` must be called."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the actor within its limit; then `ended` must be called."""

    id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Call `due` after `delay`, unless the child is forgotten or stopped until then."""

    id: str
    delay: Nanos


@dataclass(frozen=True, slots=True)
class Ready:
    """All children that the specification names have started."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop all children, the last one first, and end with this reason."""

    reason: ExitReason


Action = Start | Stop | Wait | Ready | GiveUp


class Refusal(Enum):
    """Why an order about a child was not carried out."""

    ALREADY_STARTED = "already_started"
    ALREADY_PRESENT = "already_present"    # its specification is there, stopped
    RUNNING = "running"
    RESTARTING = "restarting"
    NOT_FOUND = "not_found"


# What stands in the way of restarting or deleting a child by order.
_BUSY = {
    State.STARTING: Refusal.RUNNING,
    State.RUNNING: Refusal.RUNNING,
    State.STOPPING: Refusal.RUNNING,
    State.RESTARTING: Refusal.RESTARTING,
    State.WAITING: Refusal.RESTARTING,
}


class Child:
    """One child as the core knows it."""

    __slots__ = ("restarts", "since", "spec", "state", "used")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = State.STOPPED
        self.restarts = 0         # in a row
        self.since: Nanos = 0     # when it was started last
        self.used = False         # it ran before: a start by order that fails leaves it stopped


class Supervision:
    """The children of one supervisor, in order.

    Invariants: at most one child is STARTING before `Ready`; after `GiveUp` nothing more is decided.
    """

    def __init__(self, spec: SupervisorSpec, below: Callable[[int], int]) -> None:
        self.spec = spec
        self.children: dict[str, Child] = {child.id: Child(child) for child in spec.children}
        self._below = below
        self._restarts: deque[Nanos] = deque()    # times of attempts within the period
        self._to_start = deque(child.id for child in spec.children)
        self._ready = False
        self._given_up = False

    def begin(self, now: Nanos) -> list[Action]:
        """Starts the first child."""
        return self._start_next(now)

    def started(self, child_id: str, now: Nanos) -> list[Action]:
        """The child runs."""
        child = self.children.get(child_id)
        if child is None or child.state not in (State.STARTING, State.RESTARTING):
            return []
        child.state = State.RUNNING
        child.since = now
        child.used = True
        return [] if self._ready else self._start_next(now)

    def ignored(self, child_id: str, now: Nanos) -> list[Action]:
        """`start` had nothing to run: the specification stays, unless it is temporary."""
        child = self.children[child_id]
        assert child.state in (State.STARTING, State.RESTARTING)
        self._rest(child)
        return [] if self._ready else self._start_next(now)

    def ended(self, child_id: str, reason: ExitReason, now: Nanos) -> list[Action]:
        """The child ended, or failed to start."""
        child = self.children.get(child_id)
        if child is None or self._given_up:
            return []
        if child.state is State.STARTING and not self._ready:
            text = f"failed to start child {child_id}: {reason}"
            return self._give_up(Failed("StartFailed", text))
        if child.state is State.STARTING and not child.used:
            del self.children[child_id]    # an order to start it that failed leaves nothing behind
            return []
        if child.state in (State.STARTING, State.STOPPING):
            self._rest(child)
            return []
        failed_again = child.state is State.RESTARTING
        if not failed_again and not RESTARTS[child.spec.restart, isinstance(reason, EXPECTED)]:
            self._rest(child)
            return []
        if not failed_again and now - child.since >= self.spec.backoff.reset_after_ns:
            child.restarts = 0
        if not self._admit(now):
            return self._give_up(SHUTDOWN)
        return self._restart(child)

    def due(self, child_id: str) -> list[Action]:
        """The pause of this child is over."""
        child = self.children.get(child_id)
        if child is None or child.state is not State.WAITING or self._given_up:
            return []
        child.state = State.RESTARTING
        return [Start(child_id)]

    def add(self, spec: ChildSpec) -> Refusal | list[Action]:
        """By order: a new child."""
        child = self.children.get(spec.id)
        if child is not None:
            present = child.state is State.STOPPED or child.state in (State.WAITING, State.RESTARTING)
            return Refusal.ALREADY_PRESENT if present else Refusal.ALREADY_STARTED
        self.children[spec.id] = child = Child(spec)
        child.state = State.STARTING
        return [Start(spec.id)]

    def terminate(self, child_id: str) -> Refusal | list[Action]:
        """By order: the child stops and stays so; a temporary one is forgotten. Twice is as good as once."""
        child = self.children.get(child_id)
        if child is None:
            return Refusal.NOT_FOUND
        if child.state in (State.RUNNING, State.STARTING, State.RESTARTING):
            child.state = State.STOPPING
            child.used = True
            return [Stop(child_id)]
        if child.state is State.WAITING:
            self._rest(child)
        return []

    def restart(self, child_id: str) -> Refusal | list[Action]:
        """By order: a stopped child starts again."""
        child = self.children.get(child_id)
        if child is None:
            return Refusal.NOT_FOUND
        if child.state is not State.STOPPED:
            return _BUSY[child.state]
        child.state = State.STARTING
        child.restarts = 0
        child.used = True
        return [Start(child_id)]

    def delete(self, child_id: str) -> Refusal | list[Action]:
        """By order: a stopped child is forgotten."""
        child = self.children.get(child_id)
        if child is None:
            return Refusal.NOT_FOUND
        if child.state is not State.STOPPED:
            return _BUSY[child.state]
        del self.children[child_id]
        return []

    def _start_next(self, now: Nanos) -> list[Action]:
        if not self._to_start:
            self._ready = True
            return [Ready()]
        child_id = self._to_start.popleft()
        self.children[child_id].state = State.STARTING
        return [Start(child_id)]

    def _restart(self, failed: Child) -> list[Action]:
        """The failed child, and whom else its end concerns, start anew."""
        ids = list(self.children)
        concerned = AFFECTED[self.spec.strategy](ids.index(failed.spec.id), len(ids))
        assert [ids[place] for place in concerned] == [failed.spec.id], "other strategies stop others first"
        pause = self.spec.backoff.pause(failed.restarts, self._below)
        failed.restarts += 1
        if pause == 0:
            failed.state = State.RESTARTING
            return [Start(failed.spec.id)]
        failed.state = State.WAITING
        return [Wait(failed.spec.id, pause)]

    def _rest(self, child: Child) -> None:
        """It is not started again; a temporary one leaves nothing behind."""
        child.state = State.STOPPED
        child.restarts = 0
        if child.spec.restart is Restart.TEMPORARY:
            del self.children[child.spec.id]

    def _admit(self, now: Nanos) -> bool:
        """Counts an attempt; False if that is one too many."""
        self._restarts.append(now)
        while self._restarts[0] < now - self.spec.period_ns:
            self._restarts.popleft()
        assert len(self._restarts) <= self.spec.intensity + 1
        return len(self._restarts) <= self.spec.intensity

    def _give_up(self, reason: ExitReason) -> list[Action]:
        self._given_up = True
        return [GiveUp(reason)]
