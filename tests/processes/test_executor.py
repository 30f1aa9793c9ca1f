"""What a task can do to its process, on real processes, and what is recorded of it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import executor_tasks as tasks
import pytest
from executor_rig import DEADLINE_S, HERE, run, slot

from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_TIMED_OUT,
    Failure,
    Outcome,
)
from cluster.worker.slots import Why


def failure(outcome: Outcome) -> Failure:
    assert outcome.error is not None
    return outcome.error


def test_a_task_gets_its_arguments_and_its_result_comes_back() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.add, 2, 3))
            assert outcome.status == OUTCOME_COMPLETED
            assert tasks.add.decode_result(outcome.body) == 5
            assert abs(outcome.started_ms - time.time() * 1_000) < 60_000
            assert rig.names is not None and "executor_tasks:add" in rig.names

    run(main)


def test_an_async_task_runs_in_a_loop_of_the_child() -> None:
    async def main() -> None:
        async with slot() as rig:
            for text in ("one", "two"):
                outcome = await rig.outcome(rig.give(tasks.later, text))
                assert tasks.later.decode_result(outcome.body) == text

    run(main)


def test_a_task_knows_who_it_is() -> None:
    async def main() -> None:
        async with slot() as rig:
            task = rig.give(tasks.who)
            outcome = await rig.outcome(task)
            assert tasks.who.decode_result(outcome.body) == (task, 1, "executor_tasks:who")

    run(main)


def test_tasks_of_one_slot_run_in_the_order_in_which_they_were_assigned() -> None:
    async def main() -> None:
        async with slot() as rig:
            given = [rig.give(tasks.add, number, 0) for number in range(3_000)]
            await rig.until(lambda: len(rig.done) == len(given))
            assert list(rig.done) == given
            assert [tasks.add.decode_result(rig.done[task].body) for task in given] == list(range(3_000))

    run(main)


def test_a_task_that_raises_fails_with_type_message_and_traceback_and_the_child_goes_on() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.fail, "wrong"))
            assert outcome.status == OUTCOME_FAILED
            assert (failure(outcome).type, failure(outcome).message) == ("ValueError", "wrong")
            assert "raise ValueError(message)" in failure(outcome).traceback
            assert "executor.py" not in failure(outcome).traceback
            odd = failure(await rig.outcome(rig.give(tasks.fail_strangely)))
            assert odd.type == "executor_tasks.fail_strangely.<locals>.Odd"
            assert rig.exits == 0

    run(main)


def test_a_long_traceback_and_a_long_message_are_cut() -> None:
    async def main() -> None:
        async with slot() as rig:
            error = failure(await rig.outcome(rig.give(tasks.fail, "é" * 100_000)))
            assert len(error.message.encode()) <= 4_096
            assert len(error.traceback.encode()) <= 8_192

    run(main)


def test_a_result_that_cannot_be_encoded_is_a_failure_that_says_so() -> None:
    async def main() -> None:
        async with slot() as rig:
            error = failure(await rig.outcome(rig.give(tasks.unencodable)))
            assert error.type == "EncodeError"
            assert "type object" in error.message
            error = failure(await rig.outcome(rig.give(tasks.large, 1024 * 1024)))
            assert error.type == "BodyTooLarge"

    run(main)


def test_results_too_large_for_the_ring_come_as_frames() -> None:
    async def main() -> None:
        async with slot() as rig:
            given = [rig.give(tasks.large, 300_000) for _ in range(20)]
            await rig.until(lambda: len(rig.done) == 20)
            assert all(len(tasks.large.decode_result(rig.done[task].body)) == 300_000 for task in given)

    run(main)


def test_arguments_that_do_not_fit_the_annotations_fail_the_task() -> None:
    async def main() -> None:
        async with slot() as rig:
            error = failure(await rig.outcome(rig.give(tasks.add, "two", 3)))
            assert "argument 1" in error.message

    run(main)


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_that_exits_its_process_is_the_culprit_with_exit_code_and_stderr(code: int) -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.complain_then_exit, code))
            assert outcome.status == OUTCOME_CRASHED
            assert (failure(outcome).exit_code, failure(outcome).signal) == (code, -1)
            assert "last words" in failure(outcome).stderr
            outcome = await rig.outcome(rig.give(tasks.exit_at_once, code))
            assert (outcome.status, failure(outcome).exit_code) == (OUTCOME_CRASHED, code)
            assert rig.starts >= 2

    run(main)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_a_task_killed_by_a_signal_is_the_culprit_with_that_signal(number: signal.Signals) -> None:
    async def main() -> None:
        async with slot() as rig:
            before = rig.give(tasks.add, 1, 1, estimate_us=1)
            culprit = rig.give(tasks.kill_self, int(number), estimate_us=1)
            behind = rig.give(tasks.add, 1, 1, estimate_us=1)
            outcome = await rig.outcome(culprit)
            assert outcome.status == OUTCOME_CRASHED
            assert (failure(outcome).exit_code, failure(outcome).signal) == (-1, number)
            if number == signal.SIGSEGV:
                assert "Fatal Python error" in failure(outcome).stderr
            assert (await rig.outcome(before)).status == OUTCOME_COMPLETED
            assert (await rig.outcome(behind)).status == OUTCOME_RETURNED

    run(main)


def test_a_task_past_its_time_limit_in_c_code_is_ended_and_named() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.catastrophe, timeout_ms=200))
            assert outcome.status == OUTCOME_TIMED_OUT
            assert failure(outcome).type == "TimeLimitExceeded"
            assert failure(outcome).signal == signal.SIGTERM
            assert "0.2 s" in failure(outcome).message
            assert outcome.run_us >= 200_000
            assert (await rig.outcome(rig.give(tasks.add, 1, 1))).status == OUTCOME_COMPLETED

    run(main)


def test_a_task_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.stubborn_loop, timeout_ms=100))
            assert outcome.status == OUTCOME_TIMED_OUT
            assert failure(outcome).signal == signal.SIGKILL

    run(main)


def test_a_task_that_prints_much_neither_blocks_nor_fills_memory() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.print_much, 64))
            assert outcome.status == OUTCOME_COMPLETED
            error = failure(await rig.outcome(rig.give(tasks.print_much_then_die, 16)))
            assert error.exit_code == 7
            assert len(error.stderr.encode()) <= 4_096
            assert error.stderr.endswith("x\nthe end\n")

    run(main)


def test_a_child_that_is_stuck_holds_no_finished_outcomes_back() -> None:
    async def main() -> None:
        async with slot() as rig:
            quick = [rig.give(tasks.add, number, 0, estimate_us=1) for number in range(10)]
            stuck = rig.give(tasks.catastrophe, estimate_us=1)      # so it is not announced before it starts
            await rig.until(lambda: all(task in rig.done for task in quick))
            assert stuck not in rig.done
            assert all(rig.done[task].status == OUTCOME_COMPLETED for task in quick)

    run(main)


def test_what_waits_behind_a_task_that_overruns_its_estimate_goes_back_unrun(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot() as rig:
            stuck = rig.give(tasks.wait_for_file, str(tmp_path / "go"), estimate_us=1)
            waits = rig.give(tasks.touch, str(tmp_path / "ran"), estimate_us=1)
            assert (await rig.outcome(waits)).status == OUTCOME_RETURNED
            (tmp_path / "go").touch()
            assert (await rig.outcome(stuck)).status == OUTCOME_COMPLETED
            await rig.outcome(rig.give(tasks.add, 1, 1))
            assert not (tmp_path / "ran").exists()
            assert rig.exits == 0

    run(main)


def test_a_withdrawn_task_does_not_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot() as rig:
            first = rig.give(tasks.wait_for_file, str(tmp_path / "go"), estimate_us=10**9)
            await rig.running(first)
            waits = rig.give(tasks.touch, str(tmp_path / "ran"))
            last = rig.give(tasks.add, 1, 1)
            rig.child.withdraw((waits, 1))
            (tmp_path / "go").touch()
            await rig.outcome(last)
            assert waits not in rig.done
            assert not (tmp_path / "ran").exists()
            assert rig.exits == 0

    run(main)


def test_withdrawing_the_running_task_ends_it_silently_and_returns_what_waits() -> None:
    async def main() -> None:
        async with slot() as rig:
            running = rig.give(tasks.catastrophe, estimate_us=10**9)
            await rig.running(running)
            waits = rig.give(tasks.add, 1, 1)
            rig.child.withdraw((running, 1))
            assert (await rig.outcome(waits)).status == OUTCOME_RETURNED
            await rig.until(lambda: rig.exits == 1)
            assert running not in rig.done
            assert (await rig.outcome(rig.give(tasks.add, 1, 1))).status == OUTCOME_COMPLETED

    run(main)


def test_a_killed_child_that_was_idle_blames_nobody() -> None:
    async def main() -> None:
        async with slot() as rig:
            await rig.outcome(rig.give(tasks.add, 1, 1))
            os.kill(await rig.pid(), signal.SIGKILL)
            await rig.until(lambda: rig.starts == 2)
            assert len(rig.done) == 1

    run(main)


def test_a_child_killed_by_the_worker_blames_nobody() -> None:
    async def main() -> None:
        async with slot() as rig:
            running = rig.give(tasks.catastrophe, estimate_us=10**9)
            await rig.running(running)
            rig.child.kill(Why.STOPPING)
            assert (await rig.outcome(running)).status == OUTCOME_RETURNED

    run(main)


def test_a_grandchild_that_lives_on_does_not_hide_the_exit() -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.leave_a_grandchild))
            assert failure(outcome).exit_code == 5

    run(main)


def test_a_copy_of_the_child_that_a_task_forked_and_did_not_end_says_nothing_in_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with slot() as rig:
            outcome = await rig.outcome(rig.give(tasks.fork_and_come_back_twice, str(tmp_path / "copy")))
            assert tasks.fork_and_come_back_twice.decode_result(outcome.body) == await rig.pid()
            copy = int((tmp_path / "copy").read_text())
            with pytest.raises(ProcessLookupError):
                os.kill(copy, 0)
            outcome = await rig.outcome(rig.give(tasks.add, 2, 3))
            assert tasks.add.decode_result(outcome.body) == 5

    run(main)


def test_a_child_is_restarted_at_once_and_then_with_growing_pauses() -> None:
    async def main() -> None:
        async with slot() as rig:
            for number in range(3):
                await rig.until(lambda number=number: rig.starts == number + 1)
                os.kill(await rig.pid(), signal.SIGKILL)
            await rig.until(lambda: rig.starts == 4)

    run(main)


def test_a_module_that_cannot_be_imported_is_named_with_its_traceback(tmp_path: Path) -> None:
    async def main() -> None:
        sys.path.insert(0, str(tmp_path))
        (tmp_path / "broken_tasks.py").write_text("import does_not_exist\n")
        try:
            async with slot("broken_tasks") as rig:
                await rig.until(lambda: rig.report is not None)
                report = rig.report
                assert getattr(report, "module", None) == "broken_tasks"
                assert "does_not_exist" in getattr(report, "traceback", "")
        finally:
            sys.path.remove(str(tmp_path))

    run(main)


def test_the_death_of_the_fork_server_is_the_death_of_its_children_and_survived() -> None:
    async def main() -> None:
        async with slot() as rig:
            await rig.outcome(rig.give(tasks.add, 1, 1))
            with open(f"/proc/{await rig.pid()}/stat") as stat:
                server = int(stat.read().rpartition(")")[2].split()[1])
            assert server != os.getpid()
            os.kill(server, signal.SIGKILL)
            await rig.until(lambda: rig.starts == 2)
            assert (await rig.outcome(rig.give(tasks.add, 1, 1))).status == OUTCOME_COMPLETED

    run(main)


PARENT = """
import asyncio, sys
sys.path.insert(0, {here!r})
import executor_rig, executor_tasks as tasks
async def main():
    async with executor_rig.slot() as rig:
        await rig.running(rig.give(tasks.{task}, estimate_us=10**9))
        print(await rig.pid(), flush=True)
        await asyncio.Event().wait()
executor_rig.run(main)
"""


def test_a_child_in_a_c_loop_is_gone_two_seconds_after_its_parent_was_killed() -> None:
    code = PARENT.format(here=HERE, task="stubborn_loop")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        parent.kill()
        parent.wait()
        killed_at = time.monotonic()
        _wait_for_exit(pidfd)
        assert time.monotonic() - killed_at < 2.0


def _wait_for_exit(pidfd: int) -> None:
    async def main() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()

    asyncio.run(main())
    os.close(pidfd)


def test_no_lock_is_left_in_shared_memory() -> None:
    async def main() -> None:
        async with slot() as rig:
            await rig.outcome(rig.give(tasks.add, 1, 1))
            mine = [name for name in os.listdir("/dev/shm") if f"quorumq-{os.getpid()}-" in name]
            assert mine == []

    stale, fresh = Path("/dev/shm/sem.quorumq-stale"), Path("/dev/shm/sem.quorumq-fresh")
    for path, age_s in [(stale, 7_200), (fresh, 0)]:
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    try:
        run(main)
        assert (stale.exists(), fresh.exists()) == (False, True)
    finally:
        stale.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)

