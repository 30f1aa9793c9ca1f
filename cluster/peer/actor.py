"""The RaftPeer actor: carries out what the Raft core decides, and applies what it commits.

One drive is the heart of a broker: messages that may leave at once leave, so that followers write while this broker
does; then everything of the turn is made durable with one sync; then the answers that waited for it leave, and what
is committed is applied. Nothing is told before the disk has it. A failed sync is never tried again: the process ends,
and the next start goes through recovery.
"""

from collections.abc import Callable

import msgspec

from actors import MILLISECOND, SECOND, Actor, AddressInUse, BadAddress, Locked, Nanos, Peer, PeerLog, Ref, handles
from cluster.data_directory import DataUnusable
from cluster.peer.config import BrokerConfig
from cluster.peer.drive import APPLY_BYTES_PER_TURN, Drive
from cluster.peer.entry_cache import EntryCache
from cluster.peer.errors import BrokerFault, BrokerRefused
from cluster.peer.formation import Formation
from cluster.peer.founding import Founding
from cluster.peer.links import BrokerLinks
from cluster.peer.lost_start import LostStart
from cluster.peer.messages import (
    Applied,
    ConfirmLeadership,
    LeaderKnown,
    LeadershipConfirmed,
    Leading,
    Propose,
)
from cluster.peer.neighbours import Neighbours
from cluster.peer.news import ReplicaNews
from cluster.peer.opening import Opening
from cluster.peer.reception import Reception, Service
from cluster.peer.report import OwnReport
from cluster.peer.room import Room
from cluster.peer.roster import Roster
from cluster.peer.snapshots import Parts, Snapshots
from cluster.peer.ticker import Ticker
from cluster.raft import wire
from cluster.raft.core import Config, Proposal, Raft
from cluster.raft.effects import Effects as RaftEffects
from cluster.raft.membership import Configuration
from cluster.raft.messages import NO_NODE, EntryKind, Message, MessageType, Role
from cluster.state.commands import MACHINE_VERSION, Stamp
from cluster.state.commands import Formation as FormationCommand
from cluster.state.errors import UnreadableState
from cluster.state.machine import Machine
from cluster.storage.errors import ForeignDirectory, UnsupportedVersion, WalFailed
from cluster.storage.record import decode_records
from cluster.storage.recovery import Recovery
from cluster.storage.wal import Wal
from cluster.wire import (
    ROLE_BROKER,
    BrokerState,
    ClockNews,
    Form,
    FormationNews,
    FromBroker,
    Hello,
    RaftMessage,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotWant,
)

CLOCK_NEWS_INTERVAL = 1 * SECOND
TRANSFER = frozenset((SnapshotOffer, SnapshotChunk, SnapshotWant))
STALL_LIMIT = 1 * SECOND            # a leader whose oldest write waits longer steps down
CLUSTER_ID_BYTES = 16

# Of the core, which refuses whatever it is given then. The Broker stops taking submits at half of it, so completions
# and cancels find room.
UNCOMMITTED_BYTES_MAX = 64 * 1024 * 1024
UNCOMMITTED_ENTRIES_MAX = 131_072

# Per heartbeat of 100 ms. Followers that keep up are never that far behind. One that was away could get 70 MiB/s on two
# cores, and the cluster would go on with half of its throughput; with this it goes on with three quarters.
CATCH_UP_BYTES = 3 * 1024 * 1024


class RaftPeer(Actor):
    """One member of the Raft group, with its log and its replica of the state."""

    refusals = (
        AddressInUse,
        BadAddress,
        BrokerFault,    # a disk's failure and the like: the process says why it ends, in one line
        BrokerRefused,
        DataUnusable,
        ForeignDirectory,
        Locked,
        UnreadableState,
        UnsupportedVersion,
        WalFailed,
    )

    def __init__(self, config: BrokerConfig, reception: Reception, endpoint: object, incarnation: int) -> None:
        self.config = config
        self.reception = reception
        self.endpoint = endpoint
        self.incarnation = incarnation
        self.machine = Machine()
        self.wal: Wal = None  # type: ignore[assignment]      # until it is opened
        self.core: Raft | None = None                   # from the formation on, with its drive
        self.drive: Drive | None = None
        self.broker: Ref[object] | None = None
        self.on_ready: Callable[[], None] = lambda: None        # the log is open, the addresses are bound
        self.names = [name for name, _, _ in config.brokers]
        self.id = self.names.index(config.node) + 1
        self.refused = 0                                # messages that no well-behaved broker sends
        self.closed_reason = ""                         # why the log takes no submits now; the Broker's gate reads it
        self._report = OwnReport()
        self._told: tuple[int, str] | None = None       # term and leader that the Broker knows
        self._round_of: dict[int, int] = {}             # round of the core -> round of the Broker
        self._said_hello_empty = False                  # our hello lacked it: say hello again once we have it

    # -- life -------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        context, config = self.context, self.config
        self._peer_log = PeerLog(context.log, context.clock)
        members = Configuration(tuple(range(1, len(self.names) + 1)))
        self.snapshots = Snapshots(
            context,
            config.directory,
            config.compaction,
            self.machine,
            members,
            config.wal.segment_bytes,
            self._step,
            self._tell_news,
        )
        self.room = Room(
            context,
            config.node,
            config.directory,
            self.names,
            lambda: self.snapshots.is_writing,
            lambda: self.snapshots.is_closed,
            self._tell_news,
            self._close_gate,
            lambda: self._hand_over(self.closed_reason),
        )
        self.lost_start = LostStart(
            context, config.node, self.names, lambda: self.snapshots.has_start, self._hand_over
        )
        restore, persisted, failed = self.snapshots.load, self._persisted, self._failed
        Opening(context, config, self.incarnation, restore, persisted, failed, self._opened).begin()

    def _opened(self, wal: Wal, recovery: Recovery) -> None:
        context, config = self.context, self.config
        self.wal, self.recovery = wal, recovery
        self.room.begin(wal)
        self.storage = EntryCache(wal, recovery, self.snapshots.mark)
        guard = context.callback
        others = [
            (number, name, control, bulk)
            for number, (name, control, bulk) in enumerate(config.brokers, start=1)
            if name != config.node
        ]
        fresh_id = context.entropy.bits(8 * CLUSTER_ID_BYTES).to_bytes(CLUSTER_ID_BYTES, "big")
        formation = Formation.resume(
            is_first=self.id == 1,
            peers=tuple(name for _, name, _, _ in others),
            fresh_id=fresh_id,
            cluster_id=self.recovery.cluster_id,
            # Damage may take the id with it: then it is told by the others, as to a broker that was emptied.
            has_log=self.recovery.cluster_id is not None
            and (self.recovery.hard_state.term > 0 or self.recovery.quarantined),
        )
        self.links = BrokerLinks(
            self.endpoint,  # type: ignore[arg-type]
            others,
            self._hello,
            guard(self._link_up),
            guard(self._link_down),
            guard(self._on_refused),
            guard(self.snapshots.link_down),
        )
        names = {number: name for number, name, _, _ in others}
        self.neighbours = Neighbours(self.id, names, context.clock, self.links.is_up, self._tell_ending)
        self.founding = Founding(formation, self.wal, self.links, self.names, config.directory, self._begin)
        self.roster = Roster(self.names, config.node, config.directory, formation, self._restarted)
        decoder = msgspec.msgpack.Decoder(list[FromBroker])
        service = Service(decoder, guard(self._accept), guard(self._on_messages), guard(self.roster.forget))
        self.reception.serve(ROLE_BROKER, service)
        self.news = ReplicaNews(config.node, context.clock, context.log)
        _, control, bulk = config.brokers[self.id - 1]
        self.reception.listen(control)
        self.reception.listen(bulk)
        self.ticker = Ticker(context, self._tick, self._is_calm)
        context.timer("clock", CLOCK_NEWS_INTERVAL, self._tell_clock)
        self.founding.start()
        self.on_ready()

    def stopped(self, reason: object) -> None:
        self.snapshots.stop()
        if self.wal is not None:
            self.wal.close()

    # -- other brokers ----------------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        log = self.wal
        last_index = log.last_index
        cluster_id = self.recovery.cluster_id or self.founding.formation.cluster_id
        self._said_hello_empty |= not cluster_id
        state = BrokerState(
            cluster_id,
            self.core.term if self.core is not None else self.recovery.hard_state.term,
            last_index,
            log.term(last_index) if last_index else 0,
            log.meta.quarantine is not None,
        )
        return Hello(self.config.cluster, self.config.node, self.incarnation, ROLE_BROKER, broker=state)

    def _accept(self, peer: Peer, hello: Hello) -> str:
        reason = self.roster.accept(peer, hello)
        node_id = self.roster.node_id(peer)
        if not reason and node_id is not None:
            self.links.send(node_id, self.founding.news)
        return reason

    def _restarted(self, node_id: int, state: BrokerState) -> None:
        if self.core is not None:
            self.links.reset(node_id)
            self.snapshots.link_down(node_id)
            self.core.peer_restarted(node_id, state.term, state.last_index, state.last_term, state.quarantined)
            self._drive_later()

    def _on_refused(self, node_id: int, reason: str) -> None:
        self.roster.refused(node_id, reason)

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        node_id = self.roster.node_id(peer)
        if node_id is None:
            return
        for message in messages:
            kind = type(message)
            if kind is RaftMessage:
                if self.roster.is_member(peer):
                    self._on_raft(node_id, message)
            elif kind in TRANSFER:
                if self.roster.is_member(peer):
                    self.snapshots.heard(node_id, message)
            elif kind is FormationNews:
                self.founding.heard(self.names[node_id - 1], message)  # type: ignore[arg-type]
            elif kind is Form:
                self.founding.asked(message)  # type: ignore[arg-type]
            elif isinstance(message, ClockNews):
                self.news.heard(node_id, self.names[node_id - 1], message)
                self.neighbours.heard(node_id, message)
                self.room.heard(self.names[node_id - 1], message.lacks_room)
                self.lost_start.heard(self.names[node_id - 1], message)
                self.snapshots.heard_news(node_id, message.compacting)

    def _on_raft(self, node_id: int, message: msgspec.Struct) -> None:
        assert isinstance(message, RaftMessage)
        core = self.core
        if core is None:
            return
        try:
            decoded = wire.decode(message.data, decode_records)
        except (msgspec.DecodeError, ValueError) as error:
            self.refused += 1
            self._peer_log.event("raft_message_refused", self.names[node_id - 1], reason=str(error))
            return
        if decoded.sender != node_id or decoded.to != self.id:
            self.refused += 1
            return
        if decoded.type is MessageType.SNAPSHOT:
            return      # it comes with its file, see `_step`
        if decoded.type is MessageType.APPEND_RESPONSE:
            if decoded.reject:
                self.links.reset(node_id)
            else:
                self.links.acknowledged(node_id, decoded.index)
        core.step(decoded)
        self._drive_later()

    def _step(self, message: Message) -> None:
        """The core's message of a snapshot, once its file is here and its state restored."""
        assert self.core is not None
        self.core.step(message)
        self._drive()

    def _link_up(self, node_id: int) -> None:
        self.founding.linked()
        self.neighbours.linked(node_id)
        self.snapshots.link_up(node_id)

    def _link_down(self, node_id: int) -> None:
        if self.core is not None:
            self.ticker.settle()
            # A full disk does not stand early, whoever else has room: one that leads hands over only if it knows.
            self.core.yields |= self.room.is_lacking
            self.snapshots.link_down(node_id)
            self.core.link_down(node_id)
            self.core.unreachable(node_id)
            self.ticker.look_soon()
            self.links.reset(node_id)
            self._drive_later()

    # -- formation --------------------------------------------------------------------------------------------------

    def _begin(self, cluster_id: bytes) -> None:
        """Elections may run."""
        if self.core is not None:
            return
        if self._said_hello_empty:
            self.links.renew()
        command = FormationCommand(cluster_id, tuple(self.names))
        first_payload = msgspec.msgpack.encode([(command.__struct_config__.tag, MACHINE_VERSION, [command])])
        members = Configuration(tuple(range(1, len(self.names) + 1)))
        # Followers hear of a commit with the next entries or heartbeat: nobody waits for their replicas, and half of
        # all messages of a lightly loaded cluster would say nothing else.
        config = Config(
            self.id,
            members,
            self.context.entropy.below,
            first_payload=first_payload,
            eager_commit=False,
            applying_bytes_max=APPLY_BYTES_PER_TURN,
            applied=self.machine.applied_index,
            uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
            uncommitted_entries_max=UNCOMMITTED_ENTRIES_MAX,
            catch_up_bytes=CATCH_UP_BYTES,
        )
        self.core = Raft(config, self.storage)
        self.drive = Drive(
            self.core,
            self.wal,
            self.storage,
            self.links,
            self.machine,
            self._drive_later,
            self._notice,
            self._lead,
            self.snapshots,
            self.snapshots.checkpoints,
        )
        self.snapshots.begin(Parts(self.core, self.drive, self.wal, self.storage, self.links))
        if self.wal.quarantined:
            self.core.quarantine()
        self.context.log.event(
            "broker_started",
            node=self.config.node,
            cluster_id=cluster_id.hex(),
            last_index=self.recovery.last_index,
            term=self.core.term,
            sync=self.wal.syncing.mode,
            quarantined=self.wal.quarantined,
        )
        if len(self.names) == 1:
            self.core.campaign()
        self._drive_later()

    # -- the Broker of this process -----------------------------------------------------------------------------------

    @handles
    def on_propose(self, message: Propose) -> None:
        core = self.core
        if core is None or core.role is not Role.LEADER or core.term != message.term:
            return      # their senders say them again to the next leader
        proposal = core.propose([(EntryKind.NORMAL, payload) for payload in message.payloads])
        if proposal is not Proposal.ACCEPTED:
            self.context.log.event("proposal_refused", reason=proposal.name, entries=len(message.payloads))
        self._drive_later()

    @handles
    def on_confirm_leadership(self, message: ConfirmLeadership) -> None:
        if self.core is not None and (number := self.core.open_round()):
            self._round_of[number] = message.round
            self._drive_later()

    @property
    def backlog_bytes(self) -> int:
        """Proposed and not yet applied here; the Broker refuses submits while it is high."""
        return self.core.uncommitted_bytes if self.core is not None else 0

    def status(self) -> dict[str, object]:
        return self._report.row(self)

    # -- dates --------------------------------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """The leader's time of day for an entry that it makes now."""
        assert self.core is not None
        return Stamp(self.stamp_ms(), self.core.term)

    def until_stamp(self, date_ms: int) -> Nanos:
        """How long until `stamp_ms` gives this date."""
        return self.news.wait(date_ms)

    def stamp_ms(self) -> int:
        return self.news.stamp_ms()

    def _tell_clock(self) -> None:
        self.context.timer("clock", CLOCK_NEWS_INTERVAL, self._tell_clock)
        self._report.second(self.context.system.turn.take_longest())
        self.room.look()
        if (core := self.core) is not None:
            leads = core.role is Role.LEADER
            follows = core.leader not in (NO_NODE, core.id)
            self.lost_start.look(self.machine.applied_index, leads=leads, follows=follows)
            core.yields = self.room.yields or self.lost_start.yields
        self._tell_news()

    def _tell_news(self) -> None:
        core = self.core
        news = self.news.own(
            *self.machine.digest,
            lacks_room=self.room.is_lacking,
            needs_state=core is None or core.quarantined or self.wal.quarantined or not self.snapshots.has_start,
            applied_index=self.machine.applied_index,
            compacting=self.snapshots.compacting,
            ending=self.neighbours.ends,
        )
        self.links.send_all(news)

    def _tell_ending(self) -> None:
        self._tell_news()
        self.links.flush()

    def _close_gate(self, reason: str) -> None:
        self.closed_reason = reason

    def _hand_over(self, reason: str) -> None:
        if self.core is not None and self.core.role is Role.LEADER:
            self.context.log.event("handed_over", node=self.config.node, reason=reason)
            self.core.step_down()
            self._drive_later()

    # -- ticks --------------------------------------------------------------------------------------------------------

    def _tick(self, count: int) -> None:
        core = self.core
        if core is None:
            return
        for _ in range(count):
            core.tick()
        self.wal.mark()
        pending = self.wal.oldest_pending_ns(self.context.clock.now())      # of syncs that left the loop
        if pending > STALL_LIMIT and core.role is Role.LEADER:
            self.context.log.event("disk_stalled", pending_ms=pending // MILLISECOND)
            core.step_down()
        self._drive_later()

    def _is_calm(self) -> bool:
        core = self.core
        return core is not None and core.leader != NO_NODE and core.hurry == 0

    # -- the drive ----------------------------------------------------------------------------------------------------

    def _drive_later(self) -> None:
        self.context.at_turn_end(self._drive)

    def _drive(self) -> None:
        assert self.drive is not None
        self.drive.run()
        self._tell_broker()

    def _persisted(self, write_id: int) -> None:
        assert self.drive is not None
        self.drive.persisted(write_id)

    def _failed(self, error: WalFailed) -> None:
        raise BrokerFault(str(error))

    def _notice(self, effects: RaftEffects) -> None:
        """What the core says that is not about messages, disk and entries."""
        core = self.core
        assert core is not None
        if effects.soft_state is not None and core.role is not Role.LEADER:
            self._round_of.clear()
            self.snapshots.deposed()
        if effects.confirmed_round and self.broker is not None:
            done = [number for number in self._round_of if number <= effects.confirmed_round]
            for number in done:
                self.broker.tell(LeadershipConfirmed(self._round_of.pop(number)))
        for node_id in effects.data_lost_by:
            self.context.log.event("data_lost", node=self.names[node_id - 1], action="quarantined until it caught up")
        if effects.quarantine_demanded:
            reason = "the leader had seen more of this log"
            self.context.log.event("quarantined", node=self.config.node, reason=reason)
            self.wal.quarantine(reason, done=core.quarantine)
        if effects.quarantine_over:
            self.wal.lift_quarantine(done=self._quarantine_lifted)

    def _quarantine_lifted(self) -> None:
        assert self.core is not None
        self.core.lift_quarantine()
        self.context.log.event("quarantine_lifted", node=self.config.node)

    def _lead(self, term: int) -> None:
        self.news.lead(self.machine.now_ms)

    def _tell_broker(self) -> None:
        """What the Broker must know after a drive: who leads, then what was applied under it."""
        core, broker, drive = self.core, self.broker, self.drive
        if core is None or drive is None or broker is None:
            return
        leading = core.role is Role.LEADER and drive.leading_term == core.term
        leader = self.names[core.leader - 1] if core.leader != NO_NODE else ""
        if core.role is Role.LEADER and not leading:
            leader = ""
        if (core.term, leader) != self._told:
            self._told = (core.term, leader)
            broker.tell(Leading(core.term) if leading else LeaderKnown(core.term, leader))
        if leading and (effects := drive.take_effects()) is not None:
            broker.tell(Applied(core.term, effects))
