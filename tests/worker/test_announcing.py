"""When an executor tells its worker that there are outcomes: each announcement costs two processes a turn."""

import pytest
from still_process import START, Host

from actors import MICROSECOND, MILLISECOND
from cluster.state.commands import Options
from cluster.state.effects import Assignment
from cluster.task import Task
from cluster.worker.child_messages import Batch, encode
from cluster.worker.executor import Executor

TASKS = 100


def announcements(takes_us: list[int]) -> list[float]:
    """Milliseconds from the start to each announcement, of tasks that take what they are expected to."""
    host = Host()
    waits = iter(takes_us)

    def work() -> None:
        host.clock += next(waits) * MICROSECOND

    task: Task[[], None] = Task(work, "work", Options())
    executor = Executor(host, {"work": task})  # type: ignore[arg-type]
    body = task.encode((), {})
    items = [Assignment(n, 1, 0, us, 60_000, "work", body) for n, us in enumerate(takes_us, start=1)]
    executor.receive(encode(Batch(1, items)))
    while executor.claim():
        executor.run()
    executor.flush()
    return [(at - START) / MILLISECOND for at in host.announced]


@pytest.mark.parametrize(
    ("takes_us", "at_ms"),
    [
        ([100] * TASKS, [10]),                      # when nothing waits any more, long before the 20 ms are over
        ([1_000] * TASKS, [20, 40, 60, 80, 100]),
        ([1_500] * 16, [21, 24]),                   # and so: until then the worker looks by itself
        ([5_000] * 3, [5, 10, 15]),                 # each at once
        ([100, 100, 60_000, 100], [0.2, 60.2, 60.3]),    # nothing that is done waits for what takes long
    ],
    ids=["quick", "a millisecond", "a little more", "long", "one among quick ones"],
)
def test_outcomes_are_announced_as_rarely_as_the_next_task_allows(takes_us, at_ms):
    assert announcements(takes_us) == at_ms
