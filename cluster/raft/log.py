"""The log as the core sees it: which terms it holds, what is durable, committed and applied.

Entries that are not durable yet are kept here (the *unstable tail*); the others are asked from storage. The terms of
the whole log are kept as runs `[(first_index, term)]`, which are as many as there were leaders, so that matching and
conflict search touch no entry and no disk.

Durability is told by write ids. A write that is on its way covers entries up to some last index; when a later write
overwrites some of them, the earlier one vouches only for what is left. So a late completion can never confirm entries
of another leader that took the same places (etcd tells that by term and index; its ABA test is in the transcripts).
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from cluster.raft.messages import Entry, HardState, SnapshotMark

ENTRY_OVERHEAD_BYTES = 40       # what an entry costs beside its payload, about a record's header


class LogStorage(Protocol):
    """What the shell keeps of the log. The core never writes it: writes are effects."""

    def initial_state(self) -> HardState: ...

    def first_index(self) -> int:
        """Of the first entry still kept; the entry before it has a known term (`term_runs` covers it)."""

    def last_index(self) -> int:
        """Of the last entry, or `first_index - 1`."""

    def term_runs(self) -> Sequence[tuple[int, int]]:
        """(first index, term) of each run, rising in both, from `first_index - 1` on (index 0 has term 0)."""

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Entries low <= index < high that were handed out in writes; at least one, then up to `bytes_max`."""

    def snapshot(self) -> SnapshotMark | None:
        """The newest snapshot, which reaches `first_index - 1` at least; None if none is at hand now: the leader asks
        again when the follower shows its next sign of life."""


class RaftLog:
    """Invariant: applied <= applying <= committed <= last_index; offset - 1 = the last durable index.

    While `snapshot` is set, a snapshot of the leader has taken the place of the log and is not durable or not installed
    yet: then nothing is durable, nothing is given out to apply, and `applied` is still what it was before.
    """

    __slots__ = (
        "_apply_paused",
        "_applying_bytes",
        "_applying_bytes_max",
        "_snapshot_durable",
        "_snapshot_installed",
        "_starts",
        "_storage",
        "_terms",
        "applied",
        "applying",
        "committed",
        "first_index",
        "handed_out",
        "last_index",
        "offset",
        "snapshot",
        "snapshot_handed_out",
        "unstable",
    )

    def __init__(self, storage: LogStorage, *, applied: int = 0, applying_bytes_max: int = 1 << 62) -> None:
        self._storage = storage
        self.first_index = storage.first_index()
        self.last_index = storage.last_index()
        runs = storage.term_runs()
        self._starts = [start for start, _ in runs]
        self._terms = [term for _, term in runs]
        assert self._starts and self._starts[0] <= self.first_index - 1, "the entry before the first has no term"
        assert applied >= self.first_index - 1, "the state lacks entries that the log has not any more"
        assert applied <= self.last_index, "the state is ahead of the log: begin the log anew behind the snapshot"
        self.committed = self.applied = self.applying = applied
        self.unstable: list[Entry] = []             # entries from `offset` on
        self.offset = self.last_index + 1
        self.handed_out = self.offset               # first index that no write has taken yet
        self._applying_bytes = 0
        self._applying_bytes_max = applying_bytes_max
        self._apply_paused = False
        self.snapshot: SnapshotMark | None = None   # restored, not durable or not installed yet
        self.snapshot_handed_out = False
        self._snapshot_durable = self._snapshot_installed = False

    # -- terms ----------------------------------------------------------------------------------------------------

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`; None if it is compacted away or does not exist."""
        if index < self.first_index - 1 or index > self.last_index:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    @property
    def last_term(self) -> int:
        return self._terms[-1]

    def matches(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Raft section 5.4.1: whether a log that ends there is at least as complete as this one."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def conflict_hint(self, index: int, term: int) -> tuple[int, int]:
        """The last (index', term') with index' <= `index` and term' <= `term`: where logs may still agree. Skips a
        whole term in one step; (index', 0) if that entry is compacted away."""
        while True:
            found = self.term(index)
            if found is None:
                return index, 0
            if found <= term:
                return index, found
            run = bisect_right(self._starts, index) - 1
            index = max(self._starts[run], self.first_index - 1) - 1

    def held_in_common(self, index: int, term: int) -> int:
        """The last index' <= `index` that a log which ends in `term` may share with this one, by the terms that are
        remembered; 0 if none of them is that old.

        Unlike `conflict_hint` it must not guess for entries that are compacted away: what it says vouches for entries
        (see `peer_restarted`). It need not: their terms are remembered since the start, and what a follower
        acknowledged to this leader was in the log then.
        """
        run = bisect_right(self._starts, index) - 1
        while run >= 0 and self._terms[run] > term:
            index = self._starts[run] - 1
            run -= 1
        return index if run >= 0 else 0

    # -- the tail ---------------------------------------------------------------------------------------------------

    def append(self, entries: list[Entry]) -> None:
        """Adds entries; the first may overwrite what is there, but never what is committed."""
        start = entries[0].index
        assert self.committed < start <= self.last_index + 1, f"append at {start}, committed {self.committed}"
        if start <= self.last_index:
            self._truncate(start)
        starts, terms = self._starts, self._terms
        for entry in entries:
            if entry.term != terms[-1]:
                assert entry.term > terms[-1], "terms never fall along a log"
                starts.append(entry.index)
                terms.append(entry.term)
        self.unstable += entries
        self.last_index = entries[-1].index

    def _truncate(self, start: int) -> None:
        while self._starts[-1] >= start:
            self._starts.pop()
            self._terms.pop()
        if start <= self.offset:
            self.unstable = []
            self.offset = start
            self.handed_out = start
        else:
            del self.unstable[start - self.offset :]
            self.handed_out = min(self.handed_out, start)
        self.last_index = start - 1

    @property
    def has_unstable(self) -> bool:
        """Whether entries are not durable yet, handed out or not."""
        return bool(self.unstable)

    @property
    def has_new(self) -> bool:
        """Whether there are entries that no write has taken yet."""
        return self.handed_out <= self.last_index

    def next_unstable(self) -> list[Entry]:
        """Entries that no write has taken yet."""
        return self.unstable[self.handed_out - self.offset :]

    def hand_out(self) -> None:
        self.handed_out = self.last_index + 1

    def stable_to(self, index: int) -> None:
        """Everything up to `index` is durable. The caller vouches that it is this log's entry that is."""
        if index < self.offset:
            return
        assert index < self.handed_out, "an entry is durable that no write has taken"
        del self.unstable[: index + 1 - self.offset]
        self.offset = index + 1

    @property
    def durable_index(self) -> int:
        return self.offset - 1 if self.snapshot is None or self._snapshot_durable else 0

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def compacted(self, first_index: int) -> None:
        """Storage dropped the entries below `first_index`. The terms of what was dropped are kept: they are as few as
        there were leaders, and `held_in_common` needs them."""
        assert self.snapshot is None, "compacted while a snapshot is being installed"
        assert self.first_index <= first_index, f"compaction goes back from {self.first_index} to {first_index}"
        assert first_index <= self.applied + 1, f"compacted to {first_index}, applied {self.applied}"
        assert first_index <= self.durable_index + 1, f"compacted to {first_index}, durable {self.durable_index}"
        self.first_index = first_index

    def newest_snapshot(self) -> SnapshotMark | None:
        return self._storage.snapshot()

    def restore(self, mark: SnapshotMark) -> None:
        """The log becomes empty behind a snapshot; one that is on its way into storage gives way to it."""
        assert mark.index > self.committed
        self.snapshot = mark
        self.snapshot_handed_out = self._snapshot_durable = self._snapshot_installed = False
        self._starts, self._terms = [mark.index], [mark.term]
        self.unstable = []
        self.committed = self.last_index = mark.index
        self.first_index = self.offset = self.handed_out = mark.index + 1

    def next_snapshot(self) -> SnapshotMark | None:
        """The snapshot that no write has taken yet. It goes before any entry behind it."""
        return None if self.snapshot_handed_out else self.snapshot

    def snapshot_durable(self, mark: SnapshotMark) -> None:
        if mark == self.snapshot:       # else another took its place
            self._snapshot_durable = True
            self._end_snapshot()

    def snapshot_installed(self, mark: SnapshotMark) -> None:
        if mark == self.snapshot:
            self._snapshot_installed = True
            self.applied = self.applying = mark.index
            # Entries handed out before it are no longer waited for.
            self._applying_bytes = 0
            self._apply_paused = False
            self._end_snapshot()

    def _end_snapshot(self) -> None:
        if self._snapshot_durable and self._snapshot_installed:
            self.snapshot = None
            self.snapshot_handed_out = False

    # -- commit and apply ---------------------------------------------------------------------------------------------

    def commit_to(self, index: int) -> bool:
        """Raises the commit index; False if the entry does not exist (this node lost acknowledged data)."""
        if index <= self.committed:
            return True
        if index > self.last_index:
            return False
        self.committed = index
        return True

    def next_committed(self, *, allow_unstable: bool) -> list[Entry]:
        """Committed entries to apply now; only durable ones unless `allow_unstable`."""
        if self._apply_paused or self.applying == self.committed or self.snapshot is not None:
            return []
        low, high = self.applying + 1, self._appliable(allow_unstable) + 1
        if low >= high:
            return []
        return self.entries(low, high, self._applying_bytes_max - self._applying_bytes)

    def _appliable(self, allow_unstable: bool) -> int:
        return self.committed if allow_unstable else min(self.committed, self.offset - 1)

    def accept_applying(self, index: int, size: int, *, allow_unstable: bool) -> None:
        self.applying = index
        self._applying_bytes += size
        self._apply_paused = self._applying_bytes >= self._applying_bytes_max or index < self._appliable(allow_unstable)

    def applied_to(self, index: int, size: int) -> None:
        assert self.applied <= index <= self.committed
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(0, self._applying_bytes - size)
        self._apply_paused = self._applying_bytes >= self._applying_bytes_max

    # -- entries ------------------------------------------------------------------------------------------------------

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Entries low <= index < high, at least one, then up to `bytes_max` bytes."""
        if low >= high:
            return []
        assert self.first_index <= low and high <= self.last_index + 1
        if low >= self.offset:
            return _limit(self.unstable[low - self.offset : high - self.offset], bytes_max)
        stable_high = min(high, self.offset)
        found = _limit(self._storage.entries(low, stable_high, bytes_max), bytes_max)
        if found[-1].index + 1 < stable_high or high <= self.offset:
            return found
        left = bytes_max - size_of(found)
        return found + _limit(self.unstable[: high - self.offset], left, at_least=0)


def size_of(entries: list[Entry]) -> int:
    """Bytes that count against limits of reading and applying."""
    return sum(len(entry.payload) for entry in entries) + ENTRY_OVERHEAD_BYTES * len(entries)


def _limit(entries: list[Entry], bytes_max: int, at_least: int = 1) -> list[Entry]:
    total = 0
    for position, entry in enumerate(entries):
        total += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        if total > bytes_max and position >= at_least:
            return entries[:position]
    return entries
