"""What is read from the state between entries: for status, for reconciliation, for people. Nothing here is
hot."""

from typing import TypedDict

from cluster.state.commands import ROLE_CLIENT
from cluster.state.effects import (
    STATE_CANCELLED,
    STATE_COMPLETED,
    STATE_DEAD,
    STATE_EXPIRED,
    STATE_FAILED,
    Assignment,
)
from cluster.state.keys import KeyedChannel
from cluster.state.limits import Limit
from cluster.state.lines import Line
from cluster.state.queues import DELAYED, HELD, PENDING, Channel, Message
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.tasks import Task
from cluster.state.texts import head

PARKED_NAMES_SHOWN_MAX = 1_000
PARKED_BYTES_MAX = 512 * 1024       # of their texts: a task may have 64 labels of 512 bytes
PARKED_OVERHEAD_BYTES = 64
LIMITS_SHOWN_MAX = 1_000
LIMITS_BYTES_MAX = 512 * 1024       # of their texts
UNITS_MS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
WHY_LABELS_BYTES_MAX = 256          # of the labels in a reason; the row has them all

STATE_NAMES = {
    STATE_COMPLETED: "completed",
    STATE_FAILED: "failed",
    STATE_DEAD: "dead",
    STATE_CANCELLED: "cancelled",
    STATE_EXPIRED: "expired",
    PENDING: "pending",
    DELAYED: "pending",
    HELD: "processing",
}


DUPLICATE = "duplicate"


def state_name(task: Task) -> str:
    """As users see it."""
    return DUPLICATE if task.duplicate_of else STATE_NAMES[task.state]


class QueueStatus(TypedDict):
    """Messages of one queue. `parked` is the part of `ready` whose task name no live worker serves in this
    queue."""

    name: str
    ready: int
    waiting: int        # 0 here: only heartbeats tell what waits at a slot from what runs
    running: int        # held by a slot
    delayed: int
    completed: int
    failed: int
    dead: int
    cancelled: int
    expired: int
    parked: int


class WorkerStatus(TypedDict):
    name: str
    session: int
    slots: int          # that are open
    slots_min: int      # bounds between which it opens and closes slots, equal if their number is fixed
    slots_max: int
    async_tasks: int    # that its event loop runs at once; 0 if it has none
    held: int
    draining: bool      # gets nothing more


class ParkedStatus(TypedDict):
    """Tasks that no live worker serves. `why` says what such a worker would need."""

    queue: str
    name: str
    labels: list[str]
    ready: int
    why: str


class ScheduleCounts(TypedDict):
    """Each schedule is one of the first three; `alarms` of them have something that somebody should know."""

    active: int
    paused: int
    parked: int         # no live worker could run it, and it is not paused
    alarms: int


class LimitStatus(TypedDict):
    """A limit that holds something back, and why. `until_ms` is the date of its next start if that is only a matter of
    time, else 0."""

    name: str
    share: str
    ready: int
    running: int        # with workers
    concurrency: int    # 0: any number
    rate: str           # "": any
    until_ms: int
    why: str


class Status(TypedDict):
    queues: list[QueueStatus]
    workers: list[WorkerStatus]
    clients: int
    parked: list[ParkedStatus]
    parked_more: int        # names that have no row in `parked`: there are too many, or their labels are too long
    schedules: ScheduleCounts
    limits: list[LimitStatus]       # that hold something back, the most first
    limits_more: int        # that have no row in `limits`
    counters: dict[str, int]
    now_ms: int


def status_of(tables: Tables) -> Status:
    """A summary; costs O(queues, channels and sessions)."""
    parked: dict[int, tuple[Channel, int]] = {}     # by index, lines by that of their bundle: one of them, how many
    held_back: dict[int, int] = {}                  # by index of a limit
    per_queue: dict[str, int] = {}
    for channel in tables.queues.channels.values():
        if not channel.waiting:
            continue
        if channel.is_parked:
            index = channel.bundle.index if isinstance(channel, Line) else channel.index
            parked[index] = (channel, parked.get(index, (channel, 0))[1] + channel.waiting)
            per_queue[channel.queue.name] = per_queue.get(channel.queue.name, 0) + channel.waiting
        elif isinstance(channel, Line) and channel.under is not None and channel.is_held_back:
            held_back[channel.under.index] = held_back.get(channel.under.index, 0) + channel.waiting
    rows = _parked_rows(tables, list(parked.values()))
    limits = _limit_rows(tables, held_back)
    return Status(
        queues=[
            QueueStatus(
                name=queue.name,
                ready=queue.ready,
                waiting=0,
                running=queue.running,
                delayed=queue.delayed,
                completed=queue.ended[STATE_COMPLETED],
                failed=queue.ended[STATE_FAILED],
                dead=queue.ended[STATE_DEAD],
                cancelled=queue.ended[STATE_CANCELLED],
                expired=queue.ended[STATE_EXPIRED],
                parked=per_queue.get(queue.name, 0),
            )
            for _, queue in sorted(tables.queues.queues.items())
        ],
        workers=[_worker(session) for session in tables.sessions if session.worker is not None],
        clients=sum([session.role == ROLE_CLIENT for session in tables.sessions]),
        parked=rows,
        parked_more=len(parked) - len(rows),
        limits=limits,
        limits_more=len(held_back) - len(limits),
        schedules=_schedules(tables),
        counters=tables.counters.as_dict(),
        now_ms=tables.now_ms,
    )


def _schedules(tables: Tables) -> ScheduleCounts:
    counts = ScheduleCounts(active=0, paused=0, parked=0, alarms=0)
    for name, schedule in tables.schedules.by_name.items():
        if schedule.is_paused:
            counts["paused"] += 1
        elif tables.schedules.is_parked(name):
            counts["parked"] += 1
        else:
            counts["active"] += 1
        counts["alarms"] += tables.schedules.has_alarm(name)
    return counts


def _limit_rows(tables: Tables, held_back: dict[int, int]) -> list[LimitStatus]:
    rows: list[LimitStatus] = []
    size = 0
    for index in sorted(held_back, key=lambda index: (-held_back[index], index))[:LIMITS_SHOWN_MAX]:
        limit = tables.limits.by_index[index]
        row = LimitStatus(
            name=limit.name,
            share=limit.share,
            ready=held_back[index],
            running=limit.running,
            concurrency=limit.concurrency,
            rate=rate_text(limit.starts, limit.period_ms),
            until_ms=until_ms(limit),
            why=why_held_back(limit),
        )
        size += PARKED_OVERHEAD_BYTES + sum([len(text.encode()) for text in (row["name"], row["share"], row["why"])])
        if size > LIMITS_BYTES_MAX:
            break
        rows.append(row)
    return rows


def why_held_back(limit: Limit) -> str:
    """What a task waits for that a limit holds back."""
    whose = f"{limit.name}, share {limit.share}" if limit.share else limit.name
    if limit.is_full_of_running:
        return f"limit {whose}: {limit.running} of {limit.concurrency} are with workers"
    return f"limit {whose}: as many have started as {rate_text(limit.starts, limit.period_ms)} allows"


def until_ms(limit: Limit) -> int:
    """When one more may start, if that is only a matter of time; else 0."""
    return 0 if limit.is_full_of_running else limit.date_ms


def rate_text(starts: int, period_ms: int) -> str:
    """A rate as users write it."""
    if not starts:
        return ""
    unit, size = next((unit, size) for unit, size in UNITS_MS if period_ms % size == 0)
    return f"{starts}/{unit}" if period_ms == size else f"{starts}/{period_ms // size}{unit}"


def _parked_rows(tables: Tables, parked: list[tuple[Channel, int]]) -> list[ParkedStatus]:
    rows: list[ParkedStatus] = []
    size = 0
    for channel, ready in parked[:PARKED_NAMES_SHOWN_MAX]:
        row = _parked(tables, channel, ready)
        texts = (row["queue"], row["name"], row["why"], *row["labels"])
        size += PARKED_OVERHEAD_BYTES + sum([len(text.encode()) for text in texts])
        if size > PARKED_BYTES_MAX:
            break
        rows.append(row)
    return rows


def _parked(tables: Tables, channel: Channel, ready: int) -> ParkedStatus:
    return ParkedStatus(
        queue=channel.queue.name,
        name=_next_name(channel),
        labels=list(channel.labels),
        ready=ready,
        why=why_parked(tables, channel),
    )


def why_parked(tables: Tables, channel: Channel) -> str:
    """What a worker would need that took what waits there."""
    queue, name, labels = channel.queue.name, _next_name(channel), list(channel.labels)
    listed = ", ".join(labels)
    if len(listed.encode()) > WHY_LABELS_BYTES_MAX:
        listed = head(listed, WHY_LABELS_BYTES_MAX) + f"... ({len(labels)} in all)"
    who = f"no worker with {'label' if len(labels) == 1 else 'labels'} {listed}" if labels else "no worker"
    why = f"{who} announces {name} for queue {queue}"
    if labels and tables.credit.serving(queue, name, ()):
        why += "; workers without do"
    if channel.key:
        why += f", which is next for key {channel.key} of {channel.name.name}"
    return why


def _next_name(channel: Channel) -> str:
    """The task name of what waits there; with a key, of the first one."""
    if isinstance(channel, KeyedChannel) and (message := channel.peek()) is not None:
        return message.spec.name
    return channel.name.name


def _worker(session: Session) -> WorkerStatus:
    assert session.worker is not None
    return WorkerStatus(
        name=session.name,
        session=session.id,
        slots=session.slots_open or session.worker.slots,
        slots_min=session.worker.slots_min or session.worker.slots,
        slots_max=session.worker.slots,
        async_tasks=session.worker.loop_tasks if session.worker.loop_names else 0,
        held=len(session.held),
        draining=session.draining,
    )


def assignment_of(channel: Channel, slot: int, message: Message) -> Assignment:
    """The assignment by which the slot of this index holds `message`, as it was sent or should have been."""
    return Assignment(
        message.id,
        message.attempt,
        slot,
        message.estimate_us,
        message.spec.timeout_ms,
        message.spec.name,
        message.body,
        message.alone > 0,
        message.spec.soft_timeout_ms,
        message.spec.actor,
        message.spec.key,
        channel.epoch if isinstance(channel, KeyedChannel) else 0,
        message.spec.slot_ms,
    )
