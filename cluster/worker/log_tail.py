"""The end of what one task logs, in memory that outlives its process.

A ring of bytes: lines are written one behind the other, over the oldest. Two words count the bytes of all lines, one
before and one after a line is copied, so a reader knows at every instant which bytes are whole lines and which may be
half overwritten: after a kill too, and without any lock. A task may log as much as it likes: it costs its own time, and
never more memory.

One task at a time, or one for each (`OwnTail`): the first line of the next one starts over. Layout, little endian: words
`number, begun, written`, then the ring.
"""

from typing import Final

LOG_BYTES_MAX: Final = 4 * 1024             # of one attempt, as it is kept
WORDS_BYTES: Final = 24
RING_BYTES: Final = LOG_BYTES_MAX
TAIL_BYTES: Final = WORDS_BYTES + RING_BYTES
CUT: Final = b"... (cut)\n"                 # in front of what is left of a longer log

_NUMBER, _BEGUN, _WRITTEN = range(3)


class LogTail:
    """One side's view of it. The child writes, from one thread at a time; who reads needs no lock."""

    __slots__ = ("_ring", "_words")

    def __init__(self, view: memoryview) -> None:
        assert view.nbytes == TAIL_BYTES
        self._words = view[:WORDS_BYTES].cast("Q")
        self._ring = view[WORDS_BYTES:]

    @property
    def number(self) -> int:
        """Of the last task that wrote a line."""
        return self._words[_NUMBER]

    def write(self, number: int, line: bytes) -> None:
        """Adds a line, its newline included. Of one that is longer than the ring the end is kept. What a thread of an
        earlier task still says is dropped."""
        words, ring = self._words, self._ring
        if words[_NUMBER] != number:
            if number < words[_NUMBER]:
                return
            words[_BEGUN] = words[_WRITTEN] = 0
            words[_NUMBER] = number
        start = words[_WRITTEN]
        end = start + len(line)
        words[_BEGUN] = end
        line = line[-RING_BYTES:]
        place = (end - len(line)) % RING_BYTES
        first = min(len(line), RING_BYTES - place)
        ring[place : place + first] = line[:first]
        ring[: len(line) - first] = line[first:]
        words[_WRITTEN] = end

    def text(self, number: int) -> str:
        """What is left of a task's log: whole lines, at most LOG_BYTES_MAX; "" if it wrote none."""
        words = self._words
        if words[_NUMBER] != number:
            return ""
        written = words[_WRITTEN]
        start = max(0, words[_BEGUN] - RING_BYTES)      # what is before it is overwritten, or is about to be
        if start >= written:
            return ""
        place = start % RING_BYTES
        kept = bytes(self._ring[place:]) + bytes(self._ring[:place])
        kept = kept[: written - start]
        if start:
            kept = kept[len(CUT) :]
            newline = kept.find(b"\n", 0, -1)
            kept = CUT + kept[newline + 1 :]
        return kept.decode("utf-8", "ignore")


class OwnTail:
    """The same in the memory of the child, made with the first line: for one of many tasks that run at once. What it
    holds when the child is killed is lost."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail: LogTail | None = None

    def write(self, number: int, line: bytes) -> None:
        if self._tail is None:
            self._tail = LogTail(memoryview(bytearray(TAIL_BYTES)))
        self._tail.write(number, line)

    def text(self, number: int) -> str:
        return "" if self._tail is None else self._tail.text(number)
