"""Schedules in the replicated state: a slot is decided once, and one run of an exclusive schedule is unfinished."""

import msgspec
import pytest
from image_rig import assert_equal, restore
from state_rig import EPOCH_MS, Client, Rig, Worker, outcome_of

from cluster.state import firing, schedules
from cluster.state.commands import (
    FIRE_SLOTS_MAX,
    GRACE_NONE,
    NEVER,
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    ROLE_CLIENT,
    ROLE_WORKER,
    STEER_DELETE,
    STEER_PAUSE,
    STEER_RESUME,
    STEER_RUN,
    TASK_NUMBER_BITS,
    WORKER_SCHEDULES_MAX,
    Arm,
    Command,
    Complete,
    Drain,
    Failure,
    Fire,
    LineRule,
    Options,
    Register,
    Replay,
    ScheduleSpec,
    Steer,
    WorkerSpec,
)
from cluster.state.effects import (
    ANSWER_ANNOUNCED,
    ANSWER_BUSY,
    ANSWER_CROWDED,
    ANSWER_NO_SCHEDULE,
    ANSWER_OK,
    ANSWER_PARKED,
    ANSWER_REFUSED,
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_EXPIRED,
    STATE_FAILED,
    Effects,
)
from cluster.state.schedule_rows import (
    ALARM_CROWDED,
    ALARM_MISSED,
    ALARM_NONE,
    HISTORY_SLOTS,
    SLOT_BUSY,
    SLOT_CROWDED,
    SLOT_MISSED,
    SLOT_PAUSED,
    SLOT_RUNS,
    SLOT_WAITS,
)
from cluster.state.schedules import Schedule

SECOND_MS = 1_000
CALL = b"\x92\x90\x80"


def spec(name: str = "s", **terms: object) -> ScheduleSpec:
    plain = ScheduleSpec(name, "f", "", "", SECOND_MS, 0, "once", "skip", True, CALL)
    return msgspec.structs.replace(plain, **terms)


def announce(rig: Rig, *specs: ScheduleSpec, name: str = "w1", incarnation: int = 1, **offer: object) -> Worker:
    """A worker of two slots comes."""
    offered = WorkerSpec(2, ("default",), ("f", "g"), 1, schedules=specs)
    session = rig.leader._tables.sessions.last_id + 1
    worker = rig.workers[session] = Worker(rig, name, incarnation)
    command = Register(name, incarnation, ROLE_WORKER, msgspec.structs.replace(offered, **offer))
    worker.session = rig.register(command).session
    return worker


def known(rig: Rig, name: str = "s") -> Schedule:
    return rig.leader.schedules.by_name[name]


def fire(rig: Rig, *slots: int, name: str = "s", after_ms: int = 0, **changes: object) -> Effects:
    """The leader's Fire for these slots, or for the next one; time passes up to the last."""
    schedule = known(rig, name)
    if schedule.next_ms == 0:
        rig.apply(Arm(name, schedule.version, rig.now_ms + SECOND_MS))
    last = max((*slots, schedule.next_ms))
    rig.now_ms = max(rig.now_ms, last)
    command = Fire(name, schedule.version, schedule.next_ms, list(slots or [last]), after_ms or last + SECOND_MS)
    return rig.apply(msgspec.structs.replace(command, **changes))


def fates(rig: Rig, name: str = "s") -> list[int]:
    return [slot.fate for slot in known(rig, name).history]


def steer(client: Client, what: int, name: str = "s") -> tuple[int, int]:
    answer = client.send(Steer(client.session, client.seq, client.seq, name, what))
    return answer.code, answer.value


# -- announcements -----------------------------------------------------------------------------------------------


def test_what_a_second_worker_announces_alike_changes_nothing(rig):
    announce(rig, spec())
    fire(rig)
    version, next_ms = known(rig).version, known(rig).next_ms
    announce(rig, spec(), name="w2")
    assert (known(rig).version, known(rig).next_ms) == (version, next_ms)
    assert rig.leader.schedules.announced == {"s": 2}


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        ({"options": Options(timeout_ms=5)}, True),
        ({"on_busy": "queue"}, True),
        ({"misfire": "all"}, True),
        ({"task": "g"}, True),
        ({"period_ms": 2_000}, False),
        ({"anchor_ms": 500}, False),
        ({"expression": "* * * * *", "zone": "UTC", "period_ms": 0}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_terms_replace_those_that_were_and_other_times_forget_the_next_slot(rig, change, keeps):
    announce(rig, spec())
    fire(rig)
    before, next_ms = known(rig).version, known(rig).next_ms
    announce(rig, spec(**change), name="w2")
    assert known(rig).spec == spec(**change) and known(rig).version > before
    assert known(rig).next_ms == (next_ms if keeps else 0)
    assert len(known(rig).history) == 1


INVALID = {
    "no name": spec(""),
    "long name": spec("n" * 513),
    "no task": spec(task=""),
    "short period": spec(period_ms=999),
    "no period": spec(period_ms=0),
    "endless period": spec(period_ms=1 << 60),
    "strange anchor": spec(anchor_ms=-(1 << 60)),
    "no zone": spec(expression="* * * * *"),
    "long expression": spec(expression="*" * 1_025, zone="UTC"),
    "unknown misfire": spec(misfire="sometimes"),
    "unknown on_busy": spec(on_busy=""),
    "no body": spec(body=b""),
    "large body": spec(body=b"x" * 1_025),
    "wrong options": spec(options=Options(priority=10)),
    "a key": spec(options=Options(key="k", actor="A")),
}


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID)
def test_a_worker_with_a_schedule_that_cannot_be_is_refused(rig, wrong):
    offer = WorkerSpec(1, ("default",), ("f",), 1, schedules=(spec(), wrong))
    (answer,) = rig.apply(Register("w1", 1, ROLE_WORKER, offer)).registered
    assert answer.code == ANSWER_REFUSED and not rig.leader.schedules.by_name


def test_a_worker_with_two_schedules_of_one_name_or_too_many_is_refused(rig):
    for specs in ((spec(), spec(period_ms=5_000)), tuple(spec(f"s{n}") for n in range(WORKER_SCHEDULES_MAX + 1))):
        offer = WorkerSpec(1, ("default",), ("f",), 1, schedules=specs)
        (answer,) = rig.apply(Register("w1", 1, ROLE_WORKER, offer)).registered
        assert answer.code == ANSWER_REFUSED


def test_schedules_beyond_what_the_cluster_keeps_are_left_out_and_counted(rig, monkeypatch):
    monkeypatch.setattr(schedules, "SCHEDULES_MAX", 3)
    announce(rig, *[spec(f"s{number}") for number in range(5)])
    assert sorted(rig.leader.schedules.by_name) == ["s0", "s1", "s2"]
    assert rig.leader.status()["counters"]["refused_schedules"] == 2
    assert "s4" in rig.effects.schedules, "the leader says so"


def test_a_schedule_is_parked_unless_a_live_worker_announces_it_and_may_run_it(rig):
    parked = rig.leader.schedules.is_parked
    needs = spec(options=Options(queue="reports", labels=("eu",)))
    first = announce(rig, needs)
    announce(rig, needs, name="w2", queues=("default", "reports"))
    announce(rig, needs, name="w3", labels=("eu",))
    assert parked("s")
    serving = announce(rig, needs, name="w4", queues=("reports",), labels=("us", "eu"))
    other = announce(rig, needs, name="w5", queues=("reports",), labels=("eu",))
    assert not parked("s") and rig.leader.schedules.announced == {"s": 2}
    rig.apply(Drain(serving.session, 1, 1))
    assert not parked("s")
    serving.expire()
    other.expire()
    assert parked("s") and known(rig).spec == needs
    first.expire()
    assert "s" in rig.leader.schedules.by_name


def test_whether_a_schedule_is_parked_is_said_by_its_present_terms(rig):
    """A worker of the last deployment serves the queue of yesterday: runs of today would pile up in another one."""
    old, client = announce(rig, spec()), rig.client()
    new = announce(rig, spec(options=Options(queue="reports")), name="w2", queues=("reports",))
    assert rig.leader.schedules.announced == {"s": 1}
    new.expire()
    assert rig.leader.schedules.is_parked("s") and steer(client, STEER_RUN) == (ANSWER_PARKED, 0)
    restored = restore(rig.leader.image())
    assert restored.schedules.announced == {} and "s" in restored.schedules.offers
    announce(rig, spec(), name="w3", queues=())
    assert rig.leader.schedules.announced == {"s": 1}, "w1 serves what it announced once again"
    old.expire()
    assert rig.leader.schedules.is_parked("s")


def test_a_schedule_that_was_left_out_comes_in_when_another_one_is_deleted(rig, monkeypatch):
    monkeypatch.setattr(schedules, "SCHEDULES_MAX", 2)
    client = rig.client()
    first = announce(rig, spec("a"), spec("b"))
    unserved = spec("c", options=Options(queue="other"))
    announce(rig, unserved, spec("e"), name="w2")
    announce(rig, spec("d"), spec("e", period_ms=7_000), name="w3")
    first.expire()
    restored = restore(rig.leader.image())
    assert steer(client, STEER_DELETE, "a") == (ANSWER_OK, 0)
    assert sorted(rig.leader.schedules.by_name) == ["b", "e"], "the first that somebody could run"
    assert known(rig, "e").spec.period_ms == 7_000 and known(rig, "e").passed_ms == rig.now_ms
    assert "e" in rig.effects.schedules
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)
    assert steer(client, STEER_DELETE, "b") == (ANSWER_OK, 0)
    assert sorted(rig.leader.schedules.by_name) == ["d", "e"]


def test_what_is_announced_without_being_served_is_deleted_for_good(rig):
    client = rig.client()
    announce(rig, spec(options=Options(queue="other")), spec("t"))
    assert steer(client, STEER_DELETE) == (ANSWER_OK, 0)
    assert sorted(rig.leader.schedules.by_name) == ["t"]


def test_live_workers_that_announce_other_terms_are_counted_and_another_task_is_an_alarm(rig):
    """Old and new code side by side is a deployment; two functions under one name are a mistake."""
    old = announce(rig, spec())
    assert rig.leader.schedules.disputes("s") == (0, "")
    announce(rig, spec(period_ms=7_000), name="w2")
    announce(rig, spec(period_ms=7_000), name="w3")
    assert rig.leader.schedules.disputes("s") == (1, "") and rig.leader.status()["schedules"]["alarms"] == 0
    other = announce(rig, spec(period_ms=7_000, task="g"), name="w4")
    assert rig.leader.schedules.disputes("s") == (3, "f") and rig.leader.status()["schedules"]["alarms"] == 1
    assert restore(rig.leader.image()).schedules.disputed == rig.leader.schedules.disputed == {"s": 3}
    other.expire()
    old.expire()
    assert rig.leader.schedules.disputes("s") == (2, "f"), "the last announcement counts, also when its worker is gone"
    announce(rig, spec(period_ms=7_000), name="w5")
    assert rig.leader.schedules.disputed == {} and rig.leader.status()["schedules"]["alarms"] == 0


def test_terms_that_many_workers_announce_are_one_object(rig):
    announce(rig, spec(), spec("t"))
    second = announce(rig, spec(), spec("t", period_ms=7_000), name="w2")
    worker = rig.leader.session(second.session).worker
    assert all(mine is known(rig, mine.name).spec for mine in worker.schedules)


# -- one decision for each slot ----------------------------------------------------------------------------------


def test_the_next_slot_is_written_once_and_never_before_what_was_decided(rig):
    announce(rig, spec())
    version = known(rig).version
    rig.apply(Arm("s", version + 1, 5), Arm("s", version - 1, 6), Arm("nobody", version, 7))
    assert known(rig).next_ms == 0
    rig.apply(Arm("s", version, EPOCH_MS + 1_000), Arm("s", version, EPOCH_MS + 9_000))
    assert known(rig).next_ms == EPOCH_MS + 1_000
    fire(rig)
    announce(rig, spec(period_ms=5_000), name="w2")
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    assert known(rig).next_ms == 0, "that slot has been decided"
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_001))
    assert known(rig).next_ms == EPOCH_MS + 1_001


def test_two_leaders_that_found_the_same_slot_due_fire_it_once(rig):
    worker = announce(rig, spec(exclusive=False))
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    rig.now_ms = EPOCH_MS + 1_500
    one = Fire("s", known(rig).version, EPOCH_MS + 1_000, [EPOCH_MS + 1_000], EPOCH_MS + 2_000)
    rig.apply(one, one)
    rig.apply(one)
    assert [assignment.slot_ms for assignment in worker.inbox] == [EPOCH_MS + 1_000]
    assert known(rig).next_ms == EPOCH_MS + 2_000


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 99},
        {"next_ms": EPOCH_MS + 999},
        {"slots": [EPOCH_MS + 1_000, EPOCH_MS + 1_000]},
        {"slots": [EPOCH_MS + 2_000, EPOCH_MS + 1_000]},
        {"slots": [EPOCH_MS + 999]},
        {"slots": [EPOCH_MS + 9_000]},
        {"slots": [EPOCH_MS + 1_000 + number for number in range(FIRE_SLOTS_MAX + 1)]},
        {"after_ms": EPOCH_MS + 1_000},
        {"after_ms": 0},
        {"name": "nobody"},
    ],
    ids=str,
)
def test_a_fire_that_is_not_about_the_present_slot_is_passed_over(rig, changes):
    worker = announce(rig, spec())
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    rig.now_ms = EPOCH_MS + 5_000
    right = Fire("s", known(rig).version, EPOCH_MS + 1_000, [EPOCH_MS + 1_000], EPOCH_MS + 6_000)
    effects = rig.apply(msgspec.structs.replace(right, **changes))
    assert worker.inbox == [] and known(rig).next_ms == EPOCH_MS + 1_000
    assert list(effects.schedules) == [changes.get("name", "s")], "the leader looks again"
    rig.apply(right)
    assert len(worker.inbox) == 1


def test_a_slot_before_the_stamp_only(rig):
    worker = announce(rig, spec())
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    rig.apply(Fire("s", known(rig).version, EPOCH_MS + 1_000, [EPOCH_MS + 1_000], EPOCH_MS + 2_000))
    assert worker.inbox == []


def test_what_is_parked_or_paused_does_not_fire_whatever_a_leader_says(rig):
    worker, client = announce(rig, spec()), rig.client()
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    command = Fire("s", known(rig).version, EPOCH_MS + 1_000, [EPOCH_MS + 1_000], EPOCH_MS + 9_000)
    steer(client, STEER_PAUSE)
    rig.now_ms = EPOCH_MS + 1_000
    rig.apply(command)
    assert steer(client, STEER_RESUME) == (ANSWER_OK, 0)
    assert fates(rig) == [SLOT_PAUSED] and known(rig).next_ms == 0
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 2_000))
    rig.now_ms = EPOCH_MS + 2_000
    worker.expire()
    rig.apply(msgspec.structs.replace(command, next_ms=EPOCH_MS + 2_000, slots=[EPOCH_MS + 2_000]))
    assert fates(rig) == [SLOT_PAUSED] and known(rig).next_ms == EPOCH_MS + 2_000


def test_a_slot_that_has_come_is_owed_under_other_times_as_well(rig):
    """It is decided with the new terms, whose own slots count from when they were announced."""
    worker = announce(rig, spec(exclusive=False))
    slot = EPOCH_MS + 1_000
    rig.apply(Arm("s", known(rig).version, slot))
    rig.now_ms = changed_ms = slot + 500
    announce(rig, spec(exclusive=False, period_ms=7_000), name="w2", queues=("other",))
    assert known(rig).next_ms == slot and fates(rig) == []
    rig.now_ms += 10_000
    right = Fire("s", known(rig).version, slot, [slot], changed_ms + 1)
    for wrong in ({"slots": [slot, slot + 1]}, {"slots": [changed_ms + 1]}, {"after_ms": changed_ms}):
        rig.apply(msgspec.structs.replace(right, **wrong))
        assert known(rig).next_ms == slot and worker.inbox == []
    assert_equal(restore(rig.leader.image()), rig.leader)
    rig.apply(right)
    assert [run.slot_ms for run in worker.inbox] == [slot]
    assert (known(rig).next_ms, known(rig).passed_ms) == (changed_ms + 1, changed_ms)
    fire(rig, changed_ms + 1, changed_ms + 7_001)
    assert len(worker.inbox) + len(fates(rig)) == 5, "now it is as any other"


@pytest.mark.parametrize("slots", [1, 0])
def test_what_came_before_a_pause_is_owed_and_what_came_in_it_is_skipped(rig, slots):
    client = rig.client()
    announce(rig, spec(exclusive=False))
    slot = EPOCH_MS + 1_000
    rig.apply(Arm("s", known(rig).version, slot))
    rig.now_ms = paused_ms = slot + 5_000
    assert steer(client, STEER_PAUSE) == (ANSWER_OK, 0)
    rig.now_ms += 5_000
    steer(client, STEER_PAUSE)
    rig.now_ms = resumed_ms = slot + 20_000
    assert_equal(restore(rig.leader.image()), rig.leader)
    steer(client, STEER_RESUME)
    assert fates(rig) == [] and known(rig).next_ms == slot
    right = Fire("s", known(rig).version, slot, [paused_ms][:slots], resumed_ms + 1)
    for wrong in ({"slots": [paused_ms + 1]}, {"after_ms": resumed_ms}):
        rig.apply(msgspec.structs.replace(right, **wrong))
        assert fates(rig) == []
    rig.apply(right)
    assert fates(rig) == [SLOT_MISSED, SLOT_RUNS][: slots + 1]
    assert (known(rig).next_ms, known(rig).passed_ms) == (resumed_ms + 1, resumed_ms)


def test_of_two_pauses_before_anybody_has_fired_all_between_them_is_skipped(rig):
    """What nobody knows is not kept as a list of any length."""
    client = rig.client()
    announce(rig, spec())
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 1_000))
    for _ in range(2):
        rig.now_ms += 2_000
        steer(client, STEER_PAUSE)
        rig.now_ms += 2_000
        steer(client, STEER_RESUME)
    assert (known(rig).owed_ms, known(rig).since_ms) == (EPOCH_MS + 2_000, EPOCH_MS + 8_000)


def test_a_next_slot_that_nobody_had_written_before_a_pause_is_one_before_or_behind_it(rig):
    client = rig.client()
    announce(rig, spec(), spec("t"))
    rig.now_ms = EPOCH_MS + 5_000
    for name in ("s", "t"):
        steer(client, STEER_PAUSE, name)
    rig.now_ms = EPOCH_MS + 9_000
    for name in ("s", "t"):
        steer(client, STEER_RESUME, name)
        rig.apply(Arm(name, known(rig, name).version, EPOCH_MS + 5_001))
        rig.apply(Arm(name, known(rig, name).version, EPOCH_MS + 9_000))
        assert known(rig, name).next_ms == 0
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 5_000))
    rig.apply(Arm("t", known(rig, "t").version, EPOCH_MS + 9_001))
    assert (known(rig).next_ms, known(rig).since_ms) == (EPOCH_MS + 5_000, EPOCH_MS + 9_000)
    assert (known(rig, "t").next_ms, known(rig, "t").since_ms) == (EPOCH_MS + 9_001, 0)


def test_other_times_in_a_pause_change_nothing_of_what_came_in_it(rig):
    client = rig.client()
    announce(rig, spec())
    rig.apply(Arm("s", known(rig).version, EPOCH_MS + 2_000))
    rig.now_ms = EPOCH_MS + 1_000
    steer(client, STEER_PAUSE)
    rig.now_ms = EPOCH_MS + 3_000
    announce(rig, spec(period_ms=7_000), name="w2")
    rig.now_ms = EPOCH_MS + 4_000
    steer(client, STEER_RESUME)
    assert fates(rig) == [SLOT_PAUSED]
    assert (known(rig).next_ms, known(rig).passed_ms, known(rig).since_ms) == (0, rig.now_ms, 0)


def test_a_slot_that_is_not_among_those_that_run_was_missed(rig):
    worker = announce(rig, spec(exclusive=False))
    first = EPOCH_MS + 1_000
    rig.apply(Arm("s", known(rig).version, first))
    fire(rig, first + 2_000, first + 3_000, is_alarm=True)
    assert fates(rig) == [SLOT_MISSED, SLOT_RUNS, SLOT_RUNS]
    assert [assignment.slot_ms for assignment in worker.inbox] == [first + 2_000, first + 3_000]
    assert (known(rig).alarm, known(rig).alarm_ms) == (ALARM_MISSED, rig.now_ms)
    fire(rig, slots=[], after_ms=NEVER)
    assert fates(rig)[-1] == SLOT_MISSED and known(rig).next_ms == NEVER


def test_the_history_has_the_last_slots(rig):
    worker = announce(rig, spec())
    for _ in range(HISTORY_SLOTS + 5):
        fire(rig)
        worker.complete(*worker.inbox)
    history = known(rig).history
    assert len(history) == HISTORY_SLOTS and all(slot.fate == STATE_COMPLETED for slot in history)
    assert [slot.task & 0xFF for slot in history] == list(range(6, HISTORY_SLOTS + 6))
    assert all(slot.ended_ms == slot.slot_ms for slot in history)


# -- runs --------------------------------------------------------------------------------------------------------


def test_runs_have_ids_of_a_session_that_is_nobodys(rig):
    worker = announce(rig, spec())
    before = rig.client("c1").session
    fire(rig)
    after = rig.client("c2").session
    (run,) = worker.inbox
    assert run.task >> TASK_NUMBER_BITS == before + 1 and after == before + 2
    assert rig.leader.session(before + 1) is None
    assert run.body == CALL and run.name == "f"


def test_when_the_numbers_of_that_session_are_used_up_there_is_another(rig):
    worker = announce(rig, spec(exclusive=False))
    fire(rig)
    for machine in (rig.leader, rig.follower):
        machine.schedules.number = schedules.RUN_NUMBER_MAX
    fire(rig)
    first, second = worker.tasks()
    assert second >> TASK_NUMBER_BITS > first >> TASK_NUMBER_BITS and second & 0xFFFFFF == 1
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED, STATE_COMPLETED]
    assert_equal(restore(rig.leader.image()), rig.leader)


def test_sessions_of_runs_of_which_no_task_is_left_are_forgotten(rig, monkeypatch):
    monkeypatch.setattr(firing, "RUN_NUMBER_MAX", 1)
    worker = announce(rig, spec(options=Options(result_ttl_ms=5_000)))
    for _ in range(20):
        fire(rig)
        worker.complete(*worker.inbox)
    left = {task.id >> TASK_NUMBER_BITS for task in rig.leader._tables.tasks.in_order()}
    sessions = rig.leader.schedules.sessions.keys()
    assert 2 <= len(left) <= len(sessions) < 10 and left <= sessions
    assert_equal(restore(rig.leader.image()), rig.leader)


def test_the_slot_travels_with_every_attempt_and_with_no_other_task(rig):
    client, worker = rig.client(), announce(rig, spec(options=Options(retries=1, queue="default")))
    fire(rig)
    slot_ms = known(rig).history[0].slot_ms
    (run,) = worker.inbox
    assert rig.leader.held_by(worker.session) == [run] and run.slot_ms == slot_ms
    failed = msgspec.structs.replace(outcome_of(run, OUTCOME_FAILED), error=Failure("E", "", kinds=("E",)))
    worker.report(failed)
    rig.pass_time(60_000)
    (again,) = worker.inbox
    assert (again.task, again.attempt, again.slot_ms) == (run.task, 2, slot_ms)
    client.submit()
    assert worker.inbox[-1].slot_ms == 0


def test_a_run_is_kept_and_forgotten_as_any_task(rig):
    worker = announce(rig, spec(options=Options(result_ttl_ms=5_000)))
    fire(rig)
    (run,) = worker.inbox
    worker.complete(run)
    assert rig.leader.state_of(run.task) == "completed"
    rig.pass_time(10_000)
    assert rig.leader.state_of(run.task) is None and fates(rig) == [STATE_COMPLETED]


# -- one at a time -----------------------------------------------------------------------------------------------


def test_an_end_makes_room_for_a_slot_in_the_same_entry(rig):
    worker = announce(rig, spec())
    fire(rig)
    (run,) = worker.inbox
    schedule = known(rig)
    rig.now_ms = schedule.next_ms
    rig.apply(
        Complete(worker.session, 1, 1, [outcome_of(run, OUTCOME_COMPLETED)]),
        Fire("s", schedule.version, schedule.next_ms, [schedule.next_ms], schedule.next_ms + 1_000),
    )
    assert fates(rig) == [STATE_COMPLETED, SLOT_RUNS]


def test_a_run_that_waits_for_its_retry_or_its_delay_is_unfinished(rig):
    worker = announce(rig, spec(options=Options(retries=1, delay_ms=10_000)))
    fire(rig)
    fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_BUSY] and worker.inbox == []
    rig.pass_time(10_000)
    failed = outcome_of(worker.inbox[0], OUTCOME_FAILED)
    worker.report(msgspec.structs.replace(failed, error=Failure("E", "", kinds=("E",))))
    fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_BUSY, SLOT_BUSY]


def test_runs_queue_up_to_a_limit_and_begin_in_order(rig, monkeypatch):
    monkeypatch.setattr(firing, "WAITING_MAX", 2)
    worker = announce(rig, spec(on_busy="queue"))
    for _ in range(4):
        fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_WAITS, SLOT_WAITS, SLOT_CROWDED]
    assert known(rig).alarm == ALARM_CROWDED
    assert rig.queue()["delayed"] == 2 and len(worker.inbox) == 1
    for expected in ([STATE_COMPLETED, SLOT_RUNS, SLOT_WAITS], [STATE_COMPLETED, STATE_COMPLETED, SLOT_RUNS]):
        worker.complete(*worker.inbox)
        assert fates(rig)[:3] == expected and len(worker.inbox) == 1
    assert rig.queue()["delayed"] == 0


def test_only_the_newest_waits_and_the_one_before_it_is_cancelled(rig):
    worker = announce(rig, spec(on_busy="wait"))
    for _ in range(3):
        fire(rig)
    assert fates(rig) == [SLOT_RUNS, STATE_CANCELLED, SLOT_WAITS]
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED, STATE_CANCELLED, SLOT_RUNS]


def test_what_runs_is_asked_to_stop_and_the_newest_begins_when_it_has(rig):
    worker = announce(rig, spec(on_busy="replace"))
    fire(rig)
    (run,) = worker.inbox
    effects = fire(rig)
    assert effects.cancelled == {worker.session: [(run.task, 1, firing.REPLACE_GRACE_MS)]}
    effects = fire(rig)
    assert effects.cancelled == {}, "it has been asked"
    assert fates(rig) == [SLOT_RUNS, STATE_CANCELLED, SLOT_WAITS]
    worker.end(run, OUTCOME_CANCELLED)
    assert fates(rig) == [STATE_CANCELLED, STATE_CANCELLED, SLOT_RUNS]
    assert len(worker.inbox) == 1


def test_what_has_not_begun_anywhere_is_replaced_within_the_entry(rig):
    worker, client = announce(rig, spec(on_busy="replace")), rig.client()
    client.submit(count=2)
    fire(rig)
    fire(rig)
    assert fates(rig) == [STATE_CANCELLED, SLOT_RUNS]
    worker.complete(*worker.inbox)
    assert [run.slot_ms for run in worker.inbox] == [known(rig).history[1].slot_ms]


def test_a_run_that_waits_can_be_cancelled_and_expires(rig):
    worker, client = announce(rig, spec(on_busy="queue", options=Options(expires_ms=3_500))), rig.client()
    for _ in range(4):
        fire(rig)
    _, second, third, _ = known(rig).history
    client.cancel(second.task)
    assert fates(rig) == [SLOT_RUNS, STATE_CANCELLED, SLOT_WAITS, SLOT_WAITS]
    rig.pass_time(2_500)
    assert fates(rig) == [SLOT_RUNS, STATE_CANCELLED, STATE_EXPIRED, SLOT_WAITS]
    worker.complete(*worker.inbox)
    assert fates(rig)[3] == SLOT_RUNS and rig.leader.state_of(third.task) == "expired"


def test_a_delay_begins_when_a_run_may_begin(rig):
    worker = announce(rig, spec(on_busy="queue", options=Options(delay_ms=5_000)))
    fire(rig)
    rig.pass_time(5_000)
    fire(rig)
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED, SLOT_RUNS] and worker.inbox == []
    rig.pass_time(5_000)
    assert len(worker.inbox) == 1


def test_waiting_runs_begin_together_once_they_may_overlap(rig):
    worker = announce(rig, spec(on_busy="queue"))
    for _ in range(3):
        fire(rig)
    announce(rig, spec(on_busy="queue", exclusive=False), name="w2")
    assert fates(rig) == [SLOT_RUNS] * 3
    assert len(worker.inbox) + sum(len(one.inbox) for one in rig.workers.values() if one.name == "w2") == 3


def test_runs_that_may_overlap_are_bounded(rig, monkeypatch):
    monkeypatch.setattr(firing, "RUNS_MAX", 3)
    announce(rig, spec(exclusive=False))
    for _ in range(4):
        fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_RUNS, SLOT_RUNS, SLOT_CROWDED] and known(rig).alarm == ALARM_CROWDED


def test_a_lost_run_is_the_same_run(rig):
    worker = announce(rig, spec())
    announce(rig, spec(), name="w2")
    fire(rig)
    holder = next(one for one in rig.workers.values() if one.inbox)
    (run,) = holder.inbox
    holder.expire()
    fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_BUSY]
    (other,) = [one for one in rig.workers.values() if one.inbox]
    assert other.inbox[0].task == run.task and other is not holder
    other.complete(*other.inbox)
    assert fates(rig) == [STATE_COMPLETED, SLOT_BUSY] and worker.name == "w1"


def test_nothing_of_a_schedule_begins_while_it_is_parked(rig):
    worker, client = announce(rig, spec(on_busy="queue")), rig.client()
    fire(rig)
    fire(rig)
    first = worker.tasks()[0]
    rig.apply(Drain(worker.session, 1, 1))
    worker.seq = 2
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED, SLOT_WAITS] and rig.leader.state_of(first) == "completed"
    back = announce(rig, spec(on_busy="queue"), name="w2")
    assert fates(rig) == [STATE_COMPLETED, SLOT_RUNS] and len(back.inbox) == 1
    assert client.seq == 1


def test_a_run_that_is_not_counted_breaks_an_invariant(rig):
    announce(rig, spec())
    fire(rig)
    schedule, by_task = known(rig), rig.leader.schedules.by_task
    (task,) = schedule.begun
    del schedule.begun[task], by_task[task]
    with pytest.raises(AssertionError, match="a run of s is not counted"):
        rig.leader.check()
    schedule.begun[task], by_task[task] = None, schedule
    rig.leader.check()


# -- replays -----------------------------------------------------------------------------------------------------


def test_a_replayed_run_counts_as_unfinished(rig):
    worker, client = announce(rig, spec()), rig.client()
    fire(rig)
    worker.end(worker.inbox[0], OUTCOME_FAILED)
    task = known(rig).history[0].task
    assert fates(rig) == [STATE_FAILED] and client.replay(task) == 1
    assert fates(rig) == [SLOT_RUNS]
    fire(rig)
    assert fates(rig) == [SLOT_RUNS, SLOT_BUSY]
    worker.complete(*worker.inbox)
    fire(rig)
    assert fates(rig) == [STATE_COMPLETED, SLOT_BUSY, SLOT_RUNS]


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_run_is_replayed_beside_another_only_if_they_may_overlap(rig, exclusive):
    worker, client = announce(rig, spec(exclusive=exclusive)), rig.client()
    fire(rig)
    (first,) = worker.inbox
    worker.end(first, OUTCOME_FAILED)
    fire(rig)
    assert client.replay(first.task) == (not exclusive)
    assert fates(rig) == [STATE_FAILED if exclusive else SLOT_RUNS, SLOT_RUNS]
    if exclusive:
        worker.complete(*worker.inbox)
        assert client.replay(first.task) == 1


def test_a_run_that_ends_and_is_replayed_in_one_entry_is_unfinished(rig):
    worker, client = announce(rig, spec()), rig.client()
    fire(rig)
    (run,) = worker.inbox
    rig.apply(
        Complete(worker.session, 1, 1, [outcome_of(run, OUTCOME_FAILED)]),
        Replay(client.session, 1, 1, [run.task]),
    )
    assert fates(rig) == [SLOT_RUNS] and known(rig).begun == {run.task: None}


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_run_whose_schedule_was_deleted_is_not_replayed_until_somebody_announces_that(rig, exclusive):
    """Nobody would count it: with the next slot of one that is announced again there would be two."""
    worker, client = announce(rig, spec(exclusive=exclusive)), rig.client()
    for _ in range(2):
        fire(rig)
        worker.end(worker.inbox[0], OUTCOME_FAILED)
    first, second = (slot.task for slot in known(rig).history)
    worker.expire()
    assert steer(client, STEER_DELETE) == (ANSWER_OK, 0)
    assert client.replay(first, second) == 0
    announce(rig, spec(), name="w2")
    assert client.replay(first, second) == 1
    fire(rig)
    assert known(rig).begun == {first: None} and fates(rig) == [SLOT_BUSY]


def test_a_run_may_be_replayed_in_the_entry_in_which_the_other_one_ends(rig):
    worker, client = announce(rig, spec()), rig.client()
    fire(rig)
    (failed,) = worker.inbox
    worker.end(failed, OUTCOME_FAILED)
    fire(rig)
    (run,) = worker.inbox
    rig.apply(
        Complete(worker.session, worker.seq, 1, [outcome_of(run, OUTCOME_COMPLETED)]),
        Replay(client.session, client.seq, 1, [failed.task]),
    )
    assert fates(rig) == [SLOT_RUNS, STATE_COMPLETED] and known(rig).begun == {failed.task: None}


# -- operators ---------------------------------------------------------------------------------------------------


def test_a_run_now_is_answered_with_its_task_and_said_again_it_is_the_same(rig):
    worker, client = announce(rig, spec()), rig.client()
    command = Steer(client.session, 1, 1, "s", STEER_RUN)
    (answer,) = rig.apply(command).answers
    (again,) = rig.apply(command).answers
    assert answer == again and answer.value == worker.tasks()[0]
    (slot,) = known(rig).history
    assert slot.is_manual and slot.slot_ms == rig.now_ms and len(worker.inbox) == 1


def test_a_run_now_obeys_what_is_said_of_busy_ones(rig, monkeypatch):
    monkeypatch.setattr(firing, "WAITING_MAX", 1)
    client = rig.client()
    announce(rig, spec(), spec("q", on_busy="queue"), spec("r", on_busy="replace"))
    for name in ("s", "q", "r"):
        assert steer(client, STEER_RUN, name)[0] == ANSWER_OK
    first = known(rig).history[0].task
    assert steer(client, STEER_RUN) == (ANSWER_BUSY, first) and len(known(rig).history) == 1
    assert steer(client, STEER_RUN, "q")[0] == ANSWER_OK
    assert steer(client, STEER_RUN, "q") == (ANSWER_CROWDED, 2)
    assert steer(client, STEER_RUN, "r")[0] == ANSWER_OK
    assert fates(rig, "q") == [SLOT_RUNS, SLOT_WAITS] and SLOT_BUSY not in fates(rig, "r")
    assert known(rig, "q").alarm == ALARM_NONE, "somebody was told"


def test_a_run_now_of_what_is_paused_runs_and_of_what_is_parked_does_not(rig):
    worker, client = announce(rig, spec()), rig.client()
    steer(client, STEER_PAUSE)
    assert steer(client, STEER_RUN)[0] == ANSWER_OK and len(worker.inbox) == 1
    worker.expire()
    assert steer(client, STEER_RUN) == (ANSWER_PARKED, 0)


@pytest.mark.parametrize("on_busy", ["queue", "wait", "replace"])
def test_a_run_now_of_what_is_paused_does_not_wait_for_those_that_the_pause_holds(rig, on_busy):
    """Nobody would know why the run that he has asked for does not begin until somebody says resume."""
    worker, client = announce(rig, spec(on_busy=on_busy)), rig.client()
    fire(rig)
    fire(rig)
    steer(client, STEER_PAUSE)
    worker.complete(*worker.inbox)
    assert worker.inbox == [] and len(known(rig).waiting) == 1
    code, task = steer(client, STEER_RUN)
    assert code == ANSWER_OK and [run.task for run in worker.inbox] == [task]
    waiting = [STATE_CANCELLED if on_busy != "queue" else SLOT_WAITS]
    assert fates(rig)[1:] == [*waiting, SLOT_RUNS]
    again = steer(client, STEER_RUN)[1]
    assert again in known(rig).waiting, "but it waits for one that runs"
    steer(client, STEER_RESUME)
    for _ in range(3):
        worker.complete(*worker.inbox)
    assert known(rig).begun == known(rig).waiting == {}


@pytest.mark.parametrize("on_busy", ["queue", "skip"])
def test_a_run_now_of_what_is_paused_is_not_refused_for_those_that_the_pause_holds(rig, on_busy, monkeypatch):
    """Also if no more may wait, or if none would by the terms of today."""
    monkeypatch.setattr(firing, "WAITING_MAX", 1)
    worker, client = announce(rig, spec(on_busy="queue")), rig.client()
    fire(rig)
    fire(rig)
    steer(client, STEER_PAUSE)
    worker.complete(*worker.inbox)
    announce(rig, spec(on_busy=on_busy), name="w2", queues=())
    code, task = steer(client, STEER_RUN)
    assert code == ANSWER_OK and worker.tasks() == [task]
    assert fates(rig) == [STATE_COMPLETED, SLOT_WAITS, SLOT_RUNS]
    refused = {"queue": (ANSWER_CROWDED, 2), "skip": (ANSWER_BUSY, task)}
    assert steer(client, STEER_RUN) == refused[on_busy], "what runs does hold up"


def test_resume_takes_the_alarm_away_and_skips_nothing_of_what_was_not_paused(rig):
    client = rig.client()
    announce(rig, spec())
    fire(rig, is_alarm=True)
    rig.now_ms += 5_000
    next_ms = known(rig).next_ms
    assert steer(client, STEER_RESUME) == (ANSWER_OK, 0)
    assert (known(rig).alarm, known(rig).next_ms) == (ALARM_NONE, next_ms)


def test_what_is_announced_or_unfinished_is_not_deleted(rig):
    worker, client = announce(rig, spec(), spec("idle")), rig.client()
    fire(rig)
    (run,) = worker.inbox
    assert steer(client, STEER_DELETE) == steer(client, STEER_DELETE, "idle") == (ANSWER_ANNOUNCED, 0)
    worker.expire()
    assert steer(client, STEER_DELETE) == (ANSWER_BUSY, run.task)
    assert steer(client, STEER_DELETE, "idle") == (ANSWER_OK, 0)
    client.cancel(run.task, grace_ms=GRACE_NONE)
    version = known(rig).version
    assert steer(client, STEER_DELETE) == (ANSWER_OK, 0)
    assert rig.leader.schedules.by_name == {} == rig.leader.schedules.by_task
    announce(rig, spec(), name="w2")
    assert known(rig).version > version, "what was decided of the one that was deleted means nothing to this one"
    assert client.replay(run.task) == 1


def test_what_nobody_knows_or_asks_for_is_refused(rig):
    client = rig.client()
    announce(rig, spec())
    assert steer(client, STEER_RUN, "nobody") == (ANSWER_NO_SCHEDULE, 0)
    assert steer(client, 77) == (ANSWER_REFUSED, 0)


def test_a_worker_may_not_steer(rig):
    worker = announce(rig, spec())
    (answer,) = rig.apply(Steer(worker.session, 1, 1, "s", STEER_RUN)).answers
    assert answer.code == ANSWER_REFUSED and not known(rig).begun


def test_the_status_counts_schedules_by_what_they_do(rig):
    client = rig.client()
    worker = announce(rig, spec("a"), spec("b"), spec("c"), name="w1")
    announce(rig, spec("d"), name="w2").expire()
    steer(client, STEER_PAUSE, "b")
    fire(rig, name="a", is_alarm=True)
    assert rig.leader.status()["schedules"] == {"active": 2, "paused": 1, "parked": 1, "alarms": 1}
    worker.expire()
    assert rig.leader.status()["schedules"] == {"active": 0, "paused": 1, "parked": 3, "alarms": 1}


# -- limits ------------------------------------------------------------------------------------------------------


def with_line(**line: object) -> Options:
    return Options(line=LineRule(**line))


def test_runs_that_may_overlap_keep_to_the_concurrency_of_their_task(rig):
    worker = announce(rig, spec(exclusive=False, options=with_line(concurrency=1)))
    runs: list[int] = []
    for _ in range(3):
        fire(rig)
        runs.append(known(rig).history[-1].task)
    assert fates(rig) == [SLOT_RUNS] * 3, "for the schedule they have begun, and wait for the limit"
    for run in runs:
        assert worker.tasks() == [run]
        worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED] * 3
    assert not rig.leader._tables.limits.by_name and not rig.leader._tables.lines.bundles


def test_runs_are_starts_of_a_rate_and_those_of_a_client_count_as_well(rig):
    options = with_line(limit="smtp", starts=2, period_ms=60_000)
    worker, client = announce(rig, spec(exclusive=False, options=options)), rig.client()
    fire(rig)
    client.submit(count=2, line=options.line)
    fire(rig)
    assert len(worker.inbox) == 2, "a run and one of the client's"
    worker.complete(*worker.inbox)
    assert worker.inbox == []
    rig.pass_time(60_000)
    assert len(worker.inbox) == 2


def test_runs_of_schedules_with_a_share_take_turns_with_a_backlog(rig):
    client = rig.client()
    backlog = client.submit(count=6, line=LineRule("many"))
    announce(rig, spec(exclusive=False, options=with_line(share="nightly")), slots=1)
    fire(rig)
    (worker,) = rig.workers.values()
    run = known(rig).history[-1].task
    order: list[int] = []
    while worker.inbox:
        order += worker.tasks()
        worker.complete(*worker.inbox)
    assert order.index(run) <= 2 and sorted(order) == sorted([*backlog, run])


def test_a_run_that_waits_for_another_one_is_under_the_limit_when_it_is_let_go(rig):
    line = LineRule(limit="l", concurrency=1)
    worker = announce(rig, spec(on_busy="queue", options=Options(line=line)))
    client = rig.client()
    fire(rig)
    fire(rig)
    first, second = (slot.task for slot in known(rig).history)
    (other,) = client.submit("g", line=line)
    assert worker.tasks() == [first] and fates(rig) == [SLOT_RUNS, SLOT_WAITS]
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED, SLOT_RUNS]
    order: list[int] = []
    while worker.inbox:
        assert len(worker.inbox) == 1, "of a worker with two slots"
        order += worker.tasks()
        worker.complete(*worker.inbox)
    assert sorted(order) == sorted([other, second])


def test_a_run_that_was_cancelled_while_a_limit_held_it_back_leaves_nothing_and_may_be_replayed(rig):
    client = rig.client()
    worker = announce(rig, spec(options=with_line(concurrency=1)))
    (holder,) = client.submit(line=LineRule(concurrency=1))
    fire(rig)
    run = known(rig).history[-1].task
    assert worker.tasks() == [holder] and rig.leader.state_of(run) == "pending"
    client.cancel(run)
    assert fates(rig) == [STATE_CANCELLED] and known(rig).begun == {}
    assert client.replay(run) == 1 and list(known(rig).begun) == [run]
    worker.complete(*worker.inbox)
    assert worker.tasks() == [run]
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED] and not rig.leader._tables.limits.by_name


# -- keys of work ------------------------------------------------------------------------------------------------


def test_a_run_whose_key_is_taken_ends_at_once_as_a_duplicate(rig):
    worker, client = announce(rig, spec(exclusive=False, options=Options(dedup="k"))), rig.client()
    (first,) = client.submit(dedup="k")
    fire(rig)
    run = known(rig).history[-1].task
    assert worker.tasks() == [first] and rig.leader.state_of(run) == "duplicate"
    assert fates(rig) == [STATE_COMPLETED] and not known(rig).begun and not rig.leader.schedules.by_task
    worker.complete(*worker.inbox)
    fire(rig)
    run = known(rig).history[-1].task
    assert worker.tasks() == [run] and rig.leader.details(run).schedule == "s"
    assert rig.leader.details(client.submit(dedup="k")[0]).duplicate_of == run


def test_runs_with_a_window_are_one_in_that_time(rig):
    worker = announce(rig, spec(options=Options(dedup="k", dedup_ms=2_500)))
    ran: list[int] = []
    for _ in range(6):
        fire(rig)
        ran.append(len(worker.inbox))
        worker.complete(*worker.inbox)
    assert ran == [1, 0, 0, 1, 0, 0] and fates(rig) == [STATE_COMPLETED] * 6


def test_a_run_that_waits_for_another_one_has_its_key_meanwhile(rig):
    worker = announce(rig, spec(on_busy="queue", options=Options(dedup="k", dedup_ms=100)))
    fire(rig)
    fire(rig)
    first, second = (slot.task for slot in known(rig).history)
    assert rig.leader.details(second).duplicate_of == first and not known(rig).waiting
    worker.complete(*worker.inbox)
    assert fates(rig) == [STATE_COMPLETED] * 2


# -- others ------------------------------------------------------------------------------------------------------


def test_ends_of_other_tasks_are_not_looked_at(rig):
    """Only tasks of the session of runs are noted, and none of those that a client submitted."""
    worker, client = announce(rig, spec()), rig.client()
    client.submit(count=2)
    worker.complete(*worker.inbox)
    assert rig.leader.schedules.sessions == {} and rig.leader.schedules.freed == []


def test_a_machine_that_is_restored_knows_what_runs_waits_and_has_run(rig):
    client = rig.client()
    worker = announce(rig, spec(on_busy="queue"), spec("gone"), spec("paused"))
    for _ in range(4):
        fire(rig)
    steer(client, STEER_PAUSE, "paused")
    announce(rig, spec("gone", period_ms=7_000), name="w2").expire()
    worker.complete(*worker.inbox)
    restored = restore(rig.leader.image())
    restored.check()
    assert_equal(restored, rig.leader)
    assert restored.schedules.announced == rig.leader.schedules.announced
    worker.complete(*worker.inbox)
    restored.apply(len(rig.log), 1, rig.log[-1], None)
    assert_equal(restored, rig.leader)
    assert [slot.fate for slot in restored.schedules.by_name["s"].history] == [0, 0, SLOT_RUNS, SLOT_WAITS]


def test_entries_of_schedules_change_nothing_for_who_is_no_worker(rig):
    commands: list[Command] = [Arm("s", 1, 5), Fire("s", 1, 5, [5], 6), Register("c1", 1, ROLE_CLIENT)]
    rig.apply(*commands)
    assert rig.leader.schedules.by_name == {}
