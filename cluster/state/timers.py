"""Dates in the state: when a delayed task becomes ready, one that nobody has run expires, a limit has room again.

One heap, keyed by (date, first task id). An item stands for all tasks of one submitted group, since they
share their options and have neighbouring ids: a thousand delayed tasks cost one item and one push. Nothing is
ever searched or removed in the middle: a task that was cancelled or handed out in the meantime is recognised
by its state when its item comes up. A task that was replayed may be in that state again: then the item is one of an
earlier life of it, and void.

The machine has no clock. It moves when an entry brings a later stamp; the leader keeps a single timer at
`next_deadline_ms` and proposes a `tick`, whose stamp does the work.
"""

from heapq import heappop, heappush

READY = 0
EXPIRES = 1
GIVE_UP = 2         # a cancelled task whose worker says nothing
LIMIT = 3           # of no tasks: `first` is the index of a limit (`limits`)
LIFE_SHIFT = 2      # above: in which life of its tasks a date was set, see `Task.replays`

# Of one entry. What is left is due at once: the leader ticks again, and other work gets its turn in between.
TIMER_TASKS_MAX = 4_096

# Date in ms, first task id, number of tasks, and what is due with the life.
Item = tuple[int, int, int, int]


def wait_ms(delay_ms: int, at_ms: int, now_ms: int) -> int:
    """For how long a task must wait that has this delay, from now on, or this date; 0 = it has none, or it is over."""
    return max(delay_ms, at_ms - now_ms)


class Timers:
    __slots__ = ("heap",)

    def __init__(self) -> None:
        self.heap: list[Item] = []

    def add(self, date_ms: int, first: int, count: int, what: int, life: int = 0) -> None:
        assert count > 0 and what >> LIFE_SHIFT == 0
        heappush(self.heap, (date_ms, first, count, what | life << LIFE_SHIFT))

    def take_due(self, now_ms: int) -> list[Item]:
        """Removes what is due at `now_ms`, earliest first: items of about TIMER_TASKS_MAX tasks at most."""
        heap = self.heap
        due: list[Item] = []
        tasks = 0
        while heap and heap[0][0] <= now_ms and tasks < TIMER_TASKS_MAX:
            item = heappop(heap)
            due.append(item)
            tasks += item[2]
        return due

    def next_deadline_ms(self) -> int | None:
        return self.heap[0][0] if self.heap else None
