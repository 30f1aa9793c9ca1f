"""The slots of cron expressions: the dialect, daylight saving, and a walk over every minute as the judge.

Sources: cron(8) and crontab(5) of Debian for the rules, the readme of cronsim for what it adds to the dialect.
"""

from bisect import bisect_right
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schedule_walk import Expression, around_the_change, expressions, ms, walked

from cluster.schedules.parsing import cron
from cluster.schedules.times import INSTANT_MS_MAX, SEARCH_YEARS_MAX, CronTimes

HOUR_S = 3_600
DAY_MS = 24 * HOUR_S * 1_000
SPRING_BERLIN = "2026-03-28T12:00+01:00"
AUTUMN_BERLIN = "2026-10-24T12:00+02:00"


def shown(times: CronTimes, start: str, count: int) -> list[str]:
    """The next slots, as the clocks of the zone show them, with their days and offsets."""
    zone = ZoneInfo(times.zone)
    moments = [datetime.fromtimestamp(slot // 1_000, zone) for slot in times.upcoming(ms(start), count)]
    return [moment.strftime("%m-%d %H:%M:%S%z" if moment.second else "%m-%d %H:%M%z") for moment in moments]


# Berlin 2026: 29 March 02:00 -> 03:00, 25 October 03:00 -> 02:00.
# New York 2026: 8 March 02:00 -> 03:00, 1 November 02:00 -> 01:00.
# Lord Howe 2026: 5 April 02:00 -> 01:30, 4 October 02:00 -> 02:30.
# Santiago 2026: 5 April 00:00 -> 23:00 of the 4th, 6 September 00:00 -> 01:00.
DAYLIGHT_SAVING = [
    # A fixed time in the gap runs at its end, once; the next day as ever.
    ("30 2 * * *", "Europe/Berlin", SPRING_BERLIN, ["03-29 03:00+0200", "03-30 02:30+0200"]),
    ("0,15,30 2 * * *", "Europe/Berlin", SPRING_BERLIN, ["03-29 03:00+0200", "03-30 02:00+0200"]),
    ("0,30 2,3 * * *", "Europe/Berlin", SPRING_BERLIN, ["03-29 03:00+0200", "03-29 03:30+0200", "03-30 02:00+0200"]),
    ("30 2 * * *", "America/New_York", "2026-03-07T12:00-05:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", ["10-04 02:30+1100", "10-05 02:15+1100"]),
    ("45 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", ["10-04 02:45+1100", "10-05 02:45+1100"]),
    ("0 0 * * *", "America/Santiago", "2026-09-05T12:00-04:00", ["09-06 01:00-0300", "09-07 00:00-0300"]),
    # A fixed time in the overlap runs in the first pass.
    ("30 2 * * *", "Europe/Berlin", AUTUMN_BERLIN, ["10-25 02:30+0200", "10-26 02:30+0100"]),
    ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:10+01:00", ["10-26 02:30+0100", "10-27 02:30+0100"]),
    ("30 2,3 * * *", "Europe/Berlin", "2026-10-25T02:10+01:00", ["10-25 03:30+0100", "10-26 02:30+0100"]),
    ("30 1 * * *", "America/New_York", "2026-10-31T12:00-04:00", ["11-01 01:30-0400", "11-02 01:30-0500"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00+11:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
    ("30 23 4 * *", "America/Santiago", "2026-04-01T12:00-03:00", ["04-04 23:30-0300", "05-04 23:30-0400"]),
    # By the clock: nothing in the gap is caught up with.
    (
        "*/30 * * * *", "Europe/Berlin", "2026-03-29T01:15+01:00",
        ["03-29 01:30+0100", "03-29 03:00+0200", "03-29 03:30+0200"],
    ),
    ("0 */2 * * *", "Europe/Berlin", "2026-03-29T00:30+01:00", ["03-29 04:00+0200", "03-29 06:00+0200"]),
    ("*/15 2 * * *", "America/New_York", "2026-03-07T02:40-05:00", ["03-07 02:45-0500", "03-09 02:00-0400"]),
    (
        "*/15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30",
        ["10-04 02:30+1100", "10-04 02:45+1100", "10-05 02:00+1100"],
    ),
    (
        "*/30 3 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30",
        ["10-04 03:00+1100", "10-04 03:30+1100", "10-05 03:00+1100"],
    ),
    # There is no such hour in 2026: these are of 2027.
    ("*/30 0 6 9 *", "America/Santiago", "2026-09-05T12:00-04:00", ["09-06 00:00-0300", "09-06 00:30-0300"]),
    # By the clock: both passes of the overlap.
    (
        "30 * * * *", "Europe/Berlin", "2026-10-25T02:00+02:00",
        ["10-25 02:30+0200", "10-25 02:30+0100", "10-25 03:30+0100"],
    ),
    (
        "*/30 2 * * *", "Europe/Berlin", AUTUMN_BERLIN,
        ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100"],
    ),
    (
        "0 */2 * * *", "Europe/Berlin", "2026-10-25T01:00+02:00",
        ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 04:00+0100"],
    ),
    (
        "30 * * * *", "America/New_York", "2026-11-01T01:00-04:00",
        ["11-01 01:30-0400", "11-01 01:30-0500", "11-01 02:30-0500"],
    ),
    (
        "*/15 1,2 * * *", "Australia/Lord_Howe", "2026-04-05T01:40+11:00",
        ["04-05 01:45+1100", "04-05 01:30+1030", "04-05 01:45+1030", "04-05 02:00+1030"],
    ),
    # Six fields keep the same rule, which goes by the minute and the hour.
    ("0 30 2 * * *", "Europe/Berlin", SPRING_BERLIN, ["03-29 03:00+0200", "03-30 02:30+0200"]),
    ("0 30 2 * * *", "Europe/Berlin", AUTUMN_BERLIN, ["10-25 02:30+0200", "10-26 02:30+0100"]),
    (
        "20,40 30 2 * * *", "Europe/Berlin", SPRING_BERLIN,
        ["03-29 03:00+0200", "03-30 02:30:20+0200", "03-30 02:30:40+0200"],
    ),
    (
        "30 */30 2 * * *", "Europe/Berlin", AUTUMN_BERLIN,
        ["10-25 02:00:30+0200", "10-25 02:30:30+0200", "10-25 02:00:30+0100"],
    ),
    # Where no clock jumps.
    ("30 2 * * *", "Asia/Seoul", "2026-03-28T12:00+09:00", ["03-29 02:30+0900", "03-30 02:30+0900"]),
    (
        "*/30 2 * * *", "Asia/Seoul", "2026-10-24T12:00+09:00",
        ["10-25 02:00+0900", "10-25 02:30+0900", "10-26 02:00+0900"],
    ),
    ("30 2 * * *", "UTC", "2026-10-24T12:00+00:00", ["10-25 02:30+0000", "10-26 02:30+0000"]),
]


@pytest.mark.parametrize(("expression", "zone", "start", "slots"), DAYLIGHT_SAVING)
def test_daylight_saving_follows_the_rule_of_debians_cron(expression, zone, start, slots):
    """cron(8): jobs that would have run in the time that was skipped run soon after the change, those in the repeated
    time are not run again; jobs with `*` in the hour or minute are run by the new time."""
    assert shown(cron(expression, zone), start, len(slots)) == slots


DIALECT = [
    ("0 21 * * MON-FRI", "Asia/Seoul", "2026-05-01T22:00+09:00", ["05-04 21:00+0900", "05-05 21:00+0900"]),
    ("0 0 21 * * 1-5", "Asia/Seoul", "2026-05-01T22:00+09:00", ["05-04 21:00+0900", "05-05 21:00+0900"]),
    (
        "*/20 0 0 * * *", "UTC", "2026-05-01T00:00:10+00:00",
        ["05-01 00:00:20+0000", "05-01 00:00:40+0000", "05-02 00:00+0000"],
    ),
    ("0 0 * * 0", "UTC", "2026-05-01T00:00+00:00", ["05-03 00:00+0000"]),
    ("0 0 * * 7", "UTC", "2026-05-01T00:00+00:00", ["05-03 00:00+0000"]),
    ("0 0 * * FRI-7", "UTC", "2026-05-01T00:00+00:00", ["05-02 00:00+0000", "05-03 00:00+0000", "05-08 00:00+0000"]),
    ("0 0 1 jan,mar *", "UTC", "2026-01-01T00:00+00:00", ["03-01 00:00+0000"]),
    ("0 0 L * *", "UTC", "2026-02-01T00:00+00:00", ["02-28 00:00+0000", "03-31 00:00+0000"]),
    ("0 0 LW * *", "UTC", "2026-02-01T00:00+00:00", ["02-27 00:00+0000", "03-31 00:00+0000"]),
    ("0 0 * * 5L", "UTC", "2026-05-01T00:00+00:00", ["05-29 00:00+0000"]),
    ("0 0 * * MON#2", "UTC", "2026-05-01T00:00+00:00", ["05-11 00:00+0000"]),
    ("5/20 0 * * *", "UTC", "2026-05-01T00:00+00:00", ["05-01 00:05+0000", "05-01 00:25+0000", "05-01 00:45+0000"]),
    # Both days restricted: one is enough. One that starts with `*`: both count.
    ("0 0 13 * FRI", "UTC", "2026-05-02T00:00+00:00", ["05-08 00:00+0000", "05-13 00:00+0000", "05-15 00:00+0000"]),
    ("0 0 */12 * FRI", "UTC", "2026-05-02T00:00+00:00", ["09-25 00:00+0000", "11-13 00:00+0000"]),
]


@pytest.mark.parametrize(("expression", "zone", "start", "slots"), DIALECT)
def test_the_dialect_is_that_of_crontab_with_seconds_in_front_and_a_few_more_days(expression, zone, start, slots):
    assert shown(cron(expression, zone), start, len(slots)) == slots


# Troll jumps by two hours, Casablanca goes back for Ramadan, Santiago
# and Cairo jump at midnight, Apia once left a whole day out.
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00+00:00"),
    ("Europe/Berlin", "2026-10-25T01:00+00:00"),
    ("America/New_York", "2026-03-08T07:00+00:00"),
    ("America/New_York", "2026-11-01T06:00+00:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30+00:00"),
    ("America/Santiago", "2026-04-05T03:00+00:00"),
    ("America/Santiago", "2026-09-06T04:00+00:00"),
    ("Africa/Cairo", "2026-04-23T22:00+00:00"),
    ("Africa/Casablanca", "2026-02-15T02:00+00:00"),
    ("Africa/Casablanca", "2026-03-22T02:00+00:00"),
    ("Antarctica/Troll", "2026-03-29T01:00+00:00"),
    ("Antarctica/Troll", "2026-10-25T01:00+00:00"),
    ("Pacific/Apia", "2011-12-30T10:00+00:00"),
    ("Asia/Seoul", "2026-03-29T01:00+00:00"),
]


def test_the_clocks_jump_where_the_changes_say():
    """Else the walks below would see nothing."""
    for zone, change in CHANGES[:-1]:
        before, after = (datetime.fromtimestamp(ms(change) // 1_000 - ago, ZoneInfo(zone)) for ago in (1, 0))
        assert before.utcoffset() != after.utcoffset(), zone


def found(expression: Expression, zone: str, start: int, end: int) -> list[int]:
    """The slots from one to the next, in seconds, `start` <= slot < `end`."""
    times = CronTimes(expression.text, zone)
    slots: list[int] = []
    slot = times.next_after(start * 1_000 - 1)
    while slot is not None and slot < end * 1_000:
        assert slot % 1_000 == 0
        slots.append(slot // 1_000)
        slot = times.next_after(slot)
    return slots


@given(around_the_change(), st.sampled_from(CHANGES), st.data())
@settings(max_examples=150, deadline=None)
def test_a_walk_over_all_minutes_of_a_change_finds_the_same_slots(expression, change, data):
    zone, moment = change
    start, end = ms(moment) // 1_000 - 6 * HOUR_S, ms(moment) // 1_000 + 6 * HOUR_S
    expected = walked(expression, zone, start, end)
    assert found(expression, zone, start, end) == expected
    # From anywhere, in the gap's hour and in both passes too: what is next does not depend on where one came from.
    times = CronTimes(expression.text, zone)
    for instant in data.draw(st.lists(st.integers(start * 1_000, end * 1_000 - 1), min_size=1, max_size=20)):
        following = bisect_right(expected, instant // 1_000)
        slot = times.next_after(instant)
        assert slot is None or slot > instant
        if following < len(expected):
            assert slot == expected[following] * 1_000
        else:
            assert slot is None or slot >= end * 1_000


@given(around_the_change(seconds=True), st.sampled_from(CHANGES), st.data())
@settings(max_examples=60, deadline=None)
def test_a_walk_over_all_seconds_of_a_change_finds_the_same_slots(expression, change, data):
    zone, moment = change
    start, end = ms(moment) // 1_000 - 3 * HOUR_S, ms(moment) // 1_000 + 3 * HOUR_S
    expected = walked(expression, zone, start, end)
    times = CronTimes(expression.text, zone)
    # Not from slot to slot: there may be 21,600 of them, most far from the change.
    near = st.integers(ms(moment) - HOUR_S * 1_000, ms(moment) + HOUR_S * 1_000)
    for instant in data.draw(st.lists(near, min_size=20, max_size=50)):
        following = bisect_right(expected, instant // 1_000)
        slot = times.next_after(instant)
        if following < len(expected):
            assert slot == expected[following] * 1_000
        else:
            assert slot is None or slot >= end * 1_000


@given(expressions(), st.sampled_from(["UTC", "Asia/Seoul", "Europe/Berlin"]), st.integers(0, 365))
@example(Expression(("0", frozenset({0})), ("0", frozenset({0})), ("*/10", frozenset({1, 11, 21, 31})),
                    ("*", frozenset(range(1, 13))), ("*", frozenset(range(7)))), "UTC", 50)
@settings(max_examples=100, deadline=None)
def test_a_walk_over_all_minutes_of_three_days_finds_the_same_slots(expression, zone, day):
    start = ms("2026-01-01T03:30+00:00") // 1_000 + day * 24 * HOUR_S
    end = start + 3 * 24 * HOUR_S
    assert found(expression, zone, start, end) == walked(expression, zone, start, end)


@given(expressions(), st.integers(0, 4 * 365))
@settings(max_examples=150, deadline=None)
def test_croniter_has_the_same_opinion_where_no_clock_jumps(expression, day):
    """With `implement_cron_bug`, croniter goes by the first character of the day fields as well."""
    start = ms("2026-01-01T00:00+00:00") + day * DAY_MS
    other = croniter(
        expression.text, datetime.fromtimestamp(start / 1_000, UTC), ret_type=datetime, implement_cron_bug=True,
        max_years_between_matches=SEARCH_YEARS_MAX,
    )  # fmt: skip
    slots = CronTimes(expression.text, "UTC").upcoming(start, 10)
    assert slots == [int(other.get_next(datetime).timestamp()) * 1_000 for _ in slots]


@given(expressions(), st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Seoul", "UTC"]), st.integers(0, 730))
@settings(max_examples=150, deadline=None)
def test_cronsim_with_a_zone_of_its_own_has_the_same_opinion_where_clocks_jump_by_an_hour(expression, zone, day):
    """From noon on: it begins in the first pass of an overlap, also when it is asked from the second."""
    start = ms("2026-01-01T12:00+00:00") + day * DAY_MS
    other = CronSim(expression.text, datetime.fromtimestamp(start // 1_000, ZoneInfo(zone)))
    slots = CronTimes(expression.text, zone).upcoming(start, 20)
    assert slots == [int(next(other).timestamp()) * 1_000 for _ in slots]


@given(
    st.one_of(expressions(), expressions(seconds=True)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Seoul", "Antarctica/Troll"]),
    st.integers(0, 4_000_000_000_000),
)
@settings(max_examples=200, deadline=None)
def test_slots_increase_strictly_and_a_preview_is_what_comes_one_by_one(expression, zone, instant):
    times = CronTimes(expression.text, zone)
    preview = times.upcoming(instant, 8)
    assert all(left < right for left, right in zip([instant, *preview], preview, strict=False))
    for slot in preview:
        assert times.next_after(instant) == slot
        assert times.next_after(slot - 1) == slot
        instant = slot


def test_an_instant_within_a_second_is_before_the_next_one():
    times = cron("* * * * * *", "UTC")
    assert [times.next_after(instant) for instant in (1_000, 1_001, 1_999, 2_000)] == [2_000, 2_000, 2_000, 3_000]
    assert times.next_after(-1) == 0


def test_forty_years_are_waited_for_and_behind_the_calendar_nothing_comes():
    times = cron("0 0 * 2 MON#5", "UTC")
    assert shown(times, "2073-01-01T00:00+00:00", 1) == ["02-29 00:00+0000"]
    slots = times.upcoming(ms("2020-01-01T00:00+00:00"), 4)
    assert [datetime.fromtimestamp(slot // 1_000, UTC).year for slot in slots] == [2044, 2072, 2112, 2140]
    assert times.next_after(INSTANT_MS_MAX - 1) is not None
    assert times.next_after(INSTANT_MS_MAX) is None
    assert times.upcoming(INSTANT_MS_MAX, 3) == []


def test_fixed_is_what_has_no_star_in_front_of_minute_and_hour():
    for expression in ("30 2 * * *", "0,30 2-4 * * *", "* 30 2 * * *", "0-59 0-23 * * *"):
        assert cron(expression, "UTC").is_fixed, expression
    for expression in ("* 2 * * *", "30 * * * *", "*/5 2 * * *", "30 */2 * * *", "0 30 * * * *"):
        assert not cron(expression, "UTC").is_fixed, expression
