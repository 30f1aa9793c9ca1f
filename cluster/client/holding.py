"""The holder's half of a claim on a lock: until when it may believe that it has it.

The leader counts how long a client has been silent, from when it heard of it, and gives the lock to the next one after
the hold time. The holder counts from when it SENT what the leader heard: the last heartbeat that was answered, or the
claim itself, on its own clock, and stops a margin earlier. So whatever happened on the way in between, it stops before
another one may begin. The margin covers how far two clocks drift apart within the hold time, and how long it takes to
tell who holds it: a client looks ten times a second.

It counts from the beginning, also while it waits for its turn. If the turn is bounded, the leader counts for how long
the claim is held, too, from when it saw it granted. Who asks is told for how long that was, and must have stopped when
the rest has passed since it asked. A count that ran out is never taken up again: the leader may have asked the log by
then to end the claim, and what it says until that is written proves nothing.
"""

Nanos = int

MILLISECOND: Nanos = 1_000_000
MARGIN_MIN: Nanos = 200 * MILLISECOND
MARGIN_PART = 10                # of the hold time, if that is more
TURN_MARGIN_PART = 1_000        # of a bounded turn, which may last for days: clocks of two machines differ by less


class Holding:
    """One claim's lease. Invariant: once `now` has reached `until`, that never grows."""

    __slots__ = ("_asked", "_bound", "_bounds_asked", "_heard", "_hold", "until")

    def __init__(self, hold: Nanos, sent: Nanos) -> None:
        """Of a claim that leaves at `sent` and may be silent for `hold`."""
        assert hold > MARGIN_MIN
        self._hold = hold
        self._heard = sent
        self._asked: list[Nanos] = []       # other hold times that were asked for, in order
        self._bound: Nanos | None = None    # when its turn is over, if that is bounded
        self._bounds_asked: list[Nanos] = []        # other ends of its turn that were asked for, in order
        self._count()

    def has_ended(self, now: Nanos) -> bool:
        return now >= self.until

    def answered(self, sent: Nanos, now: Nanos) -> None:
        """The leader answered the heartbeat that was sent at `sent`."""
        if not self.has_ended(now):
            self._heard = max(self._heard, sent)
            self._count()

    def asks(self, hold: Nanos) -> None:
        """Another hold time is asked for, and may be applied from now on."""
        assert hold > MARGIN_MIN
        self._asked.append(hold)
        self._count()

    def extended(self, now: Nanos) -> None:
        """What was asked for first of all that is not answered is in the log."""
        if not self.has_ended(now):
            self._hold = self._asked.pop(0)
            self._count()

    def bound(self, since: Nanos, at_most: Nanos) -> None:
        """The leader counts the turn from `since` or later, and lets it last for `at_most`."""
        self._bound = since + at_most - turn_margin_of(at_most)
        self._count()

    def asks_bound(self, since: Nanos, at_most: Nanos) -> None:
        """Another bound is asked for, and may be applied from now on."""
        self._bounds_asked.append(since + at_most - turn_margin_of(at_most))
        self._count()

    def prolonged(self, now: Nanos) -> None:
        """The bound that was asked for first of all that are not answered is in the log."""
        end = self._bounds_asked.pop(0)
        if not self.has_ended(now):
            self._bound = end
            self._count()

    def is_over(self, now: Nanos) -> bool:
        """Its turn has taken too long."""
        return self._bound is not None and now >= self._bound

    def _count(self) -> None:
        """What was asked for may be applied already: the shortest counts."""
        hold = min([self._hold, *self._asked])
        until = self._heard + hold - margin_of(hold)
        self.until = until if self._bound is None else min([until, self._bound, *self._bounds_asked])


def margin_of(hold: Nanos) -> Nanos:
    """How much earlier than anybody else may hold it the holder of a lock stops to believe in it."""
    return max(MARGIN_MIN, hold // MARGIN_PART)


def turn_margin_of(at_most: Nanos) -> Nanos:
    """The same of the bound of a turn."""
    return max(MARGIN_MIN, at_most // TURN_MARGIN_PART)
