"""One broker makes a snapshot for all of them: who does it, what the others ask of a copy, and what comes of bad times.

Everything but the world is the real code.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from recovery_rig import Broker, RecoveryRig
from transfer_rig import EAGER, MODES, Watch, compacted, fill, received, rig_of, snapshots_of

from actors import SECOND
from cluster.peer import snapshot_sender
from cluster.peer.sharing import Sharing
from cluster.peer.shelf import Shelf
from cluster.state import image
from cluster.storage.snapshots import SnapshotFile, SnapshotWriter
from cluster.wire import SnapshotChunk

# The second in line waits for a log that is twice as long, the third for three times.
SHARED = replace(EAGER, log_bytes_min=1_500_000, stagger_ppm_max=2_000_000, checkpoint_entries=1)


def shared_rig(seed: int = 0, **options: object) -> RecoveryRig:
    return rig_of(seed, **{"compaction": SHARED, **options})


def grow(rig: RecoveryRig, until: Callable[[], object], what: str) -> None:
    """The log, by so much at a time that the next in line has heard of whoever is at work."""
    for _ in range(20):
        if until():
            return
        fill(rig, 1)
        rig.settle(3 * SECOND)
    raise AssertionError(what)


def copies(rig: RecoveryRig, broker: Broker) -> int:
    return len(rig.events("snapshot_copied", broker.name))


def makers(rig: RecoveryRig) -> list[str]:
    return [process for process, name, _ in rig.log if name == "snapshot_written"]


def content(broker: Broker) -> list[bytes]:
    return [broker.disk.read(path) for path in sorted(snapshots_of(broker))]


@MODES
def test_one_broker_makes_the_snapshots_the_others_take_copies_of_the_same_bytes(mode):
    with shared_rig(mode=mode) as rig:
        leader, names = rig.leader, sorted(broker.name for broker in rig.followers())
        compacted(rig, *rig.brokers.values())
        rig.settle(5 * SECOND)
        assert rig.leader is leader
        made = makers(rig)
        assert made == (names * len(made))[: len(made)], "followers take turns, and the leader is the last in line"
        assert rig.snapshots == len(made)
        for broker in rig.brokers.values():
            assert copies(rig, broker) == len(made) - made.count(broker.name)
            assert content(broker) == content(leader)
            assert received(broker) == []
        for broker in list(rig.brokers.values()):
            rig.stop(broker)
            rig.start(broker)
            rig.heal()
        assert rig.events("snapshot_damaged") == []


def test_if_the_one_at_work_dies_another_does_it():
    with shared_rig() as rig:
        first, second = sorted(rig.followers(), key=lambda broker: broker.name)
        fill(rig, 2)
        rig.until(lambda: rig.events("compaction_started"), "the first begins")
        rig.stop(first)
        grow(rig, lambda: rig.events("snapshot_written"), "another one does it")
        grow(rig, lambda: copies(rig, rig.leader) + copies(rig, second), "for both")
        assert first.name not in makers(rig)
        rig.start(first)
        rig.heal()


def test_a_copy_whose_chunks_are_lost_is_given_up_and_made_here(monkeypatch):
    with shared_rig() as rig:
        _, second = sorted(rig.followers(), key=lambda broker: broker.name)
        watch = Watch(monkeypatch, second.name)
        watch.spoil = lambda chunk: None
        fill(rig, 2)
        rig.until(lambda: watch.chunks, "a copy begins")
        grow(rig, lambda: rig.events("snapshot_written", second.name), "it makes its own")
        assert copies(rig, second) == 0
        assert received(second) == [], "what came of the copy goes"
        rig.heal()


def test_a_copy_that_is_damaged_on_the_way_is_refused_and_made_here(monkeypatch):
    def damaged(chunk: SnapshotChunk) -> SnapshotChunk:
        return msgspec.structs.replace(chunk, data=chunk.data[:-1] + bytes([chunk.data[-1] ^ 1]))

    with shared_rig() as rig:
        _, second = sorted(rig.followers(), key=lambda broker: broker.name)
        watch = Watch(monkeypatch, second.name)
        watch.spoil = damaged
        fill(rig, 2)
        rig.until(lambda: rig.events("snapshot_refused", second.name), "it refuses")
        grow(rig, lambda: rig.events("snapshot_written", second.name), "it makes its own")
        assert copies(rig, second) == 0
        rig.heal()


def test_a_copy_of_another_state_than_this_replica_had_is_never_taken(monkeypatch):
    """The other's file is whole, and says of itself what its maker was: not what this one was."""
    newest = Shelf.open_newest

    def another(shelf: Shelf) -> SnapshotFile | None:
        file = newest(shelf)
        assert file is not None
        files, meta = shelf._context.files, file.meta
        files.make_dirs("other")
        writer = SnapshotWriter(files, "other", msgspec.structs.replace(meta, rolling=meta.rolling ^ 1))
        for part in file.parts():
            writer.add(part)
        file.close()
        writer.finish()
        return SnapshotFile.open(files, "other", meta.index)

    monkeypatch.setattr(Shelf, "open_newest", another)
    with shared_rig() as rig:
        grow(rig, lambda: len(set(makers(rig))) == 3, "each makes its own")
        assert rig.events("snapshot_copied") == []
        assert {event["reason"] for event in rig.events("snapshot_refused")} == {
            "this replica was in another state at that entry"
        }


def test_a_broker_that_cannot_compare_a_copy_does_not_take_it(monkeypatch):
    """It does not know any more what it was at that entry."""
    with shared_rig() as rig:
        _, second = sorted(rig.followers(), key=lambda broker: broker.name)
        watch = Watch(monkeypatch, second.name)
        fill(rig, 2)
        rig.until(lambda: rig.events("compaction_started"))
        assert second.peer is not None
        second.peer.snapshots.checkpoints.drop(1 << 40)
        rig.until(lambda: watch.offers, "it is offered a copy")
        rig.settle(2 * SECOND)
        assert copies(rig, rig.leader) == 1 and copies(rig, second) == 0
        assert watch.chunks == []
        grow(rig, lambda: copies(rig, second), "it takes the next")


def test_a_copy_that_this_program_could_not_start_from_is_refused(monkeypatch):
    """Its maker is a newer release: a file that every chunk's crc vouches for, and that no start could read."""
    monkeypatch.setattr(image, "IMAGE_VERSION", image.IMAGE_VERSION + 1)
    with shared_rig() as rig:
        fill(rig, 2)
        rig.until(lambda: len(rig.events("snapshot_refused")) == 2, "both refuse")
        assert all("newer release" in str(event["reason"]) for event in rig.events("snapshot_refused"))
        assert sum(len(snapshots_of(broker)) for broker in rig.brokers.values()) == 1
        rig.settle(2 * SECOND)
        assert not any(received(broker) for broker in rig.brokers.values())


def slow_taker(rig: RecoveryRig, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A follower to which a copy is on its way, for long."""
    monkeypatch.setattr(snapshot_sender, "COPY_RATE_BYTES", 100 * 1024)
    _, second = sorted(rig.followers(), key=lambda broker: broker.name)
    fill(rig, 2)
    rig.until(lambda: rig.events("snapshot_arriving", second.name))
    return second


def test_a_copy_that_takes_too_long_is_given_up_for_an_own_snapshot(monkeypatch):
    """Every chunk comes within the patience of both sides: nothing else would end it while the log grows and grows."""
    with shared_rig() as rig:
        second = slow_taker(rig, monkeypatch)
        grow(rig, lambda: rig.events("snapshot_written", second.name), "it makes its own")
        assert rig.events("snapshot_refused", second.name)[0]["reason"] == "this broker needs a snapshot now"
        assert copies(rig, second) == 0
        rig.heal()


def test_a_broker_that_cannot_make_its_own_now_goes_on_with_a_slow_copy(monkeypatch):
    with shared_rig() as rig:
        second = slow_taker(rig, monkeypatch)
        assert second.peer is not None
        second.peer.snapshots._compacting._not_before = 1 << 62      # after a failure
        grow(rig, lambda: copies(rig, second), "it comes in the end")
        assert rig.events("snapshot_refused", second.name) == []


@pytest.mark.parametrize("happens", ["the leader goes", "the newest one of the taker is damaged"])
def test_a_copy_comes_to_its_end_whatever_else_happens(happens, monkeypatch):
    monkeypatch.setattr(snapshot_sender, "COPY_RATE_BYTES", 1024 * 1024)
    with shared_rig() as rig:
        leader = rig.leader
        grow(rig, lambda: len(rig.events("snapshot_copied")) == 2, "the first one")
        (maker,) = makers(rig)
        taker = rig.brokers[maker]      # of the next one, which is the other follower's
        while not rig.world.run_until(lambda: rig.events("snapshot_arriving", taker.name), 3 * SECOND):
            fill(rig, 1)
        if happens == "the leader goes":
            rig.stop(leader)
        else:
            assert taker.peer is not None
            taker.peer.snapshots._set_aside(taker.peer.snapshots.kept[0], "a bit")
        rig.until(lambda: copies(rig, taker))
        if happens == "the leader goes":
            rig.start(leader)
        rig.heal()


def test_a_copy_is_not_asked_of_brokers_that_make_snapshots_of_any_entry():
    """Entries are large and few: there is none to compare that is not long ago."""
    with shared_rig(compaction=replace(SHARED, checkpoint_entries=1_000, stagger_ppm_max=0)) as rig:
        compacted(rig, *rig.brokers.values())
        assert set(makers(rig)) == set(rig.brokers)
        assert rig.events("snapshot_copied") == []


def test_a_broker_that_needs_room_does_not_wait_for_a_copy(monkeypatch):
    monkeypatch.setattr(Sharing, "is_expected", lambda sharing, newest_index: True)
    with shared_rig() as rig:
        _, second = sorted(rig.followers(), key=lambda broker: broker.name)
        fill(rig, 2)
        rig.settle(5 * SECOND)
        assert rig.events("compaction_started") == [], "everybody waits"
        assert second.peer is not None
        monkeypatch.setattr(second.peer.snapshots, "_would_make_room", lambda log_bytes: True)
        rig.until(lambda: rig.events("compaction_started", second.name), "at once")


@pytest.mark.parametrize("crashed", ["maker", "taker"])
def test_a_crash_in_a_copy_costs_nothing(crashed, monkeypatch):
    with shared_rig() as rig:
        first, second = sorted(rig.followers(), key=lambda broker: broker.name)
        watch = Watch(monkeypatch, second.name)
        fill(rig, 2)
        rig.until(lambda: watch.chunks, "a copy is on its way")
        victim = first if crashed == "maker" else second
        rig.stop(victim)
        rig.settle(2 * SECOND)
        rig.start(victim)
        rig.heal()
        grow(rig, lambda: all(len(snapshots_of(broker)) == 2 for broker in rig.brokers.values()), "all have two")
        rig.heal()


def test_a_follower_that_the_log_no_longer_reaches_gets_the_file_for_its_core_not_a_copy(monkeypatch):
    """Both ways of a transfer meet: the one that the core asked for ends with an acknowledgement."""
    with shared_rig() as rig:
        leader, (victim, _) = rig.leader, rig.followers()
        rig.submit(5)
        rig.stop(victim)
        for _ in range(6):
            fill(rig, 2)
            rig.settle(3 * SECOND)
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_installed", victim.name), "it is given the state")
        rig.heal()
        assert leader.peer is not None and not leader.peer.snapshots._sender.is_busy


def test_two_runs_of_one_seed_share_alike():
    def run() -> list[tuple[str, str]]:
        with shared_rig(7) as rig:
            compacted(rig, *rig.brokers.values())
            return [(process, name) for process, name, _ in rig.log]

    assert run() == run()

