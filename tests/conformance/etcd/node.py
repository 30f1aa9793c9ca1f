"""One node of a transcript: our core, a log in memory, and the work that waits for its storage threads."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from cluster.raft import invariants
from cluster.raft.core import Config, Proposal, Raft
from cluster.raft.effects import Effects
from cluster.raft.membership import Configuration
from cluster.raft.messages import (
    NO_NODE,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Role,
    SnapshotMark,
)
from etcd.printers import APPEND_THREAD, APPLY_THREAD, Mail, mail_of

ELECTION_TICKS = 3
HEARTBEAT_TICKS = 1
UNLIMITED = 1 << 62
INFLIGHT_MESSAGES_MAX = (1 << 31) - 1
PROPOSAL_DROPPED = "raft proposal dropped"
PROPOSAL_KIND = "MsgProp"
STORAGE_APPEND = "MsgStorageAppend"
STORAGE_APPLY = "MsgStorageApply"


class Refused(Exception):
    """What a node answers to a directive that it cannot follow."""


class ForwardedProposal(Message, gc=False):
    """etcd's followers send proposals on to their leader; ours do not, so the environment does it for them."""


@dataclass(frozen=True)
class Options:
    """What `add-nodes` may say."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    index: int = 0
    inflight: int = INFLIGHT_MESSAGES_MAX
    asynchronous: bool = False
    pre_vote: bool = False
    check_quorum: bool = False
    lease_based_reads: bool = False
    applying_bytes_max: int = UNLIMITED


class MemoryLog:
    """A log that starts after an entry that is known to be committed: the last one of the snapshot that a node is
    born with (index, term 1), of one that it installed, or one that was compacted away."""

    def __init__(self, born_with: SnapshotMark) -> None:
        self._base = born_with.index
        self._base_term = born_with.term
        self._kept: list[Entry] = []
        self._newest = born_with        # of the state, which etcd's nodes make a snapshot of at every entry

    def initial_state(self) -> HardState:
        return HardState(0, NO_NODE, 0)

    def first_index(self) -> int:
        return self._base + 1

    def last_index(self) -> int:
        return self._base + len(self._kept)

    def term_runs(self) -> Sequence[tuple[int, int]]:
        return [(self._base, self._base_term)]

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        return self._kept[low - self._base - 1 : high - self._base - 1]

    def snapshot(self) -> SnapshotMark:
        return self._newest

    def applied(self, entries: list[Entry]) -> None:
        last = entries[-1]
        self._newest = structs.replace(self._newest, index=last.index, term=last.term)

    def compact(self, index: int) -> None:
        """Drops the entries up to `index`."""
        dropped = index - self._base
        assert 0 < dropped <= len(self._kept), "compacted already, or not there"
        self._base, self._base_term = index, self._kept[dropped - 1].term
        del self._kept[:dropped]

    def restart(self, mark: SnapshotMark) -> None:
        """Begins anew behind a snapshot."""
        self._base, self._base_term, self._kept, self._newest = mark.index, mark.term, [], mark

    def write(self, entries: list[Entry]) -> None:
        if entries:
            start = entries[0].index - self._base - 1
            assert 0 <= start <= len(self._kept), "a write leaves a gap"
            self._kept[start:] = entries


@dataclass
class Node:
    id: int
    options: Options
    below: Callable[[int], int]
    append_work: deque[Mail] = field(default_factory=deque)
    apply_work: deque[Mail] = field(default_factory=deque)

    def __post_init__(self) -> None:
        options = self.options
        self.log = MemoryLog(
            SnapshotMark(options.index, 1 if options.index else 0, options.voters, learners=options.learners)
        )
        self.core = Raft(
            Config(
                self.id,
                Configuration(options.voters, learners=options.learners),
                self.below,
                election_ticks=ELECTION_TICKS,
                heartbeat_ticks=HEARTBEAT_TICKS,
                pre_vote=options.pre_vote,
                check_quorum=options.check_quorum,
                async_storage_writes=options.asynchronous,
                manual_storage=True,
                lease_based_reads=options.lease_based_reads,
                append_bytes_max=UNLIMITED,
                inflight_messages_max=options.inflight,
                inflight_bytes_max=0,
                uncommitted_bytes_max=UNLIMITED,
                uncommitted_entries_max=UNLIMITED,
                applying_bytes_max=options.applying_bytes_max,
                applied=options.index,
            ),
            self.log,
        )

    # -- ready --------------------------------------------------------------------------------------------------------

    def take(self) -> tuple[Effects | None, list[Mail], list[Mail]]:
        """(effects, mail that leaves, what is stepped when the effects are carried out). With asynchronous writes the
        last is empty: storage answers by messages of its own."""
        core = self.core
        term, unstable = core.term, core.log.has_unstable
        last_index, last_term = core.log.last_index, core.log.last_term
        effects = core.take()
        if effects is None:
            return None, [], []
        outgoing = [self._mail(message) for message in effects.messages]
        after = [self._mail(message) for message in effects.after]
        stable = []
        if unstable or effects.snapshot is not None:
            last = (last_index, last_term) if unstable else (0, 0)
            stable = [
                Mail("MsgStorageAppendResp", APPEND_THREAD, self.id, term, *last, snapshot=effects.snapshot)
            ]
        applied = []
        if effects.committed:
            applied = [Mail("MsgStorageApplyResp", APPLY_THREAD, self.id, entries=effects.committed)]
        if not self.options.asynchronous:
            outgoing += [mail for mail in after if mail.to != self.id]
            return effects, outgoing, [mail for mail in after if mail.to == self.id] + stable + applied
        if effects.write is not None:
            hard = effects.hard_state or HardState(0, NO_NODE, 0)
            outgoing.append(
                Mail(
                    STORAGE_APPEND,
                    self.id,
                    APPEND_THREAD,
                    hard.term,
                    commit=hard.commit,
                    vote=hard.vote,
                    entries=effects.write.entries,
                    responses=after + stable,
                    snapshot=effects.snapshot,
                )
            )
        if effects.committed:
            outgoing.append(
                Mail(STORAGE_APPLY, self.id, APPLY_THREAD, entries=effects.committed, responses=applied)
            )
        return effects, outgoing, []

    def _mail(self, message: Message) -> Mail:
        return mail_of(message, PROPOSAL_KIND if isinstance(message, ForwardedProposal) else "")

    def store(self, entries: list[Entry], snapshot: SnapshotMark | None) -> None:
        if snapshot is not None:
            assert not entries, "etcd's nodes cannot store a snapshot and entries at the same time"
            self.log.restart(snapshot)
        self.log.write(entries)

    # -- events -------------------------------------------------------------------------------------------------------

    def step(self, mail: Mail) -> None:
        if mail.sender == APPEND_THREAD:
            self.core.stable_to(mail.index, mail.log_term, mail.term)
            if mail.snapshot is not None:
                self.core.installed(mail.snapshot)
        elif mail.sender == APPLY_THREAD:
            self.core.applied(mail.entries)
        elif mail.kind == PROPOSAL_KIND:
            self.propose(mail.entries[0].payload, mail.sender)
        else:
            assert mail.message is not None
            self.core.step(mail.message)
        if self.core.term:      # nodes are born in term 0 with an entry of term 1
            invariants.check(self.core)

    def propose(self, payload: bytes, proposer: int | str) -> None:
        core = self.core
        assert isinstance(proposer, int)
        if core.propose([(EntryKind.NORMAL, payload)]) is Proposal.ACCEPTED:
            return
        if core.role is not Role.FOLLOWER or core.leader == NO_NODE:
            raise Refused(PROPOSAL_DROPPED)
        entry = Entry(0, 0, EntryKind.NORMAL, payload)
        core.outbox.append(ForwardedProposal(MessageType.APPEND, core.leader, proposer, 0, entries=[entry]))
