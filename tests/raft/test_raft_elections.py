"""Terms and elections: Raft paper sections 5.1, 5.2 and 5.4.1, pre-vote, check-quorum, and the leader's lost link."""

import pytest
from raft_rig import ELECTION_TICKS, Group, Node, node_with_log

from cluster.raft.election import HURRY_ATTEMPTS_MAX, HURRY_TICKS, LAG_ENTRIES_MAX, YIELD_FACTOR
from cluster.raft.messages import NO_NODE, Entry, EntryKind, Message, MessageType, Role

PLAIN = {"pre_vote": False, "check_quorum": False}
ROLES = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)


def in_role(role: Role, term: int = 1) -> Node:
    node = node_with_log(1, [], term=term - 1, **PLAIN)
    if role is Role.FOLLOWER:
        node.core.step(Message(MessageType.HEARTBEAT, 1, 2, term))
        return node
    node.core.campaign()
    node.take()
    node.persist()
    if role is Role.LEADER:
        node.core.step(Message(MessageType.VOTE_RESPONSE, 1, 2, term))
    assert (node.core.role, node.core.term) == (role, term)
    return node


def sent(node: Node, kind: MessageType) -> list[Message]:
    """What leaves, once everything is durable."""
    messages = node.take()
    node.persist()
    messages += node.take()
    return [message for message in messages if message.type is kind]


def ask(node: Node, kind: MessageType, sender: int, term: int, last: tuple[int, int] = (0, 0)) -> list[Message]:
    node.core.step(Message(kind, node.id, sender, term, index=last[0], log_term=last[1]))
    response = MessageType.VOTE_RESPONSE if kind is MessageType.VOTE else MessageType.PRE_VOTE_RESPONSE
    return sent(node, response)


# -- terms (5.1) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_larger_term_in_a_message_is_taken_over_and_makes_a_follower(role):
    """Section 5.1: if one server's current term is smaller than the other's, it updates its term; a candidate or
    leader that finds its term out of date reverts to follower."""
    node = in_role(role)
    node.core.step(Message(MessageType.APPEND, 1, 2, 5))
    assert (node.core.term, node.core.role, node.core.leader) == (5, Role.FOLLOWER, 2)


@pytest.mark.parametrize("role", ROLES)
def test_a_message_of_an_earlier_term_is_ignored(role):
    """Section 5.1: a server that receives a request with a stale term number rejects it."""
    node = in_role(role, term=3)
    node.take()
    before = (node.core.term, node.core.role, node.core.leader, node.core.log.last_index)
    node.core.step(Message(MessageType.APPEND, 1, 3, 2))
    node.core.step(Message(MessageType.VOTE, 1, 3, 2))
    assert (node.core.term, node.core.role, node.core.leader, node.core.log.last_index) == before


def test_a_stale_leader_is_told_the_term_when_no_election_of_ours_would_tell_it():
    """With pre-vote or check-quorum nobody disturbs it otherwise (etcd: free_stuck_candidate_with_check_quorum)."""
    node = node_with_log(1, [], term=3)
    node.core.step(Message(MessageType.HEARTBEAT, 1, 2, 2))
    assert [message.term for message in sent(node, MessageType.APPEND_RESPONSE)] == [3]


# -- elections (5.2) --------------------------------------------------------------------------------------


def test_a_server_starts_as_a_follower():
    """Section 5.2: when servers start up, they begin as followers."""
    assert node_with_log(1, [1, 2]).core.role is Role.FOLLOWER


def test_a_leader_sends_heartbeats_to_all_others():
    """Section 5.2: leaders send periodic heartbeats to all followers."""
    group = Group()
    leader = group.elect(1)
    leader.tick()
    group.collect(1)
    assert [(message.type, message.to) for message in group.mail] == [
        (MessageType.HEARTBEAT, 2),
        (MessageType.HEARTBEAT, 3),
    ]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_without_a_word_of_a_leader_a_new_election_starts(role):
    """Section 5.2: it increments its current term, votes for itself and asks all others for their votes."""
    node = in_role(role)
    node.take()
    for _ in range(2 * ELECTION_TICKS):
        node.core.tick()
    assert (node.core.role, node.core.term, node.core.vote) == (Role.CANDIDATE, 2, 1)
    requests = sent(node, MessageType.VOTE)
    assert [(message.to, message.term) for message in requests] == [(2, 2), (3, 2)]


@pytest.mark.parametrize(
    ("size", "granted", "rejected", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 1, 1, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (5, 2, 0, Role.LEADER),
        (5, 2, 2, Role.LEADER),
        (5, 1, 2, Role.CANDIDATE),
        (5, 1, 3, Role.FOLLOWER),
        (5, 0, 0, Role.CANDIDATE),
    ],
)
def test_an_election_is_won_by_a_majority_lost_against_one_and_else_open(size, granted, rejected, role):
    """Section 5.2: a candidate wins if it receives votes from a majority of the servers in the full cluster."""
    node = node_with_log(1, [], size=size, **PLAIN)
    node.core.campaign()
    node.take()
    node.persist()
    for voter in range(2, 2 + granted + rejected):
        node.core.step(Message(MessageType.VOTE_RESPONSE, 1, voter, 1, reject=voter >= 2 + granted))
    assert node.core.role is role


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"), [(NO_NODE, 2, True), (NO_NODE, 3, True), (2, 2, True), (2, 3, False)]
)
def test_a_follower_votes_for_one_candidate_in_a_term_the_first_that_asks(vote, candidate, granted):
    """Section 5.2: each server will vote for at most one candidate in a given term, first come, first served."""
    node = node_with_log(1, [], term=1, vote=vote)
    (answer,) = ask(node, MessageType.VOTE, candidate, 1)
    assert answer.reject is not granted


def test_a_vote_survives_a_restart():
    node = node_with_log(1, [])
    ask(node, MessageType.VOTE, 2, 1)
    node.start()
    (answer,) = ask(node, MessageType.VOTE, 3, 1)
    assert answer.reject


@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_gives_way_to_a_leader_of_its_term_or_a_later_one(term):
    """Section 5.2: if the leader's term is at least as large as its own, it recognises the leader as legitimate."""
    node = in_role(Role.CANDIDATE)
    node.core.step(Message(MessageType.APPEND, 1, 2, term))
    assert (node.core.role, node.core.leader, node.core.term) == (Role.FOLLOWER, 2, term)


def test_election_timeouts_are_drawn_from_the_whole_interval():
    """Section 5.2: election timeouts are chosen randomly from a fixed interval."""
    node = node_with_log(1, [], **PLAIN)
    drawn = set()
    for _ in range(50 * ELECTION_TICKS):
        ticks = 0
        node.core.become_follower(node.core.term + 1, NO_NODE)
        while node.core.role is Role.FOLLOWER:
            node.core.tick()
            ticks += 1
        drawn.add(ticks)
    assert drawn == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_followers_seldom_time_out_at_the_same_tick():
    """Section 5.2: in most cases only a single server will time out."""
    group = Group(size=5, seed=3, **PLAIN)
    conflicts = 0
    for _ in range(500):
        timeouts = []
        for node in group:
            node.core.become_follower(node.core.term + 1, NO_NODE)
            timeouts.append(node.core.randomized_election_ticks)
        conflicts += timeouts.count(min(timeouts)) > 1
    assert conflicts < 0.35 * 500


# -- who may be elected (5.4.1) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "last", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (2, 1), True),
        ([1, 1], (1, 1), False),
        ([1], (1, 2), True),
        ([1, 1], (1, 2), True),
        ([2], (1, 1), False),
        ([2], (5, 1), False),
        ([1, 2], (1, 2), False),
    ],
)
@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_a_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(kind, log, last, granted):
    """Section 5.4.1: the later last term is more up to date; with the same last term, the longer log is."""
    (answer,) = ask(node_with_log(1, log, term=3), kind, 2, 4, last)
    assert answer.reject is not granted


def test_what_is_not_durable_yet_counts_in_the_comparison_of_logs():
    """A voter that has an entry in memory will have acknowledged it when its vote leaves."""
    group = Group()
    group.elect(1)
    group.propose(1, b"x")
    group.collect(1)
    (append,) = [message for message in group.mail if message.to == 2]
    group[2].core.step(append)
    group[2].core.forget_leader()
    assert group[2].disk.last_index() == append.index
    (answer,) = ask(group[2], MessageType.VOTE, 3, 2, (append.index, 1))
    assert answer.reject


# -- pre-vote and check-quorum ----------------------------------------------------------------------------


def test_a_pre_vote_changes_no_term_and_no_vote():
    node = node_with_log(1, [], term=1)
    (answer,) = ask(node, MessageType.PRE_VOTE, 2, 2)
    assert (answer.reject, answer.term) == (False, 2)
    assert node.disk.hard_state[:2] == (1, NO_NODE)
    (answer,) = ask(node, MessageType.PRE_VOTE, 3, 2)
    assert not answer.reject, "and it may be given to several"


def test_a_pre_candidate_that_wins_enters_the_next_term():
    group = Group()
    group[1].core.campaign()
    group.collect(1)
    assert (group[1].core.role, group[1].core.term) == (Role.PRE_CANDIDATE, 0)
    group.settle()
    assert (group[1].core.role, group[1].core.term) == (Role.LEADER, 1)


def test_a_pre_candidate_of_an_earlier_term_learns_the_term():
    group = Group()
    group.isolate(3)
    group.elect(1, 2)
    group.elect(2, 1)
    group.heal()
    group[1].core.forget_leader()
    group[3].core.campaign()
    group.settle()
    assert group[3].core.term >= 2


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_who_heard_of_a_leader_lately_ignores_requests_for_votes(kind):
    """Section 6: servers disregard RequestVote RPCs when they believe a current leader exists."""
    node = node_with_log(1, [])
    node.core.step(Message(MessageType.HEARTBEAT, 1, 2, 1))
    assert ask(node, kind, 3, 2) == []
    assert node.core.term == 1
    for _ in range(ELECTION_TICKS - 1):
        node.core.tick()
    assert ask(node, kind, 3, 2) == [], "the lease has one tick left"
    node.core.randomized_election_ticks = 2 * ELECTION_TICKS
    node.core.tick()
    (answer,) = ask(node, kind, 3, 2)
    assert not answer.reject


def test_a_returning_node_does_not_disturb_a_healthy_leader():
    group = Group()
    group.elect(1)
    group.isolate(3)
    for _ in range(10 * ELECTION_TICKS):
        group[3].core.tick()
        group.settle()
    group.heal()
    group[1].core.tick()
    group.settle()
    assert (group[1].core.role, group[1].core.term, group[3].core.leader) == (Role.LEADER, 1, 1)


def test_a_leader_that_hears_no_quorum_for_an_election_timeout_steps_down():
    group = Group()
    leader = group.elect(1)
    group.isolate(1)
    for _ in range(ELECTION_TICKS):
        leader.tick()
    assert leader.role is Role.LEADER, "others were heard in the timeout before"
    for _ in range(ELECTION_TICKS):
        leader.tick()
    assert (leader.role, leader.leader) == (Role.FOLLOWER, NO_NODE)


def test_a_leader_that_hears_a_bare_majority_stays():
    group = Group(size=5)
    leader = group.elect(1)
    group.isolate(4)
    group.isolate(5)
    for _ in range(5 * ELECTION_TICKS):
        leader.tick()
        group.settle()
    assert leader.role is Role.LEADER


def test_a_stalled_leader_steps_down_on_request():
    group = Group()
    leader = group.elect(1)
    leader.step_down()
    assert (leader.role, leader.term) == (Role.FOLLOWER, 1)


# -- who would rather not lead -----------------------------------------------------------------------------


def test_who_yields_stands_later_than_any_other_and_stands_all_the_same():
    for seed in range(20):
        node = Group(seed=seed)[1]
        node.core.yields = True
        for _ in range(2 * ELECTION_TICKS):
            node.core.tick()
            assert not sent(node, MessageType.PRE_VOTE)
        for _ in range((2 * YIELD_FACTOR - 2) * ELECTION_TICKS):
            node.core.tick()
        assert sent(node, MessageType.PRE_VOTE)


def test_who_yields_does_not_stand_early():
    node = followers()[2]
    node.core.yields = True
    node.core.link_down(1)
    for _ in range(4 * HURRY_TICKS):
        node.core.tick()
        assert not sent(node, MessageType.PRE_VOTE)


def lagging(lag: int) -> Node:
    """Node 2 with so many entries to apply."""
    node = followers()[2]
    core = node.core
    last, term = core.log.last_index, core.log.last_term
    entries = [Entry(last + place, term, EntryKind.NORMAL, b"") for place in range(1, lag + 1)]
    core.step(Message(MessageType.APPEND, 2, 1, 1, index=last, log_term=term, entries=entries, commit=last + lag))
    assert core.log.committed - core.log.applied == lag
    return node


@pytest.mark.parametrize("lag", [LAG_ENTRIES_MAX, LAG_ENTRIES_MAX + 1])
def test_who_has_much_to_apply_does_not_stand_early(lag):
    core = lagging(lag).core
    core.link_down(1)
    for _ in range(2 * HURRY_TICKS):
        core.tick()
    assert (core.role is Role.FOLLOWER) == (lag > LAG_ENTRIES_MAX)


def test_who_has_applied_it_stands_early_after_all():
    node = lagging(LAG_ENTRIES_MAX + 1)
    core = node.core
    core.link_down(1)
    for _ in range(HURRY_ATTEMPTS_MAX * HURRY_TICKS):
        core.tick()
    while core.log.applied < core.log.committed:
        node.take()
        node.persist()
    for _ in range(2 * HURRY_TICKS):
        core.tick()
    assert core.role is Role.PRE_CANDIDATE


def test_who_has_much_to_apply_waits_longer_for_its_timeout():
    core = lagging(LAG_ENTRIES_MAX + 1).core
    for _ in range(2 * 100):
        core.tick()
    assert core.role is Role.FOLLOWER, "others have had their turn"
    for _ in range((2 * YIELD_FACTOR - 2) * 100):
        core.tick()
    assert core.role is Role.PRE_CANDIDATE


# -- the leader's link goes down --------------------------------------------------------------------------

HURRY_TICKS_MAX = 2 * HURRY_TICKS       # of the last of two followers


def ticks_until_election(node: Node) -> int:
    for ticks in range(1, HURRY_TICKS_MAX + 1):
        node.core.tick()
        if sent(node, MessageType.PRE_VOTE):
            return ticks
    raise AssertionError("no early election")


def followers(seed: int = 1) -> Group:
    group = Group(seed=seed, election_ticks=100, heartbeat_ticks=10)
    group.elect(1)
    return group


def test_a_closed_link_of_the_leader_leads_to_an_early_election_that_others_grant():
    group = followers()
    group.isolate(1)
    for node in (2, 3):
        group[node].core.link_down(1)
        assert group[node].core.leader == NO_NODE
    for _ in range(3 * HURRY_TICKS_MAX):
        for node in (2, 3):
            group[node].core.tick()
            group.settle(2, 3)
    assert Role.LEADER in (group[2].core.role, group[3].core.role)


def test_the_early_elections_are_few_and_drawn_anew():
    delays: dict[int, list[int]] = {2: [], 3: []}
    for seed in range(20):
        for number in delays:
            node = followers(seed)[number]
            node.core.link_down(1)
            delays[number] += [ticks_until_election(node) for _ in range(HURRY_ATTEMPTS_MAX)]
            for _ in range(2 * HURRY_TICKS_MAX):
                node.core.tick()
                assert not sent(node, MessageType.PRE_VOTE), "no sixth"
    assert set(delays[2]) == set(range(1, HURRY_TICKS + 1))
    assert set(delays[3]) == set(range(HURRY_TICKS + 1, HURRY_TICKS_MAX + 1)), "the others first"


def test_two_candidates_that_refused_each_other_do_not_wait_for_a_timeout():
    for seed in range(20):
        group = followers(seed)
        group.isolate(1)
        for node in (2, 3):
            group[node].core.link_down(1)
            group[node].core.campaign()
        group.settle(2, 3)
        assert [group[node].core.role for node in (2, 3)] == [Role.CANDIDATE, Role.CANDIDATE]
        for _ in range(2 * HURRY_TICKS_MAX):
            for node in (2, 3):
                group[node].core.tick()
                group.settle(2, 3)
        assert Role.LEADER in (group[2].core.role, group[3].core.role)


@pytest.mark.parametrize("kind", [MessageType.PRE_VOTE, MessageType.VOTE])
def test_who_has_just_given_its_vote_away_does_not_stand_at_once(kind):
    node = followers()[3]
    node.core.link_down(1)
    for _ in range(HURRY_TICKS):
        node.core.tick()
    last = (node.core.log.last_index, node.core.log.last_term)
    assert [message.reject for message in ask(node, kind, 2, 2, last)] == [False]
    for _ in range(HURRY_TICKS):
        node.core.tick()
        assert not sent(node, MessageType.PRE_VOTE)


def test_of_five_one_refusal_does_not_end_a_candidacy_that_may_win():
    group = Group(5, election_ticks=100, heartbeat_ticks=10)
    group.elect(1)
    group.settle()
    node = group[2]
    node.core.link_down(1)
    node.core.campaign()
    for other in (3, 4):
        node.core.step(Message(MessageType.PRE_VOTE_RESPONSE, 2, other, 2))
        node.take()
        node.persist()
    assert node.core.role is Role.CANDIDATE
    node.core.step(Message(MessageType.VOTE_RESPONSE, 2, 5, 2, reject=True))
    for _ in range(HURRY_ATTEMPTS_MAX * HURRY_TICKS):
        node.core.tick()
    assert (node.core.role, node.core.term) == (Role.CANDIDATE, 2)
    node.core.link_down(1)      # nothing: it does not follow
    node.core.hurry, node.core.hurry_ticks = 1, 1
    node.core.step(Message(MessageType.VOTE_RESPONSE, 2, 4, 2, reject=True))
    node.core.tick()
    assert node.core.role is Role.PRE_CANDIDATE, "with the lost one three of five are against it"


def test_a_candidate_whose_votes_are_under_way_does_not_stand_again():
    node = followers()[2]
    node.core.link_down(1)
    node.core.campaign()
    node.core.step(Message(MessageType.PRE_VOTE_RESPONSE, 2, 3, 2))
    node.take()
    node.persist()
    assert node.core.role is Role.CANDIDATE
    for _ in range(HURRY_ATTEMPTS_MAX * HURRY_TICKS_MAX):
        node.core.tick()
    assert (node.core.role, node.core.term) == (Role.CANDIDATE, 2)


def test_a_leader_that_is_heard_of_ends_the_hurry():
    node = followers()[2]
    node.core.link_down(1)
    node.core.step(Message(MessageType.HEARTBEAT, 2, 3, 2))
    for _ in range(2 * HURRY_TICKS_MAX):
        node.core.tick()
    assert not sent(node, MessageType.PRE_VOTE)


def test_a_closed_link_of_another_follower_means_nothing():
    node = followers()[2]
    node.core.link_down(3)
    assert node.core.leader == 1


def test_one_follower_without_the_link_does_not_unseat_a_leader_that_the_other_hears():
    group = followers()
    group.cut = {(1, 2), (2, 1)}
    group[2].core.link_down(1)
    for _ in range(6 * HURRY_TICKS_MAX):
        for node in group:
            node.core.tick()
        group.settle()
    assert (group[1].core.role, group[1].core.term) == (Role.LEADER, 1)
