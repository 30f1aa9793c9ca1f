"""`python -m cluster.launch TOPOLOGY`: starts the nodes of this machine, watches and restarts them.

It runs no user code and holds no state: killing it loses nothing, its children die with it (the kernel sees to
that), and a new launch goes through recovery. A node that refuses to run needs an operator (a port in use, a
foreign data directory): then everything stops, with that node's line as the reason.
"""

import sys
from pathlib import Path

import click
import msgspec

from actors import ActorSystem, Ports, on_terminate, run
from cluster.errors import TopologyError
from cluster.node_report import EXIT_OPERATOR
from cluster.node_tree import Launch, NodeSpec, Stop
from cluster.peer.config import BrokerConfig, BrokerLimits
from cluster.stand_in import StandInConfig
from cluster.topology import LOOPBACK, Topology, WorkerNode, load
from cluster.worker.process import WorkerConfig
from cluster.worker.scaling import PACE, ScalingPace
from cluster.worker.wear import WearLimits

PRELOAD = (
    "cluster.broker.process",
    "cluster.worker.process",
    "actors.runtime.loop",
    "actors.transport.zmq_link",
    "uvloop",
)

BROKER_ENTRY = "cluster.broker.process:run_broker"
WORKER_ENTRY = "cluster.worker.process:run_worker"


class LaunchLimits(BrokerLimits, frozen=True):
    """Likewise, and how soon workers open and close slots: what the option `--limits` takes, as JSON."""

    pace: ScalingPace = PACE


def nodes_of(plan: Topology, folder: Path, only: str | None, limits: LaunchLimits) -> list[NodeSpec]:
    """The nodes to run here: those with an address of this machine, or the one that was asked for."""
    brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
    specs: list[NodeSpec] = []
    for broker in plan.brokers:
        if broker.name == only or (only is None and _is_here(broker.host)):
            directory = _directory(plan, broker.name, folder)
            config = BrokerConfig(
                plan.name, broker.name, brokers, directory, wal=limits.wal, compaction=limits.compaction
            )
            argument = msgspec.msgpack.encode(config)
            specs.append(NodeSpec(broker.name, BROKER_ENTRY, argument, is_broker=True))
    for worker in plan.workers:
        if worker.name == only or (only is None and _is_here(worker.host)):
            argument = worker_argument(plan, worker, folder, limits.pace)
            stand_in = StandInConfig(plan.name, tuple((name, address) for name, address, _ in brokers))
            specs.append(NodeSpec(worker.name, WORKER_ENTRY, argument, is_broker=False, stand_in=stand_in))
    return specs


def worker_argument(plan: Topology, worker: WorkerNode, folder: Path, pace: ScalingPace = PACE) -> bytes:
    config = WorkerConfig(
        cluster=plan.name,
        node=worker.name,
        brokers=tuple((node.name, node.address) for node in plan.brokers),
        slots=worker.slots,
        slots_min=worker.slots_min,
        queues=worker.queues,
        modules=worker.modules,
        prefetch=worker.prefetch,
        labels=worker.labels,
        path=(str(folder.resolve()), str(Path.cwd())),
        directory=_directory(plan, worker.name, folder),
        wear=WearLimits(worker.recycle_after, worker.recycle_above, worker.memory_limit),
        async_tasks=worker.async_tasks,
        pace=pace,
    )
    return msgspec.msgpack.encode(config)


def _directory(plan: Topology, node: str, folder: Path) -> str:
    return str((folder / plan.data / node).resolve())


def _is_here(host: str) -> bool:
    return LOOPBACK.fullmatch(host) is not None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topology", type=click.Path(dir_okay=False))
@click.option("--node", default=None, help="Start this node only.")
@click.option("--limits", "limits_json", default="{}", hidden=True, help="For tests: LaunchLimits as JSON.")
def main(topology: str, node: str | None, limits_json: str) -> None:
    """Run the nodes of TOPOLOGY that live on this machine until Ctrl-C or SIGTERM, then drain (10 s) and stop."""
    path = Path(topology)
    try:
        plan = load(path)
        if node is not None and plan.node(node) is None:
            raise TopologyError(f"{path}: no node is named {node!r}")
    except TopologyError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if len(plan.brokers) == 1:
        click.echo("warning: one broker: for development only, nothing is replicated", err=True)
    limits = msgspec.json.decode(limits_json, type=LaunchLimits)
    nodes = nodes_of(plan, path.resolve().parent, node, limits)
    if not nodes:
        click.echo(f"error: {path}: no node has an address of this machine; start each with --node NAME", err=True)
        sys.exit(2)
    sys.exit(run(lambda ports: _serve(ports, nodes), node="launch", preload=PRELOAD, echo=True))


async def _serve(ports: Ports, nodes: list[NodeSpec]) -> int:
    system = ActorSystem(ports, node="launch")
    launch = Launch(nodes)
    ref = system.spawn(launch, name="launch")

    def stop() -> None:
        ref.tell(Stop())

    on_terminate(stop, interrupt=True)
    await system.wait_stopped()
    if launch.refusal is not None:
        click.echo(f"error: node {launch.refusal.node!r} cannot run: {launch.refusal.reason.strip()}", err=True)
        return EXIT_OPERATOR
    return 0


if __name__ == "__main__":
    main()
