"""Events of tasks on their way to those who follow them.

What happens in one turn leaves together, a bounded part of it in each turn of the loop: after a change of leader a
hundred thousand events may come at once. Links take their turns, a message at a time. What a link does not take waits,
the last few events of each task, and progress that is overtaken by newer progress is dropped.
"""

from collections import OrderedDict
from collections.abc import Callable

from cluster.broker.link import Link
from cluster.wire import EVENT_PROGRESS, Events, TaskEvent

EVENTS_MAX = 256            # in one message; with a log and a reason each they take 2 MiB
EVENTS_KEPT_MAX = 4         # of one task, while its follower's link is full
MESSAGES_PER_TURN = 8       # of events, to all links


class EventOutbox:
    """Of all links. Invariant: a link has something unsent and is not `_ready` only while it is full."""

    __slots__ = ("_at_turn_end", "_next_turn", "_ready", "_unsent", "_will_send")

    def __init__(
        self, at_turn_end: Callable[[Callable[[], None]], None], next_turn: Callable[[Callable[[], None]], object]
    ) -> None:
        self._at_turn_end = at_turn_end
        self._next_turn = next_turn
        self._unsent: dict[Link, OrderedDict[int, list[TaskEvent]]] = {}
        self._ready: OrderedDict[Link, None] = OrderedDict()
        self._will_send = False

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, link: Link, event: TaskEvent) -> None:
        tasks = self._unsent.get(link)
        if tasks is None:
            tasks = self._unsent[link] = OrderedDict()
            self._ready[link] = None
        if not self._will_send:
            self._will_send = True
            self._at_turn_end(self._send_some)
        events = tasks.setdefault(event.task, [])
        if events and events[-1].kind == EVENT_PROGRESS == event.kind:
            events.pop()
        events.append(event)
        if len(events) > EVENTS_KEPT_MAX:
            del events[0]

    def waiting(self, link: Link) -> int:
        """Tasks of which this link has not been told something."""
        return len(self._unsent.get(link, ()))

    def forget(self, link: Link, task: int) -> None:
        """Nothing of this task is to be told any more."""
        tasks = self._unsent.get(link)
        if tasks is not None and tasks.pop(task, None) is not None and not tasks:
            self.forget_all(link)

    def forget_all(self, link: Link) -> None:
        self._unsent.pop(link, None)
        self._ready.pop(link, None)

    def clear(self) -> None:
        self._unsent.clear()
        self._ready.clear()

    def retry(self) -> None:
        """Links that were full may take something again. Called twice a second."""
        for link in self._unsent:
            self._ready[link] = None
        self._send_some()

    def _send_some(self) -> None:
        """At the end of a turn that added something, and in those that follow until all is said."""
        self._will_send = False
        messages = 0
        while self._ready and messages < MESSAGES_PER_TURN:
            link, _ = self._ready.popitem(last=False)
            messages += 1
            if self._send_one(link):
                self._ready[link] = None        # there is more: behind the others
        if self._ready:
            self._will_send = True
            self._next_turn(self._send_some)

    def _send_one(self, link: Link) -> bool:
        """One message; True if there is more, and the link may take it."""
        tasks = self._unsent[link]
        items: list[TaskEvent] = []
        taken: list[tuple[int, list[TaskEvent]]] = []
        while tasks and len(items) < EVENTS_MAX:
            taken.append(tasks.popitem(last=False))
            items += taken[-1][1]
        if items and not link.peer.send(Events(items)):
            for task, events in reversed(taken):
                tasks[task] = events
                tasks.move_to_end(task, last=False)
            return False
        if not tasks:
            del self._unsent[link]
        return bool(tasks)
