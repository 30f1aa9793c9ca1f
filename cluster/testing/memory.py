"""A cluster in memory: real brokers, workers and a client in a simulated world, with the words of a blocking client.

A call that would block lets the world go on until it is done. Time passes only then, and in `advance`.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any, Generic, NoReturn, Self, TypeVar

from actors import MICROSECOND, MILLISECOND, SECOND, ExitReason, Nanos, Ports, runs_loop
from actors.simulation import ChildLimits, NetworkLimits, Process, World, WorldLimits
from cluster.client.blocking import BlockingClient, BlockingHandle
from cluster.client.client import DEADLINE_S, Client
from cluster.client.executor import LANES_MAX, ClusterExecutor
from cluster.client.inspection import Listing, TaskInfo
from cluster.client.task_actors import BlockingActorMethod
from cluster.compaction.policy import CompactionLimits
from cluster.durations import Duration, milliseconds
from cluster.errors import ClusterError, DeadlineExceeded
from cluster.peer.config import BrokerConfig
from cluster.simulation.compactors import register_compactor
from cluster.simulation.launched import BrokerProcess, Node, WorkerProcess
from cluster.simulation.leaps import Leaps
from cluster.storage.segment import WalLimits
from cluster.task import Task, task_of
from cluster.testing.children import Bodies, complain
from cluster.testing.side import side_here
from cluster.topology import BROKER_COUNTS, BrokerNode, Topology, WorkerNode
from cluster.topology import load as load_topology
from cluster.worker.child_messages import StartFailed
from cluster.worker.config import WorkerConfig
from cluster.worker.executor import load
from cluster.worker.wear import WearLimits

T = TypeVar("T")

DIRECTORY = "data"              # of a broker, on a disk of its own
START_MAX: Nanos = 60 * SECOND
SETTLE_STEP: Nanos = 1 * MILLISECOND
SETTLE_MAX: Nanos = 1 * SECOND      # what is due at the end of an `advance` is done within that, or goes on without it
NOW = datetime(2026, 1, 1, tzinfo=UTC)                      # what the clocks of a world show in the beginning
NOW_MIN, NOW_MAX = datetime(1971, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
REPORTED_TASKS = 5                  # of those that a wait in vain may have waited for
ANSWER_MAX: Nanos = 10 * SECOND

# No chance but in what is as random in reality as who comes first: a slow packet or a slow disk is no news to a test.
LIMITS = WorldLimits(
    boot_ns_max=1, drift_ppm_max=0, wall_offset_ms_max=0, start_ns_max=100 * MICROSECOND, sync_hiccup_ppm=0
)
NETWORK = NetworkLimits(hiccup_ppm=0, byte_ns=0)
CHILDREN = ChildLimits(lock_left_held_ppm=0)
# Disks are memory.
WAL = WalLimits(segment_bytes=4 * 1024 * 1024, zero_chunk_bytes=1024 * 1024, probe_syncs=4)
COMPACTION = CompactionLimits(log_bytes_min=16 * 1024 * 1024)

IN_THE_WORLD = (
    "what runs in a cluster in memory cannot wait for it like this: the function of a task can in one with "
    "threads=True, if it is not async; what `run` runs awaits calls of `client`"
)
IN_A_LOOP = (
    "a cluster in memory has a loop and a time of its own: make the test a plain function, and hand what is async to "
    "memory_cluster.run(...)"
)


class MemoryCluster(BlockingClient):
    """A whole cluster in this process, in virtual time: no processes, no ports, no disk. Use it as a context manager,
    or the pytest fixtures `memory_cluster` and `make_memory_cluster`.

    It is a blocking client of that cluster: `submit`, `map`, `handle`, `actor`, `tasks` and so on. Tasks' functions run
    in this process and take no virtual time, unless `takes` says so; async ones take what they sleep. Workers know all
    tasks that are defined in this process when they start; `modules` are imported before. `topology` is a file whose
    brokers and workers, with their queues and labels, are taken instead. With the same `seed` everything happens in the
    same order. A wait without a timeout ends after `patience` of virtual time, or when nothing is left to wait for.
    With `threads` functions that are not async run in threads, so that they can `sleep` and wait for the cluster. All
    clocks show `now` in the beginning, a date with a time zone; 1 January 2026 UTC unless given.

    Raises ValueError and TypeError for wrong arguments, TopologyError; on entering ClusterError for a module that
    cannot be imported.
    """

    def __init__(
        self,
        modules: Iterable[str] = (),
        *,
        brokers: int = 1,
        workers: int = 1,
        slots: int = 2,
        queues: Iterable[str] = ("default",),
        topology: str | Path | None = None,
        seed: int = 0,
        deadline: Duration = DEADLINE_S,
        patience: Duration = "24h",
        threads: bool = False,
        now: datetime | None = None,
    ) -> None:
        if isinstance(modules, str) or isinstance(queues, str):
            raise TypeError("modules and queues are several names: write them as a list")
        modules, queues = tuple(modules), tuple(queues)
        if topology is None:
            self.topology = _plan(modules, brokers, workers, slots, queues)
        elif (modules, brokers, workers, slots, queues) != ((), 1, 1, 2, ("default",)):
            raise TypeError("topology= says which brokers and workers there are: leave the others out")
        else:
            self.topology = load_topology(Path(topology))
        super().__init__(Client(self.topology, self._client_ports, deadline))
        self.seed = seed
        self._ahead_ms = _ahead_ms(now)
        self._patience = milliseconds("patience", patience) * MILLISECOND
        self._bodies = Bodies(threads=threads)
        self._made: World | None = None             # from start to close
        self._owner = 0                             # the thread that started it
        self._is_moving = False                     # the world's code is on the stack
        self._fault = ""                            # why a node has ended by itself

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        if self._made is not None or self._was_closed:
            raise ClusterError("a cluster in memory is started once; make another one")
        if runs_loop():
            raise ClusterError(IN_A_LOOP)
        report = load(tuple(dict.fromkeys(name for worker in self.topology.workers for name in worker.modules)))
        if isinstance(report, StartFailed):
            what = f"module {report.module} cannot be imported:\n" if report.module else ""
            raise ClusterError(f"{what}{report.traceback}")
        self._owner = threading.get_ident()
        self._made = world = World(self.seed, limits=LIMITS, network=NETWORK, children=CHILDREN)
        world.stops_collector = False       # users' functions leave garbage
        try:
            register_compactor(world, lambda: None)
            self._bodies.register(world)
            self._build(world, self.topology)
            self._move(lambda: self._process.alive, world.now + START_MAX)
            self.run(self._client.__aenter__)
            self._move(self._is_whole, world.now + START_MAX)
        except BaseException:
            self.close()
            raise
        return self

    def _is_whole(self) -> bool:
        return all(node.worker is not None and node.worker.session for node in self._workers)

    def _build(self, world: World, plan: Topology) -> None:
        brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
        self._brokers = [
            BrokerProcess(
                world, BrokerConfig(plan.name, node.name, brokers, DIRECTORY, "inline", WAL, COMPACTION), self._ended
            )
            for node in plan.brokers
        ]
        self._workers = [WorkerProcess(world, _config(plan, node), self._ended) for node in plan.workers]
        self._nodes: dict[str, Node] = {node.name: node for node in (*self._brokers, *self._workers)}
        self._process = world.process("client", _begin_client)
        for machine in world.machines.values():         # before anything starts on them
            machine.jump_wall_clock(self._ahead_ms)
        self._leaps = Leaps(world, self._brokers, self._workers, [self._client])

    def close(self) -> None:
        """Ends everything at once."""
        world, self._made = self._made, None
        if world is not None:
            self._was_closed = True
            world.close()

    def _ended(self, node: str, reason: ExitReason) -> None:
        self._fault = f"{node} has ended by itself: {reason}"

    def _client_ports(self) -> Ports:
        assert self._process.ports is not None
        return self._process.ports

    # -- time ----------------------------------------------------------------------------------------------------------

    def advance(self, duration: Duration) -> None:
        """Lets that much virtual time pass, and the moment that the cluster takes to do what is due at its end."""
        span = milliseconds("duration", duration) * MILLISECOND
        world = self._world()
        self._move(lambda: False, world.now + span)
        for _ in range(SETTLE_MAX // SETTLE_STEP):
            if all(coming.is_timer for coming in world.agenda()):
                break
            self._move(lambda: False, world.now + SETTLE_STEP)

    def sleep(self, duration: Duration) -> None:
        """`time.sleep` in virtual time: for functions of tasks, with `threads`, and for a test that replaces
        `time.sleep` by it."""
        span = milliseconds("duration", duration) * MILLISECOND
        side = side_here()
        if side is not None and side.of is self._bodies:
            side.sleep(span)
        else:
            world = self._world()
            self._move(lambda: False, world.now + span)

    def now(self) -> datetime:
        """The date in the cluster, also for what runs in it."""
        if self._made is None:
            self._world()
        return datetime.fromtimestamp(self._client_ports().clock.wall_ms() / 1_000, UTC)

    def takes(self, fn: Task[..., Any] | BlockingActorMethod[..., Any], /, *durations: Duration) -> None:
        """How much virtual time the attempts of a task take from now on: the first, the second and so on, the last
        duration for all others. It passes before the function is called; one that is ended meanwhile is not called."""
        if not durations:
            raise TypeError("takes: give one duration at least")
        task = fn.task_for(self._client) if isinstance(fn, BlockingActorMethod) else task_of(fn)
        spans = tuple(milliseconds("duration", duration) * MILLISECOND for duration in durations)
        self._bodies.takes[task.name] = spans

    # -- async code ----------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The asynchronous client of this cluster, for what `run` runs."""
        return self._client

    def run(self, make: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine, or what a function without arguments gives, until it is done; returns or raises what comes
        of it. It lives in the cluster's time: `asyncio.sleep`, `asyncio.timeout` and the like are virtual, and there
        are no sockets. Raises DeadlineExceeded after `patience`."""
        side = side_here()
        if side is not None and side.of is self._bodies:
            waiting = Call(self._process, make, side.wake)
            while not waiting.is_done:
                side.pause()
            return waiting.result()
        try:
            world = self._world()
        except ClusterError:
            if isinstance(make, Coroutine):
                make.close()
            raise
        began = world.now
        call = Call(self._process, make)
        if not self._move(lambda: call.is_done, began + self._patience, is_wait=True):
            call.cancel()
            self._give_up(world.now - began)
        return call.result()

    def executor(self, max_workers: int = LANES_MAX) -> ClusterExecutor:
        """There is none here: Python's waits for futures do not move virtual time."""
        raise ClusterError("a cluster in memory has no executor: to wait for a Future moves no virtual time; use map")

    # -- failures ------------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> str:
        """The broker that leads; "" while there is none."""
        self._world()
        alive = [node for node in self._brokers if node.process.alive]
        return next((node.name for node in alive if node.broker is not None and node.broker.leading), "")

    def kill(self, node: str) -> None:
        """SIGKILL to a broker or worker, by its name: `b1`, `w1`. It stays away until `restart`."""
        self._world().crash(self._node(node).process)

    def kill_leader(self) -> str:
        """The same to the broker that leads; returns its name. Raises ClusterError while there is none."""
        leader = self.leader
        if not leader:
            raise ClusterError("no broker leads at this moment; let some time pass")
        self.kill(leader)
        return leader

    def restart(self, node: str) -> None:
        """Starts a broker or worker again; one that runs is killed before."""
        self._world().restart(self._node(node).process)

    def lose(self, task: "int | BlockingHandle[Any]") -> None:
        """SIGKILL to the process in which a task runs, by its handle or id. Raises ClusterError if it does not run."""
        self._world()
        number = task.id if isinstance(task, BlockingHandle) else task
        for node in self._workers:
            children = node.worker.children if node.worker is not None else ()
            pids = {child.pid for child in children if number in child.running_tasks}
            for process in node.process.machine.children:
                if process.pid in pids:
                    process.take_signal(SIGKILL)
                    return
        raise ClusterError(f"task {number} does not run: let it take time (`takes`), and let it begin (`advance`)")

    @property
    def log(self) -> list[str]:
        """What the nodes have logged, with their virtual seconds."""
        return [
            f"{at / SECOND:12.3f} {process} {name} {' '.join(f'{key}={value}' for key, value in fields.items())}"
            for at, process, name, fields in (self._made.log if self._made is not None else ())
        ]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _world(self) -> World:
        """Raises ClusterError if the caller cannot move it."""
        if self._made is None:
            raise ClusterError(
                "this cluster is closed"
                if self._was_closed
                else "this cluster has not started: use `with MemoryCluster(...) as cluster:`, or call start()"
            )
        if self._is_moving:
            raise ClusterError(IN_THE_WORLD)
        if threading.get_ident() != self._owner:
            raise ClusterError("a cluster in memory moves in one thread only, that which started it")
        if runs_loop():
            raise ClusterError(IN_A_LOOP)
        return self._made

    def _move(self, is_done: Callable[[], bool], end: Nanos, *, is_wait: bool = False) -> bool:
        """Lets time pass until that is so, or until `end`: False. A wait ends as well when nothing is left to come."""
        self._world()
        self._is_moving = True
        try:
            return self._leaps.run(is_done, end, is_wait=is_wait)
        finally:
            self._is_moving = False
            if self._fault:
                raise RuntimeError(self._fault)

    def _give_up(self, waited: Nanos) -> NoReturn:
        """Says what there was to wait for."""
        world = self._world()
        listing = Listing(self._client, ("pending", "processing"), None, None, REPORTED_TASKS, stale=False)
        call = Call(self._process, listing.page)
        self._move(lambda: call.is_done, world.now + ANSWER_MAX)
        tasks: list[TaskInfo] = call.result() if call.is_done else []
        left = "".join(
            f"; task {info.id} ({info.name}) is {info.state}{info.parked_why and f': {info.parked_why}'}"
            for info in tasks
        )
        limit = timedelta(seconds=waited // SECOND)
        raise DeadlineExceeded(f"waited for {limit} of virtual time, in vain{left}", outcome="unknown")

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            raise ValueError(f"there is no node {name!r}; there are {', '.join(self._nodes)}")
        return node

    def __repr__(self) -> str:
        brokers, workers = len(self.topology.brokers), len(self.topology.workers)
        return f"<MemoryCluster brokers={brokers} workers={workers} seed={self.seed}>"


class Call(Generic[T]):
    """A coroutine in the client's process. `ended` is called there."""

    def __init__(
        self,
        process: Process,
        make: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        if process.loop is None:
            raise ClusterError("the client of this cluster has ended: a coroutine has raised SystemExit in it")
        self._task: asyncio.Task[T] | None = None
        self._error: BaseException | None = None
        self._loop = process.loop
        self._ended = ended
        self._loop.deliver(self._begin, make)

    @property
    def is_done(self) -> bool:
        return self._error is not None or (self._task is not None and self._task.done())

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        assert self._task is not None
        return self._task.result()

    def cancel(self) -> None:
        if self._task is not None:
            self._loop.call_soon(self._task.cancel)

    def _begin(self, make: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T]) -> None:
        try:
            coroutine = make() if callable(make) else make
            self._task = asyncio.get_running_loop().create_task(coroutine)
        except Exception as error:
            self._error = error
            self._ended()
        else:
            self._task.add_done_callback(lambda task: self._ended())


def _begin_client(ports: Ports) -> None:
    asyncio.get_running_loop().set_exception_handler(complain)


def _plan(modules: tuple[str, ...], brokers: int, workers: int, slots: int, queues: tuple[str, ...]) -> Topology:
    """So many of each."""
    if brokers not in BROKER_COUNTS:
        raise ValueError(f"brokers: {brokers} are not possible; use 1, 3, 5 or 7")
    if workers < 0 or slots < 1 or not queues:
        raise ValueError("give 0 workers or more, with 1 slot at least and a queue")
    return Topology(
        name="memory",
        data=DIRECTORY,
        insecure=True,
        brokers=tuple(BrokerNode(f"b{n}", f"b{n}:7100", f"b{n}:8100") for n in range(1, brokers + 1)),
        workers=tuple(WorkerNode(f"w{n}", f"w{n}", slots, queues, modules, 0, ()) for n in range(1, workers + 1)),
    )


def _ahead_ms(now: object) -> int:
    """How far `now` lies ahead of where the clocks of a world begin."""
    if now is None:
        return 0
    if not isinstance(now, datetime):
        raise TypeError(f"now: expected a datetime, not {now!r}")
    if now.tzinfo is None:
        raise ValueError(f"now: {now!r} has no time zone; write for example datetime(2026, 3, 29, tzinfo=UTC)")
    if not NOW_MIN <= now <= NOW_MAX:
        raise ValueError(f"now: {now} is too far away; allowed is {NOW_MIN:%Y} to {NOW_MAX:%Y}")
    return (now - NOW) // timedelta(milliseconds=1)


def _config(plan: Topology, worker: WorkerNode) -> WorkerConfig:
    return WorkerConfig(
        plan.name,
        worker.name,
        tuple((node.name, node.address) for node in plan.brokers),
        worker.modules,
        worker.slots,
        worker.queues,
        worker.prefetch,
        worker.labels,
        wear=WearLimits(worker.recycle_after),      # nobody's memory is limited here
        async_tasks=worker.async_tasks,
    )
