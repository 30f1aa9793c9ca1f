"""Eviction: at the end of each entry the state forgets what is due (see `retention`), and what is too much.

What an entry may forget is as many tasks as have ended in it, and EVICTIONS_MAX more. A fixed number alone would not
do: at 70,000 tasks a second an entry ends hundreds or thousands of them, and a state that forgets fewer than it ends
grows for ever. What is left is due at once: the leader ticks again, and other work gets its turn in between.

Over the limit in bytes it is not the number that counts, but the weight: an entry that ends one record of a megabyte
may forget as many small ones as weigh the same, else the total would grow by nearly a megabyte with each such entry.

The same holds for dead letters beyond their own bounds, of which the oldest go first, whatever their dates are.

What others need (`dependencies`) is passed over, by a range as what was replayed; from its lot it goes to no other,
until nobody needs it, and from the dead letters likewise. Then it has the date again that it had, and a dead letter is
the youngest of them.

Ids that are passed over are cheaper than evictions, but not free: there are LOOKS_PER_EVICTION for each eviction that
is allowed. So the work of an entry is bounded, whatever clients say and whatever is due.

The id of a forgotten task does not come back, since numbers rise within a session. Who looks one up finds nothing and
must say so: a late outcome is refused, a cancel does nothing, items of timers are void. A lane may still have the
message as a stale entry, which is known by its state and looked up by nobody.
"""

from cluster.state.effects import STATE_DEAD
from cluster.state.ledger import EVICTED
from cluster.state.queues import PENDING, Spec
from cluster.state.retention import (
    RECORD_OVERHEAD_BYTES,
    SECOND_MS,
    Lot,
    Retention,
    attempts_bytes,
    has_own_date,
)
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, Task

EVICTIONS_MAX = 1_024       # of one entry, more than have ended in it
LOOKS_PER_EVICTION = 4      # three ids of a thinned lot may be void for one that is not
ENDLESS_BYTES = 1 << 62


def evict(tables: Tables) -> None:
    """Forgets what is due, then what is too much, as far as one entry may."""
    retention = tables.retention
    second = retention.earliest()
    has_surplus = retention.surplus_bytes > 0 or retention.has_surplus_dead
    if second is not None and (second * SECOND_MS <= tables.now_ms or has_surplus):
        _Sweep(tables).run()
    retention.ended = retention.ended_bytes = 0
    tables.counters.forgotten_keys += tables.duplicates.enforce()
    tables.counters.blanked_attempts += tables.evidence.enforce(tables.tasks)


class _Sweep:
    """The evictions of one entry."""

    __slots__ = ("_ids", "_looks", "_quota", "_retention", "_tables", "_thin")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._retention: Retention = tables.retention
        self._ids: list[int] = []           # forgotten
        self._quota = 0                     # of ids
        self._looks = 0                     # that are left
        self._thin: dict[int, None] = {}    # lots to be thinned

    def run(self) -> None:
        tables, retention, ids = self._tables, self._retention, self._ids
        self._allow(EVICTIONS_MAX + retention.ended)
        while self._may_go_on and (second := retention.earliest()) is not None:
            if second * SECOND_MS > tables.now_ms:
                break
            self._step(second, ENDLESS_BYTES)
        due = len(ids)
        self._allow(EVICTIONS_MAX + retention.ended_bytes // RECORD_OVERHEAD_BYTES)
        while self._may_go_on and retention.has_surplus_dead:
            self._drop_oldest_dead()
        while self._may_go_on and retention.surplus_bytes > 0:
            second = retention.earliest()
            assert second is not None, "more bytes than all records have"
            self._step(second, retention.surplus_bytes)
        for number in self._thin:
            if (lot := retention.lots.get(number)) is not None:
                self._thin_out(lot)
        tables.counters.evicted += len(ids)
        tables.counters.evicted_early += len(ids) - due
        if ids:
            tables.ledger.decisions.append(EVICTED)
            tables.ledger.decisions += ids
            if tables.dependencies.kept:
                tables.dependencies.forget(ids)

    def _allow(self, evictions: int) -> None:
        if evictions > self._quota:
            self._quota = evictions
            self._looks = evictions * LOOKS_PER_EVICTION

    @property
    def _may_go_on(self) -> bool:
        return len(self._ids) < self._quota and self._looks > 0

    def _step(self, second: int, enough_bytes: int) -> None:
        """A part of the first lot of a bucket, or of its first range; no more than frees `enough_bytes`."""
        bucket = self._retention.buckets[second]
        if bucket.lots:
            self._empty(next(iter(bucket.lots.values())), enough_bytes)
        else:
            first, last = bucket.ranges.popleft()
            stopped = self._walk(first, last, enough_bytes)
            if stopped < last:
                bucket.ranges.appendleft((stopped + 1, last))
            self._retention.drop_if_empty(second)

    def _drop_oldest_dead(self) -> None:
        retention = self._retention
        number = next(iter(retention.dead))
        shard = self._tables.tasks.shard(number >> RUN_BITS)
        task = shard[number]
        lot = retention.lots[task.lot]
        self._looks -= 1
        if self._tables.dependencies.is_needed(number) and retention.keep(task):
            lot.ids.remove(number)      # it is known, and must not be met there
        else:
            del shard[number]
            retention.exhume(number)
            self._ids.append(number)
            retention.bytes -= retention.bytes_of(task)
            self._tables.evidence.forget(task)
        self._leave(lot.number, 1)

    @property
    def _numbers_max(self) -> int:
        """How many ids may be looked at in one go: each of them is one record at most."""
        return min(self._looks, self._quota - len(self._ids))

    def _empty(self, lot: Lot, enough_bytes: int) -> None:
        """Forgets the first tasks of a lot."""
        tables, forgotten = self._tables, self._ids
        needed = tables.dependencies if tables.dependencies.by_task else None
        kept = tables.dependencies.kept
        run = -1
        shard: dict[int, Task] = {}
        looked = count = size = 0
        for number in lot.ids[: self._numbers_max]:
            looked += 1
            if number >> RUN_BITS != run:
                run = number >> RUN_BITS
                shard = tables.tasks.shard(run)
            task = shard.pop(number, None)
            if task is None:
                continue
            if needed is not None and needed.is_needed(number) and self._retention.keep(task):
                shard[number] = task
                count += 1
                continue
            forgotten.append(number)
            if task.state == STATE_DEAD:
                self._retention.exhume(number)
            count += 1
            size += len(task.body) + RECORD_OVERHEAD_BYTES
            if task.attempts is not None:
                size += self._attempts(task)
            if kept:
                size += tables.dependencies.kept_bytes(number)
            if size >= enough_bytes:
                break
        del lot.ids[:looked]
        self._looks -= looked
        self._retention.bytes -= size
        self._leave(lot.number, count)

    def _walk(self, first: int, last: int, enough_bytes: int) -> int:
        """Forgets what may be forgotten of the tasks from `first` to `last`; returns the last that was looked at.

        The hottest loop of a cluster under constant load, beside `complete`. Neighbours mostly share spec and lot.
        """
        tables, forget = self._tables, self._ids.append
        needed = tables.dependencies if tables.dependencies.by_task else None
        kept = tables.dependencies.kept
        end = min(last + 1, first + self._numbers_max)
        spec: Spec | None = None
        skip = False
        counts: dict[int, int] = {}     # lot -> tasks forgotten
        lot = count = 0                 # the lot of the last one, and what is not in `counts` yet
        size = 0
        number = start = first
        while start < end and size < enough_bytes:
            run = start >> RUN_BITS
            cut = min(end, (run + 1) << RUN_BITS)
            shard = tables.tasks.shard(run)
            take = shard.pop
            for number in range(start, cut):
                task = take(number, None)
                if task is None:
                    continue
                if task.spec is not spec:
                    spec = task.spec
                    skip = has_own_date(spec.result_ttl_ms)
                # Dead ones have a longer date, and of those that were replayed the end was seen that is no more.
                if skip or (state := task.state) >= PENDING or state == STATE_DEAD or task.replays:
                    shard[number] = task
                    continue
                if needed is not None and needed.is_needed(number):
                    shard[number] = task
                    continue
                if task.lot != lot:     # neighbours were run by several workers: it alternates
                    counts[lot] = counts.get(lot, 0) + count
                    lot = task.lot
                    count = 0
                forget(number)
                count += 1
                size += len(task.body) + RECORD_OVERHEAD_BYTES
                if task.attempts is not None:
                    size += self._attempts(task)
                if kept:
                    size += tables.dependencies.kept_bytes(number)
                if size >= enough_bytes:
                    break
            start = cut
        counts[lot] = counts.get(lot, 0) + count
        for lot, count in counts.items():
            self._leave(lot, count)
        self._retention.bytes -= size
        self._looks -= number - first + 1
        return number

    def _attempts(self, task: Task) -> int:
        """The weight of the written attempts of a task that is forgotten."""
        self._tables.evidence.forget(task)
        return attempts_bytes(task)

    def _leave(self, lot: int, count: int) -> None:
        """So many tasks of a lot are forgotten."""
        if count and self._retention.leave(lot, count):
            self._thin[lot] = None

    def _thin_out(self, lot: Lot) -> None:
        """Removes the ids of the tasks that are not known any more."""
        lot.ids = [task.id for task in self._tables.tasks.find(lot.ids) if task is not None]
        assert len(lot.ids) == lot.known
