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

Limits of the table. Keys of unfinished tasks are as many as these. Of those whose task has ended, and whose window goes
on, WINDOWS_MAX are remembered: beyond that the one that ended first is forgotten at the end of the entry, and counted.
To refuse instead would stop a cluster, or a whole command of others' tasks, for the sake of what has ended.

Cost: a task without a key costs one look at its options, and one at its spec where specs change. One with a key is a
dict entry and, with a window, a date. Dates are rounded up to a second, and only clear the table: whether a window is
over is asked when it matters.
"""

from cluster.state.commands import Options
from cluster.state.queues import Spec
from cluster.state.timers import LIMIT, OF_KEY, Timers

WINDOWS_MAX = 200_000           # that are remembered of tasks that have ended
CLEARED_EVERY_MS = 1_000        # dates at which windows are cleared lie so far apart

Scope = tuple[str, str, str]    # task name, key of an actor or "", key


class Taken:
    """A key that somebody has. `until_ms` is the end of its window, not later than now if it has none."""

    __slots__ = ("is_over", "scope", "task", "until_ms")

    def __init__(self, scope: Scope, task: int, until_ms: int, *, is_over: bool = False) -> None:
        self.scope = scope
        self.task = task
        self.until_ms = until_ms
        self.is_over = is_over          # the task has ended


class Duplicates:
    """All keys that are taken. Invariants: `over` has those whose task has ended, by task, in the order in which they
    did; each of them has a date among the timers. The task of any other is unfinished."""

    __slots__ = ("_timers", "by_scope", "by_task", "over")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.by_scope: dict[Scope, Taken] = {}
        self.by_task: dict[int, Taken] = {}
        self.over: dict[int, Taken] = {}

    def first(self, name: str, options: Options, now_ms: int) -> int:
        """The task that has the key of these options; 0 if it is free."""
        return self._holder((name, options.key, options.dedup), now_ms)

    def take(self, spec: Spec, task: int, window_ms: int, now_ms: int) -> None:
        """A task is accepted whose key is free."""
        self.add(Taken(scope_of(spec), task, now_ms + window_ms))
        if window_ms:
            end_ms = now_ms + window_ms
            self._timers.add(end_ms + -end_ms % CLEARED_EVERY_MS, task, 1, LIMIT, OF_KEY)

    def ended(self, task: int, now_ms: int) -> None:
        """A task with a key has ended."""
        taken = self.by_task[task]
        taken.is_over = True
        if taken.until_ms <= now_ms:
            self._free(taken)
        else:
            self.over[task] = taken

    def may_be_replayed(self, spec: Spec, task: int, now_ms: int) -> bool:
        """Nobody else has its key."""
        return self._holder(scope_of(spec), now_ms) in (0, task)

    def replayed(self, spec: Spec, task: int) -> None:
        """It runs again, and has its key until it has ended once more."""
        taken = self.by_task.get(task)
        if taken is None:
            self.add(Taken(scope_of(spec), task, 0))
        else:
            taken.is_over = False
            del self.over[task]

    def due(self, task: int, now_ms: int) -> None:
        """The date of a window has come."""
        taken = self.over.get(task)
        if taken is not None and taken.until_ms <= now_ms:
            self._free(taken)

    def enforce(self) -> int:
        """Forgets windows that are too many; returns how many."""
        surplus = max(0, len(self.over) - WINDOWS_MAX)
        for _ in range(surplus):
            self._free(next(iter(self.over.values())))
        return surplus

    def add(self, taken: Taken) -> None:
        assert taken.scope not in self.by_scope, f"two tasks have the key {taken.scope}"
        self.by_scope[taken.scope] = self.by_task[taken.task] = taken
        if taken.is_over:
            self.over[taken.task] = taken

    def _holder(self, scope: Scope, now_ms: int) -> int:
        taken = self.by_scope.get(scope)
        if taken is None:
            return 0
        if taken.is_over and taken.until_ms <= now_ms:
            self._free(taken)
            return 0
        return taken.task

    def _free(self, taken: Taken) -> None:
        del self.by_scope[taken.scope]
        del self.by_task[taken.task]
        self.over.pop(taken.task, None)


def scope_of(spec: Spec) -> Scope:
    return spec.name, spec.key, spec.dedup
