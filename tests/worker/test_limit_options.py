"""`rate`, `concurrency`, `share` and `limit`: what users write, and what they are told."""

import math

import pytest

from cluster import TaskActor, method, task
from cluster.options import merge_options
from cluster.state.commands import LineRule, Options
from cluster.task_actor import definition_of


def line_of(**given: object) -> LineRule | None:
    return merge_options(Options(), given).line


@pytest.mark.parametrize(
    ("rate", "starts", "period_ms"),
    [
        ("100/s", 100, 1_000),
        ("100/m", 100, 60_000),
        ("100/h", 100, 3_600_000),
        ("5/d", 5, 86_400_000),
        ("3/10s", 3, 10_000),
        ("1/250ms", 1, 250),
        ("7/1h30m", 7, 5_400_000),
        (" 100 / m ", 100, 60_000),
        ("1000000000/366d", 1_000_000_000, 366 * 86_400_000),
    ],
)
def test_a_rate_is_so_many_in_a_time(rate: str, starts: int, period_ms: int) -> None:
    assert line_of(rate=rate) == LineRule(starts=starts, period_ms=period_ms)


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"rate": "0/m"}, ValueError, 'rate: "0/m" is out of range, 1 to 1,000,000,000 in a period are allowed'),
        ({"rate": "-5/m"}, ValueError, 'rate: "-5/m" is no rate; write how many in which time, for example "100/m"'),
        ({"rate": "100/fortnight"}, ValueError, '"100/fortnight" is no rate; write how many in which time'),
        ({"rate": "100"}, ValueError, '"100" is no rate'),
        ({"rate": "100/"}, ValueError, '"100/" is no rate'),
        ({"rate": "1.5/s"}, ValueError, '"1.5/s" is no rate'),
        ({"rate": "1/60"}, ValueError, '"1/60" is no rate'),
        ({"rate": ""}, ValueError, '"" is no rate'),
        ({"rate": "9" * 5_000 + "/s"}, ValueError, "is out of range, 1 to 1,000,000,000 in a period"),
        ({"rate": "1/9ms"}, ValueError, '"1/9ms" is out of range, periods of 10ms to 366d are allowed'),
        ({"rate": "1/0s"}, ValueError, '"1/0s" is out of range, periods of 10ms to 366d'),
        ({"rate": "1/367d"}, ValueError, '"1/367d" is out of range, periods of 10ms to 366d'),
        ({"rate": "1/-1s"}, ValueError, '"1/-1s" is no rate'),
        ({"rate": "1e3/s"}, ValueError, '"1e3/s" is no rate'),
        ({"rate": "3/5m5m"}, ValueError, '"3/5m5m" is no rate; .* each at most once and in this order'),
        ({"rate": "5/s/s"}, ValueError, '"5/s/s" is no rate'),
        ({"rate": "inf/s"}, ValueError, '"inf/s" is no rate'),
        ({"rate": "1/9999999d"}, ValueError, '"1/9999999d" is out of range, periods of 10ms to 366d'),
        ({"rate": f"1/{'9' * 400}d"}, ValueError, "is out of range, periods of 10ms to 366d"),
        ({"rate": -5}, TypeError, 'rate: expected text such as "100/m", not -5'),
        ({"rate": b"5/s"}, TypeError, "rate: expected text such as \"100/m\", not b'5/s'"),
        ({"rate": math.inf}, TypeError, 'rate: expected text such as "100/m", not inf'),
        ({"rate": 100}, TypeError, 'rate: expected text such as "100/m", not 100'),
        ({"concurrency": 0}, ValueError, "concurrency: 0 is out of range, 1 to 1,000,000,000 at a time are allowed"),
        ({"concurrency": -2}, ValueError, "concurrency: -2 is out of range"),
        ({"concurrency": 10**10}, ValueError, "concurrency: 10000000000 is out of range"),
        ({"concurrency": 2.0}, TypeError, r"concurrency: expected how many at a time, not 2\.0"),
        ({"concurrency": math.nan}, TypeError, "concurrency: expected how many at a time, not nan"),
        ({"concurrency": "2"}, TypeError, "concurrency: expected how many at a time, not '2'"),
        ({"concurrency": True}, TypeError, "concurrency: expected how many at a time, not True"),
        ({"share": 7}, TypeError, r"share: expected a str, not 7; write str\(...\) around it"),
        ({"share": -1}, TypeError, "share: expected a str, not -1"),
        ({"share": b"a"}, TypeError, "share: expected a str, not b'a'"),
        ({"share": True}, TypeError, "share: expected a str, not True"),
        ({"share": ["a"]}, TypeError, r"share: expected a str, not \['a'\]"),
        ({"share": ""}, ValueError, "share: 1 to 255 bytes of UTF-8 are allowed, not 0"),
        ({"share": "x" * 256}, ValueError, "share: 1 to 255 bytes of UTF-8 are allowed, not 256"),
        ({"share": "\N{SNOWMAN}" * 86}, ValueError, "not 258"),
        ({"share": "\ud800"}, ValueError, "is no valid Unicode"),
        ({"limit": "", "rate": "1/s"}, ValueError, "limit: 1 to 255 bytes of UTF-8 are allowed, not 0"),
        ({"limit": -1, "rate": "1/s"}, TypeError, "limit: expected a str, not -1"),
        ({"limit": 7, "rate": "1/s"}, TypeError, "limit: expected a str, not 7"),
        ({"limit": "x" * 256, "rate": "1/s"}, ValueError, "limit: 1 to 255 bytes"),
        ({"limit": "smtp"}, ValueError, 'limit: "smtp" is a name; say with rate or concurrency what the limit is'),
        ({"limit": "100/m"}, ValueError, 'limit: "100/m" is a rate: write rate="100/m"'),
    ],
)
def test_what_is_wrong_is_refused_where_it_is_written_with_what_is_allowed(
    given: dict[str, object], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        task(**given)
    with pytest.raises(kind, match=told):
        task(name="limits:right")(lambda: None).options(**given)


@pytest.mark.parametrize(
    ("word", "ours"),
    [("rate_limit", "rate"), ("group", "share"), ("max_runs", "concurrency"), ("shar", "share"), ("limits", "limit")],
)
def test_words_of_other_systems_are_known(word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f'unknown task option "{word}": did you mean "{ours}"'):
        line_of(**{word: "x"})


def test_a_call_changes_what_it_names_and_none_takes_it_away() -> None:
    limited = merge_options(Options(), {"rate": "100/m", "concurrency": 2, "limit": "smtp"})
    assert limited.line == LineRule("", "smtp", 2, 100, 60_000)
    shared = merge_options(limited, {"share": "tenant-7", "rate": None})
    assert shared.line == LineRule("tenant-7", "smtp", 2)
    assert merge_options(shared, {"share": None, "limit": None, "concurrency": None}) == Options()
    with pytest.raises(ValueError, match='limit: "smtp" is a name'):
        merge_options(shared, {"concurrency": None})


def test_a_task_without_any_of_them_travels_as_before() -> None:
    @task(name="limits:plain")
    def plain() -> None: ...

    assert plain.wire_options is None
    assert plain.options(share="a").wire_options == Options(line=LineRule("a"))
    assert plain.options(share="a").options(share=None).wire_options is None


class Limited(TaskActor, rate="10/s"):
    def predict(self) -> None: ...

    @method(concurrency=2)
    def train(self) -> None: ...

    @method(rate=None)
    def look(self) -> None: ...


def test_methods_of_an_actor_have_limits_of_their_own() -> None:
    tasks = definition_of(Limited).tasks
    assert tasks["predict"].settings.line == LineRule(starts=10, period_ms=1_000)
    assert tasks["train"].settings.line == LineRule(concurrency=2, starts=10, period_ms=1_000)
    assert tasks["look"].settings.line is None


def test_calls_with_a_key_have_none() -> None:
    tasks = definition_of(Limited).tasks
    with pytest.raises(ValueError, match="predict: rate, concurrency, share and limit are not for calls with a key"):
        tasks["predict"].at("k")
    keyed = tasks["look"].at("k")
    with pytest.raises(ValueError, match="not for calls with a key: tasks of a key wait in a line of their own"):
        keyed.options(share="a")
