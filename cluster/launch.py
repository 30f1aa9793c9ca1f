"""`python -m cluster.launch TOPOLOGY`: the node supervisor. Starts the nodes of this machine, watches and restarts them.

It runs no user code and holds no state: killing it loses nothing, its children die with it (the kernel sees to
that), and a new launch goes through recovery. A node that exits with status 2 needs an operator (a port in use, a
foreign data directory): then everything stops, with that node's line as the reason.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from actors import MILLISECOND, SECOND, Actor, ActorSystem, Child, Exit, Nanos, Ports, on_terminate, run
from cluster.broker.process import EXIT_OPERATOR, BrokerConfig
from cluster.errors import TopologyError
from cluster.topology import LOOPBACK, BrokerNode, Topology, WorkerNode, parse
from cluster.worker.process import WorkerConfig

DRAIN_TIMEOUT = 10 * SECOND             # from SIGTERM to SIGKILL of a node
BACKOFF_FIRST = 100 * MILLISECOND       # the first restart is at once
BACKOFF_MAX = 10 * SECOND
BACKOFF_RESET = 30 * SECOND             # a node that ran for so long starts over
PRELOAD = ("cluster.broker.process", "cluster.worker.process", "actors.runtime.loop", "actors.transport.zmq_link", "uvloop")

BROKER_ENTRY = "cluster.broker.process:run_broker"
WORKER_ENTRY = "cluster.worker.process:run_worker"


class Node(Actor):
    """One node's process: started with this actor, restarted when it crashes, drained and stopped with it."""

    def __init__(self, name: str, entry: str, argument: bytes, on_refused: Callable[[str, bytes], None]) -> None:
        self.name = name
        self.entry = entry
        self.argument = argument
        self.on_refused = on_refused
        self.child: Child | None = None
        self.restarts = 0
        self._failures = 0
        self._started_at: Nanos = 0
        self._stopping = False

    def started(self) -> None:
        self._start()

    def _start(self) -> None:
        self._started_at = self.context.clock.now()
        self.child = self.context.processes.spawn(
            self.entry, self.argument, page_bytes=1, on_frame=lambda frame: None, on_exit=self.context.callback(self._exited)
        )

    def _exited(self, how: Exit) -> None:
        self.child = None
        if self._stopping:
            self.context.stop()
            return
        if how.code == EXIT_OPERATOR:
            self.on_refused(self.name, how.stderr)
            return
        now = self.context.clock.now()
        if now - self._started_at > BACKOFF_RESET:
            self._failures = 0
        wait = 0 if self._failures == 0 else min(BACKOFF_MAX, BACKOFF_FIRST << min(self._failures, 10))
        self._failures += 1
        self.restarts += 1
        self.context.log.event(
            "node_exited", node=self.name, code=how.code, signal=how.signal, restart_in_ms=wait // MILLISECOND
        )
        if wait:
            self.context.timer("restart", wait, self._start)
        else:
            self._start()

    def drain(self) -> None:
        """SIGTERM now, SIGKILL after DRAIN_TIMEOUT; the actor ends with its process."""
        self._stopping = True
        self.context.cancel_timer("restart")
        if self.child is None:
            self.context.stop()
            return
        self.child.signal(signal.SIGTERM)
        self.context.timer("kill", DRAIN_TIMEOUT, self._kill)

    def _kill(self) -> None:
        if self.child is not None:
            self.context.log.event("node_killed", node=self.name, reason="it did not stop within the drain time")
            self.child.signal(signal.SIGKILL)


class Launch:
    """All nodes of this machine. Workers stop first, so that what they finish is recorded."""

    def __init__(self, ports: Ports, plan: Topology, folder: Path, only: str | None) -> None:
        self.system = ActorSystem(ports, node="launch")
        self.ports = ports
        self.refusal: tuple[str, bytes] | None = None
        self.brokers: list[Node] = []
        self.workers: list[Node] = []
        brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
        for broker in plan.brokers:
            if only in (None, broker.name) and (only or _is_here(broker.host)):
                directory = str((folder / plan.data / broker.name).resolve())
                config = BrokerConfig(plan.name, broker.name, brokers, directory)
                self.brokers.append(self._node(broker.name, BROKER_ENTRY, msgspec.msgpack.encode(config)))
        for worker in plan.workers:
            if only in (None, worker.name) and (only or _is_here(worker.host)):
                self.workers.append(self._node(worker.name, WORKER_ENTRY, worker_argument(plan, worker, folder)))

    def _node(self, name: str, entry: str, argument: bytes) -> Node:
        return Node(name, entry, argument, self._refused)

    def start(self) -> None:
        for node in (*self.brokers, *self.workers):
            self.system.spawn(node, name=node.name)

    def _refused(self, name: str, stderr: bytes) -> None:
        if self.refusal is None:
            self.refusal = (name, stderr)
            self.stop()

    def stop(self) -> None:
        """Drains workers, then brokers."""
        if self.workers:
            waiting = len(self.workers)

            def ended(_: object) -> None:
                nonlocal waiting
                waiting -= 1
                if waiting == 0:
                    self._stop_brokers()

            for node in self.workers:
                self.system.on_exit(node.context.self_ref, ended)
                node.drain()
            self.workers = []
        else:
            self._stop_brokers()

    def _stop_brokers(self) -> None:
        for node in self.brokers:
            node.drain()


def worker_argument(plan: Topology, worker: WorkerNode, folder: Path) -> bytes:
    config = WorkerConfig(
        cluster=plan.name,
        node=worker.name,
        brokers=tuple((node.name, node.address) for node in plan.brokers),
        slots=worker.slots,
        queues=worker.queues,
        modules=worker.modules,
        prefetch=worker.prefetch,
        labels=worker.labels,
        path=(str(folder.resolve()), str(Path.cwd())),
    )
    return msgspec.msgpack.encode(config)


def _is_here(host: str) -> bool:
    return LOOPBACK.fullmatch(host) is not None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topology", type=click.Path(dir_okay=False))
@click.option("--node", default=None, help="Start this node only.")
def main(topology: str, node: str | None) -> None:
    """Run the nodes of TOPOLOGY that live on this machine until Ctrl-C or SIGTERM, then drain (10 s) and stop."""
    path = Path(topology)
    try:
        plan = _load(path)
        if node is not None and plan.node(node) is None:
            raise TopologyError(f"{path}: no node is named {node!r}")
    except TopologyError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if len(plan.brokers) == 1:
        click.echo("warning: one broker: for development only, nothing is replicated", err=True)
    folder = path.resolve().parent
    sys.exit(run(lambda ports: _serve(ports, plan, folder, node), node="launch", preload=PRELOAD, echo=True))


def _load(path: Path) -> Topology:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"{path}: {error.strerror}") from None
    return parse(text, str(path))


async def _serve(ports: Ports, plan: Topology, folder: Path, only: str | None) -> int:
    launch = Launch(ports, plan, folder, only)
    launch.start()
    on_terminate(launch.stop, interrupt=True)
    await launch.system.wait_stopped()
    if launch.refusal is not None:
        name, stderr = launch.refusal
        click.echo(f"error: node {name!r} cannot run; it said:\n{stderr.decode(errors='replace').strip()}", err=True)
        return EXIT_OPERATOR
    return 0


if __name__ == "__main__":
    main()
