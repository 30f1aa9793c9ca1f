"""What a user sees of single tasks: lists of them, and one with all that its record has."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from cluster.client.arguments import call_of
from cluster.client.paging import Pages, checked_limit
from cluster.client.waits import NO_RECORD_ADVICE
from cluster.errors import TaskNotFound
from cluster.state.task_rows import OUTCOME_NAMES, PLACE_RUNS, PLACE_WAITS, TaskDetails, TaskRow
from cluster.state.tasks import Attempt
from cluster.wire import NO_TOTAL, ListTasks, ShowTask, TaskRows, TaskShown

if TYPE_CHECKING:
    from cluster.client.client import Client

STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled", "expired", "duplicate")
PAGE_TASKS = 1_000                      # asked for at once
DATE_MS_END = 253_402_300_800_000       # the year 10000: a worker whose clock says that has none

_PLACES = {PLACE_RUNS: True, PLACE_WAITS: False}


class AttemptInfo(Struct, frozen=True, kw_only=True):
    """One attempt of a task that has ended. `outcome` is completed, failed, crashed (its process ended), timed out,
    cancelled, or returned (handed back, or lost with its worker: not counted). None and "" are what nobody could say.
    """

    number: int
    worker: str
    outcome: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stderr: str = ""            # the last 4 KiB, if its process ended
    log: str = ""               # the last 4 KiB of what it wrote to `current().log`


class TaskInfo(Struct, frozen=True, kw_only=True):
    """What the cluster has of one task. In a list it ends with `missing`: what follows is of `Client.task`."""

    id: int
    state: str                          # pending, processing, completed, failed, dead, cancelled, expired or duplicate
    name: str
    queue: str
    priority: int
    attempt: int                        # how often it was handed out: the number of its current or last attempt
    crashes: int                        # attempts that ended their process, or were lost alone with their worker
    failures: int                       # attempts that raised, after which it was tried again
    delayed: bool                       # pending, and not due yet: for its `delay`, or before a retry
    parked: bool                        # pending, and no live worker serves its name in its queue
    cancelling: bool                    # processing, and its worker is to stop it
    worker: str = ""                    # that has it, or had its last attempt
    slot: int | None = None             # of that worker, if it is processing
    running: bool | None = None         # if it is processing: runs, or waits there; None if the broker does not know
    started_at: datetime | None = None  # the last attempt that has ended
    ended_at: datetime | None = None
    error: str = ""                     # of the last attempt: type, and the message's first line
    parked_why: str = ""                # what a worker would need that took it
    held_back_why: str = ""             # pending: which limit it waits for
    held_back_until: datetime | None = None     # then: when that lets the next one start; None: when another ends
    missing: int = 0                    # pending: how many tasks it waits for: it needs them, or gets the key of one
    attempts: tuple[AttemptInfo, ...] = ()      # that have ended, the last 10
    timeout_s: float | None = None
    soft_timeout_s: float | None = None         # None: it has none
    result_ttl_s: float | None = None
    retries: int | None = None                  # how often it is tried again if it raises
    expires_at: datetime | None = None          # None: it does not expire
    ready_at: datetime | None = None            # if it is delayed; None if too many other dates come before
    cancel_grace_s: float | None = None         # if it is being cancelled
    body_bytes: int | None = None               # of its arguments, encoded; once it has completed of its result
    args: tuple[object, ...] | None = None      # its arguments as plain values, all of which JSON has
    kwargs: dict[str, object] | None = None
    arguments_why: str = ""                     # why there are none: they are too long, not kept, or nothing for JSON
    progress: tuple[int, int | None] | None = None      # done, and of how much, if it runs and has said so
    schedule: str = ""                          # whose run it is; "" if it was submitted
    scheduled_at: datetime | None = None        # the time that this run is for
    dedup: str = ""                             # the key of its work; "" if it has none
    duplicate_of: int | None = None             # the task that did its work
    needs: int = 0                              # how many tasks it needs, unless it has completed
    waits_for: tuple[int, ...] = ()             # the first 10 of those that it waits for


class Listing(Pages[TaskInfo]):
    """One list of tasks, page by page. Raises ValueError and TypeError for what cannot be asked."""

    def __init__(
        self,
        client: "Client",
        state: str | Iterable[str] | None,
        queue: str | None,
        name: str | None,
        limit: int | None,
        *,
        stale: bool,
    ) -> None:
        self._client = client
        self._states = _checked_states(state)
        self._queue = _checked_name("queue", queue)
        self._name = _checked_name("name", name)
        self._left = checked_limit("tasks", limit)
        self._stale = stale
        self._after = 0
        self._ended = self._left == 0

    async def page(self) -> list[TaskInfo]:
        rows: list[TaskRow] = []
        while not rows and not self._ended:
            rows = await self._rows()
        return [info_of(row) for row in rows]

    async def _rows(self) -> list[TaskRow]:
        """One answer: perhaps none of what the broker looked at was asked for."""
        client, left = self._client, self._left
        size = PAGE_TASKS if left is None else min(PAGE_TASKS, left)
        end = client._deadline_at(client._deadline)
        answer: TaskRows = await client._ask(
            lambda number: ListTasks(number, self._after, size, self._states, self._queue, self._name, self._stale),
            end,
            stale=self._stale,
        )
        self._after = answer.after
        if left is not None:
            self._left = left - len(answer.rows)
        self._ended = self._after == 0 or self._left == 0
        return answer.rows


async def show(client: "Client", task: int, *, stale: bool) -> TaskInfo:
    """One task. Raises TaskNotFound."""
    checked_id(task)
    end = client._deadline_at(client._deadline)
    answer: TaskShown = await client._ask(lambda number: ShowTask(number, task, stale), end, stale=stale)
    if answer.found is None:
        raise TaskNotFound(f"the cluster has no record of task {task}: {NO_RECORD_ADVICE}")
    return info_of(answer.found.row, answer.found, answer.progress)


def info_of(
    row: TaskRow, details: TaskDetails | None = None, progress: tuple[int, int] | None = None
) -> TaskInfo:
    """A row as users see it, and what else is known of that task."""
    info = TaskInfo(
        id=row.task,
        state=row.state,
        name=row.name,
        queue=row.queue,
        priority=row.priority,
        attempt=row.attempt,
        crashes=row.crashes,
        failures=row.failures,
        delayed=row.is_delayed,
        parked=row.is_parked,
        cancelling=row.is_cancelled,
        worker=row.worker,
        slot=row.slot if row.slot >= 0 else None,
        running=_PLACES.get(row.place),
        started_at=_date(row.started_ms),
        ended_at=_date(row.ended_ms),
        error=row.error,
        parked_why=row.why_parked,
        held_back_why=row.why_held_back,
        held_back_until=_date(row.until_ms),
        missing=row.missing,
    )
    if details is None:
        return info
    call = call_of(row.state, details.arguments, details.body_bytes)
    return structs.replace(
        info,
        attempts=tuple(map(_attempt, details.attempts)),
        timeout_s=details.timeout_ms / 1_000,
        soft_timeout_s=details.soft_timeout_ms / 1_000 if details.soft_timeout_ms else None,
        result_ttl_s=details.result_ttl_ms / 1_000,
        retries=details.retries,
        expires_at=_date(details.expires_at_ms),
        ready_at=_date(details.ready_at_ms),
        cancel_grace_s=details.grace_ms / 1_000 if details.grace_ms >= 0 else None,
        body_bytes=details.body_bytes,
        args=call.args,
        kwargs=call.kwargs,
        arguments_why=call.why,
        progress=None if progress is None else (progress[0], None if progress[1] == NO_TOTAL else progress[1]),
        schedule=details.schedule,
        scheduled_at=_date(details.slot_ms),
        dedup=details.dedup,
        duplicate_of=details.duplicate_of or None,
        needs=details.needs,
        waits_for=tuple(details.waits_for),
    )


def _attempt(attempt: Attempt) -> AttemptInfo:
    error = attempt.error
    ended = AttemptInfo(
        number=attempt.number,
        worker=attempt.worker,
        outcome=OUTCOME_NAMES.get(attempt.status, "unknown"),
        started_at=_date(attempt.started_ms),
        ended_at=_date(attempt.ended_ms),
    )
    if error is None:
        return ended
    return structs.replace(
        ended,
        error_type=error.type,
        error_message=error.message,
        traceback=error.traceback,
        exit_code=error.exit_code if error.exit_code >= 0 else None,
        signal=error.signal if error.signal >= 0 else None,
        stderr=error.stderr,
        log=error.log,
    )


def _date(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1_000, UTC) if 0 < ms < DATE_MS_END else None


# -- what can be asked ------------------------------------------------------------------------------------------------


def checked_id(task: object) -> int:
    if isinstance(task, bool) or not isinstance(task, int):
        raise TypeError(f"a task's id is an int, not {task!r}; int(...) it if it comes as text")
    if not 0 <= task < 1 << 64:
        raise ValueError(f"{task} is no task's id: they have 64 bits")
    return task


def ids_of(tasks: object) -> Iterator[int]:
    """Ids of tasks, checked one by one. Raises TypeError at once for what is not several of them."""
    if not isinstance(tasks, Iterable) or isinstance(tasks, str | bytes):
        raise TypeError(f"tasks: expected ids of tasks, such as [{tasks!r}], not {tasks!r} alone")
    return map(checked_id, tasks)


def _checked_states(state: str | Iterable[str] | None) -> tuple[str, ...]:
    states = () if state is None else (state,) if isinstance(state, str) else tuple(state)
    if state is not None and not states:
        raise ValueError("state: give one state at least, or None for all")
    for one in states:
        if one not in STATES:
            raise ValueError(f"state: {one!r} is none; there are {', '.join(STATES)}")
    return tuple(dict.fromkeys(states))


def _checked_name(what: str, value: str | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a name, not {value!r}")
    if not value:
        raise ValueError(f'{what}: "" is no name; leave it out for all')
    return value
