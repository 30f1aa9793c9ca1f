"""Tasks that need others, on real processes: three brokers, two workers."""

from pathlib import Path
from typing import Any

import pytest
from cluster_rig import run
from cluster_tasks import add, add_all, exit_at_once, hold, judge_all, refuse

from cluster import BlockingClient, Client, DependencyFailed, Handle, after, group
from cluster.local import LocalCluster

MEMBERS = 10_000
FAILED = 7
TIMEOUT_S = 120.0


def test_a_fan_in_of_ten_thousand_members_finishes_failed_dead_cancelled_and_expired_ones_included(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Client.connect(cluster.topology) as client:
            jobs = await client.map(refuse, [-1 if number < FAILED else number for number in range(MEMBERS - 3)])
            dead: Handle[Any] = await client.submit(exit_at_once, 3)
            cancelled = await client.submit(hold.options(delay="1h"), str(tmp_path), 1)
            others: list[Handle[Any]] = [
                dead, cancelled, await client.submit(refuse.options(queue="nobody", expires="1s"), 1)
            ]  # fmt: skip
            members = [*jobs.members(), *others]
            report = await client.submit(judge_all, group(members, outcomes=True))
            strict = await client.submit(add_all, group(members))
            completed = await client.submit(add_all, group(await client.map(refuse, range(MEMBERS))))
            await cancelled.cancel()
            values, errors = await report.result(timeout=TIMEOUT_S)
            assert values == sum(range(FAILED, MEMBERS - 3))
            assert errors.count("ValueError: -1 is negative") == FAILED and len(errors) == FAILED + 3
            assert {"cancelled", "expired"} < set(errors) and any("exit code 3" in error for error in errors)
            with pytest.raises(DependencyFailed):
                await strict.result(timeout=TIMEOUT_S)
            assert await completed.result(timeout=TIMEOUT_S) == sum(range(MEMBERS))
            records = await client.records([report.id, strict.id, completed.id])
            assert [(record.state, record.attempts) for record in records] == [
                ("completed", 1), ("failed", 0), ("completed", 1),
            ]  # fmt: skip

    run(main())


def test_results_go_from_one_task_to_the_next_in_slots_and_in_the_loop(client: BlockingClient) -> None:
    one = client.submit(add, 1, 2)
    two = client.submit(add_all, [after(one), 4])
    three = client.submit(add, one, right=after(two))
    assert three.result(timeout=TIMEOUT_S) == 10
    assert client.executor().submit(add, three).result(timeout=TIMEOUT_S) == 11
