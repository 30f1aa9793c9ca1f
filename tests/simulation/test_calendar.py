"""Schedules through days and years of virtual time: leaders are lost, clocks jump and change for summer, workers go."""

import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from cluster.simulation.calendar_scenario import YEAR_START_MS, Span, Year
from cluster.simulation.calendar_walk import DAY_MS, SCHEDULES, changes, walk
from cluster.simulation.planted_calendar import PlantedCalendar

ROOT = Path(__file__).resolve().parents[2]


def ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1_000)


# The nights in which clocks change: New York, Berlin and Lord Howe in spring, Lord Howe, Berlin and New York in autumn.
NIGHTS = {
    "march": Span(ms(2026, 3, 7), 2, 6),
    "april": Span(ms(2026, 3, 28), 8, 10),
    "october": Span(ms(2026, 10, 2), 3, 6),
    "november": Span(ms(2026, 10, 24), 9, 10),
}


@pytest.mark.parametrize("night", NIGHTS)
def test_each_slot_runs_once_around_the_nights_in_which_clocks_change(night):
    report = Year(1, NIGHTS[night]).run()
    assert report.violations == []
    assert report.fired >= 8 * NIGHTS[night].days and sum(report.faults.values()) >= 6
    assert report.elections >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_each_slot_of_a_year_runs_once(seed):
    report = Year(seed).run()
    assert report.violations == []
    assert report.fired >= 3_000 and report.elections >= 30
    assert len(report.faults) >= 10


def test_a_seed_is_one_course_in_every_interpreter():
    program = (
        "from cluster.simulation.calendar_scenario import Span, Year\n"
        f"report = Year(3, Span({ms(2026, 3, 28)}, 2, 8)).run()\n"
        "print(report.digest, report.fired, report.runs)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_slot_that_a_new_leader_forgets_is_noticed(seed):
    report = Year(seed, NIGHTS["november"], PlantedCalendar.FORGOTTEN_AT_FAILOVER).run()
    assert report.violations[0].oracle == "schedules" and "these run: []" in report.violations[0].detail


def test_slots_that_come_again_after_a_clock_has_jumped_are_noticed():
    found = [
        violation.detail
        for seed in (1, 3)
        for violation in Year(seed, Span(ms(2026, 10, 20), 12, 20), PlantedCalendar.FIRED_TWICE).run().violations
    ]
    assert any("it had not come" in detail for detail in found), "a leader writes down what has run"


def test_a_slot_that_became_two_tasks_is_noticed():
    year = Year(0, Span(days=1, incidents=0, near_one_in=1_000))
    calendar, version = year.calendar, 77
    calendar._names[version] = "noon"
    slot = year.slots["noon"].all[0]
    book = calendar.books["noon"]
    for task in (1, 2):
        book.next_ms, book.open_from = year.slots["noon"].after(slot), slot
        calendar.slotted(version, slot, 5, task)
        calendar._settle("noon")
    details = [violation.detail for violation in year.oracles.judge.violations]
    assert any("is task 1 and task 2" in detail for detail in details)
    with year.world:
        calendar.ran("noon", slot, 3)
        calendar.ran("noon", slot + 1, 4)
    details = [violation.detail for violation in year.oracles.judge.violations]
    assert any("none of its slots" in detail for detail in details)


# -- the oracle's calendar ----------------------------------------------------------------------------------------


def test_the_walk_agrees_with_croniter_where_clocks_do_not_change():
    start = YEAR_START_MS
    slots = walk(start, start + 60 * DAY_MS)
    for kept in SCHEDULES:
        spec = kept.spec
        if kept.rule is None:
            continue
        fields = spec.expression.split()
        # croniter has the seconds behind the others.
        expression = " ".join([*fields[1:], fields[0]] if len(fields) == 6 else fields)
        begin = datetime.fromtimestamp(start / 1_000 - 1, UTC)
        moments = croniter(expression, begin.astimezone(ZoneInfo(spec.zone)), ret_type=datetime)
        expected = [int(moment.timestamp() * 1_000) for moment in islice(moments, 12)]
        known = slots[spec.name].all[:12]
        assert known == expected[: len(known)] and len(known) >= 4, spec.name


def test_the_walk_knows_the_nights_in_which_clocks_change():
    start, end = YEAR_START_MS, YEAR_START_MS + 365 * DAY_MS
    nights = changes(start, end)
    assert [datetime.fromtimestamp(night / 1_000, UTC).strftime("%m-%d %H:%M") for night in nights] == [
        "03-08 07:00", "03-29 01:00", "04-04 15:00", "10-03 15:30", "10-25 01:00", "11-01 06:00",
    ]  # fmt: skip
    march = walk(ms(2026, 3, 28), ms(2026, 4, 6))
    around = [_text(slot) for slot in march["nightly"].between(ms(2026, 3, 28), ms(2026, 3, 31))]
    assert around == ["03-28 01:30", "03-29 01:00", "03-30 00:30"], "at the end of the gap"
    back = [_text(slot) for slot in march["tides"].between(ms(2026, 4, 4), ms(2026, 4, 5))]
    assert back == [
        "04-04 14:00", "04-04 14:15", "04-04 14:30", "04-04 14:45",
        "04-04 15:00", "04-04 15:15", "04-04 15:30", "04-04 15:45", "04-04 16:00", "04-04 16:15",
    ]  # fmt: skip


def _text(slot_ms: int) -> str:
    return f"{datetime.fromtimestamp(slot_ms / 1_000, UTC):%m-%d %H:%M}"
