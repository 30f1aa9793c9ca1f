"""Quarantine as the node hears of it that lost data; the leader's half is in `replication`.

See docs/internals/raft.md, "Nodes that lost data".
"""

from typing import TYPE_CHECKING

from cluster.raft.messages import QUARANTINE_NONE
from cluster.raft.progress import Progress

if TYPE_CHECKING:
    from cluster.raft.core import Raft


def word(progress: Progress) -> int:
    """What a leader says to a follower with everything it sends."""
    index = progress.release_index
    if not index:
        return QUARANTINE_NONE
    return -index if progress.quarantined else index


def demand(raft: "Raft") -> None:
    """It holds at once, before the mark is durable."""
    raft.quarantined = raft.quarantine_demanded = True


def heard(raft: "Raft", value: int) -> None:
    """The leader's word on a quarantine of this node."""
    if value < 0:
        if not raft.quarantined and (raft.term, -value) > raft.released:    # else it is old and came late
            demand(raft)
    elif (
        value
        and raft.quarantine_marked
        and (raft.term, value) > raft.released  # else it was told already
        and (raft.term, value) > raft.found     # else it ended one of an earlier life
        and _holds_durably(raft, value)
    ):
        raft.quarantine_over = True
        raft.released = (raft.term, value)


def _holds_durably(raft: "Raft", index: int) -> bool:
    """Whether the entry that this term's leader put at `index` is durable here, as an entry or within a snapshot.

    An entry is recognized by its term. Of one that a snapshot covers (the leader's, or one of our own that let the log
    be compacted) the term is not known; but that of the snapshot's last entry is, and it decides: if it is this term,
    then that entry is of this term's leader, too, and by Log Matching the snapshot stands for the log that this leader
    had up to there, `index` included. If it is an earlier term, the snapshot cannot reach `index`: terms never fall
    along the leader's log. So the entry or the snapshot's last one, whichever is later, must be of this term.
    """
    log = raft.log
    return index <= log.durable_index and log.term(max(index, log.first_index - 1)) == raft.term
