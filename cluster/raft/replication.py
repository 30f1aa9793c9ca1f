"""Replication: the leader's appends, the followers' answers, and when an index is committed.

Raft sections 5.3, 5.4.2 and 8. Followers are written to optimistically, many messages in flight, before any of them
is answered; a rejection brings the leader back to probing from a hint that skips whole terms. The leader's own write
is one of the acknowledgements and no more: the fastest majority commits, whoever is in it.

A quarantined node (it lost acknowledged data) is fed like any other, but its answers count for no commit. What ends
that: an entry of this leader's own term, proposed after the leader heard of it and committed without it, is durable
on it. Everything it may have acknowledged before is then on it again, since that entry's log contains it.
"""

from typing import TYPE_CHECKING

from cluster.raft import catch_up, quarantine, snapshots
from cluster.raft.messages import (
    NO_NODE,
    Entry,
    EntryKind,
    Message,
    MessageType,
)
from cluster.raft.progress import Progress, ProgressState

if TYPE_CHECKING:
    from cluster.raft.core import Raft


# -- leader ---------------------------------------------------------------------------------------------------------


def tick_leader(raft: "Raft") -> None:
    raft.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        if raft.config.check_quorum and not check_quorum(raft):
            return
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        catch_up.share(raft)
        broadcast_heartbeat(raft)
        for node, progress in catch_up.lagging(raft):
            _send_all(raft, node, progress)


def check_quorum(raft: "Raft") -> bool:
    """Once per election timeout: a leader that does not hear a quorum steps down (False)."""
    raft.tracker.progress[raft.id].recent_active = True
    if not raft.tracker.quorum_active():
        raft.become_follower(raft.term, NO_NODE)
        return False
    for _, progress in raft.tracker.others(raft.id):
        progress.recent_active = False
    return True


def append_entries(raft: "Raft", payloads: list[tuple[int, bytes]]) -> bool:
    """Appends to the own log; False if that would exceed what may be uncommitted."""
    size = sum(len(payload) for _, payload in payloads)
    if raft.uncommitted_bytes and size and (
        raft.uncommitted_bytes + size > raft.config.uncommitted_bytes_max
        or raft.uncommitted_entries + len(payloads) > raft.config.uncommitted_entries_max
    ):
        return False
    raft.uncommitted_bytes += size
    raft.uncommitted_entries += len(payloads)
    raft.pace.grown_bytes += size
    index = raft.log.last_index
    raft.log.append(
        [Entry(index + offset, raft.term, kind, payload) for offset, (kind, payload) in enumerate(payloads, start=1)]
    )
    # The leader acknowledges its own entries like a follower: once they are durable.
    raft.send(Message(MessageType.APPEND_RESPONSE, raft.id, raft.id, raft.term, index=raft.log.last_index))
    return True


def broadcast_append(raft: "Raft") -> None:
    for node, progress in raft.tracker.others(raft.id):
        send_append(raft, node, progress, even_if_empty=True)


def broadcast_heartbeat(raft: "Raft") -> None:
    for node, progress in raft.tracker.others(raft.id):
        # Never beyond what the follower has for certain: its log may diverge after that.
        commit = min(progress.match, raft.log.committed)
        raft.send(
            Message(
                MessageType.HEARTBEAT,
                node,
                raft.id,
                raft.term,
                commit=commit,
                round=raft.rounds.opened,
                quarantine=quarantine.word(progress),
            )
        )
        progress.sent_commit = commit


def open_round(raft: "Raft") -> int:
    number = raft.rounds.open()
    raft.rounds.acknowledge(raft.id, number)
    _confirm_rounds(raft)
    broadcast_heartbeat(raft)
    return number


def _confirm_rounds(raft: "Raft") -> None:
    config = raft.tracker.config
    excluded = {node: progress.quarantined for node, progress in raft.tracker.progress.items()}
    raft.rounds.confirm(config.voters, config.outgoing, excluded)


def send_append(raft: "Raft", node: int, progress: Progress, *, even_if_empty: bool) -> bool:
    """Sends what comes next for a follower, as far as its flow allows; False if nothing left."""
    log = raft.log
    if progress.paused or (not even_if_empty and progress.next > log.last_index):
        return False
    previous = progress.next - 1
    previous_term = log.term(previous)
    if previous_term is None:
        return snapshots.send(raft, node, progress)     # compacted away
    entries: list[Entry] = []
    if progress.state is not ProgressState.REPLICATE or not progress.inflights.full:
        entries = log.entries(progress.next, log.last_index + 1, raft.config.append_bytes_max)
    if not entries and not even_if_empty:
        return False
    raft.send(
        Message(
            MessageType.APPEND,
            node,
            raft.id,
            raft.term,
            index=previous,
            log_term=previous_term,
            commit=log.committed,
            entries=entries,
            quarantine=quarantine.word(progress),
        )
    )
    progress.sent_entries(len(entries), sum(len(entry.payload) for entry in entries))
    progress.sent_commit = log.committed
    return True


def _send_all(raft: "Raft", node: int, progress: Progress) -> None:
    while send_append(raft, node, progress, even_if_empty=False):
        pass


def step_leader(raft: "Raft", message: Message) -> None:
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return
    if message.type is MessageType.APPEND_RESPONSE:
        _on_append_response(raft, message, progress)
    elif message.type is MessageType.HEARTBEAT_RESPONSE:
        _on_heartbeat_response(raft, message, progress)


def _on_append_response(raft: "Raft", message: Message, progress: Progress) -> None:
    progress.recent_active = True
    _note_quarantine(raft, message, progress)
    if message.reject:
        hint = message.reject_hint
        if message.log_term > 0:
            # The follower's hint says where its log may match; skip those of our entries that cannot either.
            hint, _ = raft.log.conflict_hint(hint, message.log_term)
        if progress.maybe_decrease(message.index, hint):
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            send_append(raft, message.sender, progress, even_if_empty=True)
        return
    if message.index > raft.log.last_index:
        return      # of another life of that node: it cannot have what we do not
    if not (
        progress.maybe_update(message.index)
        or (progress.match == message.index and progress.state is ProgressState.PROBE)
    ):
        return
    _maybe_release(raft, progress)
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.SNAPSHOT:
        snapshots.acknowledged(raft, progress)
    else:
        progress.inflights.free_up_to(message.index)
    own = message.sender == raft.id
    eager = raft.config.eager_commit
    if maybe_commit(raft):
        if eager:
            broadcast_append(raft)
    elif eager and not own and progress.can_bump_commit(raft.log.committed):
        send_append(raft, message.sender, progress, even_if_empty=True)
    if not own:
        # The flow was opened by this answer: there may be room for several messages.
        _send_all(raft, message.sender, progress)


def maybe_commit(raft: "Raft") -> bool:
    """Raft section 5.4.2: only entries of the own term are committed by counting."""
    if raft.log.committed == raft.log.last_index:
        return False
    index = raft.tracker.committed()
    if index <= raft.log.committed or raft.log.term(index) != raft.term:
        return False
    raft.log.commit_to(index)
    return True


def reduce_uncommitted(raft: "Raft", entries: list[Entry]) -> None:
    """Entries were applied: room for others. Entries of earlier terms were never counted, so it stops at zero."""
    raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - sum(len(entry.payload) for entry in entries))
    raft.uncommitted_entries = max(0, raft.uncommitted_entries - len(entries))


def _on_heartbeat_response(raft: "Raft", message: Message, progress: Progress) -> None:
    progress.recent_active = True
    progress.flow_paused = False
    _note_quarantine(raft, message, progress)
    if _maybe_release(raft, progress) and maybe_commit(raft) and raft.config.eager_commit:
        broadcast_append(raft)      # all that it acknowledged counts from now on
    # Even with a full flight an empty append goes out: it finds out whether everything in flight was lost.
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        send_append(raft, message.sender, progress, even_if_empty=True)
    if message.round:
        raft.rounds.acknowledge(message.sender, message.round)
        _confirm_rounds(raft)


def unreachable(raft: "Raft", node: int) -> None:
    progress = raft.tracker.progress.get(node)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()


# -- quarantine -----------------------------------------------------------------------------------------------------


def peer_restarted(raft: "Raft", node: int, last_index: int, last_term: int, quarantined: bool) -> bool:
    """A new incarnation of a follower; True if it holds less than it had acknowledged, without knowing."""
    progress = raft.tracker.progress.get(node)
    if progress is None or node == raft.id:
        return False
    # A log that lost a truncation together with what followed it may be longer than what it had acknowledged; but it
    # ends in an earlier term, and holds none of our entries of later ones.
    kept = raft.log.held_in_common(min(last_index, progress.match), last_term)
    less = kept < progress.match
    progress.restarted(kept)
    progress.quarantine_confirmed = quarantined
    # That it does not call itself quarantined ends nothing: it may have crashed before our demand was durable there.
    # What releases it is proposed after this life of it began, or a word on an earlier life could.
    if less or quarantined or progress.quarantined:
        _enter_quarantine(raft, progress)
    return less and not quarantined


def _note_quarantine(raft: "Raft", message: Message, progress: Progress) -> None:
    """Its answers say whether it bears the mark. Once this leader knows, or has released it, they tell nothing new:
    a new loss is told by a new incarnation."""
    if message.quarantined:
        progress.quarantine_confirmed = True
        if not progress.quarantined and not progress.release_index:
            _enter_quarantine(raft, progress)


def _maybe_release(raft: "Raft", progress: Progress) -> bool:
    """Counts it again once it has an entry durably that we proposed after we heard of its loss and that is committed
    without it: the commit shows that we still led then, so our log holds all that it may ever have acknowledged. It
    votes again when it has heard of this. True if this ended its quarantine."""
    if not progress.quarantined or not 0 < progress.release_index <= min(raft.log.committed, progress.match):
        return False
    progress.quarantined = False
    return True


def _enter_quarantine(raft: "Raft", progress: Progress) -> None:
    """From now on it counts for nothing; the next entry of our term will release it."""
    progress.quarantined = True
    append_entries(raft, [(EntryKind.NORMAL, b"")])
    progress.release_index = raft.log.last_index
    broadcast_append(raft)


# -- follower -------------------------------------------------------------------------------------------------------


def on_append(raft: "Raft", message: Message) -> None:
    log = raft.log
    if message.quarantine:
        quarantine.heard(raft, message.quarantine)
    if message.index < log.committed:
        _acknowledge(raft, message.sender, log.committed)
        return
    if not log.matches(message.index, message.log_term):
        hint, hint_term = log.conflict_hint(min(message.index, log.last_index), message.log_term)
        raft.send(
            Message(
                MessageType.APPEND_RESPONSE,
                message.sender,
                raft.id,
                raft.term,
                index=message.index,
                log_term=hint_term,
                reject=True,
                reject_hint=hint,
            )
        )
        return
    last_new = message.index + len(message.entries)
    for position, entry in enumerate(message.entries):
        if not log.matches(entry.index, entry.term):
            if entry.index <= log.last_index:
                raft.writes.truncate(entry.index, handed_out=log.handed_out)
            log.append(message.entries[position:] if position else message.entries)
            break
    log.commit_to(min(message.commit, last_new))
    _acknowledge(raft, message.sender, last_new)


def on_heartbeat(raft: "Raft", message: Message) -> None:
    if message.quarantine:
        quarantine.heard(raft, message.quarantine)
    if not raft.log.commit_to(message.commit) and not raft.quarantined:
        # It is the leader's word that this node has acknowledged that much. The leader does not know yet that it was in
        # an earlier life, which ended in a loss. To end here and start again would forget that, and vote.
        quarantine.demand(raft)
    raft.send(
        Message(
            MessageType.HEARTBEAT_RESPONSE,
            message.sender,
            raft.id,
            raft.term,
            round=message.round,
            quarantined=raft.quarantine_marked,
        )
    )


def _acknowledge(raft: "Raft", leader: int, index: int) -> None:
    raft.send(Message(MessageType.APPEND_RESPONSE, leader, raft.id, raft.term, index=index))
