"""A follower's side of a snapshot transfer: chunks become a file, the file becomes a state, the core is told.

Files are written and read by jobs, off the loop; the state is restored a part per turn of the loop. Meanwhile this
broker is a follower like any other. What was received survives a restart of either side: the next offer of the same
snapshot goes on where the last one ended.
"""

from collections.abc import Callable, Iterator

from actors import Context
from cluster.state.errors import ImageDamaged, NewerState
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.errors import StorageError
from cluster.storage.receiving import SnapshotReceiver
from cluster.storage.snapshots import SnapshotFile, remove_snapshot
from cluster.wire import SnapshotChunk, SnapshotOffer, SnapshotWant


class Incoming:
    """One snapshot on its way in. Chunks below `received` were taken, those below `written` are in the file."""

    def __init__(self, node_id: int, offer: SnapshotOffer, receiver: SnapshotReceiver) -> None:
        self.node_id = node_id
        self.offer = offer
        self.receiver = receiver
        self.index = receiver.meta.index
        self.received = self.written = 0    # set once what an earlier transfer left is verified
        self.is_checked = False

    @property
    def is_whole(self) -> bool:
        return self.written == self.receiver.chunk_count


class SnapshotArrivals:
    """One transfer at a time, the latest offered. `answer(node_id, want)` speaks to the leader; `complete(message,
    index, size, machine)` gets the core's message of a snapshot that is durable here, and the state of it."""

    def __init__(
        self,
        context: Context,
        directory: str,
        answer: Callable[[int, SnapshotWant], None],
        complete: Callable[[bytes, int, int, Machine], None],
    ) -> None:
        self._context = context
        self._directory = directory
        self._answer = answer
        self._complete = complete
        self._incoming: Incoming | None = None

    @property
    def is_busy(self) -> bool:
        return self._incoming is not None

    def offered(self, node_id: int, offer: SnapshotOffer) -> None:
        """A leader offers a file that this broker needs."""
        current = self._incoming
        if current is not None and (current.offer.header, current.offer.footer) == (offer.header, offer.footer):
            current.node_id, current.offer = node_id, offer     # its message may be of a later term
            if current.is_checked and not current.is_whole:
                # What is still being written was received; the sender, perhaps another one, begins behind it.
                self._answer(node_id, SnapshotWant(current.index, current.received))
            return
        try:
            receiver = SnapshotReceiver(self._context.files, self._directory, offer.header, offer.footer)
        except (StorageError, OSError) as error:
            self._context.log.event("snapshot_refused", reason=str(error))
            return      # the leader gives up when it hears nothing
        self._discard(current)
        self._incoming = incoming = Incoming(node_id, offer, receiver)
        self._context.log.event("snapshot_arriving", index=incoming.index, chunks=receiver.chunk_count)
        self._check(incoming)

    def _check(self, incoming: Incoming) -> None:
        done = self._context.callback(lambda outcome: self._checked(incoming, outcome))
        self._context.files.submit(incoming.receiver.check, done)

    def _checked(self, incoming: Incoming, outcome: bool | BaseException) -> None:
        """What an earlier transfer left was verified, or a part of it."""
        if incoming is not self._incoming:
            return
        if isinstance(outcome, BaseException):
            self._refuse(incoming, f"what is here of it: {outcome}")
        elif not outcome:
            self._check(incoming)
        else:
            incoming.is_checked = True
            incoming.received = incoming.written = incoming.receiver.next_chunk
            self._went_on(incoming)

    def chunk(self, node_id: int, message: SnapshotChunk) -> None:
        """The next piece of the file; anything else is of another transfer, or came twice."""
        incoming = self._incoming
        if incoming is None or not incoming.is_checked or incoming.is_whole:
            return
        if (incoming.node_id, incoming.index, incoming.received) != (node_id, message.index, message.number):
            return
        incoming.received += 1
        number, data = message.number, message.data
        done = self._context.callback(lambda outcome: self._written(incoming, number, outcome))
        self._context.files.submit(lambda: incoming.receiver.add(data), done)

    def stop(self) -> None:
        """The broker ends. What was received stays, for the next transfer."""
        self._incoming = None

    # -- to the file --------------------------------------------------------------------------------------------------

    def _written(self, incoming: Incoming, number: int, outcome: object) -> None:
        if incoming is not self._incoming:
            return
        if isinstance(outcome, BaseException):
            self._refuse(incoming, f"chunk {number}: {outcome}")
            return
        incoming.written = number + 1
        self._went_on(incoming)

    def _went_on(self, incoming: Incoming) -> None:
        if incoming.is_whole:
            done = self._context.callback(lambda outcome: self._finished(incoming, outcome))
            self._context.files.submit(incoming.receiver.finish, done)
        else:
            self._want(incoming)

    def _finished(self, incoming: Incoming, outcome: object) -> None:
        if incoming is not self._incoming:
            return
        if isinstance(outcome, BaseException):
            self._refuse(incoming, f"the file is not whole: {outcome}")
            return
        try:
            file = SnapshotFile.open(self._context.files, self._directory, incoming.index)
        except (StorageError, OSError) as error:
            self._refuse(incoming, f"it cannot be opened: {error}")
            return
        self._restore(incoming, file, file.parts(), Restoration())

    # -- to a state ---------------------------------------------------------------------------------------------------

    def _restore(
        self, incoming: Incoming, file: SnapshotFile, parts: Iterator[bytes], restoration: Restoration
    ) -> None:
        """Takes one part, and comes back in the next turn for the others."""
        if incoming is not self._incoming:
            file.close()
            return
        try:
            part = next(parts, None)
            if part is not None:
                restoration.add(part)
                again = self._context.callback(lambda: self._restore(incoming, file, parts, restoration))
                self._context.clock.call_soon(again)
                return
            machine = restoration.finish()
        except (ImageDamaged, NewerState, StorageError, OSError) as error:
            file.close()
            self._refuse(incoming, f"it does not restore: {error}")
            self._remove(incoming.index)
            return
        file.close()
        self._want(incoming)        # nothing more: the leader closes its file
        self._incoming = None
        self._complete(incoming.offer.message, incoming.index, file.size, machine)

    # -- to the leader ------------------------------------------------------------------------------------------------

    def _want(self, incoming: Incoming) -> None:
        self._answer(incoming.node_id, SnapshotWant(incoming.index, incoming.written))

    def _refuse(self, incoming: Incoming, reason: str) -> None:
        self._context.log.event("snapshot_refused", index=incoming.index, reason=reason)
        self._incoming = None
        self._discard(incoming)
        self._answer(incoming.node_id, SnapshotWant(incoming.index, 0, reason))

    def _remove(self, index: int) -> None:
        files, directory = self._context.files, self._directory
        files.submit(lambda: remove_snapshot(files, directory, index), _ignore)

    def _discard(self, incoming: Incoming | None) -> None:
        """Behind the jobs that still write to it."""
        if incoming is not None and not incoming.is_whole:
            self._context.files.submit(incoming.receiver.discard, _ignore)


def _ignore(outcome: object) -> None:
    """A file that could not be removed is removed at the next start."""
