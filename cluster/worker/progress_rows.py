"""How far tasks are, in memory that a child and its worker share: rows of `key, done, total, check`.

The child writes a row without a lock, as often as its task likes; the worker looks now and then. Four words cannot be
written at once, so the last is a checksum of the others: a row that was read while it was written is no row, and read
the next time. A row is used by one task after the other; the key says whose it is. Both sides know it: a number, or the
time at which the task began.
"""

from struct import Struct
from typing import Final

ROW: Final = Struct("<4Q")
MASK: Final = (1 << 64) - 1
NO_TOTAL: Final = MASK                  # of a task that did not say how much there is


class ProgressRows:
    """One side's view of the rows."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        assert view.nbytes % ROW.size == 0
        self._view = view

    def write(self, row: int, key: int, done: int, total: int | None) -> None:
        """In one call of C, so that threads of a task do not mix their words."""
        all_of_it = NO_TOTAL if total is None else total
        ROW.pack_into(self._view, row * ROW.size, key, done, all_of_it, _check(key, done, all_of_it))

    def read(self, row: int, key: int) -> tuple[int, int | None] | None:
        """Done, and the total if one was said; None if this task has said nothing, or is about to."""
        key_there, done, total, check = ROW.unpack_from(self._view, row * ROW.size)
        if key_there != key or check != _check(key, done, total):
            return None
        return done, None if total == NO_TOTAL else total


def _check(key: int, done: int, total: int) -> int:
    """Differs if some of the words are of another row. The factors are random odd numbers: no small differences between
    two rows cancel out. A row of zeros has no check of its own."""
    return (key * 0xD6E8FEB86659FD93 + done * 0xA0761D6478BD642F + total * 0xE7037ED1A0B428DB + 1) & MASK
