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
from cluster.state.queues import DELAYED, HELD, PENDING, Channel, Message
from cluster.state.schedule_rows import ALARM_NONE
from cluster.state.sessions import Session
from cluster.state.tables import Tables
from cluster.state.texts import head

PARKED_NAMES_SHOWN_MAX = 1_000
PARKED_BYTES_MAX = 512 * 1024       # of their texts: a task may have 64 labels of 512 bytes
PARKED_OVERHEAD_BYTES = 64
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
    slots: int
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


class Status(TypedDict):
    queues: list[QueueStatus]
    workers: list[WorkerStatus]
    clients: int
    parked: list[ParkedStatus]
    parked_more: int        # names that have no row in `parked`: there are too many, or their labels are too long
    schedules: ScheduleCounts
    counters: dict[str, int]
    now_ms: int


def status_of(tables: Tables) -> Status:
    """A summary; costs O(queues, channels and sessions)."""
    parked = [channel for channel in tables.queues.channels.values() if channel.is_parked]
    per_queue: dict[str, int] = {}
    for channel in parked:
        per_queue[channel.queue.name] = per_queue.get(channel.queue.name, 0) + channel.waiting
    rows = _parked_rows(tables, parked)
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
        counts["alarms"] += schedule.alarm != ALARM_NONE
    return counts


def _parked_rows(tables: Tables, parked: list[Channel]) -> list[ParkedStatus]:
    rows: list[ParkedStatus] = []
    size = 0
    for channel in parked[:PARKED_NAMES_SHOWN_MAX]:
        row = _parked(tables, channel)
        texts = (row["queue"], row["name"], row["why"], *row["labels"])
        size += PARKED_OVERHEAD_BYTES + sum([len(text.encode()) for text in texts])
        if size > PARKED_BYTES_MAX:
            break
        rows.append(row)
    return rows


def _parked(tables: Tables, channel: Channel) -> ParkedStatus:
    return ParkedStatus(
        queue=channel.queue.name,
        name=_next_name(channel),
        labels=list(channel.labels),
        ready=channel.waiting,
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
        slots=session.worker.slots,
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
        message.alone,
        message.spec.soft_timeout_ms,
        message.spec.actor,
        message.spec.key,
        channel.epoch if isinstance(channel, KeyedChannel) else 0,
        message.spec.slot_ms,
    )
