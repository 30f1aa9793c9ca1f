"""Who waits for terminal records."""

from typing import Protocol

from msgspec import structs

from cluster.errors import ClusterError, TaskNotFound
from cluster.state.effects import TaskResult


class Sink(Protocol):
    """Who waits for a task's terminal record."""

    def deliver(self, result: TaskResult) -> None: ...

    def fail(self, task: int, error: ClusterError) -> None: ...

    def follow(self, task: int, first: int) -> None:
        """The task is a duplicate of `first`, whose record is to come in place of its own."""


class ManySink(Sink, Protocol):
    """A sink that keeps count of the tasks it waits for."""

    def add(self, task: int) -> None: ...


class SeveralSinks:
    """Sinks that wait for one task: who submitted it, who asked for it by its id, and its duplicates, which may be very
    many."""

    __slots__ = ("_sinks",)

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)

    def append(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def deliver(self, result: TaskResult) -> None:
        for sink in self._sinks:
            sink.deliver(result)

    def fail(self, task: int, error: ClusterError) -> None:
        for sink in self._sinks:
            sink.fail(task, error)

    def follow(self, task: int, first: int) -> None:
        for sink in self._sinks:
            sink.follow(task, first)


class FollowingSink:
    """Waits for the record of the first task in the place of a duplicate."""

    __slots__ = ("_sink", "_task")

    def __init__(self, task: int, sink: Sink) -> None:
        self._task = task
        self._sink = sink

    def deliver(self, result: TaskResult) -> None:
        self._sink.deliver(structs.replace(result, task=self._task))

    def fail(self, task: int, error: ClusterError) -> None:
        if isinstance(error, TaskNotFound):
            error = TaskNotFound(
                f"task {self._task} is a duplicate of task {task}, of which the cluster has no record any more: give a "
                "task with `dedup` a longer `result_ttl`, or leave that out: then its result is kept for its "
                "`dedup_window`"
            )
        self._sink.fail(self._task, error)

    def follow(self, task: int, first: int) -> None:
        raise AssertionError(f"task {task} is a duplicate and has duplicates")
