"""The rows of an image: what `image` writes and `restoration` reads. They are on disk for ever, see there."""

from enum import IntEnum

from msgspec import Struct

from cluster.state.commands import LineRule, Needs, Options, RetryRule, ScheduleSpec, WorkerSpec
from cluster.state.schedule_rows import Slot
from cluster.state.tasks import Attempt

# 1: without retries and cancels that wait for their workers. 2: pools did not know labels, nor loops (but for the last
# commits that wrote it), and dead letters were not listed. 3: without locks, schedules, lines and limits.
IMAGE_VERSION = 4
LABELS_IN_POOLS_SINCE = 3
DEAD_LISTED_SINCE = 3


class Section(IntEnum):
    """In the order in which they are written. The gaps are for those to come."""

    HEAD = 0
    COUNTERS = 10
    TIMERS = 20
    QUEUES = 30
    NAMES = 40
    LIMITS = 42
    BUNDLES = 44
    CHANNELS = 50
    MEMO = 60
    OFFERS = 70
    POOLS = 80
    SESSIONS = 90
    ENDED = 100
    CLAIMS = 105
    SCHEDULES = 107
    KEYS = 108
    TASKS = 110
    DEPENDENTS = 112
    WAITED = 114
    ORDERS = 120
    LOTS = 130
    RANGES = 140
    DEAD = 145
    EVIDENCE = 150
    END = 200


class Order(IntEnum):
    """What an `OrderRow` is of, and what its `of` and `at` say."""

    READY_RING = 0      # channels that may hold something; of a pool, at a priority
    IDLE_RING = 1       # slots; of a pool
    OPEN_RING = 2       # slots; of a pool
    DIRTY = 3           # pools
    LANE = 4            # tasks; of a channel, at a priority. Negative: a stale entry whose task is forgotten
    HELD_TASKS = 5      # tasks; of a session
    HOME_RING = 6       # channels that may hold something; of a slot that owns them, at a priority
    IDLE_HOMES = 7      # channels that have a home and no tasks
    LINE_RING = 8       # lines that may hold something; of a bundle, at a priority
    LIMIT_RING = 9      # lines and bundles that are held back; of a limit, at a priority
    PASSED = 10         # those that are not; of a limit
    ENDS = 11           # tasks whose end is to be told to those that need them


class Row(Struct, array_like=True, gc=False, frozen=True):
    """Base of all rows."""


class HeadRow(Row, frozen=True):
    """The first row of all. `machine_version` is the agreed one."""

    image_version: int
    machine_version: int
    applied_index: int
    now_ms: int
    cluster_id: bytes
    voters: tuple[str, ...]
    rolling: int
    reported: tuple[int, int]
    last_session: int
    pools_made: int
    lots_made: int
    results_bytes: int
    channels_made: int = 0
    epochs: int = 0
    fences: int = 0
    versions: int = 0               # of terms of schedules, given so far
    run_number: int = 0             # the last one given to a run
    run_sessions: tuple[int, ...] = ()      # whose numbers runs got; the last one is in use
    limits_made: int = 0


class CountersRow(Row, frozen=True):
    values: dict[str, int]


class TimerRow(Row, frozen=True):
    date_ms: int
    first: int
    count: int
    what: int


class QueueRow(Row, frozen=True):
    name: str
    ready: int
    delayed: int
    running: int
    ended: list[int]


class NameRow(Row, frozen=True):
    name: str
    estimate_us: int


class LimitRow(Row, frozen=True):
    """`window` is flat: date, starts. What waits under it and what it holds back are in orders."""

    index: int
    name: str
    share: str
    concurrency: int
    starts: int
    period_ms: int
    running: int
    window: list[int]
    date_ms: int


class BundleRow(Row, frozen=True):
    """In order of their indexes, which are among those of channels. `limit` is one that has a name, 0 = none."""

    index: int
    queue: str
    name: str
    labels: tuple[str, ...]
    limit: int


class ChannelRow(Row, frozen=True):
    """In order of their indexes; -1 = one more than the last. With a key, `name` is the actor's; `home` is the slot
    that owns it, 0 = none. A line is in a bundle, -1 = it is none; `limit` is its own, 0 = none."""

    queue: str
    name: str
    waiting: int
    alone: int
    stale: int
    labels: tuple[str, ...] = ()
    index: int = -1
    key: str = ""
    home: int = 0
    epoch: int = 0
    held: int = 0
    unfinished: int = 0
    bundle: int = -1
    share: str = ""
    limit: int = 0


class SpecRow(Row, frozen=True):
    """Its queue and its name are those of the channel. With a key, a line or `dedup` they are written here: the channel
    may be gone. `schedule` and `slot_ms` are of a run."""

    channel: int
    priority: int
    timeout_ms: int
    result_ttl_ms: int
    expires_at_ms: int
    retries: int = 0
    retry: RetryRule | None = None
    soft_timeout_ms: int = 0
    queue: str = ""
    name: str = ""
    actor: str = ""
    key: str = ""
    labels: tuple[str, ...] = ()
    schedule: str = ""
    slot_ms: int = 0
    line: LineRule | None = None
    dedup: str = ""


class MemoRow(Row, frozen=True):
    """A spec that is remembered for the next group with these options. Introduces the next spec."""

    name: str
    options: Options | None
    spec: SpecRow


class OfferRow(Row, frozen=True):
    """What one or more workers offer; numbered from 0 in this order."""

    worker: WorkerSpec


class PoolRow(Row, frozen=True):
    """In order of their making. `offer` is that of one of its sessions, of which it has the loop or the other slots."""

    index: int
    offer: int
    is_loop: bool = False


class SessionRow(Row, frozen=True):
    """`offer` = -1: a client. `closed` and `yielding` are slots by index, `refusals` are (seq, code, value)."""

    id: int
    name: str
    incarnation: int
    role: int
    offer: int
    draining: bool
    next_seq: int
    kept_from: int
    refusals: list[tuple[int, int, int]]
    last_number: int
    unsaid: int
    closed: list[int]
    ended: list[int]
    yielding: list[int] = []
    last_claim: int = 0
    slots_open: int = 0


class EndedRow(Row, frozen=True):
    """Ended incarnations of a name without a session; newest name last."""

    role: int
    name: str
    incarnations: list[int]


class ClaimRow(Row, frozen=True):
    """Of a lock: first those that hold it, by fence, then those that wait (`fence` 0), in order."""

    id: int
    session: int
    lock: str
    limit: int
    units: int
    hold_ms: int
    note: str
    fence: int
    since_ms: int
    at_most_ms: int
    rest_ms: int
    terms: int
    is_wanted: bool


class ScheduleRow(Row, frozen=True):
    """A schedule; `begun` and `waiting` are its unfinished runs, in order."""

    spec: ScheduleSpec
    version: int
    next_ms: int
    passed_ms: int
    is_paused: bool
    begun: list[int]
    waiting: list[int]
    history: list[Slot]
    alarm: int
    alarm_ms: int


class KeyRow(Row, frozen=True):
    """A key that a task has: first those of unfinished tasks, then others, in the order in which they ended. One that
    is `behind` another comes after that."""

    name: str
    key: str
    dedup: str
    task: int
    until_ms: int
    is_over: bool
    behind: int = 0


class TasksRow(Row, frozen=True):
    """A block of tasks of one dict, as columns; None = all have the default. `specs` are those not met before: they
    get the next numbers. `worker` is a column of places in `workers`."""

    specs: list[SpecRow]
    workers: list[str]
    id: list[int]
    spec: list[int]
    body: list[bytes]
    state: bytes
    attempt: list[int] | None = None
    holder: list[int] | None = None
    estimate_us: list[int] | None = None
    alone: bytes | None = None
    worker: list[int] | None = None
    started_ms: list[int] | None = None
    run_us: list[int] | None = None
    crashes: bytes | None = None
    attempts: list[list[Attempt] | None] | None = None
    lot: list[int] | None = None
    failures: list[int] | None = None
    grace_ms: list[int] | None = None
    replays: list[int] | None = None


class DependentRow(Row, frozen=True):
    """A task that needs others. `missing` = 0: it was let go; `unknown` is one that was not known, `behind` one whose
    end it waits for without needing that. Not `is_live`: it has ended, and may be replayed."""

    task: int
    needs: Needs
    delay_ms: int
    at_ms: int
    missing: int
    is_live: bool
    unknown: int
    behind: int = 0


class WaitedRow(Row, frozen=True):
    """Who waits for the end of a task, in order; negative: for whatever becomes of it. A long one takes several rows.
    """

    task: int
    waiting: list[int]


class OrderRow(Row, frozen=True):
    """A list whose order decides. A long one takes several rows."""

    what: Order
    of: int
    at: int
    items: list[int]


class LotRow(Row, frozen=True):
    """Of the retention; in order of their numbers within a second. `known` of `ids` are not forgotten. A long one takes
    several rows."""

    number: int
    second: int
    known: int
    ids: list[int]


class RangesRow(Row, frozen=True):
    """What clients said they have seen, due at a second, in order; flat, first and last. Likewise."""

    second: int
    ids: list[int]


class DeadRow(Row, frozen=True):
    """Dead tasks, the oldest first. Likewise."""

    tasks: list[int]


class EvidenceRow(Row, frozen=True):
    """Attempts with evidence, oldest first; flat: task, number, bytes. Likewise."""

    attempts: list[int]


class EndRow(Row, frozen=True):
    """`parts` before this one, and the crc32 of their bytes."""

    parts: int
    crc: int


ROWS: dict[Section, type[Row]] = {
    Section.HEAD: HeadRow,
    Section.COUNTERS: CountersRow,
    Section.TIMERS: TimerRow,
    Section.QUEUES: QueueRow,
    Section.NAMES: NameRow,
    Section.LIMITS: LimitRow,
    Section.BUNDLES: BundleRow,
    Section.CHANNELS: ChannelRow,
    Section.MEMO: MemoRow,
    Section.OFFERS: OfferRow,
    Section.POOLS: PoolRow,
    Section.SESSIONS: SessionRow,
    Section.ENDED: EndedRow,
    Section.CLAIMS: ClaimRow,
    Section.SCHEDULES: ScheduleRow,
    Section.KEYS: KeyRow,
    Section.TASKS: TasksRow,
    Section.DEPENDENTS: DependentRow,
    Section.WAITED: WaitedRow,
    Section.ORDERS: OrderRow,
    Section.LOTS: LotRow,
    Section.RANGES: RangesRow,
    Section.DEAD: DeadRow,
    Section.EVIDENCE: EvidenceRow,
    Section.END: EndRow,
}
