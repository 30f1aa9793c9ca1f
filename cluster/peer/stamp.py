"""The leader's time of day: what decides delays, times-to-live and cron in the replicated state.

A stamp is written into entries and never goes back, within a term or across terms. It is anchored at the election
and runs with the machine's steady clock; towards the brokers' wall clocks it only slews, so that a wall clock that
jumps moves no deadline. The target is the median of the wall clocks that answered (the lower one of two).
"""

from actors import MILLISECOND, Nanos

SLEW_PERCENT = 5
ALARM_AHEAD_MS = 60_000     # a last stamp so far ahead of the target means that some wall clock was wrong


class StampClock:
    """Stamps of one term. Invariant: `read` returns what it returned before, or more."""

    __slots__ = ("_last_ns", "_read_at")

    def __init__(self, last_ms: int, target_ms: int, now: Nanos) -> None:
        self._last_ns = max(last_ms, target_ms) * MILLISECOND
        self._read_at = now

    def read(self, now: Nanos, target_ms: int) -> int:
        """Integer milliseconds since the epoch; `target_ms` is the brokers' median wall clock at `now`."""
        # Nanoseconds inside: a busy leader reads every fraction of a millisecond, and the slew of a thousand short
        # spans must be that of one long span.
        elapsed = max(0, now - self._read_at)
        self._read_at += elapsed
        slew = elapsed * SLEW_PERCENT // 100
        error = target_ms * MILLISECOND - (self._last_ns + elapsed)
        self._last_ns += elapsed + max(-slew, min(slew, error))
        return self._last_ns // MILLISECOND

    def wait(self, date_ms: int, now: Nanos, target_ms: int) -> Nanos:
        """How long it takes from `now` until `read` gives this date, if the wall clocks go on as they do; 0 or less if
        it does by now."""
        self.read(now, target_ms)
        left = date_ms * MILLISECOND - self._last_ns
        error = target_ms * MILLISECOND - self._last_ns
        # It slews for all of that time, or until it is right.
        if error > 0:
            return max(-(-left * 100 // (100 + SLEW_PERCENT)), left - error)
        return min(-(-left * 100 // (100 - SLEW_PERCENT)), left - error)


def median_ms(clocks: list[int]) -> int:
    """The median; of an even number the lower of the two in the middle."""
    assert clocks, "the own clock always answers"
    return sorted(clocks)[(len(clocks) - 1) // 2]
