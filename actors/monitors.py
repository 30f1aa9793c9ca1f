"""Monitors: who hears of whose end.

Each `monitor` makes a reference of its own and yields exactly one Down, whether it was set before or after
the end; watching twice yields two. A reference lives until its Down is handled, not until it is queued: after
`demonitor` no Down comes, even if it was in the mailbox already.
"""

from typing import Generic, TypeVar

W = TypeVar("W")
T = TypeVar("T")


class Monitors(Generic[W, T]):
    """The references of one system.

    Invariants: a reference of `_by_target` is live and its target is known; one whose target ended is live
    until it is taken or dropped.
    """

    __slots__ = ("_by_target", "_by_watcher", "_live", "_next")

    def __init__(self) -> None:
        self._live: dict[int, tuple[W, T]] = {}
        self._by_target: dict[T, dict[int, None]] = {}
        self._by_watcher: dict[W, dict[int, None]] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._live)

    def add(self, watcher: W, target: T) -> int:
        """A new reference."""
        reference = self._next
        self._next += 1
        self._live[reference] = (watcher, target)
        self._by_target.setdefault(target, {})[reference] = None
        self._by_watcher.setdefault(watcher, {})[reference] = None
        return reference

    def watched(self, target: T) -> bool:
        """Whether anybody watches it."""
        return target in self._by_target

    def fire(self, target: T) -> list[tuple[W, int]]:
        """The target ended: who is to get a Down, and with which reference, in the order they were set."""
        return [(self._live[reference][0], reference) for reference in self._by_target.pop(target, {})]

    def fire_one(self, reference: int) -> W | None:
        """The target of this reference was never there: who is to get a Down."""
        live = self._live.get(reference)
        if live is None:
            return None
        self._unlink_target(live[1], reference)
        return live[0]

    def take(self, reference: int) -> bool:
        """A Down is about to be handled; False if nobody wants it any more."""
        return self._forget(reference) is not None

    def drop(self, watcher: W, reference: int) -> T | None:
        """`demonitor`; returns the target if the reference was live and this watcher's."""
        live = self._live.get(reference)
        if live is None or live[0] != watcher:
            return None
        self._forget(reference)
        return live[1]

    def watcher_gone(self, watcher: W) -> list[tuple[int, T]]:
        """A watcher's own end drops all its references; returns them, with their targets."""
        dropped = [(reference, self._live[reference][1]) for reference in self._by_watcher.get(watcher, ())]
        for reference, _ in dropped:
            self._forget(reference)
        assert watcher not in self._by_watcher
        return dropped

    def _forget(self, reference: int) -> tuple[W, T] | None:
        live = self._live.pop(reference, None)
        if live is None:
            return None
        watcher, target = live
        references = self._by_watcher[watcher]
        del references[reference]
        if not references:
            del self._by_watcher[watcher]
        self._unlink_target(target, reference)
        return live

    def _unlink_target(self, target: T, reference: int) -> None:
        references = self._by_target.get(target)
        if references is not None:
            references.pop(reference, None)
            if not references:
                del self._by_target[target]
