"""The write-ahead log of one node: what Raft must not forget, in the order in which it happened.

The problem: term, vote and entries must be on the disk before anybody is told of them, with one sync for all
that a turn of the loop produced, and after any crash the log must know which of its bytes it may trust. The
idea: one sequence of frames over a chain of files. A frame carries entries, term and vote, the truncation
that it implies, and the highest frame number that was durable when it was written; the last of these lets
recovery tell a torn write from lost data (`scan`). The log is only ever appended to: a truncation is a number
in a later frame. What a snapshot stands for leaves at the front, whole files at a time (`compact`), or all of it
(`restart`); the header says where the log begins before a file goes.

Cost: a turn is one gathered write and one fdatasync whatever it holds. An index of 20 bytes per frame stays
in memory. Every start reads the whole log and copies its last segment, if there is room.

Inline or in a thread (`syncing`): one job is under way at a time, and what is appended meanwhile goes into the
next one, all turns together. Both ways write the same bytes in the same order.

Rejected: LMDB, SQLite and RocksDB (measured slower, and none runs on the simulated disk); hard state in a
file of its own (two files, two syncs, two orders); unlinking a truncated tail (a metadata change where a
number does).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from msgspec import structs

from actors import Clock, FileLock, Files, Nanos
from cluster.raft.messages import Entry, SnapshotMark
from cluster.storage.backlog import Backlog
from cluster.storage.beginning import settle
from cluster.storage.chain import Chain
from cluster.storage.errors import WalFailed
from cluster.storage.evidence import quarantine_because
from cluster.storage.header import LogStart, Meta
from cluster.storage.pieces import Piece
from cluster.storage.plan import FramePlanner, Plan, Restart, Stretch, Write
from cluster.storage.recovery import Recovery, recovery_of, repair
from cluster.storage.repaired import Repaired
from cluster.storage.scan import NodeIdentity, Scan, scan_directory
from cluster.storage.segment import LOCK_NAME, Guard, WalLimits, make_durable_directory, unguarded
from cluster.storage.spares import Spares
from cluster.storage.syncing import SLOW, Syncing, probe_sync
from cluster.storage.writer import LARGE_BYTES, SMALL_BYTES, Batch, SegmentWriter

DEFAULT_LIMITS = WalLimits()


class Wal:
    """See `Wal.open`. Not for several threads: everything is called on the loop, callbacks run on it."""

    def __init__(
        self, files: Files, directory: str, lock: FileLock, guard: Guard, clock: Clock, syncing: Syncing
    ) -> None:
        self.syncing = syncing
        self.on_persisted: Callable[[int], None] = _ignore
        self.on_failed: Callable[[WalFailed], None] = _ignore
        self.on_room: Callable[[bool], None] = _ignore  # `lacks_room` has become this
        self._files = files
        self._directory = directory
        self._lock = lock
        self._now = clock.now
        self._backlog = Backlog()
        self._last_write_id = 0
        self._in_flight: Batch | None = None
        self._failure: WalFailed | None = None
        self._closed = False
        self._job_done = guard(self._job_ended)

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
        restore: Callable[[], SnapshotMark | None] | None = None,
        has_others: bool = True,
    ) -> tuple["Wal", Recovery]:
        """Locks the directory, recovers the log and makes it ready to be written. Blocking.

        `salt` gives 64 random bits. `on_persisted(write_id)` is called once for each append, in order, when
        it is durable; `on_failed` when a write or sync off the loop has failed. `guard` is put around what
        runs on the loop when a job has ended: an error there must end the owner, not be lost in the loop.
        `restore` is called under the lock, before the log is read: it loads a snapshot and says of which entry it
        is; the log goes on behind it (`beginning`). Without others to get the state from, a log that cannot begin
        there is left as it is. Raises `actors.errors.Locked`, ForeignDirectory, UnsupportedVersion, NoBeginning, what
        `restore` raises, and OSError if the directory cannot be read or written.
        """
        make_durable_directory(files, directory)
        lock = files.lock(f"{directory}/{LOCK_NAME}")
        try:
            mark = restore() if restore is not None else None
            scan = scan_directory(files, directory, identity)
            settle(scan, mark, has_others=has_others)
            repaired = repair(files, directory, scan, identity, limits, salt)
            p50_ns = 0
            if sync_mode == "auto":
                position = repaired.position - len(repaired.marker)
                p50_ns = probe_sync(clock, repaired.file, position, repaired.marker, limits)
                sync_mode = "thread" if p50_ns > limits.thread_above_ns else "inline"
            wal = cls(files, directory, lock, guard, clock, Syncing(clock, sync_mode, p50_ns))
            wal._begin(scan, repaired, limits, salt, guard)
        except Exception:
            lock.release()
            raise
        wal.on_persisted = on_persisted or _ignore
        wal.on_failed = on_failed or _ignore
        wal._spares.prepare()    # not before the probe: it would measure a disk that is being filled
        return wal, recovery_of(scan, wal.meta)

    def _begin(self, scan: Scan, repaired: Repaired, limits: WalLimits, salt: Callable[[], int], guard: Guard) -> None:
        header = repaired.header
        self._meta = header.meta
        self._durable_meta = header.meta
        self._chain = Chain(self._files, self._directory, scan.index, repaired.segments, limits.read_bytes_max)
        self._writer = SegmentWriter(self._files, self._directory, repaired.file, header)
        self._spares = Spares(
            self._files,
            self._directory,
            limits,
            repaired.spares,
            repaired.next_number,
            guard,
            self._spares_changed,
        )
        self._lacked_room = False  # as `on_room` was told
        # The segment that is being written: it was begun without a spare.
        self._is_unprepared = repaired.file.size() < limits.segment_bytes
        self._planner = FramePlanner(
            number=header.number,
            salt=header.salt,
            offset=repaired.position,
            seq=repaired.next_seq - 1,
            hard_state=scan.hard_state,
            last_index=scan.index.last_index,
            segment_bytes=limits.segment_bytes,
            new_number=self._spares.new_number,
            new_salt=salt,
        )

    # What is durable

    @property
    def first_index(self) -> int:
        return self._chain.index.first_index

    @property
    def last_index(self) -> int:
        """Of the durable log."""
        return self._chain.index.last_index

    def term(self, index: int) -> int:
        """The term of a durable entry, or of the one before the first (0 if there never was one)."""
        return self._chain.index.term(index)

    def read(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Durable entries `low <= index < high`, at least one, then as many as `max_bytes` of records hold.

        Blocking (pread). Raises DamagedRead: stop the process, the next start finds the damage.
        """
        return self._chain.read(low, high, max_bytes)

    def pieces(self, low: int, high: int) -> list[Piece]:
        """Where durable entries `low <= index < high` lie, for another process to read (`pieces.read_pieces`)."""
        return self._chain.pieces(low, high)

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
        """Queues a write: hard state, entries from `truncate_from` on become void (0: none), then `entries` follow.

        `write_id` rises. Nothing is written before `flush`.
        """
        assert write_id > self._last_write_id
        if self._failure is not None:
            raise self._failure
        self._last_write_id = write_id
        self._backlog.add(Write(write_id, term, vote, commit, truncate_from, entries), self._now)

    def flush(self) -> None:
        """Makes what is queued durable with one sync: before it returns, or soon, by a job.

        Raises WalFailed; once failed, always.
        """
        if self._failure is not None:
            raise self._failure
        assert not self._closed
        if self._in_flight is None and not self._backlog.is_empty:
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

        Like every change of the header it is durable when `done` is called: before this returns, or later.
        """
        assert cluster_id
        assert self._meta.cluster_id in (b"", cluster_id), "a formed cluster keeps its id"
        mark = self._meta.quarantine or (quarantine_because(quarantine) if quarantine else None)
        self._change(structs.replace(self._meta, cluster_id=cluster_id, voters=tuple(voters), quarantine=mark), done)

    def quarantine(self, reason: str, *, done: Callable[[], None] | None = None) -> None:
        """Marks this log as one that may lack what it acknowledged. An earlier mark with its evidence stays."""
        mark = self._meta.quarantine or quarantine_because(reason)
        self._change(structs.replace(self._meta, quarantine=mark), done)

    def lift_quarantine(self, *, done: Callable[[], None] | None = None) -> None:
        """The log has caught up with what was committed without it."""
        self._change(structs.replace(self._meta, quarantine=None), done)

    # Making room

    def compact(self, index: int) -> None:
        """Entries up to `index` are in every snapshot that is kept: segments at the front that hold no others leave
        the log. `first_index` follows at once; the files go off the loop, once the header says where the log begins.

        A crash in between leaves files that the next start clears away. Raises WalFailed.
        """
        in_flight = self._in_flight
        if self._backlog.has_restart or (in_flight is not None and in_flight.restart is not None):
            return  # all of them leave
        left = self._chain.compact(index)
        if left is not None:
            start, dropped = left
            self._change(structs.replace(self._meta, start=start), lambda: self._spares.retire(dropped))

    def restart(self, index: int, term: int, done: Callable[[], None] | None = None) -> None:
        """A snapshot of entry (index, term) was installed: what was appended before is void, and the log goes on
        behind that entry. Hard state and meta stay.

        In order with appends before and after it, and like a change of the header durable when `done` is called.
        Raises WalFailed.
        """
        assert index > 0
        self._backlog.add(Restart(index, term, done), self._now)
        self._begin_writing()

    def oldest_pending_ns(self, now: Nanos) -> Nanos:
        """For how long the oldest append has been waiting to be durable; 0 between turns if none is left to a job."""
        if self._in_flight is not None and (self._in_flight.writes or self._in_flight.restart):
            return now - self._in_flight.since
        return now - self._backlog.since if self._backlog.has_steps else 0

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or under way: all that was appended is durable, or the log has failed."""
        return self._in_flight is None and self._backlog.is_empty

    @property
    def lacks_room(self) -> bool:
        """The disk has none for another segment: what is left of this one is the last that can be written."""
        return self._spares.lacks_room

    def keep_free(self, size_bytes: int) -> None:
        """So much of the disk is for others to fill: rather than take it for a spare, the log lacks room."""
        self._spares.keep_free_bytes = size_bytes

    def seek_room(self) -> None:
        """Tries to prepare a spare, if there is none. A full disk says nothing when it is full no more."""
        if self._failure is None:
            self._spares.prepare()

    @property
    def is_growing(self) -> bool:
        """What is written now needs new room: there was no spare for it, or a frame is larger than a segment."""
        return self._is_unprepared or self._planner.outgrows_segment

    @property
    def has_old_segments(self) -> bool:
        """Beside the one that is being written: a snapshot of now would let them leave."""
        return len(self._chain.segments) > 1

    def _spares_changed(self) -> None:
        if self._closed:
            return
        if self._is_unprepared and self._spares.has_ready:
            # In a file that grows syncs are slower, and a disk that fills up would meet the log itself.
            self._planner.leave_segment()
        if self.lacks_room != self._lacked_room:
            self._lacked_room = self.lacks_room
            self.on_room(self._lacked_room)

    @property
    def is_preparing(self) -> bool:
        """A spare segment is being filled, off the loop."""
        return self._spares.is_filling

    @property
    def unprepared_rolls(self) -> int:
        """Segments that were begun without a spare at hand."""
        return self._spares.unprepared_rolls

    def close(self) -> None:
        """Gives the directory up: when a write that is under way has ended, and every job in the background that was
        submitted until then. What is queued is not written. Like any quiet moment the end is marked: nothing else will
        vouch for the last frame while nobody runs."""
        self._closed = True
        self._spares.stop()
        self._release_when_idle()

    def _release_when_idle(self) -> None:
        if not self._closed or self._in_flight is not None:
            return
        planner = self._planner
        # The planner runs ahead: the segment that it is in may never have been begun.
        is_there = planner.number == self._writer.header.number
        if self._failure is None and is_there and not planner.is_vouched:
            offset, frame = planner.marker()
            with suppress(OSError):     # it would have been a help, no more
                self._writer.file.pwrite((frame,), offset)
        self._chain.close()
        self._writer.file.close()
        # Spares are filled there, segments and snapshots removed, in the directory that a successor is to find settled.
        self._files.submit(self._lock.release, _ignore, background=True)

    def _change(self, meta: Meta, done: Callable[[], None] | None) -> None:
        self._backlog.change(meta, done)
        self._meta = meta
        self._begin_writing()

    def _begin_writing(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert not self._closed
        if self._in_flight is None:
            self._write()

    def _write(self) -> None:
        """Takes what waits and writes it, here or in a job; again if a restart stands in between."""
        assert self._in_flight is None
        batch = self._backlog.take(self._planner)
        if batch.restart is not None:
            start = LogStart(batch.restart.index, batch.restart.term, self._planner.number)
            self._meta = structs.replace(self._meta, start=start)
        goes_on = self._backlog.has_steps
        self._perform(batch)
        if goes_on and self._backlog.has_steps and self._in_flight is None and not self._closed:
            self._write()

    def _perform(self, batch: Batch) -> None:
        self._in_flight = batch
        if batch.is_empty:
            self._finished(batch)
            return
        for stretch in batch.plan.stretches:
            if stretch.begins is not None:
                batch.spares.append(self._spares.take())
                batch.new_meta = self._meta
                self._is_unprepared = batch.spares[-1] is None

        def make_durable() -> Nanos:
            return self._make_durable(batch)

        def is_over(outcome: Nanos | BaseException) -> None:
            self._job_is_over(batch, outcome)

        size = batch.size
        if not self.syncing.is_inline or not batch.is_single or size > LARGE_BYTES:
            self._files.submit(make_durable, is_over)
            return
        try:
            # Where the disk has something to do, a hop to the thread costs little, and one stall of it holds up nobody.
            is_hop_dear = size <= SMALL_BYTES or self.syncing.is_quick
            took = make_durable() if is_hop_dear else self._files.run_for(SLOW, make_durable, is_over)
        except OSError as error:
            raise self._fail(error) from error
        if took is None:
            return      # it goes on off the loop
        self.syncing.took(took)
        self._finished(batch)

    def _make_durable(self, batch: Batch) -> Nanos:
        """Here or in a job; how long its sync took. Of several nothing is to be learnt about one, nor of none."""
        start = self._now()
        self._writer.perform(batch)
        return self._now() - start if batch.is_single and batch.syncs else 0

    def _job_is_over(self, batch: Batch, outcome: Nanos | BaseException) -> None:
        # An owner that has ended hears of nothing any more. The directory is given up all the same.
        (self._job_ended if self._closed else self._job_done)(batch, outcome)

    def _job_ended(self, batch: Batch, outcome: Nanos | BaseException) -> None:
        assert self._in_flight is batch
        if self._closed:
            self._in_flight = None
            if isinstance(outcome, BaseException):
                self._fail(outcome)
            elif batch.syncs_frames:
                self._planner.synced_seq = batch.last_seq
            self._release_when_idle()
        elif isinstance(outcome, BaseException):
            self.on_failed(self._fail(outcome))
        else:
            self.syncing.took(outcome)
            self._finished(batch)
            if self._in_flight is None and not self._closed and not self._backlog.is_empty:
                self._write()

    def _fail(self, cause: BaseException) -> WalFailed:
        self._failure = WalFailed("write or sync", cause)
        self._spares.stop()
        return self._failure

    def _finished(self, batch: Batch) -> None:
        """The batch is durable (a marker: written): the index follows, then those who wait are told."""
        self._in_flight = None
        restart = batch.restart
        if restart is None:
            self._chain.add(batch.plan)
        if batch.syncs_frames:
            self._planner.synced_seq = batch.last_seq
        if batch.header_meta is not None:
            self._durable_meta = batch.header_meta
        if restart is not None:
            assert batch.new_meta is not None
            self._durable_meta = batch.new_meta
            self._spares.retire(self._chain.restart(restart.index, restart.term, batch.new_meta.start.segment))
        if batch.spares:
            self._spares.prepare()
        on_persisted = self.on_persisted
        for write in batch.writes:
            on_persisted(write.write_id)
        for change in batch.changes:
            if change.done is not None:
                change.done()
        if restart is not None and restart.done is not None:
            restart.done()


def _ignore(_: object) -> None:
    return
