"""A log with a snapshot beside it, and the model that both are compared with."""

from collections.abc import Callable

from wal_rig import DIRECTORY, Rig, State

from cluster.raft.messages import Entry, EntryKind, SnapshotMark
from cluster.storage.frame import Frame, find_frames
from cluster.storage.header import FRAMES_START, decode_segment_header
from cluster.storage.pieces import read_pieces
from cluster.storage.recovery import Recovery
from cluster.storage.wal import Wal


class Node:
    """A log, the model of it, and the snapshot that the next start loads."""

    def __init__(self, seed: int = 1, mode: str = "inline") -> None:
        self.rig = Rig(seed, mode=mode, latency=1_000 if mode == "thread" else 0)
        self.mark: SnapshotMark | None = None
        self.base = (0, 0)
        self.entries: list[Entry] = []  # behind the base; index and term and payload count
        self.term = 1
        self.write_id = 0
        self.recovery: Recovery = self.open()

    @property
    def wal(self) -> Wal:
        assert self.rig.wal is not None
        return self.rig.wal

    def open(self) -> Recovery:
        self.write_id = 0
        _, self.recovery = self.rig.open(restore=lambda: self.mark)
        self.settle()
        return self.recovery

    def reopen(self) -> Recovery:
        self.settle()
        self.wal.close()
        return self.open()

    def crash(self) -> Recovery:
        self.rig.crash()
        return self.open()

    @property
    def last(self) -> int:
        return self.base[0] + len(self.entries)

    def queue(self, count: int = 1, *, term: int = 0, truncate_from: int = 0, size: int = 200) -> None:
        self.term = max(self.term, term)
        if truncate_from:
            del self.entries[truncate_from - self.base[0] - 1 :]
        added = []
        for _ in range(count):
            index = self.last + 1
            payload = f"{index}/{self.term}/{self.write_id} ".encode().ljust(size, b"x")
            added.append(Entry(index, self.term, EntryKind.NORMAL, payload))
            self.entries.append(added[-1])
        self.write_id += 1
        self.wal.append(self.write_id, self.term, 0, self.committed, truncate_from, added)

    @property
    def committed(self) -> int:
        return self.mark.index if self.mark is not None else 0

    def write(self, count: int = 1, *, term: int = 0, truncate_from: int = 0, size: int = 200) -> None:
        self.queue(count, term=term, truncate_from=truncate_from, size=size)
        self.wal.flush()
        self.settle()

    def settle(self) -> None:
        self.rig.clock.advance()

    def snapshot(self, index: int) -> None:
        """One of entry `index` is there from now on."""
        self.mark = SnapshotMark(index, self.term_of(index), ())

    def term_of(self, index: int) -> int:
        return self.base[1] if index == self.base[0] else self.entries[index - self.base[0] - 1].term

    def install(self, index: int, term: int, done: Callable[[], None] | None = None) -> None:
        """Another broker's snapshot is in place, and the log is to begin behind it."""
        self.mark = SnapshotMark(index, term, ())
        self.base, self.entries = (index, term), []
        self.term = max(self.term, term)
        self.wal.restart(index, term, done)

    def held(self) -> State:
        wal = self.wal
        if wal.last_index < wal.first_index:
            return ()
        return states(wal.read(wal.first_index, wal.last_index + 1, 1 << 30))

    def expected(self) -> State:
        """What the model has, from the log's first entry on."""
        return tuple(entry for entry in states(self.entries) if entry[0] >= self.wal.first_index)

    def check(self) -> None:
        wal = self.wal
        assert not wal.quarantined
        assert wal.last_index == self.last
        assert self.held() == self.expected()
        assert wal.first_index <= (self.mark.index + 1 if self.mark is not None else 1)
        before = wal.first_index - 1
        assert wal.term(before) == (self.term_of(before) if before else 0)
        assert self.recovery.base[0] + 1 == self.recovery.first_index
        assert states(self.by_pieces(wal.first_index, wal.last_index + 1)) == self.held()

    def by_pieces(self, low: int, high: int) -> list[Entry]:
        """As another process reads them."""
        batches = read_pieces(self.rig.disk.mount(77), DIRECTORY, self.wal.pieces(low, high))
        return [entry for batch in batches for entry in batch]

    def frames(self, path: str) -> list[Frame]:
        data = self.rig.disk.read(path)
        header = decode_segment_header(data).header
        assert header is not None
        return list(find_frames(data, FRAMES_START, header.salt))


def states(entries: list[Entry]) -> State:
    return tuple((entry.index, entry.term, entry.payload) for entry in entries)


def filled(mode: str = "inline", seed: int = 1) -> Node:
    """Eight segments or so: entries 1 to 60 and a truncation across a segment's border."""
    node = Node(seed, mode)
    for _ in range(9):
        node.write(6)
    node.write(4, term=3, truncate_from=node.last - 9)
    for _ in range(2):
        node.write(6)
    node.snapshot(30)
    return node


def compacted(index: int = 30) -> Node:
    """The same, opened again after its front has left."""
    node = filled()
    node.wal.compact(index)
    node.reopen()
    return node
