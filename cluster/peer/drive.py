"""One drive of the Raft core: the heart of a broker.

Messages that may leave at once leave, so that followers write while this broker does; then everything of the turn is
made durable with one sync; then the answers that waited for it leave, and what is committed is applied. Nothing is
told before the disk has it.
"""

from collections.abc import Callable
from typing import Protocol

from cluster.peer.checkpoints import Checkpoints
from cluster.peer.entry_cache import EntryCache
from cluster.peer.links import BrokerLinks
from cluster.raft import wire
from cluster.raft.core import Raft
from cluster.raft.effects import Effects as RaftEffects
from cluster.raft.effects import Write
from cluster.raft.log import size_of
from cluster.raft.messages import Entry, Message, MessageType, Role, SnapshotMark
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.storage.record import GROUP, encode_record
from cluster.storage.wal import Wal

APPLY_BYTES_PER_TURN = 256 * 1024   # about 2,000 small tasks, a few milliseconds; a single entry may be larger


class SnapshotDuties(Protocol):
    """What a drive leaves to others."""

    def send(self, node_id: int, mark: SnapshotMark, message: bytes) -> None:
        """`message` is the core's, for the follower's core; the file goes with it."""

    def install(self, mark: SnapshotMark) -> None:
        """The snapshot takes the place of log and state, durably with the next write."""


class Drive:
    """Carries out what one core wants. `later` asks for another `run` in the next turn; `notice` gets the effects that
    are not about messages, disk and entries; `lead(term)` is called when the first entry of a term of ours is applied.
    """

    __slots__ = (
        "_cache",
        "_checkpoints",
        "_core",
        "_effects",
        "_later",
        "_lead",
        "_links",
        "_machine",
        "_notice",
        "_running",
        "_snapshots",
        "_unsynced",
        "_wal",
        "applied_bytes",
        "leading_term",
    )

    def __init__(
        self,
        core: Raft,
        wal: Wal,
        cache: EntryCache,
        links: BrokerLinks,
        machine: Machine,
        later: Callable[[], None],
        notice: Callable[[RaftEffects], None],
        lead: Callable[[int], None],
        snapshots: SnapshotDuties,
        checkpoints: Checkpoints,
    ) -> None:
        self._core = core
        self._wal = wal
        self._cache = cache
        self._links = links
        self._machine = machine
        self._later = later
        self._notice = notice
        self._lead = lead
        self._snapshots = snapshots
        self._checkpoints = checkpoints
        self.applied_bytes = 0              # of log, by this process
        self.leading_term = 0               # of the term whose own entry is applied, 0 = not leading
        self._effects: Effects | None = None    # of what was applied since they were last taken
        self._unsynced = 0                  # newest write id whose completion is still awaited
        self._running = False

    def run(self) -> None:
        """Carries out everything that the core wants, until it wants nothing more."""
        core = self._core
        assert not self._running
        self._running = True
        committed: list[Entry] = []
        applied_bytes = 0
        while True:
            if (effects := core.take()) is not None:
                if effects.snapshot is not None and committed:
                    self._apply(committed)      # of the state that it replaces
                    committed = []
                self._carry_out(effects)
                committed += effects.committed
            elif committed:
                # Not before the answers have left that the write was waiting for: a follower's is what the leader and
                # its client wait for, while what it applies has been acknowledged long ago.
                applied_bytes += self._apply(committed)
                committed = []
                if applied_bytes > APPLY_BYTES_PER_TURN:
                    self._later()       # a replay or a catch-up: the sockets have their turn in between
                    break
            else:
                break
        self._running = False

    def _carry_out(self, effects: RaftEffects) -> None:
        """All but to apply: that has no place in the order of the other effects."""
        if effects.messages:
            self._send(effects.messages)
        if effects.snapshot is not None:
            self._snapshots.install(effects.snapshot)
            self._core.installed(effects.snapshot)
        if effects.write is not None:
            self._queue(effects.write)
            self._wal.flush()
        if effects.soft_state is not None and self._core.role is not Role.LEADER:
            self.leading_term = 0
            self._effects = None
        self._notice(effects)

    def persisted(self, write_id: int) -> None:
        """The log's word that writes up to this one are durable."""
        if write_id == self._unsynced:
            self._unsynced = 0
        self._core.persisted(write_id)
        if not self._running:
            self._later()

    def take_effects(self) -> Effects | None:
        """What was applied as the leader since the last call."""
        effects, self._effects = self._effects, None
        return effects

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            encoded = wire.encode(message, _record_of)
            if message.type is MessageType.SNAPSHOT:
                assert message.snapshot is not None
                self._snapshots.send(message.to, message.snapshot, encoded)
            elif not self._links.send_raft(message, encoded) and message.entries:
                self._core.unreachable(message.to)
        self._links.flush()

    def _queue(self, write: Write) -> None:
        if not write.must_sync and not write.truncate_from and not self._unsynced:
            self._core.persisted(write.id)      # only the commit hint moved: it rides on the next write
            return
        for entry in write.entries:
            if not entry.record:
                encode_record(GROUP, entry)
        self._cache.handed_out(write.entries, write.truncate_from)
        self._unsynced = write.id
        state = write.hard_state
        self._wal.append(write.id, state.term, state.vote, state.commit, write.truncate_from, write.entries)

    def _apply(self, entries: list[Entry]) -> int:
        """Returns their size."""
        core = self._core
        leading = core.role is Role.LEADER
        if leading and self._effects is None:
            self._effects = Effects()
        effects = self._effects
        apply, interval = self._machine.apply, self._checkpoints.interval
        for number, entry in enumerate(entries, start=1):
            apply(entry.index, entry.term, entry.payload, effects)
            if entry.index % interval == 0:
                self._checkpoints.add(entry.term, self.applied_bytes + size_of(entries[:number]))
        size = size_of(entries)
        self.applied_bytes += size
        core.applied(entries)
        if leading and self.leading_term != core.term and entries[-1].term == core.term:
            # The state holds everything that was ever acknowledged. Effects of what earlier leaders had proposed are
            # for links that are reconciled anyway.
            self.leading_term = core.term
            self._effects = None
            self._lead(core.term)
        return size


def _record_of(entry: Entry) -> bytes:
    return entry.record or encode_record(GROUP, entry)
