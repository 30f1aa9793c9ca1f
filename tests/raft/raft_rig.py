"""Cores on disks in memory: a node with its shell's duties, and a group of them on a network that obeys the test."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from cluster.raft import invariants
from cluster.raft.core import Config, Raft
from cluster.raft.effects import Effects, Write
from cluster.raft.membership import Configuration
from cluster.raft.messages import NO_NODE, Entry, EntryKind, HardState, Message, Role, SnapshotMark

ELECTION_TICKS = 10
HEARTBEAT_TICKS = 1
ROUNDS_MAX = 1_000


@dataclass(frozen=True)
class Snapshot:
    """A file: the mark, and the state, which is all entries up to there."""

    mark: SnapshotMark
    state: tuple[Entry, ...]


class Disk:
    """What a node has durably, and the writes that are on their way there, in order. The log begins behind entry
    `base`; the newest snapshot reaches that far or farther."""

    def __init__(self) -> None:
        self.hard_state = HardState(0, NO_NODE, 0)
        self.base = self.base_term = 0
        self.kept: list[Entry] = []         # from base + 1 on
        self.newest: Snapshot | None = None
        self.busy = False                   # with the next one: none can be sent now
        self.arriving: dict[int, Snapshot] = {}     # by the id of the write that makes it durable
        self.pending: deque[Write] = deque()
        self.quarantined = False

    def initial_state(self) -> HardState:
        return self.hard_state

    def first_index(self) -> int:
        return self.base + 1

    def last_index(self) -> int:
        return self.base + len(self.kept)

    def term_runs(self) -> Sequence[tuple[int, int]]:
        runs = [(self.base, self.base_term)]
        for entry in self.kept:
            if entry.term != runs[-1][1]:
                runs.append((entry.index, entry.term))
        return runs

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        assert low > self.base, "asked for an entry that is compacted away"
        return self.kept[low - self.base - 1 : high - self.base - 1]

    def snapshot(self) -> SnapshotMark | None:
        return None if self.busy or self.newest is None else self.newest.mark

    def compact(self, first_index: int) -> None:
        """Entries below leave the log."""
        assert self.newest is not None
        count = first_index - 1 - self.base
        if count:
            self.base, self.base_term = first_index - 1, self.kept[count - 1].term
            del self.kept[:count]

    def term(self, index: int) -> int:
        """Of an entry that is held here, in the log or in the snapshot; 0 if it is not."""
        if self.base < index <= self.last_index():
            return self.kept[index - self.base - 1].term
        if self.newest is not None and 0 < index <= self.newest.mark.index:
            return self.newest.state[index - 1].term
        return 0

    def complete(self) -> int:
        """The oldest write is done: its id."""
        write = self.pending.popleft()
        self.hard_state = write.hard_state
        if write.id in self.arriving:
            assert not write.entries
            self.newest = self.arriving.pop(write.id)
            self.base, self.base_term, self.kept = self.newest.mark.index, self.newest.mark.term, []
        if write.truncate_from:
            assert write.truncate_from > self.base
            del self.kept[write.truncate_from - self.base - 1 :]
        if write.entries:
            assert write.entries[0].index == self.last_index() + 1, "a write must continue the log"
        self.kept += write.entries
        return write.id


class Node:
    """A core and the duties of its shell. Writes wait on the disk until the test completes them; so does what is to be
    installed, if `slow_install` is set. `files` stands for the links on which snapshots travel."""

    def __init__(
        self,
        node: int,
        disk: Disk,
        below: Callable[[int], int],
        files: dict[SnapshotMark, Snapshot] | None = None,
        **options: object,
    ) -> None:
        self.id = node
        self.files = {} if files is None else files
        self.slow_install = False
        self.disk = disk
        self.below = below
        self.options = options
        self.start()

    def start(self) -> None:
        """A new incarnation: what was not durable is gone."""
        options = {"election_ticks": ELECTION_TICKS, "heartbeat_ticks": HEARTBEAT_TICKS, **self.options}
        make = options.pop("core", Raft)
        size = options.pop("size", 3)
        configuration = Configuration(tuple(range(1, size + 1)))
        self.disk.pending.clear()
        self.disk.arriving.clear()
        self.installing: Snapshot | None = None
        newest = self.disk.newest
        applied = newest.mark.index if newest else 0
        self.core: Raft = make(Config(self.id, configuration, self.below, applied=applied, **options), self.disk)
        if self.disk.quarantined:
            self.core.quarantine()
        self.applied: list[Entry] = list(newest.state) if newest else []
        self.confirmed = 0
        self.data_lost_by: list[int] = []
        self.demanded = False

    def take(self) -> list[Message]:
        """Carries out what the core wants, but for its writes. Returns what leaves."""
        leaving: list[Message] = []
        while (effects := self.core.take()) is not None:
            leaving += effects.messages
            self._perform(effects)
        invariants.check(self.core)
        return leaving

    def _perform(self, effects: Effects) -> None:
        if effects.snapshot is not None:
            assert effects.write is not None and effects.write.must_sync
            self.installing = self.disk.arriving[effects.write.id] = self.files[effects.snapshot]
        if effects.write is not None:
            self.disk.pending.append(effects.write)
        if self.installing is not None and not self.slow_install:
            self.install()
        if effects.committed:
            assert self.installing is None, "entries to apply before the snapshot"
            assert effects.committed[0].index == len(self.applied) + 1
            assert effects.committed[-1].index <= self.disk.last_index(), "applied before it is durable here"
            self.applied += effects.committed
            self.core.applied(effects.committed)
        if effects.quarantine_demanded:
            self.demanded = True
            self.disk.quarantined = True
            self.core.quarantine()
        if effects.quarantine_over:
            self.disk.quarantined = False
            self.core.lift_quarantine()
        self.confirmed = max(self.confirmed, effects.confirmed_round)
        self.data_lost_by += effects.data_lost_by

    def install(self) -> None:
        """The state becomes that of the snapshot that was accepted."""
        if self.installing is not None:
            snapshot, self.installing = self.installing, None
            self.applied = list(snapshot.state)
            self.core.installed(snapshot.mark)

    def compact(self, index: int, first_index: int) -> None:
        """Makes a snapshot of what is applied up to `index`, and drops the log's entries below `first_index`."""
        term = self.core.log.term(index)
        assert term is not None and index <= len(self.applied)
        mark = SnapshotMark(index, term, self.core.tracker.config.voters)
        snapshot = Snapshot(mark, tuple(self.applied[:index]))
        assert self.files.setdefault(mark, snapshot) == snapshot, "two snapshots at one place differ"
        self.disk.newest = snapshot
        self.disk.compact(first_index)
        self.core.compacted(first_index)

    def persist(self, count: int = 1 << 30) -> None:
        """Completes the oldest writes and tells the core."""
        for _ in range(min(count, len(self.disk.pending))):
            self.core.persisted(self.disk.complete())

    @property
    def terms(self) -> list[int]:
        """The term of each entry of the log, from index 1."""
        return [self.core.log.term(index) for index in range(1, self.core.log.last_index + 1)]


class Group:
    """Nodes 1..size. Messages wait in `mail` until `settle`, or until the test hands them over one by one."""

    def __init__(self, size: int = 3, seed: int = 1, **options: object) -> None:
        random = Random(seed)
        self.files: dict[SnapshotMark, Snapshot] = {}
        self.nodes = {
            node: Node(node, Disk(), random.randrange, self.files, size=size, **options)
            for node in range(1, size + 1)
        }
        self.mail: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.lose: Callable[[Message], bool] = lambda message: False

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def collect(self, *nodes: int) -> None:
        for node in nodes or self.nodes:
            self.mail += self[node].take()

    def settle(self, *nodes: int) -> None:
        """Writes complete and messages arrive until nothing is left to do, among these nodes (or all)."""
        among = set(nodes or self.nodes)
        for _ in range(ROUNDS_MAX):
            self.collect(*among)
            for node in among:
                self[node].persist()
            self.collect(*among)
            arriving, self.mail = self.mail, []
            for message in arriving:
                if not self._is_lost(message, among):
                    self[message.to].core.step(message)
            if not self.mail and not arriving and not any(self[node].disk.pending for node in among):
                return
        raise AssertionError("the group never comes to rest")

    def _is_lost(self, message: Message, among: set[int]) -> bool:
        link = (message.sender, message.to)
        return link in self.cut or message.to not in among or self.lose(message)

    def isolate(self, node: int) -> None:
        self.cut |= {(node, other) for other in self.nodes} | {(other, node) for other in self.nodes}

    def heal(self) -> None:
        self.cut = set()

    def elect(self, node: int, *voters: int) -> Raft:
        """`node` leads, elected by `voters` (or all)."""
        for other in self:
            other.core.step_down()
            other.core.forget_leader()
        among = {node, *(voters or self.nodes)}
        self[node].core.campaign()
        self.settle(*among)
        assert self[node].core.role is Role.LEADER, "not elected"
        return self[node].core

    def propose(self, node: int, *payloads: bytes) -> None:
        self[node].core.propose([(EntryKind.NORMAL, payload) for payload in payloads])

    def restart(self, node: int) -> None:
        self[node].start()


def node_with_log(node: int, terms: list[int], term: int = 0, vote: int = NO_NODE, **options: object) -> Node:
    """A node whose durable log has entries of these terms."""
    disk = Disk()
    disk.kept = [Entry(index, of, EntryKind.NORMAL, b"%d" % of) for index, of in enumerate(terms, start=1)]
    disk.hard_state = HardState(max([term, *terms]), vote, 0)
    return Node(node, disk, Random(node).randrange, **options)


def group_with_logs(*logs: list[int], **options: object) -> Group:
    """Node n has entries of the terms of the n-th list."""
    group = Group(len(logs), **options)
    for node, terms in enumerate(logs, start=1):
        group.nodes[node] = node_with_log(node, terms, size=len(logs), **options)
    return group
