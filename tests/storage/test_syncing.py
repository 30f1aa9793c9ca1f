"""Where a log is synced: a fast disk is synced on the loop, and not while it is slow."""

from wal_rig import Rig, VirtualClock

from cluster.storage.syncing import CALM, SLOW, Syncing


def syncing_of(mode: str = "inline") -> tuple[Syncing, VirtualClock]:
    clock = VirtualClock()
    return Syncing(clock, mode), clock


def sync(syncing: Syncing, clock: VirtualClock, took: int, *, is_single: bool = True) -> str:
    where = syncing.begin(is_single=is_single)
    clock.advance(took)
    syncing.ended()
    return where


def test_a_fast_disk_is_synced_on_the_loop():
    syncing, clock = syncing_of()
    assert [sync(syncing, clock, SLOW) for _ in range(3)] == ["inline"] * 3


def test_a_slow_disk_is_never_synced_on_the_loop():
    syncing, clock = syncing_of("thread")
    assert [sync(syncing, clock, 1) for _ in range(3)] == ["thread"] * 3


def test_what_takes_more_than_one_sync_is_left_to_the_thread():
    syncing, clock = syncing_of()
    assert sync(syncing, clock, 1, is_single=False) == "thread"
    assert sync(syncing, clock, 1) == "inline"


def test_after_a_slow_sync_the_thread_makes_them_until_none_was_slow_for_a_while():
    syncing, clock = syncing_of()
    assert sync(syncing, clock, SLOW + 1) == "inline"
    assert sync(syncing, clock, 1) == "thread"
    clock.advance(CALM - 2)
    assert sync(syncing, clock, SLOW + 1) == "thread"
    clock.advance(CALM - 1)
    assert sync(syncing, clock, 1) == "thread"
    assert sync(syncing, clock, 1) == "inline"


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
