"""What the leader would not take for now (`Overload`): when to say it again, and what to tell whoever waits too long.

The leader refuses submits while it has too much to do. Then the window is *closed*: nothing leaves for as long as it
asked for. After that one command is *tried*, the lowest that was refused; if the leader takes a submit again, the rest
follows, and if not, that was one message and not a window full of them.

A refusal names one command, and each copy of a command that leaves is refused or taken. So a command of which every
copy was refused is in no log and never will be, unless it is said again; with one copy more than refusals it may be.
Copies that were lost on the way count as if they were taken.
"""

from collections.abc import Iterable

from actors import MILLISECOND, Nanos
from cluster.errors import Overloaded

GRACE: Nanos = 100 * MILLISECOND    # a command that is being tried when its deadline passes is judged so much later

MILLISECONDS_PER_SECOND = 1_000

OPEN = "open"
CLOSED = "closed"
TRYING = "trying"


class Refusals:
    """Of one session's unanswered commands, by number. Invariant: `0 <= refused <= copies` for each."""

    __slots__ = ("_copies", "_refused", "reason", "retry_after_ms", "state", "tried")

    def __init__(self) -> None:
        self.state = OPEN
        self.tried = 0                              # the command that was said while TRYING
        self.reason = ""                            # of the last refusal
        self.retry_after_ms = 0
        self._copies: dict[int, int] = {}           # that left; of those that are not here, one
        self._refused: dict[int, int] = {}

    @property
    def is_open(self) -> bool:
        return self.state is OPEN

    # -- one command --------------------------------------------------------------------------------------------------

    def not_said(self, seq: int) -> None:
        """A new command that did not leave yet."""
        self._copies[seq] = 0

    def said_again(self, seq: int) -> None:
        self._copies[seq] = self._copies.get(seq, 1) + 1

    def answered(self, seq: int) -> None:
        self._copies.pop(seq, None)
        self._refused.pop(seq, None)

    def in_doubt(self, seq: int) -> int:
        """How many copies may be in a log. With none the command is certainly not taken."""
        return self._copies.get(seq, 1) - self._refused.get(seq, 0)

    def was_refused(self, seq: int) -> bool:
        return seq in self._refused

    def is_judged_later(self, seq: int, said_at: Nanos, now: Nanos) -> bool:
        """It is being tried, and the answer is probably on its way."""
        return self.state is TRYING and seq == self.tried and self.in_doubt(seq) == 1 and now - said_at < GRACE

    # -- the window ---------------------------------------------------------------------------------------------------

    def refused(self, seq: int, unanswered: Iterable[int]) -> None:
        """A copy of this command was not taken, by whichever broker."""
        if seq in unanswered:
            self._refused[seq] = min(self._refused.get(seq, 0) + 1, self._copies.get(seq, 1))

    def close(self, reason: str, retry_after_ms: int) -> None:
        """The leader takes no submits for now."""
        self.state, self.reason, self.retry_after_ms = CLOSED, reason, retry_after_ms

    def open(self) -> None:
        """There is another leader, or this one takes submits again."""
        self.state = OPEN

    def error(self) -> Overloaded:
        """For a submit that was refused until its deadline."""
        retry_after = self.retry_after_ms / MILLISECONDS_PER_SECOND
        return Overloaded(
            f"the cluster takes no tasks for now: {self.reason}. Nothing of this submit was accepted; try again after "
            f"{retry_after:g} s, with less at a time if it stays so",
            retry_after,
        )

    def next_to_try(self, unanswered: Iterable[int]) -> int:
        """The command to be said next, alone; 0 if nothing is unanswered. `unanswered` is in order."""
        first = 0
        for seq in unanswered:
            if seq in self._refused:
                return seq
            first = first or seq
        return first
