"""Everything that one broker does with snapshots: it has them made, keeps two, gives copies to the others, one to a
follower that is too far behind for the log, takes one from a leader, and drops the log that nobody needs any more.

The log goes up to the older of the two snapshots, so that the newest may rot. A leader keeps more of it for a follower
that lags, up to a limit: what it still has costs less to send than the whole state. On a full disk it goes up to the
newest, whoever lags, and the older one goes with it: first there must be room to go on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from actors import MILLISECOND, SECOND, Context
from cluster.compaction.messages import Plan, Written
from cluster.compaction.policy import CompactionLimits, Pressure, is_scarce, room_for_snapshot
from cluster.peer.checkpoints import Checkpoint, Checkpoints
from cluster.peer.compacting import Compacting
from cluster.peer.drive import Drive
from cluster.peer.entry_cache import EntryCache
from cluster.peer.links import BrokerLinks
from cluster.peer.sharing import Sharing
from cluster.peer.shelf import Shelf
from cluster.peer.snapshot_receiver import SnapshotArrivals
from cluster.peer.snapshot_sender import SnapshotSender
from cluster.raft import wire
from cluster.raft.core import Raft
from cluster.raft.membership import Configuration
from cluster.raft.messages import Message, MessageType, Role, SnapshotMark
from cluster.state.machine import Machine
from cluster.storage.record import decode_records
from cluster.storage.snapshot_format import Malformed, NewerVersion, SnapshotMeta, decode_header
from cluster.storage.wal import Wal
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant

LOOK_INTERVAL = SECOND
FREE_INTERVAL = MILLISECOND     # between two parts of a state that was replaced
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
    """`load` at the start, `begin` once there is a core; `step(message)` hands it a leader's message of a snapshot."""

    def __init__(
        self,
        context: Context,
        directory: str,
        limits: CompactionLimits,
        machine: Machine,
        members: Configuration,
        segment_bytes: int,
        step: Callable[[Message], None],
        tell_news: Callable[[], None],
    ) -> None:
        self._context = context
        self._directory = directory
        self._limits = limits
        self._machine = machine
        self._members = members
        self._segment_bytes = segment_bytes
        self._step = step
        self._tell_news = tell_news
        self.checkpoints = Checkpoints(machine, limits.checkpoint_entries)
        self._sharing = Sharing(context.clock, limits, self.checkpoints)
        self._shelf = Shelf(context, directory)
        self._parts: Parts | None = None
        self._compacting = Compacting(context, limits, self._plan, self._adopt, self._set_aside)
        self._planned: Checkpoint | None = None     # what the compactor writes
        self._is_shared = False                     # others can compare that
        self._wanted: Checkpoint | None = None      # what a copy that arrives must be
        self._bytes_behind = 0          # log bytes up to the newest snapshot, by the drive's count
        self._arrived: tuple[int, int, Machine] | None = None   # index, size, state of a snapshot for the core

    # -- the start ----------------------------------------------------------------------------------------------------

    def load(self) -> SnapshotMark | None:
        """Restores the machine from the newest good snapshot. Blocking; see `Shelf.load`."""
        self._shelf.load(self._machine)
        return self.mark()

    def begin(self, parts: Parts) -> None:
        self._parts = parts
        self._sender = SnapshotSender(
            self._context, parts.links, self._shelf.open_newest, self._sent, self._set_aside
        )
        self._arrivals = SnapshotArrivals(
            self._context, self._directory, parts.links.send, self._complete, self._copied
        )
        self._shelf.drop_unreachable(parts.wal.first_index)     # of a crash between two steps
        self._look()

    def stop(self) -> None:
        self._compacting.stop()
        if self._parts is not None:
            self._sender.stop_all()
            self._arrivals.stop()

    @property
    def is_closed(self) -> bool:
        """The log is so far ahead of its snapshot that submits must wait; not if no snapshot can come."""
        return self._compacting.pressure is Pressure.CLOSED and self.has_start

    @property
    def _newest_index(self) -> int:
        newest = self._shelf.newest
        return newest.index if newest is not None else 0

    @property
    def has_start(self) -> bool:
        """Whether the next start finds the state on the disk: a snapshot that the log goes on behind, or all of it."""
        if self._parts is None:
            return True
        newest, first_index = self._shelf.newest, self._parts.wal.first_index
        return first_index <= 1 or (newest is not None and newest.index + 1 >= first_index)

    @property
    def is_writing(self) -> bool:
        """Another snapshot is being made, or is on its way here, and needs room."""
        return self._compacting.is_busy or (self._parts is not None and self._arrivals.is_busy)

    @property
    def compacting(self) -> int:
        """The entry of the snapshot that is being made here and will be offered to the others, 0 if there is none."""
        return self._compacting.index if self._is_shared else 0

    @property
    def kept(self) -> list[int]:
        """Their indexes, newest first."""
        return self._shelf.indexes

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
        self._arrivals.look(self._parts.core.log.committed)
        self._drop_log()
        core, sharing, arrivals, was_at_work = self._parts.core, self._sharing, self._arrivals, self._compacting.is_busy
        log_bytes, size = self._parts.drive.applied_bytes - self._bytes_behind, self._shelf.newest_size
        would_make_room = self._would_make_room(log_bytes)
        may_wait = sharing.has_patience(log_bytes, size) and not would_make_room
        if not may_wait and self._compacting.may_begin:
            arrivals.give_up_copy("this broker needs a snapshot now")
        self._compacting.look(
            log_bytes,
            size,
            sharing.stagger_ppm(core.id, core.leader, self._members.voters),
            waits=arrivals.is_busy or (may_wait and sharing.is_expected(self._newest_index)),
            would_make_room=would_make_room,
        )
        if self._compacting.is_busy and not was_at_work:
            self._tell_news()

    def _would_make_room(self, log_bytes: int) -> bool:
        """A snapshot has to come while there is still room for it. So the log leaves it some, and it comes early where
        the disk is small."""
        assert self._parts is not None
        wal, size = self._parts.wal, self._shelf.newest_size
        wal.keep_free(room_for_snapshot(log_bytes, size))
        if not wal.has_old_segments:
            return False
        try:
            free_bytes = self._context.files.free_bytes(self._directory)
        except OSError:
            return wal.lacks_room       # what is wrong with the disk is said by those who write
        return wal.lacks_room or is_scarce(free_bytes, log_bytes, size, self._segment_bytes)

    def _plan(self, nice: int) -> Plan | None:
        assert self._parts is not None
        wal, base = self._parts.wal, self._newest_index
        applied_index, applied_bytes = self._machine.applied_index, self._parts.drive.applied_bytes
        if not base < applied_index <= wal.last_index:
            return None     # nothing new, or a snapshot from elsewhere is being installed
        if base + 1 < wal.first_index:
            return None     # no snapshot is left that the log goes on behind; see `has_start`
        planned = self._sharing.to_plan(base, self._bytes_behind, applied_bytes)
        self._is_shared = planned is not None
        if planned is None:
            term = self._parts.core.log.term(applied_index)
            assert term is not None, f"entry {applied_index} is applied and not in the log"
            planned = Checkpoint(self.checkpoints.now(term), applied_bytes)
        self._planned = planned
        meta = planned.meta
        return Plan(self._directory, base, wal.pieces(base + 1, meta.index + 1), meta, nice)

    def _adopt(self, written: Written) -> str:
        """Why the snapshot is not taken; "" if it is."""
        assert self._planned is not None
        planned = self._planned
        reason = self._shelf.is_there(planned.meta, written.size)
        if not reason:
            assert self._parts is not None
            self._put_on_shelf(planned, written.size, self._parts.core.id)
            if self._is_shared:
                self._offer_copies(planned.meta.index)
        return reason

    def _put_on_shelf(self, checkpoint: Checkpoint, size: int, maker: int) -> None:
        """A snapshot of what this replica was is durable here. The log follows, with the next look."""
        self._bytes_behind = checkpoint.log_bytes
        self._shelf.add(checkpoint.meta, size)
        self.checkpoints.drop(checkpoint.meta.index)
        self._sharing.made_by(maker)

    def _set_aside(self, index: int, reason: str) -> None:
        """A snapshot that was whole when this life began cannot be read any more. The older one takes its place, and
        the log that is kept behind it."""
        self._shelf.set_aside(index, reason)

    def _drop_log(self) -> None:
        """Gives the front of the log back, as far as nobody needs it."""
        parts = self._parts
        assert parts is not None
        newest = self._shelf.newest if parts.wal.lacks_room else None
        index = newest.index if newest is not None else self._shelf.log_is_needed_behind
        if index < parts.wal.first_index:
            return
        core, first = parts.core, parts.wal.first_index
        if core.role is Role.LEADER and newest is None:
            for _, progress in core.tracker.others(core.id):
                # One that is about to get a snapshot goes on with the log behind that one. One that needs a snapshot
                # anyway is not waited for; one of which nothing is known yet may be anywhere.
                has = max(progress.match, progress.pending_snapshot)
                needs_snapshot = 0 < has < first - 1
                if has < index and not needs_snapshot and self._pinned_bytes(has) <= self._limits.pinned_bytes_max:
                    index = has
        parts.wal.compact(index)
        if parts.wal.first_index > first:
            core.compacted(parts.wal.first_index)
            self._shelf.drop_unreachable(parts.wal.first_index)
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

    def link_up(self, node_id: int) -> None:
        """What this broker wants next may have been lost with the link."""
        if self._parts is not None:
            self._arrivals.linked(node_id)

    def link_down(self, node_id: int) -> None:
        """What was on its way to this broker is lost; a copy from there is not waited for."""
        self._sharing.heard(node_id, 0)
        if self._parts is not None:
            self._arrivals.lost(node_id)
            if self._sender.stop(node_id):
                self._sent(node_id, ok=False)

    def deposed(self) -> None:
        self._sender.deposed()

    def _sent(self, node_id: int, ok: bool) -> None:
        """If not, the core tries again after the next heartbeat."""
        assert self._parts is not None
        self._parts.core.report_snapshot(node_id, ok=ok)

    # -- copies -------------------------------------------------------------------------------------------------------

    def heard_news(self, node_id: int, compacting: int) -> None:
        """Another broker makes the snapshot of this entry, or none (0)."""
        self._sharing.heard(node_id, compacting)

    def _offer_copies(self, index: int) -> None:
        assert self._parts is not None
        for node_id in self._members.voters:
            if node_id != self._parts.core.id:
                self._sender.copy(node_id, index)

    def _copy_offered(self, node_id: int, offer: SnapshotOffer, meta: SnapshotMeta) -> None:
        parts, sharing = self._parts, self._sharing
        assert parts is not None
        if sharing.differs(meta):
            # Whoever is wrong: each keeps what it has made itself.
            reason = "this replica was in another state at that entry"
            self._context.log.event("snapshot_refused", index=meta.index, reason=reason)
        wanted = sharing.find_wanted(meta, self._bytes_behind, self._shelf.newest_size)
        if self.is_writing or wanted is None:
            parts.links.send(node_id, SnapshotWant(meta.index, CHUNKS_ALL, is_copy=True))
        else:
            self._wanted = wanted
            self._arrivals.offered(node_id, offer, None, meta.index)

    def _copied(self, node_id: int, index: int, size: int) -> None:
        """A copy is durable, and was read back."""
        assert self._wanted is not None and self._wanted.meta.index == index
        if reason := self._shelf.is_there(self._wanted.meta, size):
            self._context.log.event("snapshot_refused", index=index, reason=reason)
            self._shelf.discard(index)
            return
        self._put_on_shelf(self._wanted, size, node_id)
        self._context.log.event("snapshot_copied", index=index, size=size)

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
        core = self._parts.core
        try:
            meta = decode_header(offer.header)
            if not offer.message:
                self._copy_offered(node_id, offer, meta)
                return
            message = wire.decode(offer.message, decode_records)
        except (Malformed, NewerVersion, msgspec.DecodeError, ValueError) as error:
            self._context.log.event("snapshot_refused", reason=str(error))
            return      # the leader gives up when it hears nothing
        mark = message.snapshot
        if message.type is not MessageType.SNAPSHOT or mark is None or message.sender != node_id:
            return
        if message.term < core.term:
            return      # of one that does not lead any more, and will hear of it
        if (mark.index, mark.term) != (meta.index, meta.term):
            reason = f"the core's message is of entry {mark.index}"
            self._context.log.event("snapshot_refused", index=meta.index, reason=reason)
            return
        if meta.index <= core.log.committed or core.log.matches(meta.index, meta.term):
            # A leader that knows little of this broker; its core's answer says more.
            self._parts.links.send(node_id, SnapshotWant(meta.index, CHUNKS_ALL))
            self._step(message)
        else:
            self._compacting.stop()     # the log that it reads is about to go
            self._arrivals.offered(node_id, offer, message, meta.index)

    def _complete(self, message: Message, index: int, size: int, machine: Machine) -> None:
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
        self._free(self._machine.replace(machine))
        self._shelf.add_alone(self.checkpoints.now(mark.term), size)
        self.checkpoints.drop(index)
        parts.wal.restart(mark.index, mark.term, self._shelf.clear)
        parts.cache.clear()
        self._bytes_behind = parts.drive.applied_bytes
        self._context.log.event("snapshot_installed", index=index, term=mark.term, size=size)

    def _free(self, old: Iterator[None]) -> None:
        """The state that was replaced leaves a part per turn."""
        for _ in old:
            self._context.timer("free", FREE_INTERVAL, lambda: self._free(old))
            return
