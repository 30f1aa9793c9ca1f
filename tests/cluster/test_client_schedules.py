"""What operators see of schedules and do to them, from a client."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from client_world import BROKERS, pause
from schedule_world import MINUTE_MS, ScheduleWorld, cron, every, other, utc

from actors import SECOND, Ports
from cluster import Client, ScheduleInfo, ScheduleNotFound, ScheduleRefused, TaskCancelled
from cluster.state.commands import Options

AT_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def listed(cluster: Client, *args: Any, **kwargs: Any) -> list[ScheduleInfo]:
    return [info async for info in cluster.schedules(*args, **kwargs)]


# -- to look -----------------------------------------------------------------------------------------------------


def test_a_list_has_each_schedule_with_its_times_and_its_next_five_slots_in_its_zone():
    seoul = cron("0 21 * * MON-FRI", "Asia/Seoul", "nightly", options=Options(queue="reports"))
    rig = ScheduleWorld(seoul, every(15 * MINUTE_MS, "tidy", exclusive=False), at=AT_NOON)
    rig.until_armed("tidy")

    async def user(cluster: Client, ports: Ports) -> Any:
        return await listed(cluster)

    nightly, tidy = rig.run(user)
    assert (nightly.name, nightly.task, nightly.times, nightly.zone) == (
        "nightly", "world:job", "0 21 * * MON-FRI", "Asia/Seoul",
    )  # fmt: skip
    assert (nightly.queue, nightly.exclusive, nightly.misfire, nightly.on_busy) == ("reports", True, "once", "skip")
    assert nightly.state == "parked" and nightly.next_slot is None and nightly.last is None
    assert nightly.parked_why == "no live worker announces it and serves queue reports"
    zone = ZoneInfo("Asia/Seoul")
    assert [slot.isoformat() for slot in nightly.upcoming[:2]] == [
        "2026-01-02T21:00:00+09:00", "2026-01-05T21:00:00+09:00",
    ]  # fmt: skip
    assert all(slot.tzinfo == zone for slot in nightly.upcoming)
    assert (tidy.times, tidy.zone, tidy.on_busy, tidy.state) == ("every 15m", None, None, "active")
    assert tidy.next_slot == tidy.upcoming[0] == AT_NOON.replace(minute=15)
    assert len(tidy.upcoming) == 5 and tidy.alarm == ""


def test_lists_are_paged_and_cut_by_prefix_and_limit():
    specs = [every(MINUTE_MS, f"{kind}-{number:03}") for kind in ("a", "b") for number in range(60)]
    rig = ScheduleWorld(*specs)
    rig.until_armed("b-059")

    async def user(cluster: Client, ports: Ports) -> Any:
        return (
            [info.name for info in await listed(cluster)],
            [info.name for info in await listed(cluster, "b-01")],
            [info.name for info in await listed(cluster, limit=40)],
            [info.name for info in await listed(cluster, "b", stale=True)],
        )

    everything, some, first, old = rig.run(user)
    names = [spec.name for spec in specs]
    assert everything == names and some == names[70:80] and first == names[:40] and old == names[60:]


def test_a_schedule_has_the_history_of_its_slots_with_tasks_and_outcomes():
    rig = ScheduleWorld(every(5_000), at=AT_NOON)
    rig.work_ms = 6_000
    rig.until_slots(2)

    async def user(cluster: Client, ports: Ports) -> Any:
        info = await cluster.schedule("job")
        return info, await cluster.history("job"), await cluster.task(info.history[0].task)

    info, history, task = rig.run(user)
    first, second, third = info.history
    assert info.history == history and info.last == third and info.unfinished == 1
    assert (first.outcome, second.outcome, third.outcome) == ("completed", "skipped: busy", "unfinished")
    assert (first.slot, second.slot) == (AT_NOON.replace(second=5), AT_NOON.replace(second=10))
    assert second.task is None and first.ended_at > first.slot and not first.manual
    assert task.state == "completed" and task.name == "world:job"


def test_what_does_not_exist_or_cannot_be_asked_is_said():
    rig = ScheduleWorld(every())

    async def user(cluster: Client, ports: Ports) -> Any:
        for call in (cluster.schedule, cluster.history, cluster.pause, cluster.resume, cluster.run_now):
            with pytest.raises(ScheduleNotFound, match='no schedule "nobody"'):
                await call("nobody")
            with pytest.raises(TypeError, match="expected that of a schedule, not 7"):
                await call(7)
            with pytest.raises(ValueError, match="is that of no schedule"):
                await call("")
        with pytest.raises(TypeError, match="prefix"):
            cluster.schedules(7)
        with pytest.raises(ValueError, match="limit"):
            cluster.schedules(limit=-1)

    rig.run(user)


def test_a_broker_that_cannot_compute_a_schedule_says_so_where_it_is_shown_and_counts_it_as_an_alarm():
    rig = ScheduleWorld(cron("0 0 * * *", "Mars/Olympus"), every(name="well"))
    rig.until_armed("well")

    async def user(cluster: Client, ports: Ports) -> Any:
        return await cluster.schedule("job"), await cluster.schedule("well"), await cluster.status()

    broken, well, status = rig.run(user)
    assert broken.alarm.startswith("the broker that answers cannot compute its times: tz: ")
    assert broken.upcoming == () and broken.next_slot is None and broken.zone == "Mars/Olympus"
    assert well.alarm == ""
    assert status["schedules"] == {"active": 2, "paused": 0, "parked": 0, "alarms": 1}


def test_a_run_that_no_worker_can_run_is_an_alarm_while_it_holds_up_the_others():
    """The function was renamed, say, and its schedule kept its name: a run of the old task would wait for ever."""
    rig = ScheduleWorld(every(1_000, of="world:gone"), every(1_000, "apart", of="world:gone", exclusive=False))
    rig.until(lambda: len(rig.history()) >= 3 and len(rig.history("apart")) >= 3)

    async def user(cluster: Client, ports: Ports) -> Any:
        held_up = await cluster.schedule("job")
        await cluster.cancel([held_up.history[0].task])
        return held_up, await cluster.schedule("apart")

    held_up, apart = rig.run(user)
    first, second = held_up.history[:2]
    assert second.outcome == "skipped: busy"
    assert held_up.alarm == (
        f"no worker can run task {first.task} (world:gone), which has not ended: no worker announces world:gone for "
        "queue default; start one that can, or cancel it"
    )
    assert apart.alarm == "" and apart.unfinished >= 3


# -- to pause ----------------------------------------------------------------------------------------------------


def test_a_schedule_that_is_paused_does_not_fire_and_skips_what_passes_meanwhile():
    rig = ScheduleWorld(every(1_000, misfire="all", on_busy="queue"), every(name="beside", of=other.name))
    rig.until_slots(4)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.pause("job")
        await cluster.pause("job")
        at = rig.stamp_ms
        info = await cluster.schedule("job")
        await pause(ports, 5)
        await cluster.resume("job")
        back = rig.stamp_ms
        await pause(ports, 3)
        return at, back, info, await cluster.history("job")

    at, back, info, history = rig.run(user)
    slots = sorted(run.slot_ms for run in rig.attempts if run.name == "world:job")
    assert not [slot for slot in slots if at < slot <= back]
    assert len([slot for slot in slots if slot > back]) >= 2
    assert (info.state, info.next_slot) == ("paused", None) and len(info.upcoming) == 5
    assert [slot.outcome for slot in history if slot.outcome != "completed"] == ["skipped: paused"]
    assert [run for run in rig.attempts if run.name == "world:other" and at < run.slot_ms <= back]


def test_a_pause_outlives_the_whole_cluster():
    rig = ScheduleWorld(every())
    rig.until_slots(1)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.pause("job")

    rig.run(user)
    count = len(rig.slots)
    rig.stop_all_for(MINUTE_MS)
    rig.until(lambda: rig.leader)
    rig.world.run_for(15 * SECOND)
    assert len(rig.slots) == count and rig.schedule().is_paused


def test_runs_that_wait_when_it_is_paused_wait_until_it_is_resumed():
    rig = ScheduleWorld(every(1_000, on_busy="queue"))
    rig.work_ms = 3_000
    rig.until(lambda: rig.leader and len(rig.history()) == 3)

    async def user(cluster: Client, ports: Ports) -> Any:
        await cluster.pause("job")
        waiting = (await cluster.schedule("job")).waiting
        count = len(rig.slots)
        await pause(ports, 10)
        still = (await cluster.schedule("job")).waiting, len(rig.slots) - count
        await cluster.resume("job")
        await pause(ports, 4 * waiting + 2)
        return waiting, still

    waiting, still = rig.run(user)
    assert waiting >= 2 and still == (waiting, 0)
    assert all(later > earlier for earlier, later in pairwise(rig.slots))


# -- to run it now -----------------------------------------------------------------------------------------------


def test_run_now_gives_a_handle_and_is_told_from_slots_that_came_by_themselves():
    rig = ScheduleWorld(cron("0 0 * * *"), at=AT_NOON)
    rig.until_armed()

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.run_now("job")
        value = await handle
        await cluster.pause("job")
        again = await (await cluster.run_now("job"))
        return handle.id, value, again, await cluster.history("job")

    task, value, again, (first, second) = rig.run(user)
    assert datetime.fromisoformat(value) == first.slot and datetime.fromisoformat(again) == second.slot
    assert first.task == task and first.manual and second.manual and first.outcome == second.outcome == "completed"


def test_run_now_while_a_run_is_unfinished_does_what_a_slot_would():
    rig = ScheduleWorld(cron("0 0 * * *", name="skips"), cron("0 0 * * *", name="queues", on_busy="queue"), slots=4)
    rig.until_armed("skips")
    rig.work_ms = 5_000

    async def user(cluster: Client, ports: Ports) -> Any:
        first = await cluster.run_now("skips")
        with pytest.raises(ScheduleRefused, match="has not ended, and there is one at a time") as refused:
            await cluster.run_now("skips")
        assert refused.value.task == first.id and refused.value.name == "skips"
        runs = [await cluster.run_now("queues") for _ in range(3)]
        info = await cluster.schedule("queues")
        await runs[1].cancel()
        values = [await runs[0], await runs[2]]
        with pytest.raises(TaskCancelled):
            await runs[1]
        return info, values, [slot.outcome for slot in await cluster.history("queues")]

    info, values, outcomes = rig.run(user)
    assert (info.unfinished, info.waiting) == (1, 2)
    assert len(set(values)) == 2 and outcomes == ["completed", "cancelled", "completed"]


def test_run_now_of_a_schedule_that_no_worker_could_run_is_refused():
    rig = ScheduleWorld(every(options=Options(queue="nobody")))

    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(ScheduleRefused, match="no live worker announces it"):
            await cluster.run_now("job")

    rig.until(lambda: rig.leader and "job" in rig.actor(rig.leader).machine.schedules.by_name)
    rig.run(user)


def test_an_exclusive_run_is_not_replayed_beside_another():
    rig = ScheduleWorld(cron("0 0 * * *", name="job", options=Options(timeout_ms=1_000)), slots=4)
    rig.until_armed()

    async def user(cluster: Client, ports: Ports) -> Any:
        rig.work_ms = 60_000
        first = await cluster.run_now("job")
        await first.wait()                      # it took too long
        rig.work_ms = 500
        second = await cluster.run_now("job")
        while_it_runs = await cluster.replay([first.id])
        await second
        after = await cluster.replay([first.id])
        with pytest.raises(ScheduleRefused):
            await cluster.run_now("job")
        await cluster.handle(first.id)
        return while_it_runs, after, [slot.outcome for slot in await cluster.history("job")]

    assert rig.run(user) == (0, 1, ["completed", "completed"])


# -- to forget it ------------------------------------------------------------------------------------------------


def test_only_what_nobody_announces_and_nothing_runs_of_is_deleted():
    rig = ScheduleWorld(every(), workers=2)
    rig.announced["w2"] = (every(name="old"),)
    rig.stop(["w2"])
    rig.start_again(["w2"])
    rig.until_armed("old")

    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(ScheduleRefused, match="live workers announce it"):
            await cluster.delete_schedule("old")
        rig.stop(["w2"])
        while (await cluster.schedule("old")).state != "parked":
            await pause(ports, 0.5)
        while True:
            try:
                await cluster.delete_schedule("old")
                break
            except ScheduleRefused as refused:
                assert refused.task is not None
                await pause(ports, 0.5)
        with pytest.raises(ScheduleNotFound):
            await cluster.delete_schedule("old")
        return [info.name for info in await listed(cluster)]

    assert rig.run(user) == ["job"]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_asked_while_leaders_are_lost_is_done_once(seed):
    rig = ScheduleWorld(cron("0 0 * * *", on_busy="queue"), seed=seed)
    rig.until_armed()

    async def user(cluster: Client, ports: Ports) -> Any:
        tasks = []
        for _ in range(6):
            rig.world.crash(rig.brokers[leader := rig.leader])
            tasks.append(await (await cluster.run_now("job")))
            rig.world.restart(rig.brokers[leader])
            await pause(ports, 1)
        return tasks

    values = rig.run(user)
    assert len({run.task for run in rig.attempts}) == 6 and len(set(values)) == 6
    assert [slot.is_manual for slot in rig.history()] == [True] * 6
    assert utc(rig.slots) == sorted(utc(rig.slots))
    assert set(BROKERS) == set(rig.brokers)
