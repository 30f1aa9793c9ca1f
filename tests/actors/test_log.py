"""What an operator reads."""

from msgspec import json

from actors.runtime.ports import SECOND, Log
from actors.telemetry.log import FIELD_CHARACTERS_MAX, PEER_LOG_LINES_MAX, LineLog, PeerLog


class StoppedClock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time

    def wall_ms(self) -> int:
        return 1_000 + self.time // 1_000_000

    def call_soon(self, callback):
        raise NotImplementedError

    def call_at(self, when, callback):
        raise NotImplementedError


class Kept(Log):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))


def lines(**options) -> tuple[LineLog, list[str]]:
    written: list[str] = []
    return LineLog(StoppedClock(), written.append, **options), written


def test_logfmt_quotes_what_a_reader_could_mistake():
    log, written = lines(node="b1")
    log.event("peer_reset", peer="w1", count=3, text='a "b" = c\nd', empty="")
    assert written == [
        "time=1970-01-01T00:00:01.000+00:00 event=peer_reset node=b1 peer=w1 count=3 "
        'text="a \\"b\\" = c\\nd" empty=""\n'
    ]


def test_json_is_one_object_a_line_with_plain_values():
    log, written = lines(json=True)
    log.event("x", count=3, ratio=0.5, ok=True, nothing=None, other={1})
    assert written[0].endswith("}\n")
    assert json.decode(written[0]) == {
        "time": "1970-01-01T00:00:01.000+00:00",
        "event": "x",
        "count": 3,
        "ratio": 0.5,
        "ok": True,
        "nothing": None,
        "other": "{1}",
    }


def test_nothing_that_a_stranger_sends_breaks_the_log():
    for options in ({}, {"json": True}):
        log, written = lines(**options)
        log.event("x", surrogate="\ud800", control="\x1b[2J\x00", long="y" * 100_000)
        assert written[0].count("\n") == 1
        assert "\x1b" not in written[0]
        assert len(written[0]) < FIELD_CHARACTERS_MAX + 1_000


def test_the_same_of_the_same_peer_is_said_once_a_minute_and_the_rest_is_counted():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    assert [peer_log.event("bad", "p", bytes=1) for _ in range(5)] == [True, False, False, False, False]
    assert peer_log.event("bad", "q")
    assert peer_log.event("worse", "p")
    clock.time = 60 * SECOND
    assert peer_log.event("bad", "p", bytes=2)
    assert log.events[0] == ("bad", {"peer": "p", "bytes": 1})
    assert log.events[-1] == ("bad", {"peer": "p", "bytes": 2, "suppressed": 4})
    assert peer_log.suppressed == 4


def test_a_stranger_under_many_names_cannot_flood_the_log():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    for number in range(10_000):
        peer_log.event("bad", str(number))
    assert len(log.events) == PEER_LOG_LINES_MAX
    assert peer_log.suppressed == 10_000 - PEER_LOG_LINES_MAX
    clock.time = 60 * SECOND
    assert peer_log.event("bad", "another")
