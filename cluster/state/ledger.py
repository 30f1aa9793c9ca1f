"""What one entry decided: the digest that replicas compare, and on the leader the effects.

Replicas of a correct machine decide alike. To notice when they do not, every decision of an entry (an
assignment, an answer, a terminal state) is appended to a flat list of integers, and the list's encoding is
folded into a rolling crc32. The list costs a replica some tens of nanoseconds per task; it is the only trace
of a decision that a follower makes, since effects are not built there at all (`effects is None`).

Marks are negative, so that no two different sequences of decisions write the same list:
    index                           of the entry, first
    ANSWERED, session, seq, code, value
    REGISTERED, session, code, next_seq
    ASSIGNED, slot key, task...     a task may be followed by -attempt - ATTEMPT_MARK if it is not its first
    ENDED, state, task...           terminal records
    DRAINING, session               its slots get nothing more
    EVICTED, task...                forgotten
    RETRIED, task, date             raised, and is ready again at this date
    CANCELLED, task, grace          its worker is told to stop it
    REPLAYED, task...               ended once, and are pending again
    HOUSED, slot key, epoch         a slot owns another key
    GRANTED, claim, fence           of a lock, to one that waited
    LAPSED, claim, why              it has ended, as one of CLAIM_* says
    WANTED, claim                   its holder is to give it up
    ARMED, version, slot            the next slot of the schedule with these terms
    RESIZED, session, slots         of a worker: so many are open
    SLOTTED, version, slot, fate, task      what becomes of a slot: one of SLOT_*, its task or 0
    DUPLICATED, first, task...      accepted and ended, since the first one has their key
"""

from zlib import crc32

import msgspec

from cluster.state.effects import CLAIM_WANTED, Answer, ClaimNews, Effects, Registered, TaskResult

DIGEST_INTERVAL = 256       # entries between two reported digests

ANSWERED = -1
REGISTERED = -2
ASSIGNED = -3
ENDED = -4
DRAINING = -5
EVICTED = -6
RETRIED = -7
CANCELLED = -8
REPLAYED = -9
HOUSED = -10
GRANTED = -11
LAPSED = -12
WANTED = -13
ARMED = -14
SLOTTED = -15
DUPLICATED = -16
RESIZED = -17
ATTEMPT_MARK = 100          # below all marks: attempt 2 is written as -102

_encode = msgspec.msgpack.Encoder().encode


class Ledger:
    """Open during one `apply`. `decisions` is written to directly by the hot paths."""

    __slots__ = ("decisions", "effects", "reported", "rolling")

    def __init__(self) -> None:
        self.decisions: list[int] = []
        self.effects: Effects | None = None
        self.rolling = 0
        self.reported = (0, 0)      # (index, digest) at the last multiple of DIGEST_INTERVAL

    def open(self, index: int, effects: Effects | None) -> None:
        assert not self.decisions, "an entry was left open"
        self.decisions.append(index)
        self.effects = effects

    def close(self, index: int) -> None:
        assert self.decisions[0] == index
        self.rolling = crc32(_encode(self.decisions), self.rolling)
        if index % DIGEST_INTERVAL == 0:
            self.reported = (index, self.rolling)
        self.decisions.clear()
        self.effects = None

    def answer(self, session: int, seq: int, code: int, value: int) -> None:
        self.decisions += (ANSWERED, session, seq, code, value)
        if self.effects is not None:
            self.effects.answers.append(Answer(session, seq, code, value))

    def registered(self, name: str, incarnation: int, code: int, session: int, next_seq: int) -> None:
        self.decisions += (REGISTERED, session, code, next_seq)
        if self.effects is not None:
            self.effects.registered.append(Registered(name, incarnation, code, session, next_seq))

    def draining(self, session: int) -> None:
        self.decisions += (DRAINING, session)

    def resized(self, session: int, slots: int) -> None:
        self.decisions += (RESIZED, session, slots)

    def session_ended(self, session: int) -> None:
        if self.effects is not None:
            self.effects.ended.append(session)

    def cancelled(self, session: int, task: int, attempt: int, grace_ms: int) -> None:
        """The holder is to stop this attempt."""
        self.decisions += (CANCELLED, task, grace_ms)
        if self.effects is not None:
            self.effects.cancelled.setdefault(session, []).append((task, attempt, grace_ms))

    def withdrawn(self, session: int, task: int, attempt: int) -> None:
        if self.effects is not None:
            self.effects.withdrawn.setdefault(session, []).append((task, attempt))

    def moved(self, task: int) -> None:
        """It was in a slot, has not ended, and waits again. For those who watch it: no decision of its own."""
        if self.effects is not None:
            self.effects.moved.append(task)

    def granted(self, session: int, claim: int, fence: int) -> None:
        """A claim that waited holds its lock."""
        self.decisions += (GRANTED, claim, fence)
        if self.effects is not None:
            self.effects.claims.setdefault(session, []).append(ClaimNews(claim, fence))

    def lapsed(self, session: int, claim: int, why: int) -> None:
        """A claim ends otherwise than by its client's word; `why` is one of CLAIM_*."""
        self.decisions += (LAPSED, claim, why)
        if self.effects is not None:
            self.effects.claims.setdefault(session, []).append(ClaimNews(claim, 0, why))

    def wanted(self, session: int, claim: int, fence: int) -> None:
        """The holder of this claim is to give it up."""
        self.decisions += (WANTED, claim)
        if self.effects is not None:
            self.effects.claims.setdefault(session, []).append(ClaimNews(claim, fence, CLAIM_WANTED))

    def holders_changed(self, lock: str) -> None:
        """For those who watch it: no decision of its own."""
        if self.effects is not None:
            self.effects.locks[lock] = None

    def armed(self, version: int, next_ms: int) -> None:
        self.decisions += (ARMED, version, next_ms)

    def slotted(self, version: int, slot_ms: int, fate: int, task: int) -> None:
        """What becomes of a slot of a schedule."""
        self.decisions += (SLOTTED, version, slot_ms, fate, task)

    def schedule_changed(self, name: str) -> None:
        """For the leader, who may have something to do about it: no decision of its own."""
        if self.effects is not None:
            self.effects.schedules[name] = None

    def duplicated(self, submitter: int, first: int, results: list[TaskResult]) -> None:
        """Terminal records of duplicates, for the session that submitted them."""
        self.decisions += (DUPLICATED, first, *[result.task for result in results])
        if self.effects is not None:
            self.effects.results.setdefault(submitter, []).extend(results)

    def ended(self, submitter: int, result: TaskResult) -> None:
        """A terminal record, for the session that submitted the task."""
        self.decisions += (ENDED, result.state, result.task)
        if self.effects is not None:
            self.effects.results.setdefault(submitter, []).append(result)
