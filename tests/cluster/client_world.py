"""Users of a cluster of three brokers in a simulated world: what they do is an async function, what comes of it is seen
from outside. Everything but the time that a task takes is the real code.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import msgspec

from actors import MICROSECOND, SECOND, ActorSystem, Nanos, Ports
from actors.simulation import ChildPort, NetworkLimits, Process, World
from actors.simulation.ports import WALL_EPOCH_MS
from cluster import Client, task
from cluster.broker.actor import Broker
from cluster.broker.process import start_broker
from cluster.client.actor import ClientActor
from cluster.client.succession import SessionLimits
from cluster.peer.config import BrokerConfig
from cluster.simulation.compactors import register_compactor
from cluster.storage.segment import WalLimits
from cluster.task import current
from cluster.topology import BrokerNode, Topology
from cluster.worker.child_messages import Ready, encode
from cluster.worker.config import WorkerConfig
from cluster.worker.executor import Executor
from cluster.worker.page import ClaimPage
from cluster.worker.process import start_worker
from cluster.worker.slot_child import EXECUTOR_ENTRY

BROKERS = ("b1", "b2", "b3")
LIMIT = 300 * SECOND
WAL = WalLimits(segment_bytes=4 * 1024 * 1024, zero_chunk_bytes=64 * 1024, probe_syncs=4)
MS = 1_000                      # of work, in microseconds

Fate = Literal["ok", "raise", "die"]
Program = Callable[[Client, Ports], Coroutine[Any, Any, Any]]


class Parcel(msgspec.Struct):
    """Something that plain types cannot tell from a dict."""

    number: int
    label: str = ""


class Mishap(Exception):
    """What a task of this world raises."""


@task(name="world:work")
def work(parcel: Parcel, work_us: int = 0, fate: Fate = "ok") -> Parcel:
    """Returns the parcel, after that much virtual time."""
    if parcel.label == "log":
        current().log.info("parcel %d, attempt %d", parcel.number, current().attempt)
    if fate == "raise":
        raise ValueError(f"parcel {parcel.number}")
    return parcel


@task(name="world:unserved")
def unserved() -> None:
    """No worker of this world announces it."""


TASKS = {work.name: work}


def topology(cluster: str = "world") -> Topology:
    brokers = tuple(BrokerNode(node, f"{node}:7100", f"{node}:8100") for node in BROKERS)
    return Topology(cluster, "data", True, brokers, ())


class ClientWorld:
    """`runs` counts the attempts that began, by task, and `spans` has when each began and ended, in the order of their
    ends, in nanoseconds. `answers` is what programs returned, by name of their client.
    Once it `is_mended`, no task dies any more."""

    def __init__(
        self,
        seed: int = 0,
        *,
        workers: int = 1,
        slots: int = 2,
        network: NetworkLimits | None = None,
        wal: WalLimits = WAL,
        wall_ms: int = WALL_EPOCH_MS,
    ) -> None:
        """`wall_ms` is what the wall clocks show in the beginning, but for some milliseconds."""
        self.wal = wal
        self.steps = 1                              # of each task; it says at each how far it is, if there are more
        self.world = World(seed, network=network)
        self.world.register_entry(EXECUTOR_ENTRY, self._executor)
        register_compactor(self.world, lambda: None)
        self.runs: dict[int, int] = {}
        self.spans: list[tuple[int, int]] = []
        self.is_mended = False
        self.log: list[tuple[str, str]] = []
        self.world.on_log.append(lambda process, name, fields: self.log.append((process, name)))
        self.systems: dict[str, ActorSystem] = {}
        names = [f"w{number}" for number in range(1, workers + 1)]
        if wall_ms != WALL_EPOCH_MS:
            for name in (*BROKERS, *names):
                self.world.machine(name).jump_wall_clock(wall_ms - WALL_EPOCH_MS)
        self.brokers = {name: self.world.process(name, self._broker(name)) for name in BROKERS}
        self.workers = {name: self.world.process(name, self._worker(name, slots)) for name in names}
        self.answers: dict[str, Any] = {}
        self.errors: dict[str, BaseException] = {}
        self.clients: dict[str, Process] = {}
        self.world.run_for(SECOND // 100)           # all have begun

    # -- processes ----------------------------------------------------------------------------------------------------

    def _broker(self, name: str) -> Callable[[Ports], Awaitable[None]]:
        addresses = tuple((node, f"{node}:7100", f"{node}:8100") for node in BROKERS)

        async def start(ports: Ports) -> None:
            config = BrokerConfig("world", name, addresses, "data", "inline", self.wal)
            self.systems[name] = system = start_broker(ports, config, 100 + BROKERS.index(name), lambda reason: None)
            await system.wait_stopped()

        return start

    def _worker(self, name: str, slots: int) -> Callable[[Ports], Awaitable[None]]:
        async def start(ports: Ports) -> None:
            brokers = tuple((node, f"{node}:7100") for node in BROKERS)
            _, system, _ = start_worker(ports, WorkerConfig("world", name, brokers, (), slots))
            await system.wait_stopped()

        return start

    async def _executor(self, port: ChildPort, argument: bytes) -> None:
        executor = Executor(port, TASKS)
        port.send(encode(Ready(tuple(sorted(TASKS)))))
        page = ClaimPage(port.page.view)
        while True:
            while executor.claim():
                running = executor.running
                assert running is not None
                self.runs[running.task] = self.runs.get(running.task, 0) + 1
                began = self.world.now
                args, kwargs = work.codec.decode_arguments(running.body)
                _, work_us, fate = (*args, *(0, "ok")[len(args) - 1 :])
                for step in range(self.steps):
                    if self.steps > 1:
                        page.report(page.claimed, step, self.steps)
                    await port.work(kwargs.get("work_us", work_us) * MICROSECOND // self.steps)
                if kwargs.get("fate", fate) == "die" and not self.is_mended:
                    raise SystemExit(3)
                self.spans.append((began, self.world.now))
                executor.run()
            frame = port.poll()
            if frame is None:
                executor.flush()
                frame = await port.receive()
                if frame is None:
                    return
            executor.receive(frame)

    # -- users --------------------------------------------------------------------------------------------------------

    def start(
        self,
        program: Program,
        *,
        deadline: float = 30.0,
        require_leader: bool = True,
        cluster: str = "world",
        only_looks: bool = False,
        limits: SessionLimits | None = None,
    ) -> str:
        """A new user begins; returns the name of its process."""
        name = f"c{len(self.clients) + 1}"
        plan = topology(cluster)

        async def live(ports: Ports) -> None:
            try:
                client = Client(
                    plan, lambda: ports, deadline, require_leader, only_looks=only_looks, limits=limits
                )
                async with client:
                    self.answers[name] = await program(client, ports)
            except Exception as error:
                self.errors[name] = error
            await pause(ports, 1.0)     # real sockets linger until the last frames have left

        self.clients[name] = self.world.process(name, live)
        return name

    def finish(self, name: str, limit: Nanos = LIMIT) -> Any:
        """Lets time pass until a user is done; what its program returned, or raises what it raised."""
        self.until(lambda: name in self.answers or name in self.errors, limit)
        if name in self.errors:
            raise self.errors[name]
        self.until(lambda: not self.clients[name].alive, limit)
        return self.answers[name]

    def run(self, program: Program, **options: Any) -> Any:
        return self.finish(self.start(program, **options))

    def take_over(self, session: str, name: str) -> None:
        """Another incarnation under the name of a client's session ends it, as an operator's copy of it would. Its own
        session is the answer of process `name`."""
        actor = ClientActor("world", session, 1, tuple((node, f"{node}:7100") for node in BROKERS))

        async def live(ports: Ports) -> None:
            system = ActorSystem(ports, node=session)
            system.spawn(actor, name="client")
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            actor.registered(done)
            await done
            self.answers[name] = actor.session
            system.stop()

        self.world.process(name, live)

    # -- the world ----------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], limit: Nanos = LIMIT) -> None:
        assert self.world.run_until(condition, limit), f"not within the limit; log: {self.log[-20:]}"

    def actor(self, broker: str) -> Broker:
        ref = self.systems[broker].lookup("broker")
        assert ref is not None
        actor = ref.target.actor
        assert isinstance(actor, Broker)
        return actor

    @property
    def leader(self) -> str:
        """The broker that leads now; "" while none does."""
        leading = [name for name in self.brokers if self.has_begun(name) and self.actor(name).leading]
        return max(leading, key=lambda name: self.actor(name).term, default="")

    @property
    def client_sessions(self) -> list[int]:
        """Of clients, as the leader's state has them."""
        machine = self.actor(self.leader).machine
        return [session.id for session in machine.sessions_open() if session.worker is None]

    def has_begun(self, broker: str) -> bool:
        """Whether it is alive, and `actor` is of this life."""
        alive = self.brokers[broker].alive
        return alive and broker in self.systems and self.systems[broker].lookup("broker") is not None


async def pause(ports: Ports, seconds: float) -> None:
    """Waits on the process's own clock."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    end = ports.clock.now() + int(seconds * SECOND)
    ports.clock.call_at(end, lambda: None if done.done() else done.set_result(None))
    await done
