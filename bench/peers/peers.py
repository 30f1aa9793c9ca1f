"""What each peer consists of: servers, workers, client. All have the same protocol, quorumq too (`own`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.peers.own import Own
from bench.peers.processes import Conversation, Process, end, start
from bench.peers.servers import CeleryRabbit, RabbitBesideRedis, Redis, Servers
from bench.peers.work import RUNS_FOLDER


class Peer(Protocol):
    """One row of the report. `start_...` in their order, then requests to the client, `stop` in any case."""

    name: str                   # as in --only, too
    durable: str                # what a confirmed submit and a result survive; words of docs/performance.md
    settings: str               # what is not the library's default
    packages: tuple[str, ...]   # of the peers' environment, for their versions
    servers: tuple[str, ...]    # Debian packages, for the same

    def start_servers(self, folder: Path) -> None: ...

    def start_workers(self, runs: Path) -> None:
        """Two slots; `work.mark` writes to `runs`."""

    def start_client(self) -> Conversation:
        """Submits and waits, on request."""

    def choose_victim(self) -> None:
        """Who leads? Called once there is a queue."""

    def kill(self) -> None:
        """SIGKILL to one server: the one that leads the queue."""

    def restart(self) -> None:
        """Starts it again and returns when it is up."""

    def stop(self) -> None: ...


@dataclass(slots=True)
class Library:
    """A library of the peers' environment, over servers of Debian."""

    name: str
    app: str                            # module of bench.peers.apps
    worker: tuple[str, ...]             # behind `python -m`
    queue: str                          # in its broker
    make_servers: Callable[[Path], Servers]
    durable: str
    settings: str
    packages: tuple[str, ...]
    servers: tuple[str, ...]
    python: Path                        # of the peers' environment
    worker_environment: Mapping[str, str] = field(default_factory=dict)
    _running: Servers | None = None
    _folder: Path = Path()
    _environment: dict[str, str] = field(default_factory=dict)
    _worker: Process | None = None
    _client: Conversation | None = None

    def start_servers(self, folder: Path) -> None:
        self._folder = folder
        self._running = self.make_servers(folder / "servers")
        self._running.start()
        self._environment = {
            **self._running.environment(),
            "PATH": f"{self.python.parent}:/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def start_workers(self, runs: Path) -> None:
        command = [str(self.python), "-m", *self.worker]
        environment = {**self._environment, **self.worker_environment, RUNS_FOLDER: str(runs)}
        self._worker = start(command, self._folder / "workers.log", environment)

    def start_client(self) -> Conversation:
        command = [str(self.python), "-m", "bench.peers.client", self.app]
        self._client = Conversation(command, self._folder / "client.log", self._environment)
        return self._client

    def choose_victim(self) -> None:
        assert self._running is not None
        self._running.choose_victim(self.queue)

    def kill(self) -> None:
        assert self._running is not None
        self._running.kill()

    def restart(self) -> None:
        assert self._running is not None
        self._running.restart()

    def stop(self) -> None:
        if self._client is not None:
            self._client.end()
        if self._worker is not None:
            end(self._worker)
        if self._running is not None:
            self._running.stop()


MAY_BE_ROOT = {"C_FORCE_ROOT": "1"}                     # or Celery warns
# Of a process. The default, two for each thread, is three times slower over Redis.
DRAMATIQ_PREFETCH = {"dramatiq_queue_prefetch": "64"}
CELERY_WORKER = (
    "celery", "-A", "bench.peers.apps.celery_app:app", "worker", "-c", "2", "-P", "prefork", "-l", "warning",
    "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip
DRAMATIQ_WORKER = ("dramatiq", "bench.peers.apps.dramatiq_app", "-p", "2", "-t", "1")
HUEY_WORKER = ("huey.bin.huey_consumer", "bench.peers.apps.huey_app.huey", "-w", "2", "-k", "process", "-q")
TASKIQ_WORKER = ("taskiq", "worker", "bench.peers.apps.taskiq_app:broker", "-w", "2", "--log-level", "WARNING")


def all_peers(python: Path) -> list[Peer]:
    """In the order of the run. `python` is that of the peers' environment."""
    return [
        Own("quorumq-map", by="map"),
        Own("quorumq-submit", by="submit"),
        Library(
            "celery-redis", "celery_app", CELERY_WORKER, "celery", Redis,
            durable="-", settings="prefetch 64",
            packages=("celery",), servers=("redis-server",), python=python, worker_environment=MAY_BE_ROOT,
        ),
        Library(
            "celery-quorum", "celery_app", CELERY_WORKER, "celery", lambda folder: CeleryRabbit(folder, nodes=3),
            durable="majority (queue), - (results)",
            settings="three nodes, confirm_publish, acks_late, result_persistent, prefetch 64",
            packages=("celery",), servers=("rabbitmq-server",), python=python, worker_environment=MAY_BE_ROOT,
        ),
        Library(
            "dramatiq-redis", "dramatiq_app", DRAMATIQ_WORKER, "default", Redis,
            durable="-", settings="one thread in a process, prefetch 64",
            packages=("dramatiq",), servers=("redis-server",), python=python, worker_environment=DRAMATIQ_PREFETCH,
        ),
        Library(
            "dramatiq-rabbitmq", "dramatiq_app", DRAMATIQ_WORKER, "default", RabbitBesideRedis,
            durable="1 node (queue), - (results)",
            settings="one node, confirm_delivery, results in Redis; one thread in a process",
            packages=("dramatiq",), servers=("rabbitmq-server", "redis-server"), python=python,
        ),
        Library(
            "huey-redis", "huey_app", HUEY_WORKER, "peers", Redis,
            durable="-", settings="process workers; results polled each millisecond",
            packages=("huey",), servers=("redis-server",), python=python,
        ),
        Library(
            "taskiq-redis", "taskiq_app", TASKIQ_WORKER, "taskiq", Redis,
            durable="-", settings="ListQueueBroker; results polled each millisecond",
            packages=("taskiq", "taskiq-redis"), servers=("redis-server",), python=python,
        ),
    ]  # fmt: skip
