"""A page of a list of locks, found in steps.

There may be very many locks, in no order, and the loop of a broker serves everybody. So their names are noted at
once, which is cheap, and looked at in steps, of which the caller makes a few at a time. Between two of them locks come
and go: what is there all the time is found, and what has gone by the end is not in the page.

Rejected: an index of names in order, which every lock that is taken and released would have to keep.
"""

from collections.abc import Iterable
from heapq import nsmallest
from itertools import chain

from cluster.state.lock_rows import LOCK_ROWS_MAX, LockRow
from cluster.state.machine import Machine

NAMES_PER_STEP = 4_096


class LockSearch:
    """For locks behind the name `after` that begin with `prefix`, in order of their names, at most `limit` of them.
    Once a `step` has said so, `rows` are those, and `more` says whether there are others behind them."""

    def __init__(self, machine: Machine, after: str, limit: int, prefix: str) -> None:
        self.rows: list[LockRow] = []
        self.more = False
        self._machine = machine
        self._limit = max(1, min(limit, LOCK_ROWS_MAX))
        self._prefix = prefix
        self._begin(after)

    def _begin(self, after: str) -> None:
        self._after = after
        self._names = list(self._machine.locks.by_name)
        self._place = 0
        self._found: list[str] = []         # the first, in order, one more than the limit

    def step(self) -> bool:
        """Looks at some names; whether that were the last."""
        end = self._place + NAMES_PER_STEP
        self._found = nsmallest(self._limit + 1, chain(self._found, self._wanted(self._names[self._place : end])))
        self._place = end
        if end < len(self._names):
            return False
        locks, page = self._machine.locks, self._found[: self._limit]
        self.rows = [locks.row(name) for name in page if name in locks.by_name]
        self.more = len(self._found) > self._limit
        if self.more and not self.rows:     # all of them have gone: an empty page would be the last one
            self._begin(page[-1])
            return False
        return True

    def _wanted(self, names: Iterable[str]) -> Iterable[str]:
        after, prefix = self._after, self._prefix
        return (name for name in names if name > after and name.startswith(prefix))
