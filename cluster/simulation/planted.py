"""Bugs that tests plant in the brokers of a simulated cluster, to see that the oracles find them.

They are classes that stand in for production's, which knows nothing of them.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any
from zlib import crc32

import msgspec

from actors import Files
from cluster.broker import process as broker_process
from cluster.broker.actor import Broker
from cluster.broker.link import Link
from cluster.compaction.compactor import compact, replay, write
from cluster.compaction.messages import Plan, StillAtWork, Written
from cluster.peer.actor import RaftPeer
from cluster.peer.drive import Drive
from cluster.raft.effects import Write
from cluster.raft.messages import NO_NODE
from cluster.simulation.compactors import Compact
from cluster.simulation.launched import StandIns
from cluster.state.rows import EndRow, Section
from cluster.storage.chain import Chain
from cluster.storage.header import LogStart
from cluster.storage.index import LogIndex
from cluster.storage.pieces import Piece
from cluster.storage.recovery import Recovery
from cluster.storage.wal import Wal
from cluster.wire import Assignments, Holding

# Places in rows.
SESSION_WORKER = 4      # what a session's worker offers, below 0 for a client
LIMIT_WINDOW = 7        # the starts of a limit

Rows = list[list[Any]]


class Planted(Enum):
    """What is wrong with the brokers."""

    ACK_BEFORE_SYNC = "an answer leaves before the sync that it speaks of"
    VOTE_NOT_PERSISTED = "votes are not written to the disk"
    DOUBLE_DISPATCH = "a new leader gives what one worker holds to the next one that reports to it as well"
    SESSIONS_NOT_IN_SNAPSHOT = "snapshots do not hold the sessions of clients"
    WINDOWS_NOT_IN_SNAPSHOT = "snapshots do not hold what has started under a rate"
    KEYS_NOT_IN_SNAPSHOT = "snapshots do not hold which work has been done"
    WAITING_NOT_IN_SNAPSHOT = "snapshots do not hold who waits for the end of which task"
    OVERWRITTEN_ENTRY_PLANNED = "plans of snapshots name an entry that was overwritten"
    OVERWRITTEN_ENTRY_COMPACTED = "and the compactor does not compare what came of it"
    LAST_ENTRY_NOT_PLANNED = "plans of snapshots lack their last entry"
    LAST_ENTRY_NOT_COMPACTED = "and the compactor does not compare that either"
    LOG_DROPPED_TOO_FAR = "the log gives up a segment that is needed behind the older snapshot"


class HastyDrive(Drive):
    """Takes a write for durable as soon as it is queued."""

    __slots__ = ()

    def _queue(self, write: Write) -> None:
        super()._queue(write)
        self._core.persisted(write.id)


class HastyPeer(RaftPeer):
    def _begin(self, cluster_id: bytes) -> None:
        super()._begin(cluster_id)
        self.drive.__class__ = HastyDrive


class ForgetfulDrive(Drive):
    """Writes no votes, and no term before there is an entry of it: what a log without a hard state would keep.

    The term goes with the vote, because a hello reports it: whoever hears of a later term never stands in that one.
    """

    __slots__ = ()

    def _queue(self, write: Write) -> None:
        write.hard_state = write.hard_state._replace(term=self._core.log.last_term, vote=NO_NODE)
        super()._queue(write)


class ForgetfulPeer(RaftPeer):
    def _begin(self, cluster_id: bytes) -> None:
        super()._begin(cluster_id)
        self.drive.__class__ = ForgetfulDrive


class GenerousBroker(Broker):
    """Takes a worker that has not reported yet for lost, and its tasks for free."""

    def started(self) -> None:
        super().started()
        reconcile = self._handlers[Holding]

        def reconcile_and_give(link: Link, message: msgspec.Struct) -> None:
            reconcile(link, message)
            for session in self.machine.worker_sessions():
                other = self._links.of_session(session.id)
                if session.id != link.session and (other is None or not other.reconciled):
                    held = self.machine.passed_on(self.machine.held_by(session.id))
                    link.peer.send(Assignments(self.term, link.session, list(held)))

        self._handlers[Holding] = reconcile_and_give


def forgetful_compact(changed: Section, change: Callable[[Rows], Rows]) -> Compact:
    """Writes other rows of this section."""

    def compact_and_forget(files: Files, plan: Plan) -> Iterator[StillAtWork | Written]:
        machine = yield from replay(files, plan)
        yield from write(files, plan, _changed(machine.image(), changed, change))

    return compact_and_forget


def _changed(image: Iterable[bytes], changed: Section, change: Callable[[Rows], Rows]) -> Iterator[bytes]:
    """The same parts, with checksums that are right."""
    crc = 0
    for part in image:
        section, number, rows = msgspec.msgpack.decode(part)
        if section == changed:
            rows = change(rows)
        elif section == Section.END:
            rows = [EndRow(number, crc)]
        written = msgspec.msgpack.encode((section, number, rows))
        crc = crc32(written, crc)
        yield written


def without_clients(rows: Rows) -> Rows:
    return [row for row in rows if row[SESSION_WORKER] >= 0]


def without_any(rows: Rows) -> Rows:
    return []


def without_windows(rows: Rows) -> Rows:
    return [[*row[:LIMIT_WINDOW], [], *row[LIMIT_WINDOW + 1 :]] for row in rows]


def blind_compact(files: Files, plan: Plan) -> Iterator[StillAtWork | Written]:
    """Writes the state that the replay came to, whatever it is, under the name of the plan."""
    machine = yield from replay(files, plan)
    yield from write(files, plan, machine.image())


class StretchedIndex(LogIndex):
    """Where entries were overwritten, the first of those that were is named instead of the one that counts."""

    __slots__ = ()

    def pieces(self, low: int, high: int) -> list[Piece]:
        pieces = super().pieces(low, high)
        for position in range(len(pieces) - 1):
            piece, following = pieces[position : position + 2]
            if piece.segment == following.segment and following.first < following.last:
                pieces[position] = piece._replace(last=piece.last + 1)
                pieces[position + 1] = following._replace(first=following.first + 1)
        return pieces


class ShortIndex(LogIndex):
    __slots__ = ()

    def pieces(self, low: int, high: int) -> list[Piece]:
        pieces = super().pieces(low, high)
        if pieces and pieces[-1].last > pieces[-1].first:
            pieces[-1] = pieces[-1]._replace(last=pieces[-1].last - 1)
        return pieces


class StretchedPeer(RaftPeer):
    def _opened(self, wal: Wal, recovery: Recovery) -> None:
        wal._chain.index.__class__ = StretchedIndex
        super()._opened(wal, recovery)


class ShortPeer(RaftPeer):
    def _opened(self, wal: Wal, recovery: Recovery) -> None:
        wal._chain.index.__class__ = ShortIndex
        super()._opened(wal, recovery)


class HastyChain(Chain):
    """Gives up the segment with the first entry that is still needed as well."""

    def compact(self, index: int) -> tuple[LogStart, list[int]] | None:
        pieces = self.index.pieces(self.index.first_index, self.index.last_index + 1)
        ends = [piece.last for piece in pieces if piece.last > index and piece.segment != self.segments[-1]]
        return super().compact(ends[0] if ends else index)


class HastyLogPeer(RaftPeer):
    def _opened(self, wal: Wal, recovery: Recovery) -> None:
        wal._chain.__class__ = HastyChain
        super()._opened(wal, recovery)


def stand_ins_of(planted: Planted | None) -> StandIns:
    if planted is None or planted not in STAND_INS:
        return {}
    name, stand_in = STAND_INS[planted]
    return {(broker_process, name): stand_in}


def compactor_of(planted: Planted | None) -> Compact:
    return COMPACTORS.get(planted, compact) if planted is not None else compact


STAND_INS: dict[Planted, tuple[str, type]] = {
    Planted.ACK_BEFORE_SYNC: ("RaftPeer", HastyPeer),
    Planted.VOTE_NOT_PERSISTED: ("RaftPeer", ForgetfulPeer),
    Planted.DOUBLE_DISPATCH: ("Broker", GenerousBroker),
    Planted.OVERWRITTEN_ENTRY_PLANNED: ("RaftPeer", StretchedPeer),
    Planted.OVERWRITTEN_ENTRY_COMPACTED: ("RaftPeer", StretchedPeer),
    Planted.LAST_ENTRY_NOT_PLANNED: ("RaftPeer", ShortPeer),
    Planted.LAST_ENTRY_NOT_COMPACTED: ("RaftPeer", ShortPeer),
    Planted.LOG_DROPPED_TOO_FAR: ("RaftPeer", HastyLogPeer),
}
COMPACTORS: dict[Planted, Compact] = {
    Planted.SESSIONS_NOT_IN_SNAPSHOT: forgetful_compact(Section.SESSIONS, without_clients),
    Planted.KEYS_NOT_IN_SNAPSHOT: forgetful_compact(Section.KEYS, without_any),
    Planted.WINDOWS_NOT_IN_SNAPSHOT: forgetful_compact(Section.LIMITS, without_windows),
    Planted.WAITING_NOT_IN_SNAPSHOT: forgetful_compact(Section.WAITED, without_any),
    Planted.OVERWRITTEN_ENTRY_COMPACTED: blind_compact,
    Planted.LAST_ENTRY_NOT_COMPACTED: blind_compact,
}
