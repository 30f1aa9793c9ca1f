"""Task actors in a whole cluster: a pool whose instances keep their state, and keys with one owner each."""

import asyncio
import shutil
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path

import actor_tasks
import pytest
from actor_tasks import AlsoCounter, Counter
from cluster_rig import command_line, run, running

from cluster import BlockingClient, Client, TaskDead, TaskFailed, TaskNotFound
from cluster.local import LocalCluster, write_topology

MODULE = "actor_tasks"
TIMEOUT_S = 60.0
SLOTS = 4               # of both workers together
CALLS = 200
KEYS = ("ams", "fra", "icn", "sfo")
ROUNDS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("actors")
    topology = write_topology(folder, name="actors", modules=[MODULE], brokers=3, workers=2, slots=2)
    shutil.copy(actor_tasks.__file__, folder)
    with running(topology) as started:
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[BlockingClient]:
    with Client.open(cluster.topology) as started:
        yield started


def test_instances_of_a_pool_keep_their_state_in_their_child(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            batch = await client.actor(Counter).add.map([1] * CALLS)
            results = await batch.results(timeout=TIMEOUT_S)
            pids = Tally(pid for _, pid in results)
            assert 1 < len(pids) <= SLOTS, "busy enough for more than one"
            for pid, calls in pids.items():
                totals = [total for total, at in results if at == pid]
                assert sorted(totals) == list(range(min(totals), min(totals) + calls)), "none is counted elsewhere"

    run(main())


def test_awaiting_a_call_gives_the_result_or_raises_what_the_method_raised(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            counter = client.actor(Counter)
            assert (await counter.who())[2] == f"{MODULE}:Counter.who"
            handle = await counter.who.submit()
            assert handle.id > 0 and (await handle.result(TIMEOUT_S))[0] == ""
            assert await counter[Counter.who]() == ("", 0, f"{MODULE}:Counter.who")
            with pytest.raises(TaskFailed, match="wrong") as raised:
                await counter.fail("wrong")
            assert isinstance(raised.value.__cause__, ValueError)
            with pytest.raises(TypeError, match="missing a required argument"):
                await counter.fail()
            with pytest.raises(TaskFailed, match="time limit"):
                await counter.sleep.options(timeout="100ms")(60)

    run(main())


def test_the_blocking_client_has_the_same_calls(client: BlockingClient) -> None:
    counter = client.actor(Counter)
    assert counter.who() == ("", 0, f"{MODULE}:Counter.who")
    assert counter.add_later.submit(1).result(TIMEOUT_S)[0] >= 1
    assert len(counter[Counter.add].options(priority=9).map([1] * 10).results(TIMEOUT_S)) == 10
    with pytest.raises(TaskFailed, match="no luck"):
        counter.fail("no luck")


def test_an_executor_takes_methods_of_actors(client: BlockingClient) -> None:
    with client.executor() as pool:
        mine = client.actor(Counter, key="executor")
        totals = [total for total, _ in pool.map(mine.add, [1] * ROUNDS, timeout=TIMEOUT_S)]
        assert sorted(totals) == list(range(1, ROUNDS + 1)), "one instance has counted them all"
        assert pool.submit(mine.who).result(TIMEOUT_S)[0] == "executor"
        assert pool.submit(client.actor(Counter)[Counter.add_later], number=0).result(TIMEOUT_S)[0] >= 0
        error = pool.submit(mine.fail, "no luck").exception(TIMEOUT_S)
        assert isinstance(error, ValueError) and str(error) == "no luck"
        assert isinstance(pool.submit(mine.add).exception(TIMEOUT_S), TypeError)
        with pytest.raises(TaskNotFound, match=r"call it as cluster.actor\(Counter\).add"):
            pool.submit(Counter().add, 1)


def test_calls_of_one_key_from_two_clients_have_one_owner(cluster: LocalCluster) -> None:
    async def work(key: str) -> list[tuple[int, int]]:
        async with Client.connect(cluster.topology) as client:
            counter = client.actor(Counter, key=key)
            one_by_one = [await counter.add(1) for _ in range(ROUNDS)]
            batch = await counter.add_later.map([1] * ROUNDS)
            return one_by_one + await batch.results(timeout=TIMEOUT_S)

    async def main() -> None:
        found = await asyncio.gather(*(work(key) for key in KEYS for _ in range(2)))
        for index, key in enumerate(KEYS):
            both = found[2 * index] + found[2 * index + 1]
            assert len({pid for _, pid in both}) == 1, f"{key} has more than one owner"
            assert sorted(total for total, _ in both) == list(range(1, 4 * ROUNDS + 1))
        async with Client.connect(cluster.topology) as client:
            key, epoch, _ = await client.actor(Counter, key=KEYS[0]).who()
            assert key == KEYS[0] and epoch > 0
            assert (await client.actor(AlsoCounter, key=KEYS[0]).add(1))[0] == 1, "the class is a part of the key"

    run(main())


def test_after_the_end_of_its_process_a_key_goes_on_with_a_new_instance(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            counter = client.actor(Counter, key="dies")
            assert [(await counter.add(1))[0] for _ in range(3)] == [1, 2, 3]
            _, pid = await counter.add(1)
            with pytest.raises(TaskDead):
                await counter.exit(3)
            total, other = await counter.add(1)
            assert total == 1 and other != pid

    run(main())


def test_the_command_line_calls_methods_too(cluster: LocalCluster, client: BlockingClient) -> None:
    def submit(*arguments: str) -> tuple[int, str]:
        done = command_line("cluster", "submit", str(cluster.topology), "--wait", *arguments)
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    code, said = submit(f"{MODULE}:Counter.who")
    assert (code, said) == (0, f'["",0,"{MODULE}:Counter.who"]')
    code, said = submit("--key", "shell", f"{MODULE}:Counter.add", "5")
    assert code == 0 and said.startswith("[5,")
    assert client.actor(Counter, key="shell").add(1)[0] == 6
    code, said = submit(f"{MODULE}:Counter.stopped")
    assert code == 2 and said.endswith(f"{MODULE}:Counter.stopped is not a @task")
    code, said = submit("--key", "", f"{MODULE}:Counter.add", "5")
    assert code == 2 and "1 to 256 bytes" in said


def test_a_worker_that_drains_stops_its_instances(cluster: LocalCluster, tmp_path: Path) -> None:
    """Last in this module: it ends the cluster."""

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            for key in KEYS:
                await client.actor(Counter, key=f"{key} stays").leave_word(str(tmp_path))

    run(main())
    cluster.stop()
    assert {path.name for path in tmp_path.iterdir()} == {f"stopped-{key} stays" for key in KEYS}
