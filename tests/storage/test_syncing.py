"""Where a log is synced: a fast disk is synced on the loop, and not while it is slow."""

from wal_rig import Rig, VirtualClock

from cluster.storage.segment import WalLimits
from cluster.storage.syncing import CALM, SLOW, Syncing
from cluster.storage.writer import LARGE_BYTES


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
