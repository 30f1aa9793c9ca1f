"""Records of duplicates: tasks whose key another one has (`duplicates`).

A duplicate ends when it is accepted, as one that has completed and was never handed out. In place of a result it names
the first task, and its client asks for the record of that. So it needs nothing of the state but a record that is kept
as any other is, and neither first nor duplicate knows of the other once one of them is forgotten.

The result of the first one must be there when somebody asks for it. One with a window is therefore kept for the window
and a minute, and at least for its hour; and one that has a duplicate for its hour, seen or not (`retention`). Who gives
a `result_ttl` says otherwise.
"""

from itertools import repeat

from msgspec import structs

from cluster.state.commands import TASK_NUMBER_BITS, Options
from cluster.state.effects import STATE_COMPLETED, reference_to
from cluster.state.queues import Spec
from cluster.state.retention import SEEN_KEPT_MS, has_own_date
from cluster.state.tables import Tables
from cluster.state.tasks import RUN_BITS, Task

NO_CHANNEL = -1         # a duplicate never waits


def with_key(spec: Spec, options: Options) -> Spec:
    """The spec of a task that has a key."""
    ttl_ms = spec.result_ttl_ms
    if options.dedup_ms and not has_own_date(ttl_ms):
        ttl_ms = max(ttl_ms + 1, options.dedup_ms + SEEN_KEPT_MS)
    return structs.replace(spec, dedup=options.dedup, result_ttl_ms=ttl_ms)


def follow(
    tables: Tables,
    first: int,
    name: str,
    options: Options,
    start: int,
    count: int,
    schedule: str = "",
    slot_ms: int = 0,
) -> None:
    """Accepts the tasks `start`, `start` + 1, ... as duplicates of the task `first`."""
    known = tables.tasks.get(first)
    if known is not None and not has_own_date(known.spec.result_ttl_ms):
        known.spec = structs.replace(known.spec, result_ttl_ms=known.spec.result_ttl_ms + 1)
    spec = Spec(
        options.queue, name, NO_CHANNEL, options.priority, options.timeout_ms, options.result_ttl_ms, 0,
        schedule=schedule, slot_ms=slot_ms, dedup=options.dedup,
    )  # fmt: skip
    body = reference_to(first)
    ids = range(start, start + count)
    tasks = list(map(Task, ids, repeat(spec), repeat(body), repeat(STATE_COMPLETED), repeat(0)))
    lot = tables.retention.lot(tables.now_ms, spec.result_ttl_ms)
    for task in tasks:
        task.lot = lot
        tables.tasks.shard(task.id >> RUN_BITS)[task.id] = task
    tables.retention.file(lot, list(ids), count * len(body))
    tables.counters.duplicates += count
    tables.ledger.duplicated(start >> TASK_NUMBER_BITS, first, [task.result() for task in tasks])
