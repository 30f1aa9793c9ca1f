"""A follower that lags is fed at a pace, unless somebody waits for it."""

from raft_rig import Group

from cluster.raft.catch_up import GROWTH_FACTOR, STUCK_HEARTBEATS

ENTRY = bytes(1_000)
SHARE = 5
MISSED = 100
PACED = {"catch_up_bytes": SHARE * len(ENTRY), "append_bytes_max": len(ENTRY), "check_quorum": False}


def group_that_left_one_behind(**options: object) -> Group:
    """Node 1 leads, node 3 has missed MISSED entries and can be reached again."""
    group = Group(**{**PACED, **options})
    group.elect(1)
    group.isolate(3)
    for _ in range(MISSED):
        group.propose(1, ENTRY)
    group.settle()
    beat(group)     # what grew until here is forgotten with the second
    beat(group)
    group[1].core.unreachable(3)
    group.heal()
    beat(group)     # a probe finds out where it stands; its share begins with the next
    return group


def beat(group: Group, *among: int) -> int:
    """One heartbeat and all that follows from it, among these nodes (or all); how many entries node 3 got."""
    before = group[3].core.log.last_index
    group[1].core.tick()
    group.settle(*among)
    return group[3].core.log.last_index - before


def test_a_follower_that_lags_gets_its_share_of_each_heartbeat():
    group = group_that_left_one_behind()
    got = [beat(group) for _ in range(3)]
    assert got == [SHARE] * 3


def test_a_follower_that_lags_arrives_and_is_paced_no_more():
    group = group_that_left_one_behind()
    for _ in range(MISSED // SHARE + 1):
        beat(group)
    assert group[3].terms == group[1].terms
    beat(group)
    group.propose(1, *[ENTRY] * (10 * SHARE))
    group.settle()
    assert group[3].terms == group[1].terms


def test_a_message_larger_than_the_share_is_paid_for_by_those_that_follow():
    group = group_that_left_one_behind(append_bytes_max=2 * SHARE * len(ENTRY))
    got = [beat(group) for _ in range(6)]
    assert 0 in got and max(got) > SHARE
    assert sum(got) <= 6 * SHARE + 2 * SHARE


def test_what_is_proposed_meanwhile_does_not_add_to_its_share():
    group = group_that_left_one_behind()
    beat(group)
    before = group[3].core.log.last_index
    for _ in range(SHARE):
        group.propose(1, b"small")
        group.settle()
    assert group[3].core.log.last_index == before
    assert group[1].core.log.committed == group[1].core.log.last_index


def test_its_share_is_more_than_the_log_grows_by():
    group = group_that_left_one_behind()
    for _ in range(3):
        group.propose(1, *[ENTRY] * (2 * SHARE))
        group.settle(1, 2)
        assert beat(group) == GROWTH_FACTOR * 2 * SHARE


def test_who_waits_for_the_one_that_lags_is_served_at_once():
    """The other follower is gone: nothing commits without the one that lags."""
    group = group_that_left_one_behind()
    beat(group)
    group.isolate(2)
    group.propose(1, b"needs node 3")
    for _ in range(STUCK_HEARTBEATS + 1):
        beat(group)
    assert group[3].terms == group[1].terms
    assert group[1].core.log.committed == group[1].core.log.last_index


def test_commits_that_come_late_but_come_do_not_end_the_pace():
    """A busy machine: what was proposed before a heartbeat is committed some heartbeats later."""
    group = group_that_left_one_behind()
    leader = group[1].core

    def turn() -> None:
        group.propose(1, b"late")
        for _ in range(6):
            deliver(group)
            group[1].persist()
            group[3].persist()

    for _ in range(3 * STUCK_HEARTBEATS):
        turn()
    committed, got = [], []
    for _ in range(2 * STUCK_HEARTBEATS):
        before = group[3].core.log.last_index
        leader.tick()
        turn()
        group[2].persist(1)
        deliver(group)
        committed.append(leader.log.committed)
        got.append(group[3].core.log.last_index - before)
    assert committed == sorted(set(committed)) and committed[-1] < leader.log.last_index - STUCK_HEARTBEATS
    assert max(got) <= SHARE


def deliver(group: Group) -> None:
    group.collect()
    arriving, group.mail = group.mail, []
    for message in arriving:
        group[message.to].core.step(message)
    group.collect()


def test_without_a_limit_it_gets_all_at_once():
    group = group_that_left_one_behind(catch_up_bytes=0)
    beat(group)
    assert group[3].terms == group[1].terms
