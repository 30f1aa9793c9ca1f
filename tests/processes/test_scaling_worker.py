"""A worker with bounds for its slots, on real processes: a burst opens them, quiet closes them, nothing is lost."""

from pathlib import Path

from cluster_rig import LOOPS, command_line, make_topology, row, run, running, status_when
from cluster_tasks import pause

from cluster import Client
from cluster.launch import LaunchLimits
from cluster.worker.scaling import ScalingPace

SECOND = 1_000_000_000
PACE = ScalingPace(open_pause=SECOND, close_idle=3 * SECOND, close_pause=SECOND)


def test_a_burst_opens_three_slots_quiet_closes_two_and_nothing_is_lost(tmp_path: Path) -> None:
    topology = make_topology(tmp_path, brokers=1, workers=1, slots="1..3")

    async def main() -> None:
        async with Client.connect(topology) as client:
            status = await status_when(client, "it has begun", lambda status: row(status["workers"], "w1")["pid"])
            worker = row(status["workers"], "w1")
            assert (worker["slots"], worker["slots_min"], worker["slots_max"]) == (1, 1, 3)
            assert len(worker["children"]) == 1 + LOOPS

            burst = await client.map(pause, [0.25] * 40)
            status = await status_when(client, "three run", lambda status: row(status["workers"], "w1")["running"] == 3)
            worker = row(status["workers"], "w1")
            assert worker["slots"] == 3 and len(worker["children"]) == 3 + LOOPS
            assert "3 (1..3)" in command_line("cluster", "status", str(topology)).stdout
            await burst.results(timeout=60)

            await status_when(client, "one is open", lambda status: row(status["workers"], "w1")["slots"] == 1)
            status = await status_when(
                client, "its child is left", lambda status: len(row(status["workers"], "w1")["children"]) == 1 + LOOPS
            )
            left = row(status["workers"], "w1")["children"]
            assert set(left) < set(worker["children"])
            assert [pid for pid in worker["children"] if Path(f"/proc/{pid}").exists()] == left
            after = await client.submit(pause, 0.0)
            await after.result(timeout=30)
            records = await client.records([*burst.ids, after.id])
            assert {(record.state, record.attempts) for record in records} == {("completed", 1)}

    with running(topology, limits=LaunchLimits(pace=PACE)):
        run(main())
