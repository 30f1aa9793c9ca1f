"""The client for programs without an event loop: threads, errors in place of deadlocks, and the end of the program."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_tasks import add, echo, fail, later

from cluster import BlockingClient, Client, ClusterError, DeadlineExceeded, TaskFailed, TaskNotFound, Unavailable
from cluster.local import LocalCluster

TIMEOUT_S = 60.0


def test_submit_and_result_block(client: BlockingClient) -> None:
    handle = client.submit(add, 1, right=2)
    assert handle.result(timeout=TIMEOUT_S) == 3
    assert (handle.done(), handle.state()) == (True, "completed")
    assert repr(handle) == f"<BlockingHandle {handle.id} completed>"
    assert client.submit(later, "now").result(TIMEOUT_S) == "now!"


def test_an_error_of_the_task_is_raised_by_result(client: BlockingClient) -> None:
    handle = client.submit(fail, "no such picture")
    with pytest.raises(TaskFailed, match="no such picture"):
        handle.result(TIMEOUT_S)
    with pytest.raises(TaskFailed):
        handle.result()


def test_a_timeout_leaves_the_task_alone(client: BlockingClient) -> None:
    batch = client.map(echo, range(200))
    last = client.submit(echo, 7)
    with pytest.raises(DeadlineExceeded):
        last.result(timeout=0.001)
    assert last.result(TIMEOUT_S) == 7
    assert batch.results(TIMEOUT_S) == list(range(200))


def test_items_of_a_map_are_taken_in_the_callers_thread(client: BlockingClient) -> None:
    threads = set()

    def items() -> Iterator[int]:
        for number in range(3_000):
            threads.add(threading.get_ident())
            yield number

    batch = client.map(add, items(), right=1)
    assert sorted(handle.result() for handle in batch.as_completed()) == list(range(1, 3_001))
    assert batch.progress == (3_000, 0, 3_000) and len(batch) == len(batch.ids) == 3_000
    assert threads == {threading.get_ident()}


def test_progress_is_reported_in_the_callers_thread_to_the_end(client: BlockingClient) -> None:
    seen: list[tuple[int, int, int, int]] = []
    client.map(echo, range(100)).on_progress(
        lambda *counts: seen.append((*counts, threading.get_ident())), every=0.05
    )
    assert len(seen) > 1
    assert seen[-1] == (100, 0, 100, threading.get_ident())


def test_many_threads_share_one_client(client: BlockingClient) -> None:
    def work(number: int) -> list[int]:
        return [client.submit(add, number, right=place).result(TIMEOUT_S) for place in range(20)]

    with ThreadPoolExecutor(16) as pool:
        sums = list(pool.map(work, range(64)))
    assert sums == [[number + place for place in range(20)] for number in range(64)]


def test_tasks_are_listed_shown_and_cancelled_by_their_ids(client: BlockingClient) -> None:
    batch = client.map(add.options(delay="1h", queue="listed"), range(1_200))
    infos = client.tasks(queue="listed", state="pending")
    assert sorted(info.id for info in infos) == batch.ids
    assert len(list(client.tasks(queue="listed", limit=7, stale=True))) == 7
    assert client.task(batch.ids[0]).delayed
    client.cancel(batch.ids)
    assert {info.state for info in client.tasks(queue="listed")} == {"cancelled"}
    with pytest.raises(ValueError, match="there are pending, processing"):
        client.tasks("waiting")
    with pytest.raises(TaskNotFound):
        client.task(5)


def test_a_handle_by_its_id_records_and_status(client: BlockingClient, cluster: LocalCluster) -> None:
    handle = client.submit(add, 20, right=22)
    handle.result(TIMEOUT_S)
    with Client.open(cluster.topology) as other:
        assert other.handle(handle.id).result(TIMEOUT_S) == 42
        assert [record.state for record in other.records([handle.id])] == ["completed"]
        assert other.status()["leader"] in ("b1", "b2", "b3")


def test_cancel_ends_what_waits(client: BlockingClient) -> None:
    batch = client.map(echo, range(500))
    batch.cancel()
    states = {handle.state() for handle in batch.as_completed()}
    assert "cancelled" in states


# -- in place of a deadlock ------------------------------------------------------------------------------------------


def test_inside_an_event_loop_each_call_is_an_error_that_says_what_to_do(client: BlockingClient) -> None:
    handle = client.submit(later, "then")

    async def main() -> None:
        for call in (handle.result, handle.cancel, client.status, lambda: client.submit(add, 1), client.close):
            with pytest.raises(ClusterError, match=r"async with Client\.connect"):
                call()
        with pytest.raises(ClusterError, match=r"async with Client\.connect"):
            client.map(add, [1])

    asyncio.run(main())
    assert handle.result(TIMEOUT_S) == "then!"


def test_a_result_that_is_there_may_be_taken_inside_an_event_loop(client: BlockingClient) -> None:
    handle = client.submit(add, 1)
    handle.result(TIMEOUT_S)

    async def main() -> int:
        return handle.result()

    assert asyncio.run(main()) == 2


def test_a_thread_of_an_event_loop_may_block(client: BlockingClient) -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: client.submit(add, 4).result(TIMEOUT_S))

    assert asyncio.run(main()) == 5


def test_before_the_start_and_after_the_end_calls_say_so(cluster: LocalCluster) -> None:
    client = Client.open(cluster.topology)
    with pytest.raises(ClusterError, match="not connected"):
        client.submit(add, 1)
    with client:
        handle = client.submit(echo, 1)
    for call in (lambda: client.submit(add, 1), client.status, lambda: handle.cancel()):
        with pytest.raises(ClusterError, match="closed"):
            call()
    with pytest.raises(ClusterError, match="once"):
        client.start()
    client.close()


def test_who_waits_in_another_thread_while_the_client_is_closed_is_told(cluster: LocalCluster) -> None:
    errors: list[BaseException] = []
    client = Client.open(cluster.topology).start()
    client.map(echo, range(600))        # before it
    last = client.submit(echo, 1)

    def wait() -> None:
        try:
            last.result()
        except BaseException as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    client.close()
    waiting.join(TIMEOUT_S)
    assert [type(error) for error in errors] == [Unavailable]


def test_without_a_cluster_the_start_fails_and_leaves_no_thread(tmp_path: Path) -> None:
    topology = tmp_path / "topology.toml"
    topology.write_text('cluster = { name = "none" }\nbroker = [{ name = "b1", address = "127.0.0.1:9" }]\n')
    before = threading.active_count()
    with pytest.raises(Unavailable, match=r"b1 127\.0\.0\.1:9"):
        Client.open(topology, deadline=0.3).start()
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own(client: BlockingClient) -> None:
    client.submit(add, 1).result(TIMEOUT_S)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client.submit(add, 1)
            answer = "it went through"
        except ClusterError as error:
            answer = str(error)
        except BaseException as error:
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as told:
        assert "forked" in told.read()


def test_a_program_that_forgets_to_close_ends_all_the_same(cluster: LocalCluster) -> None:
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from cluster import Client\n"
        "from cluster_tasks import add\n"
        f"client = Client.open({str(cluster.topology)!r}).start()\n"
        "print(client.submit(add, 1).result(60))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2\n", "")


def test_ctrl_c_interrupts_a_call(cluster: LocalCluster) -> None:
    program = (
        "import os, signal, sys, threading\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from cluster import Client\n"
        "from cluster_tasks import echo\n"
        f"with Client.open({str(cluster.topology)!r}) as client:\n"
        "    batch = client.map(echo, range(5_000))\n"
        "    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        batch.results()\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "    batch.cancel()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted\n", "")
