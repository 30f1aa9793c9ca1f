"""Replication and commitment: Raft paper sections 5.3 and 5.4.2, and the flow of appends."""

import pytest
from raft_rig import Group, group_with_logs, node_with_log

from cluster.raft.core import Proposal
from cluster.raft.messages import Entry, EntryKind, Message, MessageType, Role
from cluster.raft.progress import ProgressState

APPEND = MessageType.APPEND
PLAIN = {"pre_vote": False, "check_quorum": False}


def appends(group: Group, to: int) -> list[Message]:
    return [message for message in group.mail if message.type is APPEND and message.to == to]


def append(index: int, log_term: int, *terms: int, term: int = 9, commit: int = 0) -> Message:
    entries = [Entry(index + at, of, EntryKind.NORMAL, b"") for at, of in enumerate(terms, start=1)]
    return Message(APPEND, 1, 2, term, index=index, log_term=log_term, commit=commit, entries=entries)


def answer_to(log: list[int], message: Message) -> tuple[Message, list[int]]:
    node = node_with_log(1, log)
    node.core.step(message)
    messages = node.take()
    node.persist()
    (answer,) = messages + node.take()
    return answer, node.terms


# -- 5.3 --------------------------------------------------------------------------------------------------


def test_a_leader_appends_a_command_and_sends_it_to_all_others():
    """Section 5.3: the leader appends the command to its log as a new entry, then issues AppendEntries RPCs."""
    group = Group()
    leader = group.elect(1)
    last = leader.log.last_index
    group.propose(1, b"command")
    group.collect(1)
    for follower in (2, 3):
        (message,) = appends(group, follower)
        assert (message.index, message.log_term, message.commit) == (last, 1, last)
        assert [(entry.index, entry.term, entry.payload) for entry in message.entries] == [(last + 1, 1, b"command")]


@pytest.mark.parametrize(
    ("size", "acknowledged", "committed"), [(3, 0, False), (3, 1, True), (5, 1, False), (5, 2, True)]
)
def test_an_entry_is_committed_once_a_majority_has_it(size, acknowledged, committed):
    """Section 5.3: a log entry is committed once the leader has replicated it on a majority of the servers."""
    group = Group(size)
    leader = group.elect(1)
    group.propose(1, b"x")
    group.settle(*range(1, 2 + acknowledged))
    assert (leader.log.committed == leader.log.last_index) is committed


def test_a_commit_takes_all_preceding_entries_with_it_those_of_earlier_leaders_too():
    """Section 5.3: this also commits all preceding entries in the leader's log."""
    group = group_with_logs([1, 2, 2], [], [])
    leader = group.elect(1)
    assert leader.log.committed == 4
    assert [entry.term for entry in group[2].applied] == [1, 2, 2, 3]


def test_followers_apply_in_order_what_the_leader_says_is_committed():
    """Section 5.3: once a follower learns that a log entry is committed, it applies it (in log order)."""
    group = Group()
    group.elect(1)
    group.propose(1, b"a", b"b", b"c")
    group.settle()
    assert [entry.payload for entry in group[3].applied] == [b"", b"a", b"b", b"c"]


def test_nothing_is_applied_before_it_is_durable_here():
    """A follower may know that an entry is committed before its own write of it is done."""
    node = node_with_log(1, [])
    node.core.step(append(0, 0, 9, commit=1))
    node.take()
    assert (node.core.log.committed, node.applied) == (1, [])
    node.persist()
    node.take()
    assert [entry.index for entry in node.applied] == [1]


@pytest.mark.parametrize(
    ("log", "message", "rejected"),
    [
        ([], append(0, 0), False),
        ([1, 1], append(2, 1), False),
        ([1, 1], append(2, 2), True),
        ([1, 1], append(3, 1), True),
        ([1, 2], append(1, 1), False),
    ],
)
def test_a_follower_refuses_entries_that_do_not_follow_on_one_that_it_has(log, message, rejected):
    """Section 5.3: if the follower does not find an entry with the same index and term, it refuses the new ones."""
    answer, _ = answer_to(log, message)
    assert answer.reject is rejected


@pytest.mark.parametrize(
    ("log", "message", "result"),
    [
        ([1, 2], append(2, 2, 3), [1, 2, 3]),
        ([1, 2], append(1, 1, 3, 4), [1, 3, 4]),
        ([1, 2], append(0, 0, 1), [1, 2]),
        ([1, 2], append(0, 0, 3), [3]),
        ([1, 2, 2], append(0, 0, 1, 2), [1, 2, 2]),
        ([1, 2, 2, 2], append(1, 1, 2, 3), [1, 2, 3]),
    ],
)
def test_entries_are_deleted_only_where_they_conflict(log, message, result):
    """Section 5.3, Figure 2: if an existing entry conflicts with a new one, delete it and all that follow it."""
    _, terms = answer_to(log, message)
    assert terms == result


def test_a_committed_entry_is_never_refused_nor_looked_at_again():
    """An append that starts before the commit index is answered with the commit index."""
    node = node_with_log(1, [1, 1, 1])
    node.core.step(append(3, 1, commit=3, term=2))
    node.take()
    node.persist()
    node.take()
    node.core.step(append(0, 0, 1, 1, term=2))
    node.take()
    node.persist()
    (answer,) = node.take()
    assert (answer.index, answer.reject) == (3, False)


FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", FIGURE_7)
def test_a_leader_makes_every_log_of_figure_7_equal_to_its_own(case):
    """Section 5.3: the leader handles inconsistencies by forcing the followers' logs to duplicate its own."""
    group = group_with_logs([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], FIGURE_7[case], [], **PLAIN)
    for node in group:      # all are in the latest term of the figure
        node.core.become_follower(7, 0)
    group.elect(1, 3)
    group[1].core.tick()
    group.settle()
    assert group[2].terms == group[1].terms == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]


@pytest.mark.parametrize(
    ("leader", "follower", "probes"),
    [
        ([1, 3, 3, 3, 5, 5, 5, 5, 5], [1, 1, 1, 1, 2, 2], 2),
        ([1, 3, 3, 3, 3, 3, 3, 3, 7], [1, 3, 3, 4, 4, 5, 5, 5, 6], 3),
        ([1] * 50 + [9], [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10, 2),
        ([1] * 50, [1] * 5, 2),
    ],
)
def test_the_place_where_logs_part_is_found_with_a_probe_for_each_term(leader, follower, probes):
    """Section 5.3, at its end: one rejected AppendEntries RPC for each term with conflicting entries, not for each
    entry. The first two are the examples of etcd's stepLeader."""
    group = group_with_logs(leader, follower, [], **PLAIN)
    for node in group:
        node.core.become_follower(9, 0)
    seen = []
    group.lose = lambda message: seen.append(message) is None and False
    group.elect(1, 3)
    seen.clear()
    group[1].core.tick()
    group.settle()
    rejections = [message for message in seen if message.sender == 2 and message.reject]
    assert len(rejections) <= probes
    assert group[2].terms == group[1].terms


# -- 5.4.2 ------------------------------------------------------------------------------------------------


def test_only_entries_of_the_leaders_own_term_are_committed_by_counting():
    """Section 5.4.2: Raft never commits log entries from previous terms by counting replicas."""
    node = node_with_log(1, [1, 2], **PLAIN)
    node.core.campaign()
    node.take()
    node.persist()
    node.core.step(Message(MessageType.VOTE_RESPONSE, 1, 2, 3))
    node.take()
    node.persist()
    for follower in (2, 3):
        node.core.step(Message(MessageType.APPEND_RESPONSE, 1, follower, 3, index=2))
        assert node.core.log.committed == 0
    node.core.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 3, index=3))
    assert node.core.log.committed == 3


# -- the flow ---------------------------------------------------------------------------------------------


def test_appends_are_sent_without_waiting_for_answers_up_to_a_number():
    group = Group(inflight_messages_max=3)
    leader = group.elect(1)
    for number in range(5):
        group.propose(1, b"%d" % number)
    group.collect(1)
    assert len(appends(group, 2)) == 3
    assert leader.tracker.progress[2].paused
    group.settle()
    assert leader.tracker.progress[2].match == leader.log.last_index


def test_appends_are_sent_without_waiting_for_answers_up_to_a_number_of_bytes():
    group = Group(inflight_bytes_max=100)
    leader = group.elect(1)
    for _ in range(5):
        group.propose(1, bytes(40))
    group.collect(1)
    assert len(appends(group, 2)) == 3, "the one that reaches the limit still goes"
    group.settle()
    assert leader.tracker.progress[2].match == leader.log.last_index
    assert leader.tracker.progress[2].inflights.bytes == 0


def test_an_append_holds_entries_up_to_its_limit_and_at_least_one():
    group = Group(append_bytes_max=300)
    leader = group.elect(1, 1, 2)
    group.propose(1, bytes(50), bytes(50), bytes(50), bytes(50), bytes(5_000), bytes(50))
    leader.tick()
    counts = []
    group.lose = lambda message: message.to == 3 and counts.append(len(message.entries)) is None and False
    group.settle()
    assert max(counts) == 3
    assert group[3].terms == group[1].terms


def test_a_window_that_was_lost_as_a_whole_is_found_out_by_a_heartbeat():
    group = Group(inflight_messages_max=2)
    leader = group.elect(1)
    group.lose = lambda message: message.to == 3 and message.type is APPEND
    group.propose(1, b"a")
    group.propose(1, b"b")
    group.propose(1, b"c")
    group.settle()
    assert leader.tracker.progress[3].inflights.full
    group.lose = lambda message: False
    leader.tick()
    group.settle()
    assert leader.tracker.progress[3].match == leader.log.last_index


def test_an_unreachable_follower_is_probed_one_append_at_a_time():
    group = Group()
    leader = group.elect(1)
    leader.unreachable(3)
    assert leader.tracker.progress[3].state is ProgressState.PROBE
    group.propose(1, b"a")
    group.propose(1, b"b")
    group.collect(1)
    assert (len(appends(group, 2)), len(appends(group, 3))) == (2, 1)
    group.settle()
    assert leader.tracker.progress[3].state is ProgressState.REPLICATE


def test_a_lost_append_in_between_does_not_stop_the_flow():
    group = Group()
    group.elect(1)
    group.propose(1, b"a")
    group.collect(1)
    group.mail = [message for message in group.mail if message.to != 3]
    group.propose(1, b"b")
    group.settle()
    assert group[3].terms == leader_terms(group)


def leader_terms(group: Group) -> list[int]:
    (leader,) = [node for node in group if node.core.role is Role.LEADER]
    return leader.terms


# -- proposals --------------------------------------------------------------------------------------------


def test_who_does_not_lead_says_so():
    group = Group()
    group.elect(1)
    assert group[2].core.propose([(EntryKind.NORMAL, b"x")]) is Proposal.NOT_LEADER


def test_a_leader_holds_a_bounded_number_of_uncommitted_bytes():
    group = Group(uncommitted_bytes_max=1_000)
    leader = group.elect(1)
    assert leader.propose([(EntryKind.NORMAL, bytes(5_000))]) is Proposal.ACCEPTED, "alone, any size is accepted"
    assert leader.propose([(EntryKind.NORMAL, b"x")]) is Proposal.OVERLOADED
    group.settle()
    assert leader.uncommitted_bytes == 0
    assert leader.propose([(EntryKind.NORMAL, b"x")]) is Proposal.ACCEPTED


def test_a_leader_holds_a_bounded_number_of_uncommitted_entries():
    group = Group(uncommitted_entries_max=4)
    leader = group.elect(1)
    assert leader.propose([(EntryKind.NORMAL, b"x")] * 4) is Proposal.ACCEPTED
    assert leader.propose([(EntryKind.NORMAL, b"x")]) is Proposal.OVERLOADED
    group.settle()
    assert leader.propose([(EntryKind.NORMAL, b"x")]) is Proposal.ACCEPTED


def test_a_refused_proposal_leaves_no_trace():
    group = Group(uncommitted_bytes_max=10)
    leader = group.elect(1)
    leader.propose([(EntryKind.NORMAL, bytes(8))])
    group.collect(1)
    last = leader.log.last_index
    leader.propose([(EntryKind.NORMAL, bytes(8))])
    assert (leader.log.last_index, group[1].take()) == (last, [])


def test_the_first_entry_of_a_cluster_carries_what_the_shell_gives():
    group = Group(first_payload=b"cluster id")
    group.elect(1)
    assert [entry.payload for entry in group[3].applied] == [b"cluster id"]
    group.elect(2)
    assert group[3].applied[-1].payload == b""
