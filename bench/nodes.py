"""What benchmarks run: a whole cluster, or the nodes of a topology, started and killed one by one."""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cluster import Client, ClusterError
from cluster.local import LocalCluster, write_topology
from cluster.peer.config import BrokerLimits

BROKERS = ("b1", "b2", "b3")
PATIENCE_S = 300.0


@contextmanager
def whole_cluster(folder: Path, *, slots: int = 1) -> Iterator[LocalCluster]:
    """Three brokers and two workers that serve `bench.tasks`, in a fresh `folder` that is removed in the end."""
    shutil.rmtree(folder, ignore_errors=True)
    topology = write_topology(folder, name="bench", modules=["bench.tasks"], slots=slots)
    with LocalCluster(topology, log=folder / "launch.log") as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


class Nodes:
    """Each runs under a launch of its own."""

    def __init__(self, topology: Path, limits: BrokerLimits) -> None:
        self.topology = topology
        self._limits = msgspec.json.encode(limits).decode()
        self._launches: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "cluster.launch", str(self.topology), "--node", name]
        with (self.topology.parent / f"{name}.log").open("ab") as log:
            self._launches[name] = subprocess.Popen([*command, "--limits", self._limits], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        launch = self._launches.pop(name)
        launch.send_signal(signal.SIGKILL)
        launch.wait()

    def stop(self) -> None:
        for launch in self._launches.values():
            launch.terminate()
        for launch in self._launches.values():
            launch.wait()


async def status_when(client: Client, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status that fulfils `condition`, within PATIENCE_S."""
    end = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < end:
        try:
            status = await client.status()
        except ClusterError:
            status = {}
        if status and condition(status):
            return status
        await asyncio.sleep(0.05)
    raise TimeoutError("the cluster did not come to that")
