"""The ring of outcomes in a page that a child shares with its worker.

The child appends, the worker takes all of them at once and leaves it empty, so the ring never wraps and needs one word:
count and length. That word is written whole (8 bytes, aligned) and last, so after a kill an outcome is in the ring or
it is not.
"""

from typing import Final

RING_BYTES: Final = 256 * 1024
COUNT_SHIFT: Final = 32
LENGTH_MASK: Final = (1 << COUNT_SHIFT) - 1


class OutcomeRing:
    """One side's view of it; `word` is the one word of `words` that is the ring's."""

    __slots__ = ("_bytes", "_bytes_max", "_word", "_words")

    def __init__(self, words: memoryview, word: int, ring: memoryview) -> None:
        self._words = words
        self._word = word
        self._bytes = ring
        self._bytes_max = ring.nbytes

    def append(self, outcome: bytes) -> bool:
        """Adds one encoded outcome, under the lock; False if the ring has no room for it."""
        state = self._words[self._word]
        start = state & LENGTH_MASK
        end = start + len(outcome)
        if end > self._bytes_max:
            return False
        self._bytes[start:end] = outcome
        self._words[self._word] = state + (1 << COUNT_SHIFT) + len(outcome)
        return True

    @property
    def is_empty(self) -> bool:
        """Whether `take` would return nothing; a hint, good without the lock."""
        return not self._words[self._word]

    def take(self) -> tuple[int, bytes]:
        """Empties it, under the lock or once the child is dead: how many outcomes, and all of them."""
        state = self._words[self._word]
        self._words[self._word] = 0
        return state >> COUNT_SHIFT, bytes(self._bytes[: state & LENGTH_MASK])
