"""What breaks in a cluster in memory, when a test says so."""

import pytest
from memory_tasks import SEEN, add, nap, note

from cluster import ClusterError, TaskDead, Unavailable


def test_what_a_killed_worker_had_is_done_again_when_another_one_is_there(memory_cluster):
    memory_cluster.takes(note, "10m")
    SEEN.clear()
    handle = memory_cluster.submit(note, "twice")
    memory_cluster.advance("10s")
    memory_cluster.kill("w1")
    memory_cluster.advance("5m")
    assert handle.state() == "pending" and memory_cluster.status()["workers"] == []
    memory_cluster.restart("w1")
    assert handle.result() == "twice" and SEEN == ["twice"]
    outcomes = [attempt.outcome for attempt in memory_cluster.task(handle.id).attempts]
    assert outcomes[-1] == "completed" and len(outcomes) == 2


def test_another_worker_does_what_a_killed_one_had(make_memory_cluster):
    cluster = make_memory_cluster(workers=2, slots=1)
    cluster.takes(add, "10s")
    batch = cluster.map(add, range(6), b=1)
    cluster.advance("1s")
    cluster.kill("w2")
    assert batch.results() == list(range(1, 7))


@pytest.mark.memory_cluster(brokers=3)
def test_a_batch_survives_the_leader_and_its_return(memory_cluster):
    memory_cluster.takes(add, "100ms")
    batch = memory_cluster.map(add, range(200), b=1)
    killed = memory_cluster.kill_leader()
    assert batch.results() == list(range(1, 201))
    assert memory_cluster.leader not in ("", killed)
    memory_cluster.restart(killed)
    memory_cluster.advance("10s")
    assert {broker["role"] for broker in memory_cluster.status()["brokers"]} == {"leader", "follower"}


@pytest.mark.memory_cluster(brokers=3)
def test_without_a_majority_calls_end_with_their_deadline(memory_cluster):
    handle = memory_cluster.submit(add.options(delay="1m"), 1, 2)
    killed = [memory_cluster.kill_leader()]
    memory_cluster.advance("10s")
    killed.append(memory_cluster.kill_leader())
    memory_cluster.advance("10s")
    assert memory_cluster.leader == ""
    with pytest.raises(ClusterError, match="no broker leads"):
        memory_cluster.kill_leader()
    with pytest.raises(Unavailable):
        memory_cluster.records([handle.id])
    for node in killed:
        memory_cluster.restart(node)
    assert handle.result() == 3


def test_a_single_broker_comes_back_with_what_it_had(memory_cluster):
    handle = memory_cluster.submit(add.options(delay="1h"), 1, 2)
    memory_cluster.kill("b1")
    memory_cluster.advance("10m")
    memory_cluster.restart("b1")
    assert handle.result() == 3


def test_a_lost_process_is_a_crash_and_the_third_is_the_end(memory_cluster):
    memory_cluster.takes(note, "1m")
    SEEN.clear()
    handle = memory_cluster.submit(note, "never")
    for _ in range(3):
        memory_cluster.advance("30s")
        memory_cluster.lose(handle)
    with pytest.raises(TaskDead) as dead:
        handle.result("1m")
    assert dead.value.evidence.signal == 9 and SEEN == []
    with pytest.raises(ClusterError, match="does not run"):
        memory_cluster.lose(handle.id)


def test_an_async_task_loses_its_process_with_those_beside_it(memory_cluster):
    one, other = memory_cluster.submit(nap, 60.0), memory_cluster.submit(nap, 60.0)
    memory_cluster.advance("30s")
    memory_cluster.lose(one)
    assert [one.result(), other.result()] == ["rested", "rested"]
    assert [len(memory_cluster.task(handle.id).attempts) for handle in (one, other)] == [2, 2]


def test_nodes_are_known_by_their_names(memory_cluster):
    with pytest.raises(ValueError, match="there are b1, w1"):
        memory_cluster.kill("b2")
