"""The claims of a session: what becomes of each, by what the cluster says and by the clock.

An Acquire is a command of the session and answered like any other, but that may be long before the lock is granted. The
grant comes as news, which may be lost with a link or a leader. So every new leader is asked for what became of claims,
and now and then one that says nothing of those that wait.

A claim that is given up is released, whatever has become of it by then: the Release stands behind the Acquire in the
session, so it ends the claim also if the grant is under way, and no claim is left behind that nobody knows of. One
whose count ran out (`cluster.client.holding`) is given up as well.
"""

from collections.abc import Callable

from actors import MILLISECOND, SECOND, Log, Nanos, Peer
from cluster.client.claim import SILENCE, TURN_OVER, Claim, State, Wanted
from cluster.client.claim_commands import ClaimCommands, Parting
from cluster.client.lock_listing import kind_of
from cluster.client.outbox import TASK_NUMBER_MAX
from cluster.client.questions import reject
from cluster.client.waiters import Waiter
from cluster.errors import LockMismatch, Overloaded, Unavailable
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
from cluster.state.locks import CLAIMS_MAX, SESSION_CLAIMS_MAX, TURNS_MAX
from cluster.wire import HELLO_ITEMS_MAX, Claims

OPEN_CLAIMS_MAX = 10_000                # of one client that are not over; more are refused at once
ASK_INTERVAL: Nanos = 2 * SECOND        # while one waits and the leader says nothing of it
CROWDED_RETRY_S = 1.0                   # after which a claim that was one too many may be made again
REASONS = {
    CLAIM_SILENT: "the cluster did not hear of this client for the hold time, and gave it to others",
    CLAIM_OVER: TURN_OVER,
}
assert OPEN_CLAIMS_MAX < SESSION_CLAIMS_MAX, "what a client refuses never gets to the cluster"
assert TURNS_MAX not in (SESSION_CLAIMS_MAX, CLAIMS_MAX), "an answer says by its number of what there are too many"


class SessionClaims:
    """Those of one session, from its first to its end. `pump` is called when something is to be said. `commands` are
    what is said of them."""

    def __init__(self, session: int, numbers_max: int, pump: Callable[[], None], log: Log) -> None:
        assert 0 < numbers_max <= TASK_NUMBER_MAX
        self.commands = ClaimCommands(session, self)
        self._session = session
        self._numbers_max = numbers_max
        self._pump = pump
        self._log = log
        self._known: dict[int, Claim] = {}          # asked for, waiting or held, by their ids

    @property
    def numbers_left(self) -> int:
        """Claims that may still be made in this session."""
        return self._numbers_max - self.commands.numbers_used

    @property
    def is_empty(self) -> bool:
        """Nothing of it is left, but for commands that are not answered."""
        return not self._known and self.commands.is_empty

    # -- what their owners do -----------------------------------------------------------------------------------------

    def acquire(self, wanted: Wanted, *, waits: bool) -> Claim:
        """A new claim, which leaves as soon as there is room for it. Raises Overloaded."""
        assert self._session and self.numbers_left > 0
        if self.commands.queued + len(self._known) >= OPEN_CLAIMS_MAX:
            reason = f"this client has {OPEN_CLAIMS_MAX} claims on locks, and no more at a time"
            raise Overloaded(reason, CROWDED_RETRY_S)
        claim = Claim(wanted, waits=waits, keeper=self)
        self.commands.acquire(claim)
        self._pump()
        return claim

    def release(self, claim: Claim, waiter: Waiter | None, rest_ms: int) -> None:
        """See Claim."""
        if claim.state is State.QUEUED:
            self.commands.withdraw(claim)
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
            self.commands.extend(claim, hold_ms, waiter, at_most_ms)
            self._pump()
        else:
            reject(waiter, claim.lost())

    # -- what the cluster says ----------------------------------------------------------------------------------------

    def left(self, claim: Claim) -> None:
        """It is asked for from now on."""
        self._known[claim.id] = claim
        claim.become(State.ASKED)

    def answered(self, claim: Claim, code: int, value: int, now: Nanos) -> None:
        """The Acquire was applied. News may have come before."""
        if claim.state is not State.ASKED:
            if code == ANSWER_OK:           # it was given up meanwhile
                self.commands.applied(claim.id)
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

    def on_news(self, leader: Peer, items: list[ClaimNews], sent: Nanos, now: Nanos) -> None:
        """What the leader says has become of claims; `sent` is when it was asked, 0 if it was not."""
        unclear: list[Claim] = []
        for news in items:
            claim = self._known.get(news.claim)
            if claim is None:               # it was given up
                if not news.fence:
                    self.commands.ended(news.claim)
            elif news.fence:
                if not self._granted(claim, news, sent, now):
                    unclear.append(claim)
                if news.why == CLAIM_WANTED and not claim.is_wanted:
                    claim.is_wanted = True
                    claim.on_wanted()
            else:
                del self._known[claim.id]
                if news.why == CLAIM_REPLACED or (sent and self._was_replaced(claim, now)):
                    claim.become(State.REPLACED)
                else:
                    self._end(claim, REASONS.get(news.why, f"reason {news.why}"))
        self._ask(leader, unclear, now)

    def _was_replaced(self, claim: Claim, now: Nanos) -> bool:
        """The leader was asked, and has not got it. The news of that were lost, but what has waited, was heard of in
        time, and has not had the whole of its turn, can have ended by nothing else."""
        assert claim.holding is not None
        at_most = claim.wanted.at_most_ms * MILLISECOND
        is_in_time = not claim.holding.has_ended(now) and (not at_most or now - claim.left_at < at_most)
        return claim.state is State.WAITING and is_in_time

    def _granted(self, claim: Claim, news: ClaimNews, sent: Nanos, now: Nanos) -> bool:
        """A bounded turn is entered only when it is known since when the leader counts it. False: ask for that."""
        assert claim.holding is not None
        at_most_ms = claim.wanted.at_most_ms
        if claim.state is State.HELD or not at_most_ms:
            self._grant(claim, news.fence, now)
        elif sent and news.held_ms >= 0:
            claim.holding.bound(sent - news.held_ms * MILLISECOND, at_most_ms * MILLISECOND)
            self._grant(claim, news.fence, now)
        else:
            return claim.state is not State.WAITING
        return True

    def confirmed(self, sent: Nanos, now: Nanos) -> None:
        """The leader answered the heartbeat that was sent at `sent`."""
        for claim in self._known.values():
            assert claim.holding is not None
            claim.holding.answered(sent, now)

    def lost(self, claim: Claim) -> None:
        """The state has it no more, as it says of an Extend."""
        if self._known.pop(claim.id, None) is not None:
            self._end(claim, "the cluster does not have it any more")

    def _grant(self, claim: Claim, fence: int, now: Nanos) -> None:
        if claim.state is State.HELD:
            return
        assert claim.holding is not None
        claim.fence = fence
        if claim.holding.has_ended(now):
            claim.become(State.MISSED)
            self._give_up(claim)
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
            what = "turns, with the rests behind them," if value == TURNS_MAX else "claims"
            reason = f'lock "{wanted.name}" is not waited for: {value} {what} are allowed, and there are as many'
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
        if self.commands.has_command:
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
        for waiter in (*self.commands.release_waiters(), *self.commands.answer_waiters()):
            if not waiter.done():
                waiter.set_result(None)
        self._end_all("the cluster ended the session of this client", None)

    def close(self, error: Unavailable) -> None:
        """The client ends, and says so to the cluster behind this."""
        for waiter in self.commands.release_waiters():
            reject(waiter, error)
        self._end_all("its client was closed", error)

    def _end_all(self, reason: str, error: Unavailable | None) -> None:
        claims = [*self.commands.clear(), *self._known.values()]
        self._known.clear()
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
        self.commands.release(claim.id, Parting(waiter, rest_ms, is_applied=claim.state is not State.ASKED))

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
