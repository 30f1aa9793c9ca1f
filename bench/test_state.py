"""What `apply` costs: tasks without options are submitted, handed out and completed, on a leader and on a follower.

To compare two versions run this in turns, each with its own tree first in PYTHONPATH: on a machine that does other
things as well only the best rounds say something.
"""

import gc
from typing import Any

import msgspec
import pytest

from cluster.state.commands import (
    MACHINE_VERSION,
    OUTCOME_COMPLETED,
    ROLE_CLIENT,
    ROLE_WORKER,
    Command,
    Complete,
    Outcome,
    Register,
    Stamp,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import Assignment, Effects
from cluster.state.machine import Machine

TASKS = 100_000
BATCH = 512
PREFETCH = 256
ROUNDS = 7
NOW_MS = 1_700_000_000_000


def entry(now_ms: int, *commands: Command) -> bytes:
    groups = [[command.__struct_config__.tag, MACHINE_VERSION, [command]] for command in (Stamp(now_ms, 1), *commands)]
    return msgspec.msgpack.encode(groups)


def record() -> list[bytes]:
    """The log of all tasks: each batch is submitted and completed."""
    machine = Machine()
    log: list[bytes] = []
    worker = WorkerSpec(1, ("default",), ("m:f",), PREFETCH)
    seqs = {1: 1, 2: 1, 3: 1}

    def apply(*commands: Command) -> list[tuple[int, list[Assignment]]]:
        effects = Effects()
        log.append(entry(NOW_MS + len(log), *commands))
        machine.apply(len(log), 1, log[-1], effects)
        return list(effects.assignments.items())

    apply(Register("c", 1, ROLE_CLIENT), Register("w1", 1, ROLE_WORKER, worker), Register("w2", 1, ROLE_WORKER, worker))
    for first in range(1, TASKS, BATCH):
        given = apply(Submit(1, seqs[1], seqs[1], [TaskGroup("m:f", first, [b"x" * 100] * BATCH)]))
        seqs[1] += 1
        for session, assignments in given:
            outcomes = [Outcome(a.task, a.attempt, OUTCOME_COMPLETED, NOW_MS, 50, b"done") for a in assignments]
            apply(Complete(session, seqs[session], seqs[session], outcomes))
            seqs[session] += 1
    return log


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_apply(benchmark: Any, role: str) -> None:
    log = record()

    def apply_all() -> None:
        machine = Machine()
        for index, payload in enumerate(log, 1):
            machine.apply(index, 1, payload, Effects() if role == "leader" else None)

    gc.disable()
    try:
        benchmark.pedantic(apply_all, rounds=ROUNDS, warmup_rounds=1)
    finally:
        gc.enable()
    benchmark.extra_info["us_per_task"] = round(benchmark.stats.stats.min / TASKS * 1e6, 3)
