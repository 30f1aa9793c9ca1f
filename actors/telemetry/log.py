"""Structured events on stderr: one line each, as logfmt for people or JSON for programs.

Names of events are stable (`peer_reset`, `actor_crashed`), fields are data. What a stranger on the network
can provoke goes through `PeerLog`: one line per event, peer and minute, a bounded number of lines per event and
minute, and a line that says how many were left out.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from actors.runtime.ports import SECOND, Cancel, Clock, Log, Nanos

PEER_LOG_INTERVAL_NS = 60 * SECOND
PEER_LOG_KEYS_MAX = 1_024    # (event, peer) pairs that are remembered
STRANGER_LINES_MAX = 20      # per event and minute, of all strangers together: one may come under many names
KNOWN_LINES_MAX = 20         # likewise of all peers that the owner knows
FIELD_CHARACTERS_MAX = 8_192
_QUOTED = frozenset(" \"'=\\\n\r\t")


class LineLog:
    """A Log that writes lines. `write` gets each line whole, with its newline."""

    def __init__(
        self, clock: Clock, write: Callable[[str], object], *, json: bool = False, node: str = ""
    ) -> None:
        self._clock = clock
        self._write = write
        self._json = json
        self._node = node

    def event(self, name: str, /, **fields: object) -> None:
        line: dict[str, object] = {"time": _time(self._clock.wall_ms()), "event": name}
        if self._node:
            line["node"] = self._node
        line.update(fields)
        self._write(_json_line(line) if self._json else _logfmt_line(line))


class PeerLog:
    """Says the same of the same peer at most once a minute, and what strangers provoke not too often in all.

    Each event name has lines of its own, and of those some are for peers that the owner knows (it dialled them, or
    accepted their hello): whoever comes under many names uses up the strangers' lines of one event and hides no other
    event, and nothing of those who are known. What is left out is counted: the next line of the same event and peer
    says how often it was, and `peer_events_suppressed`, a minute after the first, how many of each event in all.

    `name` must be one of the caller's own, never anything that a peer said: memory is kept for each.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[Nanos, int]] = {}    # when it was said, how often not since
        self._window_start: Nanos = clock.now()
        self._lines: dict[tuple[str, bool], int] = {}   # in this window, by event and whether the peer is known
        self._unsaid: dict[str, int] = {}               # what was left out since the last report, by event
        self._report: Cancel | None = None
        self.suppressed = 0    # all that was not logged

    def event(self, name: str, peer: str, *, known: bool = False, **fields: object) -> bool:
        """Logs the event of this peer, or counts it; True if it was logged."""
        now = self._clock.now()
        key = (name, peer)
        said, left_out = self._last.get(key, (None, 0))
        if (said is not None and now - said < PEER_LOG_INTERVAL_NS) or not self._admit(now, name, known):
            if said is not None:
                self._last[key] = (said, left_out + 1)
            self._leave_out(now, name)
            return False
        self._last.pop(key, None)
        self._last[key] = (now, 0)    # at the end: the dict is in the order of what was said
        if len(self._last) > PEER_LOG_KEYS_MAX:
            del self._last[next(iter(self._last))]
        if left_out:
            fields["suppressed"] = left_out
        self._log.event(name, peer=peer, **fields)
        return True

    def flush(self) -> None:
        """Says now how much was left out; for owners that end."""
        if self._report is not None:
            self._report.cancel()
            self._say_what_was_left_out()

    def _admit(self, now: Nanos, name: str, known: bool) -> bool:
        if now - self._window_start >= PEER_LOG_INTERVAL_NS:
            self._window_start = now
            self._lines.clear()
        lines = self._lines.get((name, known), 0)
        if lines >= (KNOWN_LINES_MAX if known else STRANGER_LINES_MAX):
            return False
        self._lines[name, known] = lines + 1
        return True

    def _leave_out(self, now: Nanos, name: str) -> None:
        self.suppressed += 1
        self._unsaid[name] = self._unsaid.get(name, 0) + 1
        if self._report is None:
            self._report = self._clock.call_at(now + PEER_LOG_INTERVAL_NS, self._say_what_was_left_out)

    def _say_what_was_left_out(self) -> None:
        self._report = None
        counts, self._unsaid = self._unsaid, {}
        events = ",".join(f"{name}:{counts[name]}" for name in sorted(counts))
        self._log.event("peer_events_suppressed", count=sum(counts.values()), events=events)


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _json_line(line: dict[str, object]) -> str:
    plain = {key: value if _is_plain(value) else _text(value) for key, value in line.items()}
    return msgspec.json.encode(plain).decode() + "\n"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _text(value: object) -> str:
    """What can be written whatever it holds, cut to a length."""
    text = str(value)
    if len(text) > FIELD_CHARACTERS_MAX:
        text = text[:FIELD_CHARACTERS_MAX] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


def _logfmt_line(line: dict[str, object]) -> str:
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in line.items()) + "\n"


def _logfmt_value(value: object) -> str:
    text = _text(value)
    if not text or not _QUOTED.isdisjoint(text) or not text.isprintable():
        return msgspec.json.encode(text).decode()
    return text
