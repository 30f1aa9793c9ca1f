"""What a worker tells the leader of how far its tasks are: twice a second at most, and only what has changed.

Tasks say it as often as they like, into memory. Nothing of it is logged or kept: a new leader is told all of it again.
"""

from collections.abc import Iterable

REPORT_INTERVAL_NS = 500_000_000
REPORT_TASKS_MAX = 4_096        # in one message; the next ones go half a second later

Row = tuple[int, int, int, int]     # task, attempt, done, total


class Reports:
    """Of one worker. Remembers what it has said of tasks that still run."""

    def __init__(self) -> None:
        self._said: dict[tuple[int, int], tuple[int, int]] = {}
        self._said_at = 0

    def forget(self) -> None:
        """Another leader, or another link to it: it knows nothing."""
        self._said.clear()

    def is_due(self, now: int) -> bool:
        return now - self._said_at >= REPORT_INTERVAL_NS

    def take(self, now: int, rows: Iterable[Row]) -> list[int]:
        """What is to be said now of what runs, flat."""
        self._said_at = now
        said: dict[tuple[int, int], tuple[int, int]] = {}
        flat: list[int] = []
        for task, attempt, done, total in rows:
            key, value = (task, attempt), (done, total)
            before = self._said.get(key)
            if before != value and len(flat) < REPORT_TASKS_MAX * 4:
                flat += (*key, *value)
                said[key] = value
            elif before is not None:
                said[key] = before
        self._said = said
        return flat
