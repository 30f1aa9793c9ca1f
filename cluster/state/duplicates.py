"""Keys of work that is done once: which task has which, and for how long.

A task may be submitted with a key (`Options.dedup`) that says what work it is. The first one of a key is a task like
any other, and has the key from the entry that accepts it until it has ended, and at least for the window that it came
with (`dedup_ms`), by the stamps of entries. What is submitted with the same key meanwhile is its *duplicate*: it runs
nothing, but is a record that has ended at once and names the first one (`following`).

Scope. A key is one of its task name, and of the actor's key where the task has one. Neither queue, nor priority, nor
who submits matters: the same work is the same work.

Whatever becomes of the first one, it has its key for the whole window, so that within one window one task runs at
most. If it ended without a result it may be replayed. So may one that has lost its key since, if nobody else has it by
then; else there would be two.

One that runs and was asked to stop, without a window or after it, gives way: the next task of its key is none of its
duplicates, which would be cancelled with it, though somebody wants that work after the cancel. It takes the key, is
*behind* the one that stops, and waits for its end as for that of a task that it needs (`dependencies`). So still one
runs at a time. If it ends before that, the one that stops has the key again.

Limits of the table. Keys of unfinished tasks are as many as these. Of those whose task has ended, and whose window goes
on, WINDOWS_MAX are remembered: beyond that the one that ended first is forgotten at the end of the entry, and counted.
To refuse instead would stop a cluster, or a whole command of others' tasks, for the sake of what has ended.

Cost: a task without a key costs one look at its options, and one at its spec where specs change. One with a key is a
dict entry and, once it has ended with a window that goes on, one of the second in which that is over. These seconds
only clear the table: whether a window is over is asked when it matters. They are not among the timers, whose items stay
until their date: that would be one for each key of a day, though all but WINDOWS_MAX of them are forgotten.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import islice

from cluster.state.commands import Options
from cluster.state.queues import Spec

WINDOWS_MAX = 200_000           # that are remembered of tasks that have ended
CLEARED_EVERY_MS = 1_000        # dates at which windows are cleared lie so far apart
CLEARED_MAX = 4_096             # in one entry; what is left is due at once
STALE_DATES = 64                # that are gone may be in the heap, beside as many as there are

Scope = tuple[str, str, str]    # task name, key of an actor or "", key


class Taken:
    """A key that somebody has. `until_ms` is the end of its window, not later than now if it has none. `behind` is of
    the task that gave way to this one, until that has ended."""

    __slots__ = ("behind", "is_over", "scope", "task", "until_ms")

    def __init__(
        self, scope: Scope, task: int, until_ms: int, *, is_over: bool = False, behind: "Taken | None" = None
    ) -> None:
        self.scope = scope
        self.task = task
        self.until_ms = until_ms
        self.is_over = is_over          # the task has ended
        self.behind = behind


class Duplicates:
    """All keys that are taken. Invariants: who has a key is in `by_scope`; in `by_task` is also who gave way to that
    one and has not ended. `over` has those whose task has ended, by task, in the order in which they did; each of them
    is in the bucket of the date at which it is cleared, in the same order. The task of any other is unfinished."""

    __slots__ = ("_dates", "buckets", "by_scope", "by_task", "over")

    def __init__(self) -> None:
        self.by_scope: dict[Scope, Taken] = {}
        self.by_task: dict[int, Taken] = {}
        self.over: OrderedDict[int, Taken] = OrderedDict()      # of a dict the first one is found ever later
        self.buckets: dict[int, dict[int, Taken]] = {}      # by date, then by task; none is empty
        self._dates: list[int] = []         # heap of the keys of `buckets`, and of some that are gone

    def first(self, name: str, options: Options, now_ms: int) -> int:
        """The task that has the key of these options; 0 if it is free."""
        return self._holder((name, options.key, options.dedup), now_ms)

    def is_within_window(self, task: int, now_ms: int) -> bool:
        """Whether one that has its key would have it also if it ended now."""
        return self.by_task[task].until_ms > now_ms

    def take(self, spec: Spec, task: int, window_ms: int, now_ms: int) -> None:
        """A task is accepted whose key is free, or that of one which gives way."""
        scope = scope_of(spec)
        self.add(Taken(scope, task, now_ms + window_ms, behind=self.by_scope.get(scope)))

    def ended(self, task: int, now_ms: int) -> None:
        """A task with a key has ended."""
        taken = self.by_task[task]
        taken.is_over = True
        if (holder := self.by_scope[taken.scope]) is not taken:
            holder.behind = None
            del self.by_task[task]
        elif taken.until_ms <= now_ms:
            self._free(taken)
        else:
            self._remember(taken)

    def may_be_replayed(self, spec: Spec, task: int, now_ms: int) -> bool:
        """Nobody else has its key, or has given way to it and runs."""
        scope = scope_of(spec)
        return self._holder(scope, now_ms) == 0 or (
            (taken := self.by_scope[scope]).task == task and taken.behind is None
        )

    def replayed(self, spec: Spec, task: int) -> None:
        """It runs again, and has its key until it has ended once more."""
        taken = self.by_task.get(task)
        if taken is None:
            self.add(Taken(scope_of(spec), task, 0))
        else:
            taken.is_over = False
            self._forget(taken)

    def clear(self, now_ms: int) -> None:
        """Windows whose date has come are over, as many as one entry may clear."""
        left = CLEARED_MAX
        while left > 0 and (date_ms := self.next_deadline_ms()) is not None and date_ms <= now_ms:
            for taken in list(islice(self.buckets[date_ms].values(), left)):
                self._free(taken)
                left -= 1

    def next_deadline_ms(self) -> int | None:
        """The earliest date at which windows are to be cleared."""
        dates, buckets = self._dates, self.buckets
        while dates and dates[0] not in buckets:
            heappop(dates)
        return dates[0] if dates else None

    def enforce(self) -> int:
        """Forgets windows that are too many; returns how many."""
        surplus = max(0, len(self.over) - WINDOWS_MAX)
        for _ in range(surplus):
            self._free(next(iter(self.over.values())))
        return surplus

    def add(self, taken: Taken) -> None:
        assert self.by_scope.get(taken.scope) is taken.behind, f"two tasks have the key {taken.scope}"
        self.by_scope[taken.scope] = self.by_task[taken.task] = taken
        if taken.is_over:
            self._remember(taken)

    def _holder(self, scope: Scope, now_ms: int) -> int:
        taken = self.by_scope.get(scope)
        if taken is None:
            return 0
        if taken.is_over and taken.until_ms <= now_ms:
            self._free(taken)
            return 0 if taken.behind is None else taken.behind.task
        return taken.task

    def _free(self, taken: Taken) -> None:
        if taken.behind is None:
            del self.by_scope[taken.scope]
        else:
            self.by_scope[taken.scope] = taken.behind
        del self.by_task[taken.task]
        if taken.task in self.over:
            self._forget(taken)

    def _remember(self, taken: Taken) -> None:
        """Its task has ended, and its window goes on."""
        self.over[taken.task] = taken
        date_ms = _cleared_at(taken.until_ms)
        bucket = self.buckets.get(date_ms)
        if bucket is None:
            bucket = self.buckets[date_ms] = {}
            heappush(self._dates, date_ms)
        bucket[taken.task] = taken

    def _forget(self, taken: Taken) -> None:
        """Its window is over, or is not what keeps its key any more."""
        del self.over[taken.task]
        date_ms = _cleared_at(taken.until_ms)
        bucket = self.buckets[date_ms]
        del bucket[taken.task]
        if not bucket:
            del self.buckets[date_ms]
            if len(self._dates) > 2 * len(self.buckets) + STALE_DATES:
                self._dates = list(self.buckets)
                heapify(self._dates)


def scope_of(spec: Spec) -> Scope:
    return spec.name, spec.key, spec.dedup


def _cleared_at(until_ms: int) -> int:
    """Rounded up: what is over within one second is cleared in one entry."""
    return until_ms + -until_ms % CLEARED_EVERY_MS
