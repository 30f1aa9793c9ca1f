"""Children that are replaced between two tasks, or killed for their memory, on real processes."""

import asyncio
import os
import signal
from pathlib import Path

import executor_tasks as tasks
from executor_rig import DEADLINE_S, Rig, run, slot

from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_CRASHED, OUTCOME_RETURNED
from cluster.worker.child_messages import StartFailed
from cluster.worker.config import explain
from cluster.worker.wear import WearLimits

MB = 1_000_000


def fresh_bytes(rig: Rig) -> int:
    assert rig.child.child is not None
    return rig.child.child.rss_bytes()


async def pids(rig: Rig, given: list[int]) -> list[int]:
    outcomes = [await rig.outcome(task) for task in given]
    assert {outcome.status for outcome in outcomes} == {OUTCOME_COMPLETED}
    return [tasks.pid.decode_result(outcome.body) for outcome in outcomes]


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


def test_the_memory_of_a_child_is_what_the_kernel_says_and_none_once_it_is_gone() -> None:
    async def main() -> None:
        async with slot() as rig:
            pid, child = await rig.pid(), rig.child.child
            assert child is not None
            before = child.rss_bytes()
            await rig.outcome(rig.give(tasks.leak, 50))
            assert 45 * MB < child.rss_bytes() - before < 80 * MB
            (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
            assert abs(int(line.split()[1]) * 1_024 - child.rss_bytes()) < 4 * MB
            rig.child.is_stopped = True
            os.kill(pid, signal.SIGKILL)
            await rig.until(lambda: rig.exits == 1)
            assert child.rss_bytes() == 0

    run(main)


def test_a_child_is_replaced_after_three_tasks_and_ends_by_itself() -> None:
    async def main() -> None:
        async with slot(wear=WearLimits(recycle_after=3)) as rig:
            seen = await pids(rig, [rig.give(tasks.pid) for _ in range(12)])
            assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [3] * 4
            assert seen == sorted(seen, key=list(dict.fromkeys(seen)).index), "one after the other"
            for pid in dict.fromkeys(seen):
                await gone(pid)
            assert rig.exits == 0, "none was lost"

    run(main)


def test_a_child_that_leaks_fifty_megabytes_a_call_is_replaced_before_it_is_large() -> None:
    async def main() -> None:
        async with slot(wear=WearLimits(recycle_above=250 * MB)) as rig:
            given = []
            largest = 0
            for _ in range(40):
                given.append(rig.give(tasks.leak, 50))
                await rig.outcome(given[-1])
                largest = max(largest, fresh_bytes(rig))
            seen = await pids(rig, given)
            assert len(set(seen)) >= 3
            assert len(set(seen)) < 40
            assert rig.exits == 0
            assert largest < 1_500 * MB

    run(main)


def test_what_was_large_only_while_it_ran_is_not_replaced() -> None:
    async def main() -> None:
        async with slot(wear=WearLimits(recycle_above=250 * MB)) as rig:
            seen = await pids(rig, [rig.give(tasks.need, 300, 0.1, estimate_us=10**9) for _ in range(5)])
            assert len(set(seen)) == 1

    run(main)


def test_a_task_that_allocates_without_end_is_killed_and_what_waits_behind_it_is_not_charged() -> None:
    async def main() -> None:
        async with slot(wear=WearLimits(memory_limit=400 * MB)) as rig:
            before = rig.give(tasks.pid)
            culprit = rig.give(tasks.allocate_without_end, estimate_us=10**9)
            behind = rig.give(tasks.pid)
            outcome = await rig.outcome(culprit)
            assert (outcome.status, outcome.error and outcome.error.type) == (OUTCOME_CRASHED, "MemoryLimitExceeded")
            assert outcome.error is not None and outcome.error.signal == signal.SIGKILL
            assert "more than its limit of 381.5 MiB" in outcome.error.message
            assert (await rig.outcome(before)).status == OUTCOME_COMPLETED
            assert (await rig.outcome(behind)).status == OUTCOME_RETURNED
            assert (await rig.outcome(rig.give(tasks.pid))).status == OUTCOME_COMPLETED

    run(main)


def test_a_child_that_is_above_its_memory_limit_when_it_is_ready_counts_as_one_that_cannot_start() -> None:
    async def main() -> None:
        for _ in range(5):                  # the kernel tells its memory before and after its first word
            async with slot(wear=WearLimits(memory_limit=8 * MB)) as rig:
                assert isinstance(rig.report, StartFailed) and rig.names is None
                assert "more than memory_limit = 7.6 MiB" in explain(rig.report)
                assert "use a higher memory_limit, or import less" in explain(rig.report)

    run(main)
