"""What a worker's session says to the log: outcomes, batched into commands, how many slots are open, and that it
drains. Kept until answered, sent again in order when needed.

All outcomes of one turn of the worker's loop share commands of at most COMPLETE_OUTCOMES_MAX outcomes or
COMPLETE_BYTES_MAX bytes. The window of the session bounds how many commands are under way; outcomes beyond it
wait here, and their number is bounded by the tasks that the worker holds.

A drain goes before all outcomes that are not commands yet. The log takes both in that order, so nothing that the worker
hands back from then on is given to it again. So does a number of open slots, of which only the last one is said.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from cluster.state.commands import Complete, Drain, Outcome, Resize
from cluster.window import Window
from cluster.worker.slots import Pair

COMPLETE_OUTCOMES_MAX = 1_024
COMPLETE_BYTES_MAX = 256 * 1024
OUTCOME_OVERHEAD_BYTES = 40         # of an outcome beside its body and its error
ERROR_BYTES = 20 * 1024             # an error's message, traceback, stderr and log are bounded by about this
ERROR_OVERHEAD_BYTES = 256
CHARACTER_BYTES_MAX = 4

_encode = msgspec.msgpack.Encoder().encode


class Completions:
    """The completions of one session."""

    def __init__(self, session: int, next_seq: int) -> None:
        self.session = session
        self._window = Window(next_seq)
        self._waiting: deque[Outcome] = deque()
        self._is_draining = False
        self._drain_waits = False                       # for the window
        self._slots_wait = 0                            # the number of open slots that is to be said; 0: none
        self._sent: dict[int, list[Pair]] = {}          # seq -> what its command completes
        self._sizes: dict[int, int] = {}                # seq -> the number of open slots that its command says

    def __len__(self) -> int:
        """Commands without an answer."""
        return len(self._window)

    @property
    def is_empty(self) -> bool:
        """Whether everything is in the log."""
        return not (self._waiting or self._drain_waits or self._slots_wait or len(self._window))

    def add(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)

    def drain(self) -> None:
        """The worker is leaving: the next command says so."""
        if not self._is_draining:
            self._is_draining = self._drain_waits = True

    def resize(self, slots: int) -> None:
        """So many slots are to be open: the next command says so."""
        self._slots_wait = slots

    def take(self) -> list[bytes]:
        """New commands, encoded, in order, as far as the window allows."""
        commands: list[bytes] = []
        while (self._drain_waits or self._slots_wait or self._waiting) and self._window.is_open:
            low, seq = self._window.low, self._window.allot()
            command = self._next_command(seq, low)
            encoded = _encode(command)
            self._window.keep(seq, encoded)
            outcomes = command.outcomes if isinstance(command, Complete) else []
            self._sent[seq] = [(outcome.task, outcome.attempt) for outcome in outcomes]
            commands.append(encoded)
        return commands

    def answered(self, seq: int) -> list[Pair]:
        """The log has this command; returns what it completed, nothing if that was known."""
        self._window.answered(seq)
        return self._sent.pop(seq, [])

    def sized(self, seq: int) -> int:
        """The number of open slots that this command said, which has its answer; 0 if it said none."""
        return self._sizes.pop(seq, 0)

    def unanswered(self, start: int = 0) -> Iterator[bytes]:
        """The commands under way from number `start` on, in order: for a new leader, or after a gap."""
        return self._window.unanswered(start)

    def can_rewind_to(self, expected: int) -> bool:
        """Whether the log's next expected number is one that this session can still send."""
        return self._window.low <= expected <= self._window.next_seq

    def pairs(self) -> Iterator[Pair]:
        """Everything that is finished here and not known to be in the log."""
        for pairs in self._sent.values():
            yield from pairs
        for outcome in self._waiting:
            yield outcome.task, outcome.attempt

    def _next_command(self, seq: int, low: int) -> Complete | Drain | Resize:
        if self._drain_waits:
            self._drain_waits = False
            return Drain(self.session, seq, low)
        if self._slots_wait:
            self._sizes[seq], self._slots_wait = self._slots_wait, 0
            return Resize(self.session, seq, low, self._sizes[seq])
        return Complete(self.session, seq, low, self._next_outcomes())

    def _next_outcomes(self) -> list[Outcome]:
        waiting = self._waiting
        outcomes = [waiting.popleft()]
        size = _size(outcomes[0])
        while waiting and len(outcomes) < COMPLETE_OUTCOMES_MAX:
            size += _size(waiting[0])
            if size > COMPLETE_BYTES_MAX:
                break
            outcomes.append(waiting.popleft())
        return outcomes


def _size(outcome: Outcome) -> int:
    error = outcome.error
    size = len(outcome.body) + OUTCOME_OVERHEAD_BYTES
    if error is not None:
        characters = len(error.message) + len(error.traceback) + len(error.stderr) + len(error.log)
        size += ERROR_OVERHEAD_BYTES + min(ERROR_BYTES, CHARACTER_BYTES_MAX * characters)
    return size
