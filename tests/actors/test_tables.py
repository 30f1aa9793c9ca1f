"""Timers, asks, monitors and names: the pure tables behind a system."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.asks import Asks
from actors.errors import AskDied, AskTimeout, NameTaken
from actors.messages import NORMAL
from actors.monitors import Monitors
from actors.registry import Registry
from actors.timers import Timers


def test_timers_are_due_in_the_order_of_their_times_then_of_setting():
    timers: Timers[str, int] = Timers()
    for key, when in (("c", 30), ("a", 10), ("b", 10)):
        timers.set(key, when, when)
    assert timers.next() == 10
    assert timers.due(9) == []
    assert timers.due(30) == [("a", 10), ("b", 10), ("c", 30)]
    assert timers.next() is None


def test_setting_a_key_again_replaces_it():
    timers: Timers[str, str] = Timers()
    timers.set("k", 10, "first")
    timers.set("k", 20, "second")
    assert timers.due(10) == []
    assert timers.due(20) == [("k", "second")]


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "due"]), st.integers(0, 5), st.integers(0, 50))))
def test_timers_behave_like_a_sorted_dict(steps):
    timers: Timers[int, int] = Timers()
    model: dict[int, tuple[int, int]] = {}
    for number, (step, key, when) in enumerate(steps):
        if step == "set":
            timers.set(key, when, number)
            model[key] = (when, number)
        elif step == "cancel":
            gone = model.pop(key, None)
            assert timers.cancel(key) == (None if gone is None else gone[1])
        else:
            due = sorted((at, value, key) for key, (at, value) in model.items() if at <= when)
            assert timers.due(when) == [(key, value) for at, value, key in due]
            for _, _, key in due:
                del model[key]
        assert timers.next() == min((at for at, _ in model.values()), default=None)


def test_a_heap_of_cancelled_timers_does_not_grow():
    timers: Timers[int, None] = Timers()
    for key in range(10_000):
        timers.set(key, 1_000_000 + key, None)
        timers.cancel(key)
    assert len(timers._heap) < 200


@given(st.permutations(["answer", "fail", "expire", "abandon"]))
def test_an_ask_ends_exactly_once_whoever_comes_first(order):
    asks = Asks()
    outcomes: list[object] = []
    number = asks.open(100, lambda value, error: outcomes.append(error or value))
    for step in order:
        if step == "answer":
            asks.answer(number, "value")
        elif step == "fail":
            asks.fail(number, AskDied(NORMAL))
        elif step == "expire":
            asks.expire(100)
        else:
            asks.abandon(number)
    assert len(outcomes) == (0 if order[0] == "abandon" else 1)
    assert len(asks) == 0


def test_an_ask_expires_at_its_deadline_and_not_before():
    asks = Asks()
    outcomes: list[object] = []
    asks.open(100, lambda value, error: outcomes.append(error))
    assert asks.expire(99) == 0
    assert asks.next_deadline() == 100
    assert asks.expire(100) == 1
    assert isinstance(outcomes[0], AskTimeout)


def test_each_monitor_yields_its_own_reference_and_fires_once():
    """W2: watching twice yields two."""
    monitors: Monitors[str, str] = Monitors()
    first, second = monitors.add("w", "t"), monitors.add("w", "t")
    assert monitors.fire("t") == [("w", first), ("w", second)]
    assert monitors.fire("t") == []
    assert monitors.take(first)
    assert not monitors.take(first)


def test_a_dropped_reference_is_not_taken_even_if_it_has_fired():
    """W3."""
    monitors: Monitors[str, str] = Monitors()
    reference = monitors.add("w", "t")
    monitors.fire("t")
    assert monitors.drop("w", reference) == "t"
    assert not monitors.take(reference)


def test_nobody_drops_the_reference_of_somebody_else():
    monitors: Monitors[str, str] = Monitors()
    reference = monitors.add("w", "t")
    assert monitors.drop("other", reference) is None
    assert monitors.fire("t") == [("w", reference)]


def test_a_watcher_that_ends_leaves_nothing_behind():
    """W7."""
    monitors: Monitors[str, str] = Monitors()
    references = [monitors.add("w", target) for target in ("a", "b", "a")]
    monitors.fire("b")
    assert monitors.watcher_gone("w") == list(zip(references, ["a", "b", "a"], strict=True))
    assert len(monitors) == 0
    assert not monitors.watched("a")


def test_a_name_belongs_to_one_at_a_time():
    registry: Registry[str] = Registry()
    registry.register("n", "first")
    with pytest.raises(NameTaken):
        registry.register("n", "second")
    registry.unregister("n", "first")
    registry.register("n", "second")
    assert registry.find("n") == "second"


def test_a_fresh_name_is_not_one_that_is_taken():
    registry: Registry[str] = Registry()
    registry.register("Echo-1", "x")
    assert registry.fresh("Echo") == "Echo-2"
