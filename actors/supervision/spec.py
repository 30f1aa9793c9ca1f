"""What a supervisor is told: its children, how hard it tries, and when it gives up.

The terms and defaults are OTP's (`supervisor.erl`), the backoff is ours. Every bad field has an error of its
own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from actors.mailbox import MailboxSpec
from actors.runtime.ports import MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    from actors.actor import Actor

INTENSITY_DEFAULT = 1
PERIOD_DEFAULT_NS = 5 * SECOND
SHUTDOWN_DEFAULT_NS = 5 * SECOND
CHILDREN_MAX = 65_536


class Restart(Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"    # always
    TRANSIENT = "transient"    # unless it ended as it should: normal or shutdown
    TEMPORARY = "temporary"    # never, and it is forgotten


class Strategy(Enum):
    """Whom the end of one child concerns."""

    ONE_FOR_ONE = "one_for_one"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before restarts in a row: none, then `min_ns`, twice that, ..., at most `max_ns`, each made up
    to `jitter_percent` longer. A child that lived for `reset_after_ns` starts over.
    """

    min_ns: Nanos = 100 * MILLISECOND
    max_ns: Nanos = 30 * SECOND
    jitter_percent: int = 20
    reset_after_ns: Nanos = 60 * SECOND

    def __post_init__(self) -> None:
        if not 0 <= self.min_ns <= self.max_ns:
            raise ValueError("backoff: 0 <= min_ns <= max_ns")
        if not 0 <= self.jitter_percent <= 100:
            raise ValueError("backoff: 0 <= jitter_percent <= 100")
        if self.reset_after_ns < 0:
            raise ValueError("backoff: reset_after_ns is not negative")

    def pause(self, restarts: int, below: Callable[[int], int]) -> Nanos:
        """Before the next restart, after so many in a row; `below(n)` draws from 0 to n - 1."""
        if restarts == 0:
            return 0
        # The shift is bounded, so that a child which fails for years costs no long integer.
        base = min(self.min_ns << min(restarts - 1, 32), self.max_ns)
        return base + below(base * self.jitter_percent // 100 + 1)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child. `start` makes a new actor each time, or returns None: then there is nothing to run.

    `shutdown_ns`: how long it may take to stop before it is killed; 0 kills at once, None waits for ever (for
    supervisors, so that they can stop their own children).
    """

    id: str
    start: "Callable[[], Actor | None]"
    restart: Restart = Restart.PERMANENT
    shutdown_ns: Nanos | None = SHUTDOWN_DEFAULT_NS
    mailbox: MailboxSpec = field(default_factory=MailboxSpec)

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a child needs an id")
        if not callable(self.start):
            raise ValueError(f"child {self.id}: start must be callable and make an actor")
        if not isinstance(self.restart, Restart):
            raise ValueError(f"child {self.id}: restart must be a Restart")
        if self.shutdown_ns is not None and self.shutdown_ns < 0:
            raise ValueError(f"child {self.id}: shutdown_ns is not negative, or None")


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """A supervisor: more than `intensity` restarts within `period_ns` are too many, and it gives up."""

    children: tuple[ChildSpec, ...] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = INTENSITY_DEFAULT
    period_ns: Nanos = PERIOD_DEFAULT_NS
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, Strategy):
            raise ValueError("strategy must be a Strategy")
        if self.intensity < 0:
            raise ValueError("intensity is not negative")
        if self.period_ns < 1:
            raise ValueError("period_ns is at least 1")
        if len(self.children) > CHILDREN_MAX:
            raise ValueError(f"at most {CHILDREN_MAX} children")
        seen: set[str] = set()
        for child in self.children:
            if child.id in seen:
                raise ValueError(f"two children have the id {child.id!r}")
            seen.add(child.id)
