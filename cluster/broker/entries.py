"""Commands on their way into the log: msgpack of `[[kind, machine_version, commands], ...]`.

What workers say goes first. A client may hand over megabytes of submits in one turn; if they all went into the log at
once, the completions of the next turn would wait behind them in three brokers' disks, and slots would run dry. So of
what clients say each turn takes a slice, and the rest waits for the turns that follow.
"""

from collections import deque
from collections.abc import Callable

import msgspec

from cluster.state.commands import (
    MACHINE_VERSION,
    Acquire,
    Cancel,
    Command,
    Extend,
    Release,
    Replay,
    Stamp,
    Steer,
    Submit,
)

ENTRY_BYTES_MAX = 1024 * 1024       # an entry closes here; with one command of the largest body it may reach twice that
COMMAND_OVERHEAD_BYTES = 64
SLICE_BYTES = 512 * 1024            # of what may wait, in one turn; a larger command is a slice of its own

# Of what waits; no link bounds it, since a turn reads what its peers have sent. Submits end at half of it, with what is
# proposed counted in (`cluster.broker.gate`), so cancels and goodbyes find room. As much as the core takes.
WAITING_BYTES_MAX = 64 * 1024 * 1024
WAITING_COMMANDS_MAX = 131_072

Group = tuple[int, int, list[Command]]
Passing = Cancel | Replay | Acquire | Release | Extend | Steer      # what clients say that passes where submits do not


class EntryBuilder:
    """Collects commands in two lanes, each in order of arrival: this turn's, and what may wait. Neighbours of one kind
    share a group. Each turn: `fill`, then `counts` and `take`.
    """

    __slots__ = ("_encode", "_groups", "_numbers", "_sizes", "_waiting", "_waiting_bytes", "bytes")

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self.clear()

    def _entries(self) -> None:
        self._groups: list[list[Group]] = [[]]      # one list of groups for each entry
        self._sizes = 0

    def clear(self) -> None:
        self._entries()
        self._waiting: deque[tuple[Command, int]] = deque()
        self._numbers: set[tuple[int, int]] = set()     # session and number of those that have one
        self._waiting_bytes = 0
        self.bytes = 0                              # of everything collected, roughly

    @property
    def is_waiting(self) -> bool:
        """Whether there is something for the next turn."""
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no more may be added to what waits."""
        return self._waiting_bytes >= WAITING_BYTES_MAX or len(self._waiting) >= WAITING_COMMANDS_MAX

    def add(self, command: Command, size_bytes: int) -> None:
        """Adds a command that takes about `size_bytes` beside COMMAND_OVERHEAD_BYTES to this turn's."""
        size = size_bytes + COMMAND_OVERHEAD_BYTES
        self.bytes += size
        self._place(command, size)

    def add_waiting(self, command: Command, size_bytes: int) -> None:
        """Likewise, but it may wait for a later turn, behind others that do."""
        assert not self.is_full
        size = size_bytes + COMMAND_OVERHEAD_BYTES
        self.bytes += size
        self._waiting_bytes += size
        self._waiting.append((command, size))
        if isinstance(command, Submit | Passing):
            self._numbers.add((command.session, command.seq))

    def is_waiting_for(self, session: int, seq: int) -> bool:
        """Whether this command of a session waits."""
        return (session, seq) in self._numbers

    def withdraw_submits(self) -> list[Submit]:
        """Takes all submits out of what waits, in order."""
        submits = [command for command, _ in self._waiting if isinstance(command, Submit)]
        self._drop_waiting(lambda command: isinstance(command, Submit))
        return submits

    def drop_passing(self, is_useless: Callable[[Passing], bool]) -> None:
        """Forgets those that wait of which this is true, which are no submits; it is asked in order."""
        self._drop_waiting(lambda command: isinstance(command, Passing) and is_useless(command))

    def _drop_waiting(self, judge: Callable[[Command], bool]) -> None:
        kept: deque[tuple[Command, int]] = deque()
        for command, size in self._waiting:
            if judge(command):
                self._waits_no_more(command, size)
                self.bytes -= size
            else:
                kept.append((command, size))
        self._waiting = kept

    def _waits_no_more(self, command: Command, size: int) -> None:
        self._waiting_bytes -= size
        if isinstance(command, Submit | Passing):
            self._numbers.discard((command.session, command.seq))

    def fill(self) -> None:
        """Moves a slice of what waits into this turn."""
        waiting = self._waiting
        left = SLICE_BYTES
        while waiting and (left == SLICE_BYTES or waiting[0][1] <= left):
            command, size = waiting.popleft()
            left -= size
            self._waits_no_more(command, size)
            self._place(command, size)

    def _place(self, command: Command, size: int) -> None:
        if self._sizes and self._sizes + size > ENTRY_BYTES_MAX:
            self._groups.append([])
            self._sizes = 0
        self._sizes += size
        kind = command.__struct_config__.tag
        assert isinstance(kind, int)
        groups = self._groups[-1]
        if groups and groups[-1][0] == kind:
            groups[-1][2].append(command)
        else:
            groups.append((kind, MACHINE_VERSION, [command]))

    def counts(self) -> list[int]:
        """How many commands each entry has that `take` would return now."""
        return [sum([len(commands) for _, _, commands in groups]) for groups in self._groups if groups]

    def take(self, stamp: Stamp) -> list[bytes]:
        """The payloads, each headed by the leader's stamp; empty if nothing was collected."""
        if not self._groups[0]:
            return []
        head: Group = (0, MACHINE_VERSION, [stamp])
        payloads = [self._encode([head, *groups]) for groups in self._groups]
        self._entries()
        self.bytes = self._waiting_bytes
        return payloads
