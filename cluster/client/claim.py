"""One claim: a wish to hold one lock, from when it is asked for until it is over, as its owner sees it."""

from asyncio import Future, get_running_loop
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from msgspec import Struct

from actors import Nanos
from cluster.client.holding import Holding
from cluster.client.waiters import Waiter
from cluster.errors import ClusterError, LockLost

HOLD = "30s"                            # how long a lock is held through silence, if nobody says otherwise
REPLACED = "somebody came to replace all who hold it or wait"
GIVES_WAY = "somebody came to replace who holds it"
TURN_OVER = "it was held for as long as it may be"
SILENCE = "the cluster did not answer for as long as it is held without an answer, or this process was stopped"


class State(Enum):
    """What its owner knows of a claim. From BUSY on it is over."""

    QUEUED = "it has not left"
    ASKED = "it is not answered"
    WAITING = "it waits for its turn"
    HELD = "it holds the lock"
    BUSY = "others hold the lock, and it was not to wait"
    REPLACED = "somebody came to replace all who wait"
    REFUSED = "`error` says why"
    MISSED = "it ended, or counts no more, before its owner was told that it holds the lock"
    LOST = "it held the lock; `reason` says why not any more"
    OVER = "its owner gave it up"


class Wanted(Struct, frozen=True):
    """What is claimed: `units` of a lock that has `limit` of them."""

    name: str
    units: int
    limit: int
    hold_ms: int
    note: str
    at_most_ms: int = 0
    replaces: bool = False


class Keeper(Protocol):
    """All claims of the session that this one is of (`cluster.client.claims`)."""

    def release(self, claim: "Claim", waiter: Waiter | None, rest_ms: int) -> None: ...
    def extend(self, claim: "Claim", hold_ms: int, waiter: Waiter, at_most_ms: int) -> None: ...


class Claim:
    """`on_lost` is called if it is lost while it holds the lock."""

    def __init__(self, wanted: Wanted, *, waits: bool, keeper: Keeper) -> None:
        self.wanted = wanted
        self.waits = waits
        self.state = State.QUEUED
        self.id = 0                                 # from when it leaves, as the next
        self.holding: Holding | None = None
        self.fence = 0                              # once it is granted
        self.reason = ""
        self.error: ClusterError | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.is_wanted = False                      # while it is held: somebody came to replace its holder
        self.on_wanted: Callable[[], None] = lambda: None
        self.held_since: Nanos = 0                  # when its owner could know that it holds the lock
        self.left_at: Nanos = 0                     # when its Acquire left for the first time
        self.ask_at: Nanos = 0                      # when to ask what became of it, while it waits
        self.is_doubtful = False                    # it was said again: its answer may be an old one
        self.extending: list[Waiter] = []           # who asked for another hold time and was not answered
        self._keeper = keeper
        self._waiting: Future[None] | None = None

    def is_held(self, now: Nanos) -> bool:
        """By the clock, whatever was noticed: the process may have been stopped until this moment."""
        return self.state is State.HELD and self.holding is not None and not self.holding.has_ended(now)

    def release(self, waiter: Waiter | None = None, rest_ms: int = 0) -> None:
        """Gives it up, whatever has become of it. From now on it is not held; `waiter` is resolved when that is in the
        log, or there is nothing to be written. With `rest_ms` nobody gets the lock for so long."""
        self._keeper.release(self, waiter, rest_ms)

    def extend(self, hold_ms: int, waiter: Waiter, at_most_ms: int = 0) -> None:
        """Asks for another hold time (0 = as it is), or for more time of a bounded turn; `waiter` is resolved when that
        is in the log, or fails with LockLost."""
        self._keeper.extend(self, hold_ms, waiter, at_most_ms)

    def change(self) -> "Future[None]":
        """Done at the next change of its state. Several may wait for it: whoever may be cancelled shields it."""
        if self._waiting is None or self._waiting.done():
            self._waiting = get_running_loop().create_future()
        return self._waiting

    def become(self, state: State) -> None:
        self.state = state
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def lost(self, now: Nanos = 0) -> LockLost:
        """The error for who relied on it, and found by the clock at `now` that it ended, unless it is 0."""
        is_over = self.holding is not None and self.holding.is_over(now)
        by_itself = "it was released" if self.state is State.OVER else TURN_OVER if is_over else SILENCE
        return LockLost(self.wanted.name, self.fence, self.reason or by_itself)
