"""Everything that one broker does with snapshots: it has them made, keeps two, gives one to a follower that is too far
behind for the log, takes one from a leader, and drops the log that nobody needs any more.

The log goes up to the older of the two snapshots, so that the newest may rot. A leader keeps more of it for a follower
that lags, up to a limit: what it still has costs less to send than the whole state.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from actors import SECOND, Context
from cluster.compaction.messages import Plan, Written
from cluster.compaction.policy import CompactionLimits, Pressure
from cluster.peer.compacting import Compacting
from cluster.peer.drive import Drive
from cluster.peer.entry_cache import EntryCache
from cluster.peer.links import BrokerLinks
from cluster.peer.shelf import Shelf
from cluster.peer.snapshot_receiver import SnapshotArrivals
from cluster.peer.snapshot_sender import SnapshotSender
from cluster.raft.core import Raft
from cluster.raft.membership import Configuration
from cluster.raft.messages import Role, SnapshotMark
from cluster.state.machine import Machine
from cluster.storage.snapshot_format import Malformed, NewerVersion, SnapshotMeta, decode_header
from cluster.storage.wal import Wal
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant

LOOK_INTERVAL = SECOND
CHUNKS_ALL = 1 << 32        # more than any file has


@dataclass(frozen=True, slots=True)
class Parts:
    """What a broker has once elections may run."""

    core: Raft
    drive: Drive
    wal: Wal
    cache: EntryCache
    links: BrokerLinks


class Snapshots:
    """`load` at the start, `begin` once there is a core; `step(message)` takes a core's message as the wire gave it."""

    def __init__(
        self,
        context: Context,
        directory: str,
        limits: CompactionLimits,
        machine: Machine,
        members: Configuration,
        segment_bytes: int,
        step: Callable[[bytes], None],
    ) -> None:
        self._context = context
        self._directory = directory
        self._limits = limits
        self._machine = machine
        self._members = members
        self._segment_bytes = segment_bytes
        self._step = step
        self._shelf = Shelf(context, directory)
        self._parts: Parts | None = None
        self._compacting = Compacting(context, limits, self._plan, self._adopt)
        self._planned: tuple[SnapshotMeta, int] | None = None   # what the compactor writes; log bytes up to there
        self._bytes_behind = 0          # log bytes up to the newest snapshot, by the drive's count
        self._arrived: tuple[int, int, Machine] | None = None   # index, size, state of a snapshot for the core

    # -- the start ----------------------------------------------------------------------------------------------------

    def load(self) -> SnapshotMark | None:
        """Restores the machine from the newest good snapshot. Blocking; see `Shelf.load`."""
        self._shelf.load(self._machine)
        return self.mark()

    def begin(self, parts: Parts) -> None:
        self._parts = parts
        self._sender = SnapshotSender(self._context, parts.links, self._shelf.open_newest, self._not_sent)
        self._arrivals = SnapshotArrivals(self._context, self._directory, parts.links.send, self._complete)
        self._look()

    def stop(self) -> None:
        self._compacting.stop()
        if self._parts is not None:
            self._sender.stop_all()
            self._arrivals.stop()

    @property
    def is_closed(self) -> bool:
        """The log is so far ahead of its snapshot that submits must wait."""
        return self._compacting.pressure is Pressure.CLOSED

    def mark(self) -> SnapshotMark | None:
        """The newest snapshot, as the core names it to a follower."""
        newest = self._shelf.newest
        if newest is None:
            return None
        members = self._members
        return SnapshotMark(newest.index, newest.term, members.voters, members.outgoing, members.learners)

    # -- making them --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._context.timer("snapshots", LOOK_INTERVAL, self._look)
        assert self._parts is not None
        if not self._arrivals.is_busy:
            self._compacting.look(self._parts.drive.applied_bytes - self._bytes_behind, self._shelf.newest_size)
        self._drop_log()

    def _plan(self, nice: int) -> Plan | None:
        assert self._parts is not None
        machine, wal = self._machine, self._parts.wal
        newest = self._shelf.newest
        base = newest.index if newest is not None else 0
        index = machine.applied_index
        if not base < index <= wal.last_index:
            return None     # nothing new, or a snapshot from elsewhere is being installed
        term = self._parts.core.log.term(index)
        assert term is not None, f"entry {index} is applied and not in the log"
        meta = _meta(machine, term)
        self._planned = meta, self._parts.drive.applied_bytes
        return Plan(self._directory, base, wal.pieces(base + 1, index + 1), meta, nice)

    def _adopt(self, written: Written) -> None:
        assert self._planned is not None
        meta, self._bytes_behind = self._planned
        self._shelf.add(meta, written.size)
        self._drop_log()

    def _drop_log(self) -> None:
        """Gives the front of the log back, as far as nobody needs it."""
        parts = self._parts
        assert parts is not None
        index = self._shelf.log_is_needed_behind
        if index < parts.wal.first_index:
            return
        core = parts.core
        if core.role is Role.LEADER:
            slowest = min(progress.match for progress in core.tracker.progress.values())
            if slowest < index and self._pinned_bytes(slowest) <= self._limits.pinned_bytes_max:
                index = slowest
        first = parts.wal.first_index
        parts.wal.compact(index)
        if parts.wal.first_index > first:
            core.compacted(parts.wal.first_index)
            self._context.log.event("log_compacted", first_index=parts.wal.first_index)

    def _pinned_bytes(self, match: int) -> int:
        """Of log that a follower with entries up to `match` still needs, in whole segments."""
        assert self._parts is not None
        wal = self._parts.wal
        pieces = wal.pieces(max(match + 1, wal.first_index), wal.last_index + 1)
        return len({piece.segment for piece in pieces}) * self._segment_bytes

    # -- giving one to a follower -------------------------------------------------------------------------------------

    def send(self, node_id: int, mark: SnapshotMark, message: bytes) -> None:
        """The core wants `node_id` to have this snapshot."""
        self._sender.start(node_id, mark.index, message)

    def link_down(self, node_id: int) -> None:
        """What was on its way to this broker is lost."""
        if self._parts is not None and self._sender.stop(node_id):
            self._not_sent(node_id)

    def deposed(self) -> None:
        self._sender.stop_all()

    def _not_sent(self, node_id: int) -> None:
        assert self._parts is not None
        self._parts.core.report_snapshot(node_id, ok=False)     # it tries again after the next heartbeat

    # -- taking one from a leader -------------------------------------------------------------------------------------

    def heard(self, node_id: int, message: Struct) -> None:
        """What another broker says of a transfer."""
        if self._parts is None:
            return
        if isinstance(message, SnapshotWant):
            self._sender.wants(node_id, message)
        elif isinstance(message, SnapshotChunk):
            self._arrivals.chunk(node_id, message)
        elif isinstance(message, SnapshotOffer):
            self._offered(node_id, message)

    def _offered(self, node_id: int, offer: SnapshotOffer) -> None:
        assert self._parts is not None
        try:
            meta = decode_header(offer.header)
        except (Malformed, NewerVersion) as error:
            self._context.log.event("snapshot_refused", reason=str(error))
            return      # the leader gives up when it hears nothing
        log = self._parts.core.log
        if meta.index <= log.committed or log.matches(meta.index, meta.term):
            # A leader that knows little of this broker; its core's answer says more.
            self._parts.links.send(node_id, SnapshotWant(meta.index, CHUNKS_ALL))
            self._step(offer.message)
        else:
            self._compacting.stop()     # the log that it reads is about to go
            self._arrivals.offered(node_id, offer)

    def _complete(self, message: bytes, index: int, size: int, machine: Machine) -> None:
        """The file is whole and the state restored: now the core may hear of it."""
        self._arrived = index, size, machine
        self._step(message)
        if self._arrived is not None:       # it has found a better way meanwhile, or a later term
            self._arrived = None
            self._shelf.discard(index)

    def install(self, mark: SnapshotMark) -> None:
        """The core has taken it: the state is the snapshot's, and the log goes on behind it. What the log's restart
        needs to be durable rides with the write that follows."""
        assert self._parts is not None and self._arrived is not None
        index, size, machine = self._arrived
        assert index == mark.index
        self._arrived = None
        parts = self._parts
        parts.wal.restart(mark.index, mark.term)
        parts.cache.clear()
        self._machine.replace(machine)
        self._shelf.add(_meta(self._machine, mark.term), size, alone=True)
        self._bytes_behind = parts.drive.applied_bytes
        self._context.log.event("snapshot_installed", index=index, term=mark.term, size=size)


def _meta(machine: Machine, term: int) -> SnapshotMeta:
    return SnapshotMeta(
        machine.applied_index,
        term,
        machine.machine_version,
        machine.now_ms,
        machine.rolling,
        machine.cluster_id,
        machine.voters,
    )
