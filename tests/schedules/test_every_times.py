"""The slots of intervals."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.schedules.parsing import PERIOD_MS_MAX, PERIOD_MS_MIN, every
from cluster.schedules.times import EveryTimes

PERIODS = st.integers(PERIOD_MS_MIN, PERIOD_MS_MAX)
INSTANTS = st.integers(-1_000_000_000_000, 10_000_000_000_000)


def test_slots_are_multiples_of_the_period_from_the_anchor():
    times = every("15m", anchor_ms=60_000)
    assert times == EveryTimes(900_000, 60_000)
    assert times.upcoming(0, 3) == [60_000, 960_000, 1_860_000]
    assert [times.next_after(instant) for instant in (959_999, 960_000, 960_001)] == [960_000, 1_860_000, 1_860_000]


def test_without_an_anchor_a_quarter_of_an_hour_is_one_of_the_clock():
    assert every("15m").next_after(1_780_000_000_000) == 1_780_000_200_000
    assert 1_780_000_200_000 % 900_000 == 0


@given(PERIODS, INSTANTS, INSTANTS)
def test_whoever_asks_finds_the_slot_that_lies_within_one_period_ahead(period, anchor, instant):
    times = EveryTimes(period, anchor)
    slot = times.next_after(instant)
    assert instant < slot <= instant + period
    assert (slot - anchor) % period == 0
    assert times.next_after(slot - 1) == slot
    assert times.upcoming(instant, 3) == [slot, slot + period, slot + 2 * period]
