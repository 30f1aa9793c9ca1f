"""The taking side of a snapshot transfer: chunks become a file, the file becomes a state, the core is told. A copy of
what another broker has made ends as a file: this broker has that state already.

Files are written and read by jobs, off the loop; the state is restored a part per turn of the loop. Meanwhile this
broker is one like any other. What was received survives a restart of either side: the next offer of the same
snapshot goes on where the last one ended.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

from actors import SECOND, Context, Nanos
from cluster.peer.shelf import confirm, reading_copy
from cluster.raft.messages import Message
from cluster.state.errors import ImageDamaged, UnreadableState
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.errors import StorageError, is_lack_of_room
from cluster.storage.receiving import SnapshotReceiver
from cluster.storage.segment import require_room
from cluster.storage.snapshot_format import chunk_offset
from cluster.storage.snapshots import SnapshotFile, clear_transfers, remove_snapshot
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant

SILENCE_MAX = 30 * SECOND       # of a leader that offered a file: longer than it waits itself


class Incoming:
    """One snapshot on its way in. Chunks below `received` were taken, those below `written` are in the file."""

    def __init__(self, node_id: int, offer: SnapshotOffer, message: Message | None, index: int, heard: Nanos) -> None:
        self.node_id = node_id
        self.offer = offer
        self.message = message              # for the core; None: a copy
        self.index = index
        self.heard = heard
        self.receiver: SnapshotReceiver | None = None       # once a job has opened the file
        self.chunk_count = 0
        self.received = self.written = 0    # set once what an earlier transfer left is verified
        self.is_checked = False
        self.reading: Generator[bool, None, None] | None = None     # back, of a copy that is whole

    @property
    def is_whole(self) -> bool:
        return self.is_checked and self.written == self.chunk_count

    @property
    def is_copy(self) -> bool:
        return self.message is None

    def want(self, chunk: int, refused: str = "") -> SnapshotWant:
        """What to say of it to who offered it."""
        return SnapshotWant(self.index, chunk, refused, self.is_copy)


class SnapshotArrivals:
    """One transfer at a time, the latest offered. `answer(node_id, want)` speaks to who offered it; `complete(message,
    index, size, machine)` gets the core's message of a snapshot that is durable here, and the state of it;
    `copied(node_id, index, size)` is told of a copy that is, and of who sent it. Call `look` now and then.

    Everything that is done to the file is a job, from the first to the last, and jobs keep their order: so a transfer
    that begins again finds the file as the one before has left it.
    """

    def __init__(
        self,
        context: Context,
        directory: str,
        answer: Callable[[int, SnapshotWant], None],
        complete: Callable[[Message, int, int, Machine], None],
        copied: Callable[[int, int, int], None],
    ) -> None:
        self._context = context
        self._directory = directory
        self._answer = answer
        self._complete = complete
        self._copied = copied
        self._incoming: Incoming | None = None

    @property
    def is_busy(self) -> bool:
        return self._incoming is not None

    def offered(self, node_id: int, offer: SnapshotOffer, message: Message | None, index: int) -> None:
        """A leader offers the file of entry `index`, which this broker needs; `message` is what the offer has for the
        core. Or somebody offers a copy that it wants, without one."""
        current = self._incoming
        now = self._context.clock.now()
        if current is not None and (current.offer.header, current.offer.footer) == (offer.header, offer.footer):
            # Its message may be of a later term. What is still being written was received: the sender, perhaps another
            # one, begins behind it.
            current.node_id, current.message, current.heard = node_id, message, now
            self._want_more(current)
            return
        if current is not None:
            self._discard(current)
        self._incoming = incoming = Incoming(node_id, offer, message, index, now)
        self._submit(incoming, lambda: self._open(incoming), self._opened)

    def linked(self, node_id: int) -> None:
        """A link to this broker is there again; what was said to it before may be lost."""
        incoming = self._incoming
        if incoming is not None and incoming.node_id == node_id:
            self._want_more(incoming)

    def lost(self, node_id: int) -> None:
        """No link to this broker is there any more. A copy from it is given up: there may not be another offer."""
        incoming = self._incoming
        if incoming is not None and incoming.is_copy and incoming.node_id == node_id and not incoming.is_whole:
            self._drop(incoming, "the broker that offered this copy is gone")

    def give_up_copy(self, reason: str) -> None:
        """This broker cannot wait for it any longer, unless all of it is here already."""
        incoming = self._incoming
        if incoming is not None and incoming.is_copy and not incoming.is_whole:
            self._refuse(incoming, reason)

    def look(self, committed: int) -> None:
        """Gives up a transfer that nobody goes on with, or that the log has overtaken up to entry `committed`: an owner
        that is busy with one makes no snapshots of its own."""
        incoming = self._incoming
        if incoming is None or not incoming.is_checked or incoming.is_whole:
            return
        is_silent = incoming.received == incoming.written and self._context.clock.now() - incoming.heard > SILENCE_MAX
        if incoming.is_copy:
            if is_silent:
                self._drop(incoming, "nothing came of this copy for too long")
        elif incoming.index <= committed:
            self._drop(incoming, "the log has come by what it stands for")
        elif is_silent:
            self._incoming = None
            self._close(incoming)
            self._note_end(incoming, "nothing came for too long; what is here stays, for the next offer")

    # -- to the file --------------------------------------------------------------------------------------------------

    def _open(self, incoming: Incoming) -> None:
        """A job."""
        files, directory, offer = self._context.files, self._directory, incoming.offer
        clear_transfers(files, directory, incoming.index)
        incoming.receiver = SnapshotReceiver(files, directory, offer.header, offer.footer)

    def _opened(self, incoming: Incoming, outcome: object) -> None:
        assert incoming.receiver is not None
        incoming.chunk_count = incoming.receiver.chunk_count
        self._context.log.event("snapshot_arriving", index=incoming.index, chunks=incoming.chunk_count)
        self._submit(incoming, incoming.receiver.check, self._checked)

    def _checked(self, incoming: Incoming, outcome: object) -> None:
        """What an earlier transfer left was verified, or a part of it."""
        receiver = incoming.receiver
        assert receiver is not None
        if not outcome:
            self._submit(incoming, receiver.check, self._checked)
            return
        self._submit(incoming, lambda: self._require_room(receiver), self._ready)

    def _require_room(self, receiver: SnapshotReceiver) -> None:
        """A job: for what is missing. If there is none, what is here goes as well: the log may need its room."""
        missing = chunk_offset(receiver.chunk_count) - chunk_offset(receiver.next_chunk)
        if receiver.next_chunk and missing:     # a new file has been asked for
            require_room(self._context.files, self._directory, missing)

    def _ready(self, incoming: Incoming, outcome: object) -> None:
        assert incoming.receiver is not None
        incoming.is_checked = True
        incoming.received = incoming.written = incoming.receiver.next_chunk
        self._went_on(incoming)

    def chunk(self, node_id: int, message: SnapshotChunk) -> None:
        """The next piece of the file; anything else is of another transfer, or came twice."""
        incoming = self._incoming
        if incoming is None or not incoming.is_checked or incoming.received == incoming.chunk_count:
            return
        if (incoming.node_id, incoming.index, incoming.received) != (node_id, message.index, message.number):
            return
        receiver, data = incoming.receiver, message.data
        assert receiver is not None
        incoming.heard = self._context.clock.now()
        incoming.received += 1
        self._submit(incoming, lambda: receiver.add(data), self._written)

    def stop(self) -> None:
        """The broker ends. What was received stays, for the next transfer."""
        self._incoming = None

    def _written(self, incoming: Incoming, outcome: object) -> None:
        incoming.written += 1
        self._went_on(incoming)

    def _went_on(self, incoming: Incoming) -> None:
        if not incoming.is_whole:
            self._answer(incoming.node_id, incoming.want(incoming.written))
        elif incoming.is_copy:
            # Nothing of it goes through this broker's memory, so it is read back before anything relies on it.
            incoming.reading = reading_copy(self._context.files, self._directory, incoming.index)
            self._read_on(incoming, True)
        else:
            self._finish(incoming)

    def _read_on(self, incoming: Incoming, goes_on: object) -> None:
        """A part of the file per job: others have files to read, too."""
        reading = incoming.reading
        assert reading is not None
        if goes_on:
            self._submit(incoming, lambda: next(reading, False), self._read_on)
        else:
            self._finish(incoming)

    def _finish(self, incoming: Incoming) -> None:
        assert incoming.receiver is not None
        self._submit(incoming, incoming.receiver.finish, self._finished)

    def _finished(self, incoming: Incoming, outcome: object) -> None:
        try:
            file = SnapshotFile.open(self._context.files, self._directory, incoming.index)
        except (StorageError, OSError) as error:
            self._refuse(incoming, f"it cannot be opened: {error}")
            return
        if incoming.message is not None:
            self._restore(incoming, incoming.message, file, file.parts(), Restoration())
            return
        file.close()
        self._end(incoming)
        self._copied(incoming.node_id, incoming.index, file.size)

    def _submit(
        self, incoming: Incoming, job: Callable[[], object], then: Callable[[Incoming, object], None]
    ) -> None:
        """A job on the file. What it came to is of interest only if this transfer is not over by then."""

        def ended(outcome: object) -> None:
            if incoming is not self._incoming:
                return
            if isinstance(outcome, BaseException):
                self._refuse(incoming, self._why(outcome))
            else:
                then(incoming, outcome)

        self._context.files.submit(job, self._context.callback(ended), background=True)

    # -- to a state ---------------------------------------------------------------------------------------------------

    def _restore(
        self,
        incoming: Incoming,
        message: Message,
        file: SnapshotFile,
        parts: Iterator[bytes],
        restoration: Restoration,
    ) -> None:
        """Takes one part, and comes back in the next turn for the others."""
        if incoming is not self._incoming:
            file.close()
            return
        try:
            part = next(parts, None)
            if part is not None:
                restoration.add(part)
                again = self._context.callback(lambda: self._restore(incoming, message, file, parts, restoration))
                self._context.clock.call_soon(again)
                return
            machine = restoration.finish()
            confirm(file, machine)
        except (ImageDamaged, UnreadableState, StorageError, OSError) as error:
            file.close()
            self._refuse(incoming, f"it does not restore: {error}")
            return
        file.close()
        self._end(incoming)
        self._complete(message, incoming.index, file.size, machine)

    # -- to who offered it --------------------------------------------------------------------------------------------

    def _want_more(self, incoming: Incoming) -> None:
        if incoming.is_checked and incoming.received < incoming.chunk_count:
            self._answer(incoming.node_id, incoming.want(incoming.received))

    def _end(self, incoming: Incoming) -> None:
        """All of it is here: the other side closes its file."""
        self._answer(incoming.node_id, incoming.want(incoming.chunk_count))
        self._incoming = None

    def _refuse(self, incoming: Incoming, reason: str) -> None:
        self._drop(incoming, reason)
        self._answer(incoming.node_id, incoming.want(0, reason))

    def _drop(self, incoming: Incoming, reason: str) -> None:
        self._incoming = None
        self._discard(incoming)
        self._note_end(incoming, reason)

    def _why(self, error: BaseException) -> str:
        if is_lack_of_room(error):
            return f"the disk has no room for it: {error}; make room there ({self._directory}), it is offered again"
        return str(error)

    def _note_end(self, incoming: Incoming, reason: str) -> None:
        self._context.log.event("snapshot_refused", index=incoming.index, reason=reason)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _close(self, incoming: Incoming) -> None:
        def job() -> None:
            if incoming.receiver is not None:
                incoming.receiver.close()

        self._context.files.submit(job, _ignore, background=True)

    def _discard(self, incoming: Incoming) -> None:
        """Behind the jobs that still write to it, the one that gives it its name among them. No snapshot of ours has
        that name: it would be of an entry that is not committed here. That does not hold for a copy; one that has its
        name already is good, and goes with those that are older than the newest."""
        files, directory = self._context.files, self._directory
        has_name = incoming.is_whole and not incoming.is_copy

        def job() -> None:
            if incoming.reading is not None:
                incoming.reading.close()
            if incoming.receiver is not None:
                incoming.receiver.discard()
                if has_name:
                    with suppress(FileNotFoundError):
                        remove_snapshot(files, directory, incoming.index)

        files.submit(job, _ignore, background=True)


def _ignore(outcome: object) -> None:
    """A file that could not be removed is removed at the next start."""
