"""Dependencies: a task that waits until others have ended, and gets what became of them.

Problem: a fan-in of ten thousand members must finish, whatever becomes of the members, once, also if brokers and
workers are lost meanwhile. Systems that count ends at their clients or workers lose some or count some twice.

Idea: the state knows every end, and once. A *dependent* waits as a task that is delayed without a date, and has a
number: how many of its needs are *missing*. The end of a task, whatever way it ended, is noted in `ends`, and told to
those that wait for it at the end of the entry (`settle`). At 0 a dependent is let go to its lane, and handed out like
any task; the results that it needs are read from the state when it is sent (`passed_on`), each time that it is. They
never pass the client.

If a task that is needed for its result ends without one, its dependent ends at once, as failed: it was not run. It
says which one that was, and which was the first. That is an end as well, so it is noted and told in its turn; a chain
of any length ends without recursion. Who needs *outcomes* waits for all, and gets the failures too.

Who may be needed: tasks that the state knows when the dependent is submitted. Of others, forgotten ones and such that
do not exist yet, it cannot be told whether they will ever end, so the dependent fails at once. Therefore every task is
older than those that need it, and a cycle cannot arise.

What is needed is *pinned* until those that need it have ended: `eviction` passes it over when its date comes, or when
there is too much. It has no lot then (OVERDUE), and has a date again when the last one that needs it has ended. Up to
64 MiB of records are kept so. A result that is gone in spite of that ends the task that was to get it: when it would be
let go, or when it was handed out already, by the word of its worker (OUTCOME_UNMET).

Replays. A dependent that is run again waits again, for what it needs; one that needed what was not known fails again,
since by now that might be a task that waits for it. A needed task that had ended without a result
may be run again as long as nobody who was let go has been promised its end (`taken`); who waits still, waits for its
next end: that is looked at before anybody is let go.

A task may also be *behind* another one (`duplicates`), whose end it waits for in the same way. It is told nothing of
that, and once it is let go that is no need of its any more.

Bounds. At most SETTLED_MAX dependents are told of ends in an entry; the rest is due at once, and the leader ticks
again. The needs of all dependents that have not ended are counted. Results that are larger together than
INPUTS_BYTES_MAX fail the dependent; of what ended without a result it is told as much as fits FAILURES_BYTES_MAX. One
that is told more than INPUTS_AHEAD_BYTES_MAX is HEAVY: nothing of that lies ready behind other tasks.
"""

from collections.abc import Iterable, Iterator
from itertools import repeat

import msgspec
from msgspec import structs

from cluster.state.commands import (
    INPUTS_BYTES_MAX,
    NEEDS_MAX,
    OUTCOME_UNMET,
    UNMET_UNKNOWN,
    Failure,
    Needs,
    Options,
    Unmet,
)
from cluster.state.effects import (
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_FAILED,
    Assignment,
)
from cluster.state.inputs import ENDED_AS, UNKNOWN_TASK, End, Inputs
from cluster.state.lifecycle import end_waiting, let_go
from cluster.state.needs import Dependent
from cluster.state.queues import DELAYED, HEAVY
from cluster.state.retention import OVERDUE
from cluster.state.tables import Tables
from cluster.state.tasks import Attempt, Task
from cluster.state.texts import head
from cluster.state.timers import wait_ms

SETTLED_MAX = 4_096             # dependents that are told of an end, in one entry
NEEDS_PER_STEP = 16             # that are looked at, count as one of them
FAILURES_BYTES_MAX = 1024 * 1024        # of types and messages of all failures that one dependent is told
FAILURE_TEXT_MIN = FAILURES_BYTES_MAX // NEEDS_MAX // 2     # in bytes: each type and each message may have so much,
FAILURE_TEXT_MAX = 2 * 1024     # ... and no more than this
INPUT_OVERHEAD_BYTES = 32       # of one need: its id and its state, and the lengths
INPUTS_AHEAD_BYTES_MAX = 64 * 1024      # that one task may be given while it waits behind another
CAUSE_BYTES_MAX = 512           # of a message within a message

ERROR_UNMET = "DependencyFailed"
ERROR_TOO_LARGE = "BodyTooLarge"

Found = tuple[bool, int, Task | None]       # whether a result is needed, of which task, and the record of that

_encode = msgspec.msgpack.Encoder().encode


def begin(tables: Tables, first: int, needs: list[Needs], options: Options | None, behind: int = 0) -> None:
    """Tasks with the ids `first`, `first` + 1, ... have entered and wait; each needs others, and the end of `behind` if
    there is such a task."""
    end = first + len(needs)
    for number, some in enumerate(needs, first):
        task = tables.tasks.get(number)
        assert task is not None
        dependent = Dependent(_followed(tables, some))
        if options is not None:
            dependent.delay_ms, dependent.at_ms = options.delay_ms, options.at_ms
        found = _found(tables, dependent.needs)
        for _, need, known in found:
            # Those that entered with it and after it are not older: they are as unknown as what is submitted later.
            if number <= need < end or known is None:
                dependent.unknown = need
                break
        dependent.behind = behind
        _wait(tables, task, dependent, found)


def _followed(tables: Tables, needs: Needs) -> Needs:
    """The same, with the tasks that do the work of duplicates in the place of these."""
    if not tables.counters.duplicates:
        return needs
    find = tables.tasks.get
    results, outcomes = (
        [number if (task := find(number)) is None else task.duplicate_of or number for number in numbers]
        for numbers in (needs.results, needs.outcomes)
    )
    return Needs(results, outcomes)


def begin_again(tables: Tables, task: Task) -> None:
    """One that is replayed, and needs others, has entered and waits; its delay is over."""
    dependent = tables.dependencies.kept.pop(task.id)
    needs = dependent.needs
    _wait(tables, task, Dependent(needs, unknown=dependent.unknown), _found(tables, needs))


def _found(tables: Tables, needs: Needs) -> list[Found]:
    """Everything that is needed, as it is now."""
    find = tables.tasks.find
    results = zip(repeat(True), needs.results, find(needs.results), strict=False)
    return [*results, *zip(repeat(False), needs.outcomes, find(needs.outcomes), strict=False)]


def retire(tables: Tables, number: int) -> None:
    """A dependent that has ended needs nothing any more."""
    dependencies = tables.dependencies
    dependent = dependencies.leave(number)
    for need in dependent.all():
        if not dependencies.is_needed(need):
            known = tables.tasks.get(need)
            if known is not None and known.lot <= OVERDUE:
                tables.retention.file_again(known, tables.now_ms)


def settle(tables: Tables) -> None:
    """Tells of ends, as far as one entry may."""
    dependencies = tables.dependencies
    ends = dependencies.ends
    steps = SETTLED_MAX
    while ends and steps > 0:
        number = ends[0]
        task = tables.tasks.get(number)
        if task is not None and not task.is_terminal:
            ends.popleft()
            continue            # it was replayed meanwhile: it will end again
        if number in dependencies.by_task:
            steps -= 1 + len(dependencies.by_task[number].needs) // NEEDS_PER_STEP
            retire(tables, number)
        told: list[int] = []
        for signed in dependencies.waiting_for(number, max(0, steps)):
            if steps <= 0:
                break
            told.append(signed)
            steps -= 1 + _tell(tables, signed, number, task) // NEEDS_PER_STEP
        dependencies.told(number, told)
        if number not in dependencies.waited:
            ends.popleft()


def _tell(tables: Tables, signed: int, number: int, task: Task | None) -> int:
    """A dependent hears of the end of what it waits for. Returns how many needs were looked at."""
    dependent = tables.dependencies.by_task.get(abs(signed))
    waiting = tables.tasks.get(abs(signed))
    if dependent is None or not dependent.missing or waiting is None or waiting.state != DELAYED:
        return 0                # it has ended
    if signed > 0 and (task is None or task.state != STATE_COMPLETED):
        _fail(tables, waiting, _unmet(number, task))
        return 0
    if dependent.missing > 1:
        dependent.missing -= 1
        return 0
    _release(tables, waiting, dependent, _found(tables, dependent.needs))
    return len(dependent.needs)


def _wait(tables: Tables, task: Task, dependent: Dependent, found: list[Found]) -> None:
    assert task.state == DELAYED
    dependencies = tables.dependencies
    failure = _unmet(dependent.unknown, None) if dependent.unknown else None
    for is_result, number, known in found:
        if failure is not None:
            break
        if known is None:       # it is replayed, and what it needs is forgotten
            failure = _unmet(number, None)
        elif not known.is_terminal:
            dependent.missing += dependencies.wait(number, task.id if is_result else -task.id)
        elif is_result and known.state != STATE_COMPLETED:
            failure = _unmet(number, known)
    if dependent.behind and failure is None:
        dependent.missing += dependencies.wait(dependent.behind, -task.id)
    dependencies.enter(task.id, dependent)
    if failure is not None:
        dependent.missing = dependent.missing or 1      # nobody has let it go
        _fail(tables, task, failure)
    elif not dependent.missing:
        _release(tables, task, dependent, found)


def _release(tables: Tables, task: Task, dependent: Dependent, found: list[Found]) -> None:
    """Nothing is missing: lets it go, unless something was replayed that had ended, or is gone, or all is too large."""
    dependencies = tables.dependencies
    size = missing = failures = 0
    failure: Failure | None = None
    for is_result, number, known in found:
        if known is None:
            failure = _unmet(number, None) if is_result and failure is None else failure
        elif not known.is_terminal:
            missing += dependencies.wait(number, task.id if is_result else -task.id)
        elif known.state == STATE_COMPLETED:
            size += len(known.body)
        elif not is_result:
            failures += 1
        elif failure is None:
            failure = _unmet(number, known)
    dependent.missing = missing or 1    # it waits, up to the moment at which it is let go
    if failure is not None:
        _fail(tables, task, failure)
    elif missing:
        return
    elif size > INPUTS_BYTES_MAX:
        count = len(dependent.needs)
        text = f"results of the {count} tasks that it needs: {size} bytes encoded, the limit is {INPUTS_BYTES_MAX}"
        _fail(tables, task, Failure(ERROR_TOO_LARGE, text))
    else:
        dependencies.take(dependent)
        size += INPUT_OVERHEAD_BYTES * len(dependent.needs)
        if size + min(2 * FAILURE_TEXT_MAX * failures, FAILURES_BYTES_MAX) > INPUTS_AHEAD_BYTES_MAX:
            task.alone = task.alone or HEAVY
        if not dependent.needs:         # it was behind another one, and needs no results
            dependencies.leave(task.id)
        let_go(tables, task, wait_ms(dependent.delay_ms, dependent.at_ms, tables.now_ms))


def _fail(tables: Tables, task: Task, failure: Failure) -> None:
    """One that waits ends without having run."""
    tables.evidence.record(task, Attempt(task.attempt, "", OUTCOME_UNMET, 0, tables.now_ms, failure))
    task.attempt += 1       # it has used this number, though nothing was handed out: evidence goes by these
    end_waiting(tables, task, STATE_FAILED)


def _unmet(number: int, task: Task | None) -> Failure:
    """Why one that needs the result of this task cannot have it."""
    if task is None:
        return Failure(ERROR_UNMET, f"task {number} {UNKNOWN_TASK}", unmet=Unmet(number, UNMET_UNKNOWN, number))
    error = None if not task.attempts else task.attempts[-1].error
    how = f"task {number} {ENDED_AS[task.state]}"
    if task.state not in (STATE_FAILED, STATE_DEAD) or error is None:
        return Failure(ERROR_UNMET, how, unmet=Unmet(number, task.state, number))
    message = head(error.message, CAUSE_BYTES_MAX)
    if error.unmet is None:
        how = f"{how}: {error.type}: {message}" if message else f"{how}: {error.type}"
        return Failure(ERROR_UNMET, how, unmet=Unmet(number, task.state, number))
    cause = error.unmet.cause
    first = message if error.unmet.task == cause else message.partition(FIRST)[2]
    return Failure(ERROR_UNMET, f"task {number} was not run{FIRST}{first}", unmet=Unmet(number, task.state, cause))


FIRST = ", since "      # between what a task needs and the first cause of that


# -- what is passed on ------------------------------------------------------------------------------------------------


def passed_on(tables: Tables, assignments: list[Assignment]) -> Iterable[Assignment]:
    """The assignments, one by one, with what became of the tasks that theirs need."""
    dependencies = tables.dependencies
    return _filled(tables, assignments) if dependencies.by_task or dependencies.kept else assignments


def _filled(tables: Tables, assignments: list[Assignment]) -> Iterator[Assignment]:
    by_task, kept = tables.dependencies.by_task, tables.dependencies.kept
    for assignment in assignments:
        number = assignment.task
        dependent = by_task.get(number)
        if dependent is None:
            if number not in kept:      # else it has ended since it was handed out
                yield assignment
            continue
        task = tables.tasks.get(number)
        if task is not None and task.holder and task.attempt == assignment.attempt:
            yield structs.replace(assignment, body=_with_inputs(tables, assignment.body, dependent.needs))


def _with_inputs(tables: Tables, body: bytes, needs: Needs) -> bytes:
    outcomes = list(tables.tasks.find(needs.outcomes))
    failures = sum([task is not None and task.state != STATE_COMPLETED for task in outcomes])
    limit = max(FAILURE_TEXT_MIN, min(FAILURE_TEXT_MAX, FAILURES_BYTES_MAX // max(1, failures) // 2))
    return _encode(
        Inputs(
            body,
            [_end(number, task, limit) for number, task in _pairs(needs.results, tables.tasks.find(needs.results))],
            [_end(number, task, limit) for number, task in _pairs(needs.outcomes, outcomes)],
        )
    )


def _pairs(numbers: list[int], tasks: Iterable[Task | None]) -> Iterable[tuple[int, Task | None]]:
    return zip(numbers, tasks, strict=True)


def _end(number: int, task: Task | None, bytes_max: int) -> End:
    if task is None or not task.is_terminal:
        return End(number, UNMET_UNKNOWN)
    if task.state == STATE_COMPLETED:
        return End(number, STATE_COMPLETED, task.body)
    error = None if not task.attempts else task.attempts[-1].error
    if error is None or task.state not in (STATE_FAILED, STATE_DEAD):
        return End(number, task.state)
    return End(number, task.state, b"", head(error.type, bytes_max), head(error.message, bytes_max))
