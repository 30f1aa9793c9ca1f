"""Redis and RabbitMQ on free ports of loopback, with their data in a folder of the run. Who leads is who is killed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Protocol

from bench.peers.processes import HOST, PeerFailed, Process, accepts, end, free_ports, start, wait_until

START_TIMEOUT_S = 90.0          # of a RabbitMQ cluster on two cores; Redis takes a tenth of a second
COMMAND_TIMEOUT_S = 30.0
RABBIT = Path("/usr/lib/rabbitmq/bin")      # not the wrappers in /usr/sbin, which change the user
RABBIT_USER = "guest:guest"                 # may come from loopback only


class Servers(Protocol):
    """What a peer keeps its tasks in. One of its processes is killed in the middle of a run, and started again."""

    def start(self) -> None: ...

    def environment(self) -> dict[str, str]:
        """Where `bench.peers.apps` find it."""

    def choose_victim(self, queue: str) -> None:
        """Finds out who leads `queue`: before the run, because asking takes seconds."""

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def stop(self) -> None: ...


class Redis:
    """One server with the persistence that it has by default: snapshots, at the earliest after a minute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        self._process: Process | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--bind", HOST, "--port", str(self._port), "--dir", str(self._folder)]
        self._process = start(command, self._folder / "log", {})
        wait_until("Redis accepts connections", lambda: accepts(self._port), START_TIMEOUT_S)

    def environment(self) -> dict[str, str]:
        return {"PEER_BROKER": self.url(0), "PEER_BACKEND": self.url(1)}

    def url(self, database: int) -> str:
        return f"redis://{HOST}:{self._port}/{database}"

    def choose_victim(self, queue: str) -> None:
        pass

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)


class RabbitNode:
    """One node: its folder, its ports, its environment."""

    def __init__(self, name: str, folder: Path, common: dict[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.port, distribution = free_ports(2)
        self.environment = {
            **common,
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
        }
        self._process: Process | None = None

    def configure(self, members: list[str]) -> None:
        lines = [
            f"listeners.tcp.1 = {HOST}:{self.port}",
            "log.console = false",
            "log.file.level = warning",
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{n} = {name}" for n, name in enumerate(members, start=1)),
        ]
        self.folder.mkdir(parents=True)
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "plugins").write_text("[].\n")

    def start(self) -> None:
        self._process = start([str(RABBIT / "rabbitmq-server")], self.folder / "out", self.environment)

    def wait_up(self) -> None:
        wait_until(f"{self.name} accepts connections", lambda: accepts(self.port), START_TIMEOUT_S)

    def control(self, *arguments: str) -> str:
        command = [str(RABBIT / "rabbitmqctl"), "--node", self.name, "--quiet", *arguments]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        if done.returncode != 0:
            raise PeerFailed(f"rabbitmqctl {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-200:]}")
        return done.stdout

    def kill(self) -> None:
        """SIGKILL to the Erlang machine, which is a child of the script that we started, and to the rest of it."""
        assert self._process is not None
        os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)
        end(self._process)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)


class Rabbit:
    """RabbitMQ, as one node or as a cluster of several; clients are given all of them and start with the first."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        (mapper,) = free_ports(1)
        self._mapper_port = mapper
        common = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": HOST,
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        }
        self._environment = common
        names = [f"n{number}_{mapper}@localhost" for number in range(1, nodes + 1)]
        self._nodes = [RabbitNode(name, folder / f"n{n}", common) for n, name in enumerate(names, start=1)]
        self._victim = self._nodes[0]
        self._mapper: Process | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text("peers")
        cookie.chmod(0o400)
        (self._folder / "rabbitmq-env.conf").touch()
        mapper = ["epmd", "-port", str(self._mapper_port), "-address", HOST]
        self._mapper = start(mapper, self._folder / "epmd.log", self._environment)
        wait_until("epmd accepts connections", lambda: accepts(self._mapper_port), START_TIMEOUT_S)
        members = [node.name for node in self._nodes]
        for node in self._nodes:
            node.configure(members)
            node.start()
        for node in self._nodes:
            node.wait_up()
        for node in self._nodes:
            node.control("await_online_nodes", str(len(members)))

    def environment(self) -> dict[str, str]:
        return {"PEER_BROKER": ";".join(f"amqp://{RABBIT_USER}@{HOST}:{node.port}/%2F" for node in self._nodes)}

    def choose_victim(self, queue: str) -> None:
        if len(self._nodes) == 1:
            return
        rows = [row.split("\t") for row in self._nodes[0].control("list_queues", "name", "leader").splitlines()]
        leader = next((row[1] for row in rows if row[0] == queue), None)
        if leader is None:
            raise PeerFailed(f"no queue {queue!r} in RabbitMQ: {rows}")
        self._victim = next(node for node in self._nodes if node.name == leader)

    def kill(self) -> None:
        self._victim.kill()

    def restart(self) -> None:
        self._victim.start()
        self._victim.wait_up()

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()
        if self._mapper is not None:
            end(self._mapper)


class CeleryRabbit(Rabbit):
    """Results go to RabbitMQ too, to a queue of the client."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PEER_BACKEND": "rpc://"}


class RabbitBesideRedis:
    """Tasks in one node of RabbitMQ, which is killed; results in Redis, which is not."""

    def __init__(self, folder: Path) -> None:
        self._rabbit = Rabbit(folder / "rabbit", nodes=1)
        self._redis = Redis(folder / "redis")
        self.choose_victim = self._rabbit.choose_victim
        self.kill = self._rabbit.kill
        self.restart = self._rabbit.restart

    def start(self) -> None:
        self._redis.start()
        self._rabbit.start()

    def environment(self) -> dict[str, str]:
        return {**self._rabbit.environment(), "PEER_BACKEND": self._redis.url(1)}

    def stop(self) -> None:
        self._rabbit.stop()
        self._redis.stop()


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
