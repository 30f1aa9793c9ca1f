"""Schedules as users write them: what is wrong is refused where it is defined, with what would be right."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_walk import ms

from cluster import ClusterError, ScheduleError
from cluster.schedules.parsing import EXPRESSION_CHARACTERS_MAX, PERIOD_MS_MAX, cron, every
from cluster.schedules.times import CronTimes, EveryTimes


def refusal(expression: str, zone: str = "UTC") -> ScheduleError:
    with pytest.raises(ScheduleError) as caught:
        cron(expression, zone)
    return caught.value


def test_schedules_that_are_written_alike_are_equal():
    assert cron("  0 21 *  * mon-fri ", "Asia/Seoul") == CronTimes("0 21 * * MON-FRI", "Asia/Seoul")
    assert hash(cron("0 21 * * MON-FRI", "UTC")) == hash(cron("0 21 * * mon-Fri", "UTC"))
    assert cron("0 21 * * *", "Asia/Seoul") != cron("0 21 * * *", "Asia/Tokyo")
    assert every("15m") == every(900) == every(timedelta(minutes=15)) == EveryTimes(900_000)


UNKNOWN = [
    ("61 * * * *", "minute", "61"),
    ("* 24 * * *", "hour", "24"),
    ("* * 0 * *", "day-of-month", "0"),
    ("* * 32 * *", "day-of-month", "32"),
    ("* * * 13 *", "month", "13"),
    ("* * * FEBRUARY *", "month", "FEBRUARY"),
    ("* * * * 8", "day-of-week", "8"),
    ("* * * * MON-SOT", "day-of-week", "MON-SOT"),
    ("* * * * MON#6", "day-of-week", "MON#6"),
    ("* * ? * *", "day-of-month", "?"),
    ("60 * * * * *", "second", "60"),
    ("* 60 * * * *", "minute", "60"),
    ("1,2,x,60 * * * *", "minute", "X"),
    ("*/0 * * * *", "minute", "*/0"),
    ("1.5 * * * *", "minute", "1.5"),
    ("-5 * * * *", "minute", "-5"),
    ("٣ * * * *", "minute", "٣"),       # a digit, but none that cron knows
    ("* * * * L", "day-of-week", "L"),
]


@pytest.mark.parametrize(("expression", "place", "value"), UNKNOWN)
def test_an_unknown_value_is_refused_with_its_field_and_what_the_field_allows(expression, place, value):
    error = refusal(expression)
    assert (error.place, error.value) == (place, value)
    assert str(error).startswith(f'{place}: "{value}" is not known; allowed are ')
    assert error.allowed in str(error)


def test_what_a_field_allows_is_told_with_its_names():
    assert "0 to 59" in refusal("61 * * * *").allowed
    assert "JAN to DEC" in refusal("* * * 13 *").allowed
    assert "SUN to SAT" in refusal("* * * * 8").allowed
    assert "L (the last day)" in refusal("* * ? * *").allowed


@pytest.mark.parametrize(
    ("expression", "place", "message"),
    [
        ("0 22-5 * * *", "hour", '"22-5" ends before it begins; write two ranges, as in "22-23,0-5"'),
        ("0 0 * * FRI-SUN", "day-of-week", '"FRI-SUN" ends before it begins; .* Sunday at the end of a range is 7'),
        ("*/90 * * * *", "minute", r'"\*/90" is a step out of the field; 59 is the greatest one'),
        ("1,,2 * * * *", "minute", '"1,,2" has an empty part; allowed are 0 to 59'),
        ("0 0 L/2 * *", "day-of-month", '"L/2" is a step of a single day; write L'),
        ("5-5/10 * * * *", "minute", '"5-5/10" is a step of a single value; write 5, or 5/10 to go on from there'),
        ("0 0 * * MON-1/2", "day-of-week", '"MON-1/2" is a step of a single value'),
    ],
)
def test_what_would_be_read_as_something_else_is_refused_with_a_way_to_write_it(expression, place, message):
    error = refusal(expression)
    assert error.place == place
    with pytest.raises(ScheduleError, match=f"^{place}: {message}"):
        cron(expression, "UTC")


@pytest.mark.parametrize(("expression", "count"), [("", 0), ("@reboot", 1), ("* * * *", 4), ("0 0 12 * * ? 2026", 7)])
def test_a_wrong_number_of_fields_is_refused_with_their_names(expression, count):
    error = refusal(expression)
    assert (error.place, error.value) == ("cron", expression)
    assert f"has {count} field" in str(error)
    assert "minute, hour, day-of-month, month, day-of-week" in error.allowed


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@Midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        (" @yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_a_name_of_crontab_is_refused_with_the_expression_that_it_stands_for(name, same):
    """crontab(5) of Debian, the eight special strings; @reboot is no time."""
    error = refusal(name)
    assert str(error) == f'cron: "{name}" is a name that is not taken here; write "{same}"'
    assert cron(same, "UTC").expression == same


@pytest.mark.parametrize(
    "expression",
    ["0 0 31 2 *", "0 0 30,31 FEB *", "0 0 31 4,6,9,11 *", "* * */20 * 1L", "0 0 0 31 2 *", "0 0 31 2 */2"],
)
def test_a_day_that_never_comes_is_refused(expression):
    error = refusal(expression)
    assert (error.place, error.value) == ("cron", expression)
    assert "never comes" in str(error)


def test_a_time_that_is_always_in_a_gap_of_the_clocks_is_refused_only_where_it_is():
    """The last Sunday of March, by the clock: there is no hour from 2 to 3 in Berlin."""
    assert refusal("*/10 2 * 3 0L", "Europe/Berlin").place == "cron"
    assert refusal("* */10 2 * 3 0L", "Europe/Berlin").place == "cron"
    assert cron("*/10 2 * 3 0L", "Asia/Seoul")
    assert cron("30 2 * 3 0L", "Europe/Berlin").next_after(0) is not None       # fixed: at the end of the gap


def test_what_comes_once_in_decades_is_no_mistake():
    times = cron("0 0 29 2 *", "UTC")
    slots = times.upcoming(ms("2026-01-01T00:00+00:00"), 2)
    assert [datetime.fromtimestamp(slot // 1_000, UTC).year for slot in slots] == [2028, 2032]
    assert cron("0 0 * 2 MON#5", "UTC")
    assert cron("0 0 31 2 MON", "UTC")       # two restricted days: the Mondays of February


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Seoul", "Asia/Seoul"),
        ("new york", "America/New_York"),
        ("Europe/Berln", "Europe/Berlin"),
        ("Asia/Soul", "Asia/Seoul"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_one_that_was_meant(zone, hint):
    error = refusal("0 0 * * *", zone)
    assert (error.place, error.value, error.allowed) == ("tz", zone, f'did you mean "{hint}"?')


@pytest.mark.parametrize(
    "zone",
    ["", "KST", "+09:00", "UTC+9", "America", "../etc/passwd", "/etc/localtime", "right/Europe/Berlin", "posix/UTC",
     "localtime", "Factory", "posixrules", "zone.tab", "Europe/Berlin\0", "x" * 5_000, "\ud800"],
)  # fmt: skip
def test_what_is_no_zone_of_the_world_is_refused(zone):
    error = refusal("0 0 * * *", zone)
    assert (error.place, error.value) == ("tz", zone)
    assert len(str(error)) < 200


def test_an_expression_has_a_longest_length_and_an_error_shows_its_beginning():
    minutes = ",".join(["0"] * 123)
    assert len(f"{minutes} * * * *") < EXPRESSION_CHARACTERS_MAX
    assert cron(f"{minutes} * * * *", "UTC")
    error = refusal(f"{minutes},{minutes} * * * *")
    assert "is too long; at most 256 characters" in str(error) and len(str(error)) < 200
    assert error.value == f"{minutes},{minutes} * * * *"


@pytest.mark.parametrize(
    "period", [0, 0.5, "999ms", -5, "11000d", "soon", "", float("nan"), float("inf"), timedelta(0)]
)
def test_a_period_that_is_none_or_out_of_range_is_refused(period):
    with pytest.raises(ScheduleError, match=r'^every: ".*" is .*; allowed are 1 s to 3650 d') as caught:
        every(period)
    assert (caught.value.place, caught.value.value) == ("every", str(period))


def test_the_shortest_and_the_longest_period_are_taken():
    assert every("1s").period_ms == 1_000
    assert every(timedelta(milliseconds=PERIOD_MS_MAX)).period_ms == PERIOD_MS_MAX


def test_what_is_of_another_type_is_an_error_of_the_program():
    for wrong in (None, 5, b"* * * * *"):
        with pytest.raises(TypeError, match=r"^cron: expected text"):
            cron(wrong, "UTC")
        with pytest.raises(TypeError, match=r"^tz: expected text"):
            cron("* * * * *", wrong)
    with pytest.raises(TypeError, match=r"^every: "):
        every(None)


def test_a_wrong_schedule_is_a_value_error_and_one_of_the_cluster():
    assert issubclass(ScheduleError, ClusterError) and issubclass(ScheduleError, ValueError)


def test_a_zone_that_this_machine_does_not_know_is_an_error_when_it_is_asked():
    """A broker may be older than the client that defined the schedule."""
    times = CronTimes("0 0 * * *", "Mars/Olympus")
    with pytest.raises(ScheduleError, match="Mars/Olympus"):
        times.next_after(0)


PARTS = st.text(st.sampled_from("0123456789*/-,#LW?SUNMOTEFRIAJB .٣"), max_size=6)
TEXTS = st.one_of(st.text(max_size=40), st.lists(PARTS, min_size=4, max_size=7).map(" ".join))


@given(TEXTS, st.sampled_from(["UTC", "Europe/Berlin"]))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_schedule_that_comes_or_is_refused(expression, zone):
    try:
        times = cron(expression, zone)
    except ScheduleError as error:
        assert error.place and error.allowed
    else:
        slot = times.next_after(1_780_000_000_000)
        assert slot is not None and slot > 1_780_000_000_000
        assert cron(times.expression, zone) == times
