"""The quorum files: `committed` draws who has acknowledged what and names what is committed, `vote` tells a result."""

from cluster.raft.quorum import (
    INFINITY,
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)
from etcd.grammar import Directive

COMMANDS = frozenset(("committed", "vote"))
_VOTES = {"y": True, "n": False}


def run(directive: Directive) -> str:
    voters = [int(value) for value in directive.values("cfg")]
    joint = directive.values("cfgj")
    outgoing = [] if joint == ["zero"] else [int(value) for value in joint]
    members = list(dict.fromkeys(voters + outgoing))
    key = "idx" if directive.command == "committed" else "votes"
    given = directive.values(key)
    assert len(given) == len(members), f"{key} names {len(given)} of the voters {members}"
    known = {node: value for node, value in zip(members, given, strict=True) if value != "_"}
    if directive.command == "committed":
        return _committed(voters, outgoing, bool(joint), {node: int(value) for node, value in known.items()})
    return _vote(voters, outgoing, bool(joint), {node: _VOTES[value] for node, value in known.items()})


def _committed(voters: list[int], outgoing: list[int], joint: bool, known: dict[int, int]) -> str:
    if joint:
        index = joint_committed(voters, outgoing, known)
        assert index == joint_committed(outgoing, voters, known), "a joint quorum has no order"
    else:
        index = majority_committed(voters, known)
        assert index == joint_committed(voters, [], known), "joint with nobody changes nothing"
        assert index == joint_committed(voters, voters, known), "joint with itself changes nothing"
        for node, acknowledged in known.items():
            if acknowledged < index:    # it was not needed: less of it changes nothing
                assert index == majority_committed(voters, {**known, node: acknowledged - 1})
                assert index == majority_committed(voters, {**known, node: 0})
    return _chart(sorted({*voters, *outgoing}), known) + ("∞" if index == INFINITY else str(index)) + "\n"


def _chart(voters: list[int], known: dict[int, int]) -> str:
    """One line for each voter, its bar as long as the number of voters behind it."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    text = " " * width + "    idx\n"
    for voter in voters:
        index = known.get(voter, 0)
        behind = sum(known.get(other, 0) < index for other in voters)
        mark = "x" * behind + ">" + " " * (width - behind) if voter in known else "?" + " " * width
        text += f"{mark} {index:5d}    (id={voter})\n"
    return text


def _vote(voters: list[int], outgoing: list[int], joint: bool, votes: dict[int, bool]) -> str:
    result: VoteResult
    if joint:
        result = joint_vote(voters, outgoing, votes)
        assert result is joint_vote(outgoing, voters, votes), "a joint quorum has no order"
    else:
        result = majority_vote(voters, votes)
        assert result is joint_vote(voters, [], votes), "joint with nobody changes nothing"
    return f"{result.value}\n"
