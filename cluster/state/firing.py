"""Firing: from a slot to a task, and from the end of a run to the next one. `schedules` has the idea.

A slot of an exclusive schedule that comes while a run is unfinished: `skip` skips it. `queue` lets it wait, in order,
up to WAITING_MAX. `wait` lets it wait as well, but those that waited before are cancelled for it. `replace` does the
same, and asks the run that has begun to stop. What was replayed counts as a run.

Ends are settled together: whoever ends tasks only notes those of schedules (`Schedules.freed`), and `settle` looks at
them before anything is decided about a schedule, and at the end of the entry before dispatch.
"""

from msgspec.structs import replace

from cluster.state.commands import (
    BUSY_QUEUE,
    BUSY_REPLACE,
    BUSY_SKIP,
    BUSY_WAIT,
    FIRE_SLOTS_MAX,
    GRACE_NONE,
    NEVER,
    STEER_DELETE,
    STEER_PAUSE,
    STEER_RESUME,
    STEER_RUN,
    TASK_NUMBER_BITS,
    Arm,
    Fire,
    Options,
    Steer,
)
from cluster.state.effects import (
    ANSWER_ANNOUNCED,
    ANSWER_BUSY,
    ANSWER_CROWDED,
    ANSWER_NO_SCHEDULE,
    ANSWER_OK,
    ANSWER_PARKED,
    ANSWER_REFUSED,
)
from cluster.state.following import follow
from cluster.state.intake import delay_of, enter_first, spec_for
from cluster.state.lifecycle import cancel, let_go
from cluster.state.queues import DELAYED
from cluster.state.schedule_rows import (
    ALARM_CROWDED,
    ALARM_MISSED,
    ALARM_NONE,
    SLOT_BUSY,
    SLOT_CROWDED,
    SLOT_MISSED,
    SLOT_PAUSED,
    SLOT_RUNS,
    SLOT_WAITS,
    Slot,
)
from cluster.state.schedules import RUN_NUMBER_MAX, RUNS_MAX, UNKNOWN, WAITING_MAX, Schedule
from cluster.state.tables import Tables

REPLACE_GRACE_MS = 10_000       # of a run that is to make way for the next one
DEFAULTS = Options()

Answer = tuple[int, int]


# -- commands --------------------------------------------------------------------------------------------------------


def arm(tables: Tables, command: Arm) -> None:
    """Applies an Arm."""
    tables.ledger.schedule_changed(command.name)
    schedule = tables.schedules.by_name.get(command.name)
    if schedule is None or schedule.version != command.version or schedule.next_ms != UNKNOWN:
        return
    next_ms = command.next_ms
    is_left_out = schedule.owed_ms < next_ms <= schedule.since_ms
    if next_ms == NEVER or (next_ms > schedule.passed_ms and not is_left_out):
        schedule.go_to(next_ms, schedule.passed_ms)
        tables.ledger.armed(schedule.version, schedule.next_ms)


def fire(tables: Tables, command: Fire) -> None:
    """Applies a Fire."""
    tables.ledger.schedule_changed(command.name)
    schedules = tables.schedules
    schedule = schedules.by_name.get(command.name)
    if schedule is None or (schedule.version, schedule.next_ms) != (command.version, command.next_ms):
        return
    if not schedules.may_fire(schedule) or not _is_valid(schedule, command, tables.now_ms):
        return
    settle(tables)
    first, slots = command.next_ms, command.slots
    schedule.go_to(command.after_ms, slots[-1] if slots else first)
    tables.ledger.armed(schedule.version, schedule.next_ms)
    if first not in slots:
        _note(tables, schedule, first, SLOT_MISSED)
    for slot_ms in slots:
        _run(tables, schedule, slot_ms)
    if command.is_alarm:
        _alarm(tables, schedule, ALARM_MISSED)


def _is_valid(schedule: Schedule, command: Fire, now_ms: int) -> bool:
    """Slots that have come, ascending, and a next one behind them; neither in what is left out."""
    last = command.next_ms - 1
    for slot_ms in command.slots:
        if slot_ms <= last:
            return False
        last = slot_ms
    return (
        0 < command.next_ms <= now_ms
        and last <= (schedule.owed_ms if schedule.since_ms else now_ms)
        and len(command.slots) <= FIRE_SLOTS_MAX
        and (command.after_ms == NEVER or command.after_ms > max(last, command.next_ms, schedule.since_ms))
    )


def steer(tables: Tables, command: Steer) -> Answer:
    """Applies a Steer in its turn; returns its answer's (code, value)."""
    schedules = tables.schedules
    schedule = schedules.by_name.get(command.name)
    if schedule is None:
        return ANSWER_NO_SCHEDULE, 0
    settle(tables)
    tables.ledger.schedule_changed(command.name)
    if command.what == STEER_PAUSE:
        if not schedule.is_paused:
            schedule.is_paused, schedule.paused_ms = True, tables.now_ms
        return ANSWER_OK, 0
    if command.what == STEER_RESUME:
        return _resume(tables, schedule)
    if command.what == STEER_RUN:
        return _run_now(tables, schedule)
    if command.what == STEER_DELETE:
        return _delete(tables, schedule)
    return ANSWER_REFUSED, 0


def _resume(tables: Tables, schedule: Schedule) -> Answer:
    schedule.alarm = ALARM_NONE
    if schedule.is_paused:
        _skip_the_pause(tables, schedule)
        schedule.is_paused, schedule.paused_ms = False, 0
        _go_on(tables, schedule)
    return ANSWER_OK, 0


def _skip_the_pause(tables: Tables, schedule: Schedule) -> None:
    """What came before it is owed, what came in it is not."""
    next_ms, now_ms = schedule.next_ms, tables.now_ms
    if next_ms == NEVER or next_ms > now_ms:
        return
    if (next_ms if next_ms != UNKNOWN else schedule.passed_ms + 1) <= schedule.paused_ms:
        schedule.leave_out(schedule.paused_ms, now_ms)
        return
    if next_ms != UNKNOWN:
        _note(tables, schedule, next_ms, SLOT_PAUSED)
    schedule.count_from(now_ms)


def _run_now(tables: Tables, schedule: Schedule) -> Answer:
    if tables.schedules.is_parked(schedule.spec.name):
        return ANSWER_PARKED, 0
    unfinished = [*schedule.begun, *schedule.waiting]
    fate = _fate(schedule, is_manual=True)
    if fate == SLOT_BUSY:
        return ANSWER_BUSY, unfinished[0]
    if fate == SLOT_CROWDED:
        return ANSWER_CROWDED, len(unfinished)
    return ANSWER_OK, _run(tables, schedule, tables.now_ms, is_manual=True)


def _delete(tables: Tables, schedule: Schedule) -> Answer:
    if not tables.schedules.is_parked(schedule.spec.name):
        return ANSWER_ANNOUNCED, 0
    for task in (*schedule.begun, *schedule.waiting):
        return ANSWER_BUSY, task
    del tables.schedules.by_name[schedule.spec.name]
    return ANSWER_OK, 0


# -- slots -----------------------------------------------------------------------------------------------------------


def _fate(schedule: Schedule, *, is_manual: bool) -> int:
    """What becomes of a slot that comes now. If none has begun, only a pause holds those that wait, and whoever wants a
    run now knows of it."""
    spec, begun, waiting = schedule.spec, schedule.begun, schedule.waiting
    if not spec.exclusive:
        return SLOT_RUNS if len(begun) < RUNS_MAX else SLOT_CROWDED
    if not begun and (is_manual or not waiting):
        return SLOT_RUNS
    if spec.on_busy == BUSY_SKIP:
        return SLOT_BUSY
    return SLOT_WAITS if spec.on_busy != BUSY_QUEUE or len(waiting) < WAITING_MAX else SLOT_CROWDED


def _run(tables: Tables, schedule: Schedule, slot_ms: int, *, is_manual: bool = False) -> int:
    """A slot has come. Returns the id of its task, 0 if it is skipped."""
    fate = _fate(schedule, is_manual=is_manual)
    if fate not in (SLOT_RUNS, SLOT_WAITS):
        _note(tables, schedule, slot_ms, fate)
        if fate == SLOT_CROWDED:
            _alarm(tables, schedule, ALARM_CROWDED)
        return 0
    if schedule.spec.exclusive and schedule.spec.on_busy in (BUSY_WAIT, BUSY_REPLACE):
        _make_way(tables, schedule)
    task = _enter(tables, schedule, slot_ms, waits=fate == SLOT_WAITS)
    (schedule.waiting if fate == SLOT_WAITS else schedule.begun)[task] = None
    tables.schedules.by_task[task] = schedule
    _note(tables, schedule, slot_ms, fate, task, is_manual=is_manual)
    settle(tables)
    return task


def _make_way(tables: Tables, schedule: Schedule) -> None:
    """For the newest one: what waits ends, and what has begun, if it is to be replaced."""
    ends = [(task, GRACE_NONE) for task in schedule.waiting]
    if schedule.spec.on_busy == BUSY_REPLACE:
        ends += [(task, REPLACE_GRACE_MS) for task in schedule.begun]
    for number, grace_ms in ends:
        task = tables.tasks.get(number)
        if task is not None and not task.is_terminal:
            cancel(tables, task, grace_ms)


def _enter(tables: Tables, schedule: Schedule, slot_ms: int, *, waits: bool) -> int:
    """Submits a run; one that `waits` until `_go_on`."""
    schedules, spec = tables.schedules, schedule.spec
    if not schedules.session or schedules.number == RUN_NUMBER_MAX:
        schedules.session = tables.sessions.reserve()
        schedules.sessions[schedules.session] = None
        schedules.number = 0
    schedules.number += 1
    number = schedules.session << TASK_NUMBER_BITS | schedules.number
    options = spec.options or DEFAULTS
    if options.dedup and (first := tables.duplicates.first(spec.task, options, tables.now_ms)):
        follow(tables, first, spec.task, options, number, 1, spec.name, slot_ms)
        schedules.freed.append(number)
        return number
    run = replace(spec_for(tables, spec.task, options, 1), schedule=spec.name, slot_ms=slot_ms)
    enter_first(tables, run, options, number, [spec.body], waits=waits)
    return number


def _note(
    tables: Tables, schedule: Schedule, slot_ms: int, fate: int, task: int = 0, *, is_manual: bool = False
) -> None:
    schedule.history.append(Slot(slot_ms, fate, task, 0, is_manual))
    tables.ledger.slotted(schedule.version, slot_ms, fate, task)


def _alarm(tables: Tables, schedule: Schedule, alarm: int) -> None:
    schedule.alarm, schedule.alarm_ms = alarm, tables.now_ms


# -- ends ------------------------------------------------------------------------------------------------------------


def settle(tables: Tables) -> None:
    """Runs that have ended make room for those that wait."""
    schedules = tables.schedules
    if not schedules.freed and not schedules.stirred:
        return
    freed, schedules.freed = schedules.freed, []
    free: dict[str, None] = schedules.stirred
    schedules.stirred = {}
    for number in freed:
        task = tables.tasks.get(number)
        assert task is None or task.is_terminal, "nothing is replayed before its end is settled"
        schedule = schedules.by_task.pop(number, None)
        if schedule is not None:
            schedule.begun.pop(number, None)
            schedule.waiting.pop(number, None)
            assert task is not None, "nothing is forgotten before it is settled"
            schedule.becomes(number, task.state, tables.now_ms)
            free[schedule.spec.name] = None
    for name in free:
        if (known := schedules.by_name.get(name)) is not None:
            _go_on(tables, known)


def _go_on(tables: Tables, schedule: Schedule) -> None:
    """Waiting runs begin, as far as they may."""
    if not tables.schedules.may_fire(schedule):
        return
    while schedule.waiting and not (schedule.spec.exclusive and schedule.begun):
        number = next(iter(schedule.waiting))
        task = tables.tasks.get(number)
        assert task is not None and task.state == DELAYED, "a run that waits is a task that waits"
        del schedule.waiting[number]
        schedule.begun[number] = None
        schedule.becomes(number, SLOT_RUNS)
        options = schedule.spec.options or DEFAULTS
        let_go(tables, task, delay_of(options, tables.now_ms))
