"""What must hold between entries. Run after every entry in simulator and tests; too slow for anything
else."""

from cluster.state.commands import NEEDS_COMMAND_MAX, NEVER, RETRIES_MAX, SESSION_WINDOW_COMMANDS, TASK_NUMBER_BITS
from cluster.state.credit import IDLE, NOWHERE, OPEN, SLOT_BITS, SLOT_MESSAGES_MAX, canonical, is_shut
from cluster.state.duplicate_invariants import check_duplicates
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD
from cluster.state.evidence import EVIDENCE_BYTES_MAX, evidence_bytes
from cluster.state.key_invariants import check_keys
from cluster.state.line_invariants import check_lines
from cluster.state.locks import CLAIM_NUMBER_MAX
from cluster.state.needs import NEEDS_KNOWN_MAX
from cluster.state.queues import DELAYED, HELD, PENDING, Channel
from cluster.state.retention import OVERDUE, OVERDUE_BYTES_MAX
from cluster.state.schedule_rows import HISTORY_SLOTS
from cluster.state.schedules import RUN_NUMBER_MAX, SCHEDULES_MAX, UNKNOWN, WAITING_MAX, is_served
from cluster.state.sessions import ENDED_INCARNATIONS_MAX, ENDED_NAMES_MAX, SESSIONS_MAX
from cluster.state.tables import Tables
from cluster.state.tasks import ATTEMPTS_KEPT_MAX, CRASHES_MAX
from cluster.state.timers import EXPIRES, GIVE_UP, LIFE_SHIFT, LIMIT, READY


def check(tables: Tables) -> None:
    """Asserts every invariant of the state."""
    assert not tables.ledger.decisions, "an entry is open"
    assert not tables.credit.touched, "slots were not listed anew"
    _check_places(tables)
    _check_counters(tables)
    _check_slots(tables)
    _check_rings(tables)
    check_keys(tables)
    check_lines(tables)
    check_duplicates(tables)
    _check_sessions(tables)
    _check_locks(tables)
    _check_schedules(tables)
    _check_dependencies(tables)
    _check_retention(tables)
    _check_evidence(tables)


def _check_locks(tables: Tables) -> None:
    """Every claim is of a live session and in its lock, once; no lock hands out more than it has, or keeps back what
    the next one could have."""
    locks = tables.locks
    claims = [claim for lock in locks.by_name.values() for claim in (*lock.holders.values(), *lock.waiting.values())]
    assert len(claims) == len(locks.claims) and all(locks.claims[claim.id] is claim for claim in claims)
    assert sum(map(len, locks.by_session.values())) == sum(not claim.rest_ms for claim in claims)
    assert locks.rests == sum(claim.rest_ms > 0 for claim in claims)
    bounded = {claim.fence: claim for claim in claims if claim.fence and (claim.at_most_ms or claim.rest_ms)}
    assert locks.bounded == bounded
    held = {claim.fence: claim for claim in claims if claim.fence}
    assert locks.by_fence == held and all(fence <= locks.fences for fence in held)
    for name, lock in locks.by_name.items():
        assert lock.name == name and (lock.holders or lock.waiting), f"nobody claims {name}"
        assert list(lock.holders) == sorted(lock.holders), f"fences of {name} are out of order"
        assert lock.taken == sum(claim.units for claim in lock.holders.values()) <= lock.limit
        for claim in lock.waiting.values():
            assert not claim.fence and not lock.fits(claim.units), f"{claim.id} waits for what is free"
            break
    for claim in claims:
        assert 1 <= claim.units <= claim.lock.limit
        if claim.rest_ms:
            assert claim.fence and claim.lock.limit == 1
            continue
        session = tables.sessions.by_id.get(claim.session)
        assert session is not None, f"{claim.id} is of a session that has ended"
        assert locks.by_session[claim.session][claim.id] is claim
        assert session.id == claim.id >> TASK_NUMBER_BITS and claim.id & CLAIM_NUMBER_MAX <= session.last_claim


def _check_schedules(tables: Tables) -> None:
    """Every unfinished run is of one schedule, once; slots rise; nobody waits for nothing."""
    schedules = tables.schedules
    assert not schedules.freed and not schedules.stirred, "an entry was not settled"
    announced: dict[str, int] = {}
    for session in tables.sessions:
        if session.worker is not None and not session.draining:
            for spec in session.worker.schedules:
                if is_served(session.worker, spec):
                    announced[spec.name] = announced.get(spec.name, 0) + 1
    assert schedules.announced == announced
    assert len(schedules.by_name) <= SCHEDULES_MAX and schedules.number <= RUN_NUMBER_MAX
    assert schedules.session == (list(schedules.sessions) or [0])[-1]
    assert not schedules.sessions.keys() & tables.sessions.by_id.keys()
    versions = [schedule.version for schedule in schedules.by_name.values()]
    assert len(set(versions)) == len(versions) and all(0 < version <= schedules.made for version in versions)
    runs = 0
    for name, schedule in schedules.by_name.items():
        assert schedule.spec.name == name
        assert schedule.next_ms in (UNKNOWN, NEVER) or schedule.next_ms > schedule.passed_ms, f"{name} would run twice"
        assert not schedule.begun.keys() & schedule.waiting.keys()
        assert len(schedule.waiting) <= WAITING_MAX and len(schedule.history) <= HISTORY_SLOTS
        if schedules.may_fire(schedule):
            assert not schedule.waiting or (schedule.begun and schedule.spec.exclusive), f"a run of {name} waits"
        for number in (*schedule.begun, *schedule.waiting):
            runs += 1
            task = tables.tasks.get(number)
            assert schedules.by_task[number] is schedule and number >> TASK_NUMBER_BITS in schedules.sessions
            assert task is not None and not task.is_terminal and task.spec.schedule == name
            assert number in schedule.begun or task.state == DELAYED
    assert runs == len(schedules.by_task)


def _check_places(tables: Tables) -> None:
    """Every task is in exactly one place: a lane, a slot, the timers, or ended, and then in a lot."""
    waiting: dict[int, int] = {}
    for channel in tables.queues.channels.values():
        for priority, lane in enumerate(channel.lanes):
            for message in lane or ():
                if message.state != PENDING:
                    assert message.state < PENDING, f"a stale entry that is not terminal: {message.id}"
                    found = tables.tasks.get(message.id)
                    assert found is None or found is message or found.replays, f"{message.id} came back"
                    continue
                assert message.id not in waiting, f"{message.id} waits twice"
                waiting[message.id] = channel.index
                assert message.spec.channel == channel.index and message.spec.priority == priority
                assert tables.tasks.get(message.id) is message
    held: dict[int, int] = {}
    for session in tables.sessions:
        for number, message in session.held.items():
            assert message.id == number and tables.tasks.get(number) is message
            assert message.holder in session.slots, f"{number} is held under a foreign slot"
            assert number not in held, f"{number} is held twice"
            held[number] = message.holder
    dates = _dates(tables)
    for task in tables.tasks.in_order():
        places = (task.id in waiting) + (task.id in held) + (task.state == DELAYED) + task.is_terminal
        assert places == 1, f"{task.id} is in {places} places"
        assert (task.state == PENDING) == (task.id in waiting)
        assert (task.state == HELD) == (task.id in held)
        assert (task.holder != 0) == (task.state == HELD)
        assert task.attempt >= 1 or task.is_terminal
        assert (task.lot != 0) == task.is_terminal, f"{task.id} would be kept for ever"
        assert task.crashes <= CRASHES_MAX and len(task.attempts or ()) <= ATTEMPTS_KEPT_MAX
        life = task.replays << LIFE_SHIFT
        assert not task.is_cancelled or (task.id, GIVE_UP | life) in dates or task.is_terminal
        assert not task.is_cancelled or task.state in (HELD, STATE_COMPLETED)
        assert 0 <= task.failures <= RETRIES_MAX
        schedule = tables.schedules.by_task.get(task.id)
        has_to_wait = schedule is not None and task.id in schedule.waiting
        dependent = tables.dependencies.by_task.get(task.id)
        has_to_wait = has_to_wait or (dependent is not None and dependent.missing > 0)
        assert task.state != DELAYED or has_to_wait or (task.id, READY | life) in dates, f"{task.id} is never ready"
        waits = task.state in (PENDING, DELAYED)
        assert not waits or not task.expires_at_ms or (task.id, EXPIRES) in dates
        assert task.replays >= 0 and (not task.replays or task.state != DELAYED or task.failures or has_to_wait)
        assert bool(task.spec.schedule) == (task.id >> TASK_NUMBER_BITS in tables.schedules.sessions)


def _dates(tables: Tables) -> dict[tuple[int, int], int]:
    dates: dict[tuple[int, int], int] = {}
    heap = tables.timers.heap
    for place, (date_ms, first, count, what) in enumerate(heap):
        assert place == 0 or heap[(place - 1) // 2] <= heap[place], "the timers are no heap"
        if what == LIMIT:
            continue
        for number in range(first, first + count):
            # A second cancel may bring an earlier date.
            assert what % (1 << LIFE_SHIFT) == GIVE_UP or (number, what) not in dates
            dates[number, what] = date_ms
    return dates


def _check_counters(tables: Tables) -> None:
    ready: dict[str, int] = {}
    delayed: dict[str, int] = {}
    running: dict[str, int] = {}
    ended: dict[tuple[str, int], int] = {}
    duplicates = 0
    for task in tables.tasks.in_order():
        name = task.spec.queue
        if task.duplicate_of:
            duplicates += 1
        elif task.is_terminal:
            ended[name, task.state] = ended.get((name, task.state), 0) + 1
        else:
            counts = {PENDING: ready, DELAYED: delayed, HELD: running}[task.state]
            counts[name] = counts.get(name, 0) + 1
    for name, queue in tables.queues.queues.items():
        assert queue.ready == ready.get(name, 0), f"ready of {name}"
        assert queue.delayed == delayed.get(name, 0), f"delayed of {name}"
        assert queue.running == running.get(name, 0), f"running of {name}"
        assert all(queue.ended[state] >= ended.get((name, state), 0) for state in range(5)), f"ended of {name}"
    all_ended = sum([sum(queue.ended) for queue in tables.queues.queues.values()]) + tables.counters.duplicates
    gone = tables.counters.evicted + tables.counters.replayed
    assert all_ended == sum(ended.values()) + duplicates + gone, "ended = known + forgotten + replayed"
    for channel in tables.queues.channels.values():
        entries = [message for lane in channel.lanes for message in lane or ()]
        live = [message for message in entries if message.state == PENDING]
        assert channel.waiting == len(live)
        assert channel.stale == len(entries) - len(live)
        assert channel.alone == sum([message.alone > 0 for message in live])
        assert channel.name.estimate_us >= 1


def _check_slots(tables: Tables) -> None:
    """The sums of credit are those of the messages held, and a closed slot holds something."""
    for session in tables.sessions:
        assert bool(session.slots) == (session.worker is not None)
        worker = session.worker
        is_resizable = worker is not None and worker.slots_min > 0
        assert session.slots_open == 0 or is_resizable, f"session {session.id} cannot shut slots"
        if worker is not None and is_resizable:
            assert worker.slots_min <= session.slots_open <= worker.slots
        for slot in session.slots.values():
            mine = [message for message in session.held.values() if message.holder == slot.key]
            assert slot.draining == (session.draining or is_shut(slot, session.slots_open))
            assert slot.session == session.id == slot.key >> SLOT_BITS and slot.held is session.held
            assert slot.count == len(mine), f"count of slot {slot.key}"
            assert slot.count <= (slot.pool.prefetch or SLOT_MESSAGES_MAX), f"slot {slot.key} holds more than it may"
            assert slot.load_us == sum([message.estimate_us for message in mine]), f"load of slot {slot.key}"
            assert not slot.closed or slot.count > 0, "a closed slot that is empty would never open"
            if any(message.goes_alone(slot.pool) for message in mine):
                assert slot.count == 1 and slot.closed, f"{slot.key} holds more than what goes alone"


def _check_rings(tables: Tables) -> None:
    """Rings hold exactly the slots with room; a pool with room and work is only left when what is next goes
    alone."""
    slots = [slot for session in tables.sessions for slot in session.slots.values()]
    listed = {NOWHERE: 0, IDLE: 0, OPEN: 0}
    serving_sessions: dict[int, set[int]] = {}      # pool -> sessions that do not drain
    for slot in slots:
        assert slot.place == slot.belongs() and not slot.touched
        if slot.draining:
            assert slot.place == NOWHERE, f"{slot.key} drains and could be given a task"
        else:
            assert slot.pool is tables.credit.pools[slot.pool.key]
            serving_sessions.setdefault(slot.pool.index, set()).add(slot.session)
        listed[slot.place] += 1
        assert (slot.key in slot.pool.idle) == (slot.place == IDLE)
        assert (slot.key in slot.pool.open) == (slot.place == OPEN)
    pools = list(tables.credit.pools.values())
    assert [pool.sessions for pool in pools] == [len(serving_sessions.get(pool.index, ())) for pool in pools]
    assert all(pool in pools for pool in tables.credit.dirty.values()), "a pool that is gone is dirty"
    assert sum([len(pool.idle) for pool in pools]) == listed[IDLE]
    assert sum([len(pool.open) for pool in pools]) == listed[OPEN]
    for channel in tables.queues.channels.values():
        if type(channel) is not Channel:
            continue
        queue, name, labels = channel.queue.name, channel.name.name, channel.labels
        assert tables.queues.by_key[queue, name][labels] is channel and labels == canonical(labels)
        serving = [pool for pool in pools if pool.serves(queue, name, labels)]
        assert sorted([pool.index for pool in serving]) == sorted([pool.index for pool in channel.pools])
        for pool in serving:
            for priority, lane in enumerate(channel.lanes):
                if lane:
                    assert channel.index in pool.ready[priority] and pool.mask >> priority & 1
            if channel.waiting and pool.index not in tables.credit.dirty:
                assert not pool.idle and not pool.open, "a message waits although a slot has room"
            assert not (channel.waiting and pool.idle), "a message waits although a slot is idle"


def _check_sessions(tables: Tables) -> None:
    sessions = tables.sessions
    assert len(sessions.by_id) == len(sessions.by_owner) <= SESSIONS_MAX
    assert len(sessions.ended) <= ENDED_NAMES_MAX
    last = 0
    for session in sessions:
        assert last < session.id <= sessions.last_id
        last = session.id
        assert sessions.by_owner[session.role, session.name] is session
        assert not session.draining or session.worker is not None
        assert session.incarnation not in session.ended and len(session.ended) <= ENDED_INCARNATIONS_MAX
        assert 1 <= session.kept_from <= session.next_seq
        assert session.next_seq - session.kept_from <= SESSION_WINDOW_COMMANDS
        assert all(session.kept_from <= seq < session.next_seq for seq in session.refusals)
        assert 0 <= session.unsaid <= session.last_number


def _check_dependencies(tables: Tables) -> None:
    """Who waits, waits for something that has not ended or whose end is to be told; counts are those of the lists."""
    dependencies = tables.dependencies
    ends = dict.fromkeys(dependencies.ends)
    pins: dict[int, int] = {}
    taken: dict[int, int] = {}
    waits: dict[int, int] = {}
    for need in dependencies.waited:
        waiting = dependencies.waiting_for(need)
        assert waiting, "nobody waits for it"
        for signed in waiting:
            assert abs(signed) in dependencies.by_task, f"{abs(signed)} waits for {need}, and has ended"
            waits[abs(signed)] = waits.get(abs(signed), 0) + 1
    for number, dependent in dependencies.by_task.items():
        task = tables.tasks.get(number)
        if task is None or task.is_terminal:
            assert number in ends, f"{number} has ended and pins what it needed"
        elif dependent.missing:
            assert task.state == DELAYED and dependent.missing == waits.get(number), f"{number} waits for nothing"
        for need in dependent.all():
            counts = pins if dependent.missing else taken
            counts[need] = counts.get(need, 0) + 1
    assert pins == dependencies.pins and taken == dependencies.taken
    assert dependencies.counted == sum(len(dependent.needs) for dependent in dependencies.by_task.values())
    assert dependencies.counted < NEEDS_KNOWN_MAX + NEEDS_COMMAND_MAX
    for number in dependencies.waited:
        task = tables.tasks.get(number)
        assert number in ends or (task is not None and not task.is_terminal), f"the end of {number} was not told"
    for number in dependencies.kept:
        task = tables.tasks.get(number)
        assert task is not None and task.state != STATE_COMPLETED and task.state < PENDING


def _check_retention(tables: Tables) -> None:
    """Every ended task is in the lot that it names, and nothing is kept that holds nothing."""
    retention = tables.retention
    assert retention.ended == retention.ended_bytes == 0, "an entry was not swept"
    known: dict[int, int] = {}
    dead: dict[int, int] = {}
    total = overdue = 0
    for task in tables.tasks.in_order():
        if task.is_terminal:
            total += retention.bytes_of(task)
            if task.lot <= OVERDUE:
                assert tables.dependencies.is_needed(task.id), f"{task.id} would be kept for ever"
                overdue += retention.bytes_of(task)
                continue
            known[task.lot] = known.get(task.lot, 0) + 1
            if task.state == STATE_DEAD:
                dead[task.id] = retention.bytes_of(task)
    assert total == retention.bytes
    assert dict(retention.dead) == dead and retention.dead_bytes == sum(dead.values())
    assert overdue == retention.overdue_bytes <= OVERDUE_BYTES_MAX
    assert {number: lot.known for number, lot in retention.lots.items()} == known
    listed = 0
    for second, bucket in retention.buckets.items():
        assert bucket.lots or bucket.ranges, f"nothing is due at {second}"
        assert list(bucket.lots) == sorted(bucket.lots)
        listed += len(bucket.lots)
        for number, lot in bucket.lots.items():
            assert lot is retention.lots[number] and (lot.number, lot.second) == (number, second)
            assert number <= retention.lots_made
            found = [task for task in map(tables.tasks.get, lot.ids) if task is not None]
            assert len(found) == lot.known and all(task.lot == number for task in found)
        for first, last in bucket.ranges:
            assert first <= last and first >> TASK_NUMBER_BITS == last >> TASK_NUMBER_BITS
    assert listed == len(retention.lots)
    assert retention.earliest() == min(retention.buckets, default=None)


def _check_evidence(tables: Tables) -> None:
    evidence = tables.evidence
    sizes: dict[tuple[int, int], int] = {}
    for task in tables.tasks.in_order():
        for attempt in task.attempts or ():
            if evidence_bytes(attempt):
                sizes[task.id, attempt.number] = evidence_bytes(attempt)
    assert evidence.attempts == sizes
    assert evidence.bytes == sum(sizes.values()) <= EVIDENCE_BYTES_MAX
