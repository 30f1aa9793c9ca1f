"""Whom the answer of a command is for: the futures of those who asked for it, or a claim."""

from asyncio import Future
from collections.abc import Sequence
from typing import Any

from actors import Nanos
from cluster.client.outbox import Draft
from cluster.client.questions import reject
from cluster.errors import ClusterError


class Hearer:
    """Who is told the whole answer of a command, also one that says no."""

    def answered(self, code: int, value: int, now: Nanos) -> None:
        raise NotImplementedError

    def failed(self, error: ClusterError) -> None:
        """There will be no answer."""
        raise NotImplementedError


Waiter = Future[None]
Answering = Future[tuple[int, int]]


class Whole(Hearer):
    """For a future: code and value of the answer."""

    def __init__(self, future: Answering) -> None:
        self._future = future

    def answered(self, code: int, value: int, now: Nanos) -> None:
        if not self._future.done():
            self._future.set_result((code, value))

    def failed(self, error: ClusterError) -> None:
        reject(self._future, error)


# A submit, a cancel, a replay, what a lock or a schedule needs, or a submit that gave up its number.
Waiting = Draft[Waiter] | Waiter | Hearer | None


def resolve_all(waiting: Waiting) -> None:
    for future in _futures(waiting):
        if not future.done():
            future.set_result(None)


def reject_all(waiting: Waiting, error: ClusterError) -> None:
    """Nobody waits for it any more."""
    if isinstance(waiting, Hearer):
        waiting.failed(error)
    for future in _futures(waiting):
        reject(future, error)
    if isinstance(waiting, Draft):
        waiting.waiters = []


def _futures(waiting: Waiting) -> Sequence[Future[Any]]:
    if waiting is None or isinstance(waiting, Hearer):
        return ()
    return waiting.waiters if isinstance(waiting, Draft) else (waiting,)
