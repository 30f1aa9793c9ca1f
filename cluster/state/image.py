"""The image: the whole state as a sequence of parts, for snapshots. `restoration` reads it back.

A machine that was restored must go on for ever as the one that was written would have: the same decisions, the same
orders, the same effects. So an image holds everything that decides, the turns of rings and the stale entries of
lanes included (how long a lane is decides how many slots take part in a round). Left out is what follows from the
rest without any doubt: the counts and loads of slots follow from what they hold, a pool's channels from its names,
its mask from its ready rings, where a slot is listed from the rings.

Specs are numbered by identity, not by value. Two equal specs may be two objects: one of a client's default, one of
options that say the same. `outcomes` writes an estimate back whenever the object changes, and bounds it then, so
merging them could change an estimate. For the same reason the memory of specs (`queues.Queues`) is written.

Format. A part is one msgpack message `[section, number, rows]`: sections rise, numbers count the parts from 0. Rows
are collected until a part has PART_BYTES; a single larger row is a part of its own. Tasks are written in blocks, a
row each, as columns: a list of ids, a list of bodies and so on are made and read by loops in C, and a column in which
every task has the default is left out. What comes last is the number of parts and the checksum of all.
The order depends on the state only, never on the history of a dict: two replicas at one index write the same bytes.

Growth. A row grows by appending fields with defaults, so that older images stay readable; a new section gets a
number between two others, and an image without it is one without its rows. Whatever an older release would misread
raises IMAGE_VERSION, and it refuses the image by the first part alone: the first two fields of `HeadRow` are for ever.

Cost: see docs/internals/state-machine.md. Nothing may be applied before the last part was taken.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from operator import add, attrgetter
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Raw

from cluster.state.commands import GRACE_NONE, WorkerSpec
from cluster.state.credit import Labels, pools_of
from cluster.state.keys import KeyedChannel, homes_of
from cluster.state.lines import Line
from cluster.state.queues import PENDING, Channel, Message, Spec
from cluster.state.rows import (
    IMAGE_VERSION,
    BundleRow,
    ChannelRow,
    ClaimRow,
    CountersRow,
    DeadRow,
    DependentRow,
    EndedRow,
    EndRow,
    EvidenceRow,
    HeadRow,
    KeyRow,
    LimitRow,
    LotRow,
    MemoRow,
    NameRow,
    OfferRow,
    Order,
    OrderRow,
    PoolRow,
    QueueRow,
    RangesRow,
    Row,
    ScheduleRow,
    Section,
    SessionRow,
    SpecRow,
    TasksRow,
    TimerRow,
    WaitedRow,
)
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import Task

PART_BYTES = 256 * 1024     # of the rows of a part, unless one row alone is larger
TASK_BYTES = 128            # at most, of all columns of a task together: body, worker, spec and attempts come on top
NO_KEY = ("", "", "", "", ())       # queue, name, actor, key and labels of most specs
LIST_ITEMS = 6 * 2_048      # numbers of one row, at most 9 bytes each; whole pairs and triples

assert LIST_ITEMS * 9 < PART_BYTES and LIST_ITEMS % 6 == 0

_encode = msgspec.msgpack.Encoder().encode


def image(tables: Tables, applied_index: int) -> Iterator[bytes]:
    """The parts of the image, made one by one as they are asked for."""
    number = crc = 0
    for section, rows in _sections(tables, applied_index):
        for batch in _batches(rows):
            part = _encode((section, number, batch))
            crc = crc32(part, crc)
            number += 1
            yield part
    yield _encode((Section.END, number, [EndRow(number, crc)]))


def _batches(rows: Iterable[Row]) -> Iterator[list[Raw]]:
    batch: list[Raw] = []
    size = 0
    for row in rows:
        encoded = _encode(row)
        if batch and size + len(encoded) > PART_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(Raw(encoded))
        size += len(encoded)
    if batch:
        yield batch


def _sections(tables: Tables, applied_index: int) -> Iterator[tuple[Section, Iterable[Row]]]:
    assert not tables.ledger.decisions and not tables.credit.touched, "an entry is open"
    specs = Specs()
    offers = _Offers(tables)
    yield Section.HEAD, [_head(tables, applied_index)]
    yield Section.COUNTERS, [CountersRow(tables.counters.as_dict())]
    yield Section.TIMERS, _timers(tables)
    yield Section.QUEUES, _queues(tables)
    yield Section.NAMES, _names(tables)
    yield Section.LIMITS, _limits(tables)
    yield Section.BUNDLES, _bundles(tables)
    yield Section.CHANNELS, _channels(tables)
    yield Section.MEMO, _memo(tables, specs)
    yield Section.OFFERS, [OfferRow(worker) for worker in offers.numbers]
    yield Section.POOLS, _pools(tables, offers)
    yield Section.SESSIONS, (_session(session, offers) for session in tables.sessions)
    yield Section.ENDED, _ended(tables)
    yield Section.CLAIMS, _claims(tables)
    yield Section.SCHEDULES, _schedules(tables)
    yield Section.KEYS, _taken(tables)
    yield Section.TASKS, _tasks(tables, specs)
    yield Section.DEPENDENTS, _dependents(tables)
    yield Section.WAITED, _waited(tables)
    yield Section.ORDERS, _orders(tables)
    yield Section.LOTS, _lots(tables)
    yield Section.RANGES, _ranges(tables)
    yield Section.DEAD, map(DeadRow, _cut(list(tables.retention.dead)))
    yield Section.EVIDENCE, _evidence(tables)


# -- sections ------------------------------------------------------------------------------------------------


def _head(tables: Tables, applied_index: int) -> HeadRow:
    return HeadRow(
        IMAGE_VERSION,
        tables.machine_version,
        applied_index,
        tables.now_ms,
        tables.cluster_id,
        tables.voters,
        tables.ledger.rolling,
        tables.ledger.reported,
        tables.sessions.last_id,
        tables.credit.made,
        tables.retention.lots_made,
        tables.retention.bytes,
        tables.queues.made,
        tables.keys.epochs,
        tables.locks.fences,
        tables.schedules.made,
        tables.schedules.number,
        tuple(tables.schedules.sessions),
        tables.limits.made,
    )


def _timers(tables: Tables) -> Iterator[Row]:
    """Sorted, which is a heap as well; how the heap lies decides nothing, since items are compared whole."""
    return (TimerRow(*item) for item in sorted(tables.timers.heap))


def _queues(tables: Tables) -> Iterator[Row]:
    for name, queue in sorted(tables.queues.queues.items()):
        yield QueueRow(name, queue.ready, queue.delayed, queue.running, queue.ended)


def _names(tables: Tables) -> Iterator[Row]:
    for name, known in sorted(tables.queues.names.items()):
        yield NameRow(name, known.estimate_us)


def _limits(tables: Tables) -> Iterator[Row]:
    for index, limit in sorted(tables.limits.by_index.items()):
        terms = (limit.concurrency, limit.starts, limit.period_ms)
        window = [*chain.from_iterable(limit.window)]
        yield LimitRow(index, limit.name, limit.share, *terms, limit.running, window, limit.date_ms)


def _bundles(tables: Tables) -> Iterator[Row]:
    for index, bundle in sorted(tables.lines.bundles.items()):
        limit = 0 if bundle.limit is None else bundle.limit.index
        yield BundleRow(index, bundle.queue.name, bundle.name.name, bundle.labels, limit)


def _channels(tables: Tables) -> Iterator[Row]:
    for index, channel in tables.queues.channels.items():
        queue, name = channel.queue.name, channel.name.name
        counts = (channel.waiting, channel.alone, channel.stale)
        if isinstance(channel, KeyedChannel):
            home = 0 if channel.home is None else channel.home.index
            owned = (home, channel.epoch, channel.held, channel.unfinished)
            yield ChannelRow(queue, name, *counts, channel.labels, index, channel.key, *owned)
        elif isinstance(channel, Line):
            limit = 0 if channel.limit is None else channel.limit.index
            whose = (channel.bundle.index, channel.share, limit)
            yield ChannelRow(queue, name, *counts, (), index, "", 0, 0, 0, channel.unfinished, *whose)
        else:
            yield ChannelRow(queue, name, *counts, channel.labels, index)


def _pools(tables: Tables, offers: "_Offers") -> Iterator[Row]:
    for pool in tables.credit.pools.values():
        yield PoolRow(pool.index, offers.of_pool[pool.index], pool.is_loop)


def _memo(tables: Tables, specs: "Specs") -> Iterator[Row]:
    for (name, options), spec in tables.queues.specs.items():
        (row,) = specs.introduce([spec])
        yield MemoRow(name, options, row)


def _session(session: Session, offers: "_Offers") -> Row:
    return SessionRow(
        session.id,
        session.name,
        session.incarnation,
        session.role,
        -1 if session.worker is None else offers.numbers[session.worker],
        session.draining,
        session.next_seq,
        session.kept_from,
        [(seq, *answer) for seq, answer in sorted(session.refusals.items())],
        session.last_number,
        session.unsaid,
        [slot.index for slot in session.slots.values() if slot.closed],
        list(session.ended),
        [slot.index for slot in session.slots.values() if slot.yields],
        session.last_claim,
        session.slots_open,
    )


def _ended(tables: Tables) -> Iterator[Row]:
    for (role, name), incarnations in tables.sessions.ended.items():
        yield EndedRow(role, name, list(incarnations))


def _claims(tables: Tables) -> Iterator[Row]:
    for name, lock in sorted(tables.locks.by_name.items()):
        for claim in (*lock.holders.values(), *lock.waiting.values()):
            yield ClaimRow(
                claim.id,
                claim.session,
                name,
                lock.limit,
                claim.units,
                claim.hold_ms,
                claim.note,
                claim.fence,
                claim.since_ms,
                claim.at_most_ms,
                claim.rest_ms,
                claim.terms,
                claim.is_wanted,
            )


def _schedules(tables: Tables) -> Iterator[Row]:
    for _, schedule in sorted(tables.schedules.by_name.items()):
        yield ScheduleRow(
            schedule.spec,
            schedule.version,
            schedule.next_ms,
            schedule.passed_ms,
            schedule.is_paused,
            list(schedule.begun),
            list(schedule.waiting),
            list(schedule.history),
            schedule.alarm,
            schedule.alarm_ms,
        )


def _taken(tables: Tables) -> Iterator[Row]:
    over = tables.duplicates.over
    unfinished = [taken for task, taken in sorted(tables.duplicates.by_task.items()) if task not in over]
    unfinished.sort(key=lambda taken: taken.behind is not None)
    for taken in (*unfinished, *over.values()):
        behind = 0 if taken.behind is None else taken.behind.task
        yield KeyRow(*taken.scope, taken.task, taken.until_ms, taken.is_over, behind)


def _dependents(tables: Tables) -> Iterator[Row]:
    """Who pins what follows from them."""
    dependencies = tables.dependencies
    for known, is_live in ((dependencies.by_task, True), (dependencies.kept, False)):
        for task, dependent in sorted(known.items()):
            dates, others = (dependent.delay_ms, dependent.at_ms), (dependent.unknown, dependent.behind)
            yield DependentRow(task, dependent.needs, *dates, dependent.missing, is_live, *others)


def _waited(tables: Tables) -> Iterator[Row]:
    for task in sorted(tables.dependencies.waited):
        yield from (WaitedRow(task, some) for some in _cut(tables.dependencies.waiting_for(task)))


def _orders(tables: Tables) -> Iterator[Row]:
    for pool in tables.credit.pools.values():
        for priority, ring in enumerate(pool.ready):
            yield from _order(Order.READY_RING, pool.index, priority, list(ring))
        yield from _order(Order.IDLE_RING, pool.index, 0, list(pool.idle))
        yield from _order(Order.OPEN_RING, pool.index, 0, list(pool.open))
    yield from _order(Order.DIRTY, 0, 0, list(tables.credit.dirty))
    for home in homes_of(tables.sessions):
        for priority, ring in enumerate(home.ready):
            yield from _order(Order.HOME_RING, home.index, priority, list(ring))
    yield from _order(Order.IDLE_HOMES, 0, 0, list(tables.keys.idle))
    for _, limit in sorted(tables.limits.by_index.items()):
        yield from _order(Order.PASSED, limit.index, 0, list(limit.passed))
        for priority, ring in enumerate(limit.ready):
            yield from _order(Order.LIMIT_RING, limit.index, priority, list(ring))
    for _, bundle in sorted(tables.lines.bundles.items()):
        for priority, ring in enumerate(bundle.ready):
            yield from _order(Order.LINE_RING, bundle.index, priority, list(ring))
    yield from _order(Order.ENDS, 0, 0, list(tables.dependencies.ends))
    for channel in tables.queues.channels.values():
        for priority, lane in enumerate(channel.lanes):
            yield from _order(Order.LANE, channel.index, priority, _entries(tables, channel, lane or ()))
    for session in tables.sessions:
        yield from _order(Order.HELD_TASKS, session.id, 0, list(session.held))


def _entries(tables: Tables, channel: Channel, lane: Iterable[Message]) -> list[int]:
    if not channel.stale:
        return [message.id for message in lane]
    # A task may be forgotten before its stale entry comes up, or replayed: then it is another record.
    table = tables.tasks
    return [m.id if m.state == PENDING or table.get(m.id) is m else -m.id for m in lane]


def _order(what: Order, of: int, at: int, items: list[int]) -> Iterator[Row]:
    return (OrderRow(what, of, at, some) for some in _cut(items))


def _lots(tables: Tables) -> Iterator[Row]:
    for second, bucket in sorted(tables.retention.buckets.items()):
        for lot in bucket.lots.values():
            yield from (LotRow(lot.number, second, lot.known, some) for some in _cut(lot.ids))


def _ranges(tables: Tables) -> Iterator[Row]:
    for second, bucket in sorted(tables.retention.buckets.items()):
        yield from (RangesRow(second, some) for some in _cut([*chain.from_iterable(bucket.ranges)]))


def _evidence(tables: Tables) -> Iterator[Row]:
    attempts = tables.evidence.attempts.items()
    yield from map(EvidenceRow, _cut([part for key, size in attempts for part in (*key, size)]))


def _cut(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[start : start + LIST_ITEMS] for start in range(0, len(numbers), LIST_ITEMS))


class _Offers:
    """What workers offer, each once. A pool's offer is that of any session whose slots are in it."""

    def __init__(self, tables: Tables) -> None:
        self.numbers: dict[WorkerSpec, int] = {}
        self.of_pool: dict[int, int] = {}
        for session in tables.sessions:
            if session.worker is not None:
                number = self.numbers.setdefault(session.worker, len(self.numbers))
                for pool in pools_of(session.slots) if not session.draining else ():
                    self.of_pool.setdefault(pool.index, number)


# -- tasks, the bulk of it -----------------------------------------------------------------------------------


class Specs:
    """Numbers for specs, by identity, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}      # id() of the spec, which its tasks or the memory keep alive

    def introduce(self, specs: Sequence[Spec]) -> list[SpecRow]:
        """Numbers those not met before; returns their rows."""
        numbers = self._numbers
        rows: list[SpecRow] = []
        for key, spec in _by_id(specs).items():
            if key not in numbers:
                numbers[key] = len(numbers)
                rows.append(_spec_row(spec))
        return rows

    def sizes(self, specs: Sequence[Spec]) -> list[int]:
        """How many bytes the rows of those not met before will have, each where it comes first."""
        numbers = self._numbers
        sizes = {key: len(_encode(_spec_row(spec))) for key, spec in _by_id(specs).items() if key not in numbers}
        return [sizes.pop(key, 0) for key in map(id, specs)] if sizes else [0] * len(specs)

    def column(self, specs: Sequence[Spec]) -> list[int]:
        return list(map(self._numbers.__getitem__, map(id, specs)))


def _by_id(specs: Sequence[Spec]) -> dict[int, Spec]:
    return dict(zip(map(id, specs), specs, strict=True))


def _spec_row(spec: Spec) -> SpecRow:
    return SpecRow(
        spec.channel,
        spec.priority,
        spec.timeout_ms,
        spec.result_ttl_ms,
        spec.expires_at_ms,
        spec.retries,
        spec.retry,
        spec.soft_timeout_ms,
        *_whose(spec),
        spec.schedule,
        spec.slot_ms,
        spec.line,
        spec.dedup,
    )


def _whose(spec: Spec) -> tuple[str, str, str, str, Labels]:
    is_written = bool(spec.key) or spec.line is not None or bool(spec.dedup)
    return (spec.queue, spec.name, spec.actor, spec.key, spec.labels) if is_written else NO_KEY


def _tasks(tables: Tables, specs: Specs) -> Iterator[Row]:
    for shard in tables.tasks.shards:
        tasks = list(map(shard.__getitem__, sorted(shard)))
        for start, end in _cuts(tasks, specs):
            yield _block(tasks[start:end], specs)


def _cuts(tasks: list[Task], specs: Specs) -> Iterator[tuple[int, int]]:
    """Where blocks start and end, so that none passes PART_BYTES unless it is of one task."""
    sizes = list(map(len, _column(tasks, "body")))
    # A block has each name of a worker once, so this counts too much, unless every task has another one.
    sizes = list(map(add, sizes, map(len, _column(tasks, "worker"))))
    sizes = list(map(add, sizes, specs.sizes(_column(tasks, "spec"))))
    attempts = _column(tasks, "attempts")
    if any(attempts):
        sizes = list(map(add, sizes, [len(_encode(some)) if some else 0 for some in attempts]))
    ends = list(accumulate([size + TASK_BYTES for size in sizes]))
    start = before = 0
    while start < len(tasks):
        end = max(start + 1, bisect_right(ends, before + PART_BYTES - TASK_BYTES))
        yield start, end
        start, before = end, ends[end - 1]


def _block(tasks: list[Task], specs: Specs) -> Row:
    spec_column: list[Spec] = _column(tasks, "spec")
    names: list[str] = _column(tasks, "worker")
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return TasksRow(
        specs.introduce(spec_column),
        list(places),
        _column(tasks, "id"),
        specs.column(spec_column),
        _column(tasks, "body"),
        bytes(_column(tasks, "state")),
        _unless_all(1, _column(tasks, "attempt")),
        _unless_all(0, _column(tasks, "holder")),
        _unless_all(0, _column(tasks, "estimate_us")),
        _small_unless_all(0, _column(tasks, "alone")),
        None if list(places) == [""] else [places[name] for name in names],
        _unless_all(0, _column(tasks, "started_ms")),
        _unless_all(0, _column(tasks, "run_us")),
        _small_unless_all(0, _column(tasks, "crashes")),
        _unless_all(None, _column(tasks, "attempts")),
        _unless_all(0, _column(tasks, "lot")),
        _unless_all(0, _column(tasks, "failures")),
        _unless_all(GRACE_NONE, _column(tasks, "grace_ms")),
        _unless_all(0, _column(tasks, "replays")),
    )


def _column(tasks: list[Task], field: str) -> list[Any]:
    return list(map(attrgetter(field), tasks))


def _unless_all(default: object, column: list[Any]) -> list[Any] | None:
    return None if column.count(default) == len(column) else column


def _small_unless_all(default: int, column: list[int]) -> bytes | None:
    """Numbers below 256, and flags."""
    return None if column.count(default) == len(column) else bytes(column)
