"""Time for the actors of one system: one callback of the clock serves all timers and all asks."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

from actors.asks import Asks
from actors.runtime.ports import Cancel, Clock, Nanos
from actors.timers import Timers

Key = tuple[object, Hashable]    # owner, and the owner's own name for it


class Alarm:
    """The timers of a system, and the deadlines of its asks.

    Invariant: if anything is due at some time, a callback of the clock is armed for then or earlier.
    """

    def __init__(self, clock: Clock, asks: Asks) -> None:
        self._clock = clock
        self._asks = asks
        self._timers: Timers[Key, Callable[[], None]] = Timers()
        self._armed: tuple[Nanos, Cancel] | None = None

    def set(self, key: Key, delay: Nanos, callback: Callable[[], None]) -> None:
        """Calls back once after `delay`; replaces the timer of the same key."""
        self._timers.set(key, self._clock.now() + delay, callback)
        self.arm()

    def cancel(self, key: Key) -> None:
        """Forgets a timer."""
        self._timers.cancel(key)

    def pending(self) -> list[tuple[Key, Nanos]]:
        """All that is set, and when it is due; of the asks the first."""
        pending = self._timers.pending()
        deadline = self._asks.next_deadline()
        return pending if deadline is None else [*pending, ((self._asks, ""), deadline)]

    def arm(self) -> None:
        """Looks for the earliest deadline again: there is a new one."""
        deadlines = [when for when in (self._timers.next(), self._asks.next_deadline()) if when is not None]
        if not deadlines:
            return
        when = min(deadlines)
        if self._armed is not None:
            if self._armed[0] <= when:
                return    # too early is harmless: it looks, and arms again
            self._armed[1].cancel()
        self._armed = (when, self._clock.call_at(when, self._ring))

    def _ring(self) -> None:
        self._armed = None
        now = self._clock.now()
        try:
            self._asks.expire(now)
            for _, callback in self._timers.due(now):
                callback()
        finally:
            self.arm()


class Fire(NamedTuple):
    """In the system lane of a mailbox: this timer is due. `number` tells it from one that was set again
    since.
    """

    key: Hashable
    number: int


class ActorTimers:
    """The timers of one actor, by its own keys.

    A timer that is due waits in the mailbox until it is the actor's turn; cancelled until then, it does not
    run.
    """

    __slots__ = ("_alarm", "_number", "_post", "_set", "owner")

    def __init__(self, alarm: Alarm, post: Callable[[Fire], None], owner: object = None) -> None:
        self.owner = owner
        self._alarm = alarm
        self._post = post
        self._set: dict[Hashable, tuple[int, object]] = {}
        self._number = 0

    def set(self, key: Hashable, delay: Nanos, what: object) -> None:
        """Lets `what` be due after `delay`; replaces the timer of the same key."""
        self._number += 1
        self._set[key] = (self._number, what)
        self._alarm.set((self, key), delay, partial(self._post, Fire(key, self._number)))

    def cancel(self, key: Hashable) -> None:
        """Forgets a timer, also one that is due."""
        if self._set.pop(key, None) is not None:
            self._alarm.cancel((self, key))

    def take(self, fire: Fire) -> object | None:
        """What is to be done, or None if it was cancelled or set again."""
        found = self._set.get(fire.key)
        if found is None or found[0] != fire.number:
            return None
        del self._set[fire.key]
        return found[1]

    def clear(self) -> None:
        """Forgets all."""
        for key in tuple(self._set):
            self.cancel(key)
