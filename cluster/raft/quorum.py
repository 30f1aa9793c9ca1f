"""Quorum arithmetic, alone and testable: what a majority has acknowledged, and how a vote stands.

A joint configuration (two majorities during a change, Raft thesis section 4.3) commits what both commit and elects
whom both elect. An empty half agrees with everything, so that a plain configuration is a joint one with an empty half.
"""

from collections.abc import Collection, Mapping
from enum import Enum

INFINITY = (1 << 64) - 1        # what an empty half has acknowledged


class VoteResult(Enum):
    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_committed(voters: Collection[int], acknowledged: Mapping[int, int]) -> int:
    """The highest index that a majority of `voters` has acknowledged; a voter without an entry has 0."""
    count = len(voters)
    if count == 0:
        return INFINITY
    if count == 3:      # the common case, without a sort
        first, second, third = voters
        get = acknowledged.get
        low, high, other = get(first, 0), get(second, 0), get(third, 0)
        if low > high:
            low, high = high, low
        return low if other < low else other if other < high else high
    indexes = sorted(acknowledged.get(voter, 0) for voter in voters)
    return indexes[count - (count // 2 + 1)]


def joint_committed(incoming: Collection[int], outgoing: Collection[int], acknowledged: Mapping[int, int]) -> int:
    if not outgoing:
        return majority_committed(incoming, acknowledged)
    return min(majority_committed(incoming, acknowledged), majority_committed(outgoing, acknowledged))


def majority_vote(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """`votes` holds True for yes and False for no; who has not answered is missing."""
    if not voters:
        return VoteResult.WON
    yes = sum(votes.get(voter) is True for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    needed = len(voters) // 2 + 1
    if yes >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if yes + missing >= needed else VoteResult.LOST


def joint_vote(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    results = (majority_vote(incoming, votes), majority_vote(outgoing, votes))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    if VoteResult.PENDING in results:
        return VoteResult.PENDING
    return VoteResult.WON
