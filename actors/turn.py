"""What happens within one turn of the loop, and in which order.

A turn starts with whatever woke the loop (messages of the network, a timer, a child's frame). Everything that
follows from it runs in three phases of ONE callback: first actors take entries from their mailboxes, then the
callbacks that asked for the end of the turn run (a client makes one command of all submits, a broker one
entry of all commands), then what was sent leaves, one frame for each peer. So a batch holds all that the turn
brought, and no timer ever waits for a batch to fill. Three callbacks of the loop instead of one would cost a
poll each, and what the second phase sends would miss the frame of the third.

A turn is bounded: an actor that keeps others busy cannot hold back the frames of this turn for ever.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from actors.runtime.ports import Clock, Nanos

TURN_ENTRIES_MAX = 1_024     # then frames leave, and the loop looks at its sockets again
CELL_ENTRIES_MAX = 64        # of one actor before the next one's turn
assert CELL_ENTRIES_MAX < TURN_ENTRIES_MAX, "one actor must not fill a turn"


class Runnable(Protocol):
    """An actor's cell, as the turn sees it."""

    def run(self, entries_max: int) -> int:
        """Handles at most that many entries and returns how many; asks for another run if some are left."""


class Turn:
    """The work of one turn of one process, in order. `take_longest` tells for how long the loop was held."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[Runnable] = deque()
        self._ends: dict[Callable[[], None], None] = {}
        self._flushes: dict[Callable[[], None], None] = {}
        self._scheduled = False
        self._longest: Nanos = 0

    def take_longest(self) -> Nanos:
        """How long the longest turn took since this was last asked; time in which the system ran others counts too."""
        longest, self._longest = self._longest, 0
        return longest

    def ready(self, cell: Runnable) -> None:
        """Lets `cell` run in this turn; a cell asks once, and again only when it runs."""
        self._ready.append(cell)
        if not self._scheduled:
            self._schedule()

    def at_end(self, callback: Callable[[], None]) -> None:
        """Runs `callback` once after the actors of this turn, however often it is asked for."""
        self._ends[callback] = None
        if not self._scheduled:
            self._schedule()

    def at_flush(self, callback: Callable[[], None]) -> None:
        """Runs `callback` once, last of all in this turn."""
        self._flushes[callback] = None
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._clock.call_soon(self._run)

    def _run(self) -> None:
        # Stays true while this runs: whoever asks for more from inside needs no second callback.
        assert self._scheduled
        start = self._clock.now()
        try:
            ready = self._ready
            entries = TURN_ENTRIES_MAX
            while ready and entries > 0:
                entries -= ready.popleft().run(CELL_ENTRIES_MAX)
            self._drain(self._ends)
            self._drain(self._flushes)
        finally:
            self._scheduled = False
            took = self._clock.now() - start
            if took > self._longest:
                self._longest = took
            if self._ready or self._ends or self._flushes:
                self._schedule()

    @staticmethod
    def _drain(callbacks: dict[Callable[[], None], None]) -> None:
        # Only those that are there now: one that asks again runs at the end of the next turn. Each is taken
        # out before it runs, so that one that raises does not run for ever, and the others stay for the next
        # turn.
        for callback in tuple(callbacks):
            del callbacks[callback]
            callback()
