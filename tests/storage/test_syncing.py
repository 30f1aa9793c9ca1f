"""Where a log is synced: a fast disk is synced on the loop, and not while it is slow."""

import pytest
from wal_rig import Rig, VirtualClock

from cluster.storage.errors import WalFailed
from cluster.storage.segment import WalLimits
from cluster.storage.syncing import CALM, QUICK, SLOW, Syncing
from cluster.storage.writer import LARGE_BYTES, SMALL_BYTES


def test_a_fast_disk_is_synced_on_the_loop():
    syncing = Syncing(VirtualClock(), "inline")
    syncing.took(SLOW)
    assert syncing.is_inline


def test_a_slow_disk_is_never_synced_on_the_loop():
    syncing = Syncing(VirtualClock(), "thread")
    syncing.took(1)
    assert not syncing.is_inline


def test_after_a_slow_sync_the_thread_makes_them_until_none_was_slow_for_a_while():
    clock = VirtualClock()
    syncing = Syncing(clock, "inline")
    syncing.took(SLOW + 1)
    clock.advance(CALM - 1)
    assert not syncing.is_inline
    syncing.took(SLOW + 1)      # the thread's
    clock.advance(CALM - 1)
    syncing.took(1)
    assert not syncing.is_inline
    clock.advance(1)
    assert syncing.is_inline


def test_what_takes_several_syncs_is_left_to_the_thread_and_tells_nothing_about_the_disk():
    rig = Rig()
    wal, _ = rig.open()

    def spend(_: int) -> None:
        rig.clock.time += 2 * SLOW

    rig.write(1, term=1)
    rig.disk.busy = spend
    wal.quarantine("for a test")
    assert not wal.is_idle
    rig.settle()
    rig.disk.busy = None
    assert wal.syncing.is_inline


def test_whether_syncs_are_quick_follows_their_mean():
    syncing = Syncing(VirtualClock(), "inline", QUICK - 1)
    assert syncing.is_quick
    syncing.took(0)                 # says nothing
    syncing.took(100 * QUICK)
    assert not syncing.is_quick
    for _ in range(200):
        syncing.took(QUICK // 2)
    assert syncing.is_quick


@pytest.mark.parametrize(
    ("size", "latency", "is_done_at_once"),
    [(SMALL_BYTES // 2, 2 * SLOW, True), (2 * SMALL_BYTES, SLOW, True), (2 * SMALL_BYTES, SLOW + 1, False)],
    ids=["small", "in time", "a stall"],
)
def test_a_middle_sized_write_is_waited_for_and_no_longer_than_that(size, latency, is_done_at_once):
    """While syncs are not quick. A small one is somebody's round trip, and made on the loop."""
    rig = Rig(limits=WalLimits(segment_bytes=1 << 20), latency=latency)
    wal, _ = rig.open()
    rig.append(1, term=1)
    wal.flush()
    rig.settle()
    wal.syncing.took(100 * QUICK)
    rig.clock.advance(CALM)
    rig.append(1, size=size)
    wal.flush()
    assert wal.is_idle is is_done_at_once
    rig.settle()
    assert wal.is_idle and rig.persisted[-1] == rig.next_write - 1


def test_a_write_that_is_waited_for_and_fails_ends_the_log_at_once():
    rig = Rig(limits=WalLimits(segment_bytes=1 << 20), latency=1)
    wal, _ = rig.open()
    rig.append(1, term=1)
    wal.flush()
    wal.syncing.took(100 * QUICK)
    rig.clock.advance(CALM)
    rig.disk.fail_next_sync()
    rig.append(1, size=2 * SMALL_BYTES)
    with pytest.raises(WalFailed):
        wal.flush()


def test_a_large_write_is_left_to_the_thread():
    rig = Rig(limits=WalLimits(segment_bytes=1 << 20))
    wal, _ = rig.open()
    rig.append(1, term=1, size=LARGE_BYTES // 2)
    wal.flush()
    assert wal.is_idle
    rig.append(1, size=LARGE_BYTES)
    wal.flush()
    assert not wal.is_idle
    rig.settle()
    assert rig.persisted == [1, 2]


def test_a_log_whose_disk_becomes_slow_leaves_the_loop_alone_and_loses_nothing():
    rig = Rig()
    wal, _ = rig.open()
    rig.write(2, term=1)
    slow = [2 * SLOW]

    def spend(_: int) -> None:
        rig.clock.time += slow.pop() if slow else 0

    rig.disk.busy = spend
    rig.append(1)
    wal.flush()
    assert wal.is_idle, "on the loop, and slow"
    last = rig.append(1)
    wal.flush()
    assert not wal.is_idle and rig.persisted[-1] < last
    rig.settle()
    assert rig.persisted[-1] == last
    rig.clock.advance(CALM)
    rig.append(1)
    wal.flush()
    assert wal.is_idle
    rig.crash()
    _, recovery = rig.open()
    rig.check(recovery)
