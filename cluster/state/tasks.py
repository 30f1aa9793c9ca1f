"""Task records, and the table that finds them by id.

A task is one record from submit until it is forgotten (`eviction`). There is no second object for its result, its
holder or its first attempt: they are fields. `body` holds the arguments until the task is completed, then the result.
What ended otherwise keeps its arguments, for it may be replayed (`replays`); clients are not told them.

Tables that grow with load are 256 dicts, since a single dict that grows past millions of keys stalls one
insert for hundreds of milliseconds. Neighbouring ids share a dict in runs of 1,024, so that a batch touches
one or two of them and their newest memory; the session is mixed in, so that many short sessions spread as
well.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from cluster.state.commands import GRACE_NONE, OUTCOME_COMPLETED, TASK_NUMBER_BITS, Failure
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD, STATE_EXPIRED, STATE_FAILED, TaskResult, referred
from cluster.state.queues import PENDING, Message
from cluster.state.texts import head, tail

CRASHES_MAX = 3                 # a task that crashed so often is dead
ATTEMPTS_KEPT_MAX = 10          # the last ones
TRACEBACK_BYTES_MAX = 8 * 1024
STDERR_BYTES_MAX = 4 * 1024
LOG_BYTES_MAX = 4 * 1024
ERROR_TYPE_BYTES_MAX = 512
ERROR_MESSAGE_BYTES_MAX = 4 * 1024
DATE_MS_MAX = 1 << 53

SHARDS = 256
RUN_BITS = 10                                       # ids that differ in these bits only share a dict
SESSION_SHIFT = TASK_NUMBER_BITS - RUN_BITS         # from a run number to the session

assert SHARDS & (SHARDS - 1) == 0


class Attempt(Struct, array_like=True, gc=False, frozen=True):
    """One ended attempt. `status` is its OUTCOME_*; times are 0 where the worker could not say."""

    number: int
    worker: str
    status: int
    started_ms: int
    ended_ms: int
    error: Failure | None = None


class Task(Message, gc=False):
    """A task. `worker`, `started_ms` and `run_us` are of the attempt that completed it. Once terminal,
    `attempt` is how often it was handed out, and `lot` the number of the lot that it is in (`retention`).

    `attempts` stays None until an attempt ends otherwise, or has logged: a silent first-try success needs no list.
    """

    worker: str = ""
    started_ms: int = 0
    run_us: int = 0
    crashes: int = 0
    attempts: list[Attempt] | None = None
    lot: int = 0
    failures: int = 0           # attempts that raised, of which it was tried again
    grace_ms: int = GRACE_NONE  # if it is held and was cancelled: what its worker was told
    replays: int = 0            # how often it was run again after its end; dates of earlier lives are void

    @property
    def is_terminal(self) -> bool:
        return self.state < PENDING

    @property
    def duplicate_of(self) -> int:
        """The task whose record is its own (`following`); 0 = it has one itself, or has not ended."""
        return 0 if self.attempt or self.state != STATE_COMPLETED else referred(self.body)

    @property
    def is_cancelled(self) -> bool:
        """Its worker was told to stop it: unless it is quicker, this attempt is its last."""
        return self.grace_ms != GRACE_NONE

    @property
    def expires_at_ms(self) -> int:
        """0 = never: a task that was replayed does not expire, who replays it wants it to run."""
        return 0 if self.replays else self.spec.expires_at_ms

    def record(self, attempt: Attempt) -> Attempt | None:
        """Writes an attempt down (`Evidence.record` does it); returns the one that was dropped for it."""
        if self.attempts is None:
            self.attempts = []
        self.attempts.append(attempt)
        return self.attempts.pop(0) if len(self.attempts) > ATTEMPTS_KEPT_MAX else None

    def all_attempts(self) -> list[Attempt]:
        """Its ended attempts, the last ATTEMPTS_KEPT_MAX of them."""
        if self.attempts is None and self.state == STATE_COMPLETED and self.attempt:
            ended_ms = end_ms(self.started_ms, self.run_us)
            return [Attempt(self.attempt, self.worker, OUTCOME_COMPLETED, self.started_ms, ended_ms)]
        return list(self.attempts or ())

    def result(self) -> TaskResult:
        """Its terminal record, as its client sees it."""
        assert self.is_terminal
        error = None
        if self.state in (STATE_FAILED, STATE_DEAD, STATE_EXPIRED) and self.attempts:
            error = self.attempts[-1].error
        body = self.body if self.state == STATE_COMPLETED else b""
        return TaskResult(self.id, self.state, self.attempt, body, error)


class TaskTable:
    """All tasks by id."""

    __slots__ = ("shards",)

    def __init__(self) -> None:
        self.shards: list[dict[int, Task]] = [{} for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum([len(shard) for shard in self.shards])

    def shard(self, run: int) -> dict[int, Task]:
        """The dict of the ids with `id >> RUN_BITS == run`."""
        return self.shards[(run ^ run >> SESSION_SHIFT) & (SHARDS - 1)]

    def get(self, task: int) -> Task | None:
        return self.shard(task >> RUN_BITS).get(task)

    def find(self, tasks: Iterable[int]) -> Iterator[Task | None]:
        """The tasks of these ids, None for those that are not known. Neighbours are mostly in one dict."""
        run = -1
        shard: dict[int, Task] = {}
        for task in tasks:
            if task >> RUN_BITS != run:
                run = task >> RUN_BITS
                shard = self.shard(run)
            yield shard.get(task)

    def in_order(self) -> Iterator[Task]:
        """All tasks, in an order that depends on their ids only."""
        for shard in self.shards:
            for task in sorted(shard):
                yield shard[task]


def place_of(task: int) -> int:
    """Which of the dicts has the task of this id: `TaskTable.shard`, for those who go through all of them."""
    run = task >> RUN_BITS
    return (run ^ run >> SESSION_SHIFT) & (SHARDS - 1)


def end_ms(started_ms: int, run_us: int) -> int:
    """When an attempt ended, kept within what can be encoded whatever a worker says."""
    return max(-DATE_MS_MAX, min(started_ms + run_us // 1_000, DATE_MS_MAX))


def bounded(failure: Failure | None) -> Failure | None:
    """`failure` as it is kept: the ends of long texts, where the cause is; the start of type and message."""
    if failure is None:
        return None
    return Failure(
        head(failure.type, ERROR_TYPE_BYTES_MAX),
        head(failure.message, ERROR_MESSAGE_BYTES_MAX),
        tail(failure.traceback, TRACEBACK_BYTES_MAX),
        failure.exit_code,
        failure.signal,
        tail(failure.stderr, STDERR_BYTES_MAX),
        log=tail(failure.log, LOG_BYTES_MAX),
    )
