"""What the client says when something is wrong: which error, with which outcome, by when. It never hangs."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cluster_rig import (
    is_whole,
    make_topology,
    row,
    run,
    running,
    status_when,
    stopped,
    until,
)
from cluster_tasks import add, at_night, echo, hold, never_stop, stop_at_sigterm, stop_when_asked

from cluster import (
    BodyTooLarge,
    Client,
    DeadlineExceeded,
    EncodeError,
    Task,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TopologyError,
    Unavailable,
    task,
)
from cluster.local import LocalCluster

pytestmark = pytest.mark.timeout(60)

BODY_BYTES_MAX = 1024 * 1024
SLACK_S = 1.0           # that an error may be later than its deadline: loops look at deadlines every 100 ms

T = TypeVar("T")


async def within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Its value or error, which must come within the deadline."""
    start = time.monotonic()
    try:
        return await asyncio.wait_for(coroutine, seconds + 10)
    finally:
        assert time.monotonic() - start < seconds + SLACK_S


# -- the caller's mistakes ---------------------------------------------------------------------------------------


def plain(value: int) -> int:
    return value


def test_a_function_that_is_no_task_is_not_found(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(TaskNotFound, match="plain is not a task: put @task above it"):
                await client.submit(plain, 1)  # type: ignore[arg-type]
            with pytest.raises(TaskNotFound, match="plain is not a task"):
                await client.map(plain, [1])  # type: ignore[arg-type]

    run(main())


def test_a_task_that_lives_in_main_is_not_found(cluster: LocalCluster) -> None:
    main_module: dict[str, Any] = {"__name__": "__main__", "task": task}
    exec("@task\ndef in_main() -> None: ...", main_module)

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(TaskNotFound, match=r"in_main lives in __main__.*a module that the topology lists"):
                await client.submit(main_module["in_main"])

    run(main())


@task(name="tests:nobody-has-this")
def unknown_to_workers(value: int) -> int:
    return value


def test_a_task_that_no_worker_knows_is_parked_and_shown_and_can_be_cancelled(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(unknown_to_workers, 1)
            status = await client.status()
            assert row(status["queues"], "default")["parked"] == 1
            assert row(status["queues"], "default")["ready"] == 1
            with pytest.raises(DeadlineExceeded) as caught:
                await within(0.3, handle.result(timeout=0.3))
            assert caught.value.outcome == "unknown"
            assert isinstance(caught.value, TimeoutError)
            await handle.cancel()
            with pytest.raises(TaskCancelled):
                await within(5, handle.result(timeout=5))
            status = await client.status()
            assert row(status["queues"], "default")["parked"] == 0

    run(main())


def test_arguments_that_cannot_travel_are_refused_at_once(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(EncodeError, match=r"argument 2 of .*add: a value of type object cannot travel"):
                await client.submit(add, 1, object())  # type: ignore[arg-type]
            with pytest.raises(EncodeError, match=r'argument "right" of .*add'):
                await client.submit(add, 1, right={1, object()})  # type: ignore[arg-type]
            with pytest.raises(BodyTooLarge) as caught:
                await client.submit(add, "x" * BODY_BYTES_MAX)  # type: ignore[arg-type]
            assert caught.value.limit_bytes == BODY_BYTES_MAX < caught.value.size_bytes
            assert await client.map(add, [1, 2]) is not None, "the client goes on"

    run(main())


def test_arguments_that_do_not_fit_are_a_type_error_where_that_is_known_and_a_failure_otherwise(
    cluster: LocalCluster,
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(TypeError, match="missing a required argument: 'left'"):
                await client.submit(add)  # type: ignore[call-arg]
            with pytest.raises(TypeError, match="unexpected keyword argument 'middle'"):
                await client.submit(add, 1, middle=2)  # type: ignore[call-arg]
            handle = await client.submit(add, "one")  # type: ignore[arg-type]
            with pytest.raises(TaskFailed, match=r"argument 1 of .*add: Expected `int`, got `str`"):
                await handle.result(timeout=10)

    run(main())


def test_an_unknown_option_is_a_type_error_with_a_suggestion() -> None:
    with pytest.raises(TypeError, match=r'unknown task option "timout": did you mean "timeout"\?'):
        add.options(timout=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r'unknown task option "prio": did you mean "priority"\?'):
        task(prio=5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="priority: 10 is out of range"):
        add.options(priority=10)
    with pytest.raises(ValueError, match='timeout: "soon" is no duration; write for example'):
        add.options(timeout="soon")


def test_a_topology_that_is_not_there_is_a_topology_error(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"missing\.toml: No such file"):
        Client.connect(tmp_path / "missing.toml")


# -- nobody there ------------------------------------------------------------------------------------------------


def test_connecting_where_no_broker_listens_is_unavailable_by_the_deadline(tmp_path: Path) -> None:
    topology = make_topology(tmp_path)

    async def connect() -> None:
        async with Client.connect(topology, deadline=1.0):
            raise AssertionError("there is nothing to connect to")

    async def main() -> None:
        with pytest.raises(Unavailable, match=r"no leader answered \(b1 127\.0\.0\.1:\d+, b2 .*, b3 .*\)") as caught:
            await within(1.0, connect())
        assert caught.value.outcome == "refused"

    run(main())


def test_connecting_to_another_cluster_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    topology = tmp_path / "topology.toml"
    topology.write_text(cluster.topology.read_text().replace('"tests"', '"others"'))

    async def connect() -> None:
        async with Client.connect(topology, deadline=1.0):
            raise AssertionError("it is another cluster")

    async def main() -> None:
        with pytest.raises(Unavailable, match="this is a broker of cluster 'tests', not of 'others'"):
            await within(1.0, connect())

    run(main())


# -- a majority is away ------------------------------------------------------------------------------------------

DEADLINE_S = 3.0


async def refuses_until_they_are_back(client: Client, leader: bool) -> None:
    """Stops two of three brokers; what is submitted meanwhile has an unknown outcome, and then all is well."""
    status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
    pids = {row["node"]: row["pid"] for row in status["brokers"]}
    stays = next(node for node in pids if (node == status["leader"]) != leader)
    with stopped(*[pid for node, pid in pids.items() if node != stays]):
        with pytest.raises((DeadlineExceeded, Unavailable)) as caught:
            await within(DEADLINE_S, client.submit(add, 1))
        assert caught.value.outcome == "unknown"
        if leader:
            assert isinstance(caught.value, DeadlineExceeded), "its leader hangs, and nobody says otherwise"
        report = await within(5, client.status())
        assert report["leader"] is None
        assert sorted(row["role"] == "down" for row in report["brokers"]) == [False, True, True]
    handle = await within(30, again(client))
    assert await within(10, handle.result(timeout=10)) == 2


async def again(client: Client) -> Any:
    """Submits until somebody confirms."""
    while True:
        try:
            return await client.submit(add, 1)
        except (DeadlineExceeded, Unavailable):
            continue


@pytest.mark.parametrize("leader", [True, False], ids=["with-the-leader", "without-the-leader"])
def test_a_submit_to_a_cluster_without_majority_ends_by_its_deadline(cluster: LocalCluster, leader: bool) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology, deadline=DEADLINE_S) as client:
            await refuses_until_they_are_back(client, leader)

    run(main())


def test_gathered_submits_and_a_map_all_end_by_the_deadline_and_the_client_goes_on(cluster: LocalCluster) -> None:
    """More than the window of unanswered commands takes: what never left is refused, the rest is unknown."""

    async def main() -> None:
        async with Client.connect(cluster.topology, deadline=DEADLINE_S) as client:
            status = await status_when(client, "the cluster is whole", lambda status: is_whole(status, slots=2))
            with stopped(*[row["pid"] for row in status["brokers"]]):
                submits = [asyncio.ensure_future(client.submit(add, number)) for number in range(10)]
                await asyncio.sleep(0)      # a turn of their own
                mapped = asyncio.ensure_future(client.map(add, range(200_000)))
                ends = await within(
                    2 * DEADLINE_S, asyncio.gather(*submits, mapped, return_exceptions=True)  # type: ignore[arg-type]
                )
            assert all(isinstance(end, DeadlineExceeded | Unavailable) for end in ends), ends
            assert {end.outcome for end in ends[:10]} == {"unknown"}
            handle = await within(30, again(client))
            assert await within(60, handle.result(timeout=60)) == 2

    run(main())


# -- waiting -----------------------------------------------------------------------------------------------------


def test_a_result_that_is_late_may_be_awaited_again(cluster: LocalCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(hold, str(tmp_path), 7)
            assert handle.state() == "pending"
            for _ in range(2):
                with pytest.raises(DeadlineExceeded, match=f"task {handle.id} has no result after 0.2 s"):
                    await within(0.2, handle.result(timeout=0.2))
            waiting = [asyncio.ensure_future(handle.result()) for _ in range(3)]
            (tmp_path / "go").touch()
            assert await within(10, asyncio.gather(*waiting)) == [7, 7, 7]  # type: ignore[arg-type]
            assert await handle == 7, "and again, when it is there"
            assert handle.state() == "completed"

    run(main())


def test_a_batch_that_is_late_may_be_awaited_again(cluster: LocalCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            held = await client.submit(hold, str(tmp_path), 1)
            batch = await client.map(at_night, range(3))
            with pytest.raises(DeadlineExceeded, match="0 of 3 finished in time"):
                await within(0.2, batch.results(timeout=0.2))
            await batch.cancel()
            with pytest.raises(TaskCancelled):
                await within(10, batch.results(timeout=10))
            assert batch.progress == (3, 3, 3)
            (tmp_path / "go").touch()
            assert await within(10, held.result(timeout=10)) == 1

    run(main())


def test_whoever_waits_when_the_client_closes_is_told_and_nobody_may_ask_after(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(hold, str(tmp_path), 1)
            waiting = asyncio.ensure_future(handle.result(timeout=30))
            batch = await client.map(at_night, range(3))
            collecting = asyncio.ensure_future(batch.results(timeout=30))
            await until("the task runs", (tmp_path / "started-1").exists)
        for future in (waiting, collecting):
            with pytest.raises(Unavailable) as caught:
                await within(1, future)  # type: ignore[arg-type]
            assert caught.value.outcome == "unknown"
        for question in (client.submit(add, 1), client.map(add, [1]), client.records([handle.id]), handle.cancel()):
            with pytest.raises(Unavailable) as caught:
                await within(1, question)
            assert caught.value.outcome == "refused"
        with pytest.raises(Unavailable):
            client.handle(handle.id)
        # The task lives on without its client.
        (tmp_path / "go").touch()
        async with Client.connect(cluster.topology) as other:
            assert await within(10, other.handle(handle.id).result(timeout=10)) == 1
            for task_id in batch.ids:
                await other.handle(task_id).cancel()

    run(main())


@pytest.mark.parametrize(
    ("function", "started", "grace", "shortest", "longest", "left"),
    [
        (stop_when_asked, "started-polite", 60, 0.0, 5.0, "cleaned-up"),
        (stop_at_sigterm, "started-rude", 0.5, 0.5, 2.0, "terminated"),
        (never_stop, "started-deaf", 0.5, 2.5, 8.0, "terminated"),
    ],
    ids=["asked", "sigterm", "sigkill"],
)
def test_a_running_task_is_asked_then_terminated_then_killed(
    cluster: LocalCluster,
    tmp_path: Path,
    function: Task[[str], object],
    started: str,
    grace: float,
    shortest: float,
    longest: float,
    left: str,
) -> None:
    """Promise 9: states, and times that a busy machine may only make longer."""

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(function, str(tmp_path))
            await until("the task runs", (tmp_path / started).exists)
            began = time.monotonic()
            await within(5, handle.cancel(grace))
            (record,) = await client.records([handle.id])
            assert record.state in ("processing", "cancelled")
            with pytest.raises(TaskCancelled):
                await within(30, handle.result(timeout=30))
            took = time.monotonic() - began
            assert shortest <= took < longest + 10, f"{took:.2f} s"
            assert (tmp_path / left).exists()
            # Its slot serves others.
            assert await within(10, (await client.submit(add, 1)).result(timeout=10)) == 2

    run(main())


@pytest.mark.parametrize(
    ("grace", "error", "text"),
    [
        (-1, ValueError, "grace: -1 is negative"),
        ("soon", ValueError, 'grace: "soon" is no duration'),
        (None, TypeError, "grace: expected a timedelta"),
        ("1h", ValueError, "grace: '1h' is out of range, 0 to 10 minutes"),
    ],
)
def test_a_grace_that_is_none_is_refused_before_anything_is_sent(
    cluster: LocalCluster, grace: Any, error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(error, match=text):
                await client.handle(1 << 30).cancel(grace)

    run(main())


def test_cancelling_ends_pending_and_running_tasks_but_not_finished_ones(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            pending = await client.submit(at_night, 1)
            runs = await client.submit(hold, str(tmp_path), 2)
            done = await client.submit(add, 3)
            assert await within(10, done.result(timeout=10)) == 4
            await until("the task runs", (tmp_path / "started-2").exists)
            for handle in (pending, runs, done):
                await within(5, handle.cancel(grace=0.1))
            for handle in (pending, runs):
                with pytest.raises(TaskCancelled):
                    await within(5, handle.result(timeout=5))
                assert handle.state() == "cancelled"
            records = await client.records([pending.id, runs.id, done.id])
            assert [record.state for record in records] == ["cancelled", "cancelled", "completed"]
            # The slot of the one that ran is free again.
            batch = await client.map(echo, range(100))
            assert await batch.results(timeout=30) == list(range(100))

    run(main())


def test_a_task_id_that_nobody_submitted_is_not_found(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            with pytest.raises(TaskNotFound, match="no record of task 12345"):
                await within(5, client.handle(12345).result(timeout=5))
            (record,) = await client.records([12345])
            assert (record.state, record.attempts) == ("unknown", 0)

    run(main())


def test_results_survive_their_client(tmp_path: Path) -> None:
    """With one broker: what a development cluster does is the same."""
    with running(make_topology(tmp_path, brokers=1, workers=1)) as alone:

        async def submit() -> int:
            async with Client.connect(alone.topology) as client:
                return (await client.submit(add, 1)).id

        async def collect(task_id: int) -> int:
            async with Client.connect(alone.topology) as client:
                value: int = await client.handle(task_id).result(timeout=10)
                return value

        assert run(collect(run(submit()))) == 2
        assert alone.log is not None
        assert "warning: one broker: for development only" in alone.log.read_text()
