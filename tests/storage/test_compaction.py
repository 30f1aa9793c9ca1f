"""A log whose front leaves, and one that begins anew behind a snapshot: nothing acknowledged is lost."""

from random import Random

import pytest
from compaction_rig import Node, filled, states
from wal_rig import PowerLost

from cluster.raft.messages import SnapshotMark

CALLS_MAX = 400
MODES = pytest.mark.parametrize("mode", ["inline", "thread"])


@MODES
def test_segments_without_an_entry_behind_the_index_leave(mode):
    node = filled(mode)
    before = node.rig.segments()
    node.wal.compact(0)
    assert node.wal.first_index == 1
    node.wal.compact(30)
    node.settle()
    first = node.wal.first_index
    assert 20 < first <= 31
    left = [path for path in before if path not in node.rig.segments()]
    assert left == before[: len(left)]
    assert len(left) >= 2
    node.check()
    node.reopen()
    assert node.wal.first_index == first
    assert node.recovery.base == (first - 1, 1)
    node.check()
    node.write(20)
    node.reopen()
    node.check()


@MODES
def test_the_segment_that_is_written_stays_when_all_of_its_entries_are_old(mode):
    node = filled(mode)
    node.snapshot(node.last)
    node.wal.compact(node.last)
    node.settle()
    assert len(node.rig.segments()) == 1
    node.check()
    node.reopen()
    node.check()
    node.write(3)
    node.reopen()
    node.check()


def test_a_log_that_is_empty_behind_its_start_knows_the_term_before_it():
    node = Node()
    node.write(12, size=200)
    node.write(1, size=4_000)
    node.snapshot(13)
    # The second segment holds the one entry that a leader of term 4 makes void; nothing else has come since.
    node.write(1, size=4_000)
    node.write(0, term=4, truncate_from=14)
    node.wal.compact(13)
    node.settle()
    assert (node.wal.first_index, node.wal.last_index) == (14, 13)
    node.reopen()
    node.check()
    node.write(2)
    node.reopen()
    node.check()


def test_files_that_leave_become_spares_while_they_are_wanted_and_are_removed_else():
    node = filled()
    node.wal.compact(30)
    node.settle()
    spares = [path for path in node.rig.disk.paths() if path.endswith(".spare")]
    assert len(spares) == node.rig.limits.spares_max
    rolls = node.wal.unprepared_rolls
    for _ in range(2):
        node.write(12)
    assert node.wal.unprepared_rolls == rolls
    node.check()


def test_a_file_that_leaves_is_not_kept_open_by_a_reader():
    node = filled()
    assert len(node.held()) == node.last
    node.wal.compact(30)
    node.settle()
    segments = [int(path.rpartition("/")[2].partition(".")[0]) for path in node.rig.segments()]
    assert set(node.wal._chain._reader._open) <= set(segments)
    for _ in range(6):
        node.write(8)
        node.check()


def test_close_lets_a_file_leave_before_the_lock_goes():
    node = filled("thread")
    node.wal.compact(30)
    node.rig.clock.advance(1_500)   # the header is written; the first file is being given up
    node.wal.close()
    node.settle()
    node.open()
    node.check()


def test_headers_of_a_log_that_was_never_compacted_can_be_read_by_version_1():
    node = filled()
    versions = {node.rig.disk.read(path)[8] for path in node.rig.segments()}
    assert versions == {1}
    node.wal.compact(30)
    node.settle()
    assert node.rig.disk.read(node.rig.segment())[8] == 2


@MODES
def test_a_restart_leaves_nothing_before_the_snapshot(mode):
    node = filled(mode)
    node.wal.store_formation(b"the-id", ("b1", "b2"))
    told = []
    node.install(500, 5, lambda: told.append(node.wal.last_index))
    node.settle()
    assert told == [500]
    assert (node.wal.first_index, node.wal.last_index, node.wal.term(500)) == (501, 500, 5)
    assert len(node.rig.segments()) == 1
    node.check()
    node.reopen()
    assert node.recovery.cluster_id == b"the-id"
    assert node.recovery.hard_state.term == 5
    assert node.recovery.hard_state.commit == 500
    node.check()
    node.write(30)
    node.snapshot(510)
    node.wal.compact(510)
    node.reopen()
    node.check()


@MODES
def test_a_restart_keeps_its_place_among_appends(mode):
    node = filled(mode)
    order: list[object] = []
    node.wal.on_persisted = order.append
    first = node.write_id
    node.queue(2)
    node.install(500, 5, lambda: order.append("restarted"))
    node.queue(3)
    node.install(700, 6, lambda: order.append("again"))
    node.queue(4, term=7)
    node.wal.flush()
    node.settle()
    assert order == [first + 1, "restarted", first + 2, "again", first + 3]
    assert (node.wal.first_index, node.wal.last_index) == (701, 704)
    node.check()
    node.reopen()
    node.check()


def test_a_compaction_beside_a_restart_changes_nothing():
    node = filled("thread")
    node.install(500, 5)
    node.wal.compact(30)
    node.settle()
    node.check()
    node.reopen()
    node.check()


def test_a_quarantine_outlives_a_restart():
    node = filled()
    node.wal.quarantine("for a test")
    node.install(500, 5)
    assert node.wal.quarantined
    node.settle()
    node.reopen()
    assert node.wal.quarantined


@MODES
def test_a_crash_at_any_call_of_compacting_loses_nothing(mode):
    for calls in range(CALLS_MAX):
        for seed in range(3):
            node = filled(mode, seed * 1_000 + calls)
            oldest, acknowledged = 30, node.last
            node.rig.disk.cut_power_after(calls)
            try:
                node.wal.compact(30)
                node.settle()
                node.write(2)
                acknowledged = node.last
                node.snapshot(50)
                oldest = 45
                node.wal.compact(45)
                node.settle()
            except PowerLost:
                node.crash()
                assert not node.recovery.quarantined
                assert node.recovery.first_index <= oldest + 1
                assert acknowledged <= node.wal.last_index <= node.last
                del node.entries[node.wal.last_index :]
                node.check()
                node.write(3, term=node.term + 1)
                node.reopen()
                node.check()
            else:
                assert calls > 14
                return
    raise AssertionError("CALLS_MAX is too low")


@MODES
def test_a_crash_at_any_call_of_a_restart_leaves_the_log_behind_the_snapshot(mode):
    for calls in range(CALLS_MAX):
        for seed in range(3):
            node = filled(mode, seed * 1_000 + calls)
            told: list[bool] = []
            node.rig.disk.cut_power_after(calls)
            try:
                node.install(500, 5, lambda told=told: told.append(True))
                node.settle()
                node.write(5)
                node.settle()
            except PowerLost:
                node.crash()
                assert not node.recovery.quarantined
                assert (node.recovery.base, node.recovery.first_index) == ((500, 5), 501)
                assert node.recovery.last_index in (500, 505)
                assert node.recovery.hard_state.term >= 5
                assert node.recovery.hard_state.commit == 500
                del node.entries[node.recovery.last_index - 500 :]
                node.write(2)
                node.reopen()
                node.check()
            else:
                assert calls > 10
                return
    raise AssertionError("CALLS_MAX is too low")


@MODES
def test_a_crash_at_any_call_of_opening_a_compacted_log_loses_nothing(mode):
    for scenario in ("compacted", "left over", "void"):
        for calls in range(CALLS_MAX):
            node = filled(mode, calls)
            if scenario == "void":
                node.mark = SnapshotMark(500, 5, ())
                node.base, node.entries = (500, 5), []
            else:
                node.wal.compact(30)
                if scenario == "compacted":
                    node.settle()
            node.rig.crash()
            node.rig.disk.cut_power_after(calls)
            try:
                node.open()
            except PowerLost:
                node.crash()
                node.check()
            else:
                assert calls > 5
                break
        else:
            raise AssertionError("CALLS_MAX is too low")


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_of_appends_truncations_compactions_and_restarts_follow_the_model(seed):
    random = Random(seed)
    node = Node(seed, "thread" if seed % 2 else "inline")
    compactions = restarts = 0
    for _ in range(150):
        kind = random.randrange(12)
        floor = node.mark.index if node.mark is not None else 0
        if kind == 0:
            node.reopen()
        elif kind == 1 and node.last > floor + 2:
            node.write(random.randrange(4), term=node.term + 1, truncate_from=random.randrange(floor + 1, node.last))
        elif kind == 2 and node.last > floor:
            node.snapshot(random.randrange(floor + 1, node.last + 1))
        elif kind == 3 and floor:
            # The older of two snapshots: somewhere before the newest.
            node.wal.compact(random.randrange(node.wal.first_index - 1, floor + 1))
            compactions += 1
        elif kind == 4 and random.random() < 0.2:
            node.install(node.last + random.randrange(1, 50), node.term + random.randrange(2))
            restarts += 1
        elif kind == 5:
            node.settle()
            node.crash()
        else:
            node.write(random.randrange(1, 6), size=random.randrange(10, 600))
        node.settle()
        node.check()
        if node.wal.last_index >= node.wal.first_index:
            low = random.randrange(node.wal.first_index, node.wal.last_index + 1)
            high = random.randrange(low, node.wal.last_index + 1) + 1
            read = node.wal.read(low, high, 1 << 30)
            assert states(node.by_pieces(low, high)) == states(read)
    assert compactions > 2
