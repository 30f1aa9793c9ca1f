"""Instances of task actors in one child: which one gets a task, and when one is started and stopped."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from cluster.errors import SoftTimeLimit
from cluster.task_actor import TaskActor
from cluster.worker import instances
from cluster.worker.instances import Instances

happened: list[str] = []
failing: list[BaseException] = []


class Noted(TaskActor):
    """Writes down what is done with it; `failing` is raised by the next that is started or stopped."""

    def __init__(self) -> None:
        self.number = 0
        assert self.context.key or self.context.epoch == 0, "an instance knows itself from the beginning"

    def started(self) -> None:
        self._note("started")

    def stopped(self) -> None:
        self._note("stopped")

    def _note(self, what: str) -> None:
        happened.append(f"{what} {self.context.key or 'pool'} {self.context.epoch}")
        if failing:
            raise failing.pop()


class Other(TaskActor): ...


class Later(TaskActor):
    async def started(self) -> None:
        await asyncio.sleep(0)
        happened.append("started later")

    async def stopped(self) -> None:
        await asyncio.sleep(0)
        happened.append("stopped later")


def run(coroutine: Coroutine[Any, Any, None]) -> object:
    return asyncio.run(coroutine)


@pytest.fixture
def held() -> Iterator[Instances]:
    happened.clear()
    failing.clear()
    yield Instances(run, lambda: happened.append("complained"))
    assert not failing, "nothing was started or stopped to raise it"


def test_the_same_instance_serves_all_calls_without_a_key(held: Instances):
    first = held.get(Noted)
    assert held.get(Noted) is first and held.get(Other) is not first
    assert held.get(Noted, "a", 1) is not first
    assert happened == ["started pool 0", "started a 1"]


def test_a_key_has_an_instance_of_its_own_in_each_class(held: Instances):
    a, b = held.get(Noted, "a", 1), held.get(Noted, "b", 1)
    assert a is not b and held.get(Other, "a", 1) is not a
    assert held.get(Noted, "a", 1) is a and (a.context.key, a.context.epoch) == ("a", 1)


@pytest.mark.parametrize("epoch", [1, 3])
def test_in_another_epoch_the_old_instance_is_stopped_before_a_new_one_is_started(held: Instances, epoch: int):
    old = held.get(Noted, "a", 2)
    assert held.get(Noted, "a", epoch) is not old
    assert happened == ["started a 2", "stopped a 2", f"started a {epoch}"]


def test_an_error_in_started_leaves_nothing_and_the_next_task_tries_again(held: Instances):
    failing.append(OSError("no such file"))
    with pytest.raises(OSError, match="no such file"):
        held.get(Noted)
    assert len(held) == 0
    assert held.get(Noted) is held.get(Noted)
    assert happened == ["started pool 0", "started pool 0"]


def test_an_error_in_stopped_is_complained_of_and_holds_up_nothing(held: Instances):
    held.get(Noted, "a", 1)
    failing.append(ValueError("too late"))
    assert held.get(Noted, "a", 2).context.epoch == 2
    assert happened == ["started a 1", "stopped a 1", "complained", "started a 2"]


def test_a_soft_time_limit_in_stopped_is_that_of_the_task_that_waits(held: Instances):
    held.get(Noted, "a", 1)
    failing.append(SoftTimeLimit("now"))
    with pytest.raises(SoftTimeLimit):
        held.get(Noted, "a", 2)
    assert len(held) == 0, "half of an instance is none"


def test_an_instance_that_asked_to_be_restarted_serves_no_other_task(held: Instances):
    first = held.get(Noted)
    first.context.restart()
    assert held.get(Noted) is not first
    assert happened == ["started pool 0", "stopped pool 0", "started pool 0"]


def test_beyond_the_limit_the_one_that_was_unused_for_longest_goes_first(
    held: Instances, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(instances, "KEYED_INSTANCES_MAX", 3)
    pool = held.get(Noted)
    a = held.get(Noted, "a", 1)
    held.get(Noted, "b", 1)
    held.get(Noted, "c", 1)
    assert held.get(Noted, "a", 1) is a
    del happened[:]
    held.get(Noted, "d", 1)
    assert happened == ["stopped b 1", "started d 1"]
    assert held.get(Noted, "a", 1) is a and held.get(Noted) is pool and len(held) == 4


def test_in_the_end_each_is_stopped_whatever_the_others_raise(held: Instances):
    held.get(Noted)
    held.get(Noted, "a", 1)
    held.get(Noted, "b", 1)
    del happened[:]
    failing.append(ValueError("no"))
    held.close()
    assert happened == ["stopped b 1", "complained", "stopped a 1", "stopped pool 0"] and len(held) == 0


def test_both_may_be_asynchronous(held: Instances):
    held.get(Later)
    held.close()
    assert happened == ["started later", "stopped later"]
