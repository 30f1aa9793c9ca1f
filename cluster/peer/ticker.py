"""When the Raft core ticks. The core counts ticks of 10 ms; this says how many have passed, at moments that cost little
and deceive nobody after a pause."""

from collections.abc import Callable

from actors import MILLISECOND, Context, Nanos

TICK = 10 * MILLISECOND
CALM_TICKS = 10                     # looked at together while no election is near: idle brokers should cost nothing
PAUSE_TICKS = 2 * CALM_TICKS        # since the last look: this process did not run
CATCH_UP_TICKS_MAX = 20             # after a pause: a stall must not become an election by arithmetic


class Ticker:
    """Calls `tick(count)` with the ticks that have passed since the last call, a few of them or many at once.

    While `is_calm()` (a leader, and those that hear it) they are looked at in tens; who may stand for election soon
    counts each.
    """

    def __init__(self, context: Context, tick: Callable[[int], None], is_calm: Callable[[], bool]) -> None:
        self._context = context
        self._clock = context.clock
        self._tick = tick
        self._is_calm = is_calm
        self._guarded_look = context.callback(self._look)
        self._looked_at: Nanos = context.clock.now()
        self._arm(TICK)

    def settle(self) -> None:
        """Counts what has passed until now, before news that begin a countdown: it must not begin with the ticks of a
        calm before it. Those of a pause are not counted at all then: who does not run hears no leader."""
        if self._clock.now() - self._looked_at < PAUSE_TICKS * TICK:
            self._count()
        else:
            self._looked_at = self._clock.now()

    def look_soon(self) -> None:
        """It may have become less calm."""
        self._arm(self._interval())

    def _interval(self) -> Nanos:
        return CALM_TICKS * TICK if self._is_calm() else TICK

    def _arm(self, wait: Nanos) -> None:
        self._context.timer("tick", wait, self._before_look)

    def _before_look(self) -> None:
        """Sockets first: what arrived during a pause must count before the ticks that it lasted. Two steps of
        call_soon have a poll of the sockets between them."""
        if self._clock.now() - self._looked_at < PAUSE_TICKS * TICK:
            self._look()
        else:
            self._clock.call_soon(self._poll_first)

    def _poll_first(self) -> None:
        self._clock.call_soon(self._guarded_look)

    def _look(self) -> None:
        self._arm(self._interval())
        self._count()

    def _count(self) -> None:
        elapsed = (self._clock.now() - self._looked_at) // TICK
        self._looked_at += elapsed * TICK
        self._tick(min(elapsed, CATCH_UP_TICKS_MAX))
