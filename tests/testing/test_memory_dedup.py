"""Keys of work in a cluster in memory."""

from datetime import timedelta

import pytest
from memory_tasks import SEEN, Counter, add, fail, note

from cluster import TaskFailed, every, task
from cluster.testing import MemoryCluster


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


def test_a_duplicate_follows_the_first_one(memory_cluster):
    once = note.options(dedup="letter 7")
    memory_cluster.takes(note, "10s")
    first, second = memory_cluster.submit(once, "one"), memory_cluster.submit(once, "two")
    assert second.result() == first.result() == "one" and SEEN == ["one"]
    assert (first.duplicate_of, second.duplicate_of) == (None, first.id)
    assert memory_cluster.submit(once, "three").result() == "three"


def test_a_window_of_a_day_is_a_day_by_the_dates_of_the_cluster(memory_cluster):
    daily = note.options(dedup="report", dedup_window="1d")
    assert memory_cluster.submit(daily, "monday").result() == "monday"
    memory_cluster.advance("23h")
    assert memory_cluster.submit(daily, "still monday").result() == "monday"
    memory_cluster.advance("61m")
    assert memory_cluster.submit(daily, "tuesday").result() == "tuesday"


def test_a_map_a_failure_and_a_limit(memory_cluster):
    batch = memory_cluster.map(add.options(dedup="sum", concurrency=1), range(20), b=1)
    assert batch.results() == [1] * 20 and len(batch.duplicates) == 19
    memory_cluster.takes(fail, "1s")
    handles = [memory_cluster.submit(fail.options(dedup="bad"), "so it is") for _ in range(3)]
    for handle in handles:
        with pytest.raises(TaskFailed):
            handle.result()
    assert [handle.duplicate_of for handle in handles] == [None, handles[0].id, handles[0].id]


def test_a_key_holds_through_the_loss_of_the_leader(make_memory_cluster):
    cluster = make_memory_cluster(brokers=3)
    cluster.takes(note, "1m")
    first = cluster.submit(note.options(dedup="k"), "one")
    cluster.kill_leader()
    second = cluster.submit(note.options(dedup="k"), "two")
    assert second.result() == "one" and second.duplicate_of == first.id and SEEN == ["one"]


def test_instances_of_a_key_have_their_own(memory_cluster):
    calls = [memory_cluster.actor(Counter, key=key).up.options(dedup="once", dedup_window="1h") for key in "aba"]
    handles = [call.submit() for call in calls]
    assert [handle.result() for handle in handles] == [1, 1, 1]
    assert [handle.duplicate_of for handle in handles] == [None, None, handles[0].id]


def test_runs_of_a_schedule_are_one_in_a_window():
    @every("1s", exclusive=False)
    @task(name="dedup:tick", dedup="tick", dedup_window="10s")
    def tick() -> None:
        SEEN.append("tick")

    with MemoryCluster() as cluster:
        SEEN.clear()
        began = cluster.now()
        cluster.advance("60s")
        assert cluster.now() - began >= timedelta(seconds=60)
        assert 5 <= len(SEEN) <= 7
