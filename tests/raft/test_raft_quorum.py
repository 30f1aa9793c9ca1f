"""Quorum arithmetic against the definition, counted out."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.quorum import (
    INFINITY,
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)

VOTERS = st.frozensets(st.integers(1, 9), max_size=7)
INDEXES = st.dictionaries(st.integers(1, 9), st.integers(1, 12))
VOTES = st.dictionaries(st.integers(1, 9), st.booleans())


def counted(voters, acknowledged):
    """The highest index that more than half have."""
    if not voters:
        return INFINITY
    return max(
        index
        for index in {0, *acknowledged.values()}
        if 2 * sum(acknowledged.get(voter, 0) >= index for voter in voters) > len(voters)
    )


@given(VOTERS, INDEXES)
def test_a_majority_has_acknowledged_what_counting_says(voters, acknowledged):
    assert majority_committed(voters, acknowledged) == counted(voters, acknowledged)


@given(VOTERS, VOTERS, INDEXES)
def test_a_joint_quorum_commits_what_both_halves_commit(incoming, outgoing, acknowledged):
    expected = min(counted(incoming, acknowledged), counted(outgoing, acknowledged))
    assert joint_committed(incoming, outgoing, acknowledged) == expected


def outcomes(voters, votes):
    """Whether each way to complete the votes wins."""
    missing = [voter for voter in voters if voter not in votes]
    for choice in range(1 << len(missing)):
        yes = {voter for place, voter in enumerate(missing) if choice >> place & 1}
        granted = sum(votes.get(voter, voter in yes) for voter in voters)
        yield not voters or 2 * granted > len(voters)


@given(VOTERS, VOTES)
def test_a_vote_is_won_or_lost_when_no_missing_answer_can_change_that(voters, votes):
    possible = set(outcomes(voters, votes))
    expected = {(True,): VoteResult.WON, (False,): VoteResult.LOST}.get(tuple(possible), VoteResult.PENDING)
    assert majority_vote(voters, votes) is expected


@given(VOTERS, VOTERS, VOTES)
def test_a_joint_vote_needs_both_halves(incoming, outgoing, votes):
    halves = [majority_vote(incoming, votes), majority_vote(outgoing, votes)]
    expected = VoteResult.PENDING
    if VoteResult.LOST in halves:
        expected = VoteResult.LOST
    elif halves == [VoteResult.WON, VoteResult.WON]:
        expected = VoteResult.WON
    assert joint_vote(incoming, outgoing, votes) is expected
