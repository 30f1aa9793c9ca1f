"""Replay: a task that ended without a result runs again, under its own id.

Somebody has looked at its evidence, or put right what it failed of. It waits again at the back of its lane with the
arguments that it came with; that is why what ends without a result keeps them. It begins anew: its crashes and retries
count from 0, its delay is over, and it does not expire. Two things go on. Attempts are numbered on from the last one,
so that nothing that an earlier holder still says can count, and those written down stay, as evidence. And a task that
was dead goes alone, as one that is known to have ended its process.

It is another record from then on (`Task.replays` says which): in the lane where it ended there may be a stale entry for
the old one, which is known by its state and must not come to life. Dates that were set for the old one are void.

A run of an exclusive schedule is passed over while another one of that is unfinished: it would not be exclusive. So is
a task whose key another one has by now (`duplicates`).

A task that needs others waits for them again, and gets what became of them by then. One that others need is passed over
if one of those was let go already and has not ended: it was promised that end (`dependencies`). What all tasks of a
command need is limited as in a submit. At the first one that does not fit the command ends, and its answer says where:
its client names the rest in another one.

A completed task is never replayed: its result has been told, and does not change. Who wants it run again submits it.
"""

from msgspec import structs

from cluster.state.commands import GRACE_NONE, NEEDS_COMMAND_MAX, REPLAYED_BITS
from cluster.state.dependencies import begin_again, retire
from cluster.state.effects import ANSWER_CROWDED, ANSWER_OK, STATE_CANCELLED, STATE_DEAD, STATE_EXPIRED, STATE_FAILED
from cluster.state.ledger import REPLAYED
from cluster.state.queues import ALONE, DELAYED, PENDING
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, Task

REPLAYABLE = (STATE_DEAD, STATE_FAILED, STATE_CANCELLED, STATE_EXPIRED)


def replay(tables: Tables, tasks: list[int]) -> tuple[int, int]:
    """Runs those of these tasks again that may be; returns the answer's (code, value)."""
    dependencies = tables.dependencies
    replayed: list[int] = []
    waiting: list[Task] = []
    room = 0 if dependencies.is_full else NEEDS_COMMAND_MAX
    looked_at = len(tasks)
    for place, number in enumerate(tasks):
        task = tables.tasks.get(number)
        if task is not None and is_replayable(task) and _is_admitted(tables, task):
            needs = dependencies.needs_again(number)
            if needs > room:
                looked_at = place
                break
            room -= needs
            anew = _begin_anew(tables, task)
            if anew.state == DELAYED:
                waiting.append(anew)
            replayed.append(number)
    # Behind the others, in whatever order all were named: one may need another, and fails if that has not begun anew.
    for task in waiting:
        begin_again(tables, task)
    if replayed:
        tables.counters.replayed += len(replayed)
        tables.ledger.decisions.append(REPLAYED)
        tables.ledger.decisions += replayed
    if looked_at < len(tasks):
        return ANSWER_CROWDED, looked_at << REPLAYED_BITS | len(replayed)
    return ANSWER_OK, len(replayed)


def is_replayable(task: Task) -> bool:
    """Images of an earlier version have no arguments of what has ended; those of a client of ours are never empty."""
    return task.state in REPLAYABLE and bool(task.body)


def _is_admitted(tables: Tables, task: Task) -> bool:
    """It would not run beside another one beside which it must not, and nobody was promised its end."""
    spec = task.spec
    if task.id in tables.dependencies.taken:
        return False
    if spec.dedup and not tables.duplicates.may_be_replayed(spec, task.id, tables.now_ms):
        return False
    return tables.schedules.admits(task.id, spec.schedule)


def _begin_anew(tables: Tables, old: Task) -> Task:
    """The new record. One that needs others has no part in dependencies yet."""
    dependencies = tables.dependencies
    if old.id in dependencies.by_task:
        retire(tables, old.id)          # its end was not told yet
    waits = old.id in dependencies.kept
    tables.retention.unfile(old)
    spec = old.spec
    if spec.key:
        spec = tables.keys.resubmitted(spec)
    elif spec.line is not None:
        spec = tables.lines.resubmitted(spec)
    task = structs.replace(
        old,
        spec=spec,
        state=DELAYED if waits else PENDING,
        attempt=old.attempt + 1,
        alone=ALONE if old.state == STATE_DEAD else 0,
        worker="",
        crashes=0,
        lot=0,
        failures=0,
        grace_ms=GRACE_NONE,
        replays=old.replays + 1,
    )
    assert task.holder == 0
    tables.tasks.shard(task.id >> RUN_BITS)[task.id] = task
    if waits:
        tables.queues.channels[spec.channel].queue.delayed += 1
    else:
        tables.queues.channels[spec.channel].append_again(task)
    if spec.dedup:
        tables.duplicates.replayed(spec, task.id)
    if spec.schedule:
        tables.schedules.replayed(task.id, spec.schedule)
    return task
