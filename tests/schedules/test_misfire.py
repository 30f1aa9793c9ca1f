"""What becomes of slots that nobody could run in time."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_walk import ms

from cluster.schedules.misfire import MISFIRE_GRACE_MS, MISFIRES_MAX, Due, due
from cluster.schedules.parsing import cron, every
from cluster.schedules.times import CronTimes, EveryTimes, Times

NIGHTLY = cron("0 2 * * *", "Europe/Berlin")
MINUTE = 60_000
DAY = 24 * 60 * MINUTE
SLOT = ms("2026-05-04T02:00+02:00")
POLICIES = ("skip", "once", "all")


@pytest.mark.parametrize("policy", POLICIES)
def test_before_its_slot_nothing_is_due(policy):
    assert due(NIGHTLY, SLOT, SLOT - 1, policy) == Due((), False, SLOT)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("late_ms", [0, 1, 5_000, MISFIRE_GRACE_MS])
def test_a_slot_that_is_found_within_its_grace_runs_whatever_the_policy(policy, late_ms):
    """A leader that was elected a moment ago did not miss it."""
    assert due(NIGHTLY, SLOT, SLOT + late_ms, policy) == Due((SLOT,), False, SLOT + DAY)


def test_behind_its_grace_a_slot_has_misfired_and_the_policy_says_what_becomes_of_it():
    now = SLOT + MISFIRE_GRACE_MS + 1
    assert due(NIGHTLY, SLOT, now, "skip") == Due((), False, SLOT + DAY)
    assert due(NIGHTLY, SLOT, now, "once") == Due((SLOT,), False, SLOT + DAY)
    assert due(NIGHTLY, SLOT, now, "all") == Due((SLOT,), False, SLOT + DAY)


def test_of_several_slots_once_runs_the_last_and_all_runs_each():
    now = SLOT + 2 * DAY + 3 * 60 * MINUTE
    slots = (SLOT, SLOT + DAY, SLOT + 2 * DAY)
    assert due(NIGHTLY, SLOT, now, "skip") == Due((), False, SLOT + 3 * DAY)
    assert due(NIGHTLY, SLOT, now, "once") == Due(slots[-1:], False, SLOT + 3 * DAY)
    assert due(NIGHTLY, SLOT, now, "all") == Due(slots, False, SLOT + 3 * DAY)


def test_a_slot_whose_successor_has_come_too_has_misfired_however_late_it_is():
    """Else a schedule of every second would run many times at once after each change of leader."""
    times = every("1s")
    assert due(times, 10_000, 13_500, "skip") == Due((13_000,), False, 14_000)
    assert due(times, 10_000, 13_500, "once") == Due((13_000,), False, 14_000)
    assert due(times, 10_000, 13_500, "all") == Due((10_000, 11_000, 12_000, 13_000), False, 14_000)


def test_a_hundred_are_run_one_by_one_and_of_more_the_last_one_with_an_alarm():
    times = every("1m")
    hundred = tuple(range(0, MISFIRES_MAX * MINUTE, MINUTE))
    assert due(times, 0, hundred[-1], "all") == Due(hundred, False, hundred[-1] + MINUTE)
    last = hundred[-1] + MINUTE
    assert due(times, 0, last, "all") == Due((last,), True, last + MINUTE)
    assert due(times, 0, last, "once") == Due((last,), False, last + MINUTE)
    assert due(times, 0, last, "skip") == Due((last,), False, last + MINUTE)


class Asked(CronTimes):
    """Counts how often it is asked; a step of the calendar is what costs."""

    times = 0

    def next_after(self, instant_ms: int) -> int | None:
        Asked.times += 1
        return super().next_after(instant_ms)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_year_of_seconds_is_not_walked_through(policy):
    Asked.times = 0
    now = SLOT + 365 * DAY + 250
    decided = due(Asked("* * * * * *", "Europe/Berlin"), SLOT, now, policy)
    assert decided == Due((now - 250,), policy == "all", now + 750)
    assert Asked.times < 2 * MISFIRES_MAX


@pytest.mark.parametrize("policy", ["skip", "once"])
def test_the_last_slot_is_found_without_those_before_it(policy):
    Asked.times = 0
    now = SLOT + 99 * MINUTE
    assert due(Asked("* * * * *", "Europe/Berlin"), SLOT, now, policy) == Due((now,), False, now + MINUTE)
    assert Asked.times < 30
    Asked.times = 0
    assert due(Asked("* * * * *", "Europe/Berlin"), SLOT, SLOT + 1, policy) == Due((SLOT,), False, SLOT + MINUTE)
    assert Asked.times == 2, "of one that is due, which is what happens day by day"


@pytest.mark.parametrize("policy", POLICIES)
def test_of_slots_in_a_gap_nothing_is_due_and_the_next_one_lies_behind_it(policy):
    gap = (SLOT + 2 * DAY, SLOT + 5 * DAY)
    now = SLOT + 9 * DAY
    runs = {"skip": (), "once": (SLOT + 2 * DAY,), "all": (SLOT, SLOT + DAY, SLOT + 2 * DAY)}
    assert due(NIGHTLY, SLOT, now, policy, gap) == Due(runs[policy], False, SLOT + 6 * DAY)
    assert due(NIGHTLY, SLOT, now, "all", (SLOT, SLOT)) == Due((SLOT,), False, SLOT + DAY)


def test_a_slot_that_was_written_with_other_zones_is_run_as_it_is_written():
    written = SLOT + 30 * MINUTE
    assert due(NIGHTLY, written, written, "skip") == Due((written,), False, SLOT + DAY)
    assert due(NIGHTLY, written, SLOT + DAY, "all") == Due((written, SLOT + DAY), False, SLOT + 2 * DAY)


def test_both_passes_of_an_overlap_are_slots_of_their_own():
    times = cron("30 * * * *", "Europe/Berlin")
    first, second = ms("2026-10-25T02:30+02:00"), ms("2026-10-25T02:30+01:00")
    assert due(times, first, first, "all") == Due((first,), False, second)
    assert due(times, first, second, "all").run == (first, second)


def test_of_a_schedule_that_has_ended_what_is_written_runs_and_nothing_comes_behind_it():
    """Rules of zones change, and with them what an expression comes to: 2 o'clock is in the gap here, every time."""
    times = CronTimes("*/10 2 * 3 0L", "Europe/Berlin")
    assert due(times, SLOT, SLOT, "skip") == Due((SLOT,), False, None)
    assert due(times, SLOT, SLOT + DAY, "all") == Due((SLOT,), False, None)


SCHEDULES = st.one_of(
    st.builds(EveryTimes, st.integers(1_000, 100_000), st.integers(0, 100_000)),
    st.sampled_from(
        [
            CronTimes("*/7 * * * * *", "UTC"),
            CronTimes("*/10 * * * *", "Europe/Berlin"),
            CronTimes("30 2 * * *", "America/New_York"),
            CronTimes("*/15 1,2 * * *", "Australia/Lord_Howe"),
        ]
    ),
)


@given(SCHEDULES, st.integers(0, 2_000_000_000_000), st.integers(0, 40_000_000), st.sampled_from(POLICIES))
@settings(max_examples=200, deadline=None)
def test_what_is_due_is_what_a_walk_over_all_slots_finds(times: Times, start, late_ms, policy):
    slot = times.next_after(start)
    assert slot is not None
    now = slot + late_ms
    come = list(itertools.takewhile(lambda each: each <= now, itertools.accumulate(
        itertools.repeat(slot), lambda each, _: times.next_after(each)
    )))  # fmt: skip
    decided = due(times, slot, now, policy)
    assert decided.next_slot == times.next_after(come[-1]) > now
    if policy == "all" and len(come) <= MISFIRES_MAX:
        assert decided.run == tuple(come)
    elif policy == "skip" and now - come[-1] > MISFIRE_GRACE_MS:
        assert decided.run == ()
    else:
        assert decided.run == (come[-1],)
    assert decided.is_alarm == (policy == "all" and len(come) > MISFIRES_MAX)


@given(SCHEDULES, st.lists(st.integers(0, 5_000_000), min_size=1, max_size=20), st.sampled_from(POLICIES))
@settings(max_examples=200, deadline=None)
def test_no_slot_runs_twice_however_often_a_leader_looks(times: Times, pauses, policy):
    slot = times.next_after(1_780_000_000_000)
    now, runs = 1_780_000_000_000, []
    for pause in pauses:
        now += pause
        assert slot is not None
        decided = due(times, slot, now, policy)
        runs += decided.run
        slot = decided.next_slot
    assert runs == sorted(set(runs))
    assert all(run <= now for run in runs)
