"""The holder's half of a claim: it stops before the leader may give the lock to another."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.broker.lease_table import CLIENT_LEASE
from cluster.client.holding import MARGIN_MIN, Holding
from cluster.state.commands import HOLD_MS_MAX, HOLD_MS_MIN

MS = 1_000_000
SECOND = 1_000 * MS
HOLDS = st.integers(HOLD_MS_MIN, HOLD_MS_MAX).map(lambda hold_ms: hold_ms * MS)


def test_it_counts_from_when_the_claim_left_less_a_margin():
    holding = Holding(30 * SECOND, 5 * SECOND)
    assert holding.until == 5 * SECOND + 27 * SECOND
    assert not holding.has_ended(32 * SECOND - 1) and holding.has_ended(32 * SECOND)


def test_the_margin_of_a_short_hold_is_a_fifth_of_a_second():
    assert Holding(2 * SECOND, 0).until == 2 * SECOND - 200 * MS


def test_an_answered_heartbeat_counts_from_when_it_was_sent():
    holding = Holding(10 * SECOND, 0)
    holding.answered(4 * SECOND, 8 * SECOND)
    assert holding.until == 13 * SECOND


def test_an_older_answer_takes_nothing_back():
    holding = Holding(10 * SECOND, 0)
    holding.answered(4 * SECOND, 5 * SECOND)
    holding.answered(3 * SECOND, 6 * SECOND)
    assert holding.until == 13 * SECOND


def test_what_has_ended_stays_so_whatever_is_answered():
    holding = Holding(10 * SECOND, 0)
    holding.answered(8 * SECOND, 9 * SECOND)
    assert holding.until == 9 * SECOND and holding.has_ended(9 * SECOND)
    holding.asks(20 * SECOND)
    holding.extended(9 * SECOND)
    assert holding.until == 9 * SECOND


def test_a_longer_hold_counts_when_it_is_in_the_log_and_a_shorter_one_when_it_may_be():
    holding = Holding(10 * SECOND, 0)
    holding.asks(100 * SECOND)
    assert holding.until == 9 * SECOND
    holding.extended(1 * SECOND)
    assert holding.until == 90 * SECOND
    holding.asks(5 * SECOND)
    assert holding.until == 4.5 * SECOND
    holding.asks(50 * SECOND)
    assert holding.until == 4.5 * SECOND
    holding.extended(2 * SECOND)
    assert holding.until == 4.5 * SECOND
    holding.extended(2 * SECOND)
    assert holding.until == 45 * SECOND


def test_no_hold_is_longer_than_a_client_may_be_silent():
    assert HOLD_MS_MAX * MS <= CLIENT_LEASE


@given(HOLDS, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.none() | HOLDS), max_size=30))
def test_whatever_is_lost_or_late_it_stops_before_the_leader_may_end_it(hold, steps):
    """The leader hears each heartbeat at some time after it was sent, and applies what was asked for some time
    after."""
    holding = Holding(hold, 0)
    now = heard = 0
    in_log = [hold]
    for wait, delay, other in steps:
        now += wait * hold // 100
        heard = max(heard, now)                                     # at once: the worst for the holder
        ends = heard + min(in_log)
        was_ended = holding.has_ended(now)
        if other is None:
            holding.answered(now, now + delay * hold // 100)
        else:
            in_log.append(other)
            holding.asks(other)
            ends = heard + min(in_log)
            assert holding.until < ends
            holding.extended(now)
            if not was_ended and not holding.has_ended(now):
                in_log = [other]
                ends = heard + other
        assert holding.until <= ends - MARGIN_MIN
        if was_ended:
            assert holding.has_ended(now)


def test_of_bounds_that_are_asked_for_the_shortest_counts_until_each_is_answered():
    holding = Holding(30 * SECOND, 0)
    holding.answered(10_000 * SECOND, 0)
    holding.bound(0, 1_000 * SECOND)
    assert holding.until == 999 * SECOND
    holding.asks_bound(0, 2_000 * SECOND)
    assert holding.until == 999 * SECOND, "the longer one may not be applied"
    holding.asks_bound(0, 2 * SECOND)
    assert holding.until == 1.8 * SECOND
    holding.prolonged(SECOND)
    assert holding.until == 1.8 * SECOND, "the answer to the longer one says nothing of the shorter one behind it"
    holding.prolonged(SECOND)
    assert holding.until == 1.8 * SECOND


def test_a_turn_that_is_over_is_not_prolonged():
    holding = Holding(30 * SECOND, 0)
    holding.answered(10_000 * SECOND, 0)
    holding.bound(0, 2 * SECOND)
    holding.asks_bound(SECOND, 1_000 * SECOND)
    holding.prolonged(2 * SECOND)
    assert holding.until == 1.8 * SECOND
