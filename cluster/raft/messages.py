"""Entries and messages of the Raft core. Shapes follow etcd's raftpb, so that its transcripts can be replayed."""

from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

NO_NODE = 0

# Message.quarantine, leader -> follower, names the entry that ends a quarantine: -index while it is not committed
# or not durable there (the quarantine is demanded), index when it is (any quarantine is over).
QUARANTINE_NONE = 0


class EntryKind(IntEnum):
    """What an entry's payload is. Values are on disk: never reuse one."""

    NORMAL = 0
    CONFIG = 1          # a configuration change (joint)
    CONFIG_V1 = 2       # a single-server change; only in transcripts


class MessageType(IntEnum):
    """What brokers say to each other. Values are on the wire."""

    APPEND = 1              # leader -> follower: entries after (index, log_term), and the commit index
    APPEND_RESPONSE = 2     # follower -> leader: durable up to index, or rejected with a hint
    HEARTBEAT = 3           # leader -> follower: I lead; commit up to `commit`
    HEARTBEAT_RESPONSE = 4
    VOTE = 5                # candidate -> voter: my log ends at (index, log_term)
    VOTE_RESPONSE = 6
    PRE_VOTE = 7            # as VOTE, for a term that nobody has entered yet
    PRE_VOTE_RESPONSE = 8
    SNAPSHOT = 9            # leader -> follower: your log is behind mine; `snapshot` takes its place


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Entry(Struct, gc=False):
    """One log entry. `record` caches its encoded storage record (the bytes that disk and peers get); b"" until made.

    The core reads index, term, kind and len(payload) only.
    """

    index: int
    term: int
    kind: int
    payload: bytes
    record: bytes = b""


class SnapshotMark(Struct, frozen=True, array_like=True):
    """What Raft knows of a snapshot: it stands for all entries up to `index`, whose term is `term`, and names the
    configuration there, as `membership.Configuration` does. All that it stands for is committed."""

    index: int
    term: int
    voters: tuple[int, ...]
    outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()


class Message(Struct, gc=False):
    """One message between cores. Unused fields are zero.

    index: APPEND: of the entry before `entries`; APPEND_RESPONSE: the last matching one, or the rejected `index`;
    VOTE: the last one of the candidate. log_term: the term of that entry (in a rejection: of the hint).
    """

    type: MessageType
    to: int
    sender: int
    term: int
    index: int = 0
    log_term: int = 0
    commit: int = 0
    reject: bool = False
    reject_hint: int = 0
    round: int = 0                          # of a leadership confirmation, echoed by HEARTBEAT_RESPONSE
    quarantined: bool = False               # responses: this node lost data and counts for nothing
    quarantine: int = QUARANTINE_NONE       # APPEND, HEARTBEAT and SNAPSHOT to such a node
    entries: list[Entry] = []
    snapshot: SnapshotMark | None = None    # SNAPSHOT only


class HardState(NamedTuple):
    """What must be durable before any answer that depends on it; `commit` is a hint."""

    term: int
    vote: int
    commit: int


class SoftState(NamedTuple):
    leader: int
    role: Role
