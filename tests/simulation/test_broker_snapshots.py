"""Snapshots between real brokers in bad times: made, lost, damaged, sent, and taken once.

Everything but the world is the real code.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
from recovery_rig import Broker, RecoveryRig
from transfer_rig import (
    EAGER,
    MODES,
    Watch,
    caught_up,
    compacted,
    fill,
    installs,
    interrupted,
    left_behind,
    made_up_offer,
    rig_of,
    snapshots_of,
)

from actors import MILLISECOND, SECOND
from cluster.node_report import EXIT_OPERATOR
from cluster.peer import snapshot_sender
from cluster.peer.snapshot_receiver import SnapshotArrivals
from cluster.peer.snapshot_sender import SnapshotSender
from cluster.peer.snapshots import Snapshots
from cluster.raft.messages import Message, MessageType
from cluster.storage import snapshot_format
from cluster.storage.snapshots import SnapshotMeta
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant

# -- making them ------------------------------------------------------------------------------------------------------


@MODES
def test_every_broker_makes_snapshots_cuts_its_log_and_starts_again_from_them(mode):
    with rig_of(mode=mode) as rig:
        compacted(rig, *rig.brokers.values())
        assert all(len(snapshots_of(broker)) == 2 for broker in rig.brokers.values())
        for broker in list(rig.brokers.values()):
            rig.stop(broker)
            rig.start(broker)
            rig.heal()
        assert rig.events("snapshot_offered") == []


def test_a_broker_that_restarts_all_the_time_compacts_as_well():
    """What it replays counts: else a log that is never followed for long by one process would grow for ever."""
    with rig_of(brokers=1, compaction=replace(EAGER, log_bytes_min=2 * 1024 * 1024)) as rig:
        (broker,) = rig.brokers.values()
        for _ in range(8):
            fill(rig, 1)
            rig.stop(broker)
            rig.start(broker)
            rig.until(lambda: broker.leads)
            rig.settle(5 * SECOND)
        assert rig.snapshots >= 2
        assert broker.peer is not None and broker.peer.wal.first_index > 1


def test_after_a_start_the_log_since_the_newest_snapshot_counts_and_nothing_else():
    with rig_of(brokers=1, compaction=replace(EAGER, log_bytes_min=2 * 1024 * 1024)) as rig:
        (broker,) = rig.brokers.values()
        fill(rig, 3)
        rig.until(lambda: rig.events("snapshot_written"))
        fill(rig, 1)
        rig.settle(3 * SECOND)
        assert rig.snapshots == 1
        for _ in range(3):
            rig.stop(broker)
            rig.start(broker)
            rig.until(lambda: broker.leads)
            rig.settle(3 * SECOND)
        assert rig.snapshots == 1


# -- damage at a start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brokers", [1, 3])
def test_with_its_newest_snapshot_damaged_a_broker_starts_from_the_older_one_and_the_log_behind_it(brokers):
    with rig_of(brokers=brokers) as rig:
        compacted(rig, *rig.brokers.values())
        broker = rig.leader
        rig.stop(broker)
        newest = snapshots_of(broker)[-1]
        broker.disk.flip_bit(newest, 6_000)
        rig.start(broker)
        rig.heal()
        (event,) = rig.events("snapshot_damaged")
        assert event["action"]
        assert newest + ".damaged" in broker.disk.paths()
        assert rig.events("log_damaged") == []
        assert rig.events("snapshot_installed") == []
        compacted(rig, broker)
        rig.until(lambda: len(snapshots_of(broker)) == 2)


def test_with_both_snapshots_damaged_a_broker_is_quarantined_and_gets_the_state_from_the_leader():
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        victim, _ = rig.followers()
        rig.stop(victim)
        for path in snapshots_of(victim):
            victim.disk.flip_bit(path, 6_000)
        rig.start(victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        assert len(rig.events("snapshot_damaged", victim.name)) == 2
        assert len(rig.events("log_damaged", victim.name)) == 1
        assert installs(rig, victim) == 1
        rig.heal()


def test_a_single_broker_without_a_snapshot_to_begin_with_refuses_to_run_until_it_has_one_back():
    """It names what is damaged and what can be done, however often it is started, and leaves the log as it is: with a
    copy of one of the files it runs again, and has everything."""
    with rig_of(brokers=1) as rig:
        (broker,) = rig.brokers.values()
        compacted(rig, broker)
        rig.stop(broker)
        copies = {path: broker.disk.read(path) for path in snapshots_of(broker)}
        log = [broker.disk.read(path) for path, _ in broker.segments()]
        for path in copies:
            broker.disk.flip_bit(path, 6_000)
        for starts in range(1, 4):
            broker.exits.clear()
            rig.start(broker)
            rig.until(lambda: broker.exits)
            assert broker.exits == [EXIT_OPERATOR]
            said = broker.ends[-1].message
            assert broker.ends[-1].type == "BrokerRefused" and "\n" not in said
            assert all(f"{path}.damaged" in said for path in copies)
            assert "there is no other broker to get the state from" in said
            assert "put a copy of one of these back, without the ending .damaged" in said
            assert len(rig.events("snapshot_damaged")) == len(copies), f"said once, not {starts} times"
        assert [broker.disk.read(path) for path, _ in broker.segments()] == log
        path, data = max(copies.items())
        broker.disk.mount(pid=-1).open(path, create=True).pwrite((data,), 0)
        rig.start(broker)
        rig.heal()


def test_a_single_broker_whose_snapshots_are_gone_says_where_the_log_begins():
    with rig_of(brokers=1) as rig:
        (broker,) = rig.brokers.values()
        compacted(rig, broker)
        rig.stop(broker)
        first = broker.peer.wal.first_index
        for path in snapshots_of(broker):
            broker.disk.mount(pid=-1).remove(path)
        broker.exits.clear()
        rig.start(broker)
        rig.until(lambda: broker.exits)
        assert broker.exits == [EXIT_OPERATOR]
        said = broker.ends[-1].message
        assert f"no snapshot is in 'data', and the log begins with entry {first}" in said
        assert "put back a copy of the whole directory" in said


def test_with_a_segment_behind_the_snapshot_damaged_the_state_comes_back_from_the_leader():
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        victim, _ = rig.followers()
        rig.stop(victim)
        victim.flip_vouched()
        rig.start(victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.heal()


def test_a_snapshot_of_a_newer_version_is_not_touched_and_the_broker_says_why(monkeypatch):
    with rig_of(brokers=1) as rig:
        (broker,) = rig.brokers.values()
        compacted(rig, broker)
        rig.stop(broker)
        before = {path: broker.disk.read(path) for path in snapshots_of(broker)}
        monkeypatch.setattr(snapshot_format, "SNAPSHOT_VERSION", 0)
        rig.start(broker)
        rig.until(lambda: broker.exits[-1:] == [EXIT_OPERATOR])
        assert "start the newer version" in broker.ends[-1].message
        assert {path: broker.disk.read(path) for path in snapshots_of(broker)} == before
        monkeypatch.undo()
        rig.start(broker)
        rig.heal()


# -- damage while it runs ---------------------------------------------------------------------------------------------


def test_a_snapshot_that_rots_while_the_broker_runs_does_not_end_compaction():
    """The compactor finds it; the older one and the log behind it are what the next one begins with."""
    with rig_of(brokers=1) as rig:
        (broker,) = rig.brokers.values()
        compacted(rig, broker)
        broker.disk.flip_bit(snapshots_of(broker)[-1], 6_000)
        count = rig.snapshots
        fill(rig, 2)
        rig.until(lambda: rig.snapshots > count, "the next snapshot")
        (event,) = rig.events("snapshot_damaged")
        assert "BaseDamaged" in str(event["reason"])
        rig.stop(broker)
        rig.start(broker)
        rig.heal()


def test_a_broker_that_has_no_start_left_ends_while_the_others_have_the_state():
    with rig_of() as rig:
        compacted(rig, *rig.brokers.values())
        victim, _ = rig.followers()
        for path in snapshots_of(victim):
            victim.disk.flip_bit(path, 6_000)
        for _ in range(8):
            if not victim.alive:
                break
            fill(rig, 1)
            rig.settle(4 * SECOND)
        assert "no snapshot is left" in victim.ends[-1].message
        rig.start(victim)
        rig.until(lambda: rig.events("quarantine_lifted", victim.name))
        rig.heal()


# -- transfers --------------------------------------------------------------------------------------------------------


@MODES
def test_a_follower_that_was_away_gets_the_snapshot_once_and_the_log_behind_it(mode, monkeypatch):
    with rig_of(mode=mode) as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        terms = leader.core.term
        rig.start(victim)
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1
        assert watch.chunks == list(range(len(watch.chunks)))
        assert len(watch.chunks) > 2
        assert len(rig.events("snapshot_sent")) == 1
        assert leader.core.term == terms, "no election"
        rig.heal()
        rig.stop(victim)
        rig.start(victim)
        rig.heal()
        assert installs(rig, victim) == 1


def test_every_chunk_may_be_lost_once(monkeypatch):
    """The sender hears nothing for a while, offers the file again, and goes on with what is missing."""
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        lost: set[int] = set()

        def lose_once(chunk: SnapshotChunk) -> SnapshotChunk | None:
            if chunk.number in lost:
                return chunk
            lost.add(chunk.number)
            return None

        watch.spoil = lose_once
        term = leader.core.term
        rig.start(victim)
        rig.until(lambda: installs(rig, victim) or rig.world.now > 600 * SECOND)
        for _ in range(8):
            if not installs(rig, victim):
                rig.settle(30 * SECOND)
        assert installs(rig, victim) == 1
        assert max(watch.chunks.count(number) for number in set(watch.chunks)) <= 2 + snapshot_sender.WINDOW_CHUNKS
        caught_up(rig, leader, victim)
        assert leader.core.term == term
        rig.heal()


@pytest.mark.parametrize("after", [1, 2])
def test_a_transfer_goes_on_where_the_link_broke(monkeypatch, after):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)

        def cut(chunk: SnapshotChunk) -> SnapshotChunk:
            if len(watch.chunks) == after:
                rig.world.after(0, lambda: rig.world.network.break_links(leader.name, victim.name))
            return chunk

        watch.spoil = cut
        rig.start(victim)
        caught_up(rig, leader, victim)
        assert watch.offers == 2
        assert installs(rig, victim) == 1
        assert [number for number in range(after) if watch.chunks.count(number) > 1] == []
        rig.heal()


def test_a_transfer_goes_on_where_the_follower_restarted(monkeypatch):
    with rig_of() as rig:
        # It dies when two chunks are written; they are still there.
        leader, victim, watch = interrupted(rig, monkeypatch, chunks=3)
        had = len(watch.chunks)
        rig.start(victim)
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1
        assert watch.chunks[had] > 0, "what was there was not sent again"
        rig.heal()


def test_a_transfer_from_a_leader_that_is_gone_is_followed_by_one_of_the_next_leader(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        rig.start(victim)
        rig.until(lambda: watch.chunks)
        rig.stop(leader)
        other = next(broker for broker in rig.brokers.values() if broker not in (leader, victim))
        rig.until(lambda: installs(rig, victim))
        caught_up(rig, other, victim)
        rig.start(leader)
        rig.heal()
        assert installs(rig, victim) <= 2


def test_a_damaged_chunk_is_refused_and_the_transfer_starts_again_later(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        spoiled: list[int] = []

        def spoil_second(chunk: SnapshotChunk) -> SnapshotChunk:
            if chunk.number != 1 or spoiled:
                return chunk
            spoiled.append(rig.world.now)
            data = bytearray(chunk.data)
            data[100] ^= 1
            return SnapshotChunk(chunk.index, chunk.number, bytes(data))

        watch.spoil = spoil_second
        rig.start(victim)
        caught_up(rig, leader, victim)
        (refusal,) = rig.events("snapshot_refused", victim.name)
        assert refusal["index"]
        (event,) = rig.events("snapshot_not_sent")
        assert event["reason"] == refusal["reason"]
        assert watch.offers == 2
        assert installs(rig, victim) == 1
        rig.heal()


def test_a_follower_that_refuses_again_and_again_is_not_asked_at_every_heartbeat(monkeypatch):
    with rig_of() as rig:
        _, victim = left_behind(rig)
        watch = Watch(monkeypatch, victim.name)
        watch.spoil = lambda chunk: SnapshotChunk(chunk.index, chunk.number, b"nonsense")
        rig.start(victim)
        rig.settle(30 * SECOND)
        assert 3 <= watch.offers <= 7
        watch.spoil = lambda chunk: chunk
        rig.heal()


def test_a_leader_whose_newest_snapshot_rots_sends_the_older_one(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        newest = snapshots_of(leader)[-1]
        leader.disk.flip_bit(newest, 3 * 1024 * 1024)
        rig.start(victim)
        caught_up(rig, leader, victim)
        assert len(rig.events("snapshot_damaged", leader.name)) == 1
        (installed,) = rig.events("snapshot_installed", victim.name)
        assert f"{installed['index']:016d}" not in newest
        rig.heal()


def test_a_follower_goes_on_answering_heartbeats_while_it_restores_a_state(monkeypatch):
    """Restoring takes longer than an election timeout here; nobody stands, and the leader hears from it throughout."""
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        restore = SnapshotArrivals._restore
        silences: list[bool] = []

        def slow(arrivals: SnapshotArrivals, *arguments: Any) -> None:
            later = arrivals._context.callback(partial(restore, arrivals, *arguments))
            clock = arrivals._context.clock
            clock.call_at(clock.now() + 200 * MILLISECOND, later)
            silences.append(rig.seen_by(leader, victim).recent_active)

        monkeypatch.setattr(SnapshotArrivals, "_restore", slow)
        term = leader.core.term
        rig.start(victim)
        began = rig.world.now
        caught_up(rig, leader, victim)
        assert len(silences) > 10
        assert rig.world.now - began > 3 * SECOND
        assert silences.count(False) <= 2, "it is marked anew once in an election timeout"
        assert leader.core.term == victim.core.term == term
        rig.heal()


def test_an_acknowledgement_of_a_snapshot_that_is_lost_does_not_stop_replication():
    """The leader's core waits for it; the shell's word makes it ask."""
    with rig_of(mode="thread") as rig:
        leader, victim = left_behind(rig)

        def cut(process: str, name: str, fields: dict[str, object]) -> None:
            if name == "snapshot_sent" and process == leader.name:
                # What the follower says once its log is restarted does not arrive; the link stays as it is.
                rig.world.network.lose(victim.name, leader.name, 1_000_000)
                rig.world.after(400 * MILLISECOND, lambda: rig.world.network.lose(victim.name, leader.name, 0))

        victim.process.machine.disk_slowness = 200
        rig.world.on_log.append(cut)
        rig.start(victim)
        caught_up(rig, leader, victim)
        victim.process.machine.disk_slowness = 1
        rig.heal()
        assert installs(rig, victim) == 1


class Replay:
    """Offers that a follower got, to be said again; and what the leader hears then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offers: list[tuple[int, SnapshotOffer]] = []
        self.wants: list[SnapshotWant] = []
        heard, wants = Snapshots.heard, SnapshotSender.wants

        def keep_offers(snapshots: Snapshots, node_id: int, message: msgspec.Struct) -> None:
            if isinstance(message, SnapshotOffer):
                self.offers.append((node_id, message))
            heard(snapshots, node_id, message)

        def keep_wants(sender: SnapshotSender, node_id: int, want: SnapshotWant) -> None:
            self.wants.append(want)
            wants(sender, node_id, want)

        monkeypatch.setattr(Snapshots, "heard", keep_offers)
        monkeypatch.setattr(SnapshotSender, "wants", keep_wants)

    def again(self, rig: RecoveryRig, follower: Broker, offer: SnapshotOffer) -> list[SnapshotWant]:
        """What comes of it."""
        self.wants.clear()
        loop, peer, (node_id, _) = follower.process.loop, follower.peer, self.offers[0]
        assert loop is not None and peer is not None
        loop.deliver(lambda _: peer.snapshots.heard(node_id, offer), None)
        rig.settle()
        return self.wants


def test_an_offer_that_is_not_needed_is_answered_by_the_core(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        replay = Replay(monkeypatch)
        rig.start(victim)
        caught_up(rig, leader, victim)
        (want,) = replay.again(rig, victim, replay.offers[0][1])
        assert want.chunk > 1 << 20
        assert installs(rig, victim) == 1
        rig.heal()


def test_an_offer_of_an_earlier_term_or_with_a_message_of_another_snapshot_is_not_answered(monkeypatch):
    with rig_of() as rig:
        leader, victim = left_behind(rig)
        replay = Replay(monkeypatch)
        rig.start(victim)
        caught_up(rig, leader, victim)
        offer = replay.offers[0][1]
        header = snapshot_format.encode_header(SnapshotMeta(1 << 40, 1, 1, 0, 0, b"", ()))
        assert replay.again(rig, victim, SnapshotOffer(header, offer.footer, offer.message)) == []
        assert "message is of entry" in str(rig.events("snapshot_refused", victim.name)[-1]["reason"])
        assert replay.again(rig, victim, SnapshotOffer(b"nonsense", offer.footer, offer.message)) == []
        rig.stop(leader)
        rig.until(lambda: rig.leading() is not None and rig.leader.core.term > leader.core.term)
        rig.start(leader)
        rig.heal()
        if not victim.leads:
            assert replay.again(rig, victim, offer) == []
        assert installs(rig, victim) == 1


# -- transfers that nobody goes on with ------------------------------------------------------------------------------


def test_a_transfer_that_was_left_does_not_keep_a_broker_from_compacting(monkeypatch):
    """Its leader is gone, and the next one has the log: no offer comes any more."""
    with rig_of(compaction=replace(EAGER, pinned_bytes_max=1 << 40)) as rig:
        rig.submit(5)
        leader, (victim, _) = rig.leader, rig.followers()
        rig.stop(victim)
        fill(rig, 2)
        rig.start(victim)
        rig.until(lambda: victim.has_begun)
        offer = made_up_offer(leader)
        loop = victim.process.loop
        assert loop is not None and victim.peer is not None
        number = list(rig.brokers).index(leader.name) + 1
        message = Message(MessageType.SNAPSHOT, victim.core.id, number, leader.core.term)
        loop.deliver(lambda _: victim.peer.snapshots._arrivals.offered(number, offer, message, 1 << 40), None)
        rig.until(lambda: rig.events("snapshot_arriving", victim.name))
        before = len(rig.events("snapshot_written", victim.name))
        rig.settle(40 * SECOND)
        (event,) = rig.events("snapshot_refused", victim.name)
        assert "nothing came" in str(event["reason"])
        fill(rig, 2)
        rig.until(lambda: len(rig.events("snapshot_written", victim.name)) > before)
        rig.heal()


# -- what followers keep a log for ------------------------------------------------------------------------------------


def test_a_follower_that_is_gone_for_good_does_not_cost_another_one_the_log():
    """What one may pin is judged for each: beyond its limit only that one gets the snapshot."""
    pins = replace(EAGER, pinned_bytes_max=4 * 1024 * 1024)
    with rig_of(brokers=5, compaction=pins) as rig:
        rig.submit(5)
        leader, (gone, late, *_) = rig.leader, rig.followers()
        rig.stop(gone)
        for _ in range(8):
            fill(rig, 1)
            rig.settle(3 * SECOND)
        assert leader.core.log.first_index > rig.seen_by(leader, gone).match + 1
        rig.stop(late)
        for _ in range(3):
            fill(rig, 1)
            rig.settle(3 * SECOND)
        rig.start(late)
        caught_up(rig, leader, late)
        assert installs(rig, late) == 0
        rig.start(gone)
        rig.heal()
        assert installs(rig, gone) == 1


def test_a_log_that_a_snapshot_on_its_way_goes_on_with_is_kept(monkeypatch):
    """Else a transfer that takes longer than two compactions would end where no log begins."""
    pins = replace(EAGER, pinned_bytes_max=32 * 1024 * 1024)
    with rig_of(compaction=replace(pins, pinned_bytes_max=0)) as rig:
        leader, victim = left_behind(rig)
        assert leader.peer is not None
        leader.peer.snapshots._limits = pins
        monkeypatch.setattr(snapshot_sender, "RATE_BYTES", 400 * 1024)
        rig.start(victim)
        rig.until(lambda: rig.events("snapshot_arriving", victim.name))
        written = len(rig.events("snapshot_written", leader.name))
        for _ in range(4):
            fill(rig, 1)
            rig.settle(2 * SECOND)
        assert len(rig.events("snapshot_written", leader.name)) >= written + 3
        caught_up(rig, leader, victim)
        assert installs(rig, victim) == 1
        rig.heal()
