"""A checksum of the whole state, for simulator, compactor and tests: two replicas at one index must agree on
it.

Orders that decide what happens next are part of it: lanes, rings of slots, turns of channels, what a worker
holds. So is which tasks share one spec object, see `image`. Tables that are only looked up in go in order of their
keys.
"""

from collections.abc import Iterator
from zlib import crc32

import msgspec

from cluster.state.credit import Credit
from cluster.state.duplicates import Duplicates
from cluster.state.evidence import Evidence
from cluster.state.keys import KeyedChannel, homes_of
from cluster.state.limits import Limits
from cluster.state.lines import Line, Lines
from cluster.state.locks import Locks
from cluster.state.needs import Dependencies
from cluster.state.queues import Queues
from cluster.state.retention import Retention
from cluster.state.schedules import Schedules
from cluster.state.sessions import Sessions
from cluster.state.tables import Tables


def full_digest(tables: Tables) -> int:
    encode = msgspec.msgpack.Encoder().encode
    digest = 0
    for part in _parts(tables):
        digest = crc32(encode(part), digest)
    return digest


def _parts(tables: Tables) -> Iterator[object]:
    yield (tables.now_ms, tables.machine_version, tables.cluster_id, tables.voters)
    yield (tables.ledger.rolling, tables.ledger.reported)
    yield tables.counters.as_dict()
    yield sorted(tables.timers.heap)
    yield from _queues(tables.queues)
    yield from _credit(tables.credit)
    yield from _keys(tables)
    yield from _lines(tables.lines)
    yield from _limits(tables.limits)
    yield from _sessions(tables.sessions)
    yield from _locks(tables.locks)
    yield from _schedules(tables.schedules)
    yield from _duplicates(tables.duplicates)
    yield from _tasks(tables)
    yield from _dependencies(tables.dependencies)
    yield from _retention(tables.retention)
    yield from _evidence(tables.evidence)


def _tasks(tables: Tables) -> Iterator[object]:
    specs: dict[int, int] = {}      # id() of a spec -> its number, in the order in which they are met
    for key, spec in tables.queues.specs.items():
        yield (key, specs.setdefault(id(spec), len(specs)))
    for task in tables.tasks.in_order():
        yield task
        yield specs.setdefault(id(task.spec), len(specs))


def _queues(queues: Queues) -> Iterator[object]:
    for name, queue in sorted(queues.queues.items()):
        yield (name, queue.ready, queue.delayed, queue.running, queue.ended)
    for name, known in sorted(queues.names.items()):
        yield (name, known.estimate_us)
    yield queues.made
    for index, channel in queues.channels.items():
        whose = (channel.queue.name, channel.name.name, channel.labels, channel.key)
        yield (index, whose, [pool.index for pool in channel.pools])
        if isinstance(channel, KeyedChannel):
            yield (channel.epoch, channel.held, channel.unfinished)
        elif isinstance(channel, Line):
            limit = 0 if channel.limit is None else channel.limit.index
            yield (channel.bundle.index, channel.share, limit, channel.unfinished)
        yield (channel.waiting, channel.alone, channel.stale)
        for lane in channel.lanes:
            yield [message.id for message in lane or ()]


def _keys(tables: Tables) -> Iterator[object]:
    keys = tables.keys
    yield (keys.epochs, keys.homes, list(keys.idle), sorted(keys.homeless.by_index.items()))
    for home in homes_of(tables.sessions):
        yield (home.index, home.mask, sorted(home.channels), [list(ring) for ring in home.ready])


def _lines(lines: Lines) -> Iterator[object]:
    for index, bundle in sorted(lines.bundles.items()):
        limit = 0 if bundle.limit is None else bundle.limit.index
        yield (index, bundle.queue.name, bundle.name.name, bundle.labels, limit, bundle.mask)
        yield ([pool.index for pool in bundle.places], [pool.index for pool in bundle.pools])
        yield [list(ring) for ring in bundle.ready]


def _limits(limits: Limits) -> Iterator[object]:
    yield limits.made
    for index, limit in sorted(limits.by_index.items()):
        yield (index, limit.name, limit.share, limit.concurrency, limit.starts, limit.period_ms)
        yield (limit.running, list(limit.window), limit.date_ms, sorted(limit.members), list(limit.passed))
        yield [list(ring) for ring in limit.ready]


def _credit(credit: Credit) -> Iterator[object]:
    yield (credit.made, list(credit.dirty))
    for key, pool in credit.pools.items():
        yield (key, pool.index, pool.sessions, pool.mask, list(pool.idle), list(pool.open))
        yield [list(ring) for ring in pool.ready]


def _sessions(sessions: Sessions) -> Iterator[object]:
    yield (sessions.last_id, [(owner, list(ended)) for owner, ended in sessions.ended.items()])
    for session in sessions:
        yield (session.id, session.name, session.incarnation, session.role, session.worker, session.draining)
        yield session.slots_open
        yield (session.next_seq, session.kept_from, sorted(session.refusals.items()), session.last_number)
        yield (session.unsaid, list(session.ended), list(session.held), session.last_claim)
        for key, slot in session.slots.items():
            yield (key, slot.count, slot.load_us, slot.closed, slot.draining, slot.place, slot.yields)


def _locks(locks: Locks) -> Iterator[object]:
    yield locks.fences
    for name, lock in sorted(locks.by_name.items()):
        yield (name, lock.limit, lock.taken)
        for claim in (*lock.holders.values(), *lock.waiting.values()):
            yield (claim.id, claim.session, claim.units, claim.hold_ms, claim.note, claim.fence, claim.since_ms)
            yield (claim.at_most_ms, claim.rest_ms, claim.terms, claim.is_wanted)


def _schedules(schedules: Schedules) -> Iterator[object]:
    yield (schedules.made, schedules.session, schedules.number, list(schedules.sessions))
    yield sorted(schedules.announced.items())
    for _, schedule in sorted(schedules.by_name.items()):
        yield (schedule.spec, schedule.version, schedule.next_ms, schedule.passed_ms, schedule.is_paused)
        yield (list(schedule.begun), list(schedule.waiting), list(schedule.history))
        yield (schedule.alarm, schedule.alarm_ms)
    yield [(task, schedule.spec.name) for task, schedule in sorted(schedules.by_task.items())]


def _duplicates(duplicates: Duplicates) -> Iterator[object]:
    for task, taken in sorted(duplicates.by_task.items()):
        behind = 0 if taken.behind is None else taken.behind.task
        yield (task, taken.scope, taken.until_ms, taken.is_over, behind, duplicates.by_scope[taken.scope].task)
    yield list(duplicates.over)
    yield [(date_ms, list(bucket)) for date_ms, bucket in sorted(duplicates.buckets.items())]


def _dependencies(dependencies: Dependencies) -> Iterator[object]:
    yield (dependencies.counted, list(dependencies.ends))
    yield (sorted(dependencies.pins.items()), sorted(dependencies.taken.items()))
    yield [(task, dependencies.waiting_for(task)) for task in sorted(dependencies.waited)]
    for known in (dependencies.by_task, dependencies.kept):
        for task, d in sorted(known.items()):
            yield (task, d.needs, d.delay_ms, d.at_ms, d.missing, d.unknown, d.behind)


def _retention(retention: Retention) -> Iterator[object]:
    yield (retention.lots_made, retention.bytes, retention.dead_bytes, retention.overdue_bytes, list(retention.dead))
    for second, bucket in sorted(retention.buckets.items()):
        yield (second, list(bucket.ranges))
        for lot in bucket.lots.values():
            yield (lot.number, lot.known, lot.ids)


def _evidence(evidence: Evidence) -> Iterator[object]:
    yield (evidence.bytes, list(evidence.attempts))
