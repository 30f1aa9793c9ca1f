"""The page that a worker shares with its loop child, where many tasks run at once and end in any order.

Tasks have *places*: indexes below LOOP_TASKS_MAX, given by the worker and used again when their task has ended. The
frames between the two keep their order, so a place never means two tasks to anybody. A task begins under the lock, at
the moment at which its code gets the loop for the first time: what is sent and has not begun can be taken back.

Beside that the child writes two words without the lock, for the worker to know what it cannot say itself while a task
holds up its loop: when the loop last turned, and whose code it is in. Outcomes lie in an `OutcomeRing`, as in the claim
page (`cluster.worker.page`), with the same promise for what is read after a kill.

Layout, little endian: words `magic, beat, step, ring`, then for each place the word that says when its task began, then
for each place a mark, then `ProgressRows`, whose keys are the times at which tasks began, then the ring from
RING_OFFSET to the end of the page.
"""

from typing import Final

from cluster.worker.progress_rows import ROW, ProgressRows
from cluster.worker.ring import RING_BYTES, OutcomeRing

MAGIC: Final = 0x51_52_4D_51_4C_4F_4F_01
LOOP_TASKS_MAX: Final = 4_096
WORDS_BYTES: Final = 64
STARTS_OFFSET: Final = WORDS_BYTES
MARKS_OFFSET: Final = STARTS_OFFSET + 8 * LOOP_TASKS_MAX
ROWS_OFFSET: Final = 40 * 1_024
RING_OFFSET: Final = ROWS_OFFSET + LOOP_TASKS_MAX * ROW.size
LOOP_PAGE_BYTES: Final = RING_OFFSET + RING_BYTES

assert MARKS_OFFSET + LOOP_TASKS_MAX <= ROWS_OFFSET

_MAGIC, _BEAT, _STEP, _RING = range(4)
_FREE, _STOPPED, _WITHDRAWN = range(3)  # marks


class LoopPage:
    """One side's view of the page. Who may call what, and under which lock, is said at each method."""

    __slots__ = ("_marks", "_rows", "_starts", "_words", "ring")

    def __init__(self, view: memoryview, *, create: bool = False) -> None:
        assert view.nbytes > RING_OFFSET, "a page needs room for its ring"
        self._words = view[:WORDS_BYTES].cast("Q")
        self.ring = OutcomeRing(self._words, _RING, view[RING_OFFSET:])
        self._starts = view[STARTS_OFFSET:MARKS_OFFSET].cast("Q")
        self._rows = ProgressRows(view[ROWS_OFFSET:RING_OFFSET])
        self._marks = view[MARKS_OFFSET : MARKS_OFFSET + LOOP_TASKS_MAX]
        if create:
            self._words[_MAGIC] = MAGIC
        assert self._words[_MAGIC] == MAGIC, "not the page of a loop"

    # -- the child's side -----------------------------------------------------------------------------------

    def begin(self, place: int, now: int) -> bool:
        """The task at `place` begins at boot time `now`; under the lock. False: it was withdrawn, skip it."""
        if self._marks[place] == _WITHDRAWN:
            self._marks[place] = _FREE
            return False
        self._starts[place] = now
        return True

    def is_stopped(self, place: int) -> bool:
        """Whether the worker asks this task to stop; good without the lock."""
        return self._marks[place] == _STOPPED

    def report(self, place: int, done: int, total: int | None) -> None:
        """How far the task at `place` is; without the lock."""
        self._rows.write(place, self._starts[place], done, total)

    def beat(self, now: int) -> None:
        """The loop turns; without the lock."""
        self._words[_BEAT] = now

    def enter(self, place: int) -> None:
        """The loop goes into the code of this task; without the lock."""
        self._words[_STEP] = place + 1

    def leave(self) -> None:
        """It is out again; without the lock."""
        self._words[_STEP] = 0

    # -- the worker's side, good without the lock but where it is said --------------------------------------

    def give(self, place: int) -> None:
        """The place gets another task, before that is sent."""
        assert self._marks[place] != _WITHDRAWN, "the child has not seen yet that the last one was withdrawn"
        self._marks[place] = _FREE
        self._starts[place] = 0

    def started(self, place: int) -> int:
        """When the task at `place` began, in nanoseconds of the boot clock; 0: it has not."""
        return self._starts[place]

    def progress(self, place: int) -> tuple[int, int | None] | None:
        """What the task that runs at `place` has reported: done, and the total if it said one."""
        return self._rows.read(place, self._starts[place])

    def withdraw(self, place: int) -> bool:
        """Takes back what was sent, under the lock; False if it has begun."""
        if self._starts[place]:
            return False
        self._marks[place] = _WITHDRAWN
        return True

    def is_withdrawn(self, place: int) -> bool:
        """Whether the child has yet to see that it was withdrawn: until then the place cannot be used."""
        return self._marks[place] == _WITHDRAWN

    def stop(self, place: int) -> None:
        """Asks the task that runs here to stop."""
        assert self._starts[place] and self._marks[place] != _WITHDRAWN
        self._marks[place] = _STOPPED

    @property
    def beaten_at(self) -> int:
        """When the loop last turned."""
        return self._words[_BEAT]

    @property
    def step(self) -> int | None:
        """The place whose code the loop is in."""
        step = self._words[_STEP]           # read once: the child may write it meanwhile
        return step - 1 if step else None
