"""Brokers that make snapshots at every opportunity, and what goes between them.

States are a few MiB, so that a transfer takes several chunks, and logs are cut soon, so that a follower that was away
needs one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from recovery_rig import Broker, RecoveryRig

from actors import SECOND, Ports
from cluster import Client, task
from cluster.compaction.policy import CompactionLimits
from cluster.peer.snapshots import Snapshots
from cluster.storage.segment import WalLimits
from cluster.storage.snapshots import SnapshotFile, SnapshotMeta, SnapshotWriter
from cluster.wire import SnapshotChunk, SnapshotOffer

WAL = WalLimits(segment_bytes=1024 * 1024, zero_chunk_bytes=512 * 1024, probe_syncs=4)
# A snapshot for each 200 KiB of log, whatever the state's size; no follower keeps a log from being cut.
EAGER = CompactionLimits(
    log_bytes_min=200 * 1024,
    state_factor=0,
    urgent_factor=1_000,
    closed_factor=10_000,
    stagger_ppm_max=0,
    pinned_bytes_max=0,
    silence_max=10 * SECOND,
    retry_min=SECOND,
    retry_max=8 * SECOND,
)
NEVER = replace(EAGER, log_bytes_min=1 << 40)
BODY = "x" * 100_000
MODES = pytest.mark.parametrize("mode", ["inline", "thread"])


@task(name="snapshots:keep")
def keep(text: str) -> None:
    """No worker runs it: it stays in the state."""


def rig_of(seed: int = 0, *, mode: str = "inline", **options: Any) -> RecoveryRig:
    return RecoveryRig(seed, sync_mode=mode, wal=WAL, **{"compaction": EAGER, **options})


def fill(rig: RecoveryRig, mebibytes: int) -> None:
    """So much state, acknowledged."""
    done: list[int] = []

    async def live(ports: Ports) -> None:
        async with Client(rig.plan, lambda: ports, 60.0) as client:
            for _ in range(mebibytes):
                for _ in range(10):
                    rig.acknowledged.add((await client.submit(keep, BODY)).id)
        done.append(1)

    name = f"filler-{len(rig.world.processes)}"
    rig.world.process(name, live)
    rig.until(lambda: done, "the state grows")


def snapshots_of(broker: Broker) -> list[str]:
    return [path for path in broker.disk.paths() if path.endswith(".snap")]


def compacted(rig: RecoveryRig, *brokers: Broker) -> None:
    """Grows the state until these brokers have cut their logs."""
    for _ in range(30):
        if all(broker.peer is not None and broker.peer.wal.first_index > 1 for broker in brokers):
            return
        fill(rig, 1)
        rig.settle(3 * SECOND)
    raise AssertionError("the log was not cut")


def left_behind(rig: RecoveryRig) -> tuple[Broker, Broker]:
    """The leader, and a follower that is down and needs a snapshot."""
    rig.submit(5)
    leader, (victim, other) = rig.leader, rig.followers()
    rig.stop(victim)
    compacted(rig, leader, other)
    # The log goes on behind what the victim has, at both.
    assert victim.peer is not None
    last = victim.peer.wal.last_index
    for _ in range(10):
        if all(broker.peer is not None and broker.peer.wal.first_index > last + 1 for broker in (leader, other)):
            fill(rig, 3)
            rig.settle(5 * SECOND)
            return leader, victim
        fill(rig, 1)
        rig.settle(3 * SECOND)
    raise AssertionError("the log still reaches back")


class Watch:
    """Counts what a follower gets, by chunk, and what its arrivals install; and may lose or change it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
        self.node = node
        self.offers = 0
        self.chunks: list[int] = []
        self.spoil: Callable[[SnapshotChunk], SnapshotChunk | None] = lambda chunk: chunk
        heard = Snapshots.heard

        def watched(snapshots: Snapshots, node_id: int, message: msgspec.Struct) -> None:
            if self.is_mine(snapshots):
                if isinstance(message, SnapshotOffer):
                    self.offers += 1
                if isinstance(message, SnapshotChunk):
                    self.chunks.append(message.number)
                    spoiled = self.spoil(message)
                    if spoiled is None:
                        return
                    message = spoiled
            heard(snapshots, node_id, message)

        monkeypatch.setattr(Snapshots, "heard", watched)

    def is_mine(self, snapshots: Snapshots) -> bool:
        parts = snapshots._parts
        return parts is not None and f"b{parts.core.id}" == self.node


def interrupted(rig: RecoveryRig, monkeypatch: pytest.MonkeyPatch, chunks: int) -> tuple[Broker, Broker, Watch]:
    """The leader, a follower that stopped when it had got so many chunks of a snapshot, and what it got."""
    leader, victim = left_behind(rig)
    watch = Watch(monkeypatch, victim.name)
    rig.start(victim)
    rig.until(lambda: len(watch.chunks) >= chunks)
    rig.stop(victim)
    return leader, victim, watch


def received(broker: Broker) -> list[str]:
    """Files of transfers that are not whole."""
    return [path for path in broker.disk.paths() if path.endswith(".recv")]


def caught_up(rig: RecoveryRig, leader: Broker, victim: Broker) -> None:
    rig.until(lambda: victim.has_begun and victim.is_well and victim.applied >= leader.applied, "it caught up")
    rig.settle()


def installs(rig: RecoveryRig, broker: Broker) -> int:
    return len(rig.events("snapshot_installed", broker.name))


def made_up_offer(leader: Broker) -> SnapshotOffer:
    """Of a file that nobody has."""
    files = leader.disk.mount(pid=-1)
    files.make_dirs("elsewhere")
    writer = SnapshotWriter(files, "elsewhere", SnapshotMeta(1 << 40, 1, 1, 0, 0, b"", ()))
    writer.add(b"x" * 3_000_000)
    writer.finish()
    file = SnapshotFile.open(files, "elsewhere", 1 << 40)
    return SnapshotOffer(file.header, file.footer, b"")
