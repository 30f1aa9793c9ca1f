"""What happens to a task besides being submitted, handed out and completed.

A task that raised has failed, or waits for its next attempt (`retries`). Three more ways lead out of a slot without a
result:
- *crashed*: the task was the culprit of a lost child, or alone at its slot when its worker was lost. Counted;
  up to CRASHES_MAX it is tried again, then it is dead, with the evidence.
- *lost*: it was at a lost worker, but with others, so nobody knows which of them ran; or it ran in a lost child, with
  others that ran there as well (*suspected*). Not counted.
- *returned*: handed back unrun, lost with a child through another's fault, or held by a worker that closed its
  session in order. Not counted.

Of these three, the first two are dispatched alone from then on, so that the next loss names its culprit. One exception:
what a lost worker held in its loop, with others, goes alone only if it was lost before. Workers are mostly lost with
their machines, through no task's fault, and hundreds of async tasks would go one after another from then on. All three
raise the attempt number, which fences off whatever the old holder still says, and put the task back at the front of
its lane. Tasks that come back together come back in the order of their ids: the order of submission, for one client.
"""

from collections.abc import Iterable
from operator import attrgetter

from cluster.state.commands import (
    GRACE_MS_MAX,
    GRACE_NONE,
    OUTCOME_CRASHED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    TASK_NUMBER_BITS,
    Failure,
)
from cluster.state.credit import SLOT_BITS, pools_of
from cluster.state.effects import STATE_CANCELLED, STATE_COMPLETED, STATE_DEAD, STATE_EXPIRED
from cluster.state.queues import ALONE, DELAYED, HELD, PENDING, Message
from cluster.state.retention import DEAD_KEPT_MS, attempts_bytes
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import CRASHES_MAX, Attempt, Task
from cluster.state.timers import GIVE_UP, LIFE_SHIFT, LIMIT, READY

SILENCE_MS = 30_000     # of a worker that was to stop a task, after the grace: then its answer is not waited for

_by_id = attrgetter("id")


def release(tables: Tables, session: Session, task: Message) -> None:
    """Takes a held task from its slot; the caller says what becomes of it."""
    slot = session.slots[task.holder]
    del session.held[task.id]
    slot.count -= 1
    slot.load_us -= task.estimate_us
    assert slot.count >= 0 and slot.load_us >= 0
    task.holder = 0
    tables.queues.channels[task.spec.channel].freed(1)
    tables.credit.touch(slot)


def finish(tables: Tables, task: Task, state: int) -> None:
    """Makes a task terminal that is in no slot and no lane; the one place for all but completion."""
    assert state != STATE_COMPLETED and task.holder == 0 and not task.is_terminal
    if task.state != HELD:
        task.attempt -= 1       # it was not handed out that often
    task.state = state
    task.grace_ms = GRACE_NONE
    ttl_ms = task.spec.result_ttl_ms
    if state == STATE_DEAD:
        ttl_ms = max(ttl_ms, DEAD_KEPT_MS)
    dependencies = tables.dependencies
    size_bytes = len(task.body) + attempts_bytes(task)
    if dependencies.by_task:
        dependencies.keep(task.id)
        size_bytes += dependencies.kept_bytes(task.id)
    task.lot = tables.retention.lot(tables.now_ms, ttl_ms)
    tables.retention.file(task.lot, [task.id], size_bytes)
    if state == STATE_DEAD:
        tables.retention.bury(task)
    tables.queues.channels[task.spec.channel].ended(state, 1)
    tables.ledger.ended(task.id >> TASK_NUMBER_BITS, task.result())
    if task.spec.dedup:
        tables.duplicates.ended(task.id, tables.now_ms)
    if task.spec.schedule:
        tables.schedules.freed.append(task.id)
    if dependencies.is_used:
        dependencies.note((task.id,))


def crash(tables: Tables, task: Task, attempt: Attempt) -> bool:
    """Counts a crash of a released task; True if it is to be requeued, False if it is dead now."""
    assert attempt.status == OUTCOME_CRASHED
    tables.evidence.record(task, attempt)
    if task.is_cancelled:
        finish(tables, task, STATE_CANCELLED)
        return False
    task.crashes += 1
    if task.crashes >= CRASHES_MAX:
        finish(tables, task, STATE_DEAD)
        return False
    task.alone = ALONE
    return True


def suspect(tables: Tables, task: Task, attempt: Attempt) -> None:
    """A released task may be the culprit of a loss, or another one that was there: uncounted, but to run alone."""
    tables.evidence.record(task, attempt)
    task.alone = ALONE


def requeue(tables: Tables, tasks: Iterable[Task]) -> None:
    """Puts released tasks back at the front of their lanes, in order, with their attempt numbers raised."""
    for task in sorted(tasks, key=_by_id, reverse=True):
        assert task.state == HELD and task.holder == 0
        if task.is_cancelled:
            finish(tables, task, STATE_CANCELLED)
            continue
        if 0 < task.expires_at_ms <= tables.now_ms:
            finish(tables, task, STATE_EXPIRED)
            continue
        task.attempt += 1
        task.state = PENDING
        tables.ledger.moved(task.id)
        tables.queues.channels[task.spec.channel].prepend(task)


def drain(tables: Tables, session: Session) -> None:
    """A worker is leaving: from now on its slots get nothing. It hands back itself what they hold and do not run, since
    only it knows which that is."""
    if not session.draining:
        session.draining = True
        tables.credit.drain(session.slots, tables.queues)
        _vacate(tables, session)
        assert session.worker is not None
        tables.schedules.leave(session.worker)
        tables.ledger.draining(session.id)


def resize(tables: Tables, session: Session, slots: int) -> bool:
    """A worker has so many slots open from now on. Homes at those that it shuts move; it hands back itself what they
    hold and do not run. False if that is beyond its bounds."""
    worker = session.worker
    assert worker is not None
    if not 0 < worker.slots_min <= slots <= worker.slots:
        return False
    if not session.draining:
        session.slots_open = slots
        tables.keys.vacate(tables.credit.resize(session.slots, slots))
        tables.ledger.resized(session.id, slots)
    return True


def end_session(tables: Tables, session: Session, *, in_order: bool = False) -> None:
    """Closes, expires or replaces a session. A client's tasks live on, its locks are free; a worker's tasks go back."""
    if session.slots:
        if in_order:
            _hand_back(tables, session)
        else:
            _lose(tables, session)
        tables.credit.leave(session.slots, tables.queues)
        if not session.draining:        # else it has left its pools before
            _vacate(tables, session)
            assert session.worker is not None
            tables.schedules.leave(session.worker)
    tables.sessions.close(session)
    tables.locks.end_session(session.id, tables.now_ms)
    tables.ledger.session_ended(session.id)


def _vacate(tables: Tables, session: Session) -> None:
    """Its slots are in no pool any more, and pools without slots have ended."""
    tables.keys.pools_changed([pool for pool in pools_of(session.slots) if not pool.sessions])
    tables.keys.vacate(session.slots)


def _lose(tables: Tables, session: Session) -> None:
    """Everything that a lost worker held. What was at one slot with others is suspected; in a loop, unless this is
    its first loss."""
    culprits = {slot.key: slot.count == 1 for slot in session.slots.values()}
    back: list[Task] = []
    for task in list(session.held.values()):
        assert isinstance(task, Task)
        crashed = culprits[task.holder]
        in_loop = session.slots[task.holder].pool.is_loop
        release(tables, session, task)
        if crashed:
            error = Failure("WorkerLost", f"worker {session.name} was lost while this task was alone at its slot")
            attempt = Attempt(task.attempt, session.name, OUTCOME_CRASHED, 0, tables.now_ms, error)
            if crash(tables, task, attempt):
                back.append(task)
        else:
            attempt = Attempt(task.attempt, session.name, OUTCOME_RETURNED, 0, tables.now_ms)
            if in_loop and not any(map(_is_loss, task.attempts or ())):
                tables.evidence.record(task, attempt)
            else:
                suspect(tables, task, attempt)
            back.append(task)
    requeue(tables, back)


def _is_loss(attempt: Attempt) -> bool:
    """Whether it ended with its worker or its child, among others. What is handed back is written down only if it had
    begun; of what was at a lost worker nobody knows."""
    return attempt.status == OUTCOME_SUSPECTED or (attempt.status == OUTCOME_RETURNED and not attempt.started_ms)


def _hand_back(tables: Tables, session: Session) -> None:
    """Everything that a worker held which closed in order. It has said what became of all that ran, so this did not
    run: most of it was assigned when it had stopped taking tasks already."""
    back: list[Task] = []
    for task in list(session.held.values()):
        assert isinstance(task, Task)
        release(tables, session, task)
        back.append(task)
    requeue(tables, back)


def cancel(tables: Tables, task: Task, grace_ms: int) -> None:
    """Ends a task that is not terminal. One that is held ends when its holder has stopped it; without a grace, at once,
    and the holder is told to give it up. Of several graces the shortest counts."""
    if task.state == HELD and grace_ms != GRACE_NONE:
        grace_ms = max(0, min(grace_ms, GRACE_MS_MAX))
        if not task.is_cancelled or grace_ms < task.grace_ms:
            task.grace_ms = grace_ms
            tables.ledger.cancelled(task.holder >> SLOT_BITS, task.id, task.attempt, grace_ms)
            tables.timers.add(tables.now_ms + grace_ms + SILENCE_MS, task.id, 1, GIVE_UP, task.replays)
    elif task.state == HELD:
        session = tables.sessions.by_id[task.holder >> SLOT_BITS]
        task.worker = session.name
        release(tables, session, task)
        tables.ledger.withdrawn(session.id, task.id, task.attempt)
        finish(tables, task, STATE_CANCELLED)
    else:
        end_waiting(tables, task, STATE_CANCELLED)


def run_timers(tables: Tables) -> None:
    """Delayed tasks whose time has come wait behind the others; waiting ones that expired end; limits may have room;
    keys whose window is over are free."""
    tables.duplicates.clear(tables.now_ms)
    for date_ms, first, count, item in tables.timers.take_due(tables.now_ms):
        life, what = divmod(item, 1 << LIFE_SHIFT)
        if what == LIMIT:
            tables.limits.due(first, date_ms)
            continue
        found = [tables.tasks.get(number) for number in range(first, first + count)]
        tasks = [task for task in found if task is not None and task.replays == life]
        if what == READY:
            ready = [task for task in tasks if task.state == DELAYED]
            if ready:
                for task in ready:
                    task.state = PENDING
                channel = tables.queues.channels[ready[0].spec.channel]
                channel.queue.delayed -= len(ready)
                if len(ready) == 1:
                    channel.append_again(ready[0])      # perhaps a retry, or what was let go
                else:
                    channel.append(ready[0].spec.priority, ready)
        elif what == GIVE_UP:
            for task in tasks:
                if task.state == HELD and task.is_cancelled:
                    cancel(tables, task, GRACE_NONE)
        else:
            for task in tasks:
                if task.state in (PENDING, DELAYED):
                    end_waiting(tables, task, STATE_EXPIRED)


def let_go(tables: Tables, task: Task, delay_ms: int) -> None:
    """A task that had to wait waits in its lane, or for its delay before that."""
    assert task.state == DELAYED
    if delay_ms:
        tables.timers.add(tables.now_ms + delay_ms, task.id, 1, READY)
        return
    channel = tables.queues.channels[task.spec.channel]
    channel.queue.delayed -= 1
    task.state = PENDING
    channel.append_again(task)


def end_waiting(tables: Tables, task: Task, state: int) -> None:
    """Ends a task that is in no slot."""
    channel = tables.queues.channels[task.spec.channel]
    delayed = task.state == DELAYED
    finish(tables, task, state)
    if delayed:
        channel.queue.delayed -= 1
    else:
        channel.went_stale(task)
