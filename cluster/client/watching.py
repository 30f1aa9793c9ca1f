"""`handle.watch()`: what happens to a task, as it happens.

The leader is asked to follow the task, and every new leader again; each first says how the task is then. So a watcher
hears of the end whatever happened in between, and what happened while no leader was there it does not. What is said
again in the same words is dropped here. Events wait for whoever takes them, a few of them: newer progress takes the
place of older, and of the rest the oldest go first.
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from actors import SECOND, Nanos, Peer
from cluster.client.waits import NO_RECORD_ADVICE
from cluster.errors import ClusterError, DeadlineExceeded, Overloaded, TaskNotFound
from cluster.state.status import DUPLICATE
from cluster.wire import (
    EVENT_FINISHED,
    EVENT_PROGRESS,
    EVENT_QUEUED,
    EVENT_REQUEUED,
    EVENT_RETRYING,
    EVENT_STARTED,
    EVENT_UNKNOWN,
    HELLO_ITEMS_MAX,
    NO_TOTAL,
    WATCHED_TASKS_MAX,
    Follow,
    TaskEvent,
)

if TYPE_CHECKING:
    from cluster.client.client import Client
    from cluster.client.handle import Handle

EVENTS_WAITING_MAX = 64             # for one watcher that does not take them
ASK_AGAIN_AFTER: Nanos = 2 * SECOND     # nothing was said of a task: the question, or its answer, was lost

KINDS = {
    EVENT_QUEUED: "queued",
    EVENT_STARTED: "started",
    EVENT_PROGRESS: "progress",
    EVENT_RETRYING: "retrying",
    EVENT_REQUEUED: "requeued",
    EVENT_FINISHED: "finished",
}


class Event(Struct, frozen=True):
    """Something that happened to a task, or how it is.

    `kind` is "queued", "started", "progress", "retrying" (it raised or took too long), "requeued" (its process or its
    worker was lost) or "finished". `at` is when, by the leader's clock. `attempt` counts from 1; `worker` is "" where
    there is none. `done` and `total` are what the task said, None where it said nothing. `text` is the reason of a
    retry or requeue; of "finished" it is the state: "completed", "failed", "dead", "cancelled" or "expired". `log` are
    the last lines of the attempt that ended last, in the first event and in those that tell of the end of an attempt.
    """

    kind: str
    at: datetime
    attempt: int
    worker: str = ""
    done: int | None = None
    total: int | None = None
    text: str = ""
    log: str = ""


class Watcher:
    """The events of one task for one who takes them. It may be told that it is to ask another session."""

    def __init__(self) -> None:
        self._events: deque[TaskEvent] = deque()
        self._last: tuple[int, ...] = ()        # of what came last, without its time
        self._last_worker = ""
        self._begun = 0                         # the last attempt that ran
        self._waiting: Future[None] | None = None
        self._error: ClusterError | None = None
        self.is_released = False

    def push(self, event: TaskEvent) -> None:
        said = (event.kind, event.attempt, event.done, event.total)
        if said == self._last and event.worker == self._last_worker:
            return
        # A new leader hears from workers a moment after it hears from clients: until then it takes what runs for
        # something that waits.
        waits_from = event.attempt + (event.kind != EVENT_QUEUED)
        if event.kind in (EVENT_QUEUED, EVENT_RETRYING, EVENT_REQUEUED) and waits_from <= self._begun:
            return
        if event.kind in (EVENT_STARTED, EVENT_PROGRESS):
            self._begun = event.attempt
        self._last, self._last_worker = said, event.worker
        events = self._events
        if events and events[-1].kind == EVENT_PROGRESS == event.kind:
            events.pop()
        events.append(event)
        if len(events) > EVENTS_WAITING_MAX:
            events.popleft()
        self._wake()

    def fail(self, error: ClusterError) -> None:
        """Nothing more comes, for this reason."""
        self._error = error
        self._wake()

    def release(self) -> None:
        """The session that was asked ends: ask the next one."""
        self.is_released = True
        self._wake()

    def take(self) -> TaskEvent | None:
        """The next event; None if none has come. Raises what this watcher failed of."""
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            raise self._error
        return None

    def arrival(self) -> "Future[None]":
        """Done as soon as there is something to take, or it is released."""
        future: Future[None] = get_running_loop().create_future()
        if self._events or self._error is not None or self.is_released:
            future.set_result(None)
        else:
            self._waiting = future
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class Watchers:
    """All watchers of one session."""

    def __init__(self) -> None:
        self._of: dict[int, list[Watcher]] = {}
        self._unheard: dict[int, None] = {}         # asked for, and nothing was said yet; in order
        self._asked_at: Nanos = 0

    def join(self, task: int, watcher: Watcher, leader: Peer | None, now: Nanos) -> None:
        """One more watches a task. Without a leader nobody is asked: the next one is asked for everything. Raises
        Overloaded."""
        if task not in self._of and len(self._of) >= WATCHED_TASKS_MAX:
            raise Overloaded(f"this client watches {WATCHED_TASKS_MAX} tasks, and no more at a time", 1.0)
        watcher.is_released = False
        self._of.setdefault(task, []).append(watcher)
        self._ask(leader, [task], now)

    def leave(self, task: int, watcher: Watcher, leader: Peer | None) -> None:
        watchers = self._of.get(task)
        if watchers is None or watcher not in watchers:
            return
        watchers.remove(watcher)
        if not watchers:
            del self._of[task]
            self._unheard.pop(task, None)
            if leader is not None:
                leader.send(Follow([task], stop=True))     # if it is lost, so be it: what comes is dropped

    def ask_all(self, leader: Peer, now: Nanos) -> None:
        """A new leader, or a new link to it."""
        self._ask(leader, list(self._of), now)

    def ask_again(self, leader: Peer, now: Nanos) -> None:
        if self._unheard and now - self._asked_at >= ASK_AGAIN_AFTER:
            self._ask(leader, list(self._unheard), now)

    def _ask(self, leader: Peer | None, tasks: list[int], now: Nanos) -> None:
        self._unheard.update(dict.fromkeys(tasks))
        self._asked_at = now
        for start in range(0, len(tasks), HELLO_ITEMS_MAX):
            if leader is None or not leader.send(Follow(tasks[start : start + HELLO_ITEMS_MAX])):
                return              # a full link: it is asked again

    def on_events(self, events: list[TaskEvent]) -> None:
        """From the leader."""
        for event in events:
            task = event.task
            self._unheard.pop(task, None)
            is_last = event.kind in (EVENT_FINISHED, EVENT_UNKNOWN)
            watchers = self._of.pop(task, []) if is_last else self._of.get(task, [])
            for watcher in watchers:
                watcher.push(event)

    def fail(self, error: ClusterError) -> None:
        for watcher in self._take():
            watcher.fail(error)

    def release(self) -> None:
        for watcher in self._take():
            watcher.release()

    def _take(self) -> list[Watcher]:
        watchers = [watcher for some in self._of.values() for watcher in some]
        self._of.clear()
        self._unheard.clear()
        return watchers


async def watch(client: "Client", handle: "Handle[Any]", end: Nanos | None = None) -> AsyncGenerator[Event, None]:
    """The events of a task until it has ended, of a duplicate those of the task that does its work. Raises
    TaskNotFound, Unavailable, and DeadlineExceeded at `end`."""
    watcher = Watcher()
    task = handle.duplicate_of or handle.id
    while True:
        actor = client._actor
        actor.follow(task, watcher)
        is_duplicate = False
        try:
            while not (watcher.is_released or is_duplicate):
                event = watcher.take()
                if event is None:
                    await client._within(
                        watcher.arrival(),
                        None if end is None else client._left(end),
                        lambda: DeadlineExceeded(f"no word of task {handle.id} in time", outcome="refused"),
                    )
                    continue
                if event.kind == EVENT_UNKNOWN:
                    yield _forgotten(client, handle)
                    return
                is_duplicate = event.kind == EVENT_FINISHED and event.text == DUPLICATE
                if is_duplicate:
                    continue
                yield _event_of(event)
                if event.kind == EVENT_FINISHED:
                    return
        finally:
            actor.unfollow(task, watcher)
        if is_duplicate:
            task = await _first_of(client, task)


async def _first_of(client: "Client", task: int) -> int:
    """The task that does the work of a duplicate. Raises as `Client.task`."""
    from cluster.client.inspection import show

    return (await show(client, task, stale=False)).duplicate_of or task


def _forgotten(client: "Client", handle: "Handle[Any]") -> Event:
    """The cluster does not know the task; this client may, if it has the result already."""
    result = handle.record()
    if result is None:
        raise TaskNotFound(f"the cluster has no record of task {handle.id}: {NO_RECORD_ADVICE}")
    return Event("finished", _date(client._ports.clock.wall_ms()), result.attempts, text=handle.state())


def _event_of(event: TaskEvent) -> Event:
    is_progress = event.kind == EVENT_PROGRESS
    return Event(
        KINDS[event.kind],
        _date(event.at_ms),
        event.attempt,
        event.worker,
        event.done if is_progress else None,
        event.total if is_progress and event.total != NO_TOTAL else None,
        event.text,
        event.log,
    )


def _date(wall_ms: int) -> datetime:
    return datetime.fromtimestamp(wall_ms / 1_000, UTC)
