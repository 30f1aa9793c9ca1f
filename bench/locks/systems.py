"""What each system consists of, and one round of it: servers, then contenders, nothing else meanwhile."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.locks.figures import Round, Share, round_of
from bench.locks.servers import Brokers, Etcd, Servers
from bench.peers.processes import Conversation
from bench.peers.servers import Redis
from bench.peers.surroundings import ROOT

CONTENDERS = 8
PROCESSES = 2                   # that they are in
ANSWER_TIMEOUT_S = 60.0         # beyond the time of a round
STEPS = ("start", "alone", "together", "stop")
assert CONTENDERS % PROCESSES == 0


@dataclass(frozen=True, slots=True)
class Size:
    """How long each measurement is, and how many rounds there are of it."""

    warm_s: float
    round_s: float
    rounds: int


FULL = Size(warm_s=1.0, round_s=10.0, rounds=3)
QUICK = Size(warm_s=0.5, round_s=2.0, rounds=1)


@dataclass(frozen=True, slots=True)
class System:
    """One row of the report."""

    name: str                   # as in --only, too
    contender: str              # module of bench.locks.apps, and class
    python: Path                # of the environment that has its library
    make_servers: Callable[[Path], Servers]
    durable: str                # what a lock that is held survives; words of docs/performance.md
    settings: str
    packages: tuple[str, ...]   # of the peers' environment, for their versions
    servers: tuple[str, ...]    # Debian packages, for the same


def measure(system: System, folder: Path, size: Size, step: Callable[[str], None]) -> tuple[Round, Round]:
    """One round alone and one with CONTENDERS, on the same servers, which are stopped whatever happens. `step` is told
    what begins. Raises whatever fails."""
    clients: list[Conversation] = []
    servers = system.make_servers(folder / "servers")
    try:
        step("start")
        servers.start()
        command = [str(system.python), "-m", "bench.locks.client", system.contender, str(folder)]
        command += [str(size.warm_s), str(size.round_s)]
        environment = {**servers.environment(), "PYTHONPATH": str(ROOT)}
        for number in range(PROCESSES):
            clients.append(Conversation(command, folder / f"client{number}.log", environment))
        step("alone")
        alone = contend(clients[:1], 1, size)
        step("together")
        return alone, contend(clients, CONTENDERS // PROCESSES, size)
    finally:
        step("stop")
        for client in clients:
            client.end()
        servers.stop()


def contend(clients: Sequence[Conversation], each: int, size: Size) -> Round:
    """One round with `each` contenders in each of these processes. All are open before it begins."""

    def share_of(client: Conversation) -> Share:
        answer = client.ask("contend", each, size.warm_s + size.round_s + ANSWER_TIMEOUT_S)
        share = msgspec.convert(answer, Share)
        assert len(share.cycles) == each
        return share

    for client in clients:
        client.ask("open", each, ANSWER_TIMEOUT_S)
    with ThreadPoolExecutor(len(clients)) as pool:
        return round_of(list(pool.map(share_of, clients)), size.round_s)


def all_systems(python: Path) -> list[System]:
    """In the order of a round. `python` is that of the peers' environment."""
    return [
        System(
            "quorumq", "quorumq_app:Contender", Path(sys.executable), Brokers,
            durable="majority", settings="three brokers", packages=(), servers=(),
        ),
        System(
            "etcd-queue", "etcd_app:Queue", python, Etcd,
            durable="majority", settings="three nodes, asked at the one that leads; lease, transaction, watch",
            packages=("grpcio", "protobuf"), servers=("etcd-server",),
        ),
        System(
            "etcd-service", "etcd_app:Service", python, Etcd,
            durable="majority", settings="three nodes, asked at the one that leads; v3lockpb.Lock",
            packages=("grpcio", "protobuf"), servers=("etcd-server",),
        ),
        System(
            "redis", "redis_app:Contender", python, Redis,
            durable="-", settings="one node; Lock of redis-py, which tries again each 0.1 s",
            packages=("redis",), servers=("redis-server",),
        ),
    ]  # fmt: skip
