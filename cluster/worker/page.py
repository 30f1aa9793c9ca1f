"""The claim page: what a worker and one executor child share in memory, beside the frames they exchange.

Problem: tasks wait in the child, so that a short one costs no round trip. The worker must be able to take
back what waits there, to see what runs since when, to name the culprit after a kill, and to collect finished
tasks from a child that sits in C code or died; none of that may depend on the child's cooperation.

Idea: the worker numbers the tasks that it sends to a child: 1, 2, 3, ... The child runs them in that order
and claims each one here, under the lock, before it starts it; the worker marks a number as withdrawn, under
the same lock, and that counts if the number is not claimed yet. Outcomes lie in an `OutcomeRing`.

After a kill the page is read without the lock, whose holder may be dead. Every word is written whole (8
bytes, aligned) and last, so what it says is true at every instant.

The worker asks a task to stop by its number in a word of its own; whether the task looks there is its business. Another
word has the number of the task that was warned of its soft time limit, by a signal: one that comes late means nobody.

How far a task is lies in one of `ProgressRows`, at its number modulo WINDOW_TASKS; what it logs lies in a `LogTail`.
Neither needs the lock.

Layout, little endian: words `magic, claimed, claimed_at, ring, stop, warned`, then one mark per number modulo
WINDOW_TASKS; from LOG_OFFSET the tail of the log, from PROGRESS_OFFSET the rows `number, done, total, check`, then the
ring from RING_OFFSET to the end of the page.
"""

from typing import Final

from cluster.worker.log_tail import TAIL_BYTES, LogTail
from cluster.worker.progress_rows import ROW, ProgressRows
from cluster.worker.ring import RING_BYTES, OutcomeRing

MAGIC: Final = 0x51_52_4D_51_50_47_45_01
WINDOW_TASKS: Final = 1_024         # numbers that may be with a child and unfinished at once
MARKS_OFFSET: Final = 64
LOG_OFFSET: Final = 2_048
PROGRESS_OFFSET: Final = 8_192
RING_OFFSET: Final = PROGRESS_OFFSET + WINDOW_TASKS * ROW.size
PAGE_BYTES: Final = RING_OFFSET + RING_BYTES

assert MARKS_OFFSET + WINDOW_TASKS <= LOG_OFFSET
assert LOG_OFFSET + TAIL_BYTES <= PROGRESS_OFFSET
assert RING_OFFSET % 8 == 0

_MAGIC, _CLAIMED, _CLAIMED_AT, _RING, _STOP, _WARNED = range(6)


class ClaimPage:
    """One side's view of the page. Who may call what, and under which lock, is said at each method."""

    __slots__ = ("_marks", "_rows", "_words", "log", "ring")

    def __init__(self, view: memoryview, *, create: bool = False) -> None:
        assert view.nbytes > RING_OFFSET, "a page needs room for its ring"
        self._words = view[:MARKS_OFFSET].cast("Q")
        self._marks = view[MARKS_OFFSET : MARKS_OFFSET + WINDOW_TASKS]
        self.log = LogTail(view[LOG_OFFSET : LOG_OFFSET + TAIL_BYTES])
        self._rows = ProgressRows(view[PROGRESS_OFFSET:RING_OFFSET])
        self.ring = OutcomeRing(self._words, _RING, view[RING_OFFSET:])
        if create:
            self._words[_MAGIC] = MAGIC
        assert self._words[_MAGIC] == MAGIC, "not a claim page"

    # -- the child's side, under the lock
    # ------------------------------------------------------------------------

    def claim(self, number: int, now: int) -> bool:
        """Claims the next task at boot time `now`; False if the worker has withdrawn it: skip it then."""
        words = self._words
        assert number == words[_CLAIMED] + 1, "tasks are claimed in order"
        words[_CLAIMED_AT] = now
        words[_CLAIMED] = number
        marks = self._marks
        index = number % WINDOW_TASKS
        if marks[index]:
            marks[index] = 0
            return False
        return True

    def is_stopped(self, number: int) -> bool:
        """Whether the worker asks this task to stop; good without the lock."""
        return self._words[_STOP] == number

    def is_warned(self, number: int) -> bool:
        """Whether the worker's signal is for this task; good without the lock."""
        return self._words[_WARNED] == number

    def report(self, number: int, done: int, total: int | None) -> None:
        """How far a task is; without the lock."""
        self._rows.write(number % WINDOW_TASKS, number, done, total)

    # -- the worker's side
    # ---------------------------------------------------------------------------------------

    @property
    def claimed(self) -> int:
        """The last number claimed; 0 before the first. Without the lock only once the child is dead."""
        return self._words[_CLAIMED]

    @property
    def claimed_at(self) -> int:
        """When that was, in nanoseconds of the boot clock."""
        return self._words[_CLAIMED_AT]

    def withdraw(self, number: int) -> bool:
        """Takes back a task that waits in the child, under the lock; False if it is claimed already."""
        claimed = self._words[_CLAIMED]
        assert number <= claimed + WINDOW_TASKS, "a number beyond the window"
        if number <= claimed:
            return False
        self._marks[number % WINDOW_TASKS] = 1
        return True

    def stop(self, number: int) -> None:
        """Asks the task that runs to stop, under the lock."""
        self._words[_STOP] = number

    def warn(self, number: int) -> None:
        """A signal for this task follows, under the lock."""
        self._words[_WARNED] = number

    def progress(self, number: int) -> tuple[int, int | None] | None:
        """What this task has reported: done, and the total if it said one. None if it has not, or is about to. Good
        without the lock."""
        return self._rows.read(number % WINDOW_TASKS, number)
