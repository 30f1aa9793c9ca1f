"""Retention: how long the state knows tasks that have ended, so that a cluster under constant load stays flat.

A terminal record is kept until the first of two dates, both rounded up to a second:
- its end plus its `result_ttl_ms`, an hour unless the task says otherwise;
- 60 s after the log says that its client has the result, unless the task says otherwise: an explicit `result_ttl`
  wins. An option that equals the default cannot be told from none.

*Dead letters* are kept for a week instead, seen or not, or for their `result_ttl_ms` if that is longer: whoever looks
at them comes later than their client, and may replay them (`replays`). They have bounds of their own, within those of
all records; beyond these the one that died first goes first. What was replayed and has ended again is kept to its date
as well: what was seen was its earlier end.

All records together are limited in bytes as well: when there is more, what has the earliest date goes first. When
and how much goes in one entry is `eviction`; here is what is due at which date.

What has the same date, to the second, is in one *bucket*. A bucket has *lots* of ids, in the order in which the tasks
ended, and *ranges* of ids, in the order in which clients said that they had them; lots go first. A range costs O(1)
when it is said. Its tasks are looked at when it is due: one that has not ended by then, is forgotten already, has an
explicit date of its own, is dead, or was replayed is passed over.

Nearly every task is forgotten through a range, an hour before the date of its lot. So a lot counts its tasks that are
still known (each knows its lot by number). With the last one it is dropped, and its bucket with its last lot and
range. When but a quarter of it is known it is *thinned*: the ids of the others are removed. So memory never holds an
hour of ids, and an idle cluster has no dates at which nothing would happen.

What a client says is not believed. A range must lie within the numbers that its session has used, and a session may
say no more numbers than it has submitted tasks (`Session.unsaid`), whichever they are. So the work that ranges cause
is paid for by submits, and to say one big range a thousand times is to say it once. A client that lies can only keep
its own results for a shorter or a longer time, an hour at most.
"""

from collections import OrderedDict, deque
from heapq import heappop, heappush

from cluster.state.commands import RESULT_TTL_DEFAULT_MS, TASK_NUMBER_BITS
from cluster.state.effects import STATE_DEAD
from cluster.state.evidence import text_bytes
from cluster.state.needs import Dependencies
from cluster.state.sessions import Session
from cluster.state.tasks import Task

SEEN_KEPT_MS = 60_000               # a result that its client has
SECOND_MS = 1_000
RESULTS_BYTES_MAX = 256 * 1024 * 1024
DEAD_KEPT_MS = 7 * 24 * 60 * 60 * 1_000
DEAD_BYTES_MAX = 64 * 1024 * 1024   # of RESULTS_BYTES_MAX: the rest is left to others
DEAD_TASKS_MAX = 100_000
RECORD_OVERHEAD_BYTES = 256         # of one terminal record: about a million records, however small they are
ATTEMPT_OVERHEAD_BYTES = 128        # of one attempt that is written down

# In place of a lot, less the second of that: it would be forgotten, but others need it (`dependencies`).
OVERDUE = -1
OVERDUE_BYTES_MAX = 64 * 1024 * 1024    # of RESULTS_BYTES_MAX likewise

LOT_TASKS_MAX = 256                 # a lot with so many ids gets no more; one command may overshoot
THIN_IDS_MIN = 64                   # of a lot, before it is worth thinning
THIN_RATIO = 4

assert SEEN_KEPT_MS < RESULT_TTL_DEFAULT_MS < DEAD_KEPT_MS
assert DEAD_BYTES_MAX + OVERDUE_BYTES_MAX < RESULTS_BYTES_MAX

Range = tuple[int, int]             # first and last task id


class Lot:
    """Tasks that ended one after the other and have the same date. Invariant: `known` of `ids` are in the table of
    tasks, and these are the tasks whose `lot` is `number`; at least one, between entries."""

    __slots__ = ("ids", "known", "number", "second")

    def __init__(self, number: int, second: int) -> None:
        self.number = number
        self.second = second
        self.ids: list[int] = []
        self.known = 0

    @property
    def is_thin(self) -> bool:
        """Worth to be thinned."""
        return len(self.ids) >= THIN_IDS_MIN and len(self.ids) >= THIN_RATIO * self.known


class Bucket:
    """What is due at one second: something, between entries. Both go from the front."""

    __slots__ = ("lots", "ranges")

    def __init__(self) -> None:
        self.lots: dict[int, Lot] = {}              # by number
        self.ranges: deque[Range] = deque()


class Retention:
    """What has ended and is still known. Invariants: `bytes` is the sum of `bytes_of` of all terminal tasks,
    `overdue_bytes` of those that are OVERDUE, and `dead_bytes` of those others that are dead."""

    __slots__ = (
        "_dependencies",
        "_seconds",
        "buckets",
        "bytes",
        "dead",
        "dead_bytes",
        "ended",
        "ended_bytes",
        "lots",
        "lots_made",
        "overdue_bytes",
    )

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies           # whose needs are kept with records
        self.buckets: dict[int, Bucket] = {}        # by second
        self.lots: dict[int, Lot] = {}              # all of them, by number
        self.lots_made = 0                          # the last number given
        self.bytes = 0
        self.dead: OrderedDict[int, int] = OrderedDict()    # task -> bytes; who died first comes first
        self.dead_bytes = 0
        self.overdue_bytes = 0
        self.ended = 0                              # tasks, in this entry; 0 between entries
        self.ended_bytes = 0                        # what their records are counted with
        self._seconds: list[int] = []               # heap of the keys of `buckets`, and of some that are gone

    def lot(self, now_ms: int, ttl_ms: int) -> int:
        """The number of the lot for tasks that end now; `file` must follow."""
        second = _second(now_ms + ttl_ms)
        lots = self.bucket(second).lots
        if lots:
            last = lots[next(reversed(lots))]
            if len(last.ids) < LOT_TASKS_MAX:
                return last.number
        self.lots_made += 1
        lot = Lot(self.lots_made, second)
        lots[lot.number] = self.lots[lot.number] = lot
        return lot.number

    def file(self, number: int, ids: list[int], size_bytes: int) -> None:
        """Tasks whose `lot` is `number` have ended. `size_bytes` are those of their bodies, `attempts_bytes` and
        needs that are kept."""
        lot = self.lots[number]
        lot.ids += ids
        lot.known += len(ids)
        size_bytes += len(ids) * RECORD_OVERHEAD_BYTES
        self.bytes += size_bytes
        self.ended += len(ids)
        self.ended_bytes += size_bytes

    def bury(self, task: Task) -> None:
        """A task that was filed is dead."""
        size = self.bytes_of(task)
        self.dead[task.id] = size
        self.dead_bytes += size

    def exhume(self, number: int) -> None:
        """A dead task is forgotten, or leaves its lot."""
        self.dead_bytes -= self.dead.pop(number, 0)

    def unfile(self, task: Task) -> None:
        """Takes a task out of its lot: it is to be run again. Its id must not stay there, since it is known and has
        another date one day."""
        self.bytes -= self.bytes_of(task)
        if task.lot <= OVERDUE:
            self.overdue_bytes -= self.bytes_of(task)
            return
        if task.state == STATE_DEAD:
            self.exhume(task.id)
        self.lots[task.lot].ids.remove(task.id)
        self.leave(task.lot, 1)     # if it is thin now, that is seen to with the next that leaves it

    def keep(self, task: Task) -> bool:
        """A task is to leave its lot, but others need it: whether its record is kept for them."""
        size = self.bytes_of(task)
        if self.overdue_bytes + size > OVERDUE_BYTES_MAX:
            return False
        self.overdue_bytes += size
        if task.state == STATE_DEAD:
            self.exhume(task.id)
        task.lot = OVERDUE - self.lots[task.lot].second
        return True

    def file_again(self, task: Task, now_ms: int) -> None:
        """Nobody needs it any more: it has a date again, its own if that is still to come."""
        assert task.lot <= OVERDUE
        self.overdue_bytes -= self.bytes_of(task)
        date_ms = (OVERDUE - task.lot) * SECOND_MS
        task.lot = self.lot(now_ms, max(SEEN_KEPT_MS, date_ms - now_ms))
        lot = self.lots[task.lot]
        lot.ids.append(task.id)
        lot.known += 1
        if task.state == STATE_DEAD:
            self.bury(task)

    def seen(self, session: Session, flat: list[int], now_ms: int) -> int:
        """The client of `session` says that it has these results; returns how many of the ranges are ignored."""
        base = session.id << TASK_NUMBER_BITS
        ranges: list[Range] = []
        pairs = iter(flat)
        for first, last in zip(pairs, pairs, strict=False):
            numbers = last - first + 1
            if 1 <= first <= last <= session.last_number and numbers <= session.unsaid:
                session.unsaid -= numbers
                ranges.append((base | first, base | last))
        if ranges:
            self.bucket(_second(now_ms + SEEN_KEPT_MS)).ranges += ranges
        return (len(flat) + 1) // 2 - len(ranges)

    def bytes_of(self, task: Task) -> int:
        """What a terminal record is counted with: what it has, and what a replay of it would need."""
        size = RECORD_OVERHEAD_BYTES + len(task.body) + attempts_bytes(task)
        return size + self._dependencies.kept_bytes(task.id)

    @property
    def surplus_bytes(self) -> int:
        """By how much all records together are too large; 0 or less if they are not."""
        return self.bytes - RESULTS_BYTES_MAX

    @property
    def has_surplus_dead(self) -> bool:
        return self.dead_bytes > DEAD_BYTES_MAX or len(self.dead) > DEAD_TASKS_MAX

    def next_deadline_ms(self, now_ms: int) -> int | None:
        """The earliest date; now, or one in the past, if one entry could not forget all that it should have."""
        if self.surplus_bytes > 0 or self.has_surplus_dead:
            return now_ms
        second = self.earliest()
        return None if second is None else second * SECOND_MS

    # -- for eviction ---------------------------------------------------------------------------------------------

    def earliest(self) -> int | None:
        """The second of the first bucket."""
        seconds, buckets = self._seconds, self.buckets
        while seconds and seconds[0] not in buckets:
            heappop(seconds)
        return seconds[0] if seconds else None

    def leave(self, number: int, count: int) -> bool:
        """So many tasks of a lot are forgotten. True if it is to be thinned."""
        lot = self.lots[number]
        lot.known -= count
        assert lot.known >= 0
        if lot.known:
            return lot.is_thin
        del self.lots[number]
        del self.buckets[lot.second].lots[number]
        self.drop_if_empty(lot.second)
        return False

    def drop_if_empty(self, second: int) -> None:
        bucket = self.buckets.get(second)
        if bucket is not None and not bucket.lots and not bucket.ranges:
            del self.buckets[second]

    def bucket(self, second: int) -> Bucket:
        """The bucket of a second, made if there is none."""
        bucket = self.buckets.get(second)
        if bucket is None:
            bucket = self.buckets[second] = Bucket()
            heappush(self._seconds, second)
        return bucket


def attempts_bytes(task: Task) -> int:
    """The part of its written attempts, without the texts that are evidence."""
    size = 0
    for attempt in task.attempts or ():
        size += ATTEMPT_OVERHEAD_BYTES
        if attempt.error is not None:
            size += text_bytes(attempt.error.type) + text_bytes(attempt.error.message)
    return size


def has_own_date(ttl_ms: int) -> bool:
    """Whether a task says how long its result is kept, so that `seen` does not shorten it."""
    return ttl_ms != RESULT_TTL_DEFAULT_MS


def _second(date_ms: int) -> int:
    """Rounded up."""
    return -(-date_ms // SECOND_MS)
