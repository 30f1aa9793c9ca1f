"""What is recorded of a task whose child did not live to say it: outcome and failure, with the last words of the child.

Who is to blame for the end of a child is decided by who holds the tasks: `cluster.worker.slots`,
`cluster.worker.loop_slots`.
"""

from msgspec import Struct

from cluster.state.commands import Failure, Outcome
from cluster.state.effects import Assignment

Nanos = int

STDERR_BYTES_MAX = 4 * 1024


class Ended(Struct, frozen=True):
    """How a child ended, and when (boot clock, wall clock)."""

    code: int | None
    signal: int | None
    stderr: bytes
    now: Nanos
    wall_ms: int
    log: str = ""                   # of the task that it had claimed last


ALIVE = Ended(None, None, b"", 0, 0)    # a child that lives on


def blamed(assignment: Assignment, status: int, failure: Failure | None, started: Nanos, ended: Ended) -> Outcome:
    """The outcome of a task that ran from `started` to the end of its child."""
    ran = max(0, ended.now - started)
    return Outcome(
        assignment.task,
        assignment.attempt,
        status,
        ended.wall_ms - ran // 1_000_000,
        ran // 1_000,
        b"",
        failure,
    )


def crash(ended: Ended) -> Failure:
    """The child died by itself."""
    if ended.signal is not None:
        return failure_of_child("ChildKilled", f"its process was ended by signal {ended.signal}", ended)
    return failure_of_child("ChildExited", f"its process ended with exit code {ended.code}", ended)


def time_limit(assignment: Assignment, ended: Ended) -> Failure:
    """The task ran for longer than it may."""
    seconds = f"{assignment.timeout_ms / 1_000:g}"
    message = f"it ran longer than its time limit of {seconds} s"
    kinds = ("TimeLimitExceeded", "TimeoutError", "Exception")
    return failure_of_child("TimeLimitExceeded", message, ended, kinds)


def not_stopped(ended: Ended) -> Failure:
    """The task was cancelled and ran on for longer than its grace."""
    return failure_of_child("TaskCancelled", "it was cancelled and did not stop by itself", ended)


def failure_of_child(kind: str, message: str, ended: Ended, kinds: tuple[str, ...] = ()) -> Failure:
    """With how the child ended and the end of what it printed. `kinds` are the names of the types that a retry may be
    for, as in Failure; () = none: what becomes of a lost child's task is no matter of `retry=`."""
    return Failure(
        kind,
        message,
        exit_code=-1 if ended.code is None else ended.code,
        signal=-1 if ended.signal is None else ended.signal,
        stderr=ended.stderr[-STDERR_BYTES_MAX:].decode("utf-8", "replace"),
        kinds=kinds,
        log=ended.log,
    )
