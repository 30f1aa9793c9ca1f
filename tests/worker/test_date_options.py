"""`at`: when a task is to run, by the clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cluster import TaskActor, task
from cluster.options import check_dates, merge_options
from cluster.state.commands import DATE_MS_MAX, Options

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = 1_772_366_400_000


def at(value: object) -> int:
    return merge_options(Options(), {"at": value}).at_ms


def test_a_date_is_a_moment_whatever_zone_it_is_written_in() -> None:
    assert at(NOON) == NOON_MS
    assert at(NOON.astimezone(timezone(timedelta(hours=9)))) == NOON_MS


def test_parts_of_a_millisecond_are_rounded_up_so_that_it_never_begins_before() -> None:
    assert at(NOON + timedelta(microseconds=1)) == NOON_MS + 1
    assert at(NOON - timedelta(microseconds=999)) == NOON_MS


def test_a_date_before_all_unix_time_is_right_away() -> None:
    assert at(datetime(1950, 1, 1, tzinfo=UTC)) == 0


def test_the_last_date_there_is_counts_to_its_last_whole_millisecond() -> None:
    """Rounded up it would be one of the year 10000, which brokers refuse."""
    assert at(datetime.max.replace(tzinfo=UTC)) == DATE_MS_MAX
    with pytest.raises(ValueError, match="expires: 1h is no longer than until at, which is 9999-12-31"):
        check_dates(merge_options(Options(), {"at": datetime.max.replace(tzinfo=UTC), "expires": "1h"}), NOON_MS)


def test_the_last_one_of_delay_and_date_counts() -> None:
    delayed = merge_options(Options(), {"delay": "5m"})
    dated = merge_options(delayed, {"at": NOON})
    assert (dated.delay_ms, dated.at_ms) == (0, NOON_MS)
    again = merge_options(dated, {"delay": "5m"})
    assert (again.delay_ms, again.at_ms) == (300_000, 0)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"at": datetime(2026, 3, 1, 12)}, ValueError, "at: 2026-03-01 12:00:00 has no time zone"),
        ({"at": "2026-03-01"}, TypeError, "at: expected a datetime with a time zone, not '2026-03-01'"),
        ({"at": 1.5}, TypeError, "at: expected a datetime"),
        ({"at": NOON, "delay": "1s"}, ValueError, "delay, at: both say when it may start"),
        ({"eta": NOON}, TypeError, 'did you mean "at"'),
    ],
)
def test_what_is_no_date_is_refused_by_name(given: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        merge_options(Options(), given)


def test_a_call_that_would_expire_before_its_date_is_refused_with_both() -> None:
    options = merge_options(Options(), {"at": NOON, "expires": "10m"})
    says = r"expires: 10m is no longer than until at, which is 2026-03-01 12:00:00\+00:00, in 10m: it would expire"
    with pytest.raises(ValueError, match=says):
        check_dates(options, NOON_MS - 600_000)
    check_dates(options, NOON_MS - 599_999)


@pytest.mark.parametrize("given", [
    {"at": NOON},
    {"expires": 1},
    {"at": datetime(1950, 1, 1, tzinfo=UTC), "expires": 1},
])
def test_a_date_that_is_over_and_one_without_expires_contradict_nothing(given: dict[str, object]) -> None:
    check_dates(merge_options(Options(), given), 0)


def test_a_definition_has_no_date() -> None:
    with pytest.raises(TypeError, match='"at" is no option of a definition'):

        @task(at=NOON)  # type: ignore[call-overload]
        def once() -> None: ...

    with pytest.raises(TypeError, match='"at" is no option of a definition'):

        class Once(TaskActor, at=NOON):  # type: ignore[call-arg]
            pass
