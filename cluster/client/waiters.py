"""Whom the answer of a command is for: the futures of those who asked for it."""

from asyncio import Future
from collections.abc import Sequence
from typing import Any

from cluster.client.outbox import Draft
from cluster.client.questions import reject
from cluster.errors import ClusterError

Waiter = Future[None]
Counter = Future[int]
Waiting = Draft[Waiter] | Waiter | Counter | None   # a submit, a cancel, a replay, or a submit that gave up its number


def resolve_all(waiting: Waiting, value: int) -> None:
    """With the answer's value for who waits for one; others do not look at it."""
    for future in _futures(waiting):
        if not future.done():
            future.set_result(value)


def reject_all(waiting: Waiting, error: ClusterError) -> None:
    """Nobody waits for it any more."""
    for future in _futures(waiting):
        reject(future, error)
    if isinstance(waiting, Draft):
        waiting.waiters = []


def _futures(waiting: Waiting) -> Sequence[Future[Any]]:
    if waiting is None:
        return ()
    return waiting.waiters if isinstance(waiting, Draft) else (waiting,)
