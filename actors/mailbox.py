"""Mailboxes: bounded, in two lanes, with a named policy for what comes when they are full.

The system lane (start, stop, timers) goes first and is never full: its length is bounded by what an actor
itself asked for. The user lane holds messages in the order of their arrival. A `Down` goes there too, so that
it comes after all that its actor had sent, but it is a signal: it does not count, and no policy drops it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

E = TypeVar("E")

MAILBOX_MESSAGES_MAX = 1_024
WAITING_SENDERS_MAX = 1_024    # of one mailbox with the policy BLOCK


class Overflow(Enum):
    """What a full mailbox does with the next message."""

    DROP_NEWEST = "drop_newest"    # drops it: the sender is not told, it becomes a dead letter
    DROP_OLDEST = "drop_oldest"    # drops the one that waited longest, likewise
    REJECT = "reject"              # does not take it: `tell` says False
    BLOCK = "block"                # who awaits `send` or `ask` waits for room; `tell` says False


@dataclass(frozen=True, slots=True)
class MailboxSpec:
    """How many messages an actor's mailbox holds, and what happens to the next."""

    messages_max: int = MAILBOX_MESSAGES_MAX
    overflow: Overflow = Overflow.REJECT

    def __post_init__(self) -> None:
        if self.messages_max < 1:
            raise ValueError("a mailbox holds at least one message")


class Put(Enum):
    """What became of a message."""

    TAKEN = "taken"
    DROPPED = "dropped"      # another entry, or this one, was dropped: see `Mailbox.victim`
    REJECTED = "rejected"


class Mailbox(Generic[E]):
    """Both lanes of one actor.

    Invariants: 0 <= messages <= messages_max; messages = entries of the user lane that are not signals;
    senders wait only while the mailbox is full.
    """

    __slots__ = ("_max", "_overflow", "_signals", "_system", "_user", "_waiting", "messages", "victim")

    def __init__(self, spec: MailboxSpec) -> None:
        self._max = spec.messages_max
        self._overflow = spec.overflow
        self._system: deque[E] = deque()
        self._user: deque[E] = deque()
        self._signals: list[E] = []    # those of the user lane, in their order
        self._waiting: deque[tuple[E, Callable[[], bool]]] = deque()
        self.messages = 0
        self.victim: E | None = None

    def __len__(self) -> int:
        return len(self._system) + len(self._user)

    def put(self, entry: E) -> Put:
        """Takes a message, or does what the policy says."""
        if self.messages < self._max:
            self._user.append(entry)
            self.messages += 1
            return Put.TAKEN
        if self._overflow is Overflow.DROP_NEWEST:
            self.victim = entry
            return Put.DROPPED
        if self._overflow is Overflow.DROP_OLDEST:
            self.victim = self._remove_oldest()
            self._user.append(entry)
            return Put.DROPPED
        return Put.REJECTED

    def wait(self, entry: E, admit: Callable[[], bool]) -> bool:
        """After REJECTED: lets the entry wait for room, if the policy is BLOCK. False: it does not.

        `admit` is called when there is room, and says whether the sender still wants it.
        """
        if self._overflow is not Overflow.BLOCK or len(self._waiting) >= WAITING_SENDERS_MAX:
            return False
        assert self.messages == self._max
        self._waiting.append((entry, admit))
        return True

    def put_signal(self, entry: E) -> None:
        """Takes a signal that keeps its place among the messages."""
        self._user.append(entry)
        self._signals.append(entry)

    def put_system(self, entry: E) -> None:
        """Takes a signal that goes before all messages."""
        self._system.append(entry)

    def put_first(self, entry: E) -> None:
        """Takes a signal that goes before all that waits."""
        self._system.appendleft(entry)

    def take(self) -> E | None:
        """The next entry, or None."""
        if self._system:
            return self._system.popleft()
        if not self._user:
            return None
        entry = self._user.popleft()
        if self._signals and self._signals[0] is entry:
            del self._signals[0]
        else:
            self.messages -= 1
            assert self.messages >= 0
            if self._waiting:
                self._admit_waiting()
        return entry

    def clear(self) -> list[E]:
        """Empties all lanes; returns the messages that were in them, those of waiting senders last."""
        signals = {id(entry) for entry in self._signals}
        messages = [entry for entry in self._user if id(entry) not in signals]
        messages += [entry for entry, _ in self._waiting]
        self._system.clear()
        self._user.clear()
        self._signals.clear()
        self._waiting.clear()
        self.messages = 0
        return messages

    def _admit_waiting(self) -> None:
        while self._waiting and self.messages < self._max:
            entry, admit = self._waiting.popleft()
            if admit():
                self._user.append(entry)
                self.messages += 1

    def _remove_oldest(self) -> E:
        """The oldest message; signals before it stay where they are. There are few: one for each monitor."""
        signals = len(self._signals)
        for place, entry in enumerate(self._user):
            if place < signals and self._signals[place] is entry:
                continue
            del self._user[place]
            return entry
        raise AssertionError("a full mailbox holds a message")
