"""Complete: what workers say of the attempts they were given.

An outcome counts only if its task is held by the very session that sends it, with the very attempt number;
anything else is late (the task went to somebody else, was cancelled, or has ended) and is refused, silently
but counted. That check is what makes a terminal record happen once, however often the task ran.

This is the hottest loop of the product. Neighbouring outcomes nearly always share their slot, their group and
their dict, so counters and the estimate are kept in locals and written back when one of these changes.
"""

from msgspec import structs

from cluster.state.commands import (
    OUTCOME_CANCELLED,
    OUTCOME_COMPLETED,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_RETURNED,
    OUTCOME_SUSPECTED,
    OUTCOME_TIMED_OUT,
    OUTCOME_UNMET,
    Complete,
    Outcome,
)
from cluster.state.credit import ESTIMATE_MAX_US, ESTIMATE_SHIFT, Slot
from cluster.state.effects import STATE_CANCELLED, STATE_COMPLETED, STATE_FAILED, TaskResult
from cluster.state.ledger import ENDED
from cluster.state.lifecycle import crash, finish, release, requeue, suspect
from cluster.state.queues import Spec
from cluster.state.retention import attempts_bytes
from cluster.state.retries import is_retried, retry
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, SESSION_SHIFT, Attempt, Task, bounded, end_ms

WITHOUT_RESULT = (
    OUTCOME_FAILED,
    OUTCOME_CRASHED,
    OUTCOME_TIMED_OUT,
    OUTCOME_RETURNED,
    OUTCOME_CANCELLED,
    OUTCOME_SUSPECTED,
    OUTCOME_UNMET,
)


def complete(tables: Tables, session: Session, command: Complete) -> None:
    """Applies the outcomes of a Complete in its turn. Its answer is always OK: refused outcomes are only
    counted."""
    name = session.name
    slots = session.slots
    held = session.held
    refused = 0
    back: list[Task] = []           # to be requeued together, so that their order is kept
    done: list[Task] = []           # completed, of one submitter, not yet in the ledger
    done_bytes = 0                  # of their results and written attempts
    ttl_ms = -1                     # of all of them
    lot = 0                         # where they are filed
    started_ms = 0                  # of the last one
    submitter = -1
    run = -1                        # ids of this run are in `shard`
    shard: dict[int, Task] = {}
    slot: Slot | None = None        # whose `freed` messages with `freed_us` are not yet written back
    holder = -1
    freed = freed_us = 0
    spec: Spec | None = None        # whose `ended` tasks and new `estimate_us` are not yet written back
    ended = estimate_us = 0

    for outcome in command.outcomes:
        number = outcome.task
        if number >> RUN_BITS != run:
            run = number >> RUN_BITS
            shard = tables.tasks.shard(run)
            if run >> SESSION_SHIFT != submitter:
                _publish(tables, submitter, done, lot, done_bytes)
                submitter = run >> SESSION_SHIFT
                done = []
                done_bytes = 0
        task = shard.get(number)
        if task is None:
            refused += 1
            continue
        if task.holder != holder:
            other = slots.get(task.holder)
            if other is None:
                refused += 1
                continue
            if slot is not None:
                _write_slot(tables, slot, freed, freed_us)
            slot = other
            holder = task.holder
            freed = freed_us = 0
        if task.attempt != outcome.attempt:
            refused += 1
            continue
        assert slot is not None
        if outcome.status != OUTCOME_COMPLETED:
            _write_slot(tables, slot, freed, freed_us)
            freed = freed_us = 0
            _write_spec(tables, spec, ended, estimate_us)
            spec = None
            ended = 0
            refused += not _end_otherwise(tables, session, task, outcome, back)
            continue
        if task.spec is not spec:
            _write_spec(tables, spec, ended, estimate_us)
            spec = task.spec
            ended = 0
            estimate_us = tables.queues.channels[spec.channel].name.estimate_us
            if spec.dedup:      # no two tasks have this spec
                tables.duplicates.ended(number, tables.now_ms)
            if spec.result_ttl_ms != ttl_ms:
                _publish(tables, submitter, done, lot, done_bytes)
                done = []
                done_bytes = 0
                ttl_ms = spec.result_ttl_ms
                lot = tables.retention.lot(tables.now_ms, ttl_ms)
        del held[number]
        freed += 1
        freed_us += task.estimate_us
        ended += 1
        estimate_us += (outcome.run_us - estimate_us) >> ESTIMATE_SHIFT
        task.holder = 0
        task.state = STATE_COMPLETED
        task.body = body = outcome.body
        done_bytes += len(body)
        task.lot = lot
        task.worker = name
        if outcome.started_ms != started_ms:
            started_ms = outcome.started_ms
        task.started_ms = started_ms        # one object for all that started in the same millisecond
        task.run_us = outcome.run_us
        if task.attempts is not None or outcome.error is not None:
            tables.evidence.record(task, _attempt(name, outcome))
            done_bytes += attempts_bytes(task)
        done.append(task)

    if slot is not None:
        _write_slot(tables, slot, freed, freed_us)
    _write_spec(tables, spec, ended, estimate_us)
    _publish(tables, submitter, done, lot, done_bytes)
    requeue(tables, back)
    tables.counters.refused_outcomes += refused


def _publish(tables: Tables, submitter: int, done: list[Task], lot: int, done_bytes: int) -> None:
    """Files completed tasks and puts them into the ledger, all at once."""
    if not done:
        return
    ids = [task.id for task in done]
    tables.retention.file(lot, ids, done_bytes)
    if submitter in tables.schedules.sessions:
        tables.schedules.freed += ids
    if tables.dependencies.is_used:
        tables.dependencies.note(ids)
    ledger = tables.ledger
    decisions = ledger.decisions
    decisions.append(ENDED)
    decisions.append(STATE_COMPLETED)
    decisions += ids
    if ledger.effects is not None:
        results = [TaskResult(task.id, STATE_COMPLETED, task.attempt, task.body) for task in done]
        per_submitter = ledger.effects.results
        if submitter in per_submitter:
            per_submitter[submitter] += results
        else:
            per_submitter[submitter] = results


def _write_slot(tables: Tables, slot: Slot, freed: int, freed_us: int) -> None:
    if freed:
        slot.count -= freed
        slot.load_us -= freed_us
        slot.closed = False     # what it closed for has ended: this was what ran
        assert slot.count >= 0 and slot.load_us >= 0
        tables.credit.touch(slot)


def _write_spec(tables: Tables, spec: Spec | None, ended: int, estimate_us: int) -> None:
    if spec is not None and ended:
        channel = tables.queues.channels[spec.channel]
        channel.freed(ended)
        channel.ended(STATE_COMPLETED, ended)
        channel.name.estimate_us = max(1, min(estimate_us, ESTIMATE_MAX_US))


def _end_otherwise(tables: Tables, session: Session, task: Task, outcome: Outcome, back: list[Task]) -> bool:
    """An outcome that is not a result, for an attempt that is held; False if its status is unknown."""
    status = outcome.status
    if status not in WITHOUT_RESULT:
        return False
    if status == OUTCOME_CANCELLED and not task.is_cancelled:
        status = OUTCOME_RETURNED       # nobody has asked for that
    slot = session.slots[task.holder]
    release(tables, session, task)
    attempt = _attempt(session.name, outcome)
    # A slot hands back what waits when the task that runs is much slower than was thought. It gets nothing
    # more until that task ends, or the same would come back again.
    # What was given up without having begun says nothing of the task that runs. In a loop nothing waits behind another.
    if not slot.pool.is_loop and not (status == OUTCOME_CANCELLED and slot.count and not outcome.started_ms):
        slot.closed = status == OUTCOME_RETURNED and slot.count > 0
    if status == OUTCOME_RETURNED:
        if outcome.started_ms:
            tables.evidence.record(task, attempt)
        back.append(task)
    elif task.is_cancelled:
        if outcome.started_ms:
            tables.evidence.record(task, attempt)
        finish(tables, task, STATE_CANCELLED)
    elif status == OUTCOME_UNMET:
        tables.evidence.record(task, attempt)
        finish(tables, task, STATE_FAILED)
    elif status == OUTCOME_CRASHED:
        if crash(tables, task, attempt):
            back.append(task)
    elif status == OUTCOME_SUSPECTED:
        suspect(tables, task, attempt)
        back.append(task)
    else:
        tables.evidence.record(task, attempt)
        name = tables.queues.channels[task.spec.channel].name
        name.estimate_us += (outcome.run_us - name.estimate_us) >> ESTIMATE_SHIFT
        name.estimate_us = max(1, min(name.estimate_us, ESTIMATE_MAX_US))
        if 0 < task.expires_at_ms <= tables.now_ms or not is_retried(task, outcome.error):
            finish(tables, task, STATE_FAILED)
        else:
            retry(tables, task)
    return True


def _attempt(worker: str, outcome: Outcome) -> Attempt:
    started_ms = outcome.started_ms
    ended_ms = end_ms(started_ms, outcome.run_us)
    error = bounded(outcome.error)
    if outcome.status == OUTCOME_UNMET and outcome.error is not None and error is not None:
        error = structs.replace(error, unmet=outcome.error.unmet)
    return Attempt(outcome.attempt, worker, outcome.status, started_ms, ended_ms, error)
