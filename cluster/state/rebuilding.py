"""From the rows of an image back to tables, section by section. `restoration` decodes them and sees to their order.

Rows come as they were written, so what a row names is there already; if it is not, a LookupError says so. Objects are
shared as they were: tasks of a spec share its object, and names of workers, queues and tasks are one string each.
What follows from other rows is made anew here, see `image`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

from cluster.state.commands import GRACE_NONE, LineRule, WorkerSpec
from cluster.state.credit import (
    IDLE,
    OPEN,
    SLOT_BITS,
    SLOTS_MAX,
    Pool,
    PoolKey,
    Slot,
    is_shut,
    pool_keys,
    slot_key,
    slots_of,
)
from cluster.state.duplicates import Taken
from cluster.state.effects import STATE_CANCELLED, STATE_DEAD
from cluster.state.errors import OlderState
from cluster.state.keys import Home, KeyedChannel
from cluster.state.limits import Limit
from cluster.state.lines import Bundle
from cluster.state.locks import Claim, Lock
from cluster.state.needs import Dependent
from cluster.state.queues import Channel, Message, Name, Queue, Spec
from cluster.state.retention import OVERDUE, Lot
from cluster.state.rows import (
    DEAD_LISTED_SINCE,
    IMAGE_VERSION,
    LABELS_IN_POOLS_SINCE,
    ROWS,
    BundleRow,
    ChannelRow,
    ClaimRow,
    CountersRow,
    DeadRow,
    DependentRow,
    EndedRow,
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
    ScheduleRow,
    Section,
    SessionRow,
    SpecRow,
    TasksRow,
    TimerRow,
    WaitedRow,
)
from cluster.state.schedules import Schedule
from cluster.state.sessions import ENDED_INCARNATIONS_MAX, Session
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, Attempt, Task
from cluster.state.turns import SparseTurns, Standing, Turns


class Rebuilding:
    """The tables of an image of which some rows were read."""

    __slots__ = (
        "_channels_made",
        "_offers",
        "_owned",
        "_pools",
        "_rules",
        "_specs",
        "_texts",
        "_version",
        "applied_index",
        "tables",
    )

    def __init__(self) -> None:
        self.tables = Tables()
        self.applied_index = 0
        self._version = IMAGE_VERSION
        self._channels_made = 0
        self._texts: dict[str, str] = {}                        # each text once
        self._rules: dict[LineRule, LineRule] = {}              # likewise
        self._specs: list[Spec] = []                            # by number
        self._offers: list[tuple[WorkerSpec, list[PoolKey]]] = []       # by number
        self._pools: dict[int, Pool] = {}                       # by index
        self._owned: dict[int, list[KeyedChannel]] = {}         # by key of a slot that was not read yet

    def head(self, row: HeadRow) -> None:
        tables = self.tables
        self._version = row.image_version
        self.applied_index = row.applied_index
        tables.machine_version = row.machine_version
        tables.now_ms = row.now_ms
        tables.cluster_id = row.cluster_id
        tables.voters = row.voters
        tables.ledger.rolling = row.rolling
        tables.ledger.reported = row.reported
        tables.sessions.last_id = row.last_session
        tables.credit.made = row.pools_made
        tables.retention.lots_made = row.lots_made
        tables.retention.bytes = row.results_bytes
        self._channels_made = row.channels_made
        tables.keys.epochs = row.epochs
        tables.locks.fences = row.fences
        schedules = tables.schedules
        schedules.made, schedules.number = row.versions, row.run_number
        schedules.sessions = dict.fromkeys(row.run_sessions)
        schedules.session = row.run_sessions[-1] if row.run_sessions else 0
        tables.limits.made = row.limits_made

    def counters(self, row: CountersRow) -> None:
        counters = self.tables.counters
        known = counters.as_dict()
        for name, value in row.values.items():
            if name not in known:
                raise LookupError(name)
            setattr(counters, name, value)

    def timer(self, row: TimerRow) -> None:
        """They are sorted, and a sorted list is a heap."""
        self.tables.timers.heap.append((row.date_ms, row.first, row.count, row.what))

    def queue(self, row: QueueRow) -> None:
        queue = self.tables.queues.queues[row.name] = Queue(self._text(row.name))
        queue.ready, queue.delayed, queue.running = row.ready, row.delayed, row.running
        queue.ended = row.ended

    def name(self, row: NameRow) -> None:
        name = self.tables.queues.names[row.name] = Name(self._text(row.name))
        name.estimate_us = row.estimate_us

    def limit(self, row: LimitRow) -> None:
        limits = self.tables.limits
        limit = Limit(row.index, self._text(row.name), self._text(row.share), limits.touched)
        limit.concurrency, limit.starts, limit.period_ms = row.concurrency, row.starts, row.period_ms
        limit.running, limit.date_ms = row.running, row.date_ms
        pairs = iter(row.window)
        limit.window.extend(zip(pairs, pairs, strict=True))
        limit.started = sum([count for _, count in limit.window])
        limits.add(limit)

    def bundle(self, row: BundleRow) -> None:
        queues = self.tables.queues
        limit = self.tables.limits.by_index[row.limit] if row.limit else None
        labels = tuple(map(self._text, row.labels))
        bundle = Bundle(row.index, queues.queues[row.queue], queues.names[row.name], labels, limit, ())
        self.tables.lines.add_bundle(bundle)

    def channel(self, row: ChannelRow) -> None:
        queues, keys = self.tables.queues, self.tables.keys
        queue, name = queues.queues[row.queue], queues.names[row.name]
        labels = tuple(map(self._text, row.labels))
        index = row.index if row.index >= 0 else queues.made
        if index < queues.made:
            raise LookupError(f"channel {index} after {queues.made - 1}")
        if row.key:
            keyed = KeyedChannel(index, queue, name, self._text(row.key), labels, keys)
            keyed.epoch, keyed.held, keyed.unfinished = row.epoch, row.held, row.unfinished
            keys.add(keyed)
            if row.home:
                self._owned.setdefault(row.home, []).append(keyed)
        elif row.bundle >= 0:
            lines = self.tables.lines
            limit = self.tables.limits.by_index[row.limit] if row.limit else None
            line = lines.add_line(index, lines.bundles[row.bundle], self._text(row.share), limit)
            line.unfinished = row.unfinished
        else:
            queues.add(Channel(index, queue, name, labels, []))
        channel = queues.channels[index]
        channel.waiting, channel.alone, channel.stale = row.waiting, row.alone, row.stale

    def memo(self, row: MemoRow) -> None:
        self._spec(row.spec)
        self.tables.queues.specs[self._text(row.name), row.options] = self._specs[-1]

    def offer(self, row: OfferRow) -> None:
        if not 1 <= row.worker.slots <= SLOTS_MAX:
            raise LookupError(f"a worker of {row.worker.slots} slots")
        self._offers.append((row.worker, pool_keys(row.worker)))

    def pool(self, row: PoolRow) -> None:
        """Its channels are those of its names; each has its pools in the order in which they were made."""
        credit = self.tables.credit
        key = self._offers[row.offer][1][row.is_loop]
        pool = credit.pools[key] = self._pools[row.index] = Pool(row.index, key, credit.dirty)
        for channel in pool.served(self.tables.queues):
            (channel.places if isinstance(channel, Bundle) else channel.pools).append(pool)

    def session(self, row: SessionRow) -> None:
        sessions = self.tables.sessions
        session = Session(row.id, self._text(row.name), row.incarnation, row.role, draining=row.draining)
        session.next_seq, session.kept_from = row.next_seq, row.kept_from
        session.refusals = {seq: (code, value) for seq, code, value in row.refusals}
        session.last_number, session.unsaid = row.last_number, row.unsaid
        session.last_claim, session.slots_open = row.last_claim, row.slots_open
        session.ended.extend(row.ended)
        if row.offer >= 0:
            self._slots(session, row)
        sessions.by_id[session.id] = session
        sessions.by_owner[session.role, session.name] = session

    def _slots(self, session: Session, row: SessionRow) -> None:
        session.worker, keys = self._offers[row.offer]
        known = self.tables.credit.pools
        if self._version < LABELS_IN_POOLS_SINCE and not session.draining and any(key not in known for key in keys):
            what = f"the pool of worker {session.name}, in which workers have different labels"
            raise OlderState(self._version, IMAGE_VERSION, what)
        # The pool of a worker that drains does not know its slots and may be gone; they are never listed again.
        pools = [known[key] if not session.draining else known.get(key) or Pool(0, key, {}) for key in keys]
        session.slots = slots_of(session.id, session.worker, pools, session.held)
        for index in row.closed:
            session.slots[slot_key(session.id, index)].closed = True
        for index in row.yielding:
            session.slots[slot_key(session.id, index)].yields = True
        for slot in session.slots.values():
            slot.draining = session.draining or is_shut(slot, row.slots_open)
        for pool in pools:
            pool.sessions += not session.draining
        if self._owned:
            for slot in session.slots.values():
                self._own(slot, self._owned.pop(slot.key, ()))
        if not session.draining:
            self.tables.schedules.join(session.worker)

    def _own(self, slot: Slot, channels: Iterable[KeyedChannel]) -> None:
        for channel in channels:
            if slot.home is None:
                slot.home = Home(slot, self.tables.credit.dirty_homes)
            channel.home = slot.home
            channel.pools = [slot.home]
            slot.home.channels[channel.index] = channel
            self.tables.keys.homes += 1

    def ended(self, row: EndedRow) -> None:
        owner = (row.role, self._text(row.name))
        self.tables.sessions.ended[owner] = deque(row.incarnations, maxlen=ENDED_INCARNATIONS_MAX)

    def claim(self, row: ClaimRow) -> None:
        locks, sessions = self.tables.locks, self.tables.sessions.by_id
        if (row.session not in sessions and not row.rest_ms) or row.id in locks.claims:
            raise LookupError(f"claim {row.id} of session {row.session}")
        lock = locks.by_name.get(row.lock)
        if lock is None:
            lock = locks.by_name[row.lock] = Lock(row.lock, row.limit)
        if row.fence and not lock.fits(row.units):
            raise LookupError(f"claim {row.id} of what others hold")
        claim = Claim(row.id, row.session, lock, row.units, row.hold_ms, self._text(row.note), row.fence, row.since_ms)
        claim.at_most_ms, claim.rest_ms, claim.terms = row.at_most_ms, row.rest_ms, row.terms
        claim.is_wanted = row.is_wanted
        locks.add(claim)

    def schedule(self, row: ScheduleRow) -> None:
        schedules = self.tables.schedules
        schedule = Schedule(row.spec, row.version, row.next_ms, row.passed_ms, row.is_paused)
        schedule.begun, schedule.waiting = dict.fromkeys(row.begun), dict.fromkeys(row.waiting)
        schedule.history.extend(row.history)
        schedule.alarm, schedule.alarm_ms = row.alarm, row.alarm_ms
        schedules.by_name[self._text(row.spec.name)] = schedule
        for task in (*row.begun, *row.waiting):
            schedules.by_task[task] = schedule

    def key(self, row: KeyRow) -> None:
        scope = (self._text(row.name), self._text(row.key), self._text(row.dedup))
        duplicates = self.tables.duplicates
        behind = duplicates.by_scope.get(scope)
        if row.task in duplicates.by_task or (0 if behind is None else behind.task) != row.behind:
            raise LookupError(f"key {scope} of task {row.task}")
        duplicates.add(Taken(scope, row.task, row.until_ms, is_over=row.is_over, behind=behind))

    def tasks(self, row: TasksRow) -> None:
        for spec in row.specs:
            self._spec(spec)
        count = len(row.id)
        texts = [self._text(name) for name in row.workers]

        def column(values: Sequence[Any] | None, default: object) -> Any:
            if values is None:
                return repeat(default)
            if len(values) != count:
                raise LookupError(f"{len(values)} values for {count} tasks")
            return values

        attempts = [self._attempts(ended) for ended in row.attempts] if row.attempts is not None else None
        workers = [texts[place] for place in row.worker] if row.worker is not None else None
        tasks = map(
            Task,
            row.id,
            map(self._specs.__getitem__, column(row.spec, None)),
            column(row.body, None),
            column(row.state, None),
            column(row.attempt, 1),
            column(_shared(row.holder), 0),
            column(_shared(row.estimate_us), 0),
            column(row.alone, 0),
            column(workers, ""),
            column(row.started_ms, 0),
            column(row.run_us, 0),
            column(row.crashes, 0),
            column(attempts, None),
            column(_shared(row.lot), 0),
            column(row.failures, 0),
            column(row.grace_ms, GRACE_NONE),
            column(row.replays, 0),
        )
        shard = self.tables.tasks.shard(row.id[0] >> RUN_BITS)
        shard.update(zip(row.id, tasks, strict=True))
        if row.lot is not None and min(row.lot) <= OVERDUE:
            overdue = [shard[number] for number, lot in zip(row.id, row.lot, strict=True) if lot <= OVERDUE]
            self.tables.retention.overdue_bytes += sum(map(self.tables.retention.bytes_of, overdue))

    def _attempts(self, ended: list[Attempt] | None) -> list[Attempt] | None:
        if ended is None:
            return None
        return [Attempt(a.number, self._text(a.worker), a.status, a.started_ms, a.ended_ms, a.error) for a in ended]

    def dependent(self, row: DependentRow) -> None:
        dependencies = self.tables.dependencies
        dependent = Dependent(row.needs, row.delay_ms, row.at_ms, row.missing, row.unknown, row.behind)
        if not row.is_live:
            task = self.tables.tasks.get(row.task)
            if task is None:
                raise LookupError(f"needs of task {row.task}")
            dependencies.kept[row.task] = dependent
            if task.lot <= OVERDUE:
                self.tables.retention.overdue_bytes += dependencies.kept_bytes(row.task)
            return
        dependencies.enter(row.task, dependent)
        if not row.missing:
            dependencies.take(dependent)

    def waited(self, row: WaitedRow) -> None:
        for signed in row.waiting:
            if not self.tables.dependencies.wait(row.task, signed):
                raise LookupError(f"{signed} waits twice for task {row.task}")

    # -- orders ----------------------------------------------------------------------------------------------

    def order(self, row: OrderRow) -> None:
        credit = self.tables.credit
        if row.what is Order.READY_RING:
            for index in row.items:
                Turns.wake(self._pools[row.of], self._standing(index), row.at)
        elif row.what is Order.IDLE_RING:
            self._list(row, self._pools[row.of].idle, IDLE)
        elif row.what is Order.OPEN_RING:
            self._list(row, self._pools[row.of].open, OPEN)
        elif row.what is Order.DIRTY:
            for index in row.items:
                credit.dirty[index] = self._pools[index]
        elif row.what is Order.HOME_RING:
            slot = self.tables.sessions.by_id[row.of >> SLOT_BITS].slots[row.of]
            for index in row.items:
                if slot.home is None:
                    raise LookupError(f"a home of slot {row.of}")
                Turns.wake(slot.home, slot.home.channels[index], row.at)
        elif row.what is Order.IDLE_HOMES:
            for index in row.items:
                channel = self.tables.queues.channels[index]
                assert isinstance(channel, KeyedChannel)
                self.tables.keys.idle[index] = channel
        elif row.what is Order.LINE_RING:
            for index in row.items:
                SparseTurns.wake(self.tables.lines.bundles[row.of], self._standing(index), row.at)
        elif row.what is Order.LIMIT_RING:
            limit = self.tables.limits.by_index[row.of]
            for index in row.items:
                SparseTurns.wake(limit, limit.members[index], row.at)
        elif row.what is Order.PASSED:
            limit = self.tables.limits.by_index[row.of]
            for index in row.items:
                member = limit.passed[index] = limit.members[index]
                member.pools = member.places
        elif row.what is Order.ENDS:
            self.tables.dependencies.ends.extend(row.items)
        elif row.what is Order.LANE:
            self._lane(row)
        else:
            assert row.what is Order.HELD_TASKS
            self._held(row)

    def _standing(self, index: int) -> Standing:
        bundle = self.tables.lines.bundles.get(index)
        return self.tables.queues.channels[index] if bundle is None else bundle

    def _list(self, row: OrderRow, ring: dict[int, Slot], place: int) -> None:
        by_id = self.tables.sessions.by_id
        for key in row.items:
            slot = ring[key] = by_id[key >> SLOT_BITS].slots[key]
            slot.place = place

    def _lane(self, row: OrderRow) -> None:
        channel = self.tables.queues.channels[row.of]
        lane = channel.lanes[row.at]
        if lane is None:
            lane = channel.lanes[row.at] = deque()
        for number, task in zip(row.items, self.tables.tasks.find(row.items), strict=True):
            if task is not None:
                lane.append(task)
            elif number < 0:
                lane.append(_forgotten(-number, channel, row.at))
            else:
                raise LookupError(number)

    def _held(self, row: OrderRow) -> None:
        """What slots hold is counted again: it cannot differ."""
        session = self.tables.sessions.by_id[row.of]
        for task in self.tables.tasks.find(row.items):
            if task is None:
                raise LookupError("a task that is held")
            session.held[task.id] = task
            slot = session.slots[task.holder]
            slot.count += 1
            slot.load_us += task.estimate_us

    def lot(self, row: LotRow) -> None:
        retention = self.tables.retention
        lot = retention.lots.get(row.number)
        if lot is None:
            lot = retention.lots[row.number] = Lot(row.number, row.second)
            lot.known = row.known
            retention.bucket(row.second).lots[row.number] = lot
        found = zip(row.ids, self.tables.tasks.find(row.ids), strict=True)
        lot.ids += [number if task is None else task.id for number, task in found]

    def ranges(self, row: RangesRow) -> None:
        pairs = iter(row.ids)
        self.tables.retention.bucket(row.second).ranges.extend(zip(pairs, pairs, strict=True))

    def dead(self, row: DeadRow) -> None:
        for task in self.tables.tasks.find(row.tasks):
            if task is None:
                raise LookupError("a task that is dead")
            self.tables.retention.bury(task)

    def evidence(self, row: EvidenceRow) -> None:
        evidence = self.tables.evidence
        parts = iter(row.attempts)
        for task, number, size in zip(parts, parts, parts, strict=True):
            evidence.attempts[task, number] = size
            evidence.bytes += size

    def finish(self) -> None:
        """After all rows: which pools may house what waits for a home follows from the heads of lanes."""
        if self._owned:
            raise LookupError(f"homes of slots {sorted(self._owned)}")
        if self._version < DEAD_LISTED_SINCE and not self.tables.retention.dead:
            for task in self.tables.tasks.in_order():       # in which they died is not known
                if task.state == STATE_DEAD:
                    self.tables.retention.bury(task)
        self.tables.schedules.stirred.clear()       # as if its workers had come: they were there before
        keys, queues = self.tables.keys, self.tables.queues
        queues.made = max(queues.made, self._channels_made)
        for channel in keys.by_key.values():
            if channel.home is None and channel.waiting:
                keys.homeless.file(channel, channel.peek())
                channel.pools = keys.serving(channel, channel.peek())

    # -- what is shared --------------------------------------------------------------------------------------

    def _text(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def _spec(self, row: SpecRow) -> None:
        if row.key or row.line is not None or row.dedup:
            queue, name = self._text(row.queue), self._text(row.name)
        else:
            channel = self.tables.queues.channels[row.channel]
            queue, name = channel.queue.name, channel.name.name
        self._specs.append(
            Spec(
                queue,
                name,
                row.channel,
                row.priority,
                row.timeout_ms,
                row.result_ttl_ms,
                row.expires_at_ms,
                row.retries,
                row.retry,
                row.soft_timeout_ms,
                self._text(row.actor),
                self._text(row.key),
                tuple(map(self._text, row.labels)),
                self._text(row.schedule),
                row.slot_ms,
                None if row.line is None else self._rules.setdefault(row.line, row.line),
                self._text(row.dedup),
            )
        )


def _shared(column: list[int] | None) -> list[int] | None:
    """Equal numbers as one object: tasks of a slot or of a lot share it."""
    if column is None:
        return None
    kept: dict[int, int] = {}
    return [kept.setdefault(number, number) for number in column]


def _forgotten(task: int, channel: Channel, priority: int) -> Message:
    """A stale entry whose task is gone: only that it is terminal is ever looked at."""
    spec = Spec(channel.queue.name, channel.name.name, channel.index, priority, 0, 0, 0)
    return Message(task, spec, b"", STATE_CANCELLED)


READERS: dict[Section, Callable[[Rebuilding, Any], None]] = {
    Section.HEAD: Rebuilding.head,
    Section.COUNTERS: Rebuilding.counters,
    Section.TIMERS: Rebuilding.timer,
    Section.QUEUES: Rebuilding.queue,
    Section.NAMES: Rebuilding.name,
    Section.LIMITS: Rebuilding.limit,
    Section.BUNDLES: Rebuilding.bundle,
    Section.CHANNELS: Rebuilding.channel,
    Section.MEMO: Rebuilding.memo,
    Section.OFFERS: Rebuilding.offer,
    Section.POOLS: Rebuilding.pool,
    Section.SESSIONS: Rebuilding.session,
    Section.ENDED: Rebuilding.ended,
    Section.CLAIMS: Rebuilding.claim,
    Section.SCHEDULES: Rebuilding.schedule,
    Section.KEYS: Rebuilding.key,
    Section.TASKS: Rebuilding.tasks,
    Section.DEPENDENTS: Rebuilding.dependent,
    Section.WAITED: Rebuilding.waited,
    Section.ORDERS: Rebuilding.order,
    Section.LOTS: Rebuilding.lot,
    Section.RANGES: Rebuilding.ranges,
    Section.DEAD: Rebuilding.dead,
    Section.EVIDENCE: Rebuilding.evidence,
}
assert READERS.keys() == ROWS.keys() - {Section.END}
