"""The end of a log: its last mark is in the segment it belongs to, and its directory is given up when nothing of this
process is to happen there any more."""

import pytest
from compaction_rig import filled
from wal_rig import DIRECTORY, Rig

from actors.errors import Locked
from cluster.storage.header import FRAMES_START
from cluster.storage.snapshots import SnapshotMeta, SnapshotWriter, clear_unfinished


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_restart_that_fails_while_the_log_closes_leaves_the_old_segment_as_it_is(calls, monkeypatch):
    """Its marker would belong into the segment that could not be begun, and destroy the first frame of this one."""
    node = filled("thread")
    node.wal.mark()
    node.settle()
    node.write(2)
    node.rig.disk.sync_latency = lambda: 1_000_000
    path = node.rig.segment()
    before = node.rig.disk.read(path)[FRAMES_START:]
    last = node.last
    log = node.held()
    mark = node.mark
    node.install(500, 5)
    node.mark = mark
    enter, made = type(node.rig.files).enter, [0]

    def failing(files, **options: bool) -> bool:
        made[0] += 1
        if made[0] == calls:
            raise OSError(5, "Input/output error")
        return enter(files, **options)

    node.wal.close()
    monkeypatch.setattr(type(node.rig.files), "enter", failing)
    node.settle()
    monkeypatch.undo()
    assert made[0] >= calls
    if path in node.rig.disk.paths():
        assert node.rig.disk.read(path)[FRAMES_START:] == before
    node.rig.crash()
    node.open()
    assert not node.recovery.quarantined
    assert node.wal.last_index == last and node.held() == log


def test_the_lock_goes_behind_all_that_was_to_be_done_in_the_background():
    """A successor must not meet renames and removals of the process before it."""
    rig = Rig(mode="thread", latency=1_000)
    rig.open()          # a spare is being filled
    done: list[str] = []
    for name in ("one", "two"):
        rig.files.submit(lambda name=name: done.append(name), lambda _: None, background=True)
    rig.wal.close()
    with pytest.raises(Locked):
        rig.disk.mount(77).lock(f"{DIRECTORY}/lock")
    rig.clock.advance()
    assert done == ["one", "two"]
    rig.pid = 2
    rig.open()


def test_the_lock_goes_behind_a_write_under_way_and_what_was_queued_in_the_background_meanwhile():
    rig = Rig(mode="thread", latency=1_000)
    rig.open()
    rig.clock.advance()
    rig.append(1, term=1)
    rig.wal.flush()
    rig.wal.close()
    told: list[bool] = []
    rig.disk.slow_syncs(1, 500_000)
    rig.files.submit(lambda: told.append(True), lambda _: None, background=True)
    rig.clock.advance(100_000)
    with pytest.raises(Locked):
        rig.disk.mount(77).lock(f"{DIRECTORY}/lock")
    rig.clock.advance()
    assert told
    rig.pid = 2
    _, recovery = rig.open()
    rig.check(recovery)
    assert recovery.last_index == 1


def test_the_directory_is_given_up_although_the_owner_hears_of_nothing_any_more():
    """As an actor's callbacks are silent once it has ended."""
    lives = [True]

    def silent(callback):
        return lambda *args: callback(*args) if lives[0] else None

    rig = Rig(mode="thread", latency=1_000)
    rig.open(guard=silent)
    rig.clock.advance()
    rig.append(1, term=1)
    rig.wal.flush()
    rig.wal.close()
    lives[0] = False
    rig.clock.advance()
    rig.pid = 2
    _, recovery = rig.open()
    assert recovery.last_index == 1


def test_a_file_that_goes_while_a_start_clears_up_is_gone():
    """Its compactor was told to die, and had not yet."""
    rig = Rig()
    rig.open()
    files = rig.disk.mount(9)
    SnapshotWriter(files, DIRECTORY, SnapshotMeta(7, 1, 1, 0, 0, b"", ()))
    names = files.list(DIRECTORY)
    files.list = lambda _: names      # type: ignore[method-assign]
    files.remove(f"{DIRECTORY}/{7:016d}.part")
    clear_unfinished(files, DIRECTORY)
