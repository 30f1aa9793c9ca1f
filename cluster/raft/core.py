"""The Raft core: one node's part of the algorithm, without clock, chance, disk or network.

Events go in (`tick`, `step`, `propose`, `persisted`, `applied`, `link_down`, ...), effects come out (`take`). The
algorithm is etcd's: Ongaro's Raft with pre-vote and check-quorum together, optimistic pipelining, conflict hints
that skip whole terms, and answers that are gated on the write they depend on. It is divided by phase: `election` and
`replication` hold the rules, this module the state they share and the border to the shell.

Two ways of acknowledging writes exist. In production every `take` that has something to write carries a write id,
and `persisted(id)` releases the gated messages and moves the durable index. Transcripts drive the same core by
etcd's own messages: there the environment takes `effects.after` itself (`Config.manual_storage`) and calls
`stable_to`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cluster.raft import election, replication, snapshots
from cluster.raft.catch_up import Pace
from cluster.raft.effects import Effects
from cluster.raft.log import LogStorage, RaftLog, size_of
from cluster.raft.membership import Configuration, Tracker
from cluster.raft.messages import (
    NO_NODE,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Role,
    SnapshotMark,
    SoftState,
)
from cluster.raft.reads import Rounds
from cluster.raft.writes import Writes

GATED = frozenset(
    (MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE)
)   # answers that say "durable": they never leave before the write that makes them true


class Proposal(Enum):
    """The fate of `propose`, told at once; an accepted one may still be lost with its leader."""

    ACCEPTED = 0
    NOT_LEADER = 1
    OVERLOADED = 2


@dataclass(frozen=True, slots=True)
class Config:
    """How a core behaves. Times in ticks, sizes in bytes of payload; 0 means no bound for inflight_bytes_max."""

    id: int
    members: Configuration
    below: Callable[[int], int]                     # uniform integer below the argument
    election_ticks: int = 100
    heartbeat_ticks: int = 10
    pre_vote: bool = True
    check_quorum: bool = True
    async_storage_writes: bool = True               # apply only what is durable here
    manual_storage: bool = False                    # the driver releases gated messages itself
    lease_based_reads: bool = False
    eager_commit: bool = True                       # tell followers of a new commit index at once, as etcd does
    append_bytes_max: int = 1 << 20
    inflight_messages_max: int = 64
    inflight_bytes_max: int = 8 << 20
    uncommitted_bytes_max: int = 32 << 20
    uncommitted_entries_max: int = 65_536
    applying_bytes_max: int = 16 << 20
    catch_up_bytes: int = 0                         # per heartbeat, to a follower that lags; 0 = as much as it takes
    applied: int = 0                                # what the state holds: the index of the snapshot it began with
    first_payload: bytes = b""                      # of the very first entry of the cluster's log


class Raft:
    """One node. Public methods never call back; read-only attributes may be looked at between calls."""

    def __init__(self, config: Config, storage: LogStorage) -> None:
        self.config = config
        self.id = config.id
        self.log = RaftLog(storage, applied=config.applied, applying_bytes_max=config.applying_bytes_max)
        self.tracker = Tracker(config.members, config.inflight_messages_max, config.inflight_bytes_max)
        hard_state = storage.initial_state()
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.log.commit_to(min(hard_state.commit, self.log.last_index))
        self.role = Role.FOLLOWER
        self.leader = NO_NODE
        self.quarantined = False            # lost acknowledged data: does not vote or stand
        self.quarantine_marked = False      # and that is durable: answers say so
        self.election_elapsed = 0           # ticks since the leader was heard (or since we lead)
        self.heartbeat_elapsed = 0
        self.randomized_election_ticks = 0  # redrawn at every change of term, in [election, 2 * election - 1]
        self.uncommitted_bytes = 0          # of entries proposed in this term and not committed; leader only
        self.uncommitted_entries = 0
        self.yields = False                 # set by the shell: leads only if nobody else will
        self.hurry = 0                      # early elections left after the leader's link went down
        self.hurry_ticks = 0                # until the next of them
        self.hurry_turn = 0                 # how many others go first
        self.hurry_lost = NO_NODE           # who led
        self.rounds = Rounds()
        self.pace = Pace()
        self.writes = Writes(tracked=not config.manual_storage)
        self.outbox: list[Message] = []
        self.gated: list[Message] = []
        self._confirmed_told = 0
        self._data_lost_by: list[int] = []
        self.quarantine_demanded = self.quarantine_over = False     # to be told
        self.released = (0, 0)              # (term, index) of the entry that ended the last quarantine
        self.found = (self.log.last_term, self.log.last_index)     # at the start: no entry up to it can end one
        self._reset(self.term)
        self._told_hard = self.hard_state
        self._told_soft = self.soft_state

    # -- what the shell reads -----------------------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def soft_state(self) -> SoftState:
        return SoftState(self.leader, self.role)

    @property
    def durable_index(self) -> int:
        return self.log.durable_index

    # -- events -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of time has passed."""
        if self.role is Role.LEADER:
            replication.tick_leader(self)
        else:
            election.tick_election(self)

    def campaign(self) -> None:
        """Stands for election now, as after an election timeout."""
        election.hup(self)

    def step(self, message: Message) -> None:
        """A message of another node (or of this node to itself, once its write is durable)."""
        election.step(self, message)

    def propose(self, payloads: list[tuple[int, bytes]]) -> Proposal:
        """Appends entries of (kind, payload) if this node leads."""
        if self.role is not Role.LEADER or self.id not in self.tracker.progress:
            return Proposal.NOT_LEADER
        if not replication.append_entries(self, payloads):
            return Proposal.OVERLOADED
        replication.broadcast_append(self)
        return Proposal.ACCEPTED

    def forget_leader(self) -> None:
        """A follower acts as if no leader was heard of, without leaving the term; it will grant pre-votes."""
        if self.role is Role.FOLLOWER and not self.config.lease_based_reads:
            self.leader = NO_NODE

    def link_down(self, node: int) -> None:
        """The link to `node` was closed. If that was the leader, do not wait for a whole timeout: forget it (else the
        lease that check-quorum grants it would make others ignore us too) and stand early, a few times."""
        if node == self.leader and self.role is Role.FOLLOWER:
            self.forget_leader()
            election.begin_hurry(self, node)

    def unreachable(self, node: int) -> None:
        """A message to `node` could not be sent: it must be assumed lost."""
        replication.unreachable(self, node)

    def report_snapshot(self, node: int, ok: bool) -> None:
        """The transfer of a snapshot to `node` is over: it has it all (not necessarily installed), or not."""
        if self.role is Role.LEADER:
            snapshots.report(self, node, ok=ok)

    def peer_restarted(self, node: int, term: int, last_index: int, last_term: int, quarantined: bool) -> None:
        """A new incarnation of `node` said hello, with its term, where its log ends durably, and whether it bears the
        mark of a quarantine durably."""
        if term > self.term:
            self.become_follower(term, NO_NODE)
        if self.role is Role.LEADER and replication.peer_restarted(self, node, last_index, last_term, quarantined):
            self._data_lost_by.append(node)

    def open_round(self) -> int:
        """Starts a confirmation that this node leads; `Effects.confirmed_round` reaches it once it is known. 0 if it
        does not lead."""
        return replication.open_round(self) if self.role is Role.LEADER else 0

    def quarantine(self) -> None:
        """The quarantine mark is durable (or was found at the start): this node neither votes nor counts."""
        self.quarantined = self.quarantine_marked = True
        self.quarantine_demanded = False

    def lift_quarantine(self) -> None:
        """The mark is durably gone."""
        self.quarantined = self.quarantine_marked = False

    def step_down(self) -> None:
        """A leader whose disk stalls or is full gives up."""
        if self.role is Role.LEADER:
            self.become_follower(self.term, NO_NODE)

    # -- storage ------------------------------------------------------------------------------------------------------

    def persisted(self, write_id: int) -> None:
        """Writes up to `write_id` are durable."""
        for done in self.writes.done(write_id):
            if done.last_index:
                self.log.stable_to(done.last_index)
            if done.snapshot is not None:
                self.log.snapshot_durable(done.snapshot)
            for message in done.after:
                if message.to == self.id:
                    self.step(message)
                else:
                    self.outbox.append(message)

    def stable_to(self, index: int, log_term: int, term: int) -> None:
        """etcd's acknowledgement of a write: durable up to (index, log_term), told in `term`. Ignored from an
        earlier term, since its entries may have been overwritten meanwhile."""
        if term >= self.term and index and self.log.term(index) == log_term:
            self.log.stable_to(index)

    def applied(self, entries: list[Entry]) -> None:
        """These entries, which `take` handed out as committed, are applied."""
        self.log.applied_to(max(entries[-1].index, self.log.applied), size_of(entries))
        replication.reduce_uncommitted(self, entries)

    def installed(self, mark: SnapshotMark) -> None:
        """The state is that of this snapshot, which `take` handed out; before or after its write is durable."""
        if self.config.manual_storage:      # etcd's acknowledgement says both
            self.log.snapshot_durable(mark)
        self.log.snapshot_installed(mark)

    def compacted(self, first_index: int) -> None:
        """The entries below `first_index`, all of them applied, are about to leave storage."""
        self.log.compacted(first_index)

    def take(self) -> Effects | None:
        """What is to be done now, None if nothing. Call it again after every event or batch of events."""
        log = self.log
        asynchronous = self.config.async_storage_writes
        committed = log.next_committed(allow_unstable=not asynchronous)
        news = self._news()
        hard, soft = self._told_hard, self._told_soft
        if hard.commit != log.committed or hard.term != self.term or hard.vote != self.vote:
            hard = self.hard_state
        if soft.leader != self.leader or soft.role != self.role:
            soft = self.soft_state
        if not (
            committed
            or self.outbox
            or self.gated
            or log.has_new
            or log.next_snapshot() is not None
            or news
            or hard is not self._told_hard
            or soft is not self._told_soft
        ):
            return None
        snapshot = log.next_snapshot()
        entries = log.next_unstable() if snapshot is None else []
        changed = hard if hard is not self._told_hard else None
        must_sync = bool(entries) or hard[:2] != self._told_hard[:2]
        if snapshot is not None and not self.config.manual_storage:
            must_sync = True        # other than etcd's, where it is up to the shell
        gated: list[Message] = []
        if snapshot is None or not log.has_new:     # else some may depend on entries behind it, which come next
            gated, self.gated = self.gated, []
        write = None
        if entries or changed or gated or snapshot is not None:
            write = self.writes.next(hard, entries, snapshot, gated, must_sync=must_sync)
        effects = Effects(
            write=write,
            messages=self.outbox,
            committed=committed,
            soft_state=soft if soft is not self._told_soft else None,
            hard_state=changed,
            after=gated,
            snapshot=snapshot,
        )
        self.outbox = []
        self._told_hard, self._told_soft = hard, soft
        if snapshot is not None:
            log.snapshot_handed_out = True
        if entries:
            log.hand_out()
        if committed:
            log.accept_applying(committed[-1].index, size_of(committed), allow_unstable=not asynchronous)
        if news:
            self._tell_news(effects)
        return effects

    def _news(self) -> bool:
        return bool(
            self._data_lost_by
            or self.quarantine_demanded
            or self.quarantine_over
            or (self.role is Role.LEADER and self.rounds.confirmed > self._confirmed_told)
        )

    def _tell_news(self, effects: Effects) -> None:
        effects.data_lost_by, self._data_lost_by = self._data_lost_by, []
        effects.quarantine_demanded, self.quarantine_demanded = self.quarantine_demanded, False
        effects.quarantine_over, self.quarantine_over = self.quarantine_over, False
        if self.rounds.confirmed > self._confirmed_told:
            effects.confirmed_round = self._confirmed_told = self.rounds.confirmed

    # -- state that election and replication share ---------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queues a message; answers that claim durability wait for the write.

        So do requests for votes, other than etcd's: a candidate that crashed before its term was durable could
        stand in the same term again, win it again with the votes of those who remember it, and put other entries
        where it had put some before. Transcripts show etcd's order.
        """
        if message.type in GATED or (message.type is MessageType.VOTE and not self.config.manual_storage):
            message.quarantined = self.quarantine_marked
            self.gated.append(message)
        else:
            assert message.to != self.id
            self.outbox.append(message)

    def _reset(self, term: int) -> None:
        if self.term != term:
            self.term = term
            self.vote = NO_NODE
        self.leader = NO_NODE
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.randomized_election_ticks = self.config.election_ticks + self.config.below(self.config.election_ticks)
        self.uncommitted_bytes = self.uncommitted_entries = 0
        self.rounds = Rounds()
        self.pace = Pace()
        self._confirmed_told = 0
        self.tracker.reset(self.id, self.log.last_index)

    def become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.leader = leader
        self.role = Role.FOLLOWER

    def become_pre_candidate(self) -> None:
        """Asks for votes without entering a term: nothing durable changes."""
        assert self.role is not Role.LEADER
        self.tracker.votes = {}
        self.leader = NO_NODE
        self.role = Role.PRE_CANDIDATE

    def become_candidate(self) -> None:
        assert self.role is not Role.LEADER
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE

    def become_leader(self) -> None:
        assert self.role is Role.CANDIDATE
        self._reset(self.term)
        self.leader = self.id
        self.role = Role.LEADER
        self.hurry = 0
        own = self.tracker.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        # Raft section 8: an entry of the own term commits everything before it, and shows what was committed.
        payload = self.config.first_payload if self.log.last_index == 0 else b""
        accepted = replication.append_entries(self, [(EntryKind.NORMAL, payload)])
        assert accepted, "the first entry of a term is never refused"
        for progress in self.tracker.progress.values():
            if progress.quarantined:        # known from an earlier term that we led: this entry will release it
                progress.release_index = self.log.last_index
