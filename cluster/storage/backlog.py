"""What waits to be written, in order; taken in batches that a sync makes durable."""

from collections.abc import Callable

from cluster.storage.header import Meta
from cluster.storage.plan import FramePlanner, Plan, Restart, Write
from cluster.storage.writer import Batch, HeaderChange


class Backlog:
    """Writes and restarts in the order in which they were asked for, and changes of the header, which have no place
    among them."""

    __slots__ = ("_changes", "_queue", "since")

    def __init__(self) -> None:
        self.since = 0      # when the oldest write was queued
        self._queue: list[Write | Restart] = []
        self._changes: list[HeaderChange] = []

    def add(self, step: Write | Restart, now: Callable[[], int]) -> None:
        if not self._queue:
            self.since = now()
        self._queue.append(step)

    def change(self, meta: Meta, done: Callable[[], None] | None) -> None:
        self._changes.append(HeaderChange(meta, done))

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self._changes

    @property
    def has_steps(self) -> bool:
        return bool(self._queue)

    @property
    def has_restart(self) -> bool:
        return any(isinstance(step, Restart) for step in self._queue)

    def take(self, planner: FramePlanner) -> Batch:
        """All changes, and all writes up to the next restart; or that restart, which is a step of its own."""
        changes, self._changes = self._changes, []
        header_meta = changes[-1].meta if changes else None
        queue = self._queue
        step = queue[0] if queue else None
        if isinstance(step, Restart):
            del queue[0]
            plan = planner.restart(step.index)
            return Batch([], changes, header_meta, plan, planner.seq, self.since, restart=step)
        writes: list[Write] = []
        for step in queue:
            if isinstance(step, Restart):
                break
            writes.append(step)
        del queue[: len(writes)]
        plan = planner.plan(writes) if writes else Plan()
        return Batch(writes, changes, header_meta, plan, planner.seq, self.since)
