"""Register: who becomes a session, and on what terms. See `sessions` for the rules."""

from cluster.state.commands import (
    BUSY_REPLACE,
    BUSY_WAIT,
    MISFIRES,
    ON_BUSY,
    PREFETCH_AUTO,
    ROLE_CLIENT,
    ROLE_WORKER,
    WORKER_SCHEDULES_MAX,
    Register,
    ScheduleSpec,
    WorkerSpec,
)
from cluster.state.credit import PREFETCH_MAX, SLOTS_MAX, pools_of
from cluster.state.effects import ANSWER_OK, ANSWER_REFUSED
from cluster.state.intake import DURATION_MS_MAX, are_valid
from cluster.state.lifecycle import end_session
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import DATE_MS_MAX
from cluster.state.texts import LABELS_MAX, is_name

WORKER_NAMES_MAX = 4_096        # task names that a worker announces
WORKER_QUEUES_MAX = 64
SCHEDULE_BODY_BYTES_MAX = 1_024     # of a call without arguments
EXPRESSION_BYTES_MAX = 1_024
PERIOD_MS_MIN = 1_000


def register(tables: Tables, command: Register) -> None:
    """Opens a session, or finds the one that is open, or refuses."""
    session = _session(tables, command)
    if session is None:
        tables.counters.refused_registrations += 1
        tables.ledger.registered(command.name, command.incarnation, ANSWER_REFUSED, 0, 1)
    else:
        tables.ledger.registered(command.name, command.incarnation, ANSWER_OK, session.id, session.next_seq)


def _session(tables: Tables, command: Register) -> Session | None:
    sessions = tables.sessions
    owner = (command.role, command.name)
    current = sessions.by_owner.get(owner)
    if current is not None and current.incarnation == command.incarnation:
        return current
    if not _is_valid(command) or sessions.has_ended(owner, command.incarnation):
        return None
    if current is not None:
        end_session(tables, current)
    elif sessions.is_full():
        return None
    worker = command.worker if command.role == ROLE_WORKER else None
    session = sessions.open(owner, command.incarnation, worker)
    if worker is not None:
        made = tables.credit.made
        session.slots_open = worker.slots_min
        session.slots = tables.credit.join(session.id, worker, tables.queues, session.held)
        tables.keys.pools_changed([pool for pool in pools_of(session.slots) if pool.index > made])
        tables.counters.refused_schedules += tables.schedules.announce(worker, tables.now_ms)
    return session


def _is_valid(command: Register) -> bool:
    if not is_name(command.name):
        return False
    if command.role == ROLE_CLIENT:
        return True
    return command.role == ROLE_WORKER and command.worker is not None and _is_valid_worker(command.worker)


def _is_valid_worker(worker: WorkerSpec) -> bool:
    return (
        1 <= worker.slots <= SLOTS_MAX
        and 0 <= worker.slots_min <= worker.slots
        and (worker.prefetch == PREFETCH_AUTO or 1 <= worker.prefetch <= PREFETCH_MAX)
        and len(worker.queues) <= WORKER_QUEUES_MAX
        and len(worker.names) <= WORKER_NAMES_MAX
        and len(worker.labels) <= LABELS_MAX
        and len(worker.loop_names) <= WORKER_NAMES_MAX
        and 0 <= worker.loop_tasks <= PREFETCH_MAX
        and all(is_name(name) for name in worker.queues + worker.names + worker.labels + worker.loop_names)
        and len(worker.schedules) <= WORKER_SCHEDULES_MAX
        and len({spec.name for spec in worker.schedules}) == len(worker.schedules)
        and all(map(_is_valid_schedule, worker.schedules))
    )


def _is_valid_schedule(spec: ScheduleSpec) -> bool:
    """What the expression and the zone mean is seen by leaders."""
    if spec.expression:
        when = len(spec.expression.encode()) <= EXPRESSION_BYTES_MAX and is_name(spec.zone)
    else:
        when = PERIOD_MS_MIN <= spec.period_ms <= DURATION_MS_MAX and abs(spec.anchor_ms) <= DATE_MS_MAX
    options = spec.options
    return (
        when
        and is_name(spec.name)
        and is_name(spec.task)
        and spec.misfire in MISFIRES
        and spec.on_busy in ON_BUSY
        and 0 < len(spec.body) <= SCHEDULE_BODY_BYTES_MAX
        and (options is None or (are_valid(options) and not options.key))
        # A run that makes way has its key until it has stopped: the one for which it does would be its duplicate.
        and (options is None or not options.dedup or spec.on_busy not in (BUSY_WAIT, BUSY_REPLACE))
    )
