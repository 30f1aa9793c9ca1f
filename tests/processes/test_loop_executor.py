"""What `async` tasks can do to the event loop that they share, on real processes, and what is recorded of it."""

import os
import time
from pathlib import Path

import loop_tasks as tasks
import pytest
from executor_rig import run
from loop_rig import loop

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    OUTCOME_TIMED_OUT,
    Failure,
    Outcome,
)
from cluster.task import Task
from cluster.worker.slots import Why


def failure(outcome: Outcome) -> Failure:
    assert outcome.error is not None
    return outcome.error


def statuses(outcomes: list[Outcome]) -> list[int]:
    return [outcome.status for outcome in outcomes]


def test_hundreds_run_at_once_and_their_results_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.meet, str(tmp_path), 200) for _ in range(200)]
            outcomes = await rig.outcomes_of(*given)
            assert [tasks.meet.decode_result(outcome.body) for outcome in outcomes] == given
            assert all(abs(outcome.started_ms - time.time() * 1_000) < 60_000 for outcome in outcomes)

    run(main)


def test_more_than_there_are_places_for_wait_for_one() -> None:
    async def main() -> None:
        async with loop(places=3) as rig:
            given = [rig.submit(tasks.nap, 0.001) for _ in range(50)]
            assert statuses(await rig.outcomes_of(*given)) == [OUTCOME_COMPLETED] * 50

    run(main)


def test_each_knows_who_it_is_also_in_its_threads_and_subtasks() -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.who, 0.001 * (number % 7)) for number in range(40)]
            for task, outcome in zip(given, await rig.outcomes_of(*given), strict=True):
                assert tasks.who.decode_result(outcome.body) == (task, task, task)

    run(main)


def test_each_says_for_itself_how_far_it_is_and_what_it_logs(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            given = {rig.submit(tasks.tell, str(tmp_path), number): number for number in range(6)}
            await rig.running(*given)
            assert sorted(rig.child.progress()) == sorted((task, 1, number, 100) for task, number in given.items())
            (tmp_path / "go").touch()
            for outcome in await rig.outcomes_of(*given):
                number = given[outcome.task]
                first, second = failure(outcome).log.splitlines()
                assert first.endswith(f"INFO this is number {number}")
                assert second.endswith(f"WARNING from a thread of {number}")
                assert failure(outcome).type == ("ValueError" if number % 2 else "")
            assert rig.child.progress() == []

    run(main)


def test_one_that_raises_or_exits_has_ended_alone() -> None:
    async def main() -> None:
        async with loop() as rig:
            stays = rig.submit(tasks.look)
            failed = await rig.outcome(rig.submit(tasks.fail, "wrong"))
            assert (failed.status, failure(failed).type) == (OUTCOME_FAILED, "ValueError")
            assert "raise ValueError(message)" in failure(failed).traceback
            assert "loop_executor.py" not in failure(failed).traceback
            assert "ValueError" in failure(failed).kinds
            left = await rig.outcome(rig.submit(tasks.leave, 3))
            assert (left.status, failure(left).type, failure(left).exit_code) == (OUTCOME_CRASHED, "SystemExit", 3)
            odd = failure(await rig.outcome(rig.submit(tasks.nap, "one")))
            assert "argument 1" in odd.message
            rig.child.stop((stays, 1), 60_000_000_000)
            assert (await rig.outcome(stays)).status == OUTCOME_COMPLETED
            assert rig.exits == 0

    run(main)


def test_large_bodies_go_both_ways_whatever_the_window() -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.large, 300_000) for _ in range(20)]
            outcomes = await rig.outcomes_of(*given)
            assert all(len(tasks.large.decode_result(outcome.body)) == 300_000 for outcome in outcomes)

    run(main)


def test_limits_are_thrown_into_the_task_that_they_are_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            stays = rig.submit(tasks.look)
            hard = rig.submit(tasks.clean_up, str(tmp_path / "hard"), timeout_ms=100)
            soft = rig.submit(tasks.clean_up, str(tmp_path / "soft"), soft_ms=100)
            kept = rig.submit(tasks.swallow, str(tmp_path / "kept"), soft_ms=100)
            outcomes = await rig.outcomes_of(hard, soft, kept)
            assert statuses(outcomes) == [OUTCOME_TIMED_OUT, OUTCOME_FAILED, OUTCOME_COMPLETED]
            assert [failure(outcome).type for outcome in outcomes[:2]] == ["TimeLimitExceeded", "SoftTimeLimit"]
            assert "0.1 s" in failure(outcomes[0]).message
            for outcome in outcomes[:2]:
                assert "await asyncio.sleep(60)" in failure(outcome).traceback
                assert "loop_executor.py" not in failure(outcome).traceback
            assert {"SoftTimeLimit", "TimeoutError"} <= set(failure(outcomes[1]).kinds)
            assert sorted(os.listdir(tmp_path)) == ["hard", "kept", "soft"]
            assert stays not in rig.done and rig.exits == 0

    run(main)


def test_one_that_does_not_end_at_its_limit_is_ended_with_the_child_and_the_others_go_back() -> None:
    async def main() -> None:
        async with loop() as rig:
            stays = rig.submit(tasks.look)
            stubborn = rig.submit(tasks.stubborn, timeout_ms=100)
            outcomes = await rig.outcomes_of(stubborn, stays)
            assert statuses(outcomes) == [OUTCOME_TIMED_OUT, OUTCOME_RETURNED]
            assert failure(outcomes[0]).type == "TimeLimitExceeded"
            assert (await rig.outcome(rig.submit(tasks.nap, 0.0))).status == OUTCOME_COMPLETED

    run(main)


def test_one_that_blocks_past_its_limit_is_ended_with_the_child_and_holds_no_finished_outcome_back(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with loop() as rig:
            waits = rig.submit(tasks.look)
            naps = rig.submit(tasks.nap, 0.02)
            blocks = rig.submit(tasks.block, 60.0, timeout_ms=300)
            outcomes = await rig.outcomes_of(blocks, waits, naps)
            # Blocked before it could end, or just after.
            assert statuses(outcomes)[:2] == [OUTCOME_TIMED_OUT, OUTCOME_RETURNED]
            assert outcomes[2].status in (OUTCOME_RETURNED, OUTCOME_COMPLETED)

    run(main)


def test_who_blocks_the_loop_is_suspected_when_another_comes_to_its_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            waits = rig.submit(tasks.look, timeout_ms=300)
            other = rig.submit(tasks.look)
            blocks = rig.submit(tasks.block_after, str(tmp_path / "go"), 60.0)
            await rig.running(waits, other, blocks)
            (tmp_path / "go").touch()
            outcomes = await rig.outcomes_of(waits, other, blocks)
            assert statuses(outcomes) == [OUTCOME_TIMED_OUT, OUTCOME_RETURNED, OUTCOME_SUSPECTED]
            assert failure(outcomes[2]).type == "LoopHeldUp"

    run(main)


def test_one_that_has_just_ended_is_heard_of_although_the_next_blocks(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.nap, 0.0) for _ in range(20)]
            given.append(rig.submit(tasks.block, 60.0))
            await rig.outcomes_of(*given[:-1])
            assert given[-1] not in rig.done

    run(main)


def test_a_cancelled_one_may_stop_by_itself_and_is_thrown_out_after_its_grace(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            looks, naps = rig.submit(tasks.look), rig.submit(tasks.clean_up, str(tmp_path / "note"))
            await rig.running(looks, naps)
            rig.child.stop((looks, 1), 60_000_000_000)
            rig.child.stop((naps, 1), 50_000_000)
            outcomes = await rig.outcomes_of(looks, naps)
            assert statuses(outcomes) == [OUTCOME_COMPLETED, OUTCOME_CANCELLED]
            assert failure(outcomes[1]).type == "TaskCancelled"
            assert (tmp_path / "note").exists() and rig.exits == 0

    run(main)


def test_what_is_withdrawn_ends_in_silence(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop(places=2) as rig:
            stays, naps = rig.submit(tasks.look), rig.submit(tasks.clean_up, str(tmp_path / "note"))
            waits = rig.submit(tasks.nap, 60.0)
            await rig.running(stays, naps)
            rig.child.withdraw((waits, 1))
            rig.child.withdraw((naps, 1))
            rig.child.throw_out()
            assert (await rig.outcome(rig.submit(tasks.nap, 0.0))).status == OUTCOME_COMPLETED
            assert set(rig.done) & {stays, naps, waits} == set()
            assert (tmp_path / "note").exists() and rig.exits == 0

    run(main)


@pytest.mark.parametrize("others", [0, 2])
def test_one_that_ends_the_process_is_the_culprit_if_it_ran_alone_else_all_are_suspected(
    others: int, tmp_path: Path
) -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.die, str(tmp_path / "go"), 7), *(rig.submit(tasks.look) for _ in range(others))]
            await rig.running(*given)
            (tmp_path / "go").touch()
            outcomes = await rig.outcomes_of(*given)
            assert statuses(outcomes) == [OUTCOME_SUSPECTED if others else OUTCOME_CRASHED] * (1 + others)
            assert {failure(outcome).exit_code for outcome in outcomes} == {7}
            assert "last words" in failure(outcomes[0]).stderr
            assert ("any of them" in failure(outcomes[0]).message) is bool(others)
            assert (await rig.outcome(rig.submit(tasks.nap, 0.0))).status == OUTCOME_COMPLETED

    run(main)


@pytest.mark.parametrize("culprit", [tasks.exit_in_subtask, tasks.stop_loop, tasks.cancel_all])
def test_one_that_ends_the_loop_of_all_fails_nobody_else_all_are_suspected(
    culprit: Task[[str], None], tmp_path: Path
) -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(culprit, str(tmp_path / "go")), rig.submit(tasks.look), rig.submit(tasks.nap, 60.0)]
            given.append(rig.submit(tasks.clean_up, str(tmp_path / "note")))
            await rig.running(*given)
            (tmp_path / "go").touch()
            outcomes = await rig.outcomes_of(*given)
            assert statuses(outcomes) == [OUTCOME_SUSPECTED] * 4
            assert {failure(outcome).exit_code for outcome in outcomes} == {1}
            assert "Traceback" in failure(outcomes[0]).stderr
            assert (await rig.outcome(rig.submit(tasks.nap, 0.0))).status == OUTCOME_COMPLETED

    run(main)


def test_one_that_waits_for_what_it_has_cancelled_itself_has_failed_alone() -> None:
    async def main() -> None:
        async with loop() as rig:
            stays = rig.submit(tasks.look)
            failed = await rig.outcome(rig.submit(tasks.cancelled_within))
            assert (failed.status, failure(failed).type) == (OUTCOME_FAILED, "asyncio.exceptions.CancelledError")
            assert stays not in rig.done and rig.exits == 0

    run(main)


def test_a_child_killed_by_the_worker_blames_nobody() -> None:
    async def main() -> None:
        async with loop() as rig:
            given = [rig.submit(tasks.look) for _ in range(3)]
            await rig.running(*given)
            rig.child.kill(Why.STOPPING)
            assert statuses(await rig.outcomes_of(*given)) == [OUTCOME_RETURNED] * 3

    run(main)


def test_a_child_that_is_let_go_ends_what_runs_first() -> None:
    async def main() -> None:
        async with loop() as rig:
            naps = rig.submit(tasks.nap, 0.1)
            await rig.running(naps)
            rig.child.close()
            assert (await rig.outcome(naps)).status == OUTCOME_COMPLETED
            await rig.until(lambda: rig.exits == 1)

    run(main)


def test_a_copy_of_the_child_that_a_task_forked_and_did_not_end_says_nothing_in_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with loop() as rig:
            outcome = await rig.outcome(rig.submit(tasks.fork_and_come_back_twice, str(tmp_path / "copy")))
            assert tasks.fork_and_come_back_twice.decode_result(outcome.body) == await rig.pid()
            copy = int((tmp_path / "copy").read_text())
            with pytest.raises(ProcessLookupError):
                os.kill(copy, 0)
            assert (await rig.outcome(rig.submit(tasks.nap, 0.0))).status == OUTCOME_COMPLETED

    run(main)
