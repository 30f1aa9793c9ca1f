"""Many follow many tasks: how much a leader says of them in one turn."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cluster.broker import event_outbox
from cluster.broker.event_outbox import EVENTS_KEPT_MAX, EVENTS_MAX, MESSAGES_PER_TURN, EventOutbox
from cluster.broker.link import Link, Links
from cluster.broker.watching import QUESTIONS_PER_TURN, Watching
from cluster.state.commands import MACHINE_VERSION, ROLE_CLIENT, TASK_NUMBER_BITS, Command, Register, Submit, TaskGroup
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.wire import EVENT_PROGRESS, EVENT_QUEUED, EVENT_STARTED, EVENT_UNKNOWN, Events, Follow, TaskEvent

TASKS = 8 * 1_024


class Line:
    def __init__(self) -> None:
        self.is_full = False
        self.tried = 0
        self.said: list[TaskEvent] = []

    def send(self, message: Events) -> bool:
        self.tried += 1
        if not self.is_full:
            self.said += message.items
        return not self.is_full


class Turns:
    """The turns of a loop. Bounded, so that a test fails that would go on for ever."""

    def __init__(self) -> None:
        self.ends: list[Callable[[], None]] = []
        self.later: list[Callable[[], object]] = []

    def end(self) -> None:
        for _ in range(10):
            ends = self.ends.copy()
            self.ends.clear()
            for callback in ends:
                callback()

    def next(self) -> bool:
        self.end()
        later = self.later.copy()
        self.later.clear()
        for callback in later:
            callback()
        self.end()
        return bool(later)


def link_of(name: str) -> Link:
    return Link(Line(), name, 1, 2)  # type: ignore[arg-type]


def line_of(link: Link) -> Any:
    return link.peer


class Leader:
    def __init__(self, tasks: int = TASKS) -> None:
        self.machine = machine = Machine()
        self.tasks = [1 << TASK_NUMBER_BITS | number for number in range(1, tasks + 1)]
        self._apply(Register("c", 1, ROLE_CLIENT))
        for seq in range(1, tasks // 1_024 + 1):
            self._apply(Submit(1, seq, seq, [TaskGroup("f", (seq - 1) * 1_024 + 1, [b"x"] * 1_024)]))
        assert machine.handed_out(self.tasks[-1])
        self.turns = Turns()
        self.links = Links(machine)
        self.rounds: list[tuple[Any, Link, Follow]] = []
        self.refused: list[str] = []
        self.watching = Watching(
            machine, self.links, lambda: 0, self.turns.ends.append,
            lambda *question: self.rounds.append(question),  # type: ignore[arg-type]
            lambda link, reason: self.refused.append(reason),
            self.turns.later.append,
        )  # fmt: skip

    def _apply(self, command: Command) -> None:
        index = self.machine.applied_index + 1
        entry = msgspec.msgpack.encode([[command.__struct_config__.tag, MACHINE_VERSION, [command]]])
        self.machine.apply(index, 1, entry, Effects())


def test_what_all_ask_for_at_once_is_said_in_many_turns():
    leader = Leader()
    one, other = link_of("one"), link_of("other")
    for start in range(0, TASKS, 4_096):
        leader.watching.on_follow(one, Follow(leader.tasks[start : start + 4_096]))
    leader.watching.on_follow(other, Follow(leader.tasks[:10]))
    turns, said = 0, 0
    leader.turns.end()
    while True:
        now = len(line_of(one).said) + len(line_of(other).said)
        assert now - said <= 2 * MESSAGES_PER_TURN * EVENTS_MAX
        said = now
        if turns == 2:
            assert [event.kind for event in line_of(other).said] == [EVENT_QUEUED] * 10, "it waits for no other link"
        if not leader.turns.next():
            break
        turns += 1
    assert [event.task for event in line_of(one).said] == leader.tasks
    assert turns >= TASKS // QUESTIONS_PER_TURN - 1
    assert len(leader.watching._outbox) == 0 and not leader.watching._asked


def test_who_stops_in_between_is_told_nothing_more():
    leader = Leader()
    link = link_of("c")
    leader.watching.on_follow(link, Follow(leader.tasks[:4_096]))
    leader.watching.on_follow(link, Follow(leader.tasks[:4_096], stop=True))
    while leader.turns.next():
        pass
    assert leader.watching._followers == {} and leader.watching._followed == {link: set()}
    assert len(leader.watching._outbox) == 0


def test_tasks_that_are_not_there_are_confirmed_in_many_turns_too():
    leader = Leader(1_024)
    link = link_of("c")
    strangers = list(range(1, 4_097))
    leader.watching.on_follow(link, Follow(strangers))
    while leader.turns.next():
        pass
    assert sum(len(question.tasks) for _, _, question in leader.rounds) == 4_096 and line_of(link).said == []
    for answer, asker, question in leader.rounds:
        answer(asker, question)
    leader.turns.end()
    assert len(line_of(link).said) <= QUESTIONS_PER_TURN
    while leader.turns.next():
        pass
    assert [(event.task, event.kind) for event in line_of(link).said] == [(task, EVENT_UNKNOWN) for task in strangers]


def test_a_link_that_asks_and_asks_is_refused():
    leader = Leader(1_024)
    link = link_of("c")
    for _ in range(3_000):
        leader.watching.on_follow(link, Follow(leader.tasks))
    assert set(leader.refused) == {"follows too many tasks at once"}


def test_a_full_link_is_tried_once_and_again_when_somebody_looks():
    turns = Turns()
    outbox = EventOutbox(turns.ends.append, turns.later.append)
    link, other = link_of("full"), link_of("other")
    line_of(link).is_full = True
    for task in range(10_000):
        outbox.add(link, TaskEvent(task, EVENT_QUEUED, 0, 1))
    for turn in range(20):
        outbox.add(link, TaskEvent(turn, EVENT_STARTED, 0, 1))
        outbox.add(other, TaskEvent(turn, EVENT_STARTED, 0, 1))
        turns.next()
    assert line_of(link).tried == 1 and len(line_of(other).said) == 20
    outbox.retry()
    assert line_of(link).tried == 2
    line_of(link).is_full = False
    outbox.retry()
    while turns.next():
        pass
    assert [event.task for event in line_of(link).said if event.kind == EVENT_QUEUED] == list(range(10_000))
    assert len(outbox) == 0


def test_a_hundred_thousand_events_cost_as_much_each_as_a_few(monkeypatch):
    """Looks at each of them once: what would look at those that are gone already is quadratic."""
    monkeypatch.setattr(event_outbox, "MESSAGES_PER_TURN", 1_000)
    turns = Turns()
    outbox = EventOutbox(turns.ends.append, turns.later.append)
    link = link_of("c")
    for task in range(100_000):
        outbox.add(link, TaskEvent(task, EVENT_QUEUED, 0, 1))
    turns.end()
    assert len(line_of(link).said) == 100_000


@pytest.mark.parametrize("count", [1, 7])
def test_of_one_task_a_few_events_are_kept_and_the_last_progress(count):
    turns = Turns()
    outbox = EventOutbox(turns.ends.append, turns.later.append)
    link = link_of("c")
    for attempt in range(count):
        outbox.add(link, TaskEvent(1, EVENT_STARTED, 0, attempt))
        for done in range(3):
            outbox.add(link, TaskEvent(1, EVENT_PROGRESS, 0, attempt, done=done))
    turns.end()
    said = line_of(link).said
    assert len(said) == min(2 * count, EVENTS_KEPT_MAX) and (said[-1].attempt, said[-1].done) == (count - 1, 2)
