"""Who waits for terminal records."""

from typing import Protocol

from cluster.errors import ClusterError
from cluster.state.effects import TaskResult


class Sink(Protocol):
    """Who waits for a task's terminal record."""

    def deliver(self, result: TaskResult) -> None: ...

    def fail(self, task: int, error: ClusterError) -> None: ...


class ManySink(Sink, Protocol):
    """A sink that keeps count of the tasks it waits for."""

    def add(self, task: int) -> None: ...


class BothSinks:
    """Two sinks that wait for one task: who submitted it, and who asked for it by its id."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Sink, second: Sink) -> None:
        self._first = first
        self._second = second

    def deliver(self, result: TaskResult) -> None:
        self._first.deliver(result)
        self._second.deliver(result)

    def fail(self, task: int, error: ClusterError) -> None:
        self._first.fail(task, error)
        self._second.fail(task, error)
