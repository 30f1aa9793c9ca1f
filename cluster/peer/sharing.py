"""One snapshot for all brokers: who makes it, who waits for it, and what a broker asks of it before it is taken.

All brokers apply the same log, so one of them can turn it into a snapshot for all: a compactor costs as much processor
time as a broker spends on applying the same entries, a copy of the file next to nothing. They stand in line, the leader
last, since it has most to do: each place waits for a longer log than the one before it, and whoever has begun says so
once a second. Who made the last one stands behind the others that follow, so they take turns.

Nobody relies on it. A copy that does not come, or that this replica cannot compare with what it was itself, is a
snapshot that it makes when its own log asks for it.
"""

from actors import SECOND, Clock, Nanos
from cluster.compaction.policy import CompactionLimits, stagger_ppm, trigger_bytes
from cluster.peer.checkpoints import Checkpoint, Checkpoints
from cluster.storage.snapshot_format import SnapshotMeta

NEWS_AGE_MAX = 3 * SECOND       # of a broker's word that it makes a snapshot, said once a second
WORTH_DIVISOR = 2               # of the trigger: a copy that stands for less of this log is not worth its transfer


class Sharing:
    """`heard` gets what other brokers say of their compactors."""

    def __init__(self, clock: Clock, limits: CompactionLimits, checkpoints: Checkpoints) -> None:
        self._clock = clock
        self._limits = limits
        self._checkpoints = checkpoints
        self._at_work: dict[int, tuple[int, Nanos]] = {}    # node id -> entry of its snapshot, when it said so
        self._maker = 0                                     # of the newest one here, 0 if that is not known

    def stagger_ppm(self, own: int, leader: int, voters: tuple[int, ...]) -> int:
        """By how much longer than the trigger this broker's log gets before it begins by itself."""
        if own not in voters:
            return stagger_ppm(self._limits, len(voters), len(voters) + 1)
        line = sorted(voters, key=lambda node_id: (node_id == leader, node_id == self._maker, node_id))
        return stagger_ppm(self._limits, line.index(own), len(line))

    def made_by(self, node_id: int) -> None:
        """The newest snapshot here is the work of this broker."""
        self._maker = node_id

    def heard(self, node_id: int, index: int) -> None:
        """It makes a snapshot of this entry; 0: it makes none."""
        self._at_work[node_id] = index, self._clock.now()

    def has_patience(self, log_bytes: int, snapshot_bytes: int) -> bool:
        """Whether a log of that many bytes behind the newest snapshot may wait for another broker's."""
        return log_bytes <= self._limits.patience_factor * trigger_bytes(self._limits, snapshot_bytes)

    def is_expected(self, newest_index: int) -> bool:
        """Whether a snapshot is being made elsewhere that could follow on the newest one here."""
        since = self._clock.now() - NEWS_AGE_MAX
        return any(index > newest_index and heard >= since for index, heard in self._at_work.values())

    def to_plan(self, base: int, bytes_behind: int, applied_bytes: int) -> Checkpoint | None:
        """What a snapshot behind that of entry `base` should stand for, so that the others can take it. None if such a
        one would leave out too much of the log: entries are large, or few."""
        newest = self._checkpoints.newest
        if newest is None or newest.meta.index <= base:
            return None
        covered = newest.log_bytes - bytes_behind
        return newest if covered * WORTH_DIVISOR >= applied_bytes - bytes_behind else None

    def differs(self, offered: SnapshotMeta) -> bool:
        """Whether this replica was something else at that entry: one of the two is wrong."""
        own = self._checkpoints.find(offered.index)
        return own is not None and own.meta != offered

    def find_wanted(self, offered: SnapshotMeta, bytes_behind: int, snapshot_bytes: int) -> Checkpoint | None:
        """What this replica was at the entry of a snapshot that is worth having here; None if it is not, or if it
        cannot be compared."""
        own = self._checkpoints.find(offered.index)
        if own is None or own.meta != offered:
            return None
        worth = trigger_bytes(self._limits, snapshot_bytes) // WORTH_DIVISOR
        return own if own.log_bytes - bytes_behind >= worth else None
