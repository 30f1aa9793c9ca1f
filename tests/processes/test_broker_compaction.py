"""Real brokers that compact their logs under load, with small limits: compactors that are killed, disks that rot while
nobody looks, and a follower that was away for too long."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_rig import Process, children, descendants, make_topology, row, run, running, wait_until
from cluster_tasks import echo
from test_damage import flip_vouched

from cluster import Client
from cluster.compaction.policy import CompactionLimits
from cluster.local import LocalCluster
from cluster.peer.config import BrokerLimits
from cluster.storage.segment import WalLimits

KIB = 1024
LIMITS = BrokerLimits(
    WalLimits(segment_bytes=512 * KIB, zero_chunk_bytes=512 * KIB),
    CompactionLimits(
        log_bytes_min=400 * KIB,
        state_factor=0,
        urgent_factor=1_000,
        closed_factor=10_000,
        stagger_ppm_max=0,
        pinned_bytes_max=0,
        retry_min=100_000_000,
    ),
)
BODY = "x" * 50 * KIB
COMPACTOR_GONE_S = 2.0
BROKERS = ("b1", "b2", "b3")


def grow(topology: Path, tasks: int = 30) -> None:
    """So many tasks of 50 KiB that wait for a worker of their queue, which there is none of."""

    async def submit() -> None:
        async with Client.connect(topology) as client:
            await client.map(echo.options(queue="nobody"), [BODY] * tasks)

    run(submit())


def snapshots(folder: Path, broker: str) -> list[Path]:
    return sorted(folder.glob(f"data/{broker}/*.snap"))


def grow_until_compacted(cluster: LocalCluster, folder: Path, *brokers: str) -> None:
    """Until the front of each log is gone: a second after the second snapshot, or later where a segment is longer."""

    def all_cut() -> bool:
        grow(cluster.topology, 10)
        return all(len(snapshots(folder, name)) == 2 and events(folder, "log_compacted", name) for name in brokers)

    wait_until("all have cut their logs", all_cut, poll_s=0.5)


def events(folder: Path, name: str, node: str) -> list[str]:
    text = "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
    lines = (line for line in text.splitlines() if f"event={name} " in line)
    return [line for line in lines if f"node={node} " in f"{line} "]


def pending(cluster: LocalCluster) -> int:
    return sum(row["ready"] for row in cluster.status()["queues"])


def agree(cluster: LocalCluster) -> None:
    """All brokers serve, and have applied the same."""

    def same() -> bool:
        brokers = cluster.status()["brokers"]
        roles = sorted(broker["role"] for broker in brokers)
        return roles == ["follower", "follower", "leader"] and len({one["applied_index"] for one in brokers}) == 1

    wait_until("all brokers have caught up", same, poll_s=0.1)


@contextmanager
def each_alone(topology: Path) -> Iterator[dict[str, LocalCluster]]:
    """Every node under a launch of its own, so that one may be down."""
    nodes = {
        name: LocalCluster(topology, log=topology.with_name(f"{name}.log"), arguments=("--node", name), limits=LIMITS)
        for name in (*BROKERS, "w1")
    }
    try:
        for node in nodes.values():
            node.start()
        nodes["b1"].wait_ready()
        yield nodes
        for node in nodes.values():
            node.stop()
    finally:
        for node in nodes.values():
            node.kill()


def compactor_of(broker: int) -> Process | None:
    """The child of the broker's fork server, if one is at work."""
    try:
        found = [process for child in children(broker) for process in descendants(child)]
    except (FileNotFoundError, ProcessLookupError):
        return None     # one has just ended
    return found[0] if found else None


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    return make_topology(tmp_path, workers=1)


def test_a_cluster_compacts_under_load_and_starts_again_from_what_it_kept(topology, tmp_path):
    with running(topology, limits=LIMITS) as cluster:
        firsts = [min(tmp_path.glob(f"data/{name}/*.wal")) for name in BROKERS]
        grow_until_compacted(cluster, tmp_path, *BROKERS)
        before = pending(cluster)
        leader = row(cluster.status()["brokers"], cluster.status()["leader"])["pid"]
        # What forks compactors does not stay when the last of them has ended.
        wait_until("the broker has no children", lambda: not children(leader))
        wait_until("what is in both snapshots has left the logs", lambda: not any(first.exists() for first in firsts))
    with running(topology, limits=LIMITS) as cluster:
        assert pending(cluster) == before
        agree(cluster)


def test_a_compactor_ends_with_its_broker_and_its_successor_begins_anew(topology, tmp_path):
    with running(topology, limits=LIMITS) as cluster:
        grow_until_compacted(cluster, tmp_path, *BROKERS)
        status = cluster.status()
        broker = row(status["brokers"], status["leader"])["pid"]
        found: list[Process] = []

        def at_work() -> bool:
            compactor = compactor_of(broker)
            if compactor is None or not list(tmp_path.glob(f"data/{status['leader']}/*.part")):
                return False
            try:
                os.kill(compactor.pid, signal.SIGSTOP)      # so that it is in the midst of it for sure
            except ProcessLookupError:
                return False
            found.append(compactor)
            return True

        grow(topology, 60)
        wait_until("a compactor is at work", at_work, poll_s=0.001)
        os.kill(broker, signal.SIGKILL)
        wait_until("the compactor is gone", lambda: not found[0].is_alive, COMPACTOR_GONE_S)
        agree(cluster)
        before = pending(cluster)
        newest = {name: snapshots(tmp_path, name)[-1] for name in BROKERS}
        grow_until_compacted(cluster, tmp_path, *BROKERS)
        wait_until(
            "all have made another one",
            lambda: all(snapshots(tmp_path, name)[-1] > newest[name] for name in BROKERS),
        )
        assert pending(cluster) > before


def test_a_follower_that_was_away_while_the_log_was_cut_gets_the_snapshot(topology, tmp_path):
    with each_alone(topology) as nodes:
        grow(topology)
        others = [name for name in BROKERS if name != nodes["b1"].status()["leader"]]
        away = others[0]
        nodes[away].stop()
        here = [name for name in BROKERS if name != away]
        for _ in range(6):
            grow(topology, 40)
        grow_until_compacted(nodes[here[0]], tmp_path, *here)
        nodes[away].start()
        wait_until("it got the snapshot", lambda: events(tmp_path, "snapshot_installed", away))
        agree(nodes[here[0]])
        assert events(tmp_path, "snapshot_offered", away) == []


@pytest.mark.parametrize("both", [False, True])
def test_snapshots_that_rot_while_a_broker_is_down_are_kept_aside(topology, tmp_path, both):
    """One: the older one and the log behind it are used. Both: the state comes back from the leader."""
    with each_alone(topology) as nodes:
        for _ in range(6):
            grow(topology, 40)
        grow_until_compacted(nodes["b1"], tmp_path, *BROKERS)
        victim = next(name for name in BROKERS if name != nodes["b1"].status()["leader"])
        nodes[victim].stop()
        damaged = snapshots(tmp_path, victim)[0 if both else 1 :]
        for path in damaged:
            with path.open("r+b") as file:
                file.seek(10_000)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes((byte ^ 1,)))
        nodes[victim].start()
        agree(next(node for name, node in nodes.items() if name in BROKERS and name != victim))
        assert all(path.with_name(path.name + ".damaged").exists() for path in damaged)
        assert len(events(tmp_path, "snapshot_damaged", victim)) == len(damaged)
        assert bool(events(tmp_path, "log_damaged", victim)) is both
        assert bool(events(tmp_path, "snapshot_installed", victim)) is both


def test_a_segment_that_rots_while_a_broker_is_down_is_kept_aside_and_the_log_comes_back(topology, tmp_path):
    with each_alone(topology) as nodes:
        grow_until_compacted(nodes["b1"], tmp_path, *BROKERS)
        victim = next(name for name in BROKERS if name != nodes["b1"].status()["leader"])
        nodes[victim].stop()
        segment = sorted(tmp_path.glob(f"data/{victim}/*.wal"))[-1]
        flip_vouched(segment)
        nodes[victim].start()
        wait_until("it is trusted again", lambda: events(tmp_path, "quarantine_lifted", victim))
        agree(next(node for name, node in nodes.items() if name in BROKERS and name != victim))
        assert segment.with_suffix(".damaged").exists()
