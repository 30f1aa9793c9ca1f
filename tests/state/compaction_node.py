"""A node's files: the real log on a simulated disk with a random stream of commands in it, and the snapshots that the
real compactor makes of it; beside them a machine that was never interrupted."""

from collections.abc import Iterable
from random import Random

from image_rig import log_of
from state_rig import encode_entry

from actors.simulation import SimulatedDisk
from cluster.compaction.compactor import compact
from cluster.compaction.messages import Plan, Written
from cluster.raft.messages import Entry, EntryKind, SnapshotMark
from cluster.state.commands import ROLE_CLIENT, Register
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.snapshots import SnapshotFile, SnapshotMeta, clear_unfinished, list_snapshots, remove_snapshot
from cluster.storage.wal import Wal

DIRECTORY = "data/b1"
LIMITS = WalLimits(segment_bytes=16 * 1024, zero_chunk_bytes=8 * 1024)
KEPT = 2


class Clock:
    def now(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return 0

    def call_soon(self, callback):  # type: ignore[no-untyped-def]
        callback()

    def call_at(self, when, callback):  # type: ignore[no-untyped-def]
        callback()


class Entropy:
    def __init__(self, random: Random) -> None:
        self.random = random

    def below(self, bound: int) -> int:
        return self.random.randrange(bound)

    def bits(self, count: int) -> int:
        return self.random.getrandbits(count)


class Node:
    """`machine` has applied everything that is committed; `full[index]` is its full digest then."""

    def __init__(self, seed: int, entries: int) -> None:
        self.random = Random(seed)
        self.payloads = log_of(seed, entries)
        self.disk = SimulatedDisk(Clock(), Entropy(self.random))  # type: ignore[arg-type]
        self.pid = 0
        self.term = 1
        self.machine = Machine()
        self.full = {0: self.machine.full_digest()}
        self.mount()
        self.files.make_dirs(DIRECTORY)
        self.open()

    # -- the log ------------------------------------------------------------------------------------------------------

    @property
    def applied(self) -> int:
        return self.machine.applied_index

    @property
    def is_over(self) -> bool:
        return self.applied == len(self.payloads)

    def go_on(self, count: int) -> None:
        """Commits the next entries; some places held entries of another leader before, which never were committed."""
        random = self.random
        truncate_from = 0
        if random.random() < 0.4:
            # Each would decide something: who applies one has another digest, whatever is in its place.
            names = [f"never committed {number}" for number in range(random.randint(1, 12))]
            wrong = [encode_entry(Register(name, 1, ROLE_CLIENT)) for name in names]
            self.append(self.applied + 1, wrong)
            truncate_from = self.applied + 1        # the next leader has none of them
            self.term += 1
        payloads = self.payloads[self.applied : self.applied + count]
        first = self.applied + 1
        self.append(first, payloads, truncate_from)
        for index, payload in enumerate(payloads, first):
            self.machine.apply(index, self.term, payload, None)
            self.full[index] = self.machine.full_digest()

    def append(self, first: int, payloads: list[bytes], truncate_from: int = 0) -> None:
        entries = [Entry(index, self.term, EntryKind.NORMAL, payload) for index, payload in enumerate(payloads, first)]
        self.write_id += 1
        self.wal.append(self.write_id, self.term, 0, self.applied, truncate_from, entries)
        self.wal.flush()

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        machine = self.machine
        meta = SnapshotMeta(
            machine.applied_index,
            self.wal.term(machine.applied_index),
            machine.machine_version,
            machine.now_ms,
            machine.rolling,
            machine.cluster_id,
            machine.voters,
        )
        base = max(self.snapshots, default=0)
        return Plan(DIRECTORY, base, self.wal.pieces(base + 1, meta.index + 1), meta, 0)

    def compact(self, plan: Plan | None = None) -> None:
        """All of it: a snapshot, the oldest of three goes, and the log that nobody needs then."""
        plan = plan or self.plan()
        if plan.meta.index == plan.base:
            return
        *_, written = compact(self.files, plan)
        assert isinstance(written, Written)
        for index in self.snapshots[KEPT:]:
            remove_snapshot(self.files, DIRECTORY, index)
        if len(self.snapshots) == KEPT:
            self.wal.compact(self.snapshots[-1])

    @property
    def snapshots(self) -> list[int]:
        """Newest first."""
        return [name.last_index for name in list_snapshots(self.files, DIRECTORY)]

    def restored(self, index: int) -> Machine:
        file = SnapshotFile.open(self.files, DIRECTORY, index)
        return restored(file.parts())

    # -- starts -------------------------------------------------------------------------------------------------------

    def replayed(self, index: int) -> Machine:
        """The state by the snapshot of that index, or without any, and the log behind it."""
        machine = self.restored(index) if index else Machine()
        self.apply_log(machine)
        return machine

    def apply_log(self, machine: Machine) -> None:
        low, high = machine.applied_index + 1, self.applied + 1
        while low < high:
            for entry in self.wal.read(low, high, 1 << 20):
                machine.apply(entry.index, entry.term, entry.payload, None)
                low = entry.index + 1

    def crash(self) -> None:
        """Power is lost; the state goes on from the files."""
        self.disk.crash()
        self.mount()
        machine = self.open()
        self.apply_log(machine)
        assert machine.full_digest() == self.full[self.applied]
        self.machine = machine

    def mount(self) -> None:
        self.pid += 1
        self.files = self.disk.mount(self.pid)

    def open(self) -> Machine:
        machine = Machine()

        def restore() -> SnapshotMark | None:
            clear_unfinished(self.files, DIRECTORY)
            if not self.snapshots:
                return None
            newest = self.snapshots[0]
            machine.replace(self.restored(newest))
            meta = SnapshotFile.open(self.files, DIRECTORY, newest).meta
            return SnapshotMark(meta.index, meta.term, ())

        self.wal, recovery = Wal.open(
            self.files,
            DIRECTORY,
            NodeIdentity("b1", "test", self.pid),
            salt=lambda: self.random.getrandbits(64),
            clock=Clock(),  # type: ignore[arg-type]
            limits=LIMITS,
            sync_mode="inline",
            restore=restore,
        )
        assert not recovery.quarantined
        self.write_id = 0
        return machine


def restored(parts: Iterable[bytes]) -> Machine:
    restoration = Restoration()
    for part in parts:
        restoration.add(part)
    return restoration.finish()
