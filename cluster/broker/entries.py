"""Commands of one turn on their way into the log: msgpack of `[[kind, machine_version, commands], ...]`."""

import msgspec

from cluster.state.commands import MACHINE_VERSION, Command, Stamp

ENTRY_BYTES_MAX = 1024 * 1024       # an entry closes here; with one command of the largest body it may reach twice that
COMMAND_OVERHEAD_BYTES = 64

Group = tuple[int, int, list[Command]]


class EntryBuilder:
    """Collects commands in order of arrival; neighbours of one kind share a group."""

    __slots__ = ("_encode", "_groups", "_sizes", "bytes")

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._entries()

    def _entries(self) -> None:
        self._groups: list[list[Group]] = [[]]      # one list of groups for each entry
        self._sizes = 0
        self.bytes = 0                              # of everything collected, roughly

    def add(self, command: Command, size_bytes: int) -> None:
        """Adds a command that takes about `size_bytes` beside COMMAND_OVERHEAD_BYTES."""
        size = size_bytes + COMMAND_OVERHEAD_BYTES
        if self._sizes and self._sizes + size > ENTRY_BYTES_MAX:
            self._groups.append([])
            self._sizes = 0
        self._sizes += size
        self.bytes += size
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
        return payloads

    def clear(self) -> None:
        self._entries()
