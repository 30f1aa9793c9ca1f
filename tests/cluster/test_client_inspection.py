"""Single tasks and lists of them, as a client sees them."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from client_world import BROKERS, MS, ClientWorld, Parcel, pause, unserved, work

from actors import Ports
from cluster import AttemptInfo, Client, TaskInfo, TaskNotFound, Unavailable
from cluster.client.inspection import STATES
from cluster.state import inspection
from cluster.state.status import DUPLICATE, STATE_NAMES


async def listed(cluster: Client, *asked: Any, **more: Any) -> list[TaskInfo]:
    return [info async for info in cluster.tasks(*asked, **more)]


def test_the_states_that_can_be_asked_for_are_those_that_there_are() -> None:
    assert set(STATES) == {*STATE_NAMES.values(), DUPLICATE}


def test_a_list_has_every_task_with_what_became_of_it() -> None:
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        fates = [("ok", 3), ("raise", 2), ("die", 1)]
        batches = [await cluster.map(work, [Parcel(n) for n in range(count)], fate=fate) for fate, count in fates]
        for batch in batches:
            async for _ in batch.as_completed():
                pass
        held = await cluster.map(work, [Parcel(n) for n in range(2)], work_us=60_000 * MS)
        late = await cluster.submit(unserved.options(delay="1h", queue="mail"))
        parked = await cluster.submit(unserved)
        await pause(ports, 1.5)
        found = {info.id: info for info in await listed(cluster)}
        return batches, held, late, parked, found

    batches, held, late, parked, found = rig.run(user)
    assert len(found) == 10
    good, bad, dead = ([found[task] for task in batch.ids] for batch in batches)
    assert [(info.state, info.error, info.worker, info.attempt) for info in good] == [("completed", "", "w1", 1)] * 3
    assert all(info.started_at is not None and info.ended_at >= info.started_at for info in good)
    assert [info.error for info in bad] == ["ValueError: parcel 0", "ValueError: parcel 1"]
    assert (dead[0].state, dead[0].crashes) == ("dead", 3)
    assert found[late.id].delayed and found[late.id].queue == "mail" and not found[late.id].parked
    assert found[parked.id].parked and found[parked.id].state == "pending"
    rest = [found[task] for task in held.ids]
    assert [(info.state, info.worker, info.slot, info.running) for info in rest[:1]] == [("processing", "w1", 0, True)]
    assert all(info.attempts == () and info.timeout_s is None for info in found.values()), "that is told of one task"


def test_lists_are_filtered_and_limited() -> None:
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        mail = await cluster.map(work.options(queue="mail"), [Parcel(n) for n in range(5)])
        rest = await cluster.map(work, [Parcel(n) for n in range(5)])
        await cluster.cancel(rest.ids[:2])
        await cluster.submit(unserved)
        asked: list[dict[str, Any]] = [
            {"queue": "mail"},
            {"state": "cancelled"},
            {"state": ["cancelled", "pending"], "name": "world:work"},
            {"name": "world:unserved"},
            {"limit": 3},
            {"limit": 0},
            {"queue": "mail", "limit": 100},
            {"queue": "none"},
        ]
        return [len(await listed(cluster, **one)) for one in asked], mail.ids

    counts, _ = rig.run(user)
    assert counts == [5, 2, 10, 1, 3, 0, 5, 0]


def test_a_list_of_many_pages_has_each_task_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "VISITS_MAX", 100)
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(n) for n in range(2_500)])
        rare = await cluster.submit(unserved)
        whole = [info.id async for info in cluster.tasks()]
        return batch.ids, whole, [info.id for info in await listed(cluster, name="world:unserved")], rare.id

    ids, whole, found, rare = rig.run(user)
    assert sorted(whole) == sorted([*ids, rare]) and found == [rare]


def test_a_list_goes_on_at_the_next_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "VISITS_MAX", 100)
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(n) for n in range(1_000)])
        found: list[int] = []
        async for info in cluster.tasks():
            if len(found) == 350:
                rig.world.crash(rig.brokers[rig.leader])
            found.append(info.id)
        return batch.ids, found

    ids, found = rig.run(user)
    assert found == ids


def test_one_task_is_shown_with_its_attempts_and_options() -> None:
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work.options(retry=1, timeout="1m", expires="1h"), Parcel(7), fate="raise")
        with pytest.raises(Exception, match="parcel 7"):
            await handle
        return await cluster.task(handle.id)

    info: TaskInfo = rig.run(user)
    assert (info.state, info.name, info.attempt, info.failures, info.retries) == ("failed", "world:work", 2, 1, 1)
    assert (info.timeout_s, info.soft_timeout_s, info.result_ttl_s) == (60.0, None, 3_600.0)
    assert isinstance(info.expires_at, datetime) and info.ready_at is None and info.cancel_grace_s is None
    first, second = info.attempts
    assert isinstance(first, AttemptInfo)
    assert (first.number, second.number, first.outcome, first.worker) == (1, 2, "failed", "w1")
    assert (second.error_type, second.error_message) == ("ValueError", "parcel 7")
    assert "parcel 7" in second.traceback and second.exit_code is None and second.signal is None
    assert info.error == "ValueError: parcel 7"


def test_an_attempt_that_ended_its_process_has_the_evidence() -> None:
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1), fate="die")
        await handle.wait()
        return await cluster.task(handle.id)

    info: TaskInfo = rig.run(user)
    assert [attempt.outcome for attempt in info.attempts] == ["crashed"] * 3
    assert {(attempt.error_type, attempt.exit_code) for attempt in info.attempts} == {("ChildExited", 3)}


def test_a_task_that_runs_and_one_that_waits_behind_it_are_told_apart() -> None:
    rig = ClientWorld(slots=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        short = await cluster.map(work, [Parcel(n) for n in range(200)], work_us=MS)
        await short
        batch = await cluster.map(work, [Parcel(n) for n in range(3)], work_us=60_000 * MS)
        await pause(ports, 0.02)
        await pause(ports, 0.6)
        infos = [await cluster.task(task) for task in batch.ids]
        stale = [await cluster.task(task, stale=True) for task in batch.ids[:1]]
        return infos, stale

    infos, stale = rig.run(user)
    assert [info.running for info in infos].count(True) == 1
    assert {info.running for info in infos} <= {True, False, None}
    assert all((info.slot is None) == (info.state == "pending") for info in infos)
    assert stale[0].state == "processing" and stale[0].running in (True, None)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"state": "runing"}, ValueError, "'runing' is none; there are pending, processing, completed, failed, dead"),
        ({"state": ["failed", "nope"]}, ValueError, "'nope'"),
        ({"state": []}, ValueError, "one state at least"),
        ({"queue": ""}, ValueError, "queue"),
        ({"name": 7}, TypeError, "name"),
        ({"limit": -1}, ValueError, "negative"),
        ({"limit": 1.5}, TypeError, "limit"),
        ({"limit": True}, TypeError, "limit"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(asked: Any, error: type[Exception], says: str) -> None:
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(error, match=says):
            cluster.tasks(**asked)
        return True

    assert rig.run(user)


def test_a_task_that_is_not_known_is_not_found_and_what_is_no_id_is_refused() -> None:
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(TaskNotFound, match="no record of task 12345: its result is no longer kept"):
            await cluster.task(12_345)
        with pytest.raises(TypeError, match="an int"):
            await cluster.task("12345")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="64 bits"):
            await cluster.task(-1)
        return True

    assert rig.run(user, only_looks=True)


def test_without_a_majority_lists_wait_and_stale_ones_do_not() -> None:
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(n) for n in range(5)])
        await pause(ports, 1.0)
        for name in [name for name in BROKERS if name != rig.leader]:
            rig.world.crash(rig.brokers[name])
        await pause(ports, 5.0)
        stale = await listed(cluster, stale=True)
        one = await cluster.task(batch.ids[0], stale=True)
        start = ports.clock.now()
        with pytest.raises((Unavailable, TimeoutError)):
            await listed(cluster)
        return len(stale), one.state, (ports.clock.now() - start) / 1e9

    count, state, waited = rig.run(user, deadline=2.0)
    assert (count, state) == (5, "pending")
    assert 1.9 < waited < 2.5


def test_many_tasks_are_cancelled_by_their_ids() -> None:
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work, [Parcel(n) for n in range(1_500)])
        await cluster.cancel([*batch.ids, 12_345], grace="1s")
        return {record.state for record in await cluster.records(batch.ids)}

    assert rig.run(user) == {"cancelled"}


def test_several_lists_at_a_time_and_other_calls_do_not_wait_for_each_other() -> None:
    rig = ClientWorld(workers=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work.options(delay="1h"), [Parcel(n) for n in range(3_000)])
        lists = [asyncio.ensure_future(listed(cluster)) for _ in range(3)]
        await (await cluster.submit(work, Parcel(1)))
        return batch.ids, [[info.id for info in await one if info.delayed] for one in lists]

    ids, lists = rig.run(user)
    assert [sorted(one) for one in lists] == [ids] * 3


def test_a_program_that_asks_for_thousands_of_tasks_at_once_is_answered_a_few_in_a_turn() -> None:
    rig = ClientWorld(workers=1)

    async def user(cluster: Client, ports: Ports) -> Any:
        batch = await cluster.map(work.options(delay="1h"), [Parcel(n) for n in range(2_000)])
        asked = [asyncio.ensure_future(cluster.task(task)) for task in batch.ids]
        await (await cluster.submit(work, Parcel(1)))
        early = sum(one.done() for one in asked)
        return early, [(await one).id for one in asked] == batch.ids

    early, right = rig.run(user)
    assert right and early < 2_000, "the submit did not wait for all of them"
