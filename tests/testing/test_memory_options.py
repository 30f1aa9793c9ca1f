"""How a cluster in memory is made, by hand and by pytest."""

import subprocess
import sys

import pytest
from memory_tasks import SEEN, Counter, add, send

from cluster import ClusterError, TaskFailed, TopologyError
from cluster.testing import MemoryCluster

TOPOLOGY = """
[cluster]
name = "mine"

[[broker]]
name = "north"
address = "127.0.0.1:7101"

[[worker]]
name = "strong"
modules = ["memory_tasks"]
queues = ["mail"]
labels = ["gpu"]
slots = 3

[[worker]]
name = "weak"
modules = ["memory_tasks"]
recycle_after = 2
"""

TESTS = '''
import pytest
from shop import sell


@pytest.fixture
def orders(make_memory_cluster):
    return make_memory_cluster(["shop"], seed=3, slots=1)


def test_plain(memory_cluster):
    assert memory_cluster.seed == 0 and memory_cluster.submit(sell, "pear").result() == "pear"


@pytest.mark.memory_cluster(["shop"], brokers=3, seed=7)
def test_marked(memory_cluster):
    assert (memory_cluster.seed, len(memory_cluster.status()["brokers"])) == (7, 3)


def test_made(orders, make_memory_cluster):
    other = make_memory_cluster(seed=4)
    assert (orders.seed, other.seed) == (3, 4)
    (worker,) = orders.status()["workers"]
    assert worker["slots"] == 1


def test_red(memory_cluster):
    assert memory_cluster.submit(sell, "apple").result() == "pear"
'''


def test_a_topology_says_which_nodes_there_are_and_what_they_serve(make_memory_cluster, tmp_path):
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY)
    cluster = make_memory_cluster(topology=path)
    status = cluster.status()
    assert [broker["node"] for broker in status["brokers"]] == ["north"]
    assert sorted((worker["node"], worker["slots"]) for worker in status["workers"]) == [("strong", 3), ("weak", 1)]
    SEEN.clear()
    cluster.submit(send.options(labels=["gpu"]), "anna").result()
    assert SEEN == ["anna"]
    assert cluster.map(add, range(10), b=1).results() == list(range(1, 11))
    assert any("child_recycled" in line for line in cluster.log)
    assert [cluster.actor(Counter).up() for _ in range(6)] == [1, 2, 1, 2, 1, 2]
    assert SEEN.count("stopped ") >= 2
    cluster.kill("strong")
    cluster.restart("strong")
    cluster.submit(send, "berta").result()


def test_workers_serve_the_queues_that_they_are_given(make_memory_cluster):
    SEEN.clear()
    make_memory_cluster(queues=["default", "mail"]).submit(send, "anna").result()
    assert SEEN == ["anna"]


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1, 3, 5 or 7"):
        MemoryCluster(brokers=2)
    with pytest.raises(ValueError, match="1 slot"):
        MemoryCluster(slots=0)
    with pytest.raises(TypeError, match="as a list"):
        MemoryCluster("memory_tasks")
    with pytest.raises(TypeError, match="leave the others out"):
        MemoryCluster(["memory_tasks"], topology="topology.toml")
    with pytest.raises(TopologyError):
        MemoryCluster(topology=tmp_path / "none.toml")
    with pytest.raises(ClusterError, match="no_such_module"):
        MemoryCluster(["no_such_module"]).start()
    with pytest.raises(ClusterError, match="not started"):
        MemoryCluster().submit(add, 1, 2)
    with pytest.raises(TypeError, match="one duration"):
        MemoryCluster().takes(add)


def test_a_method_of_an_actor_may_take_time_too(memory_cluster):
    actor = memory_cluster.actor(Counter, key="one")
    memory_cluster.takes(actor.up, "20s")
    with pytest.raises(TaskFailed):
        actor.up.options(timeout="10s").submit().result()


def test_pytest_has_the_fixtures_and_shows_what_nodes_logged_when_a_test_fails(tmp_path):
    (tmp_path / "shop.py").write_text(
        "from cluster import task\n\n\n@task\ndef sell(what: str) -> str:\n    return what\n"
    )
    (tmp_path / "test_shop.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert "1 failed, 3 passed" in ran.stdout, ran.stdout
    assert "log of <MemoryCluster brokers=1 workers=1 seed=0>" in ran.stdout
    assert "w1 worker_registered session=2" in ran.stdout
    assert "assert 'apple' == 'pear'" in ran.stdout
