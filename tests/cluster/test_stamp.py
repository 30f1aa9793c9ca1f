"""The leader's time of day: never back, at most 5 % faster or slower than the steady clock, and in the end right."""

from hypothesis import given
from hypothesis import strategies as st

from actors import MILLISECOND, SECOND
from cluster.peer.stamp import SLEW_PERCENT, StampClock, median_ms

HOUR_MS = 3_600_000


def test_a_new_anchor_is_the_target_or_the_last_stamp_whichever_is_later():
    assert StampClock(1_000, 5_000, 0).read(0, 5_000) == 5_000
    assert StampClock(5_000, 1_000, 0).read(0, 1_000) == 5_000


def test_with_a_right_wall_clock_it_runs_with_the_steady_clock():
    clock = StampClock(0, 1_000, 0)
    assert [clock.read(seconds * SECOND, 1_000 + seconds * 1_000) for seconds in (1, 2, 60)] == [2_000, 3_000, 61_000]


def test_fractions_of_a_millisecond_add_up():
    clock = StampClock(0, 1_000, 0)
    for step in range(1, 10_001):
        clock.read(step * MILLISECOND // 10, 1_000 + step // 10)
    assert abs(clock.read(SECOND, 2_000) - 2_000) <= 1      # the target has whole milliseconds only


def test_a_wall_clock_that_jumps_moves_it_by_a_twentieth_only():
    ahead, behind = StampClock(0, 0, 0), StampClock(0, HOUR_MS, 0)
    assert ahead.read(100 * SECOND, HOUR_MS) == 105_000
    assert behind.read(100 * SECOND, 0) == HOUR_MS + 95_000


def test_reading_often_does_not_make_it_faster():
    """A busy leader reads at every turn: the slew of many short spans is that of one long one."""
    for interval in (MILLISECOND // 10, MILLISECOND, 7 * MILLISECOND):
        ahead, behind = StampClock(0, 0, 0), StampClock(0, HOUR_MS, 0)
        for now in range(interval, 10 * SECOND + 1, interval):
            ahead.read(now, HOUR_MS)
            behind.read(now, 0)
        assert abs(ahead.read(10 * SECOND, HOUR_MS) - 10_500) <= 1
        assert abs(behind.read(10 * SECOND, 0) - (HOUR_MS + 9_500)) <= 1


def test_it_reaches_the_wall_clock_and_stays():
    clock = StampClock(0, 0, 0)
    error_ms = 3_000
    for second in range(1, 61):
        assert clock.read(second * SECOND, second * 1_000 + error_ms) == second * 1_000 + min(error_ms, second * 50)


def test_the_middle_wall_clock_counts_and_the_lower_of_two():
    assert median_ms([5]) == 5
    assert median_ms([9, 1]) == 1
    assert median_ms([9, 1, 5]) == 5
    assert median_ms([1, 2, 3, 1_000_000]) == 2


@given(
    st.integers(-4 * HOUR_MS, 4 * HOUR_MS),
    st.integers(1, 100 * HOUR_MS),
    st.integers(0, HOUR_MS),
)
def test_it_says_how_long_a_date_takes(off_ms, ahead_ms, passed_ms):
    """To the millisecond, whether the clocks differ for all of that time, for a part of it, or not at all."""
    clock = StampClock(10 * HOUR_MS, 0, 0)
    now, wall_ms = passed_ms * MILLISECOND, 10 * HOUR_MS + off_ms
    stamp = clock.read(now, wall_ms + passed_ms)
    wait = clock.wait(stamp + ahead_ms, now, wall_ms + passed_ms)
    before, after = wait - 2 * MILLISECOND, wait + 2 * MILLISECOND
    if before > 0:
        early = clock.read(now + before, wall_ms + passed_ms + before // MILLISECOND)
        assert early < stamp + ahead_ms
    assert clock.read(now + after, wall_ms + passed_ms + after // MILLISECOND) >= stamp + ahead_ms


def test_a_date_that_has_come_takes_no_time():
    clock = StampClock(5_000, 5_000, 0)
    assert clock.wait(5_000, 0, 5_000) <= 0 and clock.wait(4_000, 0, 9_000) <= 0


PASSED = st.one_of(st.integers(0, 3 * MILLISECOND), st.integers(-SECOND, 100 * SECOND))
SPANS = st.lists(st.tuples(PASSED, st.integers(0, 10 * HOUR_MS)), max_size=60)


@given(st.integers(0, HOUR_MS), st.integers(0, HOUR_MS), st.integers(0, SECOND), SPANS)
def test_it_never_goes_back_and_never_leaves_its_twentieth(last_ms, target_ms, start, spans):
    """Each span is how much time passes (a clock that goes back must not matter) and what the wall clocks say then."""
    clock = StampClock(last_ms, target_ms, start)
    anchor = before = clock.read(start, target_ms)
    assert anchor == max(last_ms, target_ms)
    now = latest = start
    for passed, wall_ms in spans:
        now += passed
        latest = max(latest, now)
        stamp = clock.read(now, wall_ms)
        elapsed_ms = (latest - start) / MILLISECOND
        assert stamp >= before
        assert anchor + elapsed_ms * (100 - SLEW_PERCENT) / 100 - 2 <= stamp
        assert stamp <= anchor + elapsed_ms * (100 + SLEW_PERCENT) / 100 + 2
        before = stamp


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 1_000))
def test_whatever_the_error_is_it_is_gone_after_twenty_times_as_long(last_ms, target_ms, interval_ms):
    clock = StampClock(last_ms, target_ms, 0)
    limit_ms = 20 * 10_000 + 2_000
    for now_ms in range(interval_ms, limit_ms + interval_ms, interval_ms * 20):
        stamp = clock.read(now_ms * MILLISECOND, target_ms + now_ms)
    assert abs(stamp - (target_ms + now_ms)) <= 1 or now_ms < 20 * abs(last_ms - target_ms)
