"""Very many duplicates of one task: all of them hear of its end, and it is asked for once."""

from cluster.client.waits import Waits
from cluster.state.commands import TASK_NUMBER_BITS
from cluster.state.effects import STATE_COMPLETED, TaskResult, reference_to

SESSION = 3
BASE = SESSION << TASK_NUMBER_BITS
COUNT = 5_000       # far more than calls may be in each other


class Heard:
    def __init__(self) -> None:
        self.results: list[TaskResult] = []
        self.failed: list[int] = []
        self.followed: list[tuple[int, int]] = []

    def deliver(self, result: TaskResult) -> None:
        self.results.append(result)

    def fail(self, task: int, error: Exception) -> None:
        self.failed.append(task)

    def follow(self, task: int, first: int) -> None:
        self.followed.append((task, first))


def duplicates(first: int) -> list[TaskResult]:
    return [TaskResult(BASE | number, STATE_COMPLETED, 0, reference_to(first)) for number in range(2, COUNT + 2)]


def waiting(numbers: range) -> tuple[Waits, Heard]:
    waits, heard = Waits(), Heard()
    for number in numbers:
        waits.sinks[BASE | number] = heard
    return waits, heard


def test_all_duplicates_get_the_result_of_the_first() -> None:
    waits, heard = waiting(range(1, COUNT + 2))
    first = BASE | 1
    assert waits.deliver(duplicates(first), SESSION) == [], "it is awaited by who submitted it"
    waits.deliver([TaskResult(first, STATE_COMPLETED, 1, b"done")], SESSION)
    assert sorted(result.task for result in heard.results) == [BASE | number for number in range(1, COUNT + 2)]
    assert {result.body for result in heard.results} == {b"done"} and not waits.sinks


def test_the_first_one_of_another_client_is_asked_for_once() -> None:
    waits, heard = waiting(range(2, COUNT + 2))
    first = 9 << TASK_NUMBER_BITS | 1
    assert waits.deliver(duplicates(first), SESSION) == [first]
    waits.deliver([TaskResult(first, STATE_COMPLETED, 1, b"done")], SESSION)
    assert len(heard.results) == COUNT and not waits.sinks
