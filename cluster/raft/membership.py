"""Who takes part: the voters (two sets of them during a change), the learners, and what the leader knows of each.

Changing the configuration while running is not here yet; the sets are joint from the start, so that it has its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.raft.messages import SnapshotMark
from cluster.raft.progress import Inflights, Progress
from cluster.raft.quorum import VoteResult, joint_committed, joint_vote


@dataclass(frozen=True, slots=True)
class Configuration:
    """Node ids, ascending. `outgoing` is empty but during a joint change. Learners get the log and do not vote."""

    voters: tuple[int, ...]
    outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()

    @classmethod
    def at(cls, mark: SnapshotMark) -> "Configuration":
        """The one that a snapshot names."""
        return cls(mark.voters, mark.outgoing, mark.learners)

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def is_voter(self, node: int) -> bool:
        return node in self.voters or node in self.outgoing


class Tracker:
    """Progress of every member, votes of the running election, and the questions that need all of them."""

    __slots__ = ("_inflight_bytes_max", "_inflight_messages_max", "config", "progress", "votes")

    def __init__(self, config: Configuration, inflight_messages_max: int, inflight_bytes_max: int) -> None:
        self.config = config
        self._inflight_messages_max = inflight_messages_max
        self._inflight_bytes_max = inflight_bytes_max
        self.progress: dict[int, Progress] = {}
        self.votes: dict[int, bool] = {}
        self.reset(0, 0)

    def reset(self, self_id: int, last_index: int) -> None:
        """A new term: nothing is known of anyone but of this node itself."""
        previous = self.progress
        self.progress = {}
        for node in self.config.members:
            progress = Progress(
                last_index if node == self_id else 0,
                last_index + 1,
                Inflights(self._inflight_messages_max, self._inflight_bytes_max),
                is_learner=node in self.config.learners,
            )
            if node in previous:
                # What it knows durably it will say itself. What only we know, we must not forget.
                progress.quarantined = previous[node].quarantined and not previous[node].quarantine_confirmed
            self.progress[node] = progress
        self.votes = {}

    def others(self, self_id: int) -> Iterator[tuple[int, Progress]]:
        """In ascending order of their ids."""
        return ((node, progress) for node, progress in self.progress.items() if node != self_id)

    def committed(self) -> int:
        """What a quorum has durably; a quarantined node counts for nothing."""
        matches = {node: 0 if progress.quarantined else progress.match for node, progress in self.progress.items()}
        return joint_committed(self.config.voters, self.config.outgoing, matches)

    def quorum_active(self) -> bool:
        """Whether a quorum was heard from since the last check."""
        heard = {
            node: progress.recent_active and not progress.quarantined
            for node, progress in self.progress.items()
            if not progress.is_learner
        }
        return joint_vote(self.config.voters, self.config.outgoing, heard) is VoteResult.WON

    def record_vote(self, node: int, granted: bool) -> None:
        """The first answer of a node counts."""
        self.votes.setdefault(node, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """(granted, rejected, result) over members."""
        votes = {node: granted for node, granted in self.votes.items() if self.config.is_voter(node)}
        granted = sum(votes.values())
        return granted, len(votes) - granted, joint_vote(self.config.voters, self.config.outgoing, votes)
