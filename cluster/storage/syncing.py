"""Where a log is made durable: on the loop, or by a job beside it.

A sync on a fast disk takes less than the hop to a thread and back, so it is made on the loop; one that takes longer
would hold up heartbeats. Which of both a disk is, is found out when the log is opened. But a fast disk is slow while
something else writes or frees much on it, a snapshot or another broker: after a slow sync all go to the thread, until
none has been slow for a while. What takes several syncs, or is large, is left to it at any time, and what is no single
task is made there while syncs are not quick, with the loop waiting for it as long as a slow one takes (`wal`).
"""

from typing import Literal

from actors import MICROSECOND, MILLISECOND, SECOND, Clock, File, Nanos
from cluster.storage.segment import WalLimits

SyncMode = Literal["inline", "thread"]

SLOW = 20 * MILLISECOND         # a sync that takes longer is the last one on the loop for now
QUICK = 300 * MICROSECOND       # syncs that take less are made on the loop: a hop would cost a fifth of one or more
SHIFT = 3                       # an eighth of each difference moves the mean
CALM = 2 * SECOND               # without a slow one: the disk is fast again
PROBE_ROUNDS_MAX = 4
PROBE_AGAIN_FACTOR = 4          # a median so many times above the limit is the disk's: start without further delay


class Syncing:
    """`mode` is what the disk was found to be, `p50_ns` the median of the syncs that found it (0: it was given)."""

    __slots__ = ("_clock", "_mean", "_slow_until", "mode", "p50_ns")

    def __init__(self, clock: Clock, mode: SyncMode, p50_ns: Nanos = 0) -> None:
        self.mode: SyncMode = mode
        self.p50_ns = p50_ns
        self._clock = clock
        self._mean: Nanos = p50_ns
        self._slow_until: Nanos = 0

    @property
    def is_inline(self) -> bool:
        """Whether the loop makes the next sync."""
        return self.mode == "inline" and self._clock.now() >= self._slow_until

    @property
    def is_quick(self) -> bool:
        """Whether a sync costs so little these days that one beside the loop would cost the loop more."""
        return self._mean < QUICK

    def took(self, duration: Nanos) -> None:
        """So long took a write with its sync, wherever it was made; 0: nobody can say."""
        if duration:
            self._mean += (duration - self._mean) >> SHIFT
        if duration > SLOW:
            self._slow_until = self._clock.now() + CALM


def probe_sync(clock: Clock, file: File, offset: int, data: bytes, limits: WalLimits) -> Nanos:
    """The median time of `limits.probe_syncs` small writes, each with its sync: the same bytes again and again where
    they already are.

    A median somewhat above the limit is asked again, and the best of the rounds counts: nodes that start together
    on one machine are in each other's way for a moment, a slow disk is slow every time.
    """
    count, limit = limits.probe_syncs, limits.thread_above_ns
    best = _probe_round(clock, file, offset, data, count)
    for _ in range(PROBE_ROUNDS_MAX - 1):
        if not limit < best <= PROBE_AGAIN_FACTOR * limit:
            break
        best = min(best, _probe_round(clock, file, offset, data, count))
    return best


def _probe_round(clock: Clock, file: File, offset: int, data: bytes, count: int) -> Nanos:
    times: list[Nanos] = []
    for _ in range(count):
        start = clock.now()
        file.pwrite((data,), offset)
        file.sync()
        times.append(clock.now() - start)
    return sorted(times)[count // 2]
