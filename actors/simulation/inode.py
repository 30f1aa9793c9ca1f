"""A file of the simulated disk: what is in it, and what of that would survive a loss of power.

Unsynced data is tracked by an undo log: the durable content of each sector that was written since. A sync
forgets it; a crash plays a part of it back. So the cost is that of the unsynced bytes, whatever the size of
the file.

A failed sync behaves as Linux's does: the pages count as clean from then on, can still be read, and are gone
after the next loss of power unless they are written and synced again (PostgreSQL's fsync surprise; "Can
Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from actors.runtime.ports import Entropy

SECTOR_BYTES = 512


@dataclass(slots=True, eq=False)
class Inode:
    """A file's content. `undo` maps a written sector to its durable bytes (shorter than a sector past the
    durable end).

    `phantom` holds sectors whose sync failed: readable now, lost at the next loss of power.
    """

    data: bytearray = field(default_factory=bytearray)
    durable_size: int = 0
    undo: dict[int, bytes] = field(default_factory=dict)
    phantom: dict[int, bytes] = field(default_factory=dict)

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        durable = memoryview(self.data)[: self.durable_size]
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            if sector not in self.undo:
                start = sector * SECTOR_BYTES
                saved = self.phantom.pop(sector, None)
                self.undo[sector] = bytes(durable[start : start + SECTOR_BYTES]) if saved is None else saved
        durable.release()
        if len(self.data) < end:
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data

    def sync(self) -> None:
        self.undo.clear()
        self.durable_size = len(self.data)

    def sync_failed(self) -> None:
        self.phantom.update(self.undo)
        self.undo.clear()

    def lose_power(self, entropy: Entropy) -> tuple[int, int]:
        """Reverts a seeded subset of the unsynced sectors; returns how many were (lost, kept)."""
        lost = dict(self.phantom)
        kept = 0
        if self.undo:
            count = len(self.undo)
            fates = _fates(entropy, count)
            for position, (sector, saved) in enumerate(sorted(self.undo.items())):
                if fates >> position & 1:
                    kept += 1
                else:
                    lost[sector] = saved
            if len(self.data) > self.durable_size and entropy.below(2):
                del self.data[self.durable_size :]  # the new size was metadata, and it did not make it
        for sector, saved in lost.items():
            start = sector * SECTOR_BYTES
            stop = min(start + SECTOR_BYTES, len(self.data))
            if start < stop:
                self.data[start:stop] = saved.ljust(SECTOR_BYTES, b"\0")[: stop - start]
        self.phantom.clear()
        self.sync()
        return len(lost), kept


def _fates(entropy: Entropy, count: int) -> int:
    """One bit for each sector: half of the time independent, else all, none, or a prefix of them survive."""
    plan = entropy.below(6)
    if plan == 0:
        return 0
    if plan == 1:
        return (1 << count) - 1
    if plan == 2:
        return (1 << entropy.below(count + 1)) - 1
    return entropy.bits(count)


@dataclass(frozen=True, slots=True)
class DirectoryChange:
    """An unsynced operation on a directory: `name` now means `inode` (None: removed); a rename also took
    `source`."""

    name: str
    inode: Inode | None
    source: str | None = None


class Names:
    """Which path means which inode: as processes see it, and as it would be after a loss of power."""

    def __init__(self) -> None:
        self.visible: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self._unsynced: dict[str, list[DirectoryChange]] = {}      # by directory, in order

    def change(self, directory: str, change: DirectoryChange) -> None:
        _apply(self.visible, change)
        self._unsynced.setdefault(directory, []).append(change)

    def sync(self, directory: str) -> None:
        for change in self._unsynced.pop(directory, ()):
            _apply(self.durable, change)

    def lose_power(self, entropy: Entropy) -> int:
        """Each unsynced change happened or did not; returns how many did not."""
        lost = 0
        for directory in sorted(self._unsynced):
            for change in self._unsynced[directory]:
                if entropy.below(2):
                    _apply(self.durable, change)
                else:
                    lost += 1
        self._unsynced.clear()
        self.visible = dict(self.durable)
        return lost

    def inodes(self) -> Iterator[tuple[str, Inode]]:
        """Of both views, in an order that does not depend on the run."""
        for names in (self.visible, self.durable):
            for path in sorted(names):
                yield path, names[path]


def _apply(names: dict[str, Inode], change: DirectoryChange) -> None:
    if change.source is not None and names.pop(change.source, None) is None:
        return      # renames what is not there: its creation was lost
    if change.inode is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.inode
