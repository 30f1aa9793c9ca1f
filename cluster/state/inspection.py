"""Single tasks, for people: pages of the table, and one record whole. Nothing here changes anything.

A table may have millions of tasks, and the loop of a broker serves everybody. So a page ends when it is full, or when
VISITS_MAX records were looked at, whatever was found: the cursor says where to go on. Between two pages tasks come,
change and go. So the order must not depend on any of that, nor the cursor on its task being there: it is the id of the
record that was looked at last, and the order is by shard of the table (`tasks.TaskTable`), then by id. A task has its
place from submit until it is forgotten. What is there all the time is found once; what comes or goes meanwhile is found
or is not.

Rejected: by date of submit, which no record has; by id over all shards, which costs a visit to every shard, or an index
that every submit and every eviction would have to keep.

Cost of a page: the visits, and the ids of each shard that it touches are sorted, which are mostly in order. A shard has
4,000 of a million tasks.
"""

from bisect import bisect_right
from itertools import islice

from msgspec import Struct

from cluster.state.commands import Failure
from cluster.state.credit import SLOT_BITS
from cluster.state.effects import STATE_COMPLETED, STATE_DEAD
from cluster.state.lines import Line
from cluster.state.needs import Dependent
from cluster.state.queues import DELAYED, HELD, PENDING
from cluster.state.retention import DEAD_KEPT_MS
from cluster.state.status import DUPLICATE, STATE_NAMES, state_name, until_ms, why_held_back, why_parked
from cluster.state.tables import Tables
from cluster.state.task_rows import ARGUMENTS_BYTES_MAX, PLACE_NONE, PLACE_UNKNOWN, WAITS_FOR_MAX, TaskDetails, TaskRow
from cluster.state.tasks import SHARDS, Task, place_of
from cluster.state.texts import head
from cluster.state.timers import LIFE_SHIFT, READY

PAGE_ROWS_MAX = 1_000
VISITS_MAX = 4_096              # records of one page, found or not
DATES_VISITED_MAX = 16_384      # of the timers, for the date of one delayed task: about a millisecond
ERROR_BYTES_MAX = 200           # of the error in a row: its first line
STATES_ASKED_MAX = 16           # there are fewer


class Page(Struct, gc=False, frozen=True):
    """Rows in order, and the cursor of the next page; 0 = there is none."""

    rows: list[TaskRow]
    after: int


def page_of(tables: Tables, after: int, limit: int, states: tuple[str, ...], queue: str, name: str) -> Page:
    """The tasks behind `after` (0 = from the beginning) of these states, this queue and this task name; () and "" take
    all. At most `limit` of them."""
    limit = max(1, min(limit, PAGE_ROWS_MAX))
    asked = states[:STATES_ASKED_MAX]
    wanted = [not asked or STATE_NAMES[state] in asked for state in sorted(STATE_NAMES)]
    if DUPLICATE in asked:
        wanted[STATE_COMPLETED] = True
    rows: list[TaskRow] = []
    visits = 0
    above = after
    for place in range(place_of(after), SHARDS):
        shard = tables.tasks.shards[place]
        ids = sorted(shard)
        for number in islice(ids, bisect_right(ids, above), None):
            task = shard[number]
            visits += 1
            spec = task.spec
            is_wanted = wanted[task.state] and (not asked or state_name(task) in asked)
            if is_wanted and queue in ("", spec.queue) and name in ("", spec.name):
                rows.append(row_of(tables, task))
            if len(rows) == limit or visits == VISITS_MAX:
                return Page(rows, number)
        above = 0
    return Page(rows, 0)


def row_of(tables: Tables, task: Task) -> TaskRow:
    spec = task.spec
    state = task.state
    ended = task.all_attempts()
    last = ended[-1] if ended else None
    worker, session, slot = last.worker if last is not None else task.worker, 0, -1
    if state == HELD:
        session = task.holder >> SLOT_BITS
        slot = task.holder & ((1 << SLOT_BITS) - 1)
        worker = tables.sessions.by_id[session].name
        last = None         # the times are of the attempt that is shown
    channel = tables.queues.channels.get(spec.channel)      # that of a task which has ended may be gone
    is_parked = state == PENDING and channel is not None and channel.is_parked
    limit = None        # that holds it back
    if state == PENDING and isinstance(channel, Line) and channel.is_held_back and not is_parked:
        limit = channel.under
    return TaskRow(
        task.id,
        state_name(task),
        spec.name,
        spec.queue,
        spec.priority,
        # Of one that waits, `attempt` is the number of the next one.
        task.attempt - (state in (PENDING, DELAYED)),
        task.crashes,
        task.failures,
        state == DELAYED,
        is_parked,
        task.is_cancelled,
        worker,
        session,
        slot,
        PLACE_UNKNOWN if state == HELD else PLACE_NONE,
        last.started_ms if last is not None else 0,
        last.ended_ms if last is not None else 0,
        "" if state == STATE_COMPLETED or not ended else first_line(ended[-1].error),
        why_parked(tables, channel) if is_parked and channel is not None else "",
        "" if limit is None else why_held_back(limit),
        0 if limit is None else until_ms(limit),
        _missing(tables, task) if state == DELAYED else 0,
    )


def details_of(tables: Tables, number: int) -> TaskDetails | None:
    """The record of one task; None if there is none, or it is forgotten."""
    task = tables.tasks.get(number)
    if task is None:
        return None
    spec = task.spec
    dependencies = tables.dependencies
    dependent = dependencies.by_task.get(number) or dependencies.kept.get(number)
    return TaskDetails(
        row_of(tables, task),
        task.all_attempts(),
        spec.timeout_ms,
        spec.soft_timeout_ms,
        max(spec.result_ttl_ms, DEAD_KEPT_MS) if task.state == STATE_DEAD else spec.result_ttl_ms,
        spec.retries,
        task.expires_at_ms,
        _ready_at_ms(tables, task) if task.state == DELAYED else 0,
        task.grace_ms,
        0 if task.duplicate_of else len(task.body),
        task.body if task.state != STATE_COMPLETED and len(task.body) <= ARGUMENTS_BYTES_MAX else None,
        spec.schedule,
        spec.slot_ms,
        spec.dedup,
        task.duplicate_of,
        0 if dependent is None else len(dependent.needs),
        [] if dependent is None or not dependent.missing else _waits_for(tables, dependent),
    )


def _missing(tables: Tables, task: Task) -> int:
    dependent = tables.dependencies.by_task.get(task.id)
    return 0 if dependent is None else dependent.missing


def _waits_for(tables: Tables, dependent: Dependent) -> list[int]:
    unended = (task.id for task in tables.tasks.find(dependent.all()) if task is not None and not task.is_terminal)
    return list(islice(dict.fromkeys(unended), WAITS_FOR_MAX))


def first_line(error: Failure | None) -> str:
    """Type and message of an error, as far as they fit a table."""
    if error is None:
        return ""
    line = error.message.strip().partition("\n")[0]
    return head(f"{error.type}: {line}" if line else error.type, ERROR_BYTES_MAX)


def _ready_at_ms(tables: Tables, task: Task) -> int:
    for date_ms, first, count, what in islice(tables.timers.heap, DATES_VISITED_MAX):
        if what == READY | task.replays << LIFE_SHIFT and first <= task.id < first + count:
            return date_ms
    return 0
