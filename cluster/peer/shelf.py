"""The snapshots of one broker: two of them, so that one that rots has a predecessor, with the log behind it.

A start begins with the newest one that reads back whole and restores; one that does not is kept aside under another
name, as evidence. The log is kept from the older of the two on.
"""

from contextlib import suppress

from actors import Context
from cluster.state.errors import ImageDamaged
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.errors import SnapshotDamaged
from cluster.storage.snapshots import SnapshotFile, SnapshotMeta, clear_unfinished, list_snapshots, remove_snapshot

KEPT = 2
ASIDE = ".damaged"


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
    def newest_size(self) -> int:
        return self._kept[0][1] if self._kept else 0

    @property
    def log_is_needed_behind(self) -> int:
        """Entries up to this one are in every snapshot kept; 0 while there is a start that would need all of them."""
        return self._kept[-1][0].index if len(self._kept) == KEPT else 0

    def load(self, machine: Machine) -> SnapshotMeta | None:
        """Takes the newest good snapshot into `machine`; None if there is none. Blocking.

        Raises NewerState, UnsupportedVersion.
        """
        files = self._context.files
        good: list[tuple[SnapshotMeta, int]] = []
        clear_unfinished(files, self._directory)
        for path, index in list_snapshots(files, self._directory):
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
                files.rename(path, path + ASIDE)
                files.sync_dir(self._directory)
                self._context.log.event("snapshot_damaged", index=index, reason=str(error), action="kept aside")
        self._kept = good[:KEPT]
        return self.newest

    def open_newest(self) -> SnapshotFile | None:
        """For a follower that needs it; None if there is none, or it cannot be opened any more."""
        if not self._kept:
            return None
        try:
            return SnapshotFile.open(self._context.files, self._directory, self._kept[0][0].index)
        except (SnapshotDamaged, OSError) as error:
            self._context.log.event("snapshot_damaged", index=self._kept[0][0].index, reason=str(error))
            return None

    def add(self, meta: SnapshotMeta, size: int, *, alone: bool = False) -> None:
        """A newer one is durable. With `alone` the log behind the others is gone, and so are they."""
        assert self.newest is None or meta.index > self.newest.index
        keep = [] if alone else self._kept[: KEPT - 1]
        old = [known for known in self._kept if known not in keep]
        self._kept = [(meta, size), *keep]
        for known, _ in old:
            self.discard(known.index)

    def discard(self, index: int) -> None:
        """Removes a file, off the loop."""

        def job() -> None:
            with suppress(FileNotFoundError):
                remove_snapshot(self._context.files, self._directory, index)

        self._context.files.submit(job, _ignore)


def restored(file: SnapshotFile) -> Machine:
    """The state of a snapshot. Blocking. Raises SnapshotDamaged, ImageDamaged."""
    restoration = Restoration()
    for part in file.parts():
        restoration.add(part)
    return restoration.finish()


def _ignore(outcome: object) -> None:
    """A file that could not be removed is removed at the next start."""


