"""The log as the Raft core reads it: recent entries from memory, older ones from the disk, both alike."""

import pytest

from actors import SECOND
from actors.simulation import World
from cluster.peer import entry_cache
from cluster.peer.entry_cache import ENTRY_OVERHEAD_BYTES, EntryCache
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.storage.record import GROUP, encode_record
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.wal import Wal

EVERYTHING = 1 << 30
LIMITS = WalLimits(segment_bytes=1024 * 1024, zero_chunk_bytes=4_096, probe_syncs=1)


class Node:
    """A log on a simulated disk, with the cache in front of it, as a broker has it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = world.process("b1", lambda ports: None)
        self.start()

    def start(self) -> None:
        """Another life of the broker: the disk is what stays."""
        self.world.restart(self.process)
        self.world.run_for(SECOND)
        ports = self.process.ports
        assert ports is not None
        self.wal, recovery = Wal.open(
            ports.files,
            "data",
            NodeIdentity("b1", "test", self.process.incarnation),
            salt=lambda: ports.entropy.bits(64),
            clock=ports.clock,
            limits=LIMITS,
            sync_mode="inline",
        )
        self.cache = EntryCache(self.wal, recovery, lambda: None)
        self.writes = 0

    def append(self, first: int, count: int, *, term: int = 1, size: int = 100, truncate_from: int = 0) -> list[Entry]:
        entries = [
            Entry(index, term, EntryKind.NORMAL, b"%d/%d" % (index, term) + bytes(size))
            for index in range(first, first + count)
        ]
        for entry in entries:
            encode_record(GROUP, entry)
        self.cache.handed_out(entries, truncate_from)
        self.writes += 1
        self.wal.append(self.writes, term, 0, 0, truncate_from, entries)
        self.wal.flush()
        return entries

    def indexes(self, low: int, high: int, bytes_max: int = EVERYTHING) -> list[tuple[int, int]]:
        """(index, term) of what is read; the payload must be that of its index."""
        entries = self.cache.entries(low, high, bytes_max)
        assert all(entry.payload.startswith(b"%d/%d\0" % (entry.index, entry.term)) for entry in entries)
        return [(entry.index, entry.term) for entry in entries]


@pytest.fixture
def node():
    with World(1) as world:
        yield Node(world)


def ones(low: int, high: int) -> list[tuple[int, int]]:
    return [(index, 1) for index in range(low, high)]


def test_an_empty_log_has_no_state(node):
    assert node.cache.initial_state() == HardState(0, 0, 0)
    assert node.cache.last_index() == 0
    assert node.cache.term_runs() == [(0, 0)]


def test_what_was_just_handed_out_is_read_from_memory(node):
    written = node.append(1, 5)
    assert node.cache.entries(2, 5, EVERYTHING) == written[1:4]
    assert node.cache.entries(2, 5, EVERYTHING)[0] is written[1]


def test_a_page_is_limited_by_bytes_but_never_empty(node):
    node.append(1, 10, size=100)
    assert node.indexes(1, 11, 1) == ones(1, 2)
    assert node.indexes(1, 11, 320) == ones(1, 4)
    assert node.indexes(9, 11, EVERYTHING) == ones(9, 11)


def test_after_a_restart_everything_comes_from_the_disk(node):
    node.append(1, 20)
    node.start()
    assert node.cache.last_index() == 20
    assert node.cache.initial_state().term == 1
    assert node.cache.term_runs() == [(0, 0), (1, 1)]
    assert node.indexes(1, 21) == ones(1, 21)


def test_a_read_that_spans_both_stops_at_the_border_and_goes_on_from_there(node):
    node.append(1, 20)
    node.start()
    node.append(21, 10)
    assert node.indexes(15, 31) == ones(15, 21)
    assert node.indexes(21, 31) == ones(21, 31)


def test_the_oldest_leave_when_the_bytes_are_used_up_and_are_still_found(node, monkeypatch):
    monkeypatch.setattr(entry_cache, "CACHE_BYTES_MAX", 10 * (ENTRY_OVERHEAD_BYTES + 400))
    for first in range(1, 101, 10):
        node.append(first, 10)
    newest = node.cache.entries(95, 101, EVERYTHING)
    assert newest[0].record
    for low in (1, 50, 90, 95, 100):
        found: list[tuple[int, int]] = []
        while low + len(found) <= 100:
            found += node.indexes(low + len(found), 101, 1_000)
        assert found == ones(low, 101)


def test_one_entry_larger_than_the_cache_is_kept_while_it_is_the_last(node, monkeypatch):
    monkeypatch.setattr(entry_cache, "CACHE_BYTES_MAX", 100)
    (entry,) = node.append(1, 1, size=5_000)
    assert node.cache.entries(1, 2, EVERYTHING)[0] is entry
    node.append(2, 1)
    assert node.indexes(1, 2) == ones(1, 2)


def test_a_truncated_tail_is_void_at_once(node):
    node.append(1, 10)
    node.append(6, 3, term=2, truncate_from=6)
    assert node.indexes(4, 9) == [(4, 1), (5, 1), (6, 2), (7, 2), (8, 2)]
    node.start()
    assert node.indexes(4, 9) == [(4, 1), (5, 1), (6, 2), (7, 2), (8, 2)]
    assert node.cache.term_runs() == [(0, 0), (1, 1), (6, 2)]


def test_a_truncation_below_all_that_is_cached_leaves_what_the_disk_has(node):
    node.append(1, 10)
    node.start()
    node.append(11, 5)
    node.append(4, 2, term=3, truncate_from=4)
    assert node.indexes(1, 6)[:3] == ones(1, 4)
    assert node.indexes(4, 6) == [(4, 3), (5, 3)]


def test_a_gap_is_a_bug(node):
    node.append(1, 3)
    with pytest.raises(AssertionError):
        node.cache.handed_out([Entry(5, 1, 0, b"")], 0)
