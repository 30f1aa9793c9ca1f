"""The RaftPeer actor: carries out what the Raft core decides, and applies what it commits.

One drive is the heart of a broker: messages that may leave at once leave, so that followers write while this broker
does; then everything of the turn is made durable with one sync; then the answers that waited for it leave, and what
is committed is applied. Nothing is told before the disk has it. A failed sync is never tried again: the process ends,
and the next start goes through recovery.
"""

from dataclasses import dataclass

import msgspec

from actors import MILLISECOND, SECOND, Actor, Locked, Nanos, Peer, Ref, handles
from cluster.peer.entry_cache import EntryCache
from cluster.peer.formation import (
    Action,
    Announce,
    Begin,
    Foreign,
    Formation,
    Quarantine,
    SendForm,
    Store,
)
from cluster.peer.links import BrokerLinks
from cluster.peer.messages import (
    Applied,
    ConfirmLeadership,
    LeaderKnown,
    Leading,
    LeadershipConfirmed,
    Propose,
)
from cluster.raft import wire
from cluster.raft.core import Config, Proposal, Raft
from cluster.raft.effects import Effects as RaftEffects
from cluster.raft.effects import Write
from cluster.raft.membership import Configuration
from cluster.raft.messages import NO_NODE, Entry, EntryKind, Message, MessageType, Role
from cluster.peer.reception import Reception, Service
from cluster.peer.stamp import StampClock, median_ms
from cluster.state.commands import MACHINE_VERSION, Formation as FormationCommand, Stamp
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.storage.errors import WalFailed
from cluster.storage.record import GROUP, decode_records, encode_record
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.wal import DEFAULT_LIMITS, Wal
from cluster.wire import (
    ROLE_BROKER,
    BrokerState,
    ClockNews,
    Form,
    FormationNews,
    FromBroker,
    Hello,
    RaftMessage,
)

TICK = 10 * MILLISECOND
CALM_TICKS = 5                      # looked at together while no election is near: idle brokers should cost nothing
CATCH_UP_TICKS_MAX = 20             # after a pause: a stall must not become an election by arithmetic
CLOCK_NEWS_INTERVAL = 1 * SECOND
STALL_LIMIT = 1 * SECOND            # thread mode: a leader whose oldest write waits longer steps down
CLUSTER_ID_BYTES = 16
APPLY_BYTES_PER_TURN = 1024 * 1024  # about 8,000 small tasks, some ten milliseconds
DIGESTS_KEPT_MAX = 64
LOCK_PATIENCE = 10 * SECOND         # for the lock of a predecessor that is still ending
LOCK_RETRY = 100 * MILLISECOND


class BrokerFault(Exception):  # noqa: N818
    """This broker cannot go on; a restart goes through recovery."""


class BrokerRefused(Exception):  # noqa: N818
    """This broker may not start; an operator must put something right first."""


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One broker's part of the topology. `brokers` are (name, control address, bulk address) in its order."""

    cluster: str
    node: str
    brokers: tuple[tuple[str, str, str], ...]
    directory: str
    sync_mode: str = "auto"
    wal: WalLimits = DEFAULT_LIMITS


class RaftPeer(Actor):
    """One member of the Raft group, with its log and its replica of the state."""

    def __init__(self, config: PeerConfig, reception: Reception, endpoint: object, incarnation: int) -> None:
        self.config = config
        self.reception = reception
        self.endpoint = endpoint
        self.incarnation = incarnation
        self.machine = Machine()
        self.wal: Wal = None  # type: ignore[assignment]      # until it is opened
        self.core: Raft | None = None
        self.broker: Ref[object] | None = None
        self.names = [name for name, _, _ in config.brokers]
        self.id = self.names.index(config.node) + 1
        self.refused = 0                                # messages that no well-behaved broker sends
        self._effects = Effects()
        self._has_effects = False
        self._leading_term = 0                          # of the term whose own entry is applied, 0 = not leading
        self._told: tuple[int, str] | None = None       # term and leader that the Broker knows
        self._round_of: dict[int, int] = {}             # round of the core -> round of the Broker
        self._incarnations: dict[int, int] = {}         # of the other brokers, as they last said hello
        self._peer_ids: dict[Peer, int] = {}
        self._wall_offsets: dict[int, int] = {}         # node id -> its wall clock minus ours, ms
        self._last_stamp_ms = 0
        self._digests: dict[int, int] = {}              # the newest by index, to compare with other replicas
        self._unsynced: int = 0                         # newest write id whose completion is still awaited
        self._ticked_at: Nanos = 0
        self._driving = False

    # -- life -------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        self._lock_deadline = self.context.clock.now() + LOCK_PATIENCE
        self._open()

    def _open(self) -> None:
        """Opens the log; a predecessor that is still ending is waited for."""
        try:
            self._open_log()
        except Locked:
            if self.context.clock.now() >= self._lock_deadline:
                raise
            self.context.timer("lock", LOCK_RETRY, self._open)
        else:
            self._opened()

    def _open_log(self) -> None:
        context = self.context
        config = self.config
        self.wal, self.recovery = Wal.open(
            context.files,
            config.directory,
            NodeIdentity(config.node, config.cluster, self.incarnation),
            salt=lambda: context.entropy.bits(64),
            clock=context.clock,
            limits=config.wal,
            sync_mode=config.sync_mode,  # type: ignore[arg-type]
            on_persisted=self._persisted,
            on_failed=self._failed,
            guard=context.callback,
        )

    def _opened(self) -> None:
        context = self.context
        config = self.config
        if self.recovery.damaged is not None and len(self.names) == 1:
            raise BrokerRefused(
                f"{self.recovery.damaged.file} is damaged and there is no other broker to refetch from"
            )
        self.storage = EntryCache(self.wal, self.recovery)
        decoder = msgspec.msgpack.Decoder(list[FromBroker])
        guard = context.callback
        service = Service(decoder, guard(self._accept), guard(self._on_messages), guard(self._on_closed))
        self.reception.serve(ROLE_BROKER, service)
        others = [
            (number, name, control, bulk)
            for number, (name, control, bulk) in enumerate(config.brokers, start=1)
            if name != config.node
        ]
        fresh_id = context.entropy.bits(8 * CLUSTER_ID_BYTES).to_bytes(CLUSTER_ID_BYTES, "big")
        self.formation = Formation.resume(
            is_first=self.id == 1,
            peers=tuple(name for _, name, _, _ in others),
            fresh_id=fresh_id,
            cluster_id=self.recovery.cluster_id,
            has_log=self.recovery.hard_state.term > 0 or self.recovery.quarantined,
        )
        self.links = BrokerLinks(self.endpoint, others, self._hello, guard(self._link_up), guard(self._link_down))  # type: ignore[arg-type]
        _, control, bulk = config.brokers[self.id - 1]
        self.reception.listen(control)
        self.reception.listen(bulk)
        self._ticked_at = context.clock.now()
        self._guarded_tick = context.callback(self._tick)
        context.timer("tick", TICK, self._before_tick)
        context.timer("clock", CLOCK_NEWS_INTERVAL, self._tell_clock)
        self._perform(self.formation.start())

    def stopped(self, reason: object) -> None:
        if self.wal is not None:
            self.wal.close()

    # -- other brokers ----------------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        log = self.wal
        last_index = log.last_index
        state = BrokerState(
            self.recovery.cluster_id or self.formation.cluster_id,
            self.core.term if self.core is not None else self.recovery.hard_state.term,
            last_index,
            log.term(last_index) if last_index else 0,
            log.quarantined,
        )
        return Hello(self.config.cluster, self.config.node, self.incarnation, ROLE_BROKER, broker=state)

    def _accept(self, peer: Peer, hello: Hello) -> str:
        if hello.node not in self.names or hello.node == self.config.node or hello.broker is None:
            return f"{hello.node!r} is not a broker of this topology"
        node_id = self.names.index(hello.node) + 1
        self._peer_ids[peer] = node_id
        if self._incarnations.get(node_id) != hello.incarnation:
            self._incarnations[node_id] = hello.incarnation
            self._restarted(node_id, hello.broker)
        self.links.send(node_id, FormationNews(self.formation.phase, self.formation.cluster_id))
        return ""

    def _restarted(self, node_id: int, state: BrokerState) -> None:
        """Another life of that broker: what still arrives from the old one is dropped with its session."""
        for peer, number in list(self._peer_ids.items()):
            hello = peer.hello
            if number == node_id and isinstance(hello, Hello) and hello.incarnation != self._incarnations[node_id]:
                del self._peer_ids[peer]
        if self.core is not None:
            self.links.reset(node_id)
            self.core.peer_restarted(node_id, state.term, state.last_index, state.quarantined)
            self._drive_later()

    def _on_closed(self, peer: Peer) -> None:
        self._peer_ids.pop(peer, None)

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        node_id = self._peer_ids.get(peer)
        if node_id is None:
            return
        for message in messages:
            kind = type(message)
            if kind is RaftMessage:
                self._on_raft(node_id, message)
            elif kind is FormationNews:
                self._perform(self.formation.heard(self.names[node_id - 1], message.phase, message.cluster_id))  # type: ignore[attr-defined]
            elif kind is Form:
                self._perform(self.formation.asked(message.cluster_id))  # type: ignore[attr-defined]
            elif kind is ClockNews:
                self._on_clock_news(node_id, message)

    def _on_raft(self, node_id: int, message: msgspec.Struct) -> None:
        assert isinstance(message, RaftMessage)
        core = self.core
        if core is None:
            return
        try:
            decoded = wire.decode(message.data, decode_records)
        except (msgspec.DecodeError, ValueError) as error:
            self.refused += 1
            self.context.log.event("raft_message_refused", node=self.names[node_id - 1], reason=str(error))
            return
        if decoded.sender != node_id or decoded.to != self.id:
            self.refused += 1
            return
        if decoded.type is MessageType.APPEND_RESPONSE:
            if decoded.reject:
                self.links.reset(node_id)
            else:
                self.links.acknowledged(node_id, decoded.index)
        core.step(decoded)
        self._drive_later()

    def _on_clock_news(self, node_id: int, message: msgspec.Struct) -> None:
        assert isinstance(message, ClockNews)
        self._wall_offsets[node_id] = message.wall_ms - self.context.clock.wall_ms()
        own = self._digests.get(message.digest_index)
        if own is not None and own != message.digest:
            self.context.log.event(
                "digests_differ",
                index=message.digest_index,
                node=self.config.node,
                digest=own,
                other=self.names[node_id - 1],
                other_digest=message.digest,
                action="the replicas decided differently: stop the cluster and keep every data directory",
            )

    def _link_up(self, node_id: int) -> None:
        self._perform(self.formation.linked())

    def _link_down(self, node_id: int) -> None:
        if self.core is not None:
            self.core.link_down(node_id)
            self.core.unreachable(node_id)
            self.context.timer("tick", self._tick_interval(), self._before_tick)
            self.links.reset(node_id)
            self._drive_later()

    # -- formation --------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Announce):
                self.links.send_all(FormationNews(self.formation.phase, self.formation.cluster_id))
            elif isinstance(action, SendForm):
                self.links.send_all(Form(action.cluster_id, tuple(self.names)))
            elif isinstance(action, Store):
                self._store(action.cluster_id, "")
            elif isinstance(action, Quarantine):
                self._store(action.cluster_id, "this broker came empty to a cluster that had formed")
            elif isinstance(action, Begin):
                self._begin(action.cluster_id)
            else:
                assert isinstance(action, Foreign)
                raise BrokerRefused(
                    f"{self.config.directory} belongs to another cluster than {action.node}: "
                    f"{self.formation.cluster_id.hex()} here, {action.cluster_id.hex()} there"
                )

    def _store(self, cluster_id: bytes, quarantine: str) -> None:
        self.wal.store_formation(
            cluster_id,
            self.names,
            quarantine=quarantine,
            done=lambda: self._perform(self.formation.stored(cluster_id, quarantined=bool(quarantine))),
        )

    def _begin(self, cluster_id: bytes) -> None:
        """Elections may run."""
        if self.core is not None:
            return
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
        )
        self.core = Raft(config, self.storage)
        if self.wal.quarantined:
            self.core.quarantine()
        self.context.log.event(
            "broker_started",
            node=self.config.node,
            cluster_id=cluster_id.hex(),
            last_index=self.recovery.last_index,
            term=self.core.term,
            sync=self.wal.sync_mode,
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
        core = self.core
        index, value = self.machine.digest
        return {
            "role": core.role.name.lower() if core is not None else "forming",
            "term": core.term if core is not None else 0,
            "commit_index": core.log.committed if core is not None else 0,
            "applied_index": self.machine.applied_index,
            "digest": [index, value],
            "sync": self.wal.sync_mode,
            "quarantined": self.wal.quarantined,
        }

    # -- dates --------------------------------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """The leader's time of day for an entry that it makes now."""
        assert self.core is not None
        return Stamp(self.stamp_ms(), self.core.term)

    def stamp_ms(self) -> int:
        clock = self.context.clock
        target = median_ms([clock.wall_ms() + offset for offset in (0, *self._wall_offsets.values())])
        self._last_stamp_ms = self._stamps.read(clock.now(), target)
        return self._last_stamp_ms

    def _tell_clock(self) -> None:
        self.context.timer("clock", CLOCK_NEWS_INTERVAL, self._tell_clock)
        index, value = self.machine.digest
        self._digests[index] = value
        while len(self._digests) > DIGESTS_KEPT_MAX:
            del self._digests[next(iter(self._digests))]
        self.links.send_all(ClockNews(self.context.clock.wall_ms(), index, value))

    # -- ticks --------------------------------------------------------------------------------------------------------

    def _before_tick(self) -> None:
        """Sockets first: what arrived during a pause must count before the ticks that it lasted. Two steps of
        call_soon have a poll of the sockets between them."""
        self.context.clock.call_soon(self._poll_first)

    def _poll_first(self) -> None:
        self.context.clock.call_soon(self._guarded_tick)

    def _tick(self) -> None:
        clock = self.context.clock
        now = clock.now()
        self.context.timer("tick", self._tick_interval(), self._before_tick)
        elapsed = (now - self._ticked_at) // TICK
        self._ticked_at += elapsed * TICK
        core = self.core
        if core is None:
            return
        for _ in range(min(elapsed, CATCH_UP_TICKS_MAX)):
            core.tick()
        if self.wal.sync_mode == "thread" and self.wal.oldest_pending_ns(now) > STALL_LIMIT:
            if core.role is Role.LEADER:
                self.context.log.event("disk_stalled", pending_ms=self.wal.oldest_pending_ns(now) // MILLISECOND)
                core.step_down()
        self._drive_later()

    def _tick_interval(self) -> Nanos:
        """A leader and those that hear it count in tens of milliseconds; who may stand for election counts each."""
        core = self.core
        calm = core is not None and core.leader != NO_NODE and core.hurry == 0
        return CALM_TICKS * TICK if calm else TICK

    # -- the drive ----------------------------------------------------------------------------------------------------

    def _drive_later(self) -> None:
        self.context.at_turn_end(self._drive)

    def _drive(self) -> None:
        """Carries out everything that the core wants, until it wants nothing more."""
        core = self.core
        assert core is not None and not self._driving
        self._driving = True
        applied_bytes = 0
        while (effects := core.take()) is not None:
            self._send(effects.messages)
            if effects.write is not None:
                self._queue_write(effects.write)
                self.wal.flush()
            if effects.committed:
                self._apply(effects.committed)
                applied_bytes += sum(len(entry.payload) for entry in effects.committed)
            self._notice(effects)
            if applied_bytes > APPLY_BYTES_PER_TURN:
                self._drive_later()     # a replay or a catch-up: the sockets have their turn in between
                break
        self._driving = False
        self._tell_broker()

    def _send(self, messages: list[Message]) -> None:
        if not messages:
            return
        for message in messages:
            if not self.links.send_raft(message, wire.encode(message, _record_of)) and message.entries:
                assert self.core is not None
                self.core.unreachable(message.to)
        self.links.flush()

    def _queue_write(self, write: Write) -> None:
        core = self.core
        assert core is not None
        if not write.must_sync and not write.truncate_from and not self._unsynced:
            core.persisted(write.id)        # only the commit hint moved: it rides on the next write
            return
        for entry in write.entries:
            if not entry.record:
                encode_record(GROUP, entry)
        self.storage.handed_out(write.entries, write.truncate_from)
        self._unsynced = write.id
        state = write.hard_state
        self.wal.append(write.id, state.term, state.vote, state.commit, write.truncate_from, write.entries)

    def _persisted(self, write_id: int) -> None:
        assert self.core is not None
        if write_id == self._unsynced:
            self._unsynced = 0
        self.core.persisted(write_id)
        if not self._driving:
            self._drive_later()

    def _failed(self, error: WalFailed) -> None:
        raise BrokerFault(str(error))

    def _apply(self, entries: list[Entry]) -> None:
        core = self.core
        assert core is not None
        leading = core.role is Role.LEADER
        effects = self._effects if leading else None
        apply = self.machine.apply
        for entry in entries:
            apply(entry.index, entry.term, entry.payload, effects)
        core.applied(entries)
        if leading:
            self._has_effects = True
            if self._leading_term != core.term and entries[-1].term == core.term:
                self._become_leading(core.term)

    def _become_leading(self, term: int) -> None:
        """An entry of the own term is applied: the state holds everything that was ever acknowledged."""
        self._leading_term = term
        clock = self.context.clock
        target = median_ms([clock.wall_ms() + offset for offset in (0, *self._wall_offsets.values())])
        self._stamps = StampClock(self.machine.now_ms, target, clock.now())
        # Effects of what earlier leaders had proposed are for links that are reconciled anyway.
        self._effects = Effects()
        self._has_effects = False

    def _notice(self, effects: RaftEffects) -> None:
        core = self.core
        assert core is not None
        if effects.soft_state is not None and core.role is not Role.LEADER:
            self._leading_term = 0
            self._effects = Effects()
            self._has_effects = False
            self._round_of.clear()
        if effects.confirmed_round and self.broker is not None:
            done = [number for number in self._round_of if number <= effects.confirmed_round]
            for number in done:
                self.broker.tell(LeadershipConfirmed(self._round_of.pop(number)))
        for node_id in effects.data_lost_by:
            self.context.log.event("data_lost", node=self.names[node_id - 1], action="quarantined until it caught up")
        if effects.quarantine_demanded:
            self.context.log.event("quarantined", node=self.config.node, reason="the leader saw more of this log before")
            self.wal.quarantine("the leader had seen more of this log", done=core.quarantine)
        if effects.quarantine_over:
            self.wal.lift_quarantine(done=self._quarantine_lifted)
        if effects.fault:
            raise BrokerFault(effects.fault)

    def _quarantine_lifted(self) -> None:
        assert self.core is not None
        self.core.lift_quarantine()
        self.context.log.event("quarantine_lifted", node=self.config.node)

    def _tell_broker(self) -> None:
        """What the Broker must know after a drive: who leads, then what was applied under it."""
        core, broker = self.core, self.broker
        if core is None or broker is None:
            return
        leading = core.role is Role.LEADER and self._leading_term == core.term
        leader = self.names[core.leader - 1] if core.leader != NO_NODE else ""
        if core.role is Role.LEADER and not leading:
            leader = ""
        if (core.term, leader) != self._told:
            self._told = (core.term, leader)
            broker.tell(Leading(core.term) if leading else LeaderKnown(core.term, leader))
        if self._has_effects and leading:
            effects, self._effects = self._effects, Effects()
            self._has_effects = False
            broker.tell(Applied(core.term, effects))


def _record_of(entry: Entry) -> bytes:
    return entry.record or encode_record(GROUP, entry)
