"""The write-ahead log of one node: what Raft must not forget, in the order in which it happened.

The problem: term, vote and entries must be on the disk before anybody is told of them, with one sync for all
that a turn of the loop produced, and after any crash the log must know which of its bytes it may trust. The
idea: one sequence of frames over a chain of files. A frame carries entries, term and vote, the truncation
that it implies, and the highest frame number that was durable when it was written; the last of these lets
recovery tell a torn write from lost data (`scan`). The log is only ever appended to: a truncation is a number
in a later frame.

Cost: a turn is one gathered write and one fdatasync whatever it holds. An index of 20 bytes per frame stays
in memory. Every start reads the whole log and copies its last segment.

Inline or in a thread: a sync on a fast disk takes less than the hop to a thread and back, so it is made on
the loop; one that takes longer would hold up heartbeats. In thread mode one job is under way at a time, and
what is appended meanwhile goes into the next one, all turns together. Both modes write the same bytes in the
same order.

Rejected: LMDB, SQLite and RocksDB (measured slower, and none runs on the simulated disk); hard state in a
file of its own (two files, two syncs, two orders); unlinking a truncated tail (a metadata change where a
number does).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from msgspec import structs

from actors import Clock, FileLock, Files, Nanos
from cluster.raft.messages import Entry
from cluster.storage.errors import WalFailed
from cluster.storage.header import Meta, Quarantine
from cluster.storage.plan import FramePlanner, Plan, Stretch, Write
from cluster.storage.reader import SegmentReader
from cluster.storage.recovery import Recovery, Repaired, quarantine_of, repair
from cluster.storage.scan import NodeIdentity, Scan, scan_directory
from cluster.storage.segment import (
    LOCK_NAME,
    Guard,
    SparePreparer,
    WalLimits,
    make_durable_directory,
    unguarded,
)
from cluster.storage.writer import Batch, SegmentWriter, probe_sync

SyncMode = Literal["inline", "thread"]

DEFAULT_LIMITS = WalLimits()


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """A new meta block, and whom to tell when it is durable."""

    meta: Meta
    done: Callable[[], None] | None


class Wal:
    """See `Wal.open`. Not for several threads: everything is called on the loop, callbacks run on it."""

    def __init__(
        self,
        files: Files,
        directory: str,
        clock: Clock,
        lock: FileLock,
        limits: WalLimits,
        salt: Callable[[], int],
        guard: Guard,
    ) -> None:
        self.sync_mode: SyncMode = "inline"
        self.sync_p50_ns = 0  # of the probe syncs; 0 if the mode was given
        self.unprepared_rolls = 0  # segments that were begun without a spare at hand
        self.on_persisted: Callable[[int], None] = _ignore
        self.on_failed: Callable[[WalFailed], None] = _ignore
        self._files = files
        self._directory = directory
        self._clock = clock
        self._lock = lock
        self._salt = salt
        self._queue: list[Write] = []
        self._queued_since: Nanos = 0
        self._last_write_id = 0
        self._changes: list[HeaderChange] = []
        self._in_flight: Batch | None = None
        self._failure: WalFailed | None = None
        self._closed = False
        self._next_number = 0
        self._spares: list[int] = []
        self._job_done = guard(self._job_ended)
        self._preparer = SparePreparer(files, directory, limits, self._spare_ready, guard)
        self._reader = SegmentReader(files, directory, limits.read_bytes_max)

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        identity: NodeIdentity,
        *,
        salt: Callable[[], int],
        clock: Clock,
        limits: WalLimits = DEFAULT_LIMITS,
        sync_mode: Literal["auto", "inline", "thread"] = "auto",
        on_persisted: Callable[[int], None] | None = None,
        on_failed: Callable[[WalFailed], None] | None = None,
        guard: Guard = unguarded,
    ) -> tuple["Wal", Recovery]:
        """Locks the directory, recovers the log and makes it ready to be written. Blocking.

        `salt` gives 64 random bits. `on_persisted(write_id)` is called once for each append, in order, when
        it is durable; `on_failed` when a write or sync off the loop has failed. `guard` is put around what
        runs on the loop when a job has ended: an error there must end the owner, not be lost in the loop. Raises
        `actors.errors.Locked`, ForeignDirectory, UnsupportedVersion, and OSError if the directory cannot be
        read or written.
        """
        make_durable_directory(files, directory)
        lock = files.lock(f"{directory}/{LOCK_NAME}")
        try:
            scan = scan_directory(files, directory, identity)
            repaired = repair(files, directory, scan, identity, limits, salt)
            wal = cls(files, directory, clock, lock, limits, salt, guard)
            wal._begin(scan, repaired, limits)
            if sync_mode == "auto":
                position = repaired.position - len(repaired.marker)
                wal.sync_p50_ns = probe_sync(
                    clock,
                    repaired.file,
                    position,
                    repaired.marker,
                    limits.probe_syncs,
                    limits.thread_above_ns,
                )
                sync_mode = "thread" if wal.sync_p50_ns > limits.thread_above_ns else "inline"
        except Exception:
            lock.release()
            raise
        wal.sync_mode = sync_mode
        wal.on_persisted = on_persisted or _ignore
        wal.on_failed = on_failed or _ignore
        wal._prepare_spare()    # not before the probe: it would measure a disk that is being filled
        meta = wal.meta
        recovery = Recovery(
            hard_state=scan.hard_state,
            first_index=wal.first_index,
            last_index=wal.last_index,
            terms=scan.index.terms(),
            cluster_id=meta.cluster_id or None,
            voters=meta.voters,
            quarantine=quarantine_of(scan),
            cut_bytes=scan.cut_bytes,
        )
        return wal, recovery

    def _begin(self, scan: Scan, repaired: Repaired, limits: WalLimits) -> None:
        header = repaired.header
        self._index = scan.index
        self._meta = header.meta
        self._durable_meta = header.meta
        self._writer = SegmentWriter(self._files, self._directory, repaired.file, header)
        self._spares = repaired.spares
        self._next_number = repaired.next_number
        self._planner = FramePlanner(
            number=header.number,
            salt=header.salt,
            offset=repaired.position,
            seq=repaired.next_seq - 1,
            hard_state=scan.hard_state,
            last_index=scan.index.last_index,
            segment_bytes=limits.segment_bytes,
            new_number=self._take_number,
            new_salt=self._salt,
        )

    # What is durable

    @property
    def first_index(self) -> int:
        return self._index.first_index

    @property
    def last_index(self) -> int:
        """Of the durable log."""
        return self._index.last_index

    def term(self, index: int) -> int:
        """The term of a durable entry, `first_index <= index <= last_index`; 0 for index 0."""
        return self._index.term(index)

    def read(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Durable entries `low <= index < high`, at least one, then as many as `max_bytes` of records hold.

        Blocking (pread). Raises DamagedRead: stop the process, the next start finds the damage.
        """
        return self._reader.read(self._index, low, high, max_bytes)

    @property
    def meta(self) -> Meta:
        """Node, cluster, configuration and quarantine as they are on the disk."""
        return self._durable_meta

    @property
    def quarantined(self) -> bool:
        """From the moment that it is asked for until its end is durable."""
        return self._meta.quarantine is not None or self._durable_meta.quarantine is not None

    # Writing

    def append(
        self, write_id: int, term: int, vote: int, commit: int, truncate_from: int, entries: Sequence[Entry]
    ) -> None:
        """Queues a write: hard state, entries from `truncate_from` on become void (0: none), then `entries`
        follow.

        `write_id` rises. Nothing is written before `flush`.
        """
        assert write_id > self._last_write_id
        if self._failure is not None:
            raise self._failure
        if not self._queue and self.sync_mode == "thread":
            self._queued_since = self._clock.now()
        self._last_write_id = write_id
        self._queue.append(Write(write_id, term, vote, commit, truncate_from, entries))

    def flush(self) -> None:
        """Makes what is queued durable with one sync: before it returns (inline), or soon (thread).

        Raises WalFailed; once failed, always.
        """
        if self._failure is not None:
            raise self._failure
        assert not self._closed
        if self._in_flight is None and (self._queue or self._changes):
            self._write()

    def mark(self) -> None:
        """With nothing to write, says on the disk what is durable, if no frame has said so yet. For a quiet moment, a
        tick: while writes follow each other, each vouches for those before it, and a marker after each of them would
        stand between every sync and the answers that wait for it.

        Raises WalFailed.
        """
        if self._failure is not None:
            raise self._failure
        planner = self._planner
        if not planner.is_vouched and self.is_idle and not self._closed:
            offset, frame = planner.marker()
            plan = Plan([Stretch(None, offset, [frame])])
            self._perform(Batch([], [], None, plan, planner.seq, 0, syncs=False))

    def store_formation(
        self,
        cluster_id: bytes,
        voters: Sequence[str],
        *,
        quarantine: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Stores the cluster's id and voters, and in the same step a quarantine if its reason is given; an earlier
        mark with its evidence stays.

        Like every change of the header it is durable when `done` is called: before this returns (inline), or
        later.
        """
        assert cluster_id
        assert self._meta.cluster_id in (b"", cluster_id), "a formed cluster keeps its id"
        mark = self._meta.quarantine or (Quarantine(quarantine) if quarantine else None)
        self._change(
            structs.replace(self._meta, cluster_id=cluster_id, voters=tuple(voters), quarantine=mark), done
        )

    def quarantine(self, reason: str, *, done: Callable[[], None] | None = None) -> None:
        """Marks this log as one that may lack what it acknowledged. An earlier mark with its evidence
        stays."""
        self._change(
            structs.replace(self._meta, quarantine=self._meta.quarantine or Quarantine(reason)), done
        )

    def lift_quarantine(self, *, done: Callable[[], None] | None = None) -> None:
        """The log has caught up with what was committed without it."""
        self._change(structs.replace(self._meta, quarantine=None), done)

    def oldest_pending_ns(self, now: Nanos) -> Nanos:
        """For how long the oldest append has been waiting to be durable; always 0 in inline mode."""
        if self._in_flight is not None and self._in_flight.writes:
            return now - self._in_flight.since
        return now - self._queued_since if self._queue and self.sync_mode == "thread" else 0

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or under way: all that was appended is durable, or the log has failed."""
        return self._in_flight is None and not self._queue and not self._changes

    @property
    def is_preparing(self) -> bool:
        """A spare segment is being filled, off the loop."""
        return self._preparer.is_busy

    def close(self) -> None:
        """Gives the directory up. What is queued is not written; a job under way ends first. Like any quiet moment the
        end is marked: nothing else will vouch for the last frame while nobody runs."""
        self._closed = True
        self._preparer.stop()
        if self._in_flight is None:
            self._release()

    def _release(self) -> None:
        planner = self._planner
        if self._failure is None and not planner.is_vouched:
            offset, frame = planner.marker()
            with suppress(OSError):     # it would have been a help, no more
                self._writer.file.pwrite((frame,), offset)
        self._reader.close()
        self._writer.file.close()
        self._lock.release()

    def _change(self, meta: Meta, done: Callable[[], None] | None) -> None:
        if self._failure is not None:
            raise self._failure
        assert not self._closed
        self._meta = meta
        self._changes.append(HeaderChange(meta, done))
        if self._in_flight is None:
            self._write()

    def _write(self) -> None:
        """Takes everything that waits and writes it, here or in a job."""
        assert self._in_flight is None
        writes, self._queue = self._queue, []
        changes, self._changes = self._changes, []
        header_meta = changes[-1].meta if changes else None
        plan = self._planner.plan(writes) if writes else Plan()
        batch = Batch(writes, changes, header_meta, plan, self._planner.seq, self._queued_since)
        self._perform(batch)

    def _perform(self, batch: Batch) -> None:
        self._in_flight = batch
        if batch.is_empty:
            self._finished(batch)
            return
        for stretch in batch.plan.stretches:
            if stretch.begins is not None:
                batch.spares.append(self._spares.pop(0) if self._spares else None)
                batch.new_meta = self._meta
        if self.sync_mode == "inline":
            try:
                self._writer.perform(batch)
            except OSError as error:
                raise self._fail(error) from error
            self._finished(batch)
        else:
            self._files.submit(
                lambda: self._writer.perform(batch), lambda outcome: self._job_done(batch, outcome)
            )

    def _job_ended(self, batch: Batch, outcome: BaseException | None) -> None:
        assert self._in_flight is batch
        if self._closed:
            self._in_flight = None
            if batch.syncs_frames and not isinstance(outcome, BaseException):
                self._planner.synced_seq = batch.last_seq
            self._release()
        elif isinstance(outcome, BaseException):
            self.on_failed(self._fail(outcome))
        else:
            self._finished(batch)
            if self._in_flight is None and not self._closed and (self._queue or self._changes):
                self._write()

    def _fail(self, cause: BaseException) -> WalFailed:
        self._failure = WalFailed("write or sync", cause)
        self._preparer.stop()
        return self._failure

    def _finished(self, batch: Batch) -> None:
        """The batch is durable (a marker: written): the index follows, then those who wait are told."""
        self._in_flight = None
        for placed in batch.plan.placed:
            if placed.truncate_from:
                self._index.truncate(placed.truncate_from)
            if placed.size:
                self._index.append(
                    placed.segment, placed.offset, placed.size, placed.last_index, placed.terms
                )
        if batch.syncs_frames:
            self._planner.synced_seq = batch.last_seq
        if batch.header_meta is not None:
            self._durable_meta = batch.header_meta
        if batch.spares:
            self.unprepared_rolls += batch.spares.count(None)
            self._prepare_spare()
        on_persisted = self.on_persisted
        for write in batch.writes:
            on_persisted(write.write_id)
        for change in batch.changes:
            if change.done is not None:
                change.done()

    def _take_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def _prepare_spare(self) -> None:
        if not self._spares and not self._preparer.is_busy and not self._closed:
            self._preparer.start(self._take_number())

    def _spare_ready(self, number: int) -> None:
        self._spares.append(number)


def _ignore(_: object) -> None:
    return
