"""What users' functions return, raise, and do to their process, as the client that awaits them sees it."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cluster_rig import run, total
from cluster_tasks import (
    Invoice,
    Order,
    Price,
    add,
    backtrack_forever,
    bill,
    clean_up_asynchronously,
    exit_at_first,
    exit_at_once,
    exit_politely,
    fail,
    fail_at_first,
    fail_strangely,
    finish_when_warned,
    ignore_the_warning,
    kill_self,
    later,
    print_much,
    print_much_and_exit,
    read_nothing,
    return_an_object,
    return_bytes,
    wait_asynchronously,
    wait_busily,
    who,
)

from cluster import Backoff, Client, Handle, Record, Task, TaskDead, TaskFailed
from cluster.local import LocalCluster

CRASHES_MAX = 3
STDERR_BYTES_MAX = 4 * 1024
BODY_BYTES_MAX = 1024 * 1024
RESULT_TIMEOUT_S = 60.0


def outcome(cluster: LocalCluster, submit: Callable[[Client], object]) -> tuple[object, Record]:
    """What became of one task, as value or as error, and its record."""

    async def main() -> tuple[object, Record]:
        async with Client.connect(cluster.topology) as client:
            handle: Handle[object] = await submit(client)  # type: ignore[misc]
            try:
                value: object = await handle.result(timeout=RESULT_TIMEOUT_S)
            except (TaskFailed, TaskDead) as error:
                value = error
            (record,) = await client.records([handle.id])
            return value, record

    return run(main())


# -- values ------------------------------------------------------------------------------------------------------


def test_arguments_and_results_of_structured_types_arrive_as_annotated(cluster: LocalCluster) -> None:
    due = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)
    order, price = Order("lamp", 3, due), Price(700, "CHF")
    value, record = outcome(cluster, lambda client: client.submit(bill, order, price, days=timedelta(days=1)))
    assert value == Invoice(Price(2_100, "CHF"), datetime(2026, 3, 1, 12, 30, tzinfo=UTC), ["3 x lamp"])
    assert (record.state, record.attempts) == ("completed", 1)


def test_map_passes_each_item_and_the_same_keywords(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            batch = await client.map(add, range(1_000), right=10)
            finished = [await handle async for handle in batch.as_completed()]
            assert sorted(finished) == list(range(10, 1_010))
            assert await batch == list(range(10, 1_010))
            assert batch.progress == (1_000, 0, 1_000)

    run(main())


def test_an_async_task_is_awaited_in_its_child(cluster: LocalCluster) -> None:
    assert outcome(cluster, lambda client: client.submit(later, "now"))[0] == "now!"


def test_a_task_knows_its_id_its_attempt_its_name_and_its_deadline(cluster: LocalCluster) -> None:
    value, record = outcome(cluster, lambda client: client.submit(who))
    assert value == (record.task, 1, "tests:who", True)


def test_a_task_stays_a_function_that_can_be_called(cluster: LocalCluster) -> None:
    assert add(2, 3) == 5


# -- failures ----------------------------------------------------------------------------------------------------


def test_a_task_that_raises_fails_with_type_message_traceback_and_cause(cluster: LocalCluster) -> None:
    error, record = outcome(cluster, lambda client: client.submit(fail, "wrong number"))
    assert isinstance(error, TaskFailed)
    assert (error.type, error.message) == ("ValueError", "wrong number")
    assert "cluster_tasks.py" in error.traceback and "raise ValueError(message)" in error.traceback
    assert "executor.py" not in error.traceback, "it begins in the user's code"
    assert isinstance(error.__cause__, ValueError)
    assert (record.state, record.attempts) == ("failed", 1)


def test_an_exception_of_the_users_own_keeps_its_full_name(cluster: LocalCluster) -> None:
    error, _ = outcome(cluster, lambda client: client.submit(fail_strangely))
    assert isinstance(error, TaskFailed)
    assert (error.type, error.message) == ("cluster_tasks.Strange", "there is no name for it")


def test_a_task_that_raises_is_tried_again_for_the_exceptions_that_it_names(cluster: LocalCluster) -> None:
    value, record = outcome(cluster, lambda client: client.submit(fail_at_first, 2))
    assert (value, record.state, record.attempts) == (3, "completed", 3)


def test_with_its_retries_used_up_it_fails_with_the_last_exception(cluster: LocalCluster) -> None:
    error, record = outcome(cluster, lambda client: client.submit(fail_at_first, 9))
    assert isinstance(error, TaskFailed)
    assert (error.type, error.message) == ("cluster_tasks.Flaky", "attempt 4")
    assert (record.state, record.attempts) == ("failed", 4)


def test_what_a_retry_does_not_name_fails_at_once(cluster: LocalCluster) -> None:
    retried = fail.options(retry=Backoff(times=3, first=0.05, on=(KeyError,)))
    error, record = outcome(cluster, lambda client: client.submit(retried, "no"))
    assert isinstance(error, TaskFailed) and record.attempts == 1


def test_a_time_limit_is_retried_if_the_retry_says_so(cluster: LocalCluster) -> None:
    slow = backtrack_forever.options(timeout=0.3, retry=Backoff(times=1, first=0.05, on=(TimeoutError,)))
    error, record = outcome(cluster, lambda client: client.submit(slow))
    assert isinstance(error, TaskFailed) and error.type == "TimeLimitExceeded"
    assert record.attempts == 2


def test_a_task_is_warned_once_of_its_soft_time_limit(cluster: LocalCluster) -> None:
    value, record = outcome(cluster, lambda client: client.submit(finish_when_warned, "x"))
    limit_s = finish_when_warned.wire_options.soft_timeout_ms / 1_000
    assert value == [f"SoftTimeLimit: {finish_when_warned.name} has run for its soft time limit of {limit_s:g} s"]
    assert (record.state, record.attempts) == ("completed", 1)


def test_a_coroutine_is_cancelled_at_its_soft_time_limit_and_may_clean_up(cluster: LocalCluster) -> None:
    value, record = outcome(cluster, lambda client: client.submit(clean_up_asynchronously, 1))
    assert (value, record.state) == ("cleaned up", "completed")


@pytest.mark.parametrize("function", [ignore_the_warning, wait_asynchronously, wait_busily])
def test_a_task_that_does_not_catch_its_warning_has_failed_and_its_slot_goes_on(
    cluster: LocalCluster, function: Task[[int], None]
) -> None:

    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            handle = await client.submit(function, 1)
            batch = await client.map(add, range(200))
            with pytest.raises(TaskFailed) as caught:
                await handle.result(timeout=RESULT_TIMEOUT_S)
            assert caught.value.type == "SoftTimeLimit"
            assert await batch.results(timeout=RESULT_TIMEOUT_S) == list(range(1, 201))

    run(main())


def test_a_soft_time_limit_can_be_retried(cluster: LocalCluster) -> None:
    retried = ignore_the_warning.options(retry=Backoff(times=1, first=0.05, on=(TimeoutError,)))
    error, record = outcome(cluster, lambda client: client.submit(retried, 1))
    assert isinstance(error, TaskFailed) and record.attempts == 2


def test_arguments_that_do_not_fit_are_not_tried_again(cluster: LocalCluster) -> None:
    error, record = outcome(cluster, lambda client: client.submit(add.options(retry=3), "one"))  # type: ignore[arg-type]
    assert isinstance(error, TaskFailed) and error.type == "DecodeError"
    assert record.attempts == 1


def test_a_result_that_cannot_be_encoded_fails_and_says_why(cluster: LocalCluster) -> None:
    error, record = outcome(cluster, lambda client: client.submit(return_an_object))
    assert isinstance(error, TaskFailed)
    assert error.type == "EncodeError" and "object" in error.message and "return_an_object" in error.message
    assert record.state == "failed"


def test_results_up_to_the_limit_arrive_and_larger_ones_fail(cluster: LocalCluster) -> None:
    overhead = 5        # of msgpack, for bytes of this length
    value, _ = outcome(cluster, lambda client: client.submit(return_bytes, BODY_BYTES_MAX - overhead))
    assert value == bytes(BODY_BYTES_MAX - overhead)
    error, record = outcome(cluster, lambda client: client.submit(return_bytes, BODY_BYTES_MAX))
    assert isinstance(error, TaskFailed)
    assert error.type == "BodyTooLarge" and str(BODY_BYTES_MAX) in error.message
    assert record.state == "failed"


def test_a_task_past_its_time_limit_in_c_code_is_ended_and_not_run_again(cluster: LocalCluster) -> None:
    error, record = outcome(cluster, lambda client: client.submit(backtrack_forever.options(timeout="300ms")))
    assert isinstance(error, TaskFailed)
    assert error.type == "TimeLimitExceeded" and "0.3 s" in error.message
    assert error.signal == signal.SIGTERM and error.exit_code is None
    assert (record.state, record.attempts) == ("failed", 1)


def test_a_task_that_prints_much_completes(cluster: LocalCluster) -> None:
    assert outcome(cluster, lambda client: client.submit(print_much, 16))[0] == 16


# -- crashes -----------------------------------------------------------------------------------------------------


def dies(cluster: LocalCluster, submit: Callable[[Client], object]) -> TaskDead:
    """The task ends its process each time; it is dead after the third."""
    error, record = outcome(cluster, submit)
    assert isinstance(error, TaskDead), error
    assert error.attempts == CRASHES_MAX
    assert (record.state, record.attempts) == ("dead", CRASHES_MAX)
    return error


def test_a_task_that_exits_its_process_is_dead_after_three_attempts_with_code_and_stderr(
    cluster: LocalCluster,
) -> None:
    evidence = dies(cluster, lambda client: client.submit(exit_at_once, 3)).evidence
    assert (evidence.type, evidence.exit_code, evidence.signal) == ("ChildExited", 3, -1)
    assert "last words of 3" in evidence.stderr, "the evidence is that of the last attempt"


def test_sys_exit_ends_the_process_even_with_status_0(cluster: LocalCluster) -> None:
    evidence = dies(cluster, lambda client: client.submit(exit_politely, 0)).evidence
    assert (evidence.type, evidence.exit_code) == ("ChildExited", 0)
    assert "goodbye" in evidence.stderr


def test_a_task_that_is_killed_is_dead_with_the_signal(cluster: LocalCluster) -> None:
    evidence = dies(cluster, lambda client: client.submit(kill_self)).evidence
    assert (evidence.type, evidence.exit_code, evidence.signal) == ("ChildKilled", -1, signal.SIGKILL)


def test_a_segmentation_fault_leaves_the_stack_of_the_child(cluster: LocalCluster) -> None:
    evidence = dies(cluster, lambda client: client.submit(read_nothing)).evidence
    assert (evidence.type, evidence.signal) == ("ChildKilled", signal.SIGSEGV)
    assert "Segmentation fault" in evidence.stderr and "read_nothing" in evidence.stderr


def test_of_much_output_the_end_is_kept(cluster: LocalCluster) -> None:
    evidence = dies(cluster, lambda client: client.submit(print_much_and_exit, 2, 7)).evidence
    assert evidence.exit_code == 7
    assert len(evidence.stderr.encode()) <= STDERR_BYTES_MAX
    assert evidence.stderr.endswith("x\nthe end\n")


def test_a_task_that_crashes_once_is_run_again(cluster: LocalCluster) -> None:
    value, record = outcome(cluster, lambda client: client.submit(exit_at_first, 9))
    assert value == 2
    assert (record.state, record.attempts) == ("completed", 2)


def test_one_crashing_task_among_many_takes_nobody_with_it(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            before = await client.status()
            first = await client.map(add, range(500))
            culprit = await client.submit(exit_at_once, 5)
            second = await client.map(add, range(500))
            assert await first.results(timeout=RESULT_TIMEOUT_S) == list(range(1, 501))
            assert await second.results(timeout=RESULT_TIMEOUT_S) == list(range(1, 501))
            with pytest.raises(TaskDead):
                await culprit.result(timeout=RESULT_TIMEOUT_S)
            records = await client.records([*first.ids, *second.ids])
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}
            after = await client.status()
            assert total(after, "dead") - total(before, "dead") == 1
            assert total(after, "completed") - total(before, "completed") == 1_000

    run(main())
