"""A follower that needs a snapshot and has no room for it, or a disk that lost part of it: it says so, keeps nothing
that is of no use, lives on, and gets the snapshot when it can."""

from collections.abc import Sequence
from errno import EIO, ENOSPC
from os import strerror

from transfer_rig import Watch, caught_up, fill, installs, left_behind, rig_of

from actors import SECOND, Buffer
from actors.simulation.disk import SimulatedFile
from cluster.peer.snapshot_sender import WINDOW_CHUNKS


def test_a_follower_without_room_for_the_snapshot_says_so_takes_no_chunk_and_gets_it_when_there_is_room(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        disk = victim.disk
        disk.capacity = sum(len(disk.read(path)) for path in disk.paths()) + 500_000
        rig.start(victim)
        rig.settle(30 * SECOND)
        assert victim.alive and victim.ends == []
        assert watch.chunks == [], "nothing is sent that has no room"
        assert 3 <= watch.offers <= 7, "it is not asked at every heartbeat"
        refusals = rig.events("snapshot_refused", victim.name)
        assert len(refusals) == watch.offers
        assert "no room for it" in str(refusals[0]["reason"]) and "500000 are free" in str(refusals[0]["reason"])
        assert "make room there (data)" in str(refusals[0]["reason"])
        assert [event["reason"] for event in rig.events("snapshot_not_sent", leader.name)] == [
            refusal["reason"] for refusal in refusals
        ]
        assert not [path for path in disk.paths() if path.endswith(".recv")]
        disk.capacity = None
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1
        rig.heal()


def test_what_an_earlier_transfer_left_makes_room_for_a_newer_snapshot(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        disk = victim.disk
        rig.start(victim)
        rig.until(lambda: len(watch.chunks) >= 2)
        rig.stop(victim)
        (left,) = (path for path in disk.paths() if path.endswith(".recv"))
        fill(rig, 1)
        rig.settle(5 * SECOND)
        assert leader.peer is not None
        assert f"{leader.peer.snapshots.kept[0]:016d}" not in left, "it has a newer one"
        # That has room where this one lies, and not beside it.
        disk.capacity = sum(len(disk.read(path)) for path in disk.paths()) + len(disk.read(left)) // 2
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_arriving", victim.name)[1:])
        assert left not in disk.paths()
        disk.capacity = None
        caught_up(rig, leader, victim)
        rig.heal()


def test_a_transfer_whose_file_cannot_be_read_any_more_begins_again(monkeypatch):
    """The follower lives on, and no operator is needed."""
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        rig.start(victim)
        rig.until(lambda: len(watch.chunks) >= 3)
        rig.stop(victim)
        (left,) = (path for path in victim.disk.paths() if path.endswith(".recv"))
        bad, pread = victim.disk.lookup(left), SimulatedFile.pread

        def read(file: SimulatedFile, size: int, offset: int) -> bytes:
            if file._inode is bad:
                raise OSError(EIO, strerror(EIO))
            return pread(file, size, offset)

        monkeypatch.setattr(SimulatedFile, "pread", read)
        had = len(watch.chunks)
        rig.start(victim)
        caught_up(rig, leader, victim)
        assert watch.chunks[had] == 0
        assert victim.ends == [] and not rig.events("snapshot_refused", victim.name)
        assert installs(rig, victim) == 1
        rig.heal()


def test_a_disk_that_is_full_in_the_midst_of_a_transfer_keeps_nothing_of_it(monkeypatch):
    """A quota, or a file system that promised room that it had not: only a write finds out."""
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        pwrite, is_full = SimulatedFile.pwrite, [True]

        def write(file: SimulatedFile, buffers: Sequence[Buffer], offset: int) -> None:
            if is_full[0] and file.path.endswith(".recv") and 1_000_000 < offset < 3_000_000:
                raise OSError(ENOSPC, strerror(ENOSPC))
            pwrite(file, buffers, offset)

        monkeypatch.setattr(SimulatedFile, "pwrite", write)
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_refused", victim.name))
        rig.settle(2 * SECOND)
        assert watch.offers == 1 and len(watch.chunks) <= WINDOW_CHUNKS + 2
        assert "no room for it" in str(rig.events("snapshot_refused", victim.name)[0]["reason"])
        assert not [path for path in victim.disk.paths() if path.endswith(".recv")]
        is_full[0] = False
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1 and victim.ends == []
        rig.heal()
