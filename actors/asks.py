"""Asks: each ends exactly once, with an answer or with one of four errors.

An open ask is a number in a table. Whoever settles it first wins: the answer, the death of the actor, a full
mailbox, the deadline; the others find nothing. So no path has to know what the others do.
"""

from collections.abc import Callable
from typing import Any, Protocol

from actors.errors import AskError, AskTimeout
from actors.runtime.ports import Nanos
from actors.timers import Timers

Settle = Callable[[Any, AskError | None], None]


class Reply(Protocol):
    """Where the answer to a message goes. The first of the calls counts, later ones do nothing."""

    def answer(self, value: Any) -> None: ...

    def fail(self, error: AskError) -> None: ...


class WantedReply(Reply, Protocol):
    """A reply that knows whether somebody still waits for it."""

    @property
    def wanted(self) -> bool: ...


class Asks:
    """The open asks of one system."""

    __slots__ = ("_next", "_open")

    def __init__(self) -> None:
        self._open: Timers[int, Settle] = Timers()
        self._next = 1

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def open(self, deadline: Nanos, settle: Settle) -> int:
        """Opens an ask; `settle(value, error)` is called once, `error` is None for an answer."""
        number = self._next
        self._next += 1
        self._open.set(number, deadline, settle)
        return number

    def answer(self, number: int, value: Any) -> bool:
        """Settles with an answer; False if it was settled before."""
        settle = self._open.cancel(number)
        if settle is None:
            return False
        settle(value, None)
        return True

    def fail(self, number: int, error: AskError) -> bool:
        """Settles with an error; False if it was settled before."""
        settle = self._open.cancel(number)
        if settle is None:
            return False
        settle(None, error)
        return True

    def abandon(self, number: int) -> None:
        """Nobody waits any more."""
        self._open.cancel(number)

    def expire(self, now: Nanos) -> int:
        """Settles what is due with AskTimeout; returns how many."""
        due = self._open.due(now)
        for _, settle in due:
            settle(None, AskTimeout("no answer before the deadline"))
        return len(due)

    def next_deadline(self) -> Nanos | None:
        """When `expire` has something to do, at the latest."""
        return self._open.next()


class LocalReply:
    """The reply to an ask of this system."""

    __slots__ = ("_asks", "number")

    def __init__(self, asks: Asks, number: int) -> None:
        self._asks = asks
        self.number = number

    def answer(self, value: Any) -> None:
        self._asks.answer(self.number, value)

    def fail(self, error: AskError) -> None:
        self._asks.fail(self.number, error)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits."""
        return self.number in self._asks


class DeferredReply:
    """A reply that an actor gives later, or that its end gives. `still_open` holds those of one actor."""

    __slots__ = ("_open", "_reply")

    def __init__(self, reply: Reply | None, still_open: dict["DeferredReply", None]) -> None:
        self._reply = reply    # None: the message was told, nobody asked
        self._open = still_open
        if reply is not None:
            still_open[self] = None

    def answer(self, value: Any) -> None:
        self._open.pop(self, None)
        if self._reply is not None:
            self._reply.answer(value)

    def fail(self, error: AskError) -> None:
        self._open.pop(self, None)
        if self._reply is not None:
            self._reply.fail(error)


class WaitingReply:
    """The reply of a `send` that waits for room: nobody asked, only the failure matters."""

    __slots__ = ("_failed",)

    def __init__(self, failed: Callable[[], object]) -> None:
        self._failed = failed

    def answer(self, value: Any) -> None:
        """The message was handled; its sender was told when it was taken."""

    def fail(self, error: AskError) -> None:
        self._failed()
