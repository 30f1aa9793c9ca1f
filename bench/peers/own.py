"""quorumq in the row of its peers: three brokers, two workers of one slot, started by its own `launch`."""

import os
import signal
import sys
from pathlib import Path

from bench.peers.processes import Conversation, PeerFailed
from bench.peers.work import RUNS_FOLDER
from cluster.local import LocalCluster, write_topology

RESTART_TIMEOUT_S = 30.0


class Own:
    """Differs between `map` and `submit` in how the many tasks of the throughput are submitted."""

    durable = "majority"
    packages: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()

    def __init__(self, name: str, *, by: str) -> None:
        assert by in ("map", "submit")
        self.name = name
        self.settings = f"three brokers, two workers of one slot; by `{by}`"
        self._by = by
        self._folder = Path()
        self._cluster: LocalCluster | None = None
        self._client: Conversation | None = None
        self._victim = 0

    def start_servers(self, folder: Path) -> None:
        """Brokers and workers are started together, by `start_workers`."""
        self._folder = folder
        topology = write_topology(folder / "cluster", name="peers", modules=["bench.peers.apps.quorumq_app"])
        self._cluster = LocalCluster(topology, log=folder / "launch.log")

    def start_workers(self, runs: Path) -> None:
        assert self._cluster is not None
        os.environ[RUNS_FOLDER] = str(runs)         # launch and its children inherit it
        self._cluster.start()
        self._cluster.wait_ready()

    def start_client(self) -> Conversation:
        assert self._cluster is not None
        environment = {"PEER_TOPOLOGY": str(self._cluster.topology), "PEER_SUBMITS_BY": self._by}
        command = [sys.executable, "-m", "bench.peers.client", "quorumq_app"]
        self._client = Conversation(command, self._folder / "client.log", environment)
        return self._client

    def choose_victim(self) -> None:
        assert self._cluster is not None
        status = self._cluster.status()
        leaders = [row["pid"] for row in status["brokers"] if row["node"] == status["leader"] and row["pid"]]
        if not leaders:
            raise PeerFailed("no leader in the status")
        (self._victim,) = leaders

    def kill(self) -> None:
        assert self._victim
        os.kill(self._victim, signal.SIGKILL)

    def restart(self) -> None:
        """`launch` starts a broker that died again by itself; this waits for it."""
        assert self._cluster is not None
        self._cluster.wait_for(
            lambda status: all(row["pid"] not in (None, self._victim) for row in status["brokers"]), RESTART_TIMEOUT_S
        )

    def stop(self) -> None:
        if self._client is not None:
            self._client.end()
        if self._cluster is not None and self._cluster.launch is not None:
            self._cluster.stop()
