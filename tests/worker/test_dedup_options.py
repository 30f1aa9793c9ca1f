"""`dedup` and `dedup_window`: what users write, and what they are told."""

from datetime import timedelta

import pytest

from cluster import TaskActor, method, task
from cluster.options import merge_options
from cluster.state.commands import Options
from cluster.task_actor import definition_of


def test_a_key_is_a_text_and_a_window_a_duration() -> None:
    assert merge_options(Options(), {"dedup": "thumb:1"}) == Options(dedup="thumb:1")
    for window in ("1h", 3_600, timedelta(hours=1)):
        assert merge_options(Options(), {"dedup_window": window}).dedup_ms == 3_600_000


def test_a_definition_may_have_the_window_and_a_call_the_key() -> None:
    @task(name="dedup:defined", dedup_window="1h")
    def defined() -> None: ...

    assert defined.options(dedup="k").wire_options == Options(dedup="k", dedup_ms=3_600_000)


@pytest.mark.parametrize("window", [None, 0, "0s"])
def test_none_takes_an_option_away(window: object) -> None:
    keyed = Options(dedup="k", dedup_ms=5)
    assert merge_options(keyed, {"dedup": None, "dedup_window": window}) == Options()


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"dedup": 7}, TypeError, r"dedup: expected a str, not 7; write str\(...\) around it"),
        ({"dedup": b"k"}, TypeError, "dedup: expected a str, not b'k'"),
        ({"dedup": True}, TypeError, "dedup: expected a str, not True"),
        ({"dedup": ""}, ValueError, "dedup: 1 to 255 bytes of UTF-8 are allowed, not 0"),
        ({"dedup": "x" * 256}, ValueError, "dedup: 1 to 255 bytes of UTF-8 are allowed, not 256"),
        ({"dedup": "\ud800"}, ValueError, "is no valid Unicode"),
        ({"dedup": "k", "dedup_window": -1}, ValueError, "dedup_window: .* is negative"),
        ({"dedup": "k", "dedup_window": "11 years"}, ValueError, 'dedup_window: "11 years" is no duration'),
        ({"dedup": "k", "dedup_window": "9999d"}, ValueError, "dedup_window: .* out of range, 0 to 10 years"),
        ({"dedup": "k", "dedup_window": True}, TypeError, "dedup_window: expected a timedelta, seconds or text"),
    ],
)
def test_what_is_wrong_is_refused_where_it_is_written(
    given: dict[str, object], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        task(**given)


@pytest.mark.parametrize(
    ("word", "ours"),
    [("unique", "dedup"), ("idempotency_key", "dedup"), ("job_id", "dedup"), ("unique_for", "dedup_window")],
)
def test_words_of_other_systems_are_known(word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f'unknown task option "{word}": did you mean "{ours}"'):
        merge_options(Options(), {word: "x"})


class Indexed(TaskActor, dedup_window="1m"):
    @method(dedup="rebuild")
    def rebuild(self) -> None: ...


def test_methods_of_an_actor_may_have_them_with_a_key_of_the_actor_too() -> None:
    rebuild = definition_of(Indexed).tasks["rebuild"]
    assert (rebuild.settings.dedup, rebuild.settings.dedup_ms) == ("rebuild", 60_000)
    keyed = rebuild.at("k").wire_options
    assert keyed is not None and (keyed.key, keyed.dedup) == ("k", "rebuild")
