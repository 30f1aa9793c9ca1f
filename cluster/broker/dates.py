"""A timer at a date of the cluster's time of day.

That time does not run with the clock of this machine: for as long as wall clocks differ from it, it runs faster or
slower, by up to 5 %. A timer that was set a day before by the clock alone would come an hour late. So how long to wait
is asked of the stamp, and asked again now and then, since clocks may be set right meanwhile.
"""

from collections.abc import Callable

from actors import MILLISECOND, Nanos

# Smaller changes leave the timer as it is. Who calls back too early is told so by the stamp.
SLACK: Nanos = 20 * MILLISECOND


class DateTimer:
    """Calls back once when the stamp has reached a date, or a moment before. `until` says how long that takes, `arm`
    sets the one timer, in place of what was set before, `disarm` takes it away."""

    __slots__ = ("_arm", "_date_ms", "_disarm", "_now", "_rings_at", "_until")

    def __init__(
        self,
        now: Callable[[], Nanos],
        until: Callable[[int], Nanos],
        arm: Callable[[Nanos], None],
        disarm: Callable[[], None],
    ) -> None:
        self._now = now
        self._until = until
        self._arm = arm
        self._disarm = disarm
        self._date_ms = 0
        self._rings_at: Nanos = 0

    @property
    def date_ms(self) -> int:
        """0 while there is none."""
        return self._date_ms

    def set(self, date_ms: int) -> None:
        """0: never."""
        if date_ms == self._date_ms:
            return
        self._date_ms = date_ms
        if date_ms:
            self._set(self._wait())
        else:
            self._disarm()

    def look(self) -> None:
        """Time may run otherwise than when it was set."""
        if self._date_ms:
            wait = self._wait()
            if abs(self._now() + wait - self._rings_at) > SLACK:
                self._set(wait)

    def rung(self) -> int:
        """The timer has come: for which date?"""
        date_ms, self._date_ms = self._date_ms, 0
        return date_ms

    def _wait(self) -> Nanos:
        return max(self._until(self._date_ms), MILLISECOND)

    def _set(self, wait: Nanos) -> None:
        self._rings_at = self._now() + wait
        self._arm(wait)
