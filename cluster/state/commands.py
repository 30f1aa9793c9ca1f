"""Commands: what can be written into the log. Their integer tags and field order are on disk for ever.

An entry's payload is msgpack of `[[kind, machine_version, commands], ...]`; `kind` is the tag of the command
structs in that group. Structs grow by appending fields with defaults. Times are integer milliseconds unless the
name says otherwise. A task's id is `(session << 24) | n`, with `n` counted by the client from 1.
"""

from msgspec import Struct

MACHINE_VERSION = 1
TASK_NUMBER_BITS = 24
SUBMIT_TASKS_MAX = 1_024
SUBMIT_BYTES_MAX = 256 * 1024
BODY_BYTES_MAX = 1024 * 1024
SESSION_WINDOW_COMMANDS = 64

PRIORITY_MAX = 9
DATE_MS_MAX = 253_402_300_799_999       # of Options, the last of the year 9999
PRIORITY_DEFAULT = 5
QUEUE_DEFAULT = "default"
TIMEOUT_DEFAULT_MS = 30 * 60 * 1000
RESULT_TTL_DEFAULT_MS = 60 * 60 * 1000
PREFETCH_AUTO = 0
GRACE_MS_MAX = 10 * 60 * 1000
GRACE_NONE = -1          # of a Cancel: what runs is given up at once
RETRIES_MAX = 1_000
RETRY_FACTOR_MAX = 10
RETRY_TYPES_MAX = 32
KINDS_MAX = 32           # of a Failure; more are not looked at
REPLAY_TASKS_MAX = 1_024 # in one command
REPLAYED_BITS = 16       # of the answer of a Replay that is crowded

NEEDS_MAX = 16_384              # of one task
NEEDS_COMMAND_MAX = 65_536      # of all tasks of a Submit, or that a Replay runs again
INPUTS_BYTES_MAX = 4 * 1024 * 1024      # results of what one task needs, together

HOLD_MS_MIN = 2_000      # of a claim: four heartbeats of its client
HOLD_MS_MAX = 60 * 60 * 1_000        # a client that is silent for so long loses its session
LOCK_NOTE_BYTES_MAX = 256
LOCK_LIMIT_MAX = 1_000_000_000
TURN_MS_MAX = 366 * 24 * 60 * 60 * 1_000        # of `at_most_ms` and `rest_ms`
RELEASE_CLAIMS_MAX = 1_024      # in one command

# Of a ScheduleSpec: what becomes of slots that nobody ran in time, and of one that comes while a run is unfinished.
MISFIRES = ("skip", "once", "all")
BUSY_SKIP, BUSY_QUEUE, BUSY_WAIT, BUSY_REPLACE = ON_BUSY = ("skip", "queue", "wait", "replace")
FIRE_SLOTS_MAX = 100            # in one command
WORKER_SCHEDULES_MAX = 1_024
NEVER = -1                      # in place of the next slot of a schedule: it has none

# What a Steer asks for.
STEER_PAUSE = 0
STEER_RESUME = 1
STEER_RUN = 2
STEER_DELETE = 3

CONCURRENCY_MAX = 1_000_000_000         # of a LineRule
STARTS_MAX = 1_000_000_000
PERIOD_MS_MIN = 10                      # a limit that is full costs an entry for each period
PERIOD_MS_MAX = 366 * 24 * 60 * 60 * 1_000

UNMET_UNKNOWN = -1      # in place of a state: there is no such task, or its record is not kept any more

# What a worker says of one attempt.
OUTCOME_COMPLETED = 0    # body = encoded result; error is set if it logged, and has nothing but that
OUTCOME_FAILED = 1       # the function raised, or its result cannot be encoded; error is set
OUTCOME_CRASHED = 2      # the child died while it ran this task: it is the culprit; error is set
OUTCOME_TIMED_OUT = 3    # killed at its time limit; error is set; failed, unless it is retried
OUTCOME_RETURNED = 4     # handed back unrun, or lost with a child through no fault of its own: uncounted
OUTCOME_CANCELLED = 5    # given up because it was cancelled: it did not begin, or was ended; error says how
OUTCOME_UNMET = 7        # not run: what it needs has no result, says the state, or none any more, says its worker
OUTCOME_SUSPECTED = 6    # ran when its child was lost, beside others: any of them may be the culprit; uncounted

ROLE_WORKER = 1
ROLE_CLIENT = 2


class Command(Struct, array_like=True, gc=False, frozen=True):
    """Base of all commands."""


class Stamp(Command, tag=0, frozen=True):
    """Leader -> log, first group of an entry: the leader's time of day, which never goes back. At most one each."""

    wall_ms: int
    term: int


class RetryRule(Struct, array_like=True, gc=False, frozen=True):
    """When a task that raised is tried again: before its n-th retry it waits first_ms * factor ** (n - 1), at most
    `cap_ms`, and with `jitter` up to half of that less. `on` are names of exception types, () = all: one of them must
    be among the `kinds` of the failure."""

    first_ms: int = 1_000
    cap_ms: int = 600_000
    factor: int = 2
    jitter: bool = True
    on: tuple[str, ...] = ()


class LineRule(Struct, array_like=True, gc=False, frozen=True):
    """Which line tasks of a name wait in, and what holds it back; 0 and "" mean none.

    Each `share` has a line of its own, and lines take turns. At most `concurrency` tasks are with workers at a time,
    and at most `starts` are handed out in any `period_ms`: of this task and share, or with a `limit`, which is a name,
    of all tasks and shares that name it. Of terms that differ for one limit the last ones that were submitted hold.
    """

    share: str = ""
    limit: str = ""
    concurrency: int = 0
    starts: int = 0
    period_ms: int = 0


class Options(Struct, array_like=True, gc=False, frozen=True):
    """How tasks of a group are to be run; 0 for `delay_ms`, `at_ms`, `expires_ms` and `soft_timeout_ms` means none.
    `at_ms` is a date, in Unix time; one that is over means nothing. With `retry` None retries wait as RetryRule() says.
    Tasks with a `key` all go to the one slot that owns this key of this `actor`; without a key the actor means nothing.
    With `line` None, as for all tasks with a key, nothing holds them back, and all of a name wait in one line. With
    `dedup`, which says what work they are, but one of them runs: until that has ended, and at least for `dedup_ms`, all
    others of this task name, and of this `key`, are its duplicates.
    """

    queue: str = QUEUE_DEFAULT
    priority: int = PRIORITY_DEFAULT
    timeout_ms: int = TIMEOUT_DEFAULT_MS
    delay_ms: int = 0
    expires_ms: int = 0
    result_ttl_ms: int = RESULT_TTL_DEFAULT_MS
    retries: int = 0
    labels: tuple[str, ...] = ()
    retry: RetryRule | None = None
    soft_timeout_ms: int = 0
    key: str = ""
    actor: str = ""
    line: LineRule | None = None
    at_ms: int = 0
    dedup: str = ""
    dedup_ms: int = 0


class Needs(Struct, array_like=True, gc=False, frozen=True):
    """Tasks (ids) that have to end before this one runs. It gets the results of `results`, and fails if one of them
    ends without; of `outcomes` it gets what became of them. Its body refers to them by their places in these lists.
    """

    results: list[int]
    outcomes: list[int] = []

    def __len__(self) -> int:
        return len(self.results) + len(self.outcomes)


class TaskGroup(Struct, array_like=True, gc=False, frozen=True):
    """Tasks of one name and one set of options; their numbers are first, first + 1, ...; `options` None = defaults.

    A body is msgpack of `[args, kwargs]` and opaque to brokers. `needs` has one for each body, or none.
    """

    name: str
    first: int
    bodies: list[bytes]
    options: Options | None = None
    needs: list[Needs] = []


class Submit(Command, tag=1, frozen=True):
    """Client -> leader -> log. Session command `seq`; `low` = lowest seq whose answer the sender still waits for.

    `seen` = task numbers of this session whose results the client has, as flat inclusive ranges [a, b, c, d, ...].
    `fence`: only if some claim is held under it when this is applied, else ANSWER_LOST. 0 = whatever is held.
    """

    session: int
    seq: int
    low: int
    groups: list[TaskGroup]
    seen: list[int] = []
    fence: int = 0


class Unmet(Struct, array_like=True, gc=False, frozen=True):
    """Why a task could not run: `task`, which it needs, has ended without a result, in this STATE_*, or UNMET_UNKNOWN.
    `cause` is the first one of that kind: `task` itself, or what that needs, and so on."""

    task: int
    state: int
    cause: int


class Failure(Struct, array_like=True, gc=False, frozen=True):
    """Why an attempt did not complete. `exit_code` or `signal` is set where a process ended; -1 = not set.

    `kinds` says what a retry may be for: the names of the exception's type and its bases, from the type itself up to
    "Exception", as `RetryRule.on` names types (`errors.error_name`); "TimeoutError" is among those of a time limit. A
    task that may be tried again is, if `on` is () or has one of them. () = never tried again, whatever its options say.
    They serve that decision, when the outcome is applied, and are not kept: `type` is what is recorded.

    `log` is the end of what the attempt logged. One that completed and logged has a Failure with nothing but that: a
    field of Outcome would be a byte of every success, and nearly all are silent.

    `unmet` is set with OUTCOME_UNMET alone.
    """

    type: str
    message: str
    traceback: str = ""
    exit_code: int = -1
    signal: int = -1
    stderr: str = ""
    kinds: tuple[str, ...] = ()
    log: str = ""
    unmet: Unmet | None = None


class Outcome(Struct, array_like=True, gc=False, frozen=True):
    """The end of one attempt, as its worker saw it. `status` is one of OUTCOME_*."""

    task: int
    attempt: int
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: Failure | None = None


class Complete(Command, tag=2, frozen=True):
    """Worker -> leader -> log. Session command `seq`, as for Submit."""

    session: int
    seq: int
    low: int
    outcomes: list[Outcome]


class ScheduleSpec(Struct, array_like=True, gc=False, frozen=True):
    """A schedule as it was written: when it fires, and which call of which task that is. `body` is one of a TaskGroup.

    With an `expression` it is a cron expression for the clocks of `zone`, else it fires each `period_ms`, counted from
    `anchor_ms`. The state does not read that: a leader does, and writes down what follows. Not `exclusive`: runs may
    overlap, and `on_busy` means nothing.
    """

    name: str
    task: str
    expression: str
    zone: str
    period_ms: int
    anchor_ms: int
    misfire: str
    on_busy: str
    exclusive: bool
    body: bytes
    options: Options | None = None


class WorkerSpec(Struct, array_like=True, gc=False, frozen=True):
    """What a worker offers. `prefetch` 0 = auto, else that many tasks per slot. `schedules` are those of its modules.

    With `loop_tasks` > 0 and `loop_names` there is one more slot, with index `slots`: it serves `loop_names`, which the
    others then do not, and runs up to `loop_tasks` of them at a time.

    With `slots_min` > 0 it opens and shuts slots: the first `slots_min` are always open, the others get nothing until a
    Resize opens them.
    """

    slots: int
    queues: tuple[str, ...]
    names: tuple[str, ...]
    prefetch: int = PREFETCH_AUTO
    labels: tuple[str, ...] = ()
    loop_names: tuple[str, ...] = ()
    loop_tasks: int = 0
    schedules: tuple[ScheduleSpec, ...] = ()
    slots_min: int = 0


class Register(Command, tag=3, frozen=True):
    """Worker or client -> leader -> log: opens a session for (name, incarnation); answered with its id.

    Repeating it gives the same id. Another incarnation under the same name ends the old session first; an ended
    incarnation is refused.
    """

    name: str
    incarnation: int
    role: int
    worker: WorkerSpec | None = None


class Expire(Command, tag=4, frozen=True):
    """Leader -> log: `session` (of this incarnation) has been silent for a whole lease."""

    session: int
    incarnation: int


class Close(Command, tag=5, frozen=True):
    """Client or worker -> leader -> log: the session ends in order. Its tasks live on."""

    session: int
    incarnation: int


class Seen(Command, tag=6, frozen=True):
    """Idle client -> leader -> log, at most once a second: results it has, as in Submit. Not a sequenced command."""

    session: int
    seen: list[int]


class Cancel(Command, tag=7, frozen=True):
    """Client -> leader -> log. Session command `seq`: ends these tasks (ids) if they are not terminal yet.

    What waits ends at once, for good. What a worker has is asked to stop, ended `grace_ms` later, and ends when its
    worker says so, as cancelled unless it was quicker. With GRACE_NONE its end is not waited for.
    """

    session: int
    seq: int
    low: int
    tasks: list[int]
    grace_ms: int = GRACE_NONE


class Tick(Command, tag=8, frozen=True):
    """Leader -> log: a deadline in the state is due at the entry's stamp."""

    due_ms: int


class Formation(Command, tag=9, frozen=True):
    """The first entry: repeats what formation stored on every broker."""

    cluster_id: bytes
    voters: tuple[str, ...]


class Drain(Command, tag=10, frozen=True):
    """Worker -> leader -> log. Session command `seq`: this worker is leaving, its slots get nothing more. What they
    hold stays theirs until it is completed or returned. For good: a worker that is to serve again registers anew.
    """

    session: int
    seq: int
    low: int


class Replay(Command, tag=11, frozen=True):
    """Client -> leader -> log. Session command `seq`: runs these tasks (ids) again that ended without a result, each
    under its id. Others are passed over; the answer's value is how many are run again.

    What they need is limited as in a Submit. Nothing is done for the first one that does not fit, and for those behind
    it: ANSWER_CROWDED, and its value is `looked_at << REPLAYED_BITS | run again`. Another command may name the rest; if
    the first of that does not fit either, the cluster has too many needs.
    """

    session: int
    seq: int
    low: int
    tasks: list[int]


class Acquire(Command, tag=12, frozen=True):
    """Client -> leader -> log. Session command `seq`: claims `units` of the lock `name`, which has `limit` of them,
    under the id `session << 24 | number`; the client counts its claims from 1. A mutex has one unit, a semaphore has n,
    a read-write lock has LOCK_LIMIT_MAX: a reader claims one of them and a writer all.

    Answered with the fence if the claim is granted at once, else with 0: it waits, behind those that came before. Not
    `waits`: then it is not kept, and answered ANSWER_BUSY. The claim ends by a Release, with its session, or by a Lapse
    when its client has been silent for `hold_ms`. `note` says who it is, for people and for those who watch the lock.

    Of a mutex only: with `at_most_ms` it is held for no longer than that, whatever its client says. One that `replaces`
    ends those that wait, has the holder asked to give up, and waits for that.
    """

    session: int
    seq: int
    low: int
    number: int
    name: str
    units: int
    limit: int
    hold_ms: int
    waits: bool = True
    note: str = ""
    at_most_ms: int = 0
    replaces: bool = False


class Release(Command, tag=13, frozen=True):
    """Client -> leader -> log. Session command `seq`: these claims (ids) of this session end, held or waiting; others
    are passed over. The answer's value is how many there were. With `rest_ms` a mutex that was held is granted to
    nobody for so long."""

    session: int
    seq: int
    low: int
    claims: list[int]
    rest_ms: int = 0


class Extend(Command, tag=14, frozen=True):
    """Client -> leader -> log. Session command `seq`: from now on the claim may be silent for `hold_ms`; 0 = as before.
    If it is held for a time that is bounded, that begins anew, with `at_most_ms` unless that is 0. The answer's value
    is its fence; 0 if it waits, ANSWER_LOST if this session has no such claim."""

    session: int
    seq: int
    low: int
    claim: int
    hold_ms: int
    at_most_ms: int = 0


class Lapse(Command, tag=15, frozen=True):
    """Leader -> log: these claims end. The clients of `silent` have said nothing for as long as they may; `over` were
    held for as long as they may be, have rested, or were given up by a client whose Release is held up. Flat,
    [claim, terms, ...]: one whose terms are others by now, since it was extended or released meanwhile, is passed
    over."""

    silent: list[int]
    over: list[int] = []


class Arm(Command, tag=16, frozen=True):
    """Leader -> log: the next slot of a schedule, or NEVER. Passed over if these are not its terms any more, or it has
    a next slot."""

    name: str
    version: int
    next_ms: int


class Fire(Command, tag=17, frozen=True):
    """Leader -> log: the next slot of a schedule has come. `slots` are to be run, perhaps none, or later ones instead;
    `after_ms` is the next one then, or NEVER. With `is_alarm` more have come than are run one by one. Passed over
    unless the schedule's terms and its next slot are those that the leader saw, and somebody may run it."""

    name: str
    version: int
    next_ms: int
    slots: list[int]
    after_ms: int
    is_alarm: bool = False


class Steer(Command, tag=18, frozen=True):
    """Client -> leader -> log. Session command `seq`: what an operator wants of the schedule `name`, one of STEER_*.
    The answer's value is the task's id for STEER_RUN."""

    session: int
    seq: int
    low: int
    name: str
    what: int


class Resize(Command, tag=19, frozen=True):
    """Worker -> leader -> log. Session command `seq`: its first `slots` slots are open from now on. The others get
    nothing more; what they hold stays theirs until it is completed or returned. Refused beyond its bounds."""

    session: int
    seq: int
    low: int
    slots: int
