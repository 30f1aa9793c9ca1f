"""A follower that needs a snapshot and has no room for it, or a disk that lost part of it: it says so, keeps nothing
that is of no use, lives on, and gets the snapshot when it can."""

from collections.abc import Sequence
from errno import EIO, ENOSPC
from functools import partial
from os import strerror
from typing import Any

import pytest
from recovery_rig import Broker, RecoveryRig
from transfer_rig import (
    Watch,
    caught_up,
    fill,
    installs,
    interrupted,
    left_behind,
    made_up_offer,
    received,
    rig_of,
    snapshots_of,
)

from actors import MILLISECOND, SECOND, Buffer
from actors.simulation.disk import SimulatedFile, SimulatedFiles
from cluster.peer.snapshot_receiver import SnapshotArrivals
from cluster.peer.snapshot_sender import WINDOW_CHUNKS
from cluster.raft.messages import Message, MessageType
from cluster.storage.receiving import SnapshotReceiver


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
        assert not received(victim)
        disk.capacity = None
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1
        rig.heal()


def test_what_an_earlier_transfer_left_makes_room_for_a_newer_snapshot(monkeypatch):
    with rig_of() as rig:
        leader, victim, _ = interrupted(rig, monkeypatch, chunks=2)
        disk = victim.disk
        (left,) = received(victim)
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
        leader, victim, watch = interrupted(rig, monkeypatch, chunks=3)
        (left,) = received(victim)
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
        assert not received(victim)
        is_full[0] = False
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1 and victim.ends == []
        rig.heal()


# -- transfers that are over when all of the file is here -------------------------------------------------------------


def restoring(rig: RecoveryRig, victim: Broker, monkeypatch: pytest.MonkeyPatch) -> str:
    """A follower has a whole file, and takes its time to restore it; the file's name."""
    restore = SnapshotArrivals._restore

    def slow(arrivals: SnapshotArrivals, *arguments: Any) -> None:
        context = arrivals._context
        later = context.callback(partial(restore, arrivals, *arguments))
        context.clock.call_at(context.clock.now() + 100 * MILLISECOND, later)

    monkeypatch.setattr(SnapshotArrivals, "_restore", slow)
    before = set(snapshots_of(victim))
    rig.start(victim)
    rig.until(lambda: set(snapshots_of(victim)) - before)
    (path,) = set(snapshots_of(victim)) - before
    return path


def test_a_whole_file_that_another_offer_takes_the_place_of_does_not_stay_on_the_disk(monkeypatch):
    """Nobody would ever remove it, and the next transfer may need its room."""
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        orphan = restoring(rig, victim, monkeypatch)
        loop, peer = victim.process.loop, victim.peer
        assert loop is not None and peer is not None
        offer = made_up_offer(leader)
        message = Message(MessageType.SNAPSHOT, victim.core.id, leader.core.id, leader.core.term)
        loop.deliver(lambda _: peer.snapshots._arrivals.offered(leader.core.id, offer, message, 1 << 40), None)
        rig.settle(2 * SECOND)
        assert orphan not in victim.disk.paths()
        monkeypatch.undo()
        rig.settle(40 * SECOND)
        caught_up(rig, leader, victim)
        rig.heal()


def test_a_whole_file_that_cannot_be_opened_does_not_stay_on_the_disk(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        before = set(snapshots_of(victim))
        is_bad, finish = [True], SnapshotReceiver.finish

        def finish_badly(receiver: SnapshotReceiver) -> str:
            path = finish(receiver)
            if is_bad[0]:
                victim.disk.flip_bit(path, 10)
            return path

        monkeypatch.setattr(SnapshotReceiver, "finish", finish_badly)
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_refused", victim.name))
        rig.settle()
        assert "cannot be opened" in str(rig.events("snapshot_refused", victim.name)[0]["reason"])
        assert set(snapshots_of(victim)) == before
        is_bad[0] = False
        caught_up(rig, leader, victim)
        rig.heal()


def test_a_transfer_that_goes_on_is_asked_for_room_as_well(monkeypatch):
    """What is missing has none: that is said before a chunk of it is sent, and what is there goes, for the log."""
    with rig_of() as rig:
        leader, victim, watch = interrupted(rig, monkeypatch, chunks=2)
        had = len(watch.chunks)
        assert received(victim)
        free = [1_000]
        monkeypatch.setattr(SimulatedFiles, "free_bytes", lambda files, path: free[0])
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_refused", victim.name))
        rig.settle()
        assert len(watch.chunks) == had
        assert "1000 are free" in str(rig.events("snapshot_refused", victim.name)[0]["reason"])
        assert not received(victim)
        monkeypatch.undo()
        caught_up(rig, leader, victim)
        rig.heal()
