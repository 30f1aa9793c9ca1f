"""Schedules of a whole cluster: one run for each slot, whatever becomes of leaders, clocks and workers."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from client_world import BROKERS
from schedule_world import MINUTE_MS, ScheduleWorld, cron, every, job, ms_of, other, utc

from actors import SECOND
from cluster.state.commands import Options
from cluster.state.schedule_rows import (
    ALARM_CROWDED,
    ALARM_MISSED,
    ALARM_NONE,
    SLOT_BUSY,
    SLOT_CROWDED,
    SLOT_MISSED,
    SLOT_RUNS,
    SLOT_WAITS,
)
from cluster.worker.process import drain

AT_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR_MS = 60 * MINUTE_MS
COMPLETED, CANCELLED = 0, 3


def tasks_by_slot(rig: ScheduleWorld) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for run in rig.attempts:
        found.setdefault(run.slot_ms, set()).add(run.task)
    return found


def assert_each_slot_ran_once(rig: ScheduleWorld, period_ms: int) -> None:
    by_slot = tasks_by_slot(rig)
    assert all(len(tasks) == 1 for tasks in by_slot.values()), "a slot became two tasks"
    assert all(later - earlier == period_ms for earlier, later in pairwise(sorted(by_slot))), "a slot is missing"


def overlap(rig: ScheduleWorld) -> bool:
    return any(second.begun < first.ended for first, second in pairwise(rig.attempts))


# -- leaders and clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["killed", "cut off", "stopped"])
@pytest.mark.parametrize("seed", range(2))
def test_each_slot_runs_once_while_one_leader_after_the_other_is_lost(seed, fate):
    rig = ScheduleWorld(every(1_000, misfire="all", on_busy="queue"), seed=seed, workers=2)
    world = rig.world
    rig.until_slots(2)
    for _ in range(5):
        leader = rig.leader
        process = rig.brokers[leader]
        if fate == "killed":
            world.crash(process)
        elif fate == "cut off":
            cuts = world.network.partition([[leader], [name for name in world.machines if name != leader]])
        else:
            world.pause(process)
        rig.until(lambda old=leader: rig.leader not in ("", old))
        count = len(rig.slots)
        rig.until_slots(count + 3)
        if fate == "killed":
            world.restart(process)
        elif fate == "cut off":
            world.network.mend(cuts)
        else:
            world.resume(process)
        rig.until_slots(count + 5)
    assert_each_slot_ran_once(rig, 1_000)
    assert rig.schedule().alarm == ALARM_NONE


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_that_jumps_moves_no_slot(jump_ms):
    rig = ScheduleWorld(every(1_000, misfire="all", on_busy="queue"))
    rig.until_slots(3)
    rig.world.machine(rig.leader).jump_wall_clock(jump_ms)
    rig.until_slots(8)
    rig.world.crash(rig.brokers[rig.leader])
    rig.until(lambda: rig.leader)
    rig.until_slots(12)
    assert_each_slot_ran_once(rig, 1_000)


def test_if_most_clocks_are_put_forward_the_next_leader_has_missed_what_lies_between():
    rig = ScheduleWorld(every(MINUTE_MS, misfire="once"), at=AT_NOON)
    rig.until_slots(1)
    rig.until_idle()
    for name in BROKERS:
        rig.world.machine(name).jump_wall_clock(HOUR_MS)
    rig.world.crash(rig.brokers[rig.leader])
    rig.until_slots(3)
    first, missed, third = rig.slots
    assert (missed - first, third - missed) == (HOUR_MS, MINUTE_MS)
    assert [slot.fate for slot in rig.history()][:3] == [COMPLETED, SLOT_MISSED, COMPLETED]


def test_if_most_clocks_are_put_forward_by_ten_years_one_run_stands_for_all_and_the_rest_goes_on():
    """And putting them right again is no second first of January: the cluster's time does not go back."""
    every_second = every(1_000, misfire="all", on_busy="queue")
    rig = ScheduleWorld(every_second, cron("0 0 1 1 *", "Europe/Berlin", name="yearly", of=other.name), at=AT_NOON)
    rig.until_slots(2)
    years_ms = 10 * 365 * 24 * HOUR_MS
    for name in BROKERS:
        rig.world.machine(name).jump_wall_clock(years_ms)
    rig.world.crash(rig.brokers[leader := rig.leader])
    rig.until(lambda: len([run for run in rig.attempts if run.name == job.name]) >= 6)
    assert rig.schedule().alarm == ALARM_MISSED
    for name in BROKERS:
        rig.world.machine(name).jump_wall_clock(-years_ms)
    rig.world.restart(rig.brokers[leader])
    rig.world.crash(rig.brokers[rig.leader])
    rig.until_slots(len(rig.slots) + 5)
    slots = [run.slot_ms for run in rig.attempts if run.name == job.name]
    gaps = [later - earlier for earlier, later in pairwise(slots)]
    assert len([gap for gap in gaps if gap != 1_000]) == 1 and max(gaps) > years_ms - HOUR_MS
    assert [run.slot_ms for run in rig.attempts if run.name == other.name] == [rig.history("yearly")[-1].slot_ms]


def test_clocks_that_are_put_back_run_no_slot_again():
    rig = ScheduleWorld(every(1_000), at=AT_NOON)
    rig.until_slots(3)
    for name in BROKERS:
        rig.world.machine(name).jump_wall_clock(-HOUR_MS)
    rig.world.crash(rig.brokers[rig.leader])
    rig.until_slots(6)
    assert rig.slots == sorted(set(rig.slots)) and all(len(tasks) == 1 for tasks in tasks_by_slot(rig).values())


# -- misfires ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "ran"),
    [
        ("skip", ["12:01:00", "12:08:00"]),
        ("once", ["12:01:00", "12:06:00", "12:08:00"]),
        ("all", ["12:01:00", "12:02:00", "12:04:00", "12:06:00", "12:08:00"]),
    ],
)
def test_what_becomes_of_slots_while_the_whole_cluster_is_down(misfire, ran):
    """Down until 12:07:30: the last slot is late by more than the grace."""
    rig = ScheduleWorld(cron("1,2,4,6,8 * * * *", misfire=misfire, on_busy="queue"), at=AT_NOON.replace(second=50))
    rig.until_slots(1)
    rig.until_idle()
    rig.stop_all_for(6 * MINUTE_MS + 30_000)
    rig.until(lambda: utc(rig.slots)[-1:] == ["12:08:00"])
    assert utc(rig.slots) == ran
    missed = [slot.slot_ms for slot in rig.history() if slot.fate == SLOT_MISSED]
    assert utc(missed) == ([] if misfire == "all" else ["12:02:00"])


def test_a_slot_that_is_late_by_less_than_the_grace_is_not_missed():
    rig = ScheduleWorld(cron("1,2 * * * *", misfire="skip"), at=AT_NOON.replace(second=50))
    rig.until_slots(1)
    rig.until_idle()
    rig.stop_all_for(MINUTE_MS + 40_000)
    rig.until_slots(2)
    assert utc(rig.slots) == ["12:01:00", "12:02:00"]


def test_more_missed_slots_than_are_run_one_by_one_become_one_run_and_an_alarm():
    rig = ScheduleWorld(every(1_000, misfire="all", on_busy="queue"))
    rig.until_slots(2)
    rig.stop_all_for(5 * MINUTE_MS)
    rig.until_slots(4)
    _, before, made_up, after = rig.slots
    assert made_up - before >= 5 * MINUTE_MS and after - made_up == 1_000
    assert rig.schedule().alarm == ALARM_MISSED


# -- workers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("misfire", "made_up"), [("once", 1), ("skip", 0)])
def test_nothing_fires_while_no_worker_announces_it_and_its_return_is_a_misfire(misfire, made_up):
    rig = ScheduleWorld(cron("*/2 * * * *", misfire=misfire), at=AT_NOON.replace(minute=1, second=50))
    rig.until_slots(1)
    rig.until_idle()
    rig.stop(["w1"])
    rig.until(lambda: rig.actor(rig.leader).machine.schedules.is_parked("job"))
    rig.stop_all_for(5 * MINUTE_MS, but="w1")
    rig.until(lambda: rig.leader)
    rig.world.run_for(5 * SECOND)
    assert len(rig.slots) == 1 and rig.history()[-1].fate == COMPLETED
    rig.start_again(["w1"])
    rig.until_slots(2 + made_up)
    assert utc(rig.slots) == ["12:02:00", *["12:06:00"][:made_up], "12:08:00"]


def test_a_worker_that_drains_parks_what_only_it_announces():
    rig = ScheduleWorld(every(1_000), workers=2)
    rig.announced = {"w1": (every(1_000, "one"),), "w2": (every(1_000, "two", of=other.name),)}
    rig.stop(["w1", "w2"])
    rig.start_again(["w1", "w2"])
    rig.until_slots(6)
    drain(rig.systems["w2"])
    rig.until(lambda: rig.actor(rig.leader).machine.schedules.is_parked("two"))
    count = len(rig.attempts)
    rig.until(lambda: len(rig.attempts) >= count + 5)
    assert {run.name for run in rig.attempts[count:]} == {job.name}
    assert not rig.actor(rig.leader).machine.schedules.is_parked("one")


def test_who_announces_a_schedule_and_does_not_serve_its_queue_does_not_keep_it_from_being_parked():
    rig = ScheduleWorld(every(1_000, options=Options(queue="reports")), workers=2)
    rig.queues["w2"] = ("reports",)
    rig.stop(["w2"])
    rig.until(lambda: rig.leader and "job" in rig.actor(rig.leader).machine.schedules.by_name)
    rig.world.run_for(3 * SECOND)
    assert rig.slots == [] and rig.actor(rig.leader).machine.schedules.is_parked("job")
    rig.start_again(["w2"])
    rig.until_slots(3)
    assert_each_slot_ran_once(rig, 1_000)


def test_a_lost_worker_is_no_reason_to_run_a_slot_as_another_task():
    rig = ScheduleWorld(every(1_000, misfire="all", on_busy="queue"), workers=2, slots=1)
    rig.work_ms = 400
    rig.until_slots(2)
    for name in ("w1", "w2", "w1"):
        rig.stop([name])
        rig.world.run_for(4 * SECOND)
        rig.start_again([name])
        rig.world.run_for(4 * SECOND)
    rig.until_slots(len(rig.slots) + 20)
    assert_each_slot_ran_once(rig, 1_000)


# -- terms -------------------------------------------------------------------------------------------------------


def test_the_last_announcement_counts_and_other_times_are_computed_anew():
    rig = ScheduleWorld(every(1_000), workers=2)
    rig.until_slots(2)
    rig.announced["w2"] = (every(5_000),)
    rig.stop(["w2"])
    rig.start_again(["w2"])
    rig.until(lambda: rig.schedule().spec.period_ms == 5_000)
    count = len(rig.slots)
    rig.until_slots(count + 3)
    later = rig.slots[count + 1 :]
    assert all(slot % 5_000 == 0 for slot in later) and later[1] - later[0] == 5_000


def test_other_options_at_the_same_times_leave_the_slot_that_is_owed():
    """The cluster stops over 21:00 for a deployment that changes a time limit."""
    rig = ScheduleWorld(cron("0 21 * * *", misfire="once"), at=datetime(2026, 1, 1, 20, 59, 30, tzinfo=UTC))
    rig.until_armed()
    changed = cron("0 21 * * *", misfire="once", options=Options(timeout_ms=5_000))
    rig.schedules = (changed,)
    rig.stop_all_for(10 * MINUTE_MS)
    rig.until_slots(1)
    assert utc(rig.slots) == ["21:00:00"] and rig.schedule().spec == changed


def test_a_schedule_that_cannot_be_computed_is_an_alarm_and_the_others_fire():
    wrong = (cron("0 0 * * *", "Mars/Olympus", "mars"), cron("61 * * * *", name="late"))
    rig = ScheduleWorld(every(1_000), *wrong)
    rig.until_slots(3)
    said = [fields for _, _, name, fields in rig.world.log if name == "schedule_failed"]
    assert {fields["schedule"]: str(fields["reason"]).partition(";")[0] for fields in said} == {
        "late": 'minute: "61" is not known',
        "mars": 'tz: "Mars/Olympus" is no time zone by its IANA name',
    }
    assert len(said) == 2
    assert all(rig.schedule(name).next_ms == 0 for name in ("mars", "late"))


# -- one at a time -----------------------------------------------------------------------------------------------


def test_busy_a_slot_is_skipped():
    rig = ScheduleWorld(every(5_000), at=AT_NOON)
    rig.work_ms = 12_000
    rig.until_slots(3)
    assert utc(rig.slots) == ["12:00:05", "12:00:20", "12:00:35"]
    fates = [(utc([slot.slot_ms])[0], slot.fate) for slot in rig.history()]
    assert fates[:3] == [("12:00:05", COMPLETED), ("12:00:10", SLOT_BUSY), ("12:00:15", SLOT_BUSY)]
    assert not overlap(rig)


def test_busy_slots_queue_up_and_run_in_order_one_at_a_time():
    rig = ScheduleWorld(every(2_000, on_busy="queue"), at=AT_NOON)
    rig.work_ms = 3_000
    rig.until_slots(6)
    assert_each_slot_ran_once(rig, 2_000)
    assert rig.slots == sorted(rig.slots) and not overlap(rig)
    assert len(rig.schedule().begun) == 1 and len(rig.schedule().waiting) >= 2
    assert {slot.fate for slot in rig.history()} >= {COMPLETED, SLOT_RUNS, SLOT_WAITS}


def test_busy_slots_beyond_what_may_wait_are_skipped_with_an_alarm(monkeypatch):
    monkeypatch.setattr("cluster.state.firing.WAITING_MAX", 3)
    rig = ScheduleWorld(every(1_000, on_busy="queue"), at=AT_NOON)
    rig.work_ms = 60_000
    rig.until(lambda: len(rig.history()) == 6)
    assert [slot.fate for slot in rig.history()] == [SLOT_RUNS, *[SLOT_WAITS] * 3, *[SLOT_CROWDED] * 2]
    assert rig.schedule().alarm == ALARM_CROWDED


def test_busy_only_the_newest_slot_waits():
    rig = ScheduleWorld(every(5_000, on_busy="wait"), at=AT_NOON)
    rig.work_ms = 12_000
    rig.until_slots(3)
    assert utc(rig.slots) == ["12:00:05", "12:00:15", "12:00:25"]
    assert [slot.fate for slot in rig.history()][:4] == [COMPLETED, CANCELLED, COMPLETED, CANCELLED]
    assert not overlap(rig)


def test_busy_the_run_is_asked_to_stop_and_replaced_when_it_has():
    rig = ScheduleWorld(every(5_000, on_busy="replace"), at=AT_NOON)
    rig.work_ms = 60_000
    rig.until_slots(4)
    assert utc(rig.slots) == ["12:00:05", "12:00:10", "12:00:15", "12:00:20"]
    # A run that returns when it is asked to is completed: it was quicker than its end.
    assert {slot.fate for slot in rig.history()[:3]} <= {COMPLETED, CANCELLED}
    assert not overlap(rig)


def test_a_run_that_does_not_heed_is_ended_after_its_grace_and_then_replaced():
    rig = ScheduleWorld(every(20_000, on_busy="replace"), at=AT_NOON)
    rig.work_ms, rig.heeds = 300_000, False
    rig.until_slots(2)
    first, second = rig.attempts
    assert utc(rig.slots) == ["12:00:20", "12:00:40"] and rig.history()[0].fate == CANCELLED
    assert 30 * SECOND < second.begun - first.begun < 33 * SECOND


def test_runs_overlap_if_they_may():
    rig = ScheduleWorld(every(1_000, exclusive=False), at=AT_NOON, slots=4)
    rig.work_ms = 3_500
    rig.until_slots(6)
    assert_each_slot_ran_once(rig, 1_000)
    assert overlap(rig) and len(rig.schedule().begun) >= 3


def test_one_run_at_a_time_is_also_said_of_those_that_outlive_their_leader():
    rig = ScheduleWorld(every(5_000, on_busy="queue"), at=AT_NOON, workers=2)
    rig.work_ms = 12_000
    rig.until_slots(1)
    for _ in range(3):
        count = len(rig.slots)
        rig.world.crash(rig.brokers[leader := rig.leader])
        rig.until(lambda: rig.leader)
        rig.world.restart(rig.brokers[leader])
        rig.until_slots(count + 1)
    assert not overlap(rig) and rig.slots == sorted(rig.slots)


# -- clocks of the wall ------------------------------------------------------------------------------------------


def test_the_night_in_which_clocks_go_back_has_one_half_past_two():
    """Berlin, 25 October 2026: 03:00+02:00 is 02:00+01:00."""
    rig = ScheduleWorld(cron("30 2 * * *", "Europe/Berlin"), at=datetime(2026, 10, 25, 0, 29, 50, tzinfo=UTC))
    rig.until_slots(1)
    assert utc(rig.slots) == ["00:30:00"]
    rig.stop_all_for(59 * MINUTE_MS)
    rig.until(lambda: rig.leader and rig.stamp_ms > ms_of(datetime(2026, 10, 25, 1, 30, 10, tzinfo=UTC)))
    assert utc(rig.slots) == ["00:30:00"], "it is half past two again, and that is no slot"
    assert rig.schedule().next_ms == ms_of(datetime(2026, 10, 26, 1, 30, tzinfo=UTC))


def test_the_night_without_half_past_two_runs_it_when_the_clocks_have_gone_forward():
    """Berlin, 29 March 2026: 02:00+01:00 is 03:00+02:00."""
    rig = ScheduleWorld(cron("30 2 * * *", "Europe/Berlin"), at=datetime(2026, 3, 29, 0, 59, 50, tzinfo=UTC))
    rig.until_slots(1)
    assert utc(rig.slots) == ["01:00:00"]
    rig.until(lambda: rig.schedule().next_ms == ms_of(datetime(2026, 3, 30, 0, 30, tzinfo=UTC)))


def test_every_minute_goes_on_while_the_clocks_go_back():
    rig = ScheduleWorld(cron("* * * * *", "Europe/Berlin"), at=datetime(2026, 10, 25, 0, 58, 50, tzinfo=UTC))
    rig.until_slots(3)
    assert utc(rig.slots) == ["00:59:00", "01:00:00", "01:01:00"]
