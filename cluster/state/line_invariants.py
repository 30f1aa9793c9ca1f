"""What must hold between entries for lines and limits; part of `invariants.check`."""

from itertools import pairwise

from cluster.state.credit import canonical
from cluster.state.limits import Limit
from cluster.state.lines import Bundle, Line
from cluster.state.queues import HELD
from cluster.state.tables import Tables
from cluster.state.timers import LIMIT
from cluster.state.turns import Turns


def check_lines(tables: Tables) -> None:
    """Every line stands where it is served, or is held back by a limit that is full; nothing empty is kept."""
    lines, limits, queues = tables.lines, tables.limits, tables.queues
    assert not lines.emptied and not limits.touched, "an entry was not tidied"
    found = [channel for channel in queues.channels.values() if isinstance(channel, Line)]
    assert sum([len(bundle.lines) for bundle in lines.bundles.values()]) == len(found)
    assert sum([len(some) for some in queues.bundles.values()]) == len(lines.bundles)
    unfinished: dict[int, int] = {}
    held: dict[int, int] = {}
    for task in tables.tasks.in_order():
        if task.spec.line is not None and not task.is_terminal:
            index = task.spec.channel
            unfinished[index] = unfinished.get(index, 0) + 1
            held[index] = held.get(index, 0) + (task.state == HELD)
    running: dict[int, int] = {}
    for line in found:
        assert lines.bundles[line.bundle.index] is line.bundle and line.bundle.lines[line.variant] is line
        assert 0 < line.unfinished == unfinished.get(line.index, 0), f"unfinished tasks of line {line.index}"
        assert line.share or line.under is not None, "a line of nothing"
        assert line.limit is None or line.bundle.limit is None, "two limits"
        assert line.under is (line.limit or line.bundle.limit)
        if line.under is not None:
            running[line.under.index] = running.get(line.under.index, 0) + held[line.index]
        _check_standing(line, line.limit)
        _check_served(tables, line)
    for index, bundle in lines.bundles.items():
        assert index == bundle.index < queues.made and index not in queues.channels and bundle.lines
        queue, name, labels = bundle.queue.name, bundle.name.name, bundle.labels
        assert queues.bundles[queue, name][bundle.variant] is bundle and labels == canonical(labels)
        assert bundle.lanes is bundle.ready
        serving = tables.credit.serving(queue, name, labels)
        assert sorted([pool.index for pool in bundle.places]) == sorted([pool.index for pool in serving])
        mine = {id(line) for line in bundle.lines.values()}
        assert all(id(line) in mine for ring in bundle.ready for line in ring.values())
        _check_mask(bundle)
        _check_standing(bundle, bundle.limit)
    dates = {(date_ms, first) for date_ms, first, _, what in tables.timers.heap if what == LIMIT}
    assert len(limits.by_name) == len(limits.by_index)
    for (name, share), limit in limits.by_name.items():
        assert limits.by_index[limit.index] is limit and (limit.name, limit.share) == (name, share)
        assert 0 < limit.index <= limits.made
        assert limit.running == running.get(limit.index, 0), f"what is with workers of limit {name}"
        _check_limit(limit, tables.now_ms, dates)


def _check_standing(member: Line | Bundle, limit: Limit | None) -> None:
    """It is in the rings of exactly where it stands."""
    if limit is None or member.index in limit.passed:
        assert member.pools is member.places, f"{member.index} is held back by nothing"
    else:
        assert member.pools == [limit]
    if limit is not None:
        assert limit.members[member.index] is member
    others: list[Turns] = [*member.places, *([limit] if limit is not None else [])]
    for pool in others:
        for priority, lane in enumerate(member.lanes):
            if pool not in member.pools:
                assert member.index not in pool.ready[priority], f"{member.index} stands where it is held back"
            elif lane:
                assert pool.ready[priority][member.index] is member and pool.mask >> priority & 1


def _check_served(tables: Tables, line: Line) -> None:
    bundle = line.bundle
    if not line.waiting or line.pools is not line.places or bundle.pools is not bundle.places:
        return
    for pool in tables.credit.serving(bundle.queue.name, bundle.name.name, bundle.labels):
        assert not pool.idle, "a message of a line waits although a slot is idle"
        assert not pool.open or pool.index in tables.credit.dirty, "a message of a line waits although a slot has room"


def _check_mask(turns: Turns) -> None:
    for priority, ring in enumerate(turns.ready):
        assert bool(ring) == bool(turns.mask >> priority & 1)


def _check_limit(limit: Limit, now_ms: int, dates: set[tuple[int, int]]) -> None:
    _check_mask(limit)
    assert all(limit.members[index] is member for index, member in limit.passed.items())
    assert all(limit.members[index] is member for ring in limit.ready for index, member in ring.items())
    assert limit.started == sum([count for _, count in limit.window])
    assert all(early < late for (early, _), (late, _) in pairwise(limit.window))
    assert not limit.date_ms or (limit.date_ms, limit.index) in dates, f"nobody wakes limit {limit.name}"
    counted = sum([count for date_ms, count in limit.window if date_ms + limit.period_ms > now_ms])
    is_full = 0 < limit.concurrency <= limit.running or 0 < limit.starts <= counted
    is_due = 0 < limit.date_ms <= now_ms
    if not limit.members:
        assert limit.window and limit.date_ms, f"limit {limit.name} is of no use and was not forgotten"
    assert not limit.holds_back or is_full or is_due, f"limit {limit.name} has room and holds tasks back"
    assert not limit.passed or not is_full, f"limit {limit.name} is full and would let tasks through"
    if limit.holds_back and not 0 < limit.concurrency <= limit.running:
        assert limit.date_ms, f"limit {limit.name} would never open"
