"""What the leader knows of one follower, and how much it may have on the way to it.

A follower is *probed* (one message at a time, its position is not known), *replicated to* (optimistically, many
messages in flight) or waits for a *snapshot*. A lost message turns replication back into probing through its rejection.
A snapshot is waited for until an acknowledgement connects the follower to the leader's log, of whatever index (there
may be several ways to get a state), or until the shell says how its transfer ended.
"""

from collections import deque
from enum import Enum


class ProgressState(Enum):
    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


class Inflights:
    """Appends on their way to one follower, bounded by count and by bytes (0 = no bound on bytes).

    Invariant: indexes rise; `bytes` is the sum of the sizes kept.
    """

    __slots__ = ("_sent", "bytes", "bytes_max", "count_max")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.bytes = 0
        self._sent: deque[tuple[int, int]] = deque()     # (last index of the message, its bytes)

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        return len(self._sent) >= self.count_max or (self.bytes_max != 0 and self.bytes >= self.bytes_max)

    def add(self, last_index: int, size: int) -> None:
        assert not self.full, "a message was sent past the limit of appends in flight"
        assert not self._sent or self._sent[-1][0] < last_index
        self._sent.append((last_index, size))
        self.bytes += size

    def free_up_to(self, index: int) -> None:
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.bytes -= sent.popleft()[1]

    def reset(self) -> None:
        self._sent.clear()
        self.bytes = 0


class Progress:
    """One follower as its leader sees it. Invariant: 0 <= match < next; match never falls within a term but by
    `restarted` (the follower came back with less than it had acknowledged)."""

    __slots__ = (
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "quarantine_confirmed",
        "quarantined",
        "recent_active",
        "release_index",
        "sent_commit",
        "share_left",
        "state",
    )

    def __init__(self, match: int, next_index: int, inflights: Inflights, *, is_learner: bool = False) -> None:
        self.match = match
        self.next = next_index
        self.inflights = inflights
        self.is_learner = is_learner
        self.state = ProgressState.PROBE
        self.flow_paused = False        # no append until an answer: a probe is out, or the flight is full
        self.recent_active = False      # heard from since the last check of the quorum
        self.pending_snapshot = 0       # SNAPSHOT: where the one on its way ends; what it acknowledges counts, not this
        self.sent_commit = 0            # the highest commit index on its way to it
        self.quarantined = False        # it lost data: counts for no commit, confirmation or quorum
        self.quarantine_confirmed = False   # it said itself that it bears the mark durably
        self.share_left: int | None = None  # bytes until the next heartbeat, of one that lags (`catch_up`)
        self.release_index = 0          # > 0: the entry of this leader's term that ends (or ended) its quarantine

    @property
    def paused(self) -> bool:
        return (
            self.flow_paused
            or self.state is ProgressState.SNAPSHOT
            or (self.share_left is not None and self.share_left <= 0 and self.state is ProgressState.REPLICATE)
        )

    def _enter(self, state: ProgressState) -> None:
        self.flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        pending = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._enter(ProgressState.PROBE)
        self.next = max(self.match, pending) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def snapshot_ended(self, *, ok: bool) -> None:
        """The transfer is over. If it reached the follower, its answer will tell how far it got; if not, the next try
        waits for a sign of life. Either way nothing is sent before it answers something."""
        assert self.state is ProgressState.SNAPSHOT
        if not ok:
            self.pending_snapshot = 0   # else it would be probed from where it never got
        self.become_probe()
        self.flow_paused = True

    def sent_entries(self, count: int, size: int) -> None:
        """An append with `count` entries of `size` payload bytes left for it."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
                if self.share_left is not None:
                    self.share_left -= size
            # A message that fills the flight doubles as the probe that finds out when it has landed.
            self.flow_paused = self.inflights.full
        elif self.state is ProgressState.PROBE and count:
            self.flow_paused = True

    def can_bump_commit(self, commit: int) -> bool:
        """Whether an empty append would tell it a commit index that it can use and has not been sent."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """It acknowledged `index`; False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.flow_paused = False
        return True

    def maybe_decrease(self, rejected: int, match_hint: int) -> bool:
        """It rejected the append after `rejected`; False if that answer is stale."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, match_hint + 1), self.match + 1)
            self.flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    def restarted(self, kept: int) -> None:
        """A new incarnation of it still holds this much of what it had acknowledged."""
        assert kept <= self.match
        self.match = kept
        self.become_probe()
        self.next = self.match + 1
        self.sent_commit = 0
