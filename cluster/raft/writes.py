"""Writes on their way to the disk, in order: what each vouches for, and the answers that wait for it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.raft.effects import Write
from cluster.raft.messages import Entry, HardState, Message, SnapshotMark


@dataclass(slots=True)
class Pending:
    """A write on its way. `last_index` 0: it vouches for no entry, or for none any more."""

    id: int
    last_index: int
    snapshot: SnapshotMark | None       # that is durable with it
    after: list[Message]


class Writes:
    """`truncated_from`: the smallest overwritten index since the last write, 0 = none."""

    __slots__ = ("_id", "_pending", "_tracked", "truncated_from")

    def __init__(self, *, tracked: bool) -> None:
        self.truncated_from = 0
        self._pending: deque[Pending] = deque()
        self._tracked = tracked         # whether `done` will tell of completions
        self._id = 0

    def next(
        self,
        hard: HardState,
        entries: list[Entry],
        snapshot: SnapshotMark | None,
        after: list[Message],
        *,
        must_sync: bool,
    ) -> Write:
        assert snapshot is None or not entries, "a snapshot is written alone: entries behind it follow"
        self._id += 1
        truncate_from, self.truncated_from = self.truncated_from, 0
        if self._tracked:
            self._pending.append(Pending(self._id, entries[-1].index if entries else 0, snapshot, after))
        return Write(self._id, hard, entries, truncate_from, must_sync)

    def truncate(self, start: int, *, handed_out: int) -> None:
        """Entries from `start` on are about to be overwritten: writes on their way vouch for less."""
        # Entries that no write has taken yet (from `handed_out` on) are simply not written.
        if start < handed_out and (self.truncated_from == 0 or start < self.truncated_from):
            self.truncated_from = start
        for pending in self._pending:
            if pending.last_index >= start:
                pending.last_index = start - 1

    def replaced(self) -> None:
        """A snapshot takes the place of the whole log: no write on its way vouches for anything of the new one."""
        self.truncated_from = 0
        for pending in self._pending:
            pending.last_index = 0

    def done(self, write_id: int) -> Iterator[Pending]:
        """Those up to `write_id`, oldest first. What follows from one may change those behind it."""
        pending = self._pending
        while pending and pending[0].id <= write_id:
            yield pending.popleft()
