"""How long a user can ask for results, and what clients tell the cluster for it. A world of three brokers behind it."""

from typing import Any

import pytest
from client_world import MS, ClientWorld, Parcel, pause, work

from actors import SECOND
from cluster import Client, TaskNotFound
from cluster.state.machine import Machine

KEPT_S = 60.0
TOLD_S = 1.0                # an idle client says within this what it has
ROUNDED_S = 1.5             # dates are rounded up to the second, and the leader's tick takes its turn


@pytest.fixture
def rig() -> ClientWorld:
    return ClientWorld(workers=2)


def machine(rig: ClientWorld) -> Machine:
    return rig.actor(rig.leader).machine


def states(rig: ClientWorld, tasks: list[int]) -> set[str | None]:
    """In the state of every broker."""
    rig.world.run_for(SECOND)
    return {rig.actor(name).machine.state_of(task) for name in rig.brokers for task in tasks}


def test_a_result_is_forgotten_a_minute_after_an_idle_client_has_it(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(7))
        await handle
        await pause(ports, KEPT_S)
        before = (await cluster.records([handle.id]))[0].state
        await pause(ports, TOLD_S + ROUNDED_S)
        return before, (await cluster.records([handle.id]))[0].state, handle.state(), await handle, handle.id

    before, after, state, value, number = rig.run(user)
    assert (before, after) == ("completed", "unknown")
    assert (state, value) == ("completed", Parcel(7)), "the client keeps what it has"
    assert states(rig, [number]) == {None}
    assert machine(rig).status()["counters"]["ignored_seen"] == 0


def test_the_handle_of_a_forgotten_task_says_so_at_once(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(7))
        await handle
        await pause(ports, KEPT_S + TOLD_S + ROUNDED_S)
        before = ports.clock.now()
        with pytest.raises(TaskNotFound) as error:
            await cluster.handle(handle.id)
        return handle.id, str(error.value), ports.clock.now() - before

    number, text, took = rig.run(user)
    assert text.startswith(f"the cluster has no record of task {number}: its result is no longer kept")
    assert "result_ttl" in text
    assert took < SECOND


def test_a_handle_that_waits_for_another_client_is_told_before_the_result_is_forgotten(rig):
    submitted: list[int] = []

    async def user(cluster: Client, ports: Any) -> Any:
        handle = await cluster.submit(work, Parcel(7), 500 * MS)
        submitted.append(handle.id)
        await handle
        await pause(ports, KEPT_S + TOLD_S + ROUNDED_S)

    async def other(cluster: Client, ports: Any) -> Any:
        return (await cluster.handle(submitted[0]))["number"]

    first = rig.start(user)
    rig.until(lambda: submitted)
    assert rig.run(other) == 7
    rig.finish(first)
    assert states(rig, submitted) == {None}


def test_a_client_that_asks_again_for_its_own_task_says_once_that_it_has_it(rig):
    """A session may say no more numbers than it submitted: what it says twice could not be said of another task."""
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(3)])
        await batch
        for _ in range(5):
            await pause(ports, TOLD_S + 0.1)
            await cluster.handle(batch.ids[0])
        await pause(ports, TOLD_S + 0.1)
        counters = machine(rig).status()["counters"]
        session = machine(rig).session(batch.ids[0] >> 24)
        assert session is not None
        return counters["ignored_seen"], session.unsaid

    assert rig.run(user) == (0, 0)


def test_a_submit_says_what_its_client_has(rig):
    """At once, and not with the timer of idle clients."""
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(10)])
        await batch
        await pause(ports, TOLD_S + 0.1)        # whenever that timer fires, it has just done
        first = await cluster.submit(work, Parcel(10))
        await first
        second = await cluster.submit(work, Parcel(11), 5_000 * MS)
        session = machine(rig).session(second.id >> 24)
        assert session is not None
        return session.unsaid

    assert rig.run(user) == 1, "the second, which has not ended"


def test_a_client_that_leaves_says_first_what_it_has(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, [Parcel(number) for number in range(100)])
        await batch
        return batch.ids

    ids = rig.run(user)
    rig.world.run_for(int((KEPT_S - 5) * SECOND))
    assert states(rig, ids) == {"completed"}
    rig.world.run_for(int((5 + ROUNDED_S) * SECOND))
    assert states(rig, ids) == {None}


def test_a_result_that_nobody_has_is_kept_for_its_ttl(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        return (await cluster.submit(work.options(result_ttl="90s"), Parcel(1))).id

    number = rig.run(user)
    rig.world.run_for(85 * SECOND)
    assert states(rig, [number]) == {"completed"}
    rig.world.run_for(6 * SECOND)
    assert states(rig, [number]) == {None}


def test_an_explicit_ttl_counts_also_if_the_client_has_the_result(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        short = await cluster.submit(work.options(result_ttl=10), Parcel(1))
        long = await cluster.submit(work.options(result_ttl=120), Parcel(2))
        await short
        await long
        found = []
        for seconds in (8, 12, 80, 22):
            await pause(ports, seconds)
            found.append([record.state for record in await cluster.records([short.id, long.id])])
        return found

    assert rig.run(user) == [
        ["completed", "completed"], ["unknown", "completed"], ["unknown", "completed"], ["unknown", "unknown"],
    ]


def test_a_map_keeps_its_results_when_the_cluster_has_forgotten_them(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        batch = await cluster.map(work, (Parcel(number) for number in range(5_000)))
        await batch
        await pause(ports, KEPT_S + TOLD_S + ROUNDED_S)
        records = {record.state for record in await cluster.records(batch.ids)}
        return records, await batch, [await handle async for handle in batch.as_completed()], batch.ids

    records, results, completed, ids = rig.run(user)
    assert records == {"unknown"}
    assert results == [Parcel(number) for number in range(5_000)]
    assert len(completed) == 5_000
    assert states(rig, ids) == {None}
    (row,) = machine(rig).status()["queues"]
    assert row["completed"] == 5_000


def test_an_idle_cluster_writes_nothing_when_all_is_forgotten(rig):
    async def user(cluster: Client, ports: Any) -> Any:
        for number in range(20):
            await (await cluster.submit(work, Parcel(number)))
            await pause(ports, 0.5)
        await pause(ports, KEPT_S + TOLD_S + ROUNDED_S)
        before = machine(rig).applied_index
        await pause(ports, 30)
        return machine(rig).applied_index - before, machine(rig).next_deadline_ms()

    assert rig.run(user) == (0, None)
