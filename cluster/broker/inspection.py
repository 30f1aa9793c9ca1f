"""Single tasks, locks and schedules, as a broker sees them: what the state has, and whether a task that was handed out
runs or waits at its slot.

That is known from the workers' heartbeats, which name the tasks that run and go to
the leader only. They are up to half a second old: what has begun since counts as waiting.

An answer takes up to a millisecond or two, and a program may ask for thousands of tasks at once. So a few are given in
a turn of the loop, of all links in turns, and of each in the order in which they were asked for. One that takes
longer, a list of locks, takes several of these. A later answer is no worse: what the state has then includes what it
had when the question was confirmed.
"""

from collections import OrderedDict, deque
from collections.abc import Callable

from msgspec import structs

from cluster.broker.link import Link, Links
from cluster.state.lock_search import LockSearch
from cluster.state.machine import Machine
from cluster.state.task_rows import PLACE_RUNS, PLACE_UNKNOWN, PLACE_WAITS, TaskRow
from cluster.wire import (
    ListLocks,
    ListSchedules,
    ListTasks,
    LockRows,
    Message,
    ShowSchedule,
    ShowTask,
    TaskRows,
    TaskShown,
)

ANSWERS_PER_TURN = 4            # or steps of those that take several
LINK_WAITING_MAX = 8_192        # of one link, as many of which may wait for a round

Question = ListTasks | ShowTask | ListLocks | ListSchedules | ShowSchedule
Answer = Callable[[Link, Question, Message], None]


class Inspection:
    """Answers what may be answered. `next_turn` calls back in the next turn of the loop, once for each call; `progress`
    is what a task that runs has said last, at a leader; `schedules` answers what is asked of those."""

    __slots__ = ("_links", "_machine", "_next_turn", "_progress", "_schedules", "_searches", "_waiting", "leading")

    def __init__(
        self,
        machine: Machine,
        links: Links,
        next_turn: Callable[[Callable[[], None]], object],
        progress: Callable[[int], tuple[int, int] | None],
        schedules: Callable[[ListSchedules | ShowSchedule], Message],
    ) -> None:
        self._machine = machine
        self._links = links
        self._next_turn = next_turn
        self._progress = progress
        self._schedules = schedules
        self._waiting: OrderedDict[Link, deque[tuple[Question, Answer]]] = OrderedDict()
        self._searches: dict[Link, LockSearch] = {}         # of links whose first question has begun
        self.leading = False

    def answer(self, link: Link, question: Question, answer: Answer) -> bool:
        """Calls `answer` later. False: too many of this link wait already, and this one will not be answered."""
        if not self._waiting:
            self._next_turn(self._answer_some)
        questions = self._waiting.setdefault(link, deque())
        if len(questions) >= LINK_WAITING_MAX:
            return False
        questions.append((question, answer))
        return True

    def _answer_some(self) -> None:
        for _ in range(ANSWERS_PER_TURN):
            if not self._waiting:
                break
            link, questions = self._waiting.popitem(last=False)
            if self._links.of_peer(link.peer) is not link:
                self._searches.pop(link, None)
                continue
            question, answer = questions[0]
            message = self._step(link, question)
            if message is not None:
                questions.popleft()
            if questions:
                self._waiting[link] = questions         # behind the others
            if message is not None:
                answer(link, question, message)
        if self._waiting:
            self._next_turn(self._answer_some)

    def _step(self, link: Link, question: Question) -> Message | None:
        """The answer, unless there is more to do for it."""
        if isinstance(question, ListTasks):
            return listed(self._machine, self._links, question, leading=self.leading)
        if isinstance(question, ShowTask):
            progress = self._progress(question.task) if self.leading else None
            return shown(self._machine, self._links, question, progress, leading=self.leading)
        if isinstance(question, ListSchedules | ShowSchedule):
            return self._schedules(question)
        if question.name:
            rows = [self._machine.locks.row(question.name)]
            return LockRows(question.request, [row for row in rows if row.limit], more=False)
        search = self._searches.pop(link, None)
        if search is None:
            search = LockSearch(self._machine, question.after, question.limit, question.prefix)
        if search.step():
            return LockRows(question.request, search.rows, search.more)
        self._searches[link] = search
        return None


def listed(machine: Machine, links: Links, question: ListTasks, *, leading: bool) -> TaskRows:
    """The page that was asked for."""
    page = machine.page(question.after, question.limit, question.states, question.queue, question.name)
    rows = _placed(page.rows, links) if leading else page.rows
    return TaskRows(question.request, rows, page.after)


def shown(
    machine: Machine, links: Links, question: ShowTask, progress: tuple[int, int] | None, *, leading: bool
) -> TaskShown:
    """The task that was asked for."""
    found = machine.details(question.task)
    if found is not None and leading:
        (row,) = _placed([found.row], links)
        found = structs.replace(found, row=row)
    return TaskShown(question.request, found, progress)


def _placed(rows: list[TaskRow], links: Links) -> list[TaskRow]:
    running: dict[int, frozenset[int]] = {}     # of the sessions that hold some of these
    placed: list[TaskRow] = []
    for row in rows:
        if row.place == PLACE_UNKNOWN:
            link = links.of_session(row.session)
            if row.session not in running:
                running[row.session] = frozenset(link.running if link is not None else ())
            runs = row.task in running[row.session]
            row = structs.replace(row, place=PLACE_RUNS if runs else PLACE_WAITS)
        placed.append(row)
    return placed
