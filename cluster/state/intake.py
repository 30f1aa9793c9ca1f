"""Submit: from a command to tasks that wait.

A command is accepted whole or refused whole. Its task numbers must rise, within the command and above all
that the session submitted before; that is the deduplication of tasks (a number is used once, whatever became
of the task), and it refuses a number that wrapped. The answer to a refused command is the next number that
would be accepted.

The loop over tasks runs inside `map` and `dict.update`: a record is made, tabled and queued in about 0.2 us.
"""

from itertools import repeat

from msgspec import structs

from cluster.state.commands import (
    CONCURRENCY_MAX,
    DATE_MS_MAX,
    NEEDS_COMMAND_MAX,
    NEEDS_MAX,
    PERIOD_MS_MAX,
    PERIOD_MS_MIN,
    PRIORITY_MAX,
    RETRY_FACTOR_MAX,
    RETRY_TYPES_MAX,
    STARTS_MAX,
    SUBMIT_TASKS_MAX,
    TASK_NUMBER_BITS,
    LineRule,
    Needs,
    Options,
    RetryRule,
    Submit,
    TaskGroup,
)
from cluster.state.dependencies import begin
from cluster.state.effects import ANSWER_CROWDED, ANSWER_OK, ANSWER_REFUSED
from cluster.state.following import follow, with_key
from cluster.state.needs import NEEDS_KNOWN_MAX
from cluster.state.queues import DELAYED, HELD, PENDING, Spec
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, Task
from cluster.state.texts import LABELS_MAX, is_name
from cluster.state.timers import EXPIRES, READY, wait_ms

TASK_NUMBER_MAX = (1 << TASK_NUMBER_BITS) - 1
DURATION_MS_MAX = 10 * 366 * 24 * 60 * 60 * 1_000       # ten years: a longer delay is a mistake in units


def submit(tables: Tables, session: Session, command: Submit) -> tuple[int, int]:
    """Applies a Submit in its turn; returns its answer's (code, value)."""
    last_number = _last_number(session, command)
    if last_number is None:
        return ANSWER_REFUSED, session.last_number + 1
    if tables.dependencies.is_full and any(group.needs for group in command.groups):
        return ANSWER_CROWDED, NEEDS_KNOWN_MAX
    session.last_number = last_number
    if command.seen:
        tables.counters.ignored_seen += tables.retention.seen(session, command.seen, tables.now_ms)
    base = session.id << TASK_NUMBER_BITS
    for group in command.groups:
        if not group.bodies:
            continue
        session.unsaid += len(group.bodies)
        options = group.options
        if options is not None and options.dedup:
            _enter_once(tables, group, options, base | group.first)
            continue
        spec = spec_for(tables, group.name, options, len(group.bodies))
        if group.needs:
            enter(tables, spec, base | group.first, group.bodies, waits=True)
            begin(tables, base | group.first, group.needs, options)
        else:
            enter(tables, spec, base | group.first, group.bodies, delay_of(options, tables.now_ms))
    return ANSWER_OK, 0


def delay_of(options: Options | None, now_ms: int) -> int:
    """For how long a task must wait that is submitted, or let go, now."""
    if options is None:
        return 0
    return wait_ms(options.delay_ms, options.at_ms, now_ms)


def spec_for(tables: Tables, name: str, options: Options | None, count: int) -> Spec:
    """The spec of so many tasks that are about to `enter`."""
    if options is None or (not options.key and options.line is None and not options.dedup):
        return tables.queues.spec(name, options, tables.now_ms)
    if options.dedup:
        plain = structs.replace(options, dedup="", dedup_ms=0)      # others of this kind are remembered by
        return with_key(spec_for(tables, name, plain, count), options)
    if options.key:
        return tables.keys.spec(name, options, count, tables.now_ms)
    return tables.lines.spec(name, options, count, tables.now_ms)


def enter(
    tables: Tables, spec: Spec, first: int, bodies: list[bytes], delay_ms: int = 0, *, waits: bool = False
) -> None:
    """Makes tasks with the ids `first`, `first` + 1, ..., which are in their lane at once, or when `delay_ms` have
    passed; or, if somebody `waits` with them, when that says `let_go`."""
    is_delayed = waits or delay_ms > 0
    end = first + len(bodies)
    tasks = list(map(Task, range(first, end), repeat(spec), bodies, repeat(DELAYED if is_delayed else PENDING)))
    table = tables.tasks
    start = first
    while start < end:
        cut = min(end, ((start >> RUN_BITS) + 1) << RUN_BITS)
        shard = table.shard(start >> RUN_BITS)
        shard.update(zip(range(start, cut), tasks[start - first : cut - first], strict=True))
        start = cut
    channel = tables.queues.channels[spec.channel]
    if is_delayed:
        channel.queue.delayed += len(tasks)
        if not waits:
            tables.timers.add(tables.now_ms + delay_ms, first, len(tasks), READY)
    else:
        channel.append(spec.priority, tasks)
    if spec.expires_at_ms:
        tables.timers.add(spec.expires_at_ms, first, len(tasks), EXPIRES)


def _enter_once(tables: Tables, group: TaskGroup, options: Options, first: int) -> None:
    """The first of these tasks, if their key is free or whoever has it gives way; the others are its duplicates, which
    need nothing."""
    name, count = group.name, len(group.bodies)
    known = tables.duplicates.first(name, options, tables.now_ms)
    behind = known if known and _gives_way(tables, known) else 0
    if not known or behind:
        spec = spec_for(tables, name, options, 1)
        needs = group.needs[:1] or ([Needs([])] if behind else [])
        enter_first(tables, spec, options, first, group.bodies[:1], waits=bool(needs))
        if needs:
            begin(tables, first, needs, options, behind)
        known, first, count = first, first + 1, count - 1
    if count:
        follow(tables, known, name, options, first, count)


def _gives_way(tables: Tables, number: int) -> bool:
    """Whether one that has its key is being stopped, and would have lost it by its end."""
    task = tables.tasks.get(number)
    if task is None or task.state != HELD or not task.is_cancelled:
        return False
    return not tables.duplicates.is_within_window(number, tables.now_ms)


def enter_first(
    tables: Tables, spec: Spec, options: Options, task: int, body: list[bytes], *, waits: bool = False
) -> None:
    """As `enter`, for one task, which takes its key if it has one."""
    enter(tables, spec, task, body, delay_of(options, tables.now_ms), waits=waits)
    if options.dedup:
        tables.duplicates.take(spec, task, options.dedup_ms, tables.now_ms)


def _last_number(session: Session, command: Submit) -> int | None:
    """The highest task number after this command; None if it must be refused."""
    last = session.last_number
    tasks = needs = 0
    for group in command.groups:
        if not group.bodies:
            continue
        tasks += len(group.bodies)
        if group.needs:
            needs += _count_of_needs(group)
            if needs > NEEDS_COMMAND_MAX:
                return None
        if group.first <= last or tasks > SUBMIT_TASKS_MAX or not is_name(group.name):
            return None
        last = group.first + len(group.bodies) - 1
        if last > TASK_NUMBER_MAX or (group.options is not None and not are_valid(group.options)):
            return None
    return last


def _count_of_needs(group: TaskGroup) -> int:
    """Of all its tasks together; too many if they are not what they should be."""
    if len(group.needs) != len(group.bodies):
        return NEEDS_COMMAND_MAX + 1
    count = 0
    for needs in group.needs:
        numbers = [*needs.results, *needs.outcomes]
        if not 0 < len(numbers) <= NEEDS_MAX or min(numbers) < 1:
            return NEEDS_COMMAND_MAX + 1
        count += len(numbers)
    return count


def are_valid(options: Options) -> bool:
    return (
        is_name(options.queue)
        and 0 <= options.priority <= PRIORITY_MAX
        and 0 <= options.timeout_ms <= DURATION_MS_MAX
        and 0 <= options.delay_ms <= DURATION_MS_MAX
        and 0 <= options.at_ms <= DATE_MS_MAX
        and 0 <= options.expires_ms <= DURATION_MS_MAX
        and 0 <= options.result_ttl_ms <= DURATION_MS_MAX
        and len(options.labels) <= LABELS_MAX
        and all(map(is_name, options.labels))
        and (not options.actor or is_name(options.actor))
        and (not options.key or (is_name(options.key) and bool(options.actor)))
        and 0 <= options.soft_timeout_ms <= DURATION_MS_MAX
        and (options.retry is None or _is_valid_rule(options.retry))
        and (options.line is None or (not options.key and _is_valid_line(options.line)))
        and (not options.dedup or is_name(options.dedup))
        and 0 <= options.dedup_ms <= DURATION_MS_MAX
    )


def _is_valid_rule(rule: RetryRule) -> bool:
    return (
        0 <= rule.first_ms <= rule.cap_ms <= DURATION_MS_MAX
        and 1 <= rule.factor <= RETRY_FACTOR_MAX
        and len(rule.on) <= RETRY_TYPES_MAX
        and all(map(is_name, rule.on))
    )


def _is_valid_line(line: LineRule) -> bool:
    """It says something, and means what its fields say: a name of a limit without bounds would hold nothing back."""
    is_limited = line.concurrency > 0 or line.starts > 0
    return (
        (is_name(line.share) if line.share else is_limited)
        and (not line.limit or (is_name(line.limit) and is_limited))
        and 0 <= line.concurrency <= CONCURRENCY_MAX
        and 0 <= line.starts <= STARTS_MAX
        and (PERIOD_MS_MIN <= line.period_ms <= PERIOD_MS_MAX if line.starts else line.period_ms == 0)
    )
