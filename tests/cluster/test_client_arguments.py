"""Arguments of the client that are none: refused at once, with the name of the argument and what to write."""

from datetime import timedelta
from typing import Any

import pytest
from client_world import ClientWorld, Parcel, pause, topology, unserved, work

from actors import SECOND, Ports
from cluster import Client, DeadlineExceeded, EncodeError, TaskActor, TaskNotFound
from cluster.client.blocking import BlockingClient, BlockingHandle
from cluster.client.executor import _task_for
from cluster.client.handle import Handle

NO_DURATIONS = [
    ("x", ValueError, '"x" is no duration; write for example'),
    (-1, ValueError, "negative"),
    (timedelta(seconds=-1), ValueError, "negative"),
    (float("nan"), ValueError, "out of range"),
    (float("inf"), ValueError, "out of range"),
    (b"5s", TypeError, "expected a timedelta, seconds or text"),
    (True, TypeError, "expected a timedelta, seconds or text"),
    ([5], TypeError, "expected a timedelta, seconds or text"),
]


class Desk(TaskActor):
    def add(self, number: int) -> int:
        return number


@pytest.mark.parametrize("timeout", [2, 2.0, "2s", "2000ms", timedelta(seconds=2)])
def test_a_timeout_is_a_duration(timeout):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(unserved)
        waited = []
        for wait in (handle.result, handle.wait):
            begun = ports.clock.now()
            with pytest.raises(DeadlineExceeded, match="no result after 2 s"):
                await wait(timeout=timeout)
            waited.append(round((ports.clock.now() - begun) / SECOND, 2))
        batch = await cluster.map(work, [Parcel(1)])
        begun = ports.clock.now()
        with pytest.raises(DeadlineExceeded):
            await batch.results(timeout=timeout)
        return [*waited, round((ports.clock.now() - begun) / SECOND, 2)]

    assert rig.run(user) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("value", "error", "says"), NO_DURATIONS, ids=lambda value: repr(value)[:12])
def test_what_is_no_duration_is_refused_with_the_name_of_the_argument(value, error, says):
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(unserved)
        batch = await cluster.map(work, [Parcel(1)])
        blocking: BlockingHandle[Any] = BlockingHandle(BlockingClient(cluster), Handle(cluster, None))
        refused = []
        for wait in (handle.result, handle.wait, batch.results, batch.wait):
            with pytest.raises(error) as caught:
                await wait(timeout=value)
            refused.append(str(caught.value))
        with pytest.raises(error) as caught:
            blocking.result(timeout=value)
        return [*refused, str(caught.value)]

    for text in rig.run(user):
        assert text.startswith("timeout: ") and says in text
    with pytest.raises(error) as caught:
        Client(topology(), lambda: None, deadline=value)  # type: ignore[arg-type, return-value]
    assert str(caught.value).startswith("deadline: ") and says in str(caught.value)


def test_no_time_is_no_deadline_and_text_is_one():
    for nothing in (0, 0.0, "0s", timedelta(0)):
        with pytest.raises(ValueError, match=r"deadline: .* leaves no time"):
            Client(topology(), lambda: None, deadline=nothing)  # type: ignore[arg-type, return-value]
    assert Client(topology(), lambda: None, deadline="5m")._deadline == 300  # type: ignore[arg-type, return-value]


def test_one_id_is_not_several():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        refused = []
        for call in (cluster.cancel, cluster.replay, cluster.records):
            for wrong in (77, "77", b"77", None):
                with pytest.raises(TypeError) as caught:
                    await call(wrong)
                refused.append(str(caught.value))
            with pytest.raises(TypeError, match="a task's id is an int"):
                await call(["77"])
        return refused

    refused = rig.run(user)
    assert refused[0] == "tasks: expected ids of tasks, such as [77], not 77 alone"
    assert all(text.startswith("tasks: expected ids of tasks") for text in refused)


def test_a_method_of_an_actor_says_how_it_is_submitted():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        method = cluster.actor(Desk).add
        with pytest.raises(TaskNotFound) as caught:
            await cluster.submit(method, 1)
        with pytest.raises(TaskNotFound) as executor:
            _task_for(method, cluster)
        return str(caught.value), str(executor.value)

    expected = "cluster.actor(Desk).add has a submit of its own: write cluster.actor(Desk).add.submit(...)"
    assert rig.run(user) == (expected, expected)


def test_a_method_in_its_class_or_of_an_instance_here_is_no_task():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        said: list[str] = []
        for method in (Desk.add, Desk().add):
            with pytest.raises(TaskNotFound) as caught:
                await cluster.submit(method, 1)  # type: ignore[call-overload]
            with pytest.raises(TaskNotFound) as executor:
                _task_for(method, cluster)
            said += [str(caught.value), str(executor.value)]
        return said

    expected = "Desk.add is a method of a TaskActor: call it as cluster.actor(Desk).add(...)"
    assert rig.run(user) == [expected] * 4


def test_an_executor_takes_methods_of_its_own_clients_actors_only():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        method = BlockingClient(cluster).actor(Desk, key="north").add.options(priority=9)
        task = _task_for(method, cluster)
        with pytest.raises(ValueError, match=r"cluster.actor\(Desk\).add is of another client: take it from the one"):
            _task_for(method, Client(topology(), lambda: ports, 1.0))
        return task.name.rpartition(":")[2], task.settings.key, task.settings.priority

    assert rig.run(user) == ("Desk.add", "north", 9)


def test_an_error_in_a_map_says_what_of_it_was_submitted():
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        with pytest.raises(EncodeError) as first:
            await cluster.map(work, [object()])  # type: ignore[list-item]
        await pause(ports, 0.5)
        return first.value.__notes__

    assert rig.run(user) == ["item 0 of the map; nothing of it was submitted"]
