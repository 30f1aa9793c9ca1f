"""What is to be run when a slot has come, and what of the slots that came while nobody could run them.

The next slot of a schedule is written in the log. A leader that finds it due asks here, with the stamp of now, and
writes what it was told: which slots run, and which one is next. Nothing depends on when or how often it looks.

A slot has *misfired* if the one behind it has come too, or if it is late by more than the grace. The last slot that has
come is simply due within its grace, whatever the policy; a leader that was elected a moment ago is late by seconds.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from cluster.schedules.times import Times, slots_after

# What becomes of slots that have misfired: nothing; one run for all of them, as of the last; a run for each.
Policy = Literal["skip", "once", "all"]

# Above what it takes to elect a leader, or to start a whole cluster again; far below what people schedule by the clock.
MISFIRE_GRACE_MS = 60_000
# More are not run one by one: who was away for a night does not want a run for each second of it.
MISFIRES_MAX = 100


@dataclass(frozen=True, slots=True)
class Due:
    """What a leader does about a schedule now."""

    run: tuple[int, ...]        # slots, ascending; at most MISFIRES_MAX
    is_alarm: bool              # more than MISFIRES_MAX should have run; one did, and somebody should know
    next_slot: int | None       # None: nothing comes any more


def due(times: Times, slot_ms: int, now_ms: int, policy: Policy, gap: tuple[int, int] | None = None) -> Due:
    """What to run of a schedule whose next slot is written as `slot_ms`, at the stamp `now_ms`.

    The written slot is taken as it is, also if the zones of this broker would never have made it. A gap is two instants
    that have come: what lies behind the first one and not behind the second one does not count. Then what lies before
    it is due; what has come behind it is found by asking again, with the next slot that is said here.
    """
    if now_ms < slot_ms:
        return Due((), False, slot_ms)
    until_ms, since_ms = gap or (now_ms, now_ms)
    next_slot = times.next_after(since_ms)
    if policy == "all":
        come = [slot_ms]
        for slot in islice(slots_after(times, slot_ms), MISFIRES_MAX):
            if slot > until_ms:
                break
            come.append(slot)
        if len(come) <= MISFIRES_MAX:
            return Due(tuple(come), False, next_slot)
    last = _last_slot(times, slot_ms, until_ms)
    if policy == "skip" and now_ms - last > MISFIRE_GRACE_MS:
        return Due((), False, next_slot)
    return Due((last,), policy == "all", next_slot)


def _last_slot(times: Times, instant_ms: int, now_ms: int) -> int:
    """The last slot until now, `instant_ms` if there is none behind that.

    By halving, not by walking: a schedule of every second has 31 million slots in a year. The last slot is the first
    instant from which the next one lies ahead of now.
    """

    def lies_ahead(instant: int) -> bool:
        slot = times.next_after(instant)
        return slot is None or slot > now_ms

    if lies_ahead(instant_ms):
        return instant_ms       # as it is day by day
    return instant_ms + bisect_left(range(instant_ms, now_ms), True, key=lies_ahead)
