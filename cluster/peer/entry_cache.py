"""The log as the Raft core reads it: recent entries from memory, older ones from the disk.

Entries are cached when they are handed to the disk, so that followers that keep up and `apply` never read; a follower
that lags is served by pread. The cache is bounded by bytes and loses its oldest entries first.
"""

from collections import deque
from collections.abc import Callable

from cluster.raft.messages import Entry, HardState, SnapshotMark
from cluster.storage.recovery import Recovery
from cluster.storage.wal import Wal

CACHE_BYTES_MAX = 64 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 256      # the objects around a cached entry's two byte strings


class EntryCache:
    """`cluster.raft.log.LogStorage` over a Wal. Invariant: cached entries are contiguous and end at the last one
    that was handed to the disk."""

    def __init__(self, wal: Wal, recovery: Recovery, snapshot: Callable[[], SnapshotMark | None]) -> None:
        self._wal = wal
        self._recovery = recovery
        self._snapshot = snapshot
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def initial_state(self) -> HardState:
        state = self._recovery.hard_state
        return HardState(state.term, state.vote, min(state.commit, self._recovery.last_index))

    def first_index(self) -> int:
        return self._recovery.first_index

    def last_index(self) -> int:
        return self._recovery.last_index

    def term_runs(self) -> list[tuple[int, int]]:
        return [self._recovery.base, *self._recovery.terms]

    def snapshot(self) -> SnapshotMark | None:
        """The newest one, for a follower that needs what is not in the log any more."""
        return self._snapshot()

    def clear(self) -> None:
        """A snapshot took the place of the log."""
        self._entries.clear()
        self._bytes = 0

    def handed_out(self, entries: list[Entry], truncate_from: int) -> None:
        """These entries go to the disk; those from `truncate_from` on (0: none) are void."""
        cache = self._entries
        if truncate_from:
            while cache and cache[-1].index >= truncate_from:
                self._bytes -= _size(cache.pop())
        assert not cache or not entries or cache[-1].index + 1 == entries[0].index
        for entry in entries:
            cache.append(entry)
            self._bytes += _size(entry)
        while self._bytes > CACHE_BYTES_MAX and len(cache) > 1:
            self._bytes -= _size(cache.popleft())

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """At least one, then up to `bytes_max` bytes of payload."""
        assert low < high
        cache = self._entries
        if not cache or low < cache[0].index:
            cached_from = cache[0].index if cache else high
            return self._wal.read(low, min(high, cached_from), bytes_max)
        first = cache[0].index
        found: list[Entry] = []
        total = 0
        for position in range(low - first, high - first):
            entry = cache[position]
            total += len(entry.payload)
            if found and total > bytes_max:
                break
            found.append(entry)
        return found


def _size(entry: Entry) -> int:
    return len(entry.payload) + len(entry.record) + ENTRY_OVERHEAD_BYTES
