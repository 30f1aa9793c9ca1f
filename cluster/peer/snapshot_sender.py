"""The giving side of a snapshot transfer: a follower that is too far behind for the log gets the leader's file, and a
broker that would soon make one gets a *copy* of what another has just made.

A few chunks are under way at a time, on the bulk channel, and no more per second than the limit says, so heartbeats and
appends to the others go on. The other side says which chunk it wants next; it may begin in the middle, with what it has
from a transfer that was interrupted. Of a copy the core knows nothing. Else the follower tells the core's message to
its own core when it has the whole file, so the leader's core mostly hears of the end as of any acknowledgement; but
that one may get lost, so the end is reported as well, and the core asks.

A broker that refuses (a chunk was damaged on the way, its disk is full) is left alone for a while. What this broker
cannot read of its own file is damage, and told to the owner of the file.
"""

from collections.abc import Callable
from dataclasses import dataclass

from actors import MILLISECOND, SECOND, Context, Nanos
from cluster.peer.links import BrokerLinks
from cluster.storage.errors import SnapshotDamaged
from cluster.storage.snapshots import SnapshotFile
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant

WINDOW_CHUNKS = 4
RATE_BYTES = 128 * 1024 * 1024      # per second and follower
COPY_RATE_BYTES = 16 * 1024 * 1024  # nobody waits for a copy, and what it writes must not hold up the log's syncs
SILENCE_MAX = 15 * SECOND           # of the follower: it is restoring a large state, or it is gone
CONGESTED_RETRY = 20 * MILLISECOND
REFUSED_PAUSE = 5 * SECOND          # before a follower that refused is offered something again


@dataclass(slots=True, eq=False)
class Transfer:
    """One file on its way. `wanted` is the follower's word, `next` the next chunk to be read and sent."""

    node_id: int
    file: SnapshotFile
    heard: Nanos
    is_copy: bool
    wanted: int = -1                # nothing heard yet
    next: int = 0
    not_before: Nanos = 0           # of the next chunk: until then the rate is used up
    reading: bool = False


class SnapshotSender:
    """At most one transfer per follower. `newest()` opens the snapshot to send; `ended(node_id, ok)` is told of the end
    of each transfer for the core, and whether the follower has it all; `damaged(index, reason)` of a file that cannot
    be read."""

    def __init__(
        self,
        context: Context,
        links: BrokerLinks,
        newest: Callable[[], SnapshotFile | None],
        ended: Callable[[int, bool], None],
        damaged: Callable[[int, str], None],
    ) -> None:
        self._context = context
        self._links = links
        self._newest = newest
        self._ended = ended
        self._damaged = damaged
        self._transfers: dict[int, Transfer] = {}
        self._not_before: dict[int, Nanos] = {}     # of followers that refused

    @property
    def is_busy(self) -> bool:
        return bool(self._transfers)

    def start(self, node_id: int, index: int, message: bytes) -> None:
        """Offers the snapshot of entry `index`, for which the core has made `message`; one that is under way goes
        on."""
        running = self._transfers.get(node_id)
        if running is not None and running.file.meta.index == index and not running.is_copy:
            return
        self.stop(node_id)
        if not self._offer(node_id, index, message):
            self._ended(node_id, False)
            return
        size = self._transfers[node_id].file.size
        self._context.log.event("snapshot_offered", to=self._links.name(node_id), index=index, size=size)

    def copy(self, node_id: int, index: int) -> None:
        """Offers a copy of the snapshot of entry `index`, unless something is on its way already."""
        if node_id not in self._transfers:
            self._offer(node_id, index, b"")

    def _offer(self, node_id: int, index: int, message: bytes) -> bool:
        is_too_soon = self._context.clock.now() < self._not_before.get(node_id, 0)
        file = None if is_too_soon else self._newest()
        if file is None or file.meta.index != index:
            if file is not None:
                file.close()
            return False
        transfer = Transfer(node_id, file, self._context.clock.now(), is_copy=not message)
        self._transfers[node_id] = transfer
        self._links.send(node_id, SnapshotOffer(file.header, file.footer, message))
        self._watch(transfer)
        return True

    def wants(self, node_id: int, want: SnapshotWant) -> None:
        """The follower's answer."""
        transfer = self._transfers.get(node_id)
        if transfer is None or (transfer.file.meta.index, transfer.is_copy) != (want.index, want.is_copy):
            return
        transfer.heard = self._context.clock.now()
        if want.refused:
            self._not_before[node_id] = transfer.heard + REFUSED_PAUSE
            self._give_up(transfer, want.refused)
        elif want.chunk >= transfer.file.chunk_count:
            self.stop(node_id)
            if not transfer.is_copy:
                self._context.log.event("snapshot_sent", to=self._links.name(node_id), index=want.index)
                self._ended(node_id, True)
        else:
            if transfer.wanted < 0:
                transfer.next = want.chunk
            transfer.wanted = max(transfer.wanted, want.chunk)
            self._pump(transfer)

    def stop(self, node_id: int) -> bool:
        """True if something for the core was on its way to that follower."""
        transfer = self._transfers.pop(node_id, None)
        if transfer is None:
            return False
        transfer.file.close()
        return not transfer.is_copy

    def stop_all(self) -> None:
        for node_id in list(self._transfers):
            self.stop(node_id)

    def deposed(self) -> None:
        """This broker does not lead any more. Copies go on."""
        for node_id, transfer in list(self._transfers.items()):
            if not transfer.is_copy:
                self.stop(node_id)

    def _pump(self, transfer: Transfer) -> None:
        """Reads the next chunk if the window and the rate allow one."""
        if transfer.reading or self._transfers.get(transfer.node_id) is not transfer:
            return
        if not 0 <= transfer.next < min(transfer.wanted + WINDOW_CHUNKS, transfer.file.chunk_count):
            return
        now = self._context.clock.now()
        if now < transfer.not_before:
            self._later(transfer, transfer.not_before - now)
            return
        transfer.reading = True
        number = transfer.next
        done = self._context.callback(lambda outcome: self._read(transfer, number, outcome))
        self._context.files.submit(lambda: transfer.file.chunk(number), done, background=True)

    def _read(self, transfer: Transfer, number: int, outcome: bytes | BaseException) -> None:
        transfer.reading = False
        if self._transfers.get(transfer.node_id) is not transfer:
            return
        if isinstance(outcome, BaseException):
            self._give_up(transfer, f"chunk {number} cannot be read: {outcome}")
            if isinstance(outcome, SnapshotDamaged):
                self._damaged(transfer.file.meta.index, str(outcome))
            return
        if not self._links.send_bulk(transfer.node_id, SnapshotChunk(transfer.file.meta.index, number, outcome)):
            self._later(transfer, CONGESTED_RETRY)
            return
        transfer.next = number + 1
        now = self._context.clock.now()
        rate = COPY_RATE_BYTES if transfer.is_copy else RATE_BYTES
        transfer.not_before = max(now, transfer.not_before) + len(outcome) * SECOND // rate
        self._pump(transfer)

    def _later(self, transfer: Transfer, wait: Nanos) -> None:
        self._context.timer(("snapshot chunk", transfer.node_id), wait, lambda: self._pump(transfer))

    def _watch(self, transfer: Transfer) -> None:
        if self._transfers.get(transfer.node_id) is not transfer:
            return
        left = transfer.heard + SILENCE_MAX - self._context.clock.now()
        if left <= 0:
            self._give_up(transfer, "nothing was heard of it for too long")
        else:
            self._context.timer(("snapshot", transfer.node_id), left, lambda: self._watch(transfer))

    def _give_up(self, transfer: Transfer, reason: str) -> None:
        self._context.log.event(
            "snapshot_not_sent", to=self._links.name(transfer.node_id), index=transfer.file.meta.index, reason=reason
        )
        self.stop(transfer.node_id)
        if not transfer.is_copy:
            self._ended(transfer.node_id, False)
