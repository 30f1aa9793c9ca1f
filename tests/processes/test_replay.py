"""Dead letters on real processes: what ends its child three times is kept with evidence, and completes once the cause
is gone and somebody has run it again.
"""

from pathlib import Path

import pytest
from cluster_rig import command_line, run
from cluster_tasks import echo, exit_until, fail, fail_at_first

from cluster import BlockingClient, Client, ClusterError, TaskCancelled, TaskDead, TaskFailed
from cluster.local import LocalCluster
from cluster.state.tasks import CRASHES_MAX


def test_a_task_that_kills_its_child_completes_by_replay_once_the_cause_is_gone(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    cause = tmp_path / "cause"

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(exit_until, str(cause))
            with pytest.raises(TaskDead) as error:
                await handle.result(timeout=30)
            assert (error.value.evidence.exit_code, error.value.attempts) == (7, CRASHES_MAX)
            assert "it is not there yet" in error.value.evidence.stderr
            again = await handle.replay()
            with pytest.raises(TaskDead) as error:
                await again.result(timeout=30)
            assert error.value.attempts == 2 * CRASHES_MAX, "nothing has changed but the numbers of the attempts"
            cause.write_text("at last")
            assert await client.replay([handle.id]) == 1
            assert await client.handle(handle.id).result(timeout=30) == "at last"
            (record,) = await client.records([handle.id])
            assert (record.state, record.attempts) == ("completed", 2 * CRASHES_MAX + 1)
            assert await client.replay([handle.id]) == 0, "it has its result"
            assert await (await client.submit(echo, 5)).result(timeout=30) == 5, "and nobody else was harmed"

    run(main())


def test_a_blocking_client_replays_as_well(client: BlockingClient) -> None:
    handle = client.submit(fail_at_first.options(retry=0), 1)
    with pytest.raises(TaskFailed):
        handle.result(timeout=30)
    assert handle.replay().result(timeout=30) == 2, "the second attempt"
    with pytest.raises(ClusterError, match="it is completed"):
        handle.replay()
    waiting = [client.submit(echo.options(delay="1h"), number) for number in range(3)]
    for one in waiting:
        one.cancel()
    assert client.replay(one.id for one in waiting) == 3
    for number, one in enumerate(waiting):
        assert client.handle(one.id).result(timeout=30) == number
        with pytest.raises(TaskCancelled):
            one.result(timeout=5)


def test_the_command_replays_what_it_is_given_and_says_what_it_does_not(cluster: LocalCluster, tmp_path: Path) -> None:
    cause = tmp_path / "cause"
    topology = str(cluster.topology)

    async def prepare() -> tuple[int, int]:
        async with Client.connect(topology) as client:
            dead = await client.submit(exit_until, str(cause))
            done = await client.submit(echo, 1)
            with pytest.raises(TaskDead):
                await dead.result(timeout=30)
            await done.result(timeout=30)
            return dead.id, done.id

    dead, done = run(prepare())
    cause.write_text("now")
    dry = command_line("cluster", "replay", topology, str(dead), "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout == f"{dead} dead\n1 task would be replayed\n"
    found = command_line("cluster", "replay", topology, str(dead), str(done), str(dead), "7")
    assert found.returncode == 1
    assert found.stdout == f"{dead} dead\nreplayed 1 task\n"
    assert found.stderr.splitlines() == [f"not replayed: {done} is completed", "not replayed: 7 is unknown"]

    async def result() -> object:
        async with Client.connect(topology) as client:
            return await client.handle(dead).result(timeout=30)

    assert run(result()) == "now"


def test_the_command_replays_all_that_a_filter_finds(cluster: LocalCluster) -> None:
    topology = str(cluster.topology)

    async def found() -> list[int]:
        async with Client.connect(topology) as client:
            return [info.id async for info in client.tasks(state="failed", name=fail.name)]

    async def prepare() -> None:
        async with Client.connect(topology) as client:
            batch = await client.map(fail, ["one", "two", "three"])
            await batch.wait(timeout=30)

    run(prepare())
    failed = run(found())
    assert len(failed) == 3
    by_filter = ("cluster", "tasks", "replay", topology, "--name", fail.name)
    dry = command_line(*by_filter, "--dry-run")
    assert sorted(dry.stdout.splitlines()[:-1]) == sorted(f"{task} failed {fail.name} of default" for task in failed)
    assert dry.stdout.splitlines()[-1] == "3 tasks would be replayed"
    assert command_line(*by_filter).stdout.splitlines()[-1] == "replayed 3 tasks"
    assert command_line("cluster", "replay", topology, "--state", "dead", "--queue", "other").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "by their ids, or by --state"),
        (("7", "--state", "dead"), 2, "by their ids, or by --state"),
        (("x",), 2, "'x' is no task's id"),
        (("-1",), 2, "-1"),
        (("--state", "completed"), 2, "'completed' is not one of"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_call(
    cluster: LocalCluster, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found = command_line("cluster", "replay", str(cluster.topology), *arguments)
    assert found.returncode == status
    assert message in found.stderr
