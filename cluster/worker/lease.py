"""The holder's half of a lease: until when it may act as if it still held its session.

The leader counts the session's silence from when it heard of it, on its own clock. The holder counts from
when it SENT the last heartbeat that was answered, on its own clock, and stops a margin earlier: whatever
happened on the way in between, it stops before the leader may give its tasks to another. The margin covers
how long stopping takes and how far two clocks drift apart within one lease.
"""

Nanos = int

LEASE_NS: Nanos = 10_000_000_000
MARGIN_NS: Nanos = 1_000_000_000
HEARTBEAT_INTERVAL_NS: Nanos = 500_000_000

assert HEARTBEAT_INTERVAL_NS * 4 < LEASE_NS - MARGIN_NS, "a few lost heartbeats must not cost the session"


class Lease:
    """One session's lease. Invariant: `until` never goes back."""

    __slots__ = ("until",)

    def __init__(self, sent: Nanos) -> None:
        """Starts with the registration that was sent at `sent` and is answered now."""
        self.until = sent + LEASE_NS - MARGIN_NS

    def answered(self, sent: Nanos, now: Nanos) -> None:
        """The leader answered the heartbeat that was sent at `sent`. A lease that has ended stays so."""
        if now < self.until:
            self.until = max(self.until, sent + LEASE_NS - MARGIN_NS)

    def has_ended(self, now: Nanos) -> bool:
        return now >= self.until
