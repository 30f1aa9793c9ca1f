"""The snapshots of one broker: two of them, so that one that rots has a predecessor, with the log behind it.

A start begins with the newest one that reads back whole and restores; one that does not is kept aside under another
name, as evidence, and so is one that turns out to be damaged later, when it is read for a follower or for the next
snapshot. The log is kept from the older of the two on.
"""

from collections.abc import Callable, Generator
from contextlib import suppress

from actors import Context, Files
from cluster.state.errors import ImageDamaged
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.errors import SnapshotDamaged, StorageError
from cluster.storage.snapshots import (
    ASIDE,
    SnapshotFile,
    SnapshotMeta,
    clear_overtaken,
    clear_unfinished,
    list_snapshots,
    remove_snapshot,
    snapshot_path,
)

KEPT = 2
PARTS_PER_STEP = 16     # read back at a time, 256 KiB each


class Shelf:
    """What is on the disk, newest first. `load` once, under the directory's lock; then `add` what is new."""

    def __init__(self, context: Context, directory: str) -> None:
        self._context = context
        self._directory = directory
        self._kept: list[tuple[SnapshotMeta, int]] = []     # and their sizes in bytes

    @property
    def newest(self) -> SnapshotMeta | None:
        return self._kept[0][0] if self._kept else None

    @property
    def indexes(self) -> list[int]:
        return [known.index for known, _ in self._kept]

    @property
    def newest_size(self) -> int:
        return self._kept[0][1] if self._kept else 0

    @property
    def log_is_needed_behind(self) -> int:
        """Entries up to this one are in every snapshot kept; 0 while there is a start that would need all of them."""
        return self._kept[-1][0].index if len(self._kept) == KEPT else 0

    def load(self, machine: Machine) -> SnapshotMeta | None:
        """Takes the newest good snapshot into `machine`; None if there is none. Blocking.

        Raises UnreadableState, UnsupportedVersion.
        """
        files = self._context.files
        good: list[tuple[SnapshotMeta, int]] = []
        clear_unfinished(files, self._directory)
        for path, index in list_snapshots(files, self._directory):
            if len(good) == KEPT:
                files.remove(path)      # its compactor did not live to tell of it, or the last life ended too soon
                continue
            try:
                file = SnapshotFile.open(files, self._directory, index)
                try:
                    if good:
                        file.verify()
                    else:
                        machine.replace(restored(file))
                    good.append((file.meta, file.size))
                finally:
                    file.close()
            except (SnapshotDamaged, ImageDamaged) as error:
                self._note_damage(index, str(error))
                _keep_aside(files, self._directory, index)
        self._kept = good
        return self.newest

    def open_newest(self) -> SnapshotFile | None:
        """For a follower that needs it; None if there is none, or it cannot be opened any more."""
        if not self._kept:
            return None
        index = self._kept[0][0].index
        try:
            return SnapshotFile.open(self._context.files, self._directory, index)
        except SnapshotDamaged as error:
            self.set_aside(index, str(error))
        except OSError as error:
            self._note_damage(index, str(error), action="tried again later")
        return None

    def is_there(self, meta: SnapshotMeta, size: int) -> str:
        """Whether a file that another process wrote is what it should be, by both its ends: why not, "" if it is."""
        try:
            file = SnapshotFile.open(self._context.files, self._directory, meta.index)
        except (StorageError, OSError) as error:
            return str(error)
        file.close()
        return "" if (file.meta, file.size) == (meta, size) else f"{file.path} is not the one that was planned"

    def add(self, meta: SnapshotMeta, size: int) -> None:
        """A newer one is durable."""
        self._add(meta, size, self._kept[: KEPT - 1])
        self.clear()

    def add_alone(self, meta: SnapshotMeta, size: int) -> None:
        """Likewise, and the log begins anew behind it. When that is durable, `clear` what is of no use any more: until
        then a start may find the old log, and the others with it."""
        self._add(meta, size, [])

    def _add(self, meta: SnapshotMeta, size: int, others: list[tuple[SnapshotMeta, int]]) -> None:
        assert self.newest is None or meta.index > self.newest.index
        self._kept = [(meta, size), *others]

    def set_aside(self, index: int, reason: str) -> None:
        """This one is damaged: nothing may begin with it any more."""
        if index not in self.indexes:
            return
        self._kept = [(known, size) for known, size in self._kept if known.index != index]
        self._note_damage(index, reason)
        self._submit(lambda: _keep_aside(self._context.files, self._directory, index))

    def drop_unreachable(self, first_index: int) -> None:
        """The log begins here now. A snapshot that it does not go on behind is of no use to any start."""
        newest = self._kept[:1]
        behind = [(known, size) for known, size in self._kept[1:] if known.index + 1 >= first_index]
        gone = [known.index for known, _ in self._kept[1:] if known.index + 1 < first_index]
        self._kept = newest + behind
        for index in gone:
            self.discard(index)

    def discard(self, index: int) -> None:
        """Removes a file, off the loop."""
        self._submit(lambda: remove_snapshot(self._context.files, self._directory, index))

    def clear(self) -> None:
        """Removes all that are older than the newest and not kept, off the loop: among them may be one of a compactor
        that was killed before it could say that it had finished, or what is left of a transfer."""
        if not self._kept:
            return
        kept, newest = self.indexes, self._kept[0][0].index

        def job() -> None:
            for _, index in list_snapshots(self._context.files, self._directory):
                if index < newest and index not in kept:
                    remove_snapshot(self._context.files, self._directory, index)
            clear_overtaken(self._context.files, self._directory, newest)

        self._submit(job)

    def _submit(self, job: Callable[[], None]) -> None:
        def unless_gone() -> None:
            with suppress(FileNotFoundError):
                job()

        self._context.files.submit(unless_gone, _ignore, background=True)

    def _note_damage(self, index: int, reason: str, action: str = "kept aside; look at the disk") -> None:
        self._context.log.event("snapshot_damaged", index=index, reason=reason, action=action)


def _keep_aside(files: Files, directory: str, index: int) -> None:
    path = snapshot_path(directory, index)
    files.rename(path, path + ASIDE)
    files.sync_dir(directory)


def restored(file: SnapshotFile) -> Machine:
    """The state of a snapshot. Blocking. Raises SnapshotDamaged, ImageDamaged, UnreadableState."""
    restoration = Restoration()
    for part in file.parts():
        restoration.add(part)
    machine = restoration.finish()
    confirm(file, machine)
    return machine


def reading_copy(files: Files, directory: str, index: int) -> Generator[bool, None, None]:
    """Reads back all of a snapshot that has arrived and has no name yet, some parts at a time. Blocking. Raises
    SnapshotDamaged, and NewerState if a start of this program could not restore it."""
    file = SnapshotFile.open(files, directory, index, kind="recv")
    try:
        restoration = Restoration()
        for number, part in enumerate(file.parts()):
            if number == 0:
                restoration.add(part)       # the versions are in the first part
            if number % PARTS_PER_STEP == 0:
                yield True
    finally:
        file.close()


def confirm(file: SnapshotFile, machine: Machine) -> None:
    """Whether the state is the one that the file's header names. Raises SnapshotDamaged: whoever wrote it was wrong."""
    meta = file.meta
    if (machine.applied_index, machine.rolling) != (meta.index, meta.rolling):
        reason = f"the state is that after entry {machine.applied_index} with digest {machine.rolling}, "
        raise SnapshotDamaged(file.path, 0, f"{reason}the header says {meta.index} with {meta.rolling}")


def _ignore(outcome: object) -> None:
    """A file that could not be removed is removed at the next start."""
