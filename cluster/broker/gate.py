"""Whether the leader takes submits. Everything else is taken all the same. Nearly all of it makes what waits fewer:
what a worker has done, what a user cancels, a worker that comes or leaves. What an operator wants to run again or now
is not held up either: he asks for few tasks at a time, and may do so to get out of what is wrong.

It closes when too much waits, or is proposed and not applied yet, because the disks, the other brokers or the machine
do not keep up, and when the log says why it cannot take more. A submit that is refused is not written anywhere; its
client says it again. Its number is then missing in its session: what is behind it would only be written to be refused
by the state. So until something has come under that number, submits behind it are refused here, and cancels are told
what is missing; a client lets its refused submits make way for them (`cluster.client.commands`).
"""

from collections import deque

BACKLOG_BYTES_MAX = 32 * 1024 * 1024
BACKLOG_COMMANDS_MAX = 65_536
BACKLOG_RETRY_MS = 100              # a backlog is gone, or shorter, within a few syncs
LOG_RETRY_MS = 1_000                # a full disk or a late snapshot takes longer


class Gate:
    """Of one broker, while it leads. `proposed` counts commands; that they are applied is seen from the number of
    entries that are not."""

    __slots__ = ("_commands", "_entries", "_put_off")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new term."""
        self._entries: deque[int] = deque()         # commands of each entry that is not known to be applied
        self._commands = 0                          # their sum
        self._put_off: dict[int, tuple[int, str]] = {}      # session -> the first refused submit, and why

    def proposed(self, commands: list[int]) -> None:
        """Entries of that many commands each were proposed."""
        self._entries.extend(commands)
        self._commands += sum(commands)

    def why_closed(self, backlog_bytes: int, backlog_entries: int, waiting_commands: int, closed_reason: str) -> str:
        """Why no submit is taken; "" if one is. `backlog_bytes` and `backlog_entries` are proposed and not applied (the
        bytes of the submit, and of what waits or leaves with it, counted in); `waiting_commands` wait to be proposed;
        `closed_reason` is the log's own."""
        entries = self._entries
        while len(entries) > backlog_entries:
            self._commands -= entries.popleft()
        if closed_reason:
            return closed_reason
        commands = self._commands + waiting_commands
        if backlog_bytes > BACKLOG_BYTES_MAX or commands >= BACKLOG_COMMANDS_MAX:
            return (
                f"too much is uncommitted ({backlog_bytes >> 20} MiB, {commands} commands wait for a majority of the "
                "brokers' disks)"
            )
        return ""

    def why_refused(self, session: int, seq: int, next_seq: int, closed: str) -> str:
        """Why a submit is not taken; "" if it is. `next_seq` is what the state expects of its session, `closed` is why
        the gate is closed."""
        first, reason = self._put_off.get(session, (0, ""))
        if first and next_seq > first:
            first = 0                           # it has come by another copy, or something else in its place
        elif first and seq > first:
            return closed or reason
        if closed:
            self._put_off[session] = (min(first or seq, seq), closed)
        elif not first or seq == first:
            self._put_off.pop(session, None)
        return closed

    def missing_before(self, session: int, seq: int, next_seq: int) -> int:
        """The number of a refused submit that a cancel would have to wait for; 0 if there is none. One that comes under
        that number has taken its place."""
        first, _ = self._put_off.get(session, (0, ""))
        if next_seq <= first < seq:
            return first
        if first == seq:
            del self._put_off[session]
        return 0

    def forget(self, session: int) -> None:
        """It has ended."""
        self._put_off.pop(session, None)

    @property
    def has_put_off(self) -> bool:
        """Whether an open gate may refuse a submit all the same."""
        return bool(self._put_off)
