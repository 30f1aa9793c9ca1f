"""What a leader tells those who follow tasks: how each is, and what becomes of it.

Levels, not edges. Nothing here is in the log or survives a leader: a follower asks every new leader, and over every new
link, and is first told how the task is. What changed in between is not told. So nothing has to be kept for anybody, and
the end of a task is told all the same, since that is in the state.

Changes come from three sides. Applied entries say that a task has ended, or has lost its slot and waits again. Workers
say in their heartbeats what runs: an assignment says less, it may wait at a slot. And they say how far it is, twice a
second at most. Only the last of that is kept, and only while the attempt lasts.

How a task is takes some microseconds to find out, and after a change of leader everyone asks at once, each for up to a
million tasks. So a bounded number of questions is taken in each turn of the loop, of all links in turns. A later answer
is no worse. Events leave in the same manner (`cluster.broker.event_outbox`).
"""

from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from cluster.broker.event_outbox import EventOutbox
from cluster.broker.link import Link, Links
from cluster.state.commands import OUTCOME_CRASHED, OUTCOME_RETURNED
from cluster.state.effects import STATE_COMPLETED, Effects, TaskResult
from cluster.state.machine import Machine
from cluster.state.status import DUPLICATE, STATE_NAMES
from cluster.state.tasks import Attempt
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
    Progress,
    TaskEvent,
)

QUESTIONS_PER_TURN = 512    # tasks that links ask for; about 5 ms
NUMBER_MAX = 2**63 - 1
LASTING = (STATE_NAMES[STATE_COMPLETED], DUPLICATE)     # ends that are never replayed
ITEM = 4                    # numbers of one task in a Progress

FOLLOWS_WAITING_MAX = 4 * WATCHED_TASKS_MAX // HELLO_ITEMS_MAX      # messages of one link, some of them short

assert HELLO_ITEMS_MAX * ITEM * 9 < 1024 * 1024, "a Progress is far smaller than a message may be"

Asked = tuple[Follow, bool]     # and whether this broker is certain to have led after it came
AfterRound = Callable[[Callable[[Link, msgspec.Struct], None], Link, msgspec.Struct], None]


class Watching:
    """Of one broker, while it leads. Invariant: `_followers` and `_followed` say the same, by task and by link.

    `now_ms` is the leader's time of day; `at_turn_end` runs a callback then, `next_turn` in the next turn of the loop;
    `after_round` when it is certain that this broker led after a question came; `refuse` notes what is not answered.
    """

    def __init__(
        self,
        machine: Machine,
        links: Links,
        now_ms: Callable[[], int],
        at_turn_end: Callable[[Callable[[], None]], None],
        after_round: AfterRound,
        refuse: Callable[[Link, str], None],
        next_turn: Callable[[Callable[[], None]], object],
    ) -> None:
        self._machine = machine
        self._links = links
        self._now_ms = now_ms
        self._at_turn_end = at_turn_end
        self._after_round = after_round
        self._refuse = refuse
        self._followers: dict[int, list[Link]] = {}
        self._followed: dict[Link, set[int]] = {}
        self._runs: dict[int, int] = {}                             # followed task -> attempt that was told to run
        self._progress: dict[int, tuple[int, int, int]] = {}        # held task -> attempt, done, total
        self._next_turn = next_turn
        self._outbox = EventOutbox(at_turn_end, next_turn)
        self._asked: OrderedDict[Link, deque[Asked]] = OrderedDict()        # not taken yet, in order
        self._questions_left = QUESTIONS_PER_TURN                   # in this turn
        self._will_go_on = False                                    # in the next turn

    def restart(self) -> None:
        """Another term: everyone says again what it follows, and how far it is."""
        for kept in (self._followers, self._followed, self._runs, self._progress, self._asked):
            kept.clear()
        self._outbox.clear()

    def forget(self, link: Link) -> None:
        """A link is gone."""
        for task in self._followed.pop(link, ()):
            self._drop_follower(task, link)
        self._asked.pop(link, None)
        self._outbox.forget_all(link)

    # -- followers --------------------------------------------------------------------------------------------------

    def on_follow(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Follow)
        if (
            len(message.tasks) > HELLO_ITEMS_MAX
            or len(self._asked.get(link, ())) >= FOLLOWS_WAITING_MAX
            or self._outbox.waiting(link) >= WATCHED_TASKS_MAX
        ):
            self._refuse(link, "follows too many tasks at once")
            return
        self._ask(link, (message, False))

    def _on_follow_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Follow)
        self._ask(link, (message, True))        # some may have come meanwhile

    def _ask(self, link: Link, asked: Asked) -> None:
        self._asked.setdefault(link, deque()).append(asked)
        self._take_some()

    def _take_some(self) -> None:
        """What was asked for, as much of it as this turn may take."""
        if not self._will_go_on:
            self._will_go_on = True
            self._next_turn(self._go_on)
        while self._asked and self._questions_left > 0:
            link, questions = self._asked.popitem(last=False)
            question, is_certain = questions.popleft()
            tasks, rest = question.tasks[: self._questions_left], question.tasks[self._questions_left :]
            self._questions_left -= max(1, len(tasks))
            if rest:
                questions.appendleft((Follow(rest, question.stop), is_certain))
            if questions:
                self._asked[link] = questions       # behind the others
            if question.stop:
                for task in tasks:
                    self._unfollow(link, task)
            elif missing := self._follow(link, tasks, is_certain=is_certain):
                if is_certain:
                    self._tell_unknown(link, missing)
                else:
                    self._after_round(self._on_follow_confirmed, link, Follow(missing))

    def _go_on(self) -> None:
        """Another turn has begun."""
        self._will_go_on = False
        self._questions_left = QUESTIONS_PER_TURN
        if self._asked:
            self._take_some()

    def _tell_unknown(self, link: Link, tasks: list[int]) -> None:
        for task in tasks:
            self._outbox.add(link, TaskEvent(task, EVENT_UNKNOWN, self._now_ms(), 0))

    def _follow(self, link: Link, tasks: list[int], *, is_certain: bool) -> list[int]:
        """Tells how they are, and what becomes of those that have not ended. Returns those that are not known, and
        those whose end may not be their last: only with `is_certain` the latter are told, as by `Delivery.watch`."""
        missing: list[int] = []
        followed = self._followed.setdefault(link, set())
        for task in tasks:
            event = self._level(task)
            if event is None or (event.kind == EVENT_FINISHED and event.text not in LASTING and not is_certain):
                missing.append(task)
                continue
            if event.kind != EVENT_FINISHED and task not in followed:
                if len(followed) >= WATCHED_TASKS_MAX:
                    self._refuse(link, "follows too many tasks")
                    break
                followed.add(task)
                self._followers.setdefault(task, []).append(link)
            self._outbox.forget(link, task)         # this says all of it
            self._outbox.add(link, event)
        return missing

    def _unfollow(self, link: Link, task: int) -> None:
        followed = self._followed.get(link)
        if followed is not None and task in followed:
            followed.remove(task)
            self._drop_follower(task, link)
        self._outbox.forget(link, task)

    def _drop_follower(self, task: int, link: Link) -> None:
        links = self._followers[task]
        links.remove(link)
        if not links:
            del self._followers[task]
            self._runs.pop(task, None)

    # -- what happens -----------------------------------------------------------------------------------------------

    def carry_out(self, effects: Effects) -> None:
        """Of applied entries. Costs nothing where nobody follows and nothing says how far it is."""
        if not self._followers and not self._progress:
            return
        for task in effects.moved:
            self._progress.pop(task, None)
            if task in self._followers:
                self._runs.pop(task, None)
                if (event := self._waiting(task)) is not None:
                    self._tell(event)
        for results in effects.results.values():
            for result in results:
                task = result.task
                self._progress.pop(task, None)
                if task in self._followers:
                    self._tell(self._finished(result))
                    for link in self._followers.pop(task):
                        self._followed[link].remove(task)
                    self._runs.pop(task, None)

    def on_running(self, link: Link) -> None:
        """A worker's heartbeat has said what runs there."""
        if self._followers:
            for task in link.running:
                held = self._machine.held(task)
                if held is not None and held[0] == link.session:
                    self._tell_started(task, held[1], link)

    def on_progress(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Progress)
        items = message.items
        if len(items) > HELLO_ITEMS_MAX * ITEM or not self._links.claim(link, message.session):
            self._refuse(link, "malformed progress")
            return
        for task, attempt, done, total in zip(items[::4], items[1::4], items[2::4], items[3::4], strict=False):
            if self._machine.held(task) != (message.session, attempt):
                continue                    # late: it has ended there
            if not (0 <= done <= NUMBER_MAX and NO_TOTAL <= total <= NUMBER_MAX):
                continue
            self._progress[task] = attempt, done, total
            self._tell_started(task, attempt, link)
            if task in self._followers:
                self._tell(TaskEvent(task, EVENT_PROGRESS, self._now_ms(), attempt, link.name, done, total))

    def _tell_started(self, task: int, attempt: int, link: Link) -> None:
        if task in self._followers and self._runs.get(task) != attempt:
            self._runs[task] = attempt
            self._tell(TaskEvent(task, EVENT_STARTED, self._now_ms(), attempt, link.name))

    # -- how a task is ----------------------------------------------------------------------------------------------

    def _level(self, task: int) -> TaskEvent | None:
        """How a task is now, with the log of the attempt that ended last; None if it is not known."""
        result = self._machine.result(task)
        if result is None:
            return None
        if isinstance(result, TaskResult):
            return self._finished(result)
        event = self._running(task)
        if event is None and not self._machine.begins_anew(task):
            event = self._waiting(task)
        if event is None:
            attempt = self._machine.handed_out(task)
            return TaskEvent(task, EVENT_QUEUED, self._now_ms(), attempt, log=self._last_log(task))
        return msgspec.structs.replace(event, log=self._last_log(task))

    def _running(self, task: int) -> TaskEvent | None:
        """None if it does not run, as far as its worker has said."""
        held = self._machine.held(task)
        link = self._links.of_session(held[0]) if held is not None else None
        if held is None or link is None:
            return None
        attempt = held[1]
        if (said := self.progress(task)) is not None:
            self._runs[task] = attempt
            return TaskEvent(task, EVENT_PROGRESS, self._now_ms(), attempt, link.name, *said)
        if task in link.running:
            self._runs[task] = attempt
            return TaskEvent(task, EVENT_STARTED, self._now_ms(), attempt, link.name)
        return None

    def progress(self, task: int) -> tuple[int, int] | None:
        """Done and total (or NO_TOTAL), as what runs has said last; None if it has said nothing."""
        held = self._machine.held(task)
        attempt, done, total = self._progress.get(task, (0, 0, NO_TOTAL))
        return (done, total) if held is not None and held[1] == attempt else None

    def _waiting(self, task: int) -> TaskEvent | None:
        """Why it waits again; None if that is nothing that concerns it: it waits for the first time, or was handed back
        by a slot without having begun."""
        last = self._last_attempt(task)
        if last is None or last.number != self._machine.handed_out(task) - 1:
            return None
        lost = last.status in (OUTCOME_CRASHED, OUTCOME_RETURNED)
        kind = EVENT_REQUEUED if lost else EVENT_RETRYING
        at_ms = last.ended_ms or self._now_ms()
        return TaskEvent(task, kind, at_ms, last.number, last.worker, text=_reason(last), log=_log(last))

    def _finished(self, result: TaskResult) -> TaskEvent:
        at_ms, worker, last = self._now_ms(), "", self._last_attempt(result.task)
        if last is not None and last.number == result.attempts:
            at_ms, worker = last.ended_ms or at_ms, last.worker
        state = DUPLICATE if result.duplicate_of else STATE_NAMES[result.state]
        log = "" if last is None else _log(last)
        return TaskEvent(result.task, EVENT_FINISHED, at_ms, result.attempts, worker, text=state, log=log)

    def _last_attempt(self, task: int) -> Attempt | None:
        attempts = self._machine.attempts(task)
        return attempts[-1] if attempts else None

    def _last_log(self, task: int) -> str:
        last = self._last_attempt(task)
        return "" if last is None else _log(last)

    # -- events -----------------------------------------------------------------------------------------------------

    def _tell(self, event: TaskEvent) -> None:
        for link in self._followers[event.task]:
            self._outbox.add(link, event)

    def go_on(self) -> None:
        """Twice a second: what links did not take may be taken now."""
        self._outbox.retry()


def _reason(attempt: Attempt) -> str:
    error = attempt.error
    if error is None or not error.type:
        if attempt.status != OUTCOME_RETURNED:
            return ""
        # Only the worker itself knows when it began.
        return "its worker ended it to stop, and handed it back" if attempt.started_ms else "its worker was lost"
    return f"{error.type}: {error.message}" if error.message else error.type


def _log(attempt: Attempt) -> str:
    return "" if attempt.error is None else attempt.error.log
