"""The pace at which a follower that lags gets what it missed: those that serve keep their processors and disks.

Without it a follower that comes back takes all that two disks and two processors give, and the cluster's throughput
halves until it is there. So the leader feeds it a share for each heartbeat, at least a fixed one, and always more than
the log grows meanwhile: else it would never arrive. A follower that somebody waits for is not held back: when entries
wait and nothing is committed, the one that lags may be the one whose acknowledgement is missing.

Only here; etcd and the Raft papers have no such rule.
"""

from typing import TYPE_CHECKING

from cluster.raft.progress import Progress, ProgressState

if TYPE_CHECKING:
    from cluster.raft.core import Raft

GROWTH_FACTOR = 2               # times what the log grew by: it arrives, whatever the load
STUCK_HEARTBEATS = 3            # without a commit though entries wait for one: perhaps for the follower that lags


class Pace:
    """What the leader of one term saw at its last heartbeat."""

    __slots__ = ("committed", "grown_bytes", "stuck")

    def __init__(self) -> None:
        self.committed = 0          # the commit index
        self.grown_bytes = 0        # proposed since then
        self.stuck = 0              # heartbeats in a row between which nothing was committed of what waits


def share(raft: "Raft") -> None:
    """At a heartbeat, before it leaves: who lags, and how much it gets until the next one."""
    pace, log, share_bytes = raft.pace, raft.log, raft.config.catch_up_bytes
    if not share_bytes:
        return
    pace.stuck = 0 if log.committed > pace.committed or log.committed == log.last_index else pace.stuck + 1
    share_bytes = max(share_bytes, GROWTH_FACTOR * pace.grown_bytes)
    for _, progress in raft.tracker.others(raft.id):
        lags = progress.match < pace.committed and pace.stuck < STUCK_HEARTBEATS
        # A message may exceed what is left by its own size; that is taken from the next share.
        progress.share_left = min(progress.share_left or 0, 0) + share_bytes if lags else None
    pace.committed, pace.grown_bytes = log.committed, 0


def lagging(raft: "Raft") -> list[tuple[int, Progress]]:
    """Those that can be fed from their new share."""
    return [
        (node, progress)
        for node, progress in raft.tracker.others(raft.id)
        if progress.share_left is not None and progress.state is ProgressState.REPLICATE
    ]
