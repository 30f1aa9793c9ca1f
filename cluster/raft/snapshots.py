"""Snapshots: what a leader sends instead of entries that it has no more, and what a follower makes of it.

Raft section 7, by etcd's rules. The core knows marks only (index, term, configuration); the state itself is the shell's
business, and may travel on other ways and take its time. A follower that is sent one is waited for, without appends,
until an acknowledgement shows that it is connected to the leader's log again, or the shell reports how the transfer
ended. A follower takes a snapshot only if it needs it: what it covers is committed, so a log that holds its last entry
holds all of it, and only the commit index moves.
"""

from typing import TYPE_CHECKING

from cluster.raft import quarantine
from cluster.raft.membership import Configuration
from cluster.raft.messages import Message, MessageType
from cluster.raft.progress import Progress, ProgressState

if TYPE_CHECKING:
    from cluster.raft.core import Raft


# -- leader ---------------------------------------------------------------------------------------------------------


def send(raft: "Raft", node: int, progress: Progress) -> bool:
    """False if it must wait: for a sign of life of the follower, or for a snapshot to be at hand."""
    if not progress.recent_active:
        return False
    mark = raft.log.newest_snapshot()
    if mark is None:
        return False
    assert raft.log.first_index - 1 <= mark.index <= raft.log.applied, (
        f"snapshot at {mark.index} with a log from {raft.log.first_index} on, applied {raft.log.applied}: "
        "it must connect to the log, and hold nothing that is not committed"
    )
    progress.become_snapshot(mark.index)
    raft.send(
        Message(
            MessageType.SNAPSHOT, node, raft.id, raft.term, snapshot=mark, quarantine=quarantine.word(progress)
        )
    )
    return True


def report(raft: "Raft", node: int, *, ok: bool) -> None:
    progress = raft.tracker.progress.get(node)
    if progress is not None and progress.state is ProgressState.SNAPSHOT:
        progress.snapshot_ended(ok=ok)


def acknowledged(raft: "Raft", progress: Progress) -> None:
    """A follower that waits for a snapshot has moved on to `progress.match`, by whatever way."""
    if progress.match + 1 >= raft.log.first_index:
        progress.become_probe()
        progress.become_replicate()
    elif progress.match >= progress.pending_snapshot:
        # It has this one, and the log was compacted beyond it meanwhile. Nobody may report the end of the transfer
        # any more: without another one it would wait for ever.
        progress.become_probe()


# -- follower -------------------------------------------------------------------------------------------------------


def on_snapshot(raft: "Raft", message: Message) -> None:
    if message.quarantine:
        quarantine.heard(raft, message.quarantine)
    _accept(raft, message)
    raft.send(
        Message(MessageType.APPEND_RESPONSE, message.sender, raft.id, raft.term, index=raft.log.committed)
    )


def _accept(raft: "Raft", message: Message) -> None:
    """After this, `log.committed` is what can be acknowledged."""
    mark, log = message.snapshot, raft.log
    assert mark is not None, "a snapshot message without its mark"
    if mark.index <= log.committed:
        return      # old news
    configuration = Configuration.at(mark)
    if raft.id not in configuration.members:
        return      # not a state that this node is part of
    if log.matches(mark.index, mark.term):
        # All that it covers is here already. That holds in quarantine as well: what a log lost is not in it any more,
        # and an entry with this index and term proves all those before it (Log Matching).
        log.commit_to(mark.index)
        return
    raft.writes.replaced()
    log.restore(mark)
    raft.tracker.config = configuration
    raft.tracker.reset(raft.id, log.last_index)
