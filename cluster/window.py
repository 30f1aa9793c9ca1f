"""The sender's half of a session: numbered commands that are kept until they are answered.

A session's commands are applied in the order of their numbers and at most once. The sender keeps the encoded
bytes of each until its answer came, so that a retry is identical to the first try whatever happened in
between: a lost frame, a new leader, a restart of a link. `cluster.state.sessions` is the other half.
"""

from collections.abc import Iterator

from cluster.state.commands import SESSION_WINDOW_COMMANDS


class Window:
    """Numbers and keeps the commands of one session. Invariant: the kept numbers are contiguous at the end:
    `low <= every kept seq < next_seq`, and at most SESSION_WINDOW_COMMANDS are kept."""

    __slots__ = ("_kept", "next_seq")

    def __init__(self, next_seq: int = 1) -> None:
        self.next_seq = next_seq
        self._kept: dict[int, bytes] = {}      # seq -> encoded command, in order of seq

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_open(self) -> bool:
        """Whether one more command may be sent: numbers span at most a window, answered in any order or not."""
        return self.has_room_for(1)

    def has_room_for(self, commands: int) -> bool:
        return self.next_seq - self.low + commands <= SESSION_WINDOW_COMMANDS

    @property
    def low(self) -> int:
        """The lowest number whose answer is still awaited; everything below may be forgotten by the state."""
        return next(iter(self._kept), self.next_seq)

    def allot(self) -> int:
        """The number of the next command; `keep` must follow."""
        assert self.is_open, "a command was numbered past the window"
        seq = self.next_seq
        self.next_seq = seq + 1
        return seq

    def keep(self, seq: int, encoded: bytes) -> None:
        assert seq == self.next_seq - 1 and seq not in self._kept
        self._kept[seq] = encoded

    def encoded(self, seq: int) -> bytes:
        """A kept command."""
        return self._kept[seq]

    def replace(self, seq: int, encoded: bytes) -> None:
        """Another command under the same number. Only if no copy of the first one was taken anywhere."""
        assert seq in self._kept
        self._kept[seq] = encoded

    def answered(self, seq: int) -> bool:
        """Forgets an answered command; False if its answer was known already."""
        return self._kept.pop(seq, None) is not None

    def unanswered(self, start: int = 0) -> Iterator[bytes]:
        """The kept commands from number `start` on, in order: what a new leader or a rewind is sent."""
        return (encoded for seq, encoded in self._kept.items() if seq >= start)
