"""What this replica was at entries that all brokers look at: each compares a snapshot that another one made with it.

The entries are the multiples of one interval. A snapshot of such an entry serves every broker: its header names index,
term, last stamp and rolling digest, and whoever was the same at that entry can take the file for its own.
"""

from typing import NamedTuple

from cluster.state.machine import Machine
from cluster.storage.snapshot_format import SnapshotMeta

CHECKPOINTS_KEPT_MAX = 4_096        # a million entries at 256: more than are applied while a snapshot is made


class Checkpoint(NamedTuple):
    """`log_bytes` of log, by the count of the drive, had been applied when the state was what `meta` says."""

    meta: SnapshotMeta
    log_bytes: int


class Checkpoints:
    """`add` after each multiple of `interval`. Invariant: ascending, all behind the newest snapshot."""

    def __init__(self, machine: Machine, interval: int) -> None:
        assert interval > 0
        self.interval = interval
        self._machine = machine
        self._kept: dict[int, Checkpoint] = {}

    @property
    def newest(self) -> Checkpoint | None:
        return self._kept[next(reversed(self._kept))] if self._kept else None

    def find(self, index: int) -> Checkpoint | None:
        return self._kept.get(index)

    def add(self, term: int, log_bytes: int) -> None:
        """The machine has just applied an entry of this term, to which the interval comes."""
        index = self._machine.applied_index
        assert index % self.interval == 0
        self._kept[index] = Checkpoint(self.now(term), log_bytes)
        if len(self._kept) > CHECKPOINTS_KEPT_MAX:
            del self._kept[next(iter(self._kept))]

    def drop(self, index: int) -> None:
        """A snapshot of this entry is here: nobody asks for it or for those before it again."""
        while self._kept and (oldest := next(iter(self._kept))) <= index:
            del self._kept[oldest]

    def now(self, term: int) -> SnapshotMeta:
        """The header of a snapshot of the state as it is, whose last entry is of this term."""
        machine = self._machine
        return SnapshotMeta(
            machine.applied_index,
            term,
            machine.machine_version,
            machine.now_ms,
            machine.rolling,
            machine.cluster_id,
            machine.voters,
        )
