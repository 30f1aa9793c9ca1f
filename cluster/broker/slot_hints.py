"""What a leader tells workers that may open slots: how much waits for them, and for how long.

Problem: how much waits only the leader knows, how long its slots have been idle and what it costs to start one only the
worker. A thousand workers that all hear of one waiting task must not all open a slot for it. And tasks carry no date of
when they became ready.

Idea: the leader divides. With each answer to a heartbeat it tells each worker its share of the ready tasks that the
worker could run, and the age of the oldest of them: of one task one worker hears, and the others hear of nothing. If it
waits for long in spite of that, it is another one's turn, since one may be unable to start children. So workers need
not know of each other, and nothing of this is in the log; what a worker does about it is in `cluster.worker.scaling`.

The age is measured. At each look the leader marks a task that comes last among those that wait; while one that was
marked still waits, what came before it has waited at least as long, or has been handed out. That is less than the truth
by what a leader did not see: a new one begins anew. MARKS_MAX marks, one for each look, tell the age up to seconds at
any time, which is all that workers ask.

Cost: a look at most each LOOK_INTERVAL, at the pools of workers that have asked and could open slots. Without such
workers it is one comparison for each heartbeat of a worker.
"""

from collections import deque
from collections.abc import Callable

from actors import MILLISECOND, Nanos
from cluster.state.backlog import Backlog, may_open, share_of
from cluster.state.machine import Machine

LOOK_INTERVAL: Nanos = 400 * MILLISECOND        # workers ask every 500 ms
MARKS_MAX = 8                                   # of one pool
PASSED_ON_MS = 20_000                           # a child with all its modules is there before, as a rule

Mark = tuple[int, int, Nanos]                   # task, attempt, when it was marked
Hint = tuple[int, int]                          # ready tasks, the age of the oldest in ms
NOTHING: Hint = (0, 0)


class SlotHints:
    """Of one leader."""

    def __init__(self, machine: Machine, now: Callable[[], Nanos]) -> None:
        self._machine = machine
        self._now = now
        self._asking: dict[int, None] = {}              # sessions of workers with bounds that have been heard
        self._hints: dict[int, Hint] = {}               # by session, of the last look
        self._marks: dict[int, deque[Mark]] = {}        # by pool, the oldest first
        self._looked_at: Nanos = 0

    def restart(self) -> None:
        """Another term."""
        self._asking.clear()
        self._hints.clear()
        self._marks.clear()
        self._looked_at = 0

    def forget(self, session: int) -> None:
        """It has ended."""
        self._asking.pop(session, None)
        self._hints.pop(session, None)

    def hint(self, session: int) -> Hint:
        """For this session, which has just been heard."""
        known = self._machine.session(session)
        if known is None or not known.slots_open:
            return NOTHING
        self._asking[session] = None
        now = self._now()
        if now - self._looked_at >= LOOK_INTERVAL:
            self._looked_at = now
            self._look(now)
        return self._hints.get(session, NOTHING) if may_open(known) else NOTHING

    def _look(self, now: Nanos) -> None:
        self._hints.clear()
        backlogs = self._machine.backlogs(self._asking)
        self._marks = {backlog.pool: self._marks.get(backlog.pool, deque()) for backlog in backlogs}
        for backlog in backlogs:
            age_ms = self._age(backlog, now) // MILLISECOND
            sharing = len(backlog.sessions)
            for place, session in enumerate(backlog.sessions, age_ms // PASSED_ON_MS):
                if share := share_of(backlog.ready, place % sharing, sharing):
                    self._hints[session] = (share, age_ms)

    def _age(self, backlog: Backlog, now: Nanos) -> Nanos:
        """For how long something has waited in this pool, as far as was seen; marks what is last now."""
        marks = self._marks[backlog.pool]
        while marks and not self._machine.still_waits(backlog.pool, *marks[0][:2]):
            marks.popleft()
        if any(backlog.last) and len(marks) < MARKS_MAX and not (marks and marks[-1][:2] == backlog.last):
            marks.append((*backlog.last, now))
        return now - marks[0][2] if marks else 0
