"""Limits and shares in a cluster in memory."""

from datetime import datetime, timedelta

from memory_tasks import SEEN, add

from cluster import every, task
from cluster.testing import MemoryCluster


def test_runs_of_a_schedule_keep_to_the_rate_of_their_task():
    @every("1s", exclusive=False, misfire="all")
    @task(name="limits:tick", rate="2/10s")
    def tick() -> None:
        SEEN.append("tick")

    with MemoryCluster() as cluster:
        SEEN.clear()
        began = cluster.now()
        starts: list[datetime] = []
        while cluster.now() - began < timedelta(seconds=60):
            cluster.advance("1s")
            starts += [cluster.now()] * len(SEEN)
            SEEN.clear()
        cluster.pause("limits:tick")
    assert 10 <= len(starts) <= 14, "two in ten seconds, of sixty runs"
    for first in starts:
        recent = [moment for moment in starts if first <= moment < first + timedelta(seconds=9)]
        assert len(recent) <= 2


def test_runs_that_overlap_are_one_at_a_time_with_a_concurrency_of_one():
    @every("1s", exclusive=False, misfire="all")
    @task(name="limits:slow", concurrency=1)
    def slow() -> None:
        SEEN.append("slow")

    with MemoryCluster(slots=4) as cluster:
        SEEN.clear()
        cluster.takes(slow, "3s")
        cluster.advance("30s")
        assert 8 <= len(SEEN) <= 11, "three seconds each, one at a time"
        assert cluster.submit(add, 1, 2).result("1s") == 3, "others have slots"
        (row,) = cluster.status()["limits"]
        assert (row["name"], row["running"]) == ("limits:slow", 1) and row["ready"] > 10
