"""What users see of tasks that are run again. A world of three brokers behind it."""

from typing import Any

import pytest
from client_world import ClientWorld, Parcel, pause, unserved, work

from actors import SECOND, Ports
from cluster import Client, ClusterError, Overloaded, TaskCancelled, TaskDead, TaskNotFound, after
from cluster.state import needs, replays
from cluster.state.commands import REPLAY_TASKS_MAX


@pytest.fixture
def rig() -> ClientWorld:
    return ClientWorld(workers=2)


async def dead(cluster: Client, number: int = 7) -> Any:
    handle = await cluster.submit(work, Parcel(number), fate="die")
    with pytest.raises(TaskDead):
        await handle
    return handle


def test_a_dead_task_completes_once_its_cause_is_gone_and_the_first_handle_stays_as_it_was(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await dead(cluster)
        rig.is_mended = True
        again = await handle.replay()
        value = await again
        with pytest.raises(TaskDead):
            await handle
        (record,) = await cluster.records([handle.id])
        return again.id == handle.id, value, handle.state(), again.state(), record.state, record.attempts

    assert rig.run(user) == (True, Parcel(7), "dead", "completed", "completed", 4)


def test_a_handle_made_after_the_replay_waits_for_the_new_end_at_whichever_client(rig):
    replayed: list[int] = []

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await dead(cluster)
        rig.is_mended = True
        for worker in rig.workers.values():
            rig.world.pause(worker)
        assert await cluster.replay([handle.id]) == 1
        replayed.append(handle.id)
        own = cluster.handle(handle.id)
        await pause(ports, 3.0)
        waits = own.state()
        for worker in rig.workers.values():
            rig.world.resume(worker)
        return waits, await own

    async def other(cluster: Client, ports: Ports) -> Any:
        return await cluster.handle(replayed[0])

    first = rig.start(user)
    rig.until(lambda: replayed)
    second = rig.start(other)
    plain = {"number": 7, "label": ""}
    assert rig.finish(first) == ("pending", plain)
    assert rig.finish(second) == plain


def test_whoever_watches_hears_of_every_end(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await dead(cluster)
        ends = []
        for _ in range(2):
            handle = await handle.replay()
            with pytest.raises(TaskDead) as error:
                await handle
            ends.append(error.value.attempts)
        return ends

    assert rig.run(user) == [6, 9]


def test_a_second_end_outlives_what_was_seen_of_the_first(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(unserved)
        await handle.cancel()
        with pytest.raises(TaskCancelled):
            await handle
        await pause(ports, 58.0)            # within a minute of that
        again = await handle.replay()
        await pause(ports, 60.0)
        waits = again.state()
        await again.cancel()
        await pause(ports, 120.0)
        return waits, (await cluster.records([handle.id]))[0].state

    assert rig.run(user) == ("pending", "cancelled")


def test_many_are_replayed_in_chunks_and_others_are_not_counted(rig):
    count = 2 * REPLAY_TASKS_MAX + 5

    async def user(cluster: Client, ports: Ports) -> Any:
        done = await cluster.submit(work, Parcel(1))
        await done
        handles = [await cluster.submit(unserved) for _ in range(3)]
        batch = await cluster.map(work.options(queue="nobody"), [Parcel(number) for number in range(count)])
        await batch.cancel()
        waiting = [handle.id for handle in handles]
        return await cluster.replay(iter([*batch.ids, done.id, *waiting, 1 << 40])), await cluster.replay(batch.ids)

    assert rig.run(user) == (count, 0)


def test_what_needs_more_than_one_command_may_bring_runs_again_by_several(rig, monkeypatch):
    monkeypatch.setattr(replays, "NEEDS_COMMAND_MAX", 2)

    async def user(cluster: Client, ports: Ports) -> Any:
        slow = await cluster.submit(work.options(delay="1h"), Parcel(1))
        ids = [(await cluster.submit(work, after(slow))).id for _ in range(7)]
        await cluster.cancel(ids)
        count = await cluster.replay(ids)
        await cluster.cancel(ids)
        monkeypatch.setattr(needs, "NEEDS_KNOWN_MAX", 3)
        with pytest.raises(Overloaded) as refused:
            await cluster.replay(ids)
        return count, ids, str(refused.value), [record.state for record in await cluster.records(ids)]

    count, ids, text, states = rig.run(user)
    assert count == 7 and text.endswith(f"4 of these run again, task {ids[4]} and those behind it do not")
    assert states == ["pending"] * 4 + ["cancelled"] * 3


def test_a_handle_says_why_nothing_is_run_again(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1))
        await handle
        with pytest.raises(ClusterError) as error:
            await handle.replay()
        return str(error.value), handle.id

    text, task = rig.run(user)
    assert text.startswith(f"task {task} is not run again: it is completed")


@pytest.mark.parametrize(("ids", "error"), [(["7"], TypeError), ([-1], ValueError), ([True], TypeError)])
def test_what_is_no_id_is_refused_before_anything_is_sent(rig, ids, error):
    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(error):
            await cluster.replay(ids)

    rig.run(user)


def test_a_client_that_only_looks_replays_nothing(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(ClusterError, match="only looks"):
            await cluster.replay([7])

    rig.run(user, only_looks=True)


def test_a_dead_task_is_there_for_days_after_its_client_has_its_end(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        return (await dead(cluster)).id

    task = rig.run(user)
    rig.world.run_for(120 * SECOND)

    async def operator(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(TaskDead) as error:
            await cluster.handle(task)
        rig.is_mended = True
        assert await cluster.replay([task]) == 1
        return error.value.evidence.exit_code, await cluster.handle(task)

    assert rig.run(operator) == (3, {"number": 7, "label": ""})


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_that_was_confirmed_outlives_the_leader(seed):
    rig = ClientWorld(seed, workers=2)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await dead(cluster)
        rig.is_mended = True
        for worker in rig.workers.values():
            rig.world.pause(worker)
        again = await handle.replay()
        rig.world.crash(rig.brokers[rig.leader])
        for worker in rig.workers.values():
            rig.world.resume(worker)
        return await again, handle.state()

    assert rig.run(user) == (Parcel(7), "dead")


def test_a_task_that_is_not_known_is_not_replayed(rig):
    async def user(cluster: Client, ports: Ports) -> Any:
        count = await cluster.replay([1 << 40])
        with pytest.raises(TaskNotFound):
            await cluster.handle(1 << 40)
        return count

    assert rig.run(user) == 0
