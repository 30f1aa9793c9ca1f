"""Single tasks as brokers tell clients of them. What they say is read from the state by `inspection`."""

from msgspec import Struct

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_TIMED_OUT,
    OUTCOME_UNMET,
)
from cluster.state.tasks import Attempt

OUTCOME_NAMES = {
    OUTCOME_COMPLETED: "completed",
    OUTCOME_FAILED: "failed",
    OUTCOME_CRASHED: "crashed",
    OUTCOME_TIMED_OUT: "timed out",
    OUTCOME_RETURNED: "returned",
    OUTCOME_CANCELLED: "cancelled",
    OUTCOME_UNMET: "not run",
}

# Where a held task is at its slot. Only a leader hears which of them run.
PLACE_NONE = 0          # not held
PLACE_UNKNOWN = 1
PLACE_WAITS = 2
PLACE_RUNS = 3

ARGUMENTS_BYTES_MAX = 4 * 1024      # encoded, that are told of one task
WAITS_FOR_MAX = 10


class TaskRow(Struct, array_like=True, gc=False, frozen=True):
    """One task in a list. `attempt` = how often it was handed out. `worker` holds it, or had its last attempt, whose
    times follow (0 = not known); `session` and `slot` are those of a holder, else 0 and -1. `parked`: it waits, and no
    live worker serves its name in its queue.
    """

    task: int
    state: str
    name: str
    queue: str
    priority: int
    attempt: int
    crashes: int
    failures: int
    is_delayed: bool
    is_parked: bool
    is_cancelled: bool
    worker: str
    session: int
    slot: int
    place: int
    started_ms: int
    ended_ms: int
    error: str
    why_parked: str = ""    # what a worker would need that took it, as in the status
    why_held_back: str = ""     # by which limit, likewise
    until_ms: int = 0       # then: the date of the limit's next start, 0 = it waits for another's end
    missing: int = 0        # of the tasks that it needs and waits for: how many ends it was not told of


class TaskDetails(Struct, array_like=True, gc=False, frozen=True):
    """All that the state has of one task. `body_bytes` are of its arguments, once it has completed of its result.
    `ready_at_ms` is 0 if it is not delayed, or has its date behind too many others. `grace_ms` -1 = not cancelled.
    `arguments` are its body, None if that is longer than ARGUMENTS_BYTES_MAX, or holds the result. `schedule` and
    `slot_ms` are of a run of a schedule. `dedup` is the key of its work; a duplicate says of which task, others 0.
    `needs` is how many tasks it needs, and `waits_for` the first of those that have not ended, WAITS_FOR_MAX at most.
    """

    row: TaskRow
    attempts: list[Attempt]
    timeout_ms: int
    soft_timeout_ms: int
    result_ttl_ms: int
    retries: int
    expires_at_ms: int
    ready_at_ms: int
    grace_ms: int
    body_bytes: int
    arguments: bytes | None = None
    schedule: str = ""
    slot_ms: int = 0
    dedup: str = ""
    duplicate_of: int = 0
    needs: int = 0
    waits_for: list[int] = []
