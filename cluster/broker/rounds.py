"""What waits for the word that this broker still led after it arrived: ReadIndex (Raft thesis, section 6.4).

A leader may have been replaced without knowing it, and its state is then old. So whatever is true only while it leads
(that there is no such task, what a queue holds, that a lease goes on) is said after a *round*: a majority has answered
a Raft heartbeat that left after the question came. One round at a time is under way; it serves all that came before it
began, and what comes meanwhile waits for the next. So a question costs nothing but its share of a heartbeat, and waits
for two of them at most.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

WAITING_MAX = 65_536            # lease heartbeats of all sessions for some seconds, and as many questions

Question = TypeVar("Question")


class Rounds(Generic[Question]):
    """Questions, oldest first. Invariant: those of the round under way came before it began.

    Numbers of rounds are never used twice, so that a late word on a round of an earlier term confirms nothing.
    """

    __slots__ = ("_number", "_sealed", "_waiting")

    def __init__(self) -> None:
        self._number = 0
        self._sealed: list[Question] | None = None      # of the round under way
        self._waiting: list[Question] = []

    @property
    def under_way(self) -> int:
        """The number of the round that is under way, 0 if none is."""
        return self._number if self._sealed is not None else 0

    def add(self, question: Question) -> bool:
        """One more waits; False if too many do, and this one will not be answered."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(question)
        return True

    def begin(self) -> int:
        """Begins a round for all that wait, and returns its number; 0 if one is under way or nothing waits."""
        if self._sealed is not None or not self._waiting:
            return 0
        self._number += 1
        self._sealed, self._waiting = self._waiting, []
        return self._number

    def confirmed(self, number: int) -> list[Question]:
        """This broker led after round `number` had begun: these may be answered."""
        if self._sealed is None or number != self._number:
            return []
        sealed, self._sealed = self._sealed, None
        return sealed

    def withdraw(self, which: Callable[[Question], bool]) -> list[Question]:
        """Takes out those that shall not wait any longer."""
        found = [question for question in (*(self._sealed or ()), *self._waiting) if which(question)]
        if self._sealed is not None:
            self._sealed = [question for question in self._sealed if not which(question)]
        self._waiting = [question for question in self._waiting if not which(question)]
        return found

    def end(self) -> list[Question]:
        """The term has ended; nothing confirms these any more."""
        ended = [*(self._sealed or ()), *self._waiting]
        self._sealed, self._waiting = None, []
        return ended
