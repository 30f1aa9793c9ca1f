"""Brokers of a simulated cluster, their disks in a test's hands, and a client that says what must not be lost.

Everything but the world is the real code. A broker that ends by itself stays down, so that a test sees it, until it is
started again. Logs are small: a few hundred tasks fill several segments.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from actors import MILLISECOND, SECOND, ExitReason, Failed, Nanos, Ports
from actors.simulation import Process, SimulatedDisk, World
from cluster import Client, ClusterError, task
from cluster.broker.process import EXIT_STATUS, start_broker
from cluster.compaction.policy import DEFAULT_LIMITS, CompactionLimits
from cluster.node_report import EXIT_FAULT
from cluster.peer.actor import RaftPeer
from cluster.peer.config import BrokerConfig
from cluster.raft.core import Raft
from cluster.raft.messages import Role
from cluster.raft.progress import Progress
from cluster.simulation.compactors import register_compactor
from cluster.storage.frame import FRAME_HEADER_BYTES, Frame, parse_frame
from cluster.storage.header import FRAMES_START, SegmentHeader, decode_segment_header
from cluster.storage.segment import WalLimits
from cluster.topology import BrokerNode, Topology

DIRECTORY = "data"
LIMITS = WalLimits(segment_bytes=64 * 1024, zero_chunk_bytes=32 * 1024, probe_syncs=4)
LIMIT: Nanos = 60 * SECOND          # of anything that is waited for
WHILE: Nanos = 5 * SECOND           # for which something must not happen: several election timeouts
SETTLED: Nanos = 300 * MILLISECOND  # heartbeats and markers of whatever has just happened are through


@task(name="recovery:note")
def note(text: str) -> None:
    """No worker runs it: it is acknowledged, waits, and must not get lost."""


class Broker:
    """One broker and its machine. `peer` is of its present life, or of its last one until it is started again."""

    def __init__(self, world: World, config: BrokerConfig) -> None:
        self.name = config.node
        self.config = config
        self.peer: RaftPeer | None = None
        self.ends: list[Failed] = []            # why its lives ended by themselves
        self.exits: list[int | None] = []
        self.process: Process = world.process(config.node, self._start)
        self.process.on_exit.append(lambda exit: self.exits.append(exit.code))

    async def _start(self, ports: Ports) -> None:
        status = 0

        def fault(reason: ExitReason) -> None:
            nonlocal status
            if isinstance(reason, Failed):
                self.ends.append(reason)
                status = status or EXIT_STATUS.get(reason.type, EXIT_FAULT)
            system.stop()

        system = start_broker(ports, self.config, 0, fault)
        cell = system.find("raft")
        assert cell is not None and isinstance(cell.actor, RaftPeer)
        self.peer = cell.actor
        await system.wait_stopped()
        raise SystemExit(status)

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def disk(self) -> SimulatedDisk:
        return self.process.machine.disk

    @property
    def core(self) -> Raft:
        assert self.peer is not None and self.peer.core is not None
        return self.peer.core

    @property
    def has_begun(self) -> bool:
        return self.alive and self.peer is not None and self.peer.core is not None

    @property
    def leads(self) -> bool:
        return self.has_begun and self.core.role is Role.LEADER

    @property
    def is_well(self) -> bool:
        return self.has_begun and not self.quarantined and not self.core.quarantined

    @property
    def is_ill(self) -> bool:
        """Durably."""
        return self.has_begun and self.quarantined and self.core.quarantined

    @property
    def quarantined(self) -> bool:
        """By the mark on its disk."""
        assert self.peer is not None
        return self.peer.wal.meta.quarantine is not None

    @property
    def applied(self) -> int:
        assert self.peer is not None
        return self.peer.machine.applied_index

    def holds(self, tasks: set[int]) -> bool:
        assert self.peer is not None
        return all(self.peer.machine.state_of(one) is not None for one in tasks)

    # -- the log on its disk ------------------------------------------------------------------------------------------

    def segments(self) -> list[tuple[str, SegmentHeader]]:
        """The log's files, oldest first."""
        found: list[tuple[int, str, SegmentHeader]] = []
        for path in self.disk.paths():
            if path.endswith(".wal"):
                header = decode_segment_header(self.disk.read(path)[:FRAMES_START]).header
                assert header is not None
                found.append((header.number, path, header))
        return [(path, header) for _, path, header in sorted(found)]

    def frames(self) -> list[tuple[str, Frame]]:
        found: list[tuple[str, Frame]] = []
        for path, header in self.segments():
            data, offset = self.disk.read(path), FRAMES_START
            while (frame := parse_frame(data, offset, header.salt)) is not None:
                found.append((path, frame))
                offset = frame.end
        return found

    def cut_synced(self, from_index: int) -> None:
        """The frame with this entry and everything behind it turn to zeros: nothing is left that vouches for it."""
        frames = self.frames()
        at = next(place for place, (_, frame) in enumerate(frames) if frame.runs and frame.last_index >= from_index)
        path, cut = frames[at]
        assert all(other == path for other, _ in frames[at:]), "the cut lies within the last segment"
        data = self.disk.read(path)
        self.disk.overwrite(path, data[: cut.offset] + bytes(len(data) - cut.offset))

    def flip_vouched(self, from_index: int = 1) -> tuple[str, Frame]:
        """One bit rots in a frame with records, from this index on, that a later frame says is durable."""
        frames = self.frames()
        path, frame = next(
            (path, frame)
            for path, frame in frames
            if frame.runs
            and frame.last_index >= from_index
            and any(later.synced_seq >= frame.seq for _, later in frames)
        )
        self.disk.flip_bit(path, frame.offset + FRAME_HEADER_BYTES + 3)
        return path, frame

    def empty_disk(self) -> None:
        """Another disk in its place: no file is left."""
        files = self.disk.mount(pid=-1)
        for path in self.disk.paths():
            files.remove(path)
        files.sync_dir(DIRECTORY)
        assert not self.disk.paths()


class Safe:
    """What one client was told."""

    def __init__(self) -> None:
        self.count = 0
        self.done = False
        self.error: ClusterError | None = None


class RecoveryRig:
    """`acknowledged` are tasks that a client was told are safe; `log` is (process, event, fields)."""

    def __init__(
        self,
        seed: int = 0,
        *,
        brokers: int = 3,
        sync_mode: str = "inline",
        absent: tuple[str, ...] = (),
        wal: WalLimits = LIMITS,
        compaction: CompactionLimits = DEFAULT_LIMITS,
    ) -> None:
        self.world = World(seed)
        self.snapshots = 0          # that compactors have finished
        register_compactor(self.world, self._count_snapshot)
        self.log: list[tuple[str, str, dict[str, object]]] = []
        self.world.on_log.append(lambda process, name, fields: self.log.append((process, name, fields)))
        names = [f"b{number}" for number in range(1, brokers + 1)]
        addresses = tuple((name, f"{name}:7100", f"{name}:8100") for name in names)
        self.brokers = {
            name: Broker(self.world, BrokerConfig("world", name, addresses, DIRECTORY, sync_mode, wal, compaction))
            for name in names
        }
        for name in absent:
            self.world.power_off(self.brokers[name].process.machine)
        self.plan = Topology("world", "data", True, tuple(BrokerNode(*address) for address in addresses), ())
        self.acknowledged: set[int] = set()
        self._clients = 0

    def _count_snapshot(self) -> None:
        self.snapshots += 1

    def __enter__(self) -> "RecoveryRig":
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    # -- brokers ------------------------------------------------------------------------------------------------------

    def stop(self, *brokers: Broker) -> None:
        for broker in brokers:
            self.world.crash(broker.process)

    def start(self, *brokers: Broker) -> None:
        for broker in brokers:
            broker.peer = None
            self.world.power_on(broker.process.machine)
            self.world.restart(broker.process)

    def lose_power(self, *brokers: Broker) -> None:
        """They have it again when they are started."""
        for broker in brokers:
            self.world.power_off(broker.process.machine)

    @property
    def leader(self) -> Broker:
        """The one of the highest term, once its own entry is applied."""
        self.until(lambda: self.leading() is not None, "a leader")
        leader = self.leading()
        assert leader is not None
        return leader

    def leading(self) -> Broker | None:
        leaders = [broker for broker in self.brokers.values() if broker.leads]
        best = max(leaders, key=lambda broker: broker.core.term, default=None)
        if best is None or best.peer is None or best.peer.drive is None:
            return None
        return best if best.peer.drive.leading_term == best.core.term else None

    def followers(self) -> list[Broker]:
        leader = self.leader
        return [broker for broker in self.brokers.values() if broker is not leader]

    def seen_by(self, leader: Broker, other: Broker) -> Progress:
        """What a leader knows of another broker."""
        return leader.core.tracker.progress[list(self.brokers).index(other.name) + 1]

    # -- users --------------------------------------------------------------------------------------------------------

    def begin(self, count: int, deadline: float = 60.0) -> Safe:
        """A client submits that many tasks, one after the other."""
        self._clients += 1
        safe = Safe()

        async def live(ports: Ports) -> None:
            try:
                async with Client(self.plan, lambda: ports, deadline) as client:
                    for number in range(count):
                        handle = await client.submit(note, f"{number}: " + "x" * 200)
                        self.acknowledged.add(handle.id)
                        safe.count += 1
            except ClusterError as error:
                safe.error = error
            safe.done = True

        program: Callable[[Ports], Coroutine[Any, Any, None]] = live
        self.world.process(f"client-{self._clients}", program)
        return safe

    def submit(self, count: int = 20) -> None:
        """They are acknowledged when this returns."""
        safe = self.begin(count)
        self.until(lambda: safe.done, "submits")
        assert safe.count == count, "some were refused"

    def commits_nothing(self, span: Nanos = WHILE) -> bool:
        """A client that tries for so long gets nothing acknowledged."""
        safe = self.begin(1, span / SECOND)
        self.world.run_for(span)
        self.until(lambda: safe.done, "the client gives up")
        return safe.count == 0

    # -- time ---------------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        if not self.world.run_until(condition, LIMIT):
            raise AssertionError(f"not within {LIMIT // SECOND} s: {what}; the log ends {self.log[-12:]}")

    def settle(self, span: Nanos = SETTLED) -> None:
        self.world.run_for(span)

    def heal(self, *brokers: Broker) -> None:
        """All (or these) run, none is quarantined, and all hold the same, nothing acknowledged missing."""
        among = brokers or tuple(self.brokers.values())

        def whole() -> bool:
            if not all(broker.is_well for broker in among):
                return False
            return self.leading() in among and len({broker.applied for broker in among}) == 1

        self.until(whole, "all brokers are whole")
        self.submit(5)
        self.until(lambda: whole() and all(broker.holds(self.acknowledged) for broker in among), "nothing is missing")
        digests = {(broker.applied, broker.peer.machine.full_digest()) for broker in among if broker.peer}
        assert len(digests) == 1

    # -- what was logged ----------------------------------------------------------------------------------------------

    def events(self, name: str, process: str | None = None) -> list[dict[str, object]]:
        return [fields for who, event, fields in self.log if event == name and process in (None, who)]

    def happened(self, *names: str, process: str) -> list[str]:
        """Which of these events a process logged, in order."""
        return [event for who, event, _ in self.log if who == process and event in names]
