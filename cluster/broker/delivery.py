"""What a leader tells workers and clients: the effects of applied entries, and the difference to what they know.

Effects may be lost with a link or with a leader, so nothing rests on them. A worker says what it holds to each new
leader and over each new link, and gets the difference to what the state says it holds; until then it is sent no
assignment, since the order between the two would be left to chance. A client says which results it waits for.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from actors import Log
from cluster.broker.link import Link, Links
from cluster.state.commands import INPUTS_BYTES_MAX, NEEDS_MAX, OUTCOME_RETURNED, OUTCOME_UNMET, TASK_NUMBER_BITS
from cluster.state.dependencies import FAILURES_BYTES_MAX, INPUT_OVERHEAD_BYTES
from cluster.state.effects import ANSWER_OK, STATE_COMPLETED, Answer, Assignment, Effects, Registered, TaskResult
from cluster.state.evidence import text_bytes
from cluster.state.machine import Machine
from cluster.wire import (
    BODY_BYTES_MAX,
    HELLO_ITEMS_MAX,
    MESSAGE_BYTES_MAX,
    ROLE_WORKER,
    WATCHED_TASKS_MAX,
    Answers,
    Assignments,
    Describe,
    Described,
    Holding,
    Message,
    Record,
    RegisterAnswer,
    Results,
    Stop,
    Unknown,
    Withdraw,
)

T = TypeVar("T")

FRAME_BYTES_SOFT = 1024 * 1024      # a message of assignments or results is cut here
HELD_PAIRS_MAX = 1_000_000          # of one worker's Holding; more is garbage
TEXT_OVERHEAD_BYTES = 5
ITEM_OVERHEAD_BYTES = 128           # of a result or an assignment without its texts: a dozen numbers, lengths of texts
STOP_ITEMS_MAX = HELLO_ITEMS_MAX // 3

NO_ATTEMPTS = (OUTCOME_RETURNED, OUTCOME_UNMET)

NEEDED_BYTES_MAX = INPUTS_BYTES_MAX + FAILURES_BYTES_MAX + INPUT_OVERHEAD_BYTES * NEEDS_MAX    # of one assignment

LAST_BYTES_MAX = BODY_BYTES_MAX + NEEDED_BYTES_MAX      # of a chunk: its last item

assert FRAME_BYTES_SOFT + LAST_BYTES_MAX < MESSAGE_BYTES_MAX, "a chunk fits, whatever its last item is"


class Delivery:
    """The leader's side of every link. `term` is the one that it leads."""

    def __init__(self, machine: Machine, links: Links, log: Log, drop: Callable[[Link], None]) -> None:
        self.machine = machine
        self.links = links
        self.log = log
        self._drop = drop
        self.term = 0
        self._watchers: dict[int, list[Link]] = {}      # task -> links that wait for it, of other sessions than its own

    def restart(self, term: int) -> None:
        """Another term, led by this broker or another: everyone says again what it waits for and holds."""
        self.term = term
        self._watchers.clear()
        for link in self.links:
            link.watched.clear()
            link.held.clear()
            link.reconciled = False

    def carry_out(self, effects: Effects) -> None:
        """In the order in which somebody waits, since frames leave in the order of the first message for each peer:
        tasks, then results (behind the answers to the same client), then the other answers."""
        links = self.links
        for registered in effects.registered:
            self._on_registered(registered, effects)
        for session, assignments in effects.assignments.items():
            if (link := links.of_session(session)) is not None and link.reconciled:
                self._send_assignments(link, assignments)
        # After the assignments: entries applied together may give a pair and take it away again. The other order of
        # decisions cannot be, since a pair never comes back with the same attempt number.
        for session, pairs in effects.withdrawn.items():
            if (link := links.of_session(session)) is not None:
                flat = [number for pair in pairs for number in pair]
                self._send(link, Withdraw(self.term, session, flat))
        for session, cancelled in effects.cancelled.items():
            if (link := links.of_session(session)) is not None and link.reconciled:
                self._send_stop(link, cancelled)
        answers = _per_session(effects.answers)
        for session, results in effects.results.items():
            if (link := links.of_session(session)) is not None:
                if session in answers:
                    link.peer.send(Answers(answers.pop(session)))
                self._send_results(link, results)
            if self._watchers:
                self._notify_watchers(results)
        for session, items in answers.items():
            if (link := links.of_session(session)) is not None:
                link.peer.send(Answers(items))

    def _on_registered(self, registered: Registered, effects: Effects) -> None:
        link = self.links.of_name(registered.name, registered.incarnation)
        if link is None:
            return
        link.peer.send(RegisterAnswer(registered))
        accepted = registered.code == ANSWER_OK and self.links.claim(link, registered.session)
        if accepted and link.role == ROLE_WORKER:
            # Perhaps a repeated registration whose first answer was lost: tell all it holds, not only the news.
            effects.assignments.pop(registered.session, None)
            link.reconciled = True
            self._send_assignments(link, self.machine.held_by(registered.session))
            self._send_stop(link, self.machine.cancelled_at(registered.session))

    def _send_assignments(self, link: Link, assignments: list[Assignment]) -> None:
        # What tasks need is put in as chunks are made: for all of them at once it may be gigabytes.
        for chunk in _chunks(self.machine.passed_on(assignments), _assignment_bytes):
            if not self._send(link, Assignments(self.term, link.session, chunk)):
                return

    def _send_stop(self, link: Link, cancelled: list[tuple[int, int, int]]) -> None:
        for start in range(0, len(cancelled), STOP_ITEMS_MAX):
            flat = [number for item in cancelled[start : start + STOP_ITEMS_MAX] for number in item]
            if not self._send(link, Stop(self.term, link.session, flat)):
                return

    def _send_results(self, link: Link, results: list[TaskResult]) -> None:
        for chunk in _chunks(results, _result_bytes):
            if not self._send(link, Results(chunk)):
                return

    def _send(self, link: Link, message: Message) -> bool:
        """False: the link does not take it. Then the link is let go: its dialler says hello again, and with that what
        it holds and waits for, so that nothing which was dropped here stays unknown to it."""
        if link.peer.send(message):
            return True
        self.let_go(link, type(message).__name__)
        return False

    def let_go(self, link: Link, message: str) -> None:
        """It did not take a message of this type."""
        if self.links.of_peer(link.peer) is link:
            self.log.event("message_undelivered", node=link.name, message=message)
            self._drop(link)

    def on_holding(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Holding)
        if not self.links.claim(link, message.session) or link.session != message.session:
            return
        if message.term != self.term or len(link.held) + len(message.pairs) > HELD_PAIRS_MAX:
            return
        link.held += message.pairs
        if message.more:
            return
        pairs, link.held = link.held, []
        has = set(zip(pairs[::2], pairs[1::2], strict=False))
        should = self.machine.held_by(link.session)
        lacking = [assignment for assignment in should if (assignment.task, assignment.attempt) not in has]
        owed = {(assignment.task, assignment.attempt) for assignment in should}
        surplus = [number for pair in zip(pairs[::2], pairs[1::2], strict=False) if pair not in owed for number in pair]
        if surplus:
            self._send(link, Withdraw(self.term, link.session, surplus))
        link.reconciled = True
        self._send_assignments(link, lacking)
        self._send_stop(link, self.machine.cancelled_at(link.session))

    def watch(self, link: Link, tasks: list[int], *, is_certain: bool = False) -> list[int]:
        """Sends the results that are there, and those to come when they come. Returns the tasks that the state does not
        have, and those whose end may not be their last: only with `is_certain` the latter are told. That of a completed
        task never changes; others may have been replayed under another leader."""
        found: list[TaskResult] = []
        missing: list[int] = []
        for task in dict.fromkeys(tasks):
            result = self.machine.result(task)
            if isinstance(result, TaskResult) and (is_certain or result.state == STATE_COMPLETED):
                found.append(result)
            elif result is None or isinstance(result, TaskResult):
                missing.append(task)
            elif task >> TASK_NUMBER_BITS == link.session or task in link.watched:
                continue            # it hears of its own without asking
            elif len(link.watched) < WATCHED_TASKS_MAX:
                link.watched.add(task)
                self._watchers.setdefault(task, []).append(link)
        self._send_results(link, found)
        return missing

    def tell_unknown(self, link: Link, tasks: list[int]) -> None:
        """Only once it is certain that this broker led after it was asked: another may have taken them meanwhile."""
        for start in range(0, len(tasks), HELLO_ITEMS_MAX):
            link.peer.send(Unknown(tasks[start : start + HELLO_ITEMS_MAX]))

    def described(self, message: Describe) -> Described:
        """What the state has of some tasks, as it is here and now."""
        return Described(message.request, [self._record(task) for task in message.tasks])

    def _record(self, task: int) -> Record:
        # Attempts that went back uncounted, to begin elsewhere, or that never began, are no attempts to a user.
        ended = [attempt for attempt in self.machine.attempts(task) if attempt.status not in NO_ATTEMPTS]
        return Record(task, self.machine.state_of(task) or "unknown", len(ended))

    def _notify_watchers(self, results: list[TaskResult]) -> None:
        for result in results:
            for link in self._watchers.pop(result.task, ()):
                link.watched.discard(result.task)
                self._send(link, Results([result]))

    def forget(self, link: Link) -> None:
        for task in link.watched:
            watchers = self._watchers.get(task)
            if watchers is not None:
                watchers.remove(link)
                if not watchers:
                    del self._watchers[task]


def _per_session(answers: list[Answer]) -> dict[int, list[Answer]]:
    sessions: dict[int, list[Answer]] = {}
    for answer in answers:
        sessions.setdefault(answer.session, []).append(answer)
    return sessions


def _result_bytes(result: TaskResult) -> int:
    size = ITEM_OVERHEAD_BYTES + len(result.body)
    if (error := result.error) is not None:
        size += sum(map(text_bytes, (error.type, error.message, error.traceback, error.stderr, error.log)))
        size += sum(map(text_bytes, error.kinds)) + len(error.kinds) * TEXT_OVERHEAD_BYTES
    return size


def _assignment_bytes(assignment: Assignment) -> int:
    # No character takes more than four bytes. There are far more of these than of failures, and their texts are short.
    characters = len(assignment.name) + len(assignment.actor) + len(assignment.key)
    return ITEM_OVERHEAD_BYTES + len(assignment.body) + 4 * characters


def _chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cuts items, one chunk at a time, so that no message exceeds FRAME_BYTES_SOFT by more than its last item."""
    chunk: list[T] = []
    filled = 0
    for item in items:
        chunk.append(item)
        filled += size(item)
        if filled > FRAME_BYTES_SOFT:
            yield chunk
            chunk, filled = [], 0
    if chunk:
        yield chunk
