"""A cluster as an executor of `concurrent.futures`: what its futures raise, cancel and wait for."""

import asyncio
import os
import threading
from concurrent.futures import CancelledError, as_completed, wait

import pytest
from cluster_tasks import add, at_night, echo, fail, fail_strangely, later

from cluster import BlockingClient, Client, ClusterError, EncodeError, TaskFailed, TaskNotFound
from cluster.local import LocalCluster

TIMEOUT_S = 60.0


def test_futures_hold_results_and_map_keeps_the_order(client: BlockingClient) -> None:
    with client.executor() as pool:
        assert pool.submit(add, 1, right=2).result(TIMEOUT_S) == 3
        assert pool.submit(later, "now").result(TIMEOUT_S) == "now!"
        assert list(pool.map(add, range(3_000), timeout=TIMEOUT_S)) == list(range(1, 3_001))
        futures = [pool.submit(echo, number) for number in range(20)]
        assert sorted(future.result() for future in as_completed(futures, TIMEOUT_S)) == list(range(20))


def stranger() -> None:
    """No test of this process makes a task of it, as one does of `len`."""


def test_a_plain_function_of_which_a_task_was_made_will_do(client: BlockingClient) -> None:
    with client.executor() as pool:
        assert pool.submit(add.function, 1).result(TIMEOUT_S) == 2
        with pytest.raises(TaskNotFound, match="stranger is not a task"):
            pool.submit(stranger)


def test_a_future_raises_what_the_function_raised_if_python_has_it(client: BlockingClient) -> None:
    with client.executor() as pool:
        error = pool.submit(fail, "no such picture").exception(TIMEOUT_S)
        assert isinstance(error, ValueError) and str(error) == "no such picture"
        assert isinstance(error.__cause__, TaskFailed) and "cluster_tasks.py" in error.__cause__.traceback
        assert isinstance(pool.submit(fail_strangely).exception(TIMEOUT_S), TaskFailed)


def test_what_is_wrong_with_a_call_is_in_its_future(client: BlockingClient) -> None:
    with client.executor() as pool:
        assert isinstance(pool.submit(add).exception(TIMEOUT_S), TypeError)  # type: ignore[call-arg]
        assert isinstance(pool.submit(add, object()).exception(TIMEOUT_S), EncodeError)  # type: ignore[arg-type]


def test_what_waits_here_can_be_cancelled_and_what_the_cluster_has_cannot(client: BlockingClient) -> None:
    pool = client.executor(max_workers=1)
    begun, waits, dropped = (pool.submit(at_night, number) for number in range(3))
    while not begun.running():
        pass
    assert not begun.cancel()
    assert waits.cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        dropped.result(TIMEOUT_S)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(add, 1)
    # No worker serves its queue. The client's end is its future's end.
    client.close()
    with pytest.raises(ClusterError, match="the client ended"):
        begun.result(TIMEOUT_S)
    pool.shutdown()


def test_who_waits_for_a_future_that_is_cancelled_hears_of_it_when_the_client_ends(client: BlockingClient) -> None:
    pool = client.executor(max_workers=1)
    begun, waits = pool.submit(at_night, 1), pool.submit(at_night, 2)
    done: list[object] = []
    waiter = threading.Thread(target=lambda: done.append(wait([waits], TIMEOUT_S).done))
    waiter.start()
    assert waits.cancel()
    client.close()
    waiter.join(TIMEOUT_S)
    assert done == [{waits}]
    assert isinstance(begun.exception(TIMEOUT_S), ClusterError)
    pool.shutdown()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_forked_process_it_says_so_and_waits_for_nothing(client: BlockingClient) -> None:
    pool = client.executor(max_workers=1)
    begun = pool.submit(at_night, 1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pool.submit(add, 1)
        except ClusterError:
            pool.shutdown()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert not begun.done()
    pool.shutdown(wait=False)


def test_an_executor_of_a_closed_client_says_so(cluster: LocalCluster) -> None:
    client = Client.open(cluster.topology).start()
    pool = client.executor()
    client.close()
    with pytest.raises(ClusterError, match="closed"):
        pool.submit(add, 1)
    pool.shutdown()


def test_a_number_of_workers_that_is_none_is_refused(client: BlockingClient) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        client.executor(max_workers=0)


def test_a_loop_may_submit_and_may_not_wait(client: BlockingClient) -> None:
    async def main() -> int:
        pool = client.executor()
        future = pool.submit(add, 1)
        with pytest.raises(ClusterError, match="inside a running event loop"):
            pool.shutdown()
        return await asyncio.wrap_future(future)

    assert asyncio.run(main()) == 2


def test_many_threads_share_an_executor_and_few_workers_serve_them_all(client: BlockingClient) -> None:
    pool, sums = client.executor(max_workers=3), []

    def use() -> None:
        sums.append(sum(pool.map(add, range(200), timeout=TIMEOUT_S)))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    pool.shutdown()
    assert sums == [sum(range(1, 201))] * 6
