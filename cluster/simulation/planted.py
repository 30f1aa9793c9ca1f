"""Bugs that tests plant in the brokers of a simulated cluster, to see that the oracles find them.

They are classes that stand in for production's, which knows nothing of them.
"""

from enum import Enum

import msgspec

from cluster.broker import process as broker_process
from cluster.broker.actor import Broker
from cluster.broker.link import Link
from cluster.peer.actor import RaftPeer
from cluster.peer.drive import Drive
from cluster.raft.effects import Write
from cluster.raft.messages import NO_NODE
from cluster.simulation.nodes import StandIns
from cluster.wire import Assignments, Holding


class Planted(Enum):
    """What is wrong with the brokers."""

    ACK_BEFORE_SYNC = "an answer leaves before the sync that it speaks of"
    VOTE_NOT_PERSISTED = "votes are not written to the disk"
    DOUBLE_DISPATCH = "a new leader gives what one worker holds to the next one that reports to it as well"


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
                    held = self.machine.held_by(session.id)
                    link.peer.send(Assignments(self.term, link.session, held))

        self._handlers[Holding] = reconcile_and_give


def stand_ins_of(planted: Planted | None) -> StandIns:
    if planted is Planted.ACK_BEFORE_SYNC:
        return {(broker_process, "RaftPeer"): HastyPeer}
    if planted is Planted.VOTE_NOT_PERSISTED:
        return {(broker_process, "RaftPeer"): ForgetfulPeer}
    if planted is Planted.DOUBLE_DISPATCH:
        return {(broker_process, "Broker"): GenerousBroker}
    return {}


