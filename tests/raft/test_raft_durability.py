"""What waits for the disk, what a late completion may confirm, and how a leader knows that it still leads."""

from raft_rig import Group, Node, node_with_log

from cluster.raft.messages import NO_NODE, Entry, EntryKind, Message, MessageType, Role

GATED = (MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE)


def append(sender: int, term: int, index: int, log_term: int, *terms: int, commit: int = 0) -> Message:
    entries = [
        Entry(index + at, of, EntryKind.NORMAL, b"%d by %d" % (of, sender)) for at, of in enumerate(terms, start=1)
    ]
    return Message(MessageType.APPEND, 1, sender, term, index=index, log_term=log_term, commit=commit, entries=entries)


def kinds(messages: list[Message]) -> list[MessageType]:
    return [message.type for message in messages]


# -- gates ------------------------------------------------------------------------------------------------


def test_an_append_is_acknowledged_once_it_is_durable():
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1))
    assert node.take() == []
    node.persist()
    (answer,) = node.take()
    assert (answer.type, answer.index) == (MessageType.APPEND_RESPONSE, 1)


def test_a_vote_leaves_once_it_is_durable():
    node = node_with_log(1, [])
    node.core.step(Message(MessageType.VOTE, 1, 2, 1))
    assert node.take() == []
    node.persist()
    assert kinds(node.take()) == [MessageType.VOTE_RESPONSE]


def test_heartbeats_are_answered_at_once():
    node = node_with_log(1, [])
    node.core.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
    assert kinds(node.take()) == [MessageType.HEARTBEAT_RESPONSE]


def test_an_answer_waits_for_every_write_before_it():
    """The second append says nothing new, but it vouches for the first as well."""
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1))
    node.take()
    node.core.step(append(2, 1, 1, 1))
    node.take()
    assert [write.must_sync for write in node.disk.pending] == [True, False]
    node.persist(1)
    assert [message.index for message in node.take()] == [1]
    node.persist(1)
    assert [message.index for message in node.take()] == [1]


def test_appends_leave_before_the_leaders_own_write():
    group = Group()
    leader = group.elect(1)
    group.propose(1, b"x")
    group.collect(1)
    assert kinds(group.mail) == [MessageType.APPEND, MessageType.APPEND]
    assert leader.durable_index == leader.log.last_index - 1


def test_the_leaders_own_acknowledgement_counts_once_it_is_durable():
    group = Group()
    leader = group.elect(1)
    group.propose(1, b"x")
    group.collect(1)
    group[2].core.step(next(message for message in group.mail if message.to == 2))
    group[2].take()
    group[2].persist()
    for message in group[2].take():
        leader.step(message)
    assert leader.log.committed == leader.log.last_index - 1, "one of two is not a majority of three"
    group[1].persist()
    assert leader.log.committed == leader.log.last_index


def test_followers_alone_commit_while_the_leaders_disk_is_slow():
    group = Group()
    leader = group.elect(1)
    group.propose(1, b"x")
    group.collect(1)
    for message in group.mail:
        group[message.to].core.step(message)
    for follower in (2, 3):
        group[follower].take()
        group[follower].persist()
        for message in group[follower].take():
            leader.step(message)
    assert leader.log.committed == leader.log.last_index
    applied = len(group[1].applied)
    group[1].take()
    assert len(group[1].applied) == applied, "but it does not apply what its own disk may still lose"


def test_a_candidate_asks_for_votes_once_its_term_is_durable():
    """Else it could crash, stand in the same term again and be elected twice in it."""
    node = node_with_log(1, [], pre_vote=False)
    node.core.campaign()
    assert node.take() == []
    node.persist()
    assert kinds(node.take()) == [MessageType.VOTE, MessageType.VOTE]


def test_nobody_leads_the_same_term_twice_even_if_the_first_time_never_became_durable():
    """Five nodes: three votes are a majority without the candidate's own, which its disk has not kept."""
    node = node_with_log(1, [], size=5, pre_vote=False)
    node.core.campaign()
    asked = node.take()
    for voter in (2, 3, 4):     # they answer whatever has left
        if any(message.to == voter for message in asked):
            node.core.step(Message(MessageType.VOTE_RESPONSE, 1, voter, 1))
    led_before = node.core.role is Role.LEADER
    node.start()
    node.core.campaign()
    assert not (led_before and node.core.term == 1)


# -- write ids --------------------------------------------------------------------------------------------


def overwritten() -> Node:
    """Entries 1 to 3 of term 1 are on their way to the disk when another leader replaces the last two."""
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1, 1, 1))
    node.take()
    node.core.step(append(3, 2, 1, 1, 2, 2))
    node.take()
    return node


def test_a_late_completion_confirms_nothing_that_was_overwritten():
    node = overwritten()
    node.persist(1)
    assert (node.core.durable_index, node.terms) == (1, [1, 2, 2])
    node.persist(1)
    assert node.core.durable_index == 3


def test_a_late_completion_confirms_nothing_that_is_overwritten_but_not_written_yet():
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1, 1, 1))
    node.take()
    node.core.step(append(3, 2, 0, 0, 2))
    node.persist(1)
    assert node.core.durable_index == 0


def test_an_entry_that_comes_back_is_confirmed_by_its_own_write_only():
    """ABA: the same entries again, after others had their places; the write in between would still destroy them."""
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1, 1))
    node.take()
    node.core.step(append(3, 2, 0, 0, 2))
    node.take()
    node.core.step(append(2, 3, 0, 0, 1, 1))
    node.take()
    assert len(node.disk.pending) == 3
    durable = []
    for _ in range(3):
        node.persist(1)
        durable.append(node.core.durable_index)
    assert durable == [0, 0, 2]
    assert [entry.term for entry in node.disk.kept] == [1, 1]


def test_entries_truncated_before_they_were_handed_out_are_never_written():
    node = node_with_log(1, [])
    node.core.step(append(2, 1, 0, 0, 1, 1, 1))
    node.core.step(append(3, 2, 1, 1, 2))
    node.take()
    (write,) = node.disk.pending
    assert [entry.term for entry in write.entries] == [1, 2]
    node.persist()
    assert (node.core.durable_index, [entry.term for entry in node.disk.kept]) == (2, [1, 2])


def test_a_write_says_from_where_the_log_is_overwritten():
    node = overwritten()
    assert [write.truncate_from for write in node.disk.pending] == [0, 2]


def test_one_completion_may_stand_for_several_writes():
    node = overwritten()
    last = node.disk.pending[-1].id
    while node.disk.pending:
        node.disk.complete()
    node.core.persisted(last)
    assert node.core.durable_index == 3


def test_only_a_moved_commit_index_needs_no_sync():
    node = node_with_log(1, [1])
    node.core.step(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=1))
    node.take()
    (write,) = node.disk.pending
    assert (write.must_sync, write.hard_state.commit) == (False, 1)


def test_a_restarted_node_goes_on_from_what_was_durable():
    node = overwritten()
    node.persist(1)
    node.start()
    assert (node.terms, node.core.term, node.core.role) == ([1, 1, 1], 1, Role.FOLLOWER)


def test_a_commit_hint_past_the_end_of_the_log_is_cut():
    node = node_with_log(1, [1, 1])
    node.disk.hard_state = node.disk.hard_state._replace(commit=9)
    node.start()
    assert node.core.log.committed == 2


def test_a_node_that_is_said_to_have_more_than_its_log_holds_has_lost_data_and_is_quarantined():
    """Only what it had acknowledged to this leader is told so; an earlier life of it did."""
    node = node_with_log(1, [1])
    node.core.step(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=5))
    assert node.core.quarantined, "before the mark is durable"
    node.take()
    assert node.disk.quarantined
    assert node.core.log.committed == 0


# -- rounds -----------------------------------------------------------------------------------------------


def test_a_round_is_confirmed_by_a_majority_that_was_asked_after_it_opened():
    group = Group(size=5)
    leader = group.elect(1)
    number = leader.open_round()
    group.settle(1, 2)
    assert group[1].confirmed == 0
    leader.tick()
    group.settle(1, 2, 3)
    assert group[1].confirmed == number


def test_answers_to_earlier_heartbeats_confirm_nothing():
    group = Group()
    leader = group.elect(1)
    leader.tick()
    group.collect(1)
    for message in group.mail:
        group[message.to].core.step(message)
    group.mail.clear()
    leader.open_round()
    group[1].take()
    for follower in (2, 3):
        for answer in group[follower].take():
            leader.step(answer)
    group[1].take()
    assert group[1].confirmed == 0


def test_one_answer_confirms_all_rounds_before_it():
    group = Group()
    leader = group.elect(1)
    numbers = [leader.open_round() for _ in range(3)]
    group.settle()
    assert group[1].confirmed == numbers[-1]


def test_a_round_of_an_earlier_term_is_never_confirmed():
    group = Group()
    leader = group.elect(1)
    leader.open_round()
    group.collect(1)
    heartbeats = list(group.mail)
    group.mail.clear()
    group.elect(2)
    group.elect(1)
    group[1].confirmed = 0
    for message in heartbeats:
        group[message.to].core.step(message)
    group.settle()
    assert group[1].confirmed == 0


def test_a_single_node_confirms_at_once():
    group = Group(size=1)
    leader = group.elect(1)
    number = leader.open_round()
    group[1].take()
    assert group[1].confirmed == number


def test_who_does_not_lead_opens_no_round():
    assert node_with_log(1, []).core.open_round() == 0


def test_a_single_node_commits_once_its_write_is_durable():
    node = node_with_log(1, [], size=1)
    node.core.campaign()
    for _ in range(4):
        node.take()
        node.persist()
    assert (node.core.role, node.core.log.committed, node.core.vote) == (Role.LEADER, 1, 1)
    assert node.core.leader != NO_NODE


def test_entries_that_are_overwritten_before_a_write_took_them_are_no_truncation():
    """One turn: a leader's entries, then another leader's in their place. The log never heard of the first."""
    node = node_with_log(1, [1, 1, 1, 1])
    node.core.step(append(2, 2, 4, 1, 2, 2))
    node.core.step(append(2, 2, 6, 2, 2, 2))
    node.core.step(append(3, 3, 6, 2, 3))
    effects = node.core.take()
    assert effects is not None and effects.write is not None
    assert effects.write.truncate_from == 0
    assert [(entry.index, entry.term) for entry in effects.write.entries] == [(5, 2), (6, 2), (7, 3)]
