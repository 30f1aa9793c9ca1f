"""Too many questions, and answers that are too large: whoever asked hears of it, and others do not wait for it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from client_world import ClientWorld, Parcel, unserved, work

from actors import SECOND, Ports
from cluster import Client, Overloaded, TaskNotFound
from cluster.broker import questions
from cluster.broker.delivery import Delivery
from cluster.broker.entries import EntryBuilder
from cluster.broker.inspection import ANSWERS_PER_TURN, Inspection
from cluster.broker.link import Link, Links
from cluster.broker.questions import LINK_QUESTIONS_MAX, STATUS_BYTES_MAX, Questions
from cluster.state.commands import ROLE_CLIENT, Acquire, Register, Stamp
from cluster.state.lock_search import NAMES_PER_STEP
from cluster.state.locks import SESSION_CLAIMS_MAX
from cluster.state.machine import Machine
from cluster.wire import (
    Describe,
    Described,
    Lease,
    ListLocks,
    ListSchedules,
    Message,
    NodeAnswer,
    ScheduleRows,
    ShowSchedule,
    ShowTask,
    StatusReply,
    StatusRequest,
    TaskShown,
    Watch,
)


class Line:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.takes: Callable[[object], bool] = lambda message: True

    def send(self, message: object) -> bool:
        if self.takes(message):
            self.said.append(message)
            return True
        return False


class Quiet:
    def event(self, name: str, /, **fields: object) -> None:
        return


class Leader:
    """Its questions, and links of clients. `report` is its own row of the status."""

    def __init__(self) -> None:
        self.machine = machine = Machine()
        self.links = Links(machine)
        self.later: deque[Callable[[], object]] = deque()
        self.round = 0
        self.dropped: list[Link] = []
        self.report: dict[str, object] = {}
        self.pages: list[int] = []              # of schedules that were made
        delivery = Delivery(machine, self.links, Quiet(), self.dropped.append)
        inspection = Inspection(machine, self.links, self.later.append, lambda task: None, self._schedules)
        self.questions = Questions(
            machine, self.links, delivery, lambda: self.report, lambda callback: callback(), self._ask,
            lambda link, reason: None, inspection, tuple,
        )  # fmt: skip
        self.questions.restart(leading=True)

    def _schedules(self, question: ListSchedules | ShowSchedule) -> Message:
        self.pages.append(question.request)
        return ScheduleRows(question.request, [], more=False)

    def _ask(self, number: int) -> None:
        self.round = number

    def link(self, name: str) -> tuple[Link, Line]:
        line = Line()
        link = Link(line, name, 1, 2)  # type: ignore[arg-type]
        self.links.add(link)
        return link, line

    def confirm(self) -> None:
        for _ in range(3):
            self.questions.confirmed(self.round)


def refusals(line: Line) -> list[NodeAnswer]:
    return [message for message in line.said if isinstance(message, NodeAnswer)]


def test_one_client_does_not_take_all_the_room_for_questions():
    leader = Leader()
    (greedy, loud), (modest, quiet) = leader.link("greedy"), leader.link("modest")
    for number in range(LINK_QUESTIONS_MAX + 100):
        leader.questions.on_describe(greedy, Describe(number, [1]))
    leader.questions.on_describe(modest, Describe(7, [1]))
    assert [message.request for message in refusals(loud)] == list(range(LINK_QUESTIONS_MAX, LINK_QUESTIONS_MAX + 100))
    assert "fewer at a time" in refusals(loud)[0].refusal
    leader.confirm()
    assert isinstance(quiet.said[0], Described) and len(loud.said) == LINK_QUESTIONS_MAX + 100
    leader.questions.on_describe(greedy, Describe(1, [1]))
    leader.confirm()
    assert isinstance(loud.said[-1], Described), "there is room again"


def test_who_waits_for_too_many_results_one_by_one_says_it_again_over_the_next_link():
    leader = Leader()
    link, line = leader.link("c")
    for task in range(LINK_QUESTIONS_MAX + 1):
        leader.questions.on_watch(link, Watch([task]))
    assert leader.dropped == [link] and line.said == []


def test_leases_are_not_counted():
    leader = Leader()
    link, line = leader.link("c")
    for sent in range(LINK_QUESTIONS_MAX + 1):
        leader.questions.after_round(lambda link, question: None, link, Lease(1, sent))
    leader.questions.on_describe(link, Describe(1, [1]))
    leader.confirm()
    assert [type(message) for message in line.said] == [Described]


def test_single_tasks_are_shown_to_all_links_in_turns():
    leader = Leader()
    (greedy, loud), (modest, quiet) = leader.link("greedy"), leader.link("modest")
    for number in range(1_000):
        leader.questions.on_inspect(greedy, ShowTask(number, 1, stale=True))
    leader.questions.on_inspect(modest, ShowTask(7, 1, stale=True))
    leader.later.popleft()()
    assert [type(message) for message in quiet.said] == [TaskShown] and len(loud.said) == ANSWERS_PER_TURN - 1
    while leader.later:
        leader.later.popleft()()
    assert [message.request for message in loud.said] == list(range(1_000))


def with_locks(count: int) -> Leader:
    """So many locks are held."""
    leader, entry = Leader(), EntryBuilder()
    for session, first in enumerate(range(0, count, SESSION_CLAIMS_MAX), 1):
        entry.add(Register(f"holder-{session}", 1, ROLE_CLIENT), 0)
        for n in range(1, min(SESSION_CLAIMS_MAX, count - first) + 1):
            entry.add(Acquire(session, n, n, n, f"lock-{first + n:06}", 1, 1, 30_000), 0)
    for index, payload in enumerate(entry.take(Stamp(1, 1)), 1):
        leader.machine.apply(index, 1, payload, None)
    assert len(leader.machine.locks.by_name) == count
    return leader


def test_a_list_of_very_many_locks_takes_several_turns_and_others_do_not_wait_for_it():
    steps = 2 * ANSWERS_PER_TURN
    leader = with_locks(NAMES_PER_STEP * steps - 1)
    (greedy, loud), (modest, quiet) = leader.link("greedy"), leader.link("modest")
    for number in range(3):
        leader.questions.on_inspect(greedy, ListLocks(number, "", 2, stale=True))
    leader.questions.on_inspect(modest, ShowTask(7, 1, stale=True))
    leader.later.popleft()()
    assert quiet.said and not loud.said
    turns = 1
    while leader.later:
        leader.later.popleft()()
        turns += 1
    assert [message.request for message in loud.said] == [0, 1, 2] and turns > 3 * steps // ANSWERS_PER_TURN
    assert all([row.name for row in page.rows] == ["lock-000001", "lock-000002"] and page.more for page in loud.said)


def test_who_asks_for_one_lock_gets_it_at_once_however_many_there_are():
    leader = with_locks(NAMES_PER_STEP * 5)
    link, line = leader.link("c")
    for number, name in enumerate(("lock-000007", "lock-00000", "unknown")):
        leader.questions.on_inspect(link, ListLocks(number, "", 1, stale=True, name=name))
    leader.later.popleft()()
    assert [[row.name for row in page.rows] for page in line.said] == [["lock-000007"], [], []] and not leader.later


def test_pages_of_schedules_are_made_a_few_in_a_turn():
    leader = Leader()
    link, line = leader.link("c")
    for number in range(ANSWERS_PER_TURN + 3):
        leader.questions.on_inspect(link, ListSchedules(number, "", 100))
    leader.questions.on_inspect(link, ShowSchedule(9, "nightly"))
    leader.confirm()
    assert not leader.pages
    leader.later.popleft()()
    assert leader.pages == list(range(ANSWERS_PER_TURN))
    leader.later.popleft()()
    assert leader.pages == [message.request for message in line.said] == [*range(ANSWERS_PER_TURN + 3), 9]


def test_a_list_whose_asker_has_gone_is_not_looked_for_any_longer():
    leader = with_locks(NAMES_PER_STEP * 5)
    link, line = leader.link("c")
    leader.questions.on_inspect(link, ListLocks(1, "", 2, stale=True))
    leader.later.popleft()()
    leader.links.remove(link.peer)
    leader.later.popleft()()
    assert not leader.later and not line.said


def test_an_answer_that_the_link_does_not_take_is_refused_with_what_to_do():
    leader = Leader()
    link, line = leader.link("c")
    line.takes = lambda message: isinstance(message, NodeAnswer)
    leader.questions.on_describe(link, Describe(7, [1], stale=True))
    assert [message.request for message in refusals(line)] == [7] and not leader.dropped
    line.takes = lambda message: False
    leader.questions.on_describe(link, Describe(8, [1], stale=True))
    assert leader.dropped == [link], "over the next link it asks again"


def test_a_status_that_is_too_large_is_refused():
    leader = Leader()
    link, line = leader.link("c")
    leader.questions.on_status(link, StatusRequest(1, stale=True))
    leader.report = {"text": "x" * STATUS_BYTES_MAX}
    leader.questions.on_status(link, StatusRequest(2, stale=True))
    answered, refused = line.said
    assert isinstance(answered, StatusReply) and msgspec.msgpack.decode(answered.report)["queues"] == []
    assert isinstance(refused, NodeAnswer) and refused.request == 2 and "more than a message may" in refused.refusal


def test_a_user_who_asks_too_much_at_once_is_told_at_once(monkeypatch):
    monkeypatch.setattr(questions, "LINK_QUESTIONS_MAX", 100)       # as if the client's own link took more at once
    rig = ClientWorld(workers=0)

    async def user(cluster: Client, ports: Ports) -> Any:
        task = (await cluster.submit(unserved)).id
        begun = ports.clock.now()
        found = await asyncio.gather(*(cluster.records([task]) for _ in range(1_000)), return_exceptions=True)
        refused = [answer for answer in found if isinstance(answer, Overloaded)]
        (record,) = await cluster.records([task])
        return ports.clock.now() - begun, len(refused), str(refused[0]), record.state, len(found)

    waited, refused, text, state, asked = rig.run(user)
    assert waited < 5 * SECOND and 0 < refused <= asked - 100 and state == "pending"
    assert "ask for fewer at a time" in text


def test_a_user_may_attach_to_any_number_of_tasks():
    rig = ClientWorld()

    async def user(cluster: Client, ports: Ports) -> Any:
        handle = await cluster.submit(work, Parcel(1))
        unknown = [cluster.handle((1 << 40) + number) for number in range(LINK_QUESTIONS_MAX * 2)]
        with pytest.raises(TaskNotFound):
            await unknown[-1]
        with pytest.raises(TaskNotFound):
            await unknown[0]
        return (await handle).number

    assert rig.run(user) == 1
