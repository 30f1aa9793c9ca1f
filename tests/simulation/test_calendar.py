"""Schedules through days and years of virtual time: leaders are lost, clocks jump and change for summer, workers go."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from cluster.simulation.calendar_books import Armed, Slotted
from cluster.simulation.calendar_scenario import YEAR_START_MS, Span, Year
from cluster.simulation.calendar_walk import DAY_MS, OTHERS, SCHEDULES, changes, walk, walk_others
from cluster.simulation.planted_calendar import PlantedCalendar
from cluster.state.effects import STATE_CANCELLED, Effects, TaskResult
from cluster.state.schedule_rows import SLOT_RUNS, SLOT_WAITS

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
    span = Span(ms(2026, 10, 20), 12, 20, kinds=("clocks_jumped", "leader_killed"))
    found = [
        violation.detail
        for seed in (3, 4)
        for violation in Year(seed, span, PlantedCalendar.FIRED_TWICE).run().violations
    ]
    assert any("it had not come" in detail for detail in found), "a leader writes down what has run"


def test_a_slot_that_became_two_tasks_is_noticed():
    year = Year(0, Span(days=1, incidents=0, near_one_in=1_000))
    calendar, runs, announced = year.calendar, year.calendar.runs, frozenset(year.slots)
    slot = year.slots["noon"].all[0]
    book = calendar.books["noon"]
    for task in (1, 2):
        book.next_ms = slot
        calendar.follow(
            [Armed("noon", year.slots["noon"].after(slot)), Slotted("noon", slot, SLOT_RUNS, task)], [], announced
        )
    details = [violation.detail for violation in year.oracles.judge.violations]
    assert any("is task 1 and task 2" in detail for detail in details)
    with year.world:
        runs.began("a child", "noon", slot + 1, 1, 1)
        runs.began("another child", "noon", slot, 3, 1)
    details = [violation.detail for violation in year.oracles.judge.violations if violation.oracle == "overlap"]
    assert any("task 1 runs for" in detail for detail in details), "for a slot that is not its own"
    assert any("task 3 runs for" in detail for detail in details), "and nobody has made it"


# -- runs -------------------------------------------------------------------------------------------------------------

# In these days runs of four schedules take longer than what is between their slots.
DAYS = Span(ms(2026, 5, 1), 3, 6)
CALM = replace(DAYS, incidents=0)
PAUSED = replace(DAYS, incidents=12, kinds=("schedule_paused", "run_now"))
PARKED = replace(DAYS, incidents=12, kinds=("workers_lost",))
REDEPLOYED = replace(DAYS, days=4, incidents=16, kinds=("redeployed", "workers_lost"))

FOUND = {
    PlantedCalendar.RUNS_FORGOTTEN: (DAYS, "runs", "has fate 5, and unfinished are"),
    PlantedCalendar.RUNS_CANCELLED: (DAYS, "runs", "nothing accounts for the end of the run"),
    PlantedCalendar.ALWAYS_BUSY: (DAYS, "runs", "has fate 7, and unfinished are []"),
    PlantedCalendar.NOT_REPLACED: (CALM, "runs", "a newer run takes the place of"),
    PlantedCalendar.ALL_WAIT: (DAYS, "runs", "a newer run takes the place of"),
    PlantedCalendar.LAST_FIRST: (DAYS, "overlap", "and it is the turn of"),
    PlantedCalendar.PAUSE_IGNORED: (PAUSED, "schedules", "is fired, and it is paused"),
    PlantedCalendar.PARKING_IGNORED: (PARKED, "schedules", "is fired, and nobody announces it"),
    PlantedCalendar.OLD_TIMES_KEPT: (REDEPLOYED, "schedules", "said was 0"),
    PlantedCalendar.OWED_FORGOTTEN: (REDEPLOYED, "schedules", "next is 0, said was"),
    PlantedCalendar.RUN_TWICE: (PAUSED, "schedules", "and it was not fired"),
    PlantedCalendar.RUN_REFUSED: (PAUSED, "runs", "a run was asked for and refused"),
}


def found(planted, span, seed, muted=()):
    """What the oracles say first."""
    year = Year(seed, span, planted)
    year.oracles.judge.muted.update(muted)
    return [(violation.oracle, violation.detail) for violation in year.run().violations]


@pytest.mark.parametrize(
    "span", [DAYS, PAUSED, PARKED, REDEPLOYED], ids=["days", "paused", "parked", "redeployed"]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_said_of_days_without_a_bug(span, seed):
    assert found(None, span, seed) == []


@pytest.mark.parametrize("seed", [3, 4])
def test_schedules_are_judged_by_the_terms_that_were_announced_last(seed):
    """With everything else that holds up the slots of the terms before."""
    kinds = ("redeployed", "workers_lost", "schedule_paused", "leader_killed", "run_now", "all_down")
    report = Year(seed, replace(DAYS, days=4, incidents=30, kinds=kinds)).run()
    assert report.violations == [] and report.changed >= 6


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("planted", FOUND)
def test_what_the_state_makes_of_a_slot_is_judged(planted, seed):
    span, oracle, detail = FOUND[planted]
    assert any(named == oracle and detail in said for named, said in found(planted, span, seed))


def test_children_that_run_beside_each_other_are_noticed_by_what_they_do_alone():
    said = found(PlantedCalendar.RUNS_FORGOTTEN, DAYS, 1, ("schedules", "runs"))
    assert said[0][0] == "overlap" and "begins attempt 1 beside" in said[0][1]


@pytest.mark.parametrize(
    ("planted", "detail"),
    [
        (PlantedCalendar.PAUSE_IGNORED, "begins, and the schedule is paused or parked"),
        (PlantedCalendar.PARKING_IGNORED, "begins, and the schedule is paused or parked"),
    ],
)
def test_what_waits_and_begins_although_it_is_held_is_noticed(planted, detail):
    span = FOUND[planted][0]
    assert any(detail in said for seed in range(4) for _, said in found(planted, span, seed, ("schedules",)))


def test_an_attempt_at_a_lost_worker_may_run_beside_the_next_one():
    year = Year(0, Span(days=1, incidents=0, near_one_in=1_000))
    runs, state, judge = year.calendar.runs, year.oracles.state, year.oracles.judge
    slot = year.slots["noon"].all[0]
    runs.decided("noon", slot, SLOT_RUNS, 1, is_manual=False)
    for attempt, session in ((1, 7), (2, 8), (3, 9)):
        state._given[1, attempt] = session
    effects = Effects()
    effects.ended = [7, 8]
    runs.entry(effects, closed=[8])
    with year.world:
        runs.began("a child", "noon", slot, 1, 1)
        runs.began("another child", "noon", slot, 1, 2)
        assert judge.violations == [] and runs.overlaps == 1
        runs.began("a third child", "noon", slot, 1, 3)
    (violation,) = judge.violations
    assert "1 begins attempt 3 beside" in violation.detail and "attempt=2" in violation.detail


@pytest.mark.parametrize(("waited_ms", "is_right"), [(40_000, True), (39_999, False)])
def test_a_run_that_was_to_make_way_may_run_beside_the_next_one_when_its_worker_has_said_nothing(waited_ms, is_right):
    year = Year(0, Span(days=1, incidents=0, near_one_in=1_000))
    runs, state, judge = year.calendar.runs, year.oracles.state, year.oracles.judge
    tables, slots = state.reference._tables, year.slots["newest"].all
    tables.now_ms = slots[0]
    runs.decided("newest", slots[0], SLOT_RUNS, 1, is_manual=False)
    state._given[1, 1], state._given[2, 1] = 7, 8
    with year.world:
        runs.began("a child", "newest", slots[0], 1, 1)
    runs.decided("newest", slots[1], SLOT_WAITS, 2, is_manual=False)
    tables.now_ms += waited_ms
    effects = Effects()
    effects.withdrawn[7] = [(1, 1)]
    effects.results[1] = [TaskResult(1, STATE_CANCELLED, 1, b"")]
    runs.entry(effects, closed=[])
    runs.settle("newest", is_held=False)
    with year.world:
        runs.began("another child", "newest", slots[1], 2, 1)
    assert runs.overlaps == 1
    assert [violation.oracle for violation in judge.violations] == ([] if is_right else ["runs"])


# -- the oracle's calendar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("walked", "schedules"), [(walk, SCHEDULES), (walk_others, OTHERS)], ids=["first", "others"])
def test_the_walk_agrees_with_croniter_where_clocks_do_not_change(walked, schedules):
    start = YEAR_START_MS
    slots = walked(start, start + 60 * DAY_MS)
    for kept in schedules:
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
