"""One session of a worker: the outcomes that it owes the cluster, and the lease that it rests on. It begins with a
registration that was granted; when it is lost, all of this is gone with it.
"""

from collections.abc import Iterable

from actors import MILLISECOND, SECOND, Clock, Log, Nanos, Peer
from cluster.leader_links import LeaderLinks
from cluster.state.commands import Outcome
from cluster.state.effects import ANSWER_GAP, ANSWER_NO_SESSION, ANSWER_OK, Answer, Registered
from cluster.wire import HELLO_ITEMS_MAX, Holding
from cluster.worker.completions import Completions
from cluster.worker.lease import Lease
from cluster.worker.slots import Pair

RESEND_AFTER: Nanos = 2 * SECOND                # an answer that is overdue by this much was lost on the way
REWIND_PAUSE: Nanos = 100 * MILLISECOND         # answers to one gap come in numbers
IDLE_HOLDING_INTERVAL: Nanos = 5 * SECOND       # an idle worker repeats that it holds nothing
assert HELLO_ITEMS_MAX % 2 == 0, "pairs are sent flat"


class Session:
    """Of one incarnation of a worker. `registered_at` is when it first asked for it."""

    def __init__(self, granted: Registered, registered_at: Nanos, links: LeaderLinks, clock: Clock, log: Log) -> None:
        self.number = granted.session
        self.lease = Lease(registered_at)
        self.finished: set[Pair] = set()        # has an outcome here, is not known to be in the log
        self.slots_open = 0                     # the last number that the log is known to have; 0: none
        self._completions = Completions(granted.session, granted.next_seq)
        self._links = links
        self._clock = clock
        self._log = log
        self._progress_at: Nanos = 0            # of the completions: the last answer, or sending
        self._rewound_at: Nanos = 0

    @property
    def is_settled(self) -> bool:
        """Whether everything is in the log."""
        return self._completions.is_empty

    def add(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._completions.add(outcome)
            self.finished.add((outcome.task, outcome.attempt))

    def drain(self) -> None:
        """The worker is leaving: the next command says so."""
        self._completions.drain()

    def resize(self, slots: int) -> None:
        """So many slots are to be open: the next command says so."""
        self._completions.resize(slots)

    # -- what it says ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """New outcomes leave, as far as the window is open."""
        leader = self._links.leader
        if leader is None:
            return
        if len(self._completions) == 0:
            self._progress_at = self._clock.now()
        for encoded in self._completions.take():
            leader.send_raw(encoded)

    def resend(self, start: int = 0) -> None:
        """Says again what is not answered, from number `start` on."""
        leader = self._links.leader
        if leader is not None:
            self._progress_at = self._clock.now()
            for encoded in self._completions.unanswered(start):
                leader.send_raw(encoded)

    def resend_overdue(self, now: Nanos) -> None:
        """Says everything again if an answer was lost on the way."""
        if len(self._completions) and now - self._progress_at >= RESEND_AFTER:
            self.resend()

    def is_quiet(self, now: Nanos) -> bool:
        """Whether nothing was said or answered for long."""
        return now - self._progress_at >= IDLE_HOLDING_INTERVAL

    def say_holding(self, leader: Peer, held: Iterable[Pair]) -> None:
        """What the worker has, and what it finished without an answer."""
        self._progress_at = self._clock.now()
        pairs = [number for pair in held for number in pair]
        pairs += [number for pair in self.finished for number in pair]
        for start in range(0, max(len(pairs), 1), HELLO_ITEMS_MAX):
            end = start + HELLO_ITEMS_MAX
            leader.send(Holding(self.number, self._links.term, pairs[start:end], more=end < len(pairs)))

    # -- what it hears --------------------------------------------------------------------------------------

    def on_answers(self, answers: list[Answer], *, from_leader: bool) -> str:
        """What became of commands. Returns why the session is lost, "" if it is not."""
        now = self._clock.now()
        for answer in answers:
            if answer.session != self.number:
                continue
            if answer.code == ANSWER_NO_SESSION:
                return "the cluster does not know it"
            if answer.code == ANSWER_GAP:
                if not self._completions.can_rewind_to(answer.value):
                    return "its commands are not what the cluster expects"
                if from_leader and now - self._rewound_at >= REWIND_PAUSE:
                    self._rewound_at = now
                    self.resend(answer.value)
                continue
            if answer.code != ANSWER_OK:
                self._log.event("completion_refused", seq=answer.seq, code=answer.code)
            self._progress_at = now
            self.slots_open = self._completions.sized(answer.seq) or self.slots_open
            self.finished.difference_update(self._completions.answered(answer.seq))
        return ""
