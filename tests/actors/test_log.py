"""What an operator reads."""

from msgspec import json

from actors.runtime.ports import SECOND, Log
from actors.telemetry.log import (
    FIELD_CHARACTERS_MAX,
    KNOWN_LINES_MAX,
    PEER_LOG_KEYS_MAX,
    STRANGER_LINES_MAX,
    LineLog,
    PeerLog,
)


class Timer:
    def __init__(self, when, callback):
        self.when = when
        self.callback = callback

    def cancel(self):
        self.callback = None


class StoppedClock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.time = 0
        self.timers: list[Timer] = []

    def advance(self, to: int) -> None:
        self.time = to
        due = [timer for timer in self.timers if timer.when <= to]
        self.timers = [timer for timer in self.timers if timer.when > to]
        for timer in due:
            if timer.callback is not None:
                timer.callback()

    def now(self) -> int:
        return self.time

    def wall_ms(self) -> int:
        return 1_000 + self.time // 1_000_000

    def call_soon(self, callback):
        raise NotImplementedError

    def call_at(self, when, callback):
        self.timers.append(Timer(when, callback))
        return self.timers[-1]


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
    assert len(log.events) == STRANGER_LINES_MAX
    assert peer_log.suppressed == 10_000 - STRANGER_LINES_MAX
    clock.time = 60 * SECOND
    assert peer_log.event("bad", "another")


def test_a_stranger_under_many_names_hides_no_other_event_and_nothing_of_those_who_are_known():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    for number in range(10_000):
        peer_log.event("bad", str(number))
    assert peer_log.event("worse", "a stranger")
    assert peer_log.event("bad", "w1", known=True)
    assert peer_log.event("bad", "w2", known=True)


def test_many_known_peers_are_bounded_too():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    for number in range(10_000):
        peer_log.event("bad", str(number), known=True)
    assert len(log.events) == KNOWN_LINES_MAX


def test_what_was_left_out_is_said_once_a_minute_with_its_count():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    for number in range(100):
        peer_log.event("bad", str(number))
    clock.advance(30 * SECOND)
    for _ in range(5):
        peer_log.event("worse", "p")
    del log.events[:]
    clock.advance(59 * SECOND)
    assert log.events == []
    clock.advance(60 * SECOND)
    left_out = 100 - STRANGER_LINES_MAX
    assert log.events == [
        ("peer_events_suppressed", {"count": left_out + 4, "events": f"bad:{left_out},worse:4"})
    ]
    clock.advance(300 * SECOND)
    assert len(log.events) == 1, "nothing was left out since"


def test_an_owner_that_ends_says_what_was_left_out():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    peer_log.flush()
    for _ in range(3):
        peer_log.event("bad", "p")
    peer_log.flush()
    peer_log.flush()
    clock.advance(100 * SECOND)
    assert log.events[1:] == [("peer_events_suppressed", {"count": 2, "events": "bad:2"})]


def test_the_memory_of_a_peer_log_is_bounded():
    clock, log = StoppedClock(), Kept()
    peer_log = PeerLog(log, clock)
    for minute in range(200):
        clock.advance(minute * 60 * SECOND)
        for number in range(100):
            peer_log.event("bad", f"{minute}/{number}")
    assert len(peer_log._last) <= PEER_LOG_KEYS_MAX
    assert len(clock.timers) <= 1
