"""What must hold between entries for keys of work and for duplicates; part of `invariants.check`."""

from cluster.state.duplicates import CLEARED_EVERY_MS, STALE_DATES, WINDOWS_MAX, scope_of
from cluster.state.effects import STATE_COMPLETED
from cluster.state.following import NO_CHANNEL
from cluster.state.queues import HELD
from cluster.state.tables import Tables


def check_duplicates(tables: Tables) -> None:
    """Whoever is unfinished and has a key is the one who has taken it, or is being stopped and gave way to that one,
    which waits; of all others the window goes on."""
    duplicates = tables.duplicates
    gave_way = {taken.behind.task for taken in duplicates.by_scope.values() if taken.behind is not None}
    assert len(duplicates.by_scope) + len(gave_way) == len(duplicates.by_task)
    assert len(duplicates.over) <= WINDOWS_MAX
    buckets: dict[int, list[int]] = {}
    for number, taken in duplicates.over.items():
        buckets.setdefault(taken.until_ms + -taken.until_ms % CLEARED_EVERY_MS, []).append(number)
    assert {date_ms: list(bucket) for date_ms, bucket in duplicates.buckets.items()} == buckets
    assert duplicates.next_deadline_ms() == min(buckets, default=None)
    assert len(duplicates._dates) <= 2 * len(buckets) + STALE_DATES + 1
    for number, taken in duplicates.by_task.items():
        task = tables.tasks.get(number)
        holder = duplicates.by_scope[taken.scope]
        assert taken.task == number and (holder is taken or (holder.behind is taken and taken.behind is None))
        if number in gave_way:
            assert task is not None and task.state == HELD and task.is_cancelled and taken.until_ms <= tables.now_ms
            assert holder.is_over or tables.dependencies.by_task[holder.task].behind == number
        assert taken.is_over == (task is None or task.is_terminal), f"key {taken.scope} of task {number}"
        assert (duplicates.over.get(number) is taken) == taken.is_over
        assert task is None or (scope_of(task.spec) == taken.scope and not task.duplicate_of)
    for task in tables.tasks.in_order():
        if task.spec.dedup and not task.is_terminal:
            assert task.id in duplicates.by_task, f"task {task.id} has lost its key"
        if first := task.duplicate_of:
            assert task.spec.dedup and task.spec.channel == NO_CHANNEL and first != task.id
            known = tables.tasks.get(first)
            assert known is None or (scope_of(known.spec)[::2] == scope_of(task.spec)[::2] and not known.duplicate_of)
        elif task.state == STATE_COMPLETED:
            assert task.attempt >= 1
