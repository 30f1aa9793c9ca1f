"""How schedules are shown: what became of a slot, and a schedule with all that is known of it."""

from msgspec import Struct

from cluster.state.commands import ScheduleSpec

# What becomes of a slot, beside the states in which its task may have ended (`effects.STATE_*`, 0 to 4).
SLOT_RUNS = 5           # its task has not ended: it waits in its queue, or runs
SLOT_WAITS = 6          # its task waits for earlier runs to end
SLOT_BUSY = 7           # skipped: an earlier run had not ended
SLOT_CROWDED = 8        # skipped: too many runs had not ended
SLOT_MISSED = 9         # nobody could run it in time
SLOT_PAUSED = 10        # it came while the schedule was paused

# Why somebody should look at a schedule.
ALARM_NONE = 0
ALARM_MISSED = 1        # more slots were missed than are run one by one
ALARM_CROWDED = 2       # slots are skipped, since so many runs have not ended

HISTORY_SLOTS = 20      # of one schedule


class Slot(Struct, array_like=True, gc=False, frozen=True):
    """One slot that has come: what became of it, and the id of its task, or 0. `ended_ms` is the stamp of the task's
    end. One that `is_manual` somebody asked for."""

    slot_ms: int
    fate: int
    task: int = 0
    ended_ms: int = 0
    is_manual: bool = False


class ScheduleView(Struct, array_like=True, gc=False, frozen=True):
    """One schedule. `next_ms` is 0 if no leader has said it yet; `upcoming` are the slots from there on, by the zones
    of the broker that answers. `why_parked` is "" unless it is. `failure`: why this broker cannot say when it fires.
    `history` is the last slots, the oldest first; in a list the last one only. `stuck` is a run that nobody can run and
    that holds up the others, its task's name, and why; 0 if there is none. `disputed` live workers announce other
    terms; `other_task` is that of one of them if it is another one."""

    spec: ScheduleSpec
    next_ms: int
    upcoming: list[int]
    is_paused: bool
    why_parked: str
    alarm: int
    alarm_ms: int
    failure: str
    begun: int
    waiting: int
    history: list[Slot]
    stuck: int = 0
    stuck_name: str = ""
    stuck_why: str = ""
    disputed: int = 0
    other_task: str = ""
