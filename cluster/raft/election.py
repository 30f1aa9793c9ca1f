"""Elections: who may stand, who gets a vote, and what a message's term means.

Raft sections 5.1, 5.2, 5.4.1; thesis 9.6 (pre-vote) and 6.2 (check-quorum). Pre-vote and check-quorum belong together:
pre-vote alone lets a node that still hears the leader help to unseat it, check-quorum alone lets a partitioned node
come back with a high term and do the same (Howard and Abraham, "Raft does not guarantee liveness in the face of
network faults", 2020). With both, a node that has heard a leader within an election timeout ignores vote requests.
"""

from typing import TYPE_CHECKING

from cluster.raft import replication, snapshots
from cluster.raft.messages import NO_NODE, Message, MessageType, Role
from cluster.raft.quorum import VoteResult, joint_vote

if TYPE_CHECKING:
    from cluster.raft.core import Raft

HURRY_ATTEMPTS_MAX = 5      # early elections after a closed link, while no leader is known
LAG_ENTRIES_MAX = 1_024     # committed and not applied; with more it might be elected, but not serve yet
YIELD_FACTOR = 3            # who yields waits so many times as long: others have had their turn, but somebody must lead
HURRY_TICKS = 5             # each after 1 to 5 ticks, drawn anew; who is second waits for 5 more, and so on

_RESPONSE = {
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}
_FROM_LEADER = frozenset((MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT))
_REQUESTS = frozenset((MessageType.VOTE, MessageType.PRE_VOTE))


def begin_hurry(raft: "Raft", lost: int) -> None:
    """The link to the leader was closed, and others have heard of it in the same moment. Were only chance to part them,
    they would split the vote in one of four cases, and be without a leader for a whole timeout. So they take turns."""
    config = raft.tracker.config
    others = sorted({*config.voters, *config.outgoing} - {lost})
    raft.hurry_lost = lost
    raft.hurry_turn = others.index(raft.id) if raft.id in others else len(others)
    raft.hurry = HURRY_ATTEMPTS_MAX
    raft.hurry_ticks = _hurry_ticks(raft)


def _hurry_ticks(raft: "Raft") -> int:
    return 1 + raft.hurry_turn * HURRY_TICKS + raft.config.below(HURRY_TICKS)


def promotable(raft: "Raft") -> bool:
    """Whether this node may stand: a voter that has not lost data, and whose state and log are in place."""
    return raft.tracker.config.is_voter(raft.id) and not raft.quarantined and raft.log.snapshot is None


def lags(raft: "Raft") -> bool:
    """Whether its state is far behind its log, as after a start."""
    return raft.log.committed - raft.log.applied > LAG_ENTRIES_MAX


def tick_election(raft: "Raft") -> None:
    raft.election_elapsed += 1
    if raft.hurry:
        _tick_hurry(raft)
    patience = raft.randomized_election_ticks * (YIELD_FACTOR if raft.yields or lags(raft) else 1)
    if promotable(raft) and raft.election_elapsed >= patience:
        raft.election_elapsed = 0
        hup(raft)


def _tick_hurry(raft: "Raft") -> None:
    if raft.leader != NO_NODE or raft.yields:
        raft.hurry = 0
        return
    if lags(raft):
        return      # not yet
    raft.hurry_ticks -= 1
    if raft.hurry_ticks <= 0:
        raft.hurry -= 1
        raft.hurry_ticks = _hurry_ticks(raft)
        if raft.role is not Role.CANDIDATE or _has_lost(raft):      # else its votes are under way, each behind a sync
            hup(raft)


def _has_lost(raft: "Raft") -> bool:
    """Whether a candidate cannot win any more, since no vote will come from the node whose link was closed."""
    config = raft.tracker.config
    votes = {raft.hurry_lost: False, **raft.tracker.votes}
    return joint_vote(config.voters, config.outgoing, votes) is VoteResult.LOST


def hup(raft: "Raft") -> None:
    """An election timeout has passed."""
    if raft.role is not Role.LEADER and promotable(raft):
        _campaign(raft, MessageType.PRE_VOTE if raft.config.pre_vote else MessageType.VOTE)


def _campaign(raft: "Raft", request: MessageType) -> None:
    if request is MessageType.PRE_VOTE:
        raft.become_pre_candidate()
        term = raft.term + 1
    else:
        raft.become_candidate()
        term = raft.term
    config = raft.tracker.config
    for node in sorted({*config.voters, *config.outgoing}):
        if node == raft.id:
            # Its own vote counts like any other: once it is durable.
            raft.send(Message(_RESPONSE[request], raft.id, raft.id, term))
        else:
            raft.send(
                Message(request, node, raft.id, term, index=raft.log.last_index, log_term=raft.log.last_term)
            )


def step(raft: "Raft", message: Message) -> None:
    """Any message: first what its term means (Raft section 5.1), then what it says."""
    if message.term > raft.term:
        if not _enter_term(raft, message):
            return
    elif message.term < raft.term:
        _answer_stale(raft, message)
        return
    if message.type in _REQUESTS:
        _on_vote_request(raft, message)
    elif raft.role is Role.LEADER:
        replication.step_leader(raft, message)
    else:
        _step_other(raft, message)


def _enter_term(raft: "Raft", message: Message) -> bool:
    """A message of a later term; False if it is to be ignored."""
    kind = message.type
    if kind in _REQUESTS:
        in_lease = (
            raft.config.check_quorum
            and raft.leader != NO_NODE
            and raft.election_elapsed < raft.config.election_ticks
        )
        if in_lease:
            return False
    if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESPONSE and not message.reject):
        return True     # a pre-vote is about a term that nobody has entered
    raft.become_follower(message.term, message.sender if kind in _FROM_LEADER else NO_NODE)
    return True


def _answer_stale(raft: "Raft", message: Message) -> None:
    """A message of an earlier term. Mostly dropped, but two senders would be stuck without an answer."""
    kind = message.type
    # (Not a snapshot, as in etcd: heartbeats come along with it.)
    if kind in (MessageType.APPEND, MessageType.HEARTBEAT) and (raft.config.check_quorum or raft.config.pre_vote):
        # A leader that fell behind while we had moved on alone: it must learn our term, since with pre-vote or
        # check-quorum we will not disturb it by an election of ours.
        raft.send(Message(MessageType.APPEND_RESPONSE, message.sender, raft.id, raft.term))
    elif kind is MessageType.PRE_VOTE:
        # A pre-candidate with an older term but a longer log: tell it the term, or both would wait for ever.
        raft.send(Message(MessageType.PRE_VOTE_RESPONSE, message.sender, raft.id, raft.term, reject=True))


def _on_vote_request(raft: "Raft", message: Message) -> None:
    may_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_NODE and raft.leader == NO_NODE)
        or (message.type is MessageType.PRE_VOTE and message.term > raft.term)
    )
    response = _RESPONSE[message.type]
    if may_vote and not raft.quarantined and raft.log.is_up_to_date(message.index, message.log_term):
        # A pre-vote is answered with the term of the request: ours is older, and the candidate would drop the answer.
        raft.send(Message(response, message.sender, raft.id, message.term))
        raft.hurry_ticks = _hurry_ticks(raft)       # it has its chance first
        if message.type is MessageType.VOTE:
            raft.election_elapsed = 0
            raft.vote = message.sender
    else:
        raft.send(Message(response, message.sender, raft.id, raft.term, reject=True))


def _step_other(raft: "Raft", message: Message) -> None:
    """Follower, candidate or pre-candidate."""
    kind = message.type
    if kind in _FROM_LEADER:
        if raft.role is Role.FOLLOWER:
            raft.election_elapsed = 0
            raft.leader = message.sender
        else:
            raft.become_follower(message.term, message.sender)
        if kind is MessageType.APPEND:
            replication.on_append(raft, message)
        elif kind is MessageType.SNAPSHOT:
            snapshots.on_snapshot(raft, message)
        else:
            replication.on_heartbeat(raft, message)
    elif (kind is MessageType.PRE_VOTE_RESPONSE and raft.role is Role.PRE_CANDIDATE) or (
        kind is MessageType.VOTE_RESPONSE and raft.role is Role.CANDIDATE
    ):
        _on_vote_response(raft, message)


def _on_vote_response(raft: "Raft", message: Message) -> None:
    raft.tracker.record_vote(message.sender, not message.reject and not message.quarantined)
    result = raft.tracker.tally()[2]
    if result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            _campaign(raft, MessageType.VOTE)
        else:
            raft.become_leader()
            replication.broadcast_append(raft)
    elif result is VoteResult.LOST:
        raft.become_follower(raft.term, NO_NODE)
