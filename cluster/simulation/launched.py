"""Processes of a cluster that are kept running, as `launch` would do it, one machine for each.

A broker or worker that ends by itself is started again after a while, as its supervisor would do it. Why it ended is
told to `on_end`: a crash that nothing accounts for is a bug.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from actors import MILLISECOND, SECOND, Actor, ActorSystem, Exit, ExitReason, Failed, Nanos, Ports
from actors.simulation import Process, World
from cluster.broker.actor import Broker
from cluster.broker.process import EXIT_STATUS, start_broker
from cluster.node_report import ASKED, EXIT_AGAIN, EXIT_DRAINED, EXIT_FAULT
from cluster.peer.actor import RaftPeer
from cluster.peer.config import BrokerConfig
from cluster.stand_in import StandIn, StandInConfig
from cluster.worker.actor import Worker
from cluster.worker.config import WorkerConfig
from cluster.worker.process import drain, start_worker

RESTART_NS_MIN: Nanos = 100 * MILLISECOND
RESTART_NS_MAX: Nanos = 1 * SECOND
ASKED_RESTART_NS_MAX: Nanos = 50 * MILLISECOND      # after an end that an operator asked for
OUT_NS_MAX: Nanos = 10 * SECOND     # of a drained worker; then its launch is started anew, at the latest

OnEnd = Callable[[str, ExitReason], None]      # node, why one of its actors ended by itself
StandIns = Mapping[tuple[ModuleType, str], object]              # what takes the place of a class, by module and name


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
        config: BrokerConfig,
        on_end: OnEnd,
        stand_ins: Callable[[str], StandIns] = lambda name: {},
    ) -> None:
        self.config = config
        self.system: ActorSystem | None = None          # of its last life, like the next two
        self.peer: RaftPeer | None = None
        self.broker: Broker | None = None
        self._stand_ins = stand_ins
        self._on_end = on_end
        super().__init__(world, config.node)

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

        with in_place(self._stand_ins(self.name)):
            system = start_broker(ports, self.config, self.process.incarnation, fault, on_end=end)
        peer, broker = _actor(system, "raft"), _actor(system, "broker")
        assert isinstance(peer, RaftPeer) and isinstance(broker, Broker)
        self.system, self.peer, self.broker = system, peer, broker
        await system.wait_stopped()
        raise SystemExit(status)


class WorkerProcess(Node):
    """A worker, whose children run what the world has under their entries. `worker` is its actor while it runs."""

    def __init__(self, world: World, config: WorkerConfig, on_end: OnEnd) -> None:
        self.config = config
        self.system: ActorSystem | None = None          # while it runs
        self.worker: Worker | None = None               # likewise
        self._on_end = on_end
        self._is_out = False                            # an operator has drained it
        self._cut_off = 0                               # tasks that its drain has ended
        super().__init__(world, config.node)

    def drain(self) -> bool:
        """What SIGTERM does; it is started again once it has ended. False if nobody is there to hear it."""
        if self.system is None or self.process.paused:
            return False
        drain(self.system)
        return True

    def _ended(self, exit: Exit) -> None:
        self.system = self.worker = None
        self._is_out = exit.code == EXIT_DRAINED        # a launch that dies forgets it
        super()._ended(exit)

    async def _start(self, ports: Ports) -> None:
        if self._is_out:
            await self._stand_in(ports)
        worker, system, ended = start_worker(ports, self.config, self.process.incarnation)
        self.worker, self.system = worker, system
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


@contextmanager
def in_place(stand_ins: StandIns) -> Iterator[None]:
    """While the block runs these stand where production's classes are looked up."""
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


