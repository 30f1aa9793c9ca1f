"""The processes of a simulated cluster: what `launch` would start and keep running, one machine for each.

A broker or worker that ends by itself is started again after a while, as its supervisor would do it. Why it ended is
told to `on_end`: a crash that no fault accounts for is a bug.
"""

import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from actors import MILLISECOND, SECOND, Actor, ActorSystem, Exit, ExitReason, Failed, Nanos, Ports
from actors.simulation import ChildPort, Process, World
from cluster.broker.actor import Broker
from cluster.broker.process import EXIT_STATUS, start_broker
from cluster.compaction.policy import CompactionLimits
from cluster.node_report import ASKED, EXIT_AGAIN, EXIT_DRAINED, EXIT_FAULT
from cluster.peer.actor import RaftPeer
from cluster.peer.config import BrokerConfig
from cluster.simulation.state_oracle import FULL_DIGEST_INTERVAL
from cluster.simulation.tasks import WEAR, Count, OnRun, executor_body, loop_body
from cluster.stand_in import StandIn, StandInConfig
from cluster.storage.segment import WalLimits
from cluster.topology import BrokerNode, Topology, WorkerNode
from cluster.worker.config import WorkerConfig
from cluster.worker.loop_child import LOOP_ENTRY
from cluster.worker.process import drain, start_worker
from cluster.worker.slot_child import EXECUTOR_ENTRY

BROKERS = ("b1", "b2", "b3")
WORKERS = ("w1", "w2")
LABELS = {"w1": (), "w2": ("gpu",)}
SLOTS = 2
ASYNC_TASKS = 6
DIRECTORY = "data"              # of a broker, on its own disk
RESTART_NS_MIN: Nanos = 100 * MILLISECOND
RESTART_NS_MAX: Nanos = 1 * SECOND
ASKED_RESTART_NS_MAX: Nanos = 50 * MILLISECOND      # after an end that an operator asked for
OUT_NS_MAX: Nanos = 10 * SECOND     # of a drained worker; then its launch is started anew, at the latest

# Small, so that a minute of work fills several segments.
LIMITS = WalLimits(segment_bytes=256 * 1024, zero_chunk_bytes=64 * 1024, probe_syncs=4)
SMALLER = WalLimits(segment_bytes=48 * 1024, zero_chunk_bytes=16 * 1024, probe_syncs=4)

# So that a minute of work is compacted several times. In some seeds a follower that was away for seconds gets a
# snapshot, in the others the log is kept for it.
COMPACTION = CompactionLimits(
    log_bytes_min=48 * 1024,
    pinned_bytes_max=1024 * 1024,
    silence_max=5 * SECOND,
    retry_min=SECOND // 2,
    retry_max=2 * SECOND,
    checkpoint_entries=FULL_DIGEST_INTERVAL,
)
HASTY = replace(COMPACTION, log_bytes_min=16 * 1024, state_factor=0, pinned_bytes_max=0)
HASTY_ONE_IN = 2

OnEnd = Callable[[str, ExitReason], None]      # node, why one of its actors ended by itself
StandIns = Mapping[tuple[ModuleType, str], object]              # what takes the place of a class, by module and name


def topology() -> Topology:
    """Three brokers and two workers, each on a machine of its own name."""
    return Topology(
        name="simulated",
        data=DIRECTORY,
        insecure=True,
        brokers=tuple(BrokerNode(name, f"{name}:7100", f"{name}:8100") for name in BROKERS),
        workers=tuple(WorkerNode(name, name, SLOTS, ("default",), ("simulated",), 0, LABELS[name]) for name in WORKERS),
    )


class Node:
    """A process that is kept running."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.restarts = 0               # after it had ended by itself
        self._random = world.stream(f"restarts {name}")
        self.process: Process = world.process(name, self._start)
        self.process.on_exit.append(self._ended)

    def _start(self, ports: Ports) -> Coroutine[Any, Any, None]:
        raise NotImplementedError

    def _ended(self, exit: Exit) -> None:
        if exit.code is None:
            return                      # killed: whoever did that brings it back
        self.restarts += 1
        if exit.code in ASKED:
            wait = self._random.randrange(ASKED_RESTART_NS_MAX)
        else:
            wait = self._random.randint(RESTART_NS_MIN, RESTART_NS_MAX)
        self.world.after(wait, self._restart)

    def _restart(self) -> None:
        if not self.process.alive:
            self.world.restart(self.process)


class BrokerProcess(Node):
    """A broker. `peer` and `broker` are its actors while it runs, and stay those of its last life.

    `stand_ins(name)` take the place of production's classes while the broker is put together: those of the oracles,
    and of tests that plant a bug.
    """

    def __init__(
        self,
        world: World,
        name: str,
        plan: Topology,
        sync_mode: str,
        stand_ins: Callable[[str], StandIns],
        on_end: OnEnd,
    ) -> None:
        brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
        sizes = (SMALLER, HASTY) if world.seed % HASTY_ONE_IN == 0 else (LIMITS, COMPACTION)
        self.config = BrokerConfig(plan.name, name, brokers, DIRECTORY, sync_mode, *sizes)
        self.peer: RaftPeer | None = None
        self.broker: Broker | None = None
        self._stand_ins = stand_ins
        self._on_end = on_end
        super().__init__(world, name)

    async def _start(self, ports: Ports) -> None:
        status = 0

        def fault(reason: ExitReason) -> None:
            nonlocal status
            if isinstance(reason, Failed):
                status = status or EXIT_STATUS.get(reason.type, EXIT_FAULT)
                self._on_end(self.name, reason)
            system.stop()

        def end() -> None:
            nonlocal status
            status = status or EXIT_AGAIN
            system.stop()

        with _in_place(self._stand_ins(self.name)):
            system = start_broker(ports, self.config, self.process.incarnation, fault, on_end=end)
        peer, broker = _actor(system, "raft"), _actor(system, "broker")
        assert isinstance(peer, RaftPeer) and isinstance(broker, Broker)
        self.peer, self.broker = peer, broker
        await system.wait_stopped()
        raise SystemExit(status)


class WorkerProcess(Node):
    """A worker, whose children run `executor_body` and `loop_body`."""

    def __init__(self, world: World, name: str, plan: Topology, on_end: OnEnd) -> None:
        brokers = tuple((node.name, node.address) for node in plan.brokers)
        labels = LABELS[name]
        self.config = WorkerConfig(
            plan.name, name, brokers, ("simulated",), SLOTS, labels=labels, wear=WEAR, async_tasks=ASYNC_TASKS
        )
        self._on_end = on_end
        self._system: ActorSystem | None = None         # while it runs
        self._is_out = False                            # an operator has drained it
        self._cut_off = 0                               # tasks that its drain has ended
        super().__init__(world, name)

    def drain(self) -> bool:
        """What SIGTERM does; it is started again once it has ended. False if nobody is there to hear it."""
        if self._system is None or self.process.paused:
            return False
        drain(self._system)
        return True

    def _ended(self, exit: Exit) -> None:
        self._system = None
        self._is_out = exit.code == EXIT_DRAINED        # a launch that dies forgets it
        super()._ended(exit)

    async def _start(self, ports: Ports) -> None:
        if self._is_out:
            await self._stand_in(ports)
        worker, self._system, ended = start_worker(ports, self.config, self.process.incarnation)
        system = self._system
        await system.wait_stopped()
        self._cut_off = worker.cut_off
        for reason in ended:
            if isinstance(reason, Failed):
                self._on_end(self.name, reason)
        raise SystemExit(worker.end_status or (EXIT_FAULT if ended else 0))

    async def _stand_in(self, ports: Ports) -> None:
        """What its launch does meanwhile."""
        system = ActorSystem(ports, node=self.name)
        config = StandInConfig(self.config.cluster, self.config.brokers)
        system.spawn(Out(self.name, config, self._cut_off), name="out")
        ports.clock.call_at(ports.clock.now() + self._random.randrange(OUT_NS_MAX), system.stop)
        await system.wait_stopped()
        raise SystemExit(EXIT_AGAIN)


class Out(StandIn):
    """Of a drained worker, until an operator wants it back."""

    def asked_back(self) -> None:
        self.context.system.stop()


def register_executors(world: World, on_run: OnRun, on_count: Callable[[int, Count], None]) -> None:
    """What workers' children run; `on_run(task, attempt)` is told of every start, and `on_count` of what tallies count
    in which child."""
    children = itertools.count(1)

    def slot(port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        return executor_body(port, on_run, partial(on_count, next(children)))

    def loop(port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        return loop_body(port, on_run)

    world.register_entry(EXECUTOR_ENTRY, slot)
    world.register_entry(LOOP_ENTRY, loop)


@contextmanager
def _in_place(stand_ins: StandIns) -> Iterator[None]:
    originals = {place: getattr(*place) for place in stand_ins}
    try:
        for (module, name), stand_in in stand_ins.items():
            setattr(module, name, stand_in)
        yield
    finally:
        for (module, name), original in originals.items():
            setattr(module, name, original)


def _actor(system: ActorSystem, name: str) -> Actor:
    cell = system.find(name)
    assert cell is not None
    return cell.actor


