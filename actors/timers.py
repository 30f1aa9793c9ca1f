"""Deadlines by key: a heap that forgets lazily.

Setting a key again replaces what it had; cancelling leaves a stale entry in the heap, and when more than half
of the heap is stale it is built anew, so both cost O(log n) on average whatever the pattern (asks are almost
always cancelled, long before they are due).
"""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from actors.runtime.ports import Nanos

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_STALE_MIN = 64    # a heap this small is not worth building anew


class Timers(Generic[K, V]):
    """What is due when, by key.

    Invariant: each live key has exactly one heap entry that carries its number.
    """

    __slots__ = ("_heap", "_live", "_number")

    def __init__(self) -> None:
        self._live: dict[K, tuple[int, V]] = {}
        self._heap: list[tuple[Nanos, int, K]] = []
        self._number = 0    # orders what is due at the same time: first set, first due

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: K) -> bool:
        return key in self._live

    def set(self, key: K, when: Nanos, value: V) -> None:
        """Lets `key` be due at `when`, instead of what it was before."""
        self._number += 1
        self._live[key] = (self._number, value)
        heappush(self._heap, (when, self._number, key))
        self._shrink()

    def cancel(self, key: K) -> V | None:
        """Forgets the key; returns its value if it was set."""
        live = self._live.pop(key, None)
        return None if live is None else live[1]

    def next(self) -> Nanos | None:
        """When the first key is due."""
        heap = self._heap
        while heap:
            when, number, key = heap[0]
            live = self._live.get(key)
            if live is not None and live[0] == number:
                return when
            heappop(heap)
        return None

    def pending(self) -> list[tuple[K, Nanos]]:
        """Every key, and when it is due."""
        due = {number: when for when, number, _ in self._heap}
        return [(key, due[number]) for key, (number, _) in self._live.items()]

    def due(self, now: Nanos) -> list[tuple[K, V]]:
        """Takes out all keys that are due, in the order of their times."""
        found: list[tuple[K, V]] = []
        while True:
            when = self.next()
            if when is None or when > now:
                return found
            key = heappop(self._heap)[2]
            found.append((key, self._live.pop(key)[1]))

    def _shrink(self) -> None:
        if len(self._heap) > _STALE_MIN + 2 * len(self._live):
            live = self._live
            self._heap = [entry for entry in self._heap if entry[2] in live and live[entry[2]][0] == entry[1]]
            heapify(self._heap)
            assert len(self._heap) == len(live)
