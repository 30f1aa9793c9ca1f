"""The claims of a session: each is one wish to hold one lock, from when it is asked for until it is over.

An Acquire is a command of the session and answered like any other, but that may be long before the lock is granted. The
grant comes as news, which may be lost with a link or a leader. So every new leader is asked for what became of claims,
and now and then one that says nothing of those that wait.

A claim that is given up is released, whatever has become of it by then: the Release stands behind the Acquire in the
session, so it ends the claim also if the grant is under way, and no claim is left behind that nobody knows of. One
whose count ran out (`cluster.client.holding`) is given up as well.

Commands wait here until the window has room for them: releases first, many in one; then changes of the hold time; then
new claims, in the order in which they were made. A claim gets its number when it leaves.
"""

from asyncio import Future, get_running_loop
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from itertools import islice

from msgspec import Struct

from actors import MILLISECOND, SECOND, Log, Nanos, Peer
from cluster.client.holding import Holding
from cluster.client.lock_listing import kind_of
from cluster.client.outbox import TASK_NUMBER_MAX
from cluster.client.questions import reject
from cluster.client.waiters import Hearer, Waiter
from cluster.errors import ClusterError, LockBusy, LockLost, LockMismatch, Overloaded, Unavailable
from cluster.state.commands import RELEASE_CLAIMS_MAX, TASK_NUMBER_BITS, Acquire, Extend, Release
from cluster.state.effects import (
    ANSWER_BUSY,
    ANSWER_CROWDED,
    ANSWER_OK,
    ANSWER_OTHER_LIMIT,
    CLAIM_OVER,
    CLAIM_REPLACED,
    CLAIM_SILENT,
    CLAIM_WANTED,
    ClaimNews,
)
from cluster.wire import HELLO_ITEMS_MAX, Claims

HOLD = "30s"                            # how long a lock is held through silence, if nobody says otherwise
CLAIMS_MAX = 10_000                     # of one session that are not over; more are refused at once
ASK_INTERVAL: Nanos = 2 * SECOND        # while one waits and the leader says nothing of it
CROWDED_RETRY_S = 1.0                   # after which a claim that was one too many may be made again
REASONS = {
    CLAIM_SILENT: "the cluster did not hear of this client for the hold time, and gave it to others",
    CLAIM_OVER: "it was held for as long as it may be",
}
REPLACED = "somebody came to replace all who hold it or wait"
SILENCE = "the cluster did not answer for as long as it is held without an answer, or this process was stopped"

LockCommand = Acquire | Release | Extend


class State(Enum):
    """What its owner knows of a claim. From BUSY on it is over."""

    QUEUED = "it has not left"
    ASKED = "it is not answered"
    WAITING = "it waits for its turn"
    HELD = "it holds the lock"
    BUSY = "others hold the lock, and it was not to wait"
    REFUSED = "`error` says why"
    MISSED = "it ended, or counts no more, before its owner was told that it holds the lock"
    LOST = "it held the lock; `reason` says why not any more"
    OVER = "its owner gave it up"


class Wanted(Struct, frozen=True):
    """What is claimed: `units` of a lock that has `limit` of them."""

    name: str
    units: int
    limit: int
    hold_ms: int
    note: str
    at_most_ms: int = 0
    replaces: bool = False


class Claim:
    """One claim as its owner sees it. `on_lost` is called if it is lost while it holds the lock."""

    def __init__(self, wanted: Wanted, *, waits: bool, session: "SessionClaims") -> None:
        self.wanted = wanted
        self.waits = waits
        self.state = State.QUEUED
        self.id = 0                                 # from when it leaves, as the next
        self.holding: Holding | None = None
        self.fence = 0                              # once it is granted
        self.reason = ""
        self.error: ClusterError | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.is_wanted = False                      # while it is held: somebody came to replace its holder
        self.on_wanted: Callable[[], None] = lambda: None
        self.held_since: Nanos = 0                  # when its owner could know that it holds the lock
        self.left_at: Nanos = 0                     # when its Acquire left for the first time
        self.ask_at: Nanos = 0                      # when to ask what became of it, while it waits
        self.is_doubtful = False                    # it was said again: its answer may be an old one
        self.extending: list[Waiter] = []           # who asked for another hold time and was not answered
        self._session = session
        self._waiting: Future[None] | None = None

    def is_held(self, now: Nanos) -> bool:
        """By the clock, whatever was noticed: the process may have been stopped until this moment."""
        return self.state is State.HELD and self.holding is not None and not self.holding.has_ended(now)

    def release(self, waiter: Waiter | None = None, rest_ms: int = 0) -> None:
        """Gives it up, whatever has become of it. From now on it is not held; `waiter` is resolved when that is in the
        log, or there is nothing to be written. With `rest_ms` nobody gets the lock for so long."""
        self._session.release(self, waiter, rest_ms)

    def extend(self, hold_ms: int, waiter: Waiter, at_most_ms: int = 0) -> None:
        """Asks for another hold time (0 = as it is), or for more time of a bounded turn; `waiter` is resolved when that
        is in the log, or fails with LockLost."""
        self._session.extend(self, hold_ms, waiter, at_most_ms)

    def change(self) -> "Future[None]":
        """Done at the next change of its state. Several may wait for it: whoever may be cancelled shields it."""
        if self._waiting is None or self._waiting.done():
            self._waiting = get_running_loop().create_future()
        return self._waiting

    def become(self, state: State) -> None:
        self.state = state
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def lost(self) -> LockLost:
        """The error for who relied on it."""
        reason = self.reason or ("it was released" if self.state is State.OVER else SILENCE)
        return LockLost(self.wanted.name, self.fence, reason)


class SessionClaims:
    """Those of one session, from its first to its end. `pump` is called when something is to be said."""

    def __init__(self, session: int, numbers_max: int, pump: Callable[[], None], log: Log) -> None:
        assert 0 < numbers_max <= TASK_NUMBER_MAX
        self._session = session
        self._numbers_max = numbers_max
        self._pump = pump
        self._log = log
        self._last_number = 0
        self._queue: OrderedDict[Claim, None] = OrderedDict()       # that have not left
        self._known: dict[int, Claim] = {}                          # asked for, waiting or held, by their ids
        self._extensions: deque[_Extending] = deque()               # that have not left
        self._releases: dict[int, tuple[Waiter | None, int]] = {}   # ids to be released, in order, and their rest
        self._releasing: _Releasing | None = None                   # what was said and is not answered

    @property
    def numbers_left(self) -> int:
        """Claims that may still be made in this session."""
        return self._numbers_max - self._last_number - len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Nothing of it is left, but for commands that are not answered."""
        return not (self._queue or self._known or self._extensions or self._releases)

    # -- what their owners do -----------------------------------------------------------------------------------------

    def acquire(self, wanted: Wanted, *, waits: bool) -> Claim:
        """A new claim, which leaves as soon as there is room for it. Raises Overloaded."""
        assert self._session and self.numbers_left > 0
        if len(self._queue) + len(self._known) >= CLAIMS_MAX:
            raise Overloaded(f"this client has {CLAIMS_MAX} claims on locks, and no more at a time", CROWDED_RETRY_S)
        claim = Claim(wanted, waits=waits, session=self)
        self._queue[claim] = None
        self._pump()
        return claim

    def release(self, claim: Claim, waiter: Waiter | None, rest_ms: int) -> None:
        """See Claim."""
        if claim.state is State.QUEUED:
            del self._queue[claim]
            claim.become(State.OVER)
        elif claim.id in self._known:
            self._give_up(claim, waiter, rest_ms)
            waiter = None
            claim.become(State.OVER)
            self._pump()
        if waiter is not None:
            waiter.set_result(None)

    def extend(self, claim: Claim, hold_ms: int, waiter: Waiter, at_most_ms: int) -> None:
        """See Claim."""
        if claim.state is State.HELD:
            claim.extending.append(waiter)
            self._extensions.append(_Extending(self, claim, hold_ms, at_most_ms, waiter))
            self._pump()
        else:
            reject(waiter, claim.lost())

    # -- commands -----------------------------------------------------------------------------------------------------

    @property
    def has_command(self) -> bool:
        """Whether there is anything to be said."""
        return self.has_release or self.has_request

    @property
    def has_release(self) -> bool:
        """One is under way at a time; what comes meanwhile is in the next."""
        return bool(self._releases) and self._releasing is None

    @property
    def has_request(self) -> bool:
        """Whether there is anything else."""
        return bool(self._extensions or self._queue)

    def take_release(self, seq: int, low: int) -> tuple[Release, Hearer]:
        number, (_, rest_ms) = next(iter(self._releases.items()))
        alike = (number for number, (_, rest) in self._releases.items() if not rest)
        ids = [number] if rest_ms else list(islice(alike, RELEASE_CLAIMS_MAX))
        waiters = [waiter for number in ids if (waiter := self._releases.pop(number)[0]) is not None]
        self._releasing = _Releasing(self, waiters)
        return Release(self._session, seq, low, ids, rest_ms), self._releasing

    def take_request(self, seq: int, low: int, now: Nanos) -> tuple[Acquire | Extend, Hearer]:
        """It leaves now."""
        if self._extensions:
            extending = self._extensions.popleft()
            extending.leave(now)
            claim = extending.claim
            return Extend(self._session, seq, low, claim.id, extending.hold_ms, extending.at_most_ms), extending
        claim, _ = self._queue.popitem(last=False)
        wanted = claim.wanted
        self._last_number = number = self._last_number + 1
        claim.id = self._session << TASK_NUMBER_BITS | number
        claim.left_at = now
        claim.holding = Holding(wanted.hold_ms * MILLISECOND, now)
        self._known[claim.id] = claim
        claim.become(State.ASKED)
        command = Acquire(
            self._session,
            seq,
            low,
            number,
            wanted.name,
            wanted.units,
            wanted.limit,
            wanted.hold_ms,
            claim.waits,
            wanted.note,
            wanted.at_most_ms,
            wanted.replaces,
        )
        return command, _Acquiring(self, claim)

    # -- what the cluster says ----------------------------------------------------------------------------------------

    def answered(self, claim: Claim, code: int, value: int, now: Nanos) -> None:
        """The Acquire was applied. News may have come before."""
        if claim.state is not State.ASKED:
            return
        if code != ANSWER_OK:
            self._refuse(claim, code, value)
        elif value:
            assert claim.holding is not None
            if claim.wanted.at_most_ms:
                claim.holding.bound(claim.left_at, claim.wanted.at_most_ms * MILLISECOND)
            self._grant(claim, value, now)
        else:
            claim.ask_at = now if claim.is_doubtful else now + ASK_INTERVAL
            claim.become(State.WAITING)

    def on_news(self, items: list[ClaimNews], sent: Nanos, now: Nanos) -> None:
        """What the leader says has become of claims; `sent` is when it was asked, 0 if it was not."""
        for news in items:
            claim = self._known.get(news.claim)
            if claim is None:
                continue        # it was given up
            if news.fence:
                self._granted(claim, news, sent, now)
                if news.why == CLAIM_WANTED and not claim.is_wanted:
                    claim.is_wanted = True
                    claim.on_wanted()
            else:
                del self._known[claim.id]
                if news.why == CLAIM_REPLACED:
                    claim.error = LockBusy(claim.wanted.name, 0, REPLACED)
                    claim.become(State.REFUSED)
                else:
                    self._end(claim, REASONS.get(news.why, f"reason {news.why}"))

    def _granted(self, claim: Claim, news: ClaimNews, sent: Nanos, now: Nanos) -> None:
        """A bounded turn is entered only when it is known since when the leader counts it."""
        assert claim.holding is not None
        at_most_ms = claim.wanted.at_most_ms
        if claim.state is State.HELD or not at_most_ms:
            self._grant(claim, news.fence, now)
        elif sent and news.held_ms >= 0:
            claim.holding.bound(sent - news.held_ms * MILLISECOND, at_most_ms * MILLISECOND)
            self._grant(claim, news.fence, now)
        elif claim.state is State.WAITING:
            claim.ask_at = now

    def confirmed(self, sent: Nanos, now: Nanos) -> None:
        """The leader answered the heartbeat that was sent at `sent`."""
        for claim in self._known.values():
            assert claim.holding is not None
            claim.holding.answered(sent, now)

    def lost(self, claim: Claim) -> None:
        """The state has it no more, as it says of an Extend."""
        if self._known.pop(claim.id, None) is not None:
            self._end(claim, "the cluster does not have it any more")

    def released(self) -> None:
        self._releasing = None

    def _grant(self, claim: Claim, fence: int, now: Nanos) -> None:
        if claim.state is State.HELD:
            return
        assert claim.holding is not None
        claim.fence = fence
        if claim.holding.has_ended(now):
            self._give_up(claim)
            claim.become(State.MISSED)
        else:
            claim.held_since = now
            claim.become(State.HELD)

    def _refuse(self, claim: Claim, code: int, value: int) -> None:
        del self._known[claim.id]
        if code == ANSWER_BUSY:
            claim.become(State.BUSY)
            return
        wanted = claim.wanted
        if code == ANSWER_OTHER_LIMIT:
            claim.error = LockMismatch(wanted.name, kind_of(wanted.limit), kind_of(value))
        elif code == ANSWER_CROWDED:
            reason = f'lock "{wanted.name}" is not waited for: {value} claims are allowed, and there are as many'
            claim.error = Overloaded(reason, CROWDED_RETRY_S)
        else:
            claim.error = Unavailable("the cluster refused the claim on a lock", outcome="refused")
        claim.become(State.REFUSED)

    # -- links and time -----------------------------------------------------------------------------------------------

    def rejoin(self, leader: Peer, now: Nanos) -> None:
        """A new leader, or a new link to it: news may be lost."""
        for claim in self._known.values():
            claim.is_doubtful = claim.is_doubtful or claim.state is State.ASKED
        self._ask(leader, [claim for claim in self._known.values() if claim.state is not State.ASKED], now)

    def sweep(self, leader: Peer | None, now: Nanos) -> None:
        """Gives up what counts no more, and asks for what waits. A claim that is not answered may still be granted in
        time, or will be found too late."""
        late = [
            claim
            for claim in self._known.values()
            if claim.state is not State.ASKED and claim.holding is not None and claim.holding.has_ended(now)
        ]
        for claim in late:
            self._give_up(claim)
            assert claim.holding is not None
            self._end(claim, REASONS[CLAIM_OVER] if claim.holding.is_over(now) else SILENCE)
        if leader is not None:
            waiting = [claim for claim in self._known.values() if claim.state is State.WAITING and claim.ask_at <= now]
            self._ask(leader, waiting, now)
        if self.has_command:
            self._pump()

    def _ask(self, leader: Peer, claims: list[Claim], now: Nanos) -> None:
        for start in range(0, len(claims), HELLO_ITEMS_MAX):
            chunk = claims[start : start + HELLO_ITEMS_MAX]
            is_taken = leader.send(Claims(self._session, [claim.id for claim in chunk], now))
            for claim in chunk:
                claim.ask_at = now + ASK_INTERVAL if is_taken else now

    # -- the end ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """The state has no such session any more, and so none of these claims. Another session will follow."""
        waiters = [waiter for waiter, _ in self._releases.values()]
        waiters += self._releasing.waiters if self._releasing is not None else ()
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._end_all("the cluster ended the session of this client", None)

    def close(self, error: Unavailable) -> None:
        """The client ends, and says so to the cluster behind this."""
        for waiter, _ in self._releases.values():
            if waiter is not None:
                reject(waiter, error)
        self._end_all("its client was closed", error)

    def _end_all(self, reason: str, error: Unavailable | None) -> None:
        claims = [*self._queue, *self._known.values()]
        self._queue.clear()
        self._known.clear()
        self._extensions.clear()
        self._releases.clear()
        for claim in claims:
            if error is not None and claim.state is not State.HELD:
                claim.error = error
                claim.become(State.REFUSED)
            else:
                self._end(claim, reason, is_news=error is None)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _give_up(self, claim: Claim, waiter: Waiter | None = None, rest_ms: int = 0) -> None:
        """It is to be released."""
        del self._known[claim.id]
        self._releases[claim.id] = (waiter, rest_ms)

    def _end(self, claim: Claim, reason: str, *, is_news: bool = True) -> None:
        """It does not count any more, and its owner did not release it. `is_news`: nor close its client."""
        if claim.state is not State.HELD:
            claim.become(State.MISSED)
            return
        claim.reason = reason
        claim.become(State.LOST)
        for waiter in claim.extending:
            reject(waiter, claim.lost())
        if is_news:
            self._log.event("lock_lost", lock=claim.wanted.name, fence=claim.fence, reason=reason)
        claim.on_lost()


class _Acquiring(Hearer):
    def __init__(self, claims: SessionClaims, claim: Claim) -> None:
        self._claims = claims
        self._claim = claim

    def answered(self, code: int, value: int, now: Nanos) -> None:
        self._claims.answered(self._claim, code, value, now)

    def failed(self, error: ClusterError) -> None:
        """The session ends, which all its claims are told."""


class _Releasing(Hearer):
    def __init__(self, claims: SessionClaims, waiters: list[Waiter]) -> None:
        self._claims = claims
        self.waiters = waiters

    def answered(self, code: int, value: int, now: Nanos) -> None:
        self._claims.released()
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def failed(self, error: ClusterError) -> None:
        for waiter in self.waiters:
            reject(waiter, error)


class _Extending(Hearer):
    """Of a claim that was held when it was asked for."""

    def __init__(self, claims: SessionClaims, claim: Claim, hold_ms: int, at_most_ms: int, waiter: Waiter) -> None:
        self.claim = claim
        self.hold_ms = hold_ms
        self.at_most_ms = at_most_ms
        self._claims = claims
        self._waiter = waiter

    def leave(self, now: Nanos) -> None:
        assert self.claim.holding is not None
        if self.hold_ms:
            self.claim.holding.asks(self.hold_ms * MILLISECOND)
        if self.at_most_ms:
            self.claim.holding.asks_bound(now, self.at_most_ms * MILLISECOND)

    def answered(self, code: int, value: int, now: Nanos) -> None:
        claim = self.claim
        claim.extending.remove(self._waiter)
        if code == ANSWER_OK:
            assert claim.holding is not None
            if self.at_most_ms:     # else the turn may last longer by now, which is not relied on
                claim.holding.prolonged(now)
            if self.hold_ms:
                claim.holding.extended(now)
        else:
            self._claims.lost(claim)
        if not claim.is_held(now):
            reject(self._waiter, claim.lost())
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def failed(self, error: ClusterError) -> None:
        reject(self._waiter, self.claim.lost())
