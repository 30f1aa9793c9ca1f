"""Nodes that lost data: how it is noticed, what they may not do, and what ends it.

Such a node is fed like any other, but it neither votes nor counts, until it has an entry durably that its leader
proposed after it had heard of the loss and that was committed without it.
"""

import pytest
from raft_rig import ELECTION_TICKS, Group

from cluster.raft.messages import Entry, EntryKind, Message, MessageType, Role


def leading(*payloads: bytes, size: int = 3, **options: object) -> Group:
    """Node 1 leads, and all have its entries."""
    group = Group(size, **options)
    group.elect(1)
    if payloads:
        group.propose(1, *payloads)
        group.settle()
    return group


def lose(group: Group, node: int, kept: int = 0, marked: bool = False) -> None:
    """The node comes back with fewer entries than it had acknowledged; the leader hears its hello."""
    disk = group[node].disk
    del disk.kept[kept:]
    disk.hard_state = disk.hard_state._replace(commit=0)
    disk.quarantined = marked
    group.restart(node)
    group[1].core.peer_restarted(node, disk.hard_state.term, kept, disk.term(kept), marked)


def test_a_restart_without_a_loss_changes_nothing_but_the_flow():
    group = leading(b"a", b"b")
    last = group[3].disk.last_index()
    group.restart(3)
    group[1].core.peer_restarted(3, 1, last, 1, False)
    group[1].take()
    progress = group[1].core.tracker.progress[3]
    assert (progress.match, progress.quarantined, group[1].data_lost_by) == (last, False, [])


def test_a_leader_of_an_earlier_term_than_a_hello_steps_down_first():
    group = leading()
    group[1].core.peer_restarted(3, 7, 0, 0, False)
    assert (group[1].core.role, group[1].core.term) == (Role.FOLLOWER, 7)
    group[1].take()
    assert group[1].data_lost_by == []


def test_a_leader_that_saw_more_of_a_log_than_comes_back_demands_a_quarantine():
    group = leading(b"a", b"b")
    lose(group, 3, kept=1)
    group.collect(1)
    assert group[1].data_lost_by == [3]
    assert all(message.quarantine < 0 for message in group.mail if message.to == 3)
    for message in group.mail:
        if message.to == 3:
            group[3].core.step(message)
    assert group[3].core.quarantined
    group[3].take()
    assert group[3].disk.quarantined


def test_a_log_that_is_longer_but_ends_in_an_earlier_term_has_lost_what_it_had_acknowledged():
    """It lost a truncation with what followed it: entries that had been given up are there again."""
    group = leading(b"a", b"b")
    kept = group[1].core.log.last_index
    group.elect(2)
    group.elect(1)
    group.propose(1, b"c")
    group.settle()
    progress = group[1].core.tracker.progress[3]
    assert progress.match == kept + 3
    group[1].core.peer_restarted(3, 3, kept + 9, 1, False)
    assert (progress.match, progress.quarantined) == (kept, True)
    group[1].take()
    assert group[1].data_lost_by == [3]


def test_a_release_is_caught_up_with_by_all_that_was_acknowledged_before_it():
    """With a heartbeat's answer, too: else the last entries would wait for the next one."""
    group = leading()
    lose(group, 3, marked=True)
    group.propose(1, b"x")
    group.collect(1)
    release, last = group[1].core.tracker.progress[3].release_index, group[1].core.log.last_index
    assert release < last
    group[1].persist()
    group[1].take()
    core = group[1].core
    core.step(Message(MessageType.APPEND_RESPONSE, 1, 3, 1, index=last, quarantined=True))
    core.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 1, index=release))
    assert core.log.committed == release
    core.step(Message(MessageType.HEARTBEAT_RESPONSE, 1, 3, 1, quarantined=True))
    assert core.log.committed == last


def test_a_word_that_ended_a_quarantine_says_nothing_to_the_next_life():
    group = leading(b"a")
    lose(group, 3, marked=True)
    for _ in range(2):
        group.settle()
        group[1].core.tick()
    group.settle()
    release = group[1].core.tracker.progress[3].release_index
    assert not group[3].core.quarantined
    group[3].disk.quarantined = True
    group.restart(3)
    group[3].core.step(Message(MessageType.HEARTBEAT, 3, 1, 1, quarantine=release))
    group[3].take()
    assert group[3].core.quarantined and group[3].disk.quarantined
    group[1].core.peer_restarted(3, 1, group[3].disk.last_index(), 1, True)
    for _ in range(2):
        group.settle()
        group[1].core.tick()
    group.settle()
    assert group[1].core.tracker.progress[3].release_index > release
    assert not group[3].core.quarantined


def test_a_life_that_found_the_releasing_entry_without_its_mark_is_released_by_another_one():
    group = leading(b"a")
    lose(group, 3)
    group.settle(1, 3)
    release = group[1].core.tracker.progress[3].release_index
    assert group[3].disk.last_index() == release
    group[3].disk.quarantined = False       # its mark was on the way when it crashed
    group.restart(3)
    group[1].core.peer_restarted(3, 1, release, 1, False)
    for _ in range(3):
        group.settle()
        group[1].core.tick()
    group.settle()
    assert group[1].core.tracker.progress[3].release_index > release
    assert not group[3].core.quarantined and not group[3].disk.quarantined


def test_a_demand_holds_before_its_mark_is_durable():
    group = leading(b"a")
    lose(group, 3)
    group.collect(1)
    for message in group.mail:
        if message.to == 3:
            group[3].core.step(message)
    group[3].core.forget_leader()
    group[3].core.campaign()
    assert group[3].core.role is Role.FOLLOWER
    assert not group[3].core.quarantine_marked


def test_a_quarantined_node_does_not_vote():
    group = leading()
    lose(group, 3, marked=True)
    node = group[3]
    for kind, answer in (
        (MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE),
        (MessageType.VOTE, MessageType.VOTE_RESPONSE),
    ):
        node.core.step(Message(kind, 3, 2, 9, index=99, log_term=8))
        node.take()
        node.persist()
        assert [message.reject for message in node.take() if message.type is answer] == [True]


def test_a_quarantined_node_does_not_stand():
    group = leading()
    lose(group, 3, marked=True)
    for _ in range(5 * ELECTION_TICKS):
        group[3].core.tick()
    group[3].core.link_down(1)
    for _ in range(5 * ELECTION_TICKS):
        group[3].core.tick()
    assert (group[3].core.role, group[3].core.term) == (Role.FOLLOWER, 1)


def cut_off(group: Group, node: int) -> None:
    group.lose = lambda message: node in (message.to, message.sender)


def test_a_quarantined_node_is_fed_but_counts_for_no_commit():
    group = leading()
    lose(group, 3, marked=True)
    cut_off(group, 2)
    before = group[1].core.log.committed
    group.propose(1, b"x")
    group.settle()
    group[1].core.tick()
    group.settle()
    assert group[1].core.tracker.progress[3].match == group[1].core.log.last_index
    assert group[1].core.log.committed == before


def test_a_quarantined_node_counts_for_no_confirmation():
    group = leading()
    lose(group, 3, marked=True)
    cut_off(group, 2)
    group[1].core.open_round()
    group.settle()
    assert group[1].confirmed == 0


def test_a_quarantined_node_counts_for_no_check_of_the_quorum():
    group = leading()
    lose(group, 3, marked=True)
    cut_off(group, 2)
    for _ in range(2 * ELECTION_TICKS):
        group[1].core.tick()
        group.settle()
    assert group[1].core.role is Role.FOLLOWER


@pytest.mark.parametrize("marked", [True, False])
def test_an_entry_of_the_leaders_term_that_is_committed_without_it_ends_the_quarantine(marked):
    group = leading(b"a", b"b")
    last = group[1].core.log.last_index
    lose(group, 3, marked=marked)
    group.settle()
    group[1].core.tick()
    group.settle()
    progress = group[1].core.tracker.progress[3]
    assert progress.release_index > last, "proposed after the leader heard of the loss"
    assert not progress.quarantined
    assert not group[3].core.quarantined
    assert not group[3].disk.quarantined
    assert group[3].terms == group[1].terms


def test_after_the_quarantine_it_counts_again():
    group = leading()
    lose(group, 3, marked=True)
    group.settle()
    group[1].core.tick()
    group.settle()
    cut_off(group, 2)
    group.propose(1, b"x")
    group.settle()
    assert group[1].core.log.committed == group[1].core.log.last_index


def test_the_releasing_entry_alone_is_not_enough_before_it_is_committed():
    """A leader that was deposed without knowing could release what it knows nothing of."""
    group = leading(b"a", size=5)
    lose(group, 3, marked=True)
    for node in (2, 4, 5):
        group.isolate(node)
    for _ in range(4):
        group.settle()
        group[1].core.tick()
    progress = group[1].core.tracker.progress[3]
    assert progress.match == progress.release_index == group[1].core.log.last_index
    assert progress.quarantined
    assert group[3].core.quarantined


def test_a_crash_before_the_mark_was_durable_does_not_end_the_quarantine():
    group = leading(b"a", b"b")
    lose(group, 3)
    group.settle(1, 2)
    group[1].core.peer_restarted(3, 1, 0, 0, False)
    assert group[1].core.tracker.progress[3].quarantined
    group[1].take()
    assert group[1].data_lost_by == [3], "told once"


def test_a_new_leader_learns_of_a_quarantine_by_the_first_answer():
    group = leading(b"a")
    lose(group, 3, marked=True)
    group.settle(1, 2)
    group.elect(2, 1)
    assert not group[2].core.tracker.progress[3].quarantined
    cut_off(group, 1)
    group[2].core.tick()
    group.settle()
    group[2].core.tick()
    group.settle()
    assert group[2].core.tracker.progress[3].quarantined


def test_a_leader_that_is_elected_again_has_not_forgotten_a_loss_that_only_it_knows():
    group = leading(b"a")
    lose(group, 3)
    group.settle(1, 2)
    group.elect(1, 2)
    progress = group[1].core.tracker.progress[3]
    assert progress.quarantined
    group[1].core.tick()
    group.settle()
    assert group[3].disk.quarantined or not progress.quarantined
    for _ in range(3):
        group[1].core.tick()
        group.settle()
    assert not progress.quarantined
    assert not group[3].core.quarantined


def test_an_old_demand_after_the_release_is_ignored():
    group = leading(b"a")
    lose(group, 3, marked=True)
    group.collect(1)
    group.settle()
    old = Message(MessageType.HEARTBEAT, 3, 1, 1, quarantine=-group[1].core.tracker.progress[3].release_index)
    group[1].core.tick()
    group.settle()
    assert not group[3].core.quarantined
    group[3].core.step(old)
    assert not group[3].core.quarantined


def test_an_old_flag_after_the_release_is_ignored():
    group = leading(b"a")
    lose(group, 3, marked=True)
    group.settle()
    group[1].core.tick()
    group.settle()
    last = group[1].core.log.last_index
    group[1].core.step(Message(MessageType.APPEND_RESPONSE, 1, 3, 1, index=1, quarantined=True))
    assert group[1].core.log.last_index == last
    assert not group[1].core.tracker.progress[3].quarantined


def test_a_release_counts_only_for_an_entry_that_is_durable_here():
    group = leading()
    lose(group, 3, marked=True)
    node = group[3]
    node.core.step(
        Message(
            MessageType.APPEND, 3, 1, 1, quarantine=1, entries=[Entry(1, 1, EntryKind.NORMAL, b"")]
        )
    )
    node.take()
    assert node.core.quarantined, "its write is not done"
    node.persist()
    node.core.step(Message(MessageType.HEARTBEAT, 3, 1, 1, quarantine=1))
    node.take()
    assert not node.core.quarantined
