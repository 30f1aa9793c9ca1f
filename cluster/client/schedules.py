"""What a user sees of schedules: when they fire, what they wait for, and what became of their last slots."""

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.client.inspection import DATE_MS_END
from cluster.client.paging import Kind, NamedPages
from cluster.durations import duration_text
from cluster.errors import ClusterError, ScheduleError, ScheduleNotFound, ScheduleRefused
from cluster.schedules.zones import zone_named
from cluster.state.commands import FIRE_SLOTS_MAX, NEVER, QUEUE_DEFAULT, ScheduleSpec
from cluster.state.effects import ANSWER_ANNOUNCED, ANSWER_BUSY, ANSWER_CROWDED, ANSWER_NO_SCHEDULE, ANSWER_PARKED
from cluster.state.schedule_rows import (
    ALARM_CROWDED,
    ALARM_MISSED,
    SLOT_BUSY,
    SLOT_CROWDED,
    SLOT_MISSED,
    SLOT_PAUSED,
    SLOT_RUNS,
    SLOT_WAITS,
    ScheduleView,
    Slot,
)
from cluster.state.status import STATE_NAMES
from cluster.state.texts import is_name
from cluster.wire import ListSchedules, ScheduleShown, ShowSchedule

if TYPE_CHECKING:
    from cluster.client.client import Client

PAGE_SCHEDULES = 32         # asked for at once
FATES = {
    SLOT_RUNS: "unfinished",
    SLOT_WAITS: "waiting",
    SLOT_BUSY: "skipped: busy",
    SLOT_CROWDED: "skipped: too many wait",
    SLOT_MISSED: "missed",
    SLOT_PAUSED: "skipped: paused",
}


class SlotInfo(Struct, frozen=True, kw_only=True):
    """One slot of a schedule that has come. `outcome` is how its task has ended (completed, failed, dead, cancelled,
    expired); "unfinished" or "waiting" (for earlier runs) until then; or why there is none: "skipped: busy", "skipped:
    too many wait", "skipped: paused", "missed". A `manual` one was asked for, with `run_now`."""

    slot: datetime
    outcome: str
    task: int | None
    ended_at: datetime | None
    manual: bool


class ScheduleInfo(Struct, frozen=True, kw_only=True):
    """What the cluster has of one schedule. Dates are in its own time zone, or in UTC."""

    name: str
    task: str                           # its name
    times: str                          # the cron expression, or as in "every 15m"
    zone: str | None                    # None: it is an interval
    queue: str
    exclusive: bool
    misfire: str                        # skip, once or all
    on_busy: str | None                 # skip, queue, wait or replace; None: it is not exclusive
    state: str                          # active; paused by somebody; parked: no worker could run it; over: it was
    parked_why: str                     # what a worker would need; "" if there is one
    alarm: str                          # what somebody should know; "" if there is nothing
    next_slot: datetime | None          # if it is active, and a leader has computed it
    upcoming: tuple[datetime, ...]      # the next five, also of one that does not fire
    unfinished: int                     # runs that wait in their queue, or run
    waiting: int                        # runs that wait for those to end
    last: SlotInfo | None               # the slot that came last
    history: tuple[SlotInfo, ...] = ()  # of `Client.schedule`: the last 20, the oldest first


class ScheduleListing(NamedPages[ScheduleInfo]):
    """One list of schedules, page by page."""

    def __init__(self, client: "Client", prefix: str, limit: int | None, *, stale: bool) -> None:
        super().__init__(client, SCHEDULES, prefix, limit, stale=stale)


async def show_schedule(client: "Client", name: str, *, stale: bool) -> ScheduleInfo:
    """One schedule. Raises ScheduleNotFound."""
    checked_name(name)
    end = client._deadline_at(client._deadline)
    answer: ScheduleShown = await client._ask(lambda number: ShowSchedule(number, name, stale), end, stale=stale)
    if answer.found is None:
        raise ScheduleNotFound(name)
    return info_of(answer.found, with_history=True)


def info_of(view: ScheduleView, *, with_history: bool = False) -> ScheduleInfo:
    """A schedule as users see it."""
    spec, zone = view.spec, _zone_of(view.spec)
    history = [_slot(slot, zone) for slot in view.history]
    state = "active"
    if view.is_paused:
        state = "paused"
    elif view.why_parked:
        state = "parked"
    elif view.next_ms == NEVER:
        state = "over"
    return ScheduleInfo(
        name=spec.name,
        task=spec.task,
        times=times_text(spec),
        zone=spec.zone or None,
        queue=QUEUE_DEFAULT if spec.options is None else spec.options.queue,
        exclusive=spec.exclusive,
        misfire=spec.misfire,
        on_busy=spec.on_busy if spec.exclusive else None,
        state=state,
        parked_why=view.why_parked,
        alarm=_alarm_text(view),
        next_slot=_date(view.next_ms, zone) if state == "active" else None,
        upcoming=tuple(date for slot_ms in view.upcoming if (date := _date(slot_ms, zone)) is not None),
        unfinished=view.begun,
        waiting=view.waiting,
        last=history[-1] if history else None,
        history=tuple(history) if with_history else (),
    )


def times_text(spec: ScheduleSpec) -> str:
    if spec.expression:
        return spec.expression
    anchor = _date(spec.anchor_ms, UTC)
    return f"every {duration_text(spec.period_ms)}" + (f" from {anchor:%Y-%m-%d %H:%M:%S} UTC" if anchor else "")


def _alarm_text(view: ScheduleView) -> str:
    at = _date(view.alarm_ms, UTC)
    when = "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
    texts = [f"the broker that answers cannot compute its times: {view.failure}"] if view.failure else []
    if view.alarm == ALARM_MISSED:
        texts.append(f"at {when} more than {FIRE_SLOTS_MAX} slots had been missed, and one was run for all of them")
    elif view.alarm == ALARM_CROWDED:
        texts.append(f"slots are skipped, the last one at {when}: too many runs have not ended")
    if view.stuck:
        texts.append(
            f"no worker can run task {view.stuck} ({view.stuck_name}), which has not ended: {view.stuck_why}; "
            "start one that can, or cancel it"
        )
    if view.disputed:
        workers = "1 live worker announces" if view.disputed == 1 else f"{view.disputed} live workers announce"
        other = f", one of them task {view.other_task}" if view.other_task else ""
        texts.append(f"{workers} different terms{other}; those of the worker that registered last count")
    return "; ".join(texts)


def _slot(slot: Slot, zone: tzinfo) -> SlotInfo:
    date = _date(slot.slot_ms, zone)
    return SlotInfo(
        slot=datetime.fromtimestamp(0, zone) if date is None else date,
        outcome=FATES.get(slot.fate) or STATE_NAMES.get(slot.fate, "unknown"),
        task=slot.task or None,
        ended_at=_date(slot.ended_ms, zone),
        manual=slot.is_manual,
    )


def _zone_of(spec: ScheduleSpec) -> tzinfo:
    """Its own, if it is known here."""
    try:
        return zone_named(spec.zone) if spec.zone else UTC
    except ScheduleError:
        return UTC


def _date(ms: int, zone: tzinfo) -> datetime | None:
    return datetime.fromtimestamp(ms / 1_000, zone) if 0 < ms < DATE_MS_END else None


# -- what can be asked ------------------------------------------------------------------------------------------------


def checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name: expected that of a schedule, not {name!r}")
    if not is_name(name):
        raise ValueError(f"name: {name[:40]!r} is that of no schedule; they have 1 to 512 bytes")
    return name


def refusal(name: str, code: int, value: int) -> ClusterError:
    """For who wanted something of a schedule, and was answered with this code."""
    if code == ANSWER_NO_SCHEDULE:
        return ScheduleNotFound(name)
    reasons = {
        ANSWER_BUSY: f"its run {value} has not ended, and there is one at a time; wait for it, or cancel it",
        ANSWER_CROWDED: f"{value} of its runs have not ended, and no more may wait; cancel some of them",
        ANSWER_PARKED: "no live worker announces it and serves its queue and labels; "
        "`cluster.schedule(name).parked_why` and `quorumq cron show` say what is missing",
        ANSWER_ANNOUNCED: "live workers announce it; take it out of their modules and restart them, or pause it",
    }
    task = value if code == ANSWER_BUSY else None
    return ScheduleRefused(name, reasons.get(code, f"the cluster refused that (code {code})"), task)


SCHEDULES = Kind("schedules", ListSchedules, PAGE_SCHEDULES, lambda row: row.spec.name, info_of)
