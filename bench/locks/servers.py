"""What the locks are kept in: three nodes of etcd, or three brokers. Redis is that of `bench.peers`."""

import json
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from bench.peers.processes import HOST, PeerFailed, Process, end, free_ports, start, wait_until
from cluster.local import LocalCluster, write_topology

NODES = 3
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 2.0

straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))     # loopback needs no proxy


class Servers(Protocol):
    """Started once, stopped whatever happens."""

    def start(self) -> None: ...

    def environment(self) -> dict[str, str]:
        """Where `bench.locks.apps` find it."""

    def stop(self) -> None: ...


class Etcd:
    """A cluster with the settings that it has by default: each node syncs its log before it confirms."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = free_ports(2 * NODES)
        self._ports, self._peer_ports = ports[:NODES], ports[NODES:]
        self._processes: list[Process] = []
        self._leader = 0

    def start(self) -> None:
        """Returns when all nodes name the same leader."""
        self._folder.mkdir(parents=True)
        peers = [f"http://{HOST}:{port}" for port in self._peer_ports]
        members = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        for number, (port, peer) in enumerate(zip(self._ports, peers, strict=True)):
            clients = f"http://{HOST}:{port}"
            command = [
                "etcd", "--name", f"n{number}", "--data-dir", str(self._folder / f"n{number}"),
                "--listen-client-urls", clients, "--advertise-client-urls", clients,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", members,
            ]  # fmt: skip
            self._processes.append(start(command, self._folder / f"n{number}.log", {}))
        wait_until("the nodes of etcd agree on a leader", self._agreed, START_TIMEOUT_S)

    def environment(self) -> dict[str, str]:
        """The node that leads: from another one each request would have one way more."""
        return {"LOCKS_ETCD": f"{HOST}:{self._leader}"}

    def stop(self) -> None:
        for process in self._processes:
            end(process)

    def _agreed(self) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                raise PeerFailed(f"a node of etcd ended with {process.returncode}")
        try:
            said = [status(port) for port in self._ports]
        except OSError:
            return False
        self._leader = agreed_leader(dict(zip(self._ports, said, strict=True))) or 0
        return self._leader != 0


def status(port: int) -> dict[str, Any]:
    """What a node of etcd says of itself. Raises OSError while it does not."""
    request = urllib.request.Request(f"http://{HOST}:{port}/v3/maintenance/status", b"{}")
    with straight.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def agreed_leader(said: dict[int, dict[str, Any]]) -> int | None:
    """The port of the node that all name as their leader, if they do; `said` has the status of each by its port."""
    named = {one.get("leader") for one in said.values()}
    if len(named) != 1:
        return None
    return next((port for port, one in said.items() if one["header"]["member_id"] in named), None)


class Brokers:
    """quorumq: three brokers, no worker, started by its own `launch`."""

    def __init__(self, folder: Path) -> None:
        self._topology = write_topology(folder, name="locks", modules=[], brokers=NODES, workers=0)
        self._cluster = LocalCluster(self._topology, log=folder / "launch.log")

    def start(self) -> None:
        self._cluster.start()
        self._cluster.wait_ready()

    def environment(self) -> dict[str, str]:
        return {"LOCKS_TOPOLOGY": str(self._topology)}

    def stop(self) -> None:
        if self._cluster.launch is not None:
            self._cluster.stop()
