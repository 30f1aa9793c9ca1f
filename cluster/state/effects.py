"""What `apply` tells the leader's shell to do. Followers pass None and nothing is built.

Effects may run twice or never: every one can be rebuilt from the state by reconciliation.
"""

import msgspec
from msgspec import Struct

from cluster.state.commands import Failure

ANSWER_OK = 0
ANSWER_GAP = 1            # value = the sequence number expected
ANSWER_NO_SESSION = 2     # unknown, expired or ended; the outcome of what was sent under it is unknown
ANSWER_REFUSED = 3        # registration of an ended incarnation, a wrapped task number, ...
ANSWER_BUSY = 4           # of an Acquire that does not wait; of a Steer: this task is unfinished
ANSWER_OTHER_LIMIT = 5    # of an Acquire: the lock is in use with another limit, the value
ANSWER_CROWDED = 6        # of an Acquire: too many claims, the value is how many are allowed; of a Steer: runs; of a
                          # Submit, or a Replay: too many needs
ANSWER_LOST = 7           # of an Extend, or of a Submit with a fence: the session does not hold that
ANSWER_NO_SCHEDULE = 8    # of a Steer
ANSWER_PARKED = 9         # of a Steer: no live worker announces the schedule and could run it
ANSWER_ANNOUNCED = 10     # of a Steer: one does

STATE_COMPLETED = 0
STATE_FAILED = 1
STATE_DEAD = 2
STATE_CANCELLED = 3
STATE_EXPIRED = 4


class Answer(Struct, array_like=True, gc=False, frozen=True):
    """The fate of one session command (seq > 0); `value` depends on the code."""

    session: int
    seq: int
    code: int
    value: int = 0


class Registered(Struct, array_like=True, gc=False, frozen=True):
    """Answer to Register: the session id, and the next sequence number that it expects."""

    name: str
    incarnation: int
    code: int
    session: int = 0
    next_seq: int = 1


class Assignment(Struct, array_like=True, gc=False, frozen=True):
    """One attempt for one slot of a worker. `alone` = nothing else may wait beside it in its slot.

    `actor`, `key` and `epoch` are those of a task with a key, which this slot owns: an instance that was built in
    another epoch is of no use any more. `slot_ms` is the time that a run of a schedule is for, 0 for others.
    """

    task: int
    attempt: int
    slot: int
    estimate_us: int
    timeout_ms: int
    name: str
    body: bytes
    alone: bool = False
    soft_timeout_ms: int = 0
    actor: str = ""
    key: str = ""
    epoch: int = 0
    slot_ms: int = 0


class TaskResult(Struct, array_like=True, gc=False, frozen=True):
    """A task's terminal record as its client sees it. One that has completed in no attempts is the duplicate of another
    one, which it names: that one's record is its own."""

    task: int
    state: int
    attempts: int
    body: bytes
    error: Failure | None = None

    @property
    def duplicate_of(self) -> int:
        """0 = of none."""
        return 0 if self.attempts or self.state != STATE_COMPLETED else referred(self.body)


def reference_to(task: int) -> bytes:
    """The body of a duplicate."""
    return msgspec.msgpack.encode(task)


def referred(body: bytes) -> int:
    """The task that the body of a duplicate names."""
    return msgspec.msgpack.decode(body, type=int)


HELD_UNKNOWN = -1
CLAIM_SILENT = 0          # why a claim has ended: its session was not heard of, or is not there any more
CLAIM_OVER = 1            # its turn took too long
CLAIM_REPLACED = 2        # while it waited
CLAIM_WANTED = 3          # it has not ended: it is held, and somebody is to replace it


class ClaimNews(Struct, array_like=True, gc=False, frozen=True):
    """What became of a claim, for its client: granted under this fence; 0: it has ended, otherwise than by its client's
    Release. `why` is one of CLAIM_*. To one that asks, `held_ms` says for how long it has been held, as the leader
    counts that for its `at_most_ms`."""

    claim: int
    fence: int
    why: int = CLAIM_SILENT
    held_ms: int = HELD_UNKNOWN


class Effects:
    """Collected over one or more `apply` calls, then carried out by the leader's shell."""

    __slots__ = (
        "answers",
        "assignments",
        "cancelled",
        "claims",
        "ended",
        "locks",
        "moved",
        "registered",
        "results",
        "schedules",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.registered: list[Registered] = []
        # Worker session -> in order of decision; to be `passed_on` by the machine when they are sent.
        self.assignments: dict[int, list[Assignment]] = {}
        self.withdrawn: dict[int, list[tuple[int, int]]] = {}   # worker session -> (task, attempt) to give up
        self.cancelled: dict[int, list[tuple[int, int, int]]] = {}      # worker session -> (task, attempt, grace_ms)
        self.results: dict[int, list[TaskResult]] = {}          # submitting client session -> terminal records
        self.ended: list[int] = []                              # sessions that ended
        self.moved: list[int] = []                              # tasks that lost their slot and wait again
        self.claims: dict[int, list[ClaimNews]] = {}            # client session -> what became of its claims
        self.locks: dict[str, None] = {}                        # names of locks whose holders changed, in order
        self.schedules: dict[str, None] = {}                    # names of those that a leader should look at, in order
