"""The signal of a soft time limit comes at any time: at each line of the executor it means the task, or nobody."""

import sys
from types import FrameType
from typing import Any

import pytest
from still_process import Host

from cluster.state.commands import OUTCOME_COMPLETED, OUTCOME_FAILED, Options, Outcome
from cluster.state.effects import Assignment
from cluster.task import Task
from cluster.worker.child_messages import Batch, decode_outcomes, encode
from cluster.worker.executor import Executor
from cluster.worker.page import ClaimPage


def raises() -> None:
    raise ValueError("mine")


def returns() -> None: ...


def outcome(function: Any, warned_at: int) -> tuple[Outcome, bool]:
    """How the task ends if the signal comes before this line of `run`, counted in the order in which they run; and
    whether there was such a line."""
    host = Host()
    task: Task[[], None] = Task(function, "f", Options())
    executor = Executor(host, {"f": task})  # type: ignore[arg-type]
    worker = ClaimPage(host.page.view)
    executor.receive(encode(Batch(1, [Assignment(1, 1, 0, 1, 60_000, "f", task.encode((), {}), soft_timeout_ms=1)])))
    assert executor.claim()
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code is not Executor.run.__code__:
            return None
        if event == "line":
            lines += 1
            if lines == warned_at:
                worker.warn(1)
                executor.warn()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        executor.run()
    finally:
        sys.settrace(before)
    executor.claim()                        # writes the outcome
    (ended,) = decode_outcomes(*worker.ring.take())
    return ended, lines >= warned_at


@pytest.mark.parametrize("function", [raises, returns])
def test_whenever_the_warning_comes_the_task_ends_and_its_slot_goes_on(function: Any):
    fates = set()
    line, is_there = 0, True
    while is_there:
        line += 1
        ended, is_there = outcome(function, line)
        fates.add((ended.status, ended.error.type.rpartition(".")[2] if ended.error is not None else ""))
    own = (OUTCOME_COMPLETED, "") if function is returns else (OUTCOME_FAILED, "ValueError")
    assert fates == {own, (OUTCOME_FAILED, "SoftTimeLimit")}
    assert line > 20
