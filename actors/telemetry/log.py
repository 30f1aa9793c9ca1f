"""Structured events on stderr: one line each, as logfmt for people or JSON for programs.

Names of events are stable (`peer_reset`, `actor_crashed`), fields are data. What a stranger on the network
can provoke goes through `PeerLog`: one line per event, peer and minute, and the next line says how many were
left out.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from actors.runtime.ports import SECOND, Clock, Log, Nanos

PEER_LOG_INTERVAL_NS = 60 * SECOND
PEER_LOG_KEYS_MAX = 1_024    # (event, peer) pairs that are remembered
PEER_LOG_LINES_MAX = 120     # a minute, of all peers together: a stranger may come under many names
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
    """Says the same of the same peer at most once a minute, and counts the rest."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[Nanos, int]] = {}    # when it was said, how often not since
        self._window_start: Nanos = clock.now()
        self._window_lines = 0
        self.suppressed = 0    # all that was not logged

    def event(self, name: str, peer: str, **fields: object) -> bool:
        """Logs the event of this peer, or counts it; True if it was logged."""
        now = self._clock.now()
        key = (name, peer)
        said, left_out = self._last.get(key, (None, 0))
        if (said is not None and now - said < PEER_LOG_INTERVAL_NS) or not self._admit(now):
            self.suppressed += 1
            if said is not None:
                self._last[key] = (said, left_out + 1)
            return False
        self._last.pop(key, None)
        self._last[key] = (now, 0)    # at the end: the dict is in the order of what was said
        if len(self._last) > PEER_LOG_KEYS_MAX:
            del self._last[next(iter(self._last))]
        if left_out:
            fields["suppressed"] = left_out
        self._log.event(name, peer=peer, **fields)
        return True

    def _admit(self, now: Nanos) -> bool:
        if now - self._window_start >= PEER_LOG_INTERVAL_NS:
            self._window_start = now
            self._window_lines = 0
        self._window_lines += 1
        return self._window_lines <= PEER_LOG_LINES_MAX


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
