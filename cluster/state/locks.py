"""Locks: who holds what, who is next, and the fences that tell an old holder from a new one.

A lock is a name with a number of units, its limit; who wants it *claims* some of them. A mutex has one unit, a
semaphore n, and of a read-write lock a reader claims one unit and a writer all. Claims are granted in the order in
which they came, whatever they ask for: a writer that waits is not passed by readers, and the head that does not fit
holds up what is behind it. A lock exists as long as somebody claims it, and its limit is that of the first who did.

Every grant takes the next number of one counter, its *fence*. So of two grants of a lock, at any time and by any kind
of end of the first, the later has the higher fence, and whoever keeps something that a lock protects can refuse the
lower one (Kleppmann, "How to do distributed locking", 2016). What is kept in this state looks closer: it refuses a
fence under which nothing is held any more (`holds`).

A claim belongs to a session. It ends when its session says so, when the session ends, or by a Lapse: the leader has not
heard from the session for as long as the claim allows. Which of them it is decides nothing: what is free is granted to
the next in the same entry, and only to a session that is there at that moment, for all claims of one that ends are gone
before anything is granted. (etcd's lock service once looked at the lease of a waiter only when it began to wait:
github.com/etcd-io/etcd issue 11457.)

Turns. An exclusive job is a mutex with two durations. `at_most` bounds a turn, for a holder that lives and hangs, and a
rest after a short turn keeps out a replica that comes late with the same idea. Both are judged as silence is: by the
clock of the leader, which counts anew if it is new, and ended by a Lapse. So a turn never ends here before the holder,
which counts from an earlier moment, has stopped; whatever wall clocks do, which is why stamps are not used. A rest
outlives the session that asked for it: its client may have been started for this one job.

Who replaces a holder waits for it as well. The holder is asked to give up, and it is granted when that is done.

Cost: O(1) for each claim, whatever waits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.state.commands import (
    HOLD_MS_MAX,
    HOLD_MS_MIN,
    LOCK_LIMIT_MAX,
    LOCK_NOTE_BYTES_MAX,
    RELEASE_CLAIMS_MAX,
    TASK_NUMBER_BITS,
    TURN_MS_MAX,
    Acquire,
    Extend,
    Lapse,
    Release,
)
from cluster.state.effects import (
    ANSWER_BUSY,
    ANSWER_CROWDED,
    ANSWER_LOST,
    ANSWER_OK,
    ANSWER_OTHER_LIMIT,
    ANSWER_REFUSED,
    CLAIM_OVER,
    CLAIM_REPLACED,
    CLAIM_SILENT,
)
from cluster.state.ledger import Ledger
from cluster.state.lock_rows import HOLDERS_SHOWN, Holder, LockRow
from cluster.state.sessions import Session, Sessions
from cluster.state.texts import is_name

CLAIM_NUMBER_MAX = (1 << TASK_NUMBER_BITS) - 1
CLAIMS_MAX = 200_000
SESSION_CLAIMS_MAX = 16_384
TURNS_MAX = 100_000         # that are held or rest, of bounded ones

assert SESSION_CLAIMS_MAX * 2 <= CLAIMS_MAX, "one client leaves room for others"


@dataclass(slots=True, eq=False)
class Claim:
    """`fence` is 0 while it waits, `since_ms` the stamp of the grant. One that rests has no session any more."""

    id: int
    session: int
    lock: "Lock"
    units: int
    hold_ms: int
    note: str
    fence: int = 0
    since_ms: int = 0
    at_most_ms: int = 0                                         # that it may be held; 0 = while its client lives
    rest_ms: int = 0                                            # it was released, and keeps others out for so long
    terms: int = 0                                              # how often any of its durations has changed
    is_wanted: bool = False                                     # its holder was asked to give up


@dataclass(slots=True, eq=False)
class Lock:
    """Invariants: `taken` is the sum of what its holders claim, at most `limit`; the first that waits does not fit
    beside them; somebody claims it."""

    name: str
    limit: int
    taken: int = 0
    holders: dict[int, Claim] = field(default_factory=dict)     # by fence, in that order
    waiting: dict[int, Claim] = field(default_factory=dict)     # by id, in the order in which they came

    def fits(self, units: int) -> bool:
        return self.taken + units <= self.limit


class Locks:
    """All locks and all claims."""

    __slots__ = ("_ledger", "_sessions", "bounded", "by_fence", "by_name", "by_session", "claims", "fences", "rests")

    def __init__(self, sessions: Sessions, ledger: Ledger) -> None:
        self._sessions = sessions
        self._ledger = ledger
        self.by_name: dict[str, Lock] = {}
        self.claims: dict[int, Claim] = {}                      # by id, at most CLAIMS_MAX that do not rest
        self.by_session: dict[int, dict[int, Claim]] = {}       # by session, then by id
        self.by_fence: dict[int, Claim] = {}                    # those that are held
        self.fences = 0                                         # granted so far
        self.rests = 0                                          # claims that rest
        self.bounded: dict[int, Claim] = {}                     # by fence: held for a while, or at rest

    def holds(self, fence: int) -> bool:
        """Whether something is held under this fence. What rests is held by nobody."""
        claim = self.by_fence.get(fence)
        return claim is not None and not claim.rest_ms

    # -- commands ---------------------------------------------------------------------------------------------------

    def acquire(self, session: Session, command: Acquire, now_ms: int) -> tuple[int, int]:
        """Applies an Acquire in its turn; returns its answer's (code, value)."""
        if not _is_valid(command) or not session.last_claim < command.number <= CLAIM_NUMBER_MAX:
            return ANSWER_REFUSED, session.last_claim + 1
        session.last_claim = command.number
        lock = self.by_name.get(command.name)
        if lock is not None and lock.limit != command.limit:
            return ANSWER_OTHER_LIMIT, lock.limit
        at_once = lock is None or (not lock.waiting and lock.fits(command.units))
        if not (at_once or command.waits):
            return ANSWER_BUSY, 0
        if len(self.by_session.get(session.id, ())) >= SESSION_CLAIMS_MAX:
            return ANSWER_CROWDED, SESSION_CLAIMS_MAX
        if len(self.claims) - self.rests >= CLAIMS_MAX:
            return ANSWER_CROWDED, CLAIMS_MAX
        if command.at_most_ms and len(self.bounded) >= TURNS_MAX:
            return ANSWER_CROWDED, TURNS_MAX
        if lock is None:
            lock = self.by_name[command.name] = Lock(command.name, command.limit)
        number = session.id << TASK_NUMBER_BITS | command.number
        claim = Claim(number, session.id, lock, command.units, command.hold_ms, command.note)
        claim.at_most_ms = command.at_most_ms
        if command.replaces:
            self._replace(lock)
        self.add(claim)
        if at_once:
            self._grant(claim, now_ms)
        return ANSWER_OK, claim.fence

    def _replace(self, lock: Lock) -> None:
        """Somebody new is to be the next, and soon."""
        for claim in list(lock.waiting.values()):
            self._ledger.lapsed(claim.session, claim.id, CLAIM_REPLACED)
            self._forget(claim)
        for claim in lock.holders.values():
            if not (claim.is_wanted or claim.rest_ms):
                claim.is_wanted = True
                self._ledger.wanted(claim.session, claim.id, claim.fence)

    def release(self, session: Session, command: Release, now_ms: int) -> tuple[int, int]:
        """Applies a Release in its turn; returns its answer's (code, value). What is another's is passed over."""
        if len(command.claims) > RELEASE_CLAIMS_MAX or not 0 <= command.rest_ms <= TURN_MS_MAX:
            return ANSWER_REFUSED, 0
        own = self.by_session.get(session.id, {})
        found = [own[number] for number in dict.fromkeys(command.claims) if number in own]
        ended = [claim for claim in found if not (command.rest_ms and self._rest(claim, command.rest_ms))]
        self._end(ended, now_ms)
        return ANSWER_OK, len(found)

    def extend(self, session: Session, command: Extend) -> tuple[int, int]:
        """Applies an Extend in its turn; returns its answer's (code, value)."""
        hold_ms, at_most_ms = command.hold_ms, command.at_most_ms
        if (hold_ms and not HOLD_MS_MIN <= hold_ms <= HOLD_MS_MAX) or not 0 <= at_most_ms <= TURN_MS_MAX:
            return ANSWER_REFUSED, 0
        claim = self.by_session.get(session.id, {}).get(command.claim)
        if claim is None:
            return ANSWER_LOST, 0
        claim.hold_ms = hold_ms or claim.hold_ms
        if claim.at_most_ms:
            claim.at_most_ms = at_most_ms or claim.at_most_ms
        claim.terms += 1
        return ANSWER_OK, claim.fence

    def lapse(self, command: Lapse, now_ms: int) -> None:
        """Ends claims whose sessions were silent, or whose time is over, unless their terms are others by now."""
        found: dict[int, Claim] = {}
        for judged, why in ((command.silent, CLAIM_SILENT), (command.over, CLAIM_OVER)):
            pairs = iter(judged)
            for number, terms in zip(pairs, pairs, strict=False):
                claim = self.claims.get(number)
                if claim is not None and claim.terms == terms and number not in found:
                    found[number] = claim
                    self._ledger.lapsed(claim.session, claim.id, why)
        self._end(found.values(), now_ms)

    def end_session(self, session: int, now_ms: int) -> None:
        """All claims of a session that is not there any more."""
        own = self.by_session.get(session)
        if own is not None:
            self._end([own[number] for number in sorted(own)], now_ms)

    # -- inside -----------------------------------------------------------------------------------------------------

    def add(self, claim: Claim) -> None:
        """Tables a claim, which waits if it has no fence. Its lock is tabled."""
        self.claims[claim.id] = claim
        if claim.rest_ms:
            self.rests += 1
        else:
            self.by_session.setdefault(claim.session, {})[claim.id] = claim
        if claim.fence:
            self._hold(claim)
        else:
            claim.lock.waiting[claim.id] = claim

    def _grant(self, claim: Claim, now_ms: int) -> None:
        """Hands a claim that waits its units."""
        assert not claim.fence and self._sessions.by_id[claim.session]
        del claim.lock.waiting[claim.id]
        self.fences += 1
        claim.fence, claim.since_ms = self.fences, now_ms
        self._hold(claim)
        self._ledger.holders_changed(claim.lock.name)

    def _hold(self, claim: Claim) -> None:
        lock = claim.lock
        assert lock.fits(claim.units)
        lock.taken += claim.units
        lock.holders[claim.fence] = self.by_fence[claim.fence] = claim
        if claim.at_most_ms or claim.rest_ms:
            self.bounded[claim.fence] = claim

    def _rest(self, claim: Claim, rest_ms: int) -> bool:
        """Lets what is held of a mutex stay there, without its session; False if it is not held, or is no turn and one
        too many."""
        if not claim.fence or claim.lock.limit != 1:
            return False
        if not claim.at_most_ms and len(self.bounded) >= TURNS_MAX:     # what is no turn was not counted when it came
            return False
        self.rests += 1
        self._leave_session(claim)
        claim.rest_ms = rest_ms
        claim.terms += 1
        self.bounded[claim.fence] = claim
        self._ledger.holders_changed(claim.lock.name)
        return True

    def _leave_session(self, claim: Claim) -> None:
        own = self.by_session[claim.session]
        del own[claim.id]
        if not own:
            del self.by_session[claim.session]

    def _end(self, claims: Iterable[Claim], now_ms: int) -> None:
        """Forgets them all, then grants what is free: none of them may be granted because of another."""
        locks: dict[str, Lock] = {}
        for claim in claims:
            self._forget(claim)
            locks[claim.lock.name] = claim.lock
        for lock in locks.values():
            self._go_on(lock, now_ms)

    def _forget(self, claim: Claim) -> None:
        lock = claim.lock
        del self.claims[claim.id]
        if claim.rest_ms:
            self.rests -= 1
        else:
            self._leave_session(claim)
        if claim.fence:
            del lock.holders[claim.fence]
            del self.by_fence[claim.fence]
            self.bounded.pop(claim.fence, None)
            lock.taken -= claim.units
            self._ledger.holders_changed(lock.name)
        else:
            del lock.waiting[claim.id]

    def _go_on(self, lock: Lock, now_ms: int) -> None:
        while lock.waiting:
            claim = next(iter(lock.waiting.values()))
            if not lock.fits(claim.units):
                return
            self._grant(claim, now_ms)
            self._ledger.granted(claim.session, claim.id, claim.fence)
        if not lock.holders:
            del self.by_name[lock.name]

    # -- reading, between entries -----------------------------------------------------------------------------------

    def row(self, name: str) -> LockRow:
        """As it is shown; of a lock that nobody claims, too."""
        lock = self.by_name.get(name)
        if lock is None:
            return LockRow(name, 0, [], 0, 0)
        shown = [self._holder(claim) for _, claim in zip(range(HOLDERS_SHOWN), lock.holders.values(), strict=False)]
        return LockRow(name, lock.limit, shown, len(lock.holders), len(lock.waiting))

    def _holder(self, claim: Claim) -> Holder:
        session = self._sessions.by_id.get(claim.session)       # what rests may have outlived it
        terms = (claim.since_ms, claim.at_most_ms, claim.rest_ms > 0)
        return Holder(claim.id, claim.fence, claim.units, claim.note, session.name if session else "", *terms)


def _is_valid(command: Acquire) -> bool:
    return (
        is_name(command.name)
        and 1 <= command.units <= command.limit <= LOCK_LIMIT_MAX
        and HOLD_MS_MIN <= command.hold_ms <= HOLD_MS_MAX
        and len(command.note) <= LOCK_NOTE_BYTES_MAX
        and len(command.note.encode()) <= LOCK_NOTE_BYTES_MAX
        and 0 <= command.at_most_ms <= TURN_MS_MAX
        and (command.limit == 1 or not (command.at_most_ms or command.replaces))
    )
