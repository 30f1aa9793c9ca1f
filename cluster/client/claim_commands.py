"""What a session says of its claims, until it leaves: the commands wait here until the window has room for them.

Releases go first, many in one; then changes of the hold time; then new claims, in the order in which they were made. A
claim gets its number when it leaves.
"""

from collections import OrderedDict, deque
from itertools import islice
from typing import NamedTuple, Protocol

from actors import MILLISECOND, Nanos
from cluster.client.claim import Claim
from cluster.client.holding import Holding
from cluster.client.questions import reject
from cluster.client.waiters import Hearer, Waiter
from cluster.errors import ClusterError
from cluster.state.commands import RELEASE_CLAIMS_MAX, TASK_NUMBER_BITS, Acquire, Extend, Release
from cluster.state.effects import ANSWER_OK

LockCommand = Acquire | Release | Extend


class Answered(Protocol):
    """Who hears what was answered (`cluster.client.claims`)."""

    def left(self, claim: Claim) -> None: ...
    def answered(self, claim: Claim, code: int, value: int, now: Nanos) -> None: ...
    def lost(self, claim: Claim) -> None: ...


class Parting(NamedTuple):
    """A claim that is to be released. `waiter` hears when it is; nobody gets the lock for `rest_ms`. That it
    `is_applied` is certain if its Acquire was answered."""

    waiter: Waiter | None = None
    rest_ms: int = 0
    is_applied: bool = False

    def tell(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class ClaimCommands:
    """Of one session, from its first to its end."""

    def __init__(self, session: int, claims: Answered) -> None:
        self._session = session
        self._claims = claims
        self._last_number = 0
        self._queue: OrderedDict[Claim, None] = OrderedDict()       # that have not left
        self._extensions: deque[_Extending] = deque()               # that have not left
        self._releases: dict[int, Parting] = {}                     # that have not left, by their ids, in order
        self._releasing: _Releasing | None = None                   # what was said and is not answered

    @property
    def queued(self) -> int:
        """How many claims have not left."""
        return len(self._queue)

    @property
    def numbers_used(self) -> int:
        """By claims that have left, and those that will."""
        return self._last_number + len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Nothing waits here."""
        return not (self._queue or self._extensions or self._releases)

    # -- in -----------------------------------------------------------------------------------------------------------

    def acquire(self, claim: Claim) -> None:
        self._queue[claim] = None

    def withdraw(self, claim: Claim) -> None:
        """One that has not left."""
        del self._queue[claim]

    def extend(self, claim: Claim, hold_ms: int, waiter: Waiter, at_most_ms: int) -> None:
        claim.extending.append(waiter)
        self._extensions.append(_Extending(self._claims, claim, hold_ms, at_most_ms, waiter))

    def release(self, claim: int, parting: Parting) -> None:
        """By its id: one that has left."""
        self._releases[claim] = parting

    def applied(self, claim: int) -> None:
        """The state has got one that may be to be released."""
        for partings in (self._releases, self._releasing.partings if self._releasing is not None else {}):
            if (parting := partings.get(claim)) is not None:
                partings[claim] = parting._replace(is_applied=True)

    def ended(self, claim: int) -> None:
        """One that may be to be released; nothing is left to be done."""
        parting = self._releases.pop(claim, None)
        if parting is None and self._releasing is not None:
            parting = self._releasing.partings.get(claim)
        if parting is not None:
            parting.tell()

    def clear(self) -> list[Claim]:
        """Nothing of it is to be said any more. The claims that had not left."""
        claims = list(self._queue)
        self._queue.clear()
        self._extensions.clear()
        self._releases.clear()
        return claims

    def release_waiters(self) -> list[Waiter]:
        """Who waits for a release that has not left."""
        return [parting.waiter for parting in self._releases.values() if parting.waiter is not None]

    def answer_waiters(self) -> list[Waiter]:
        """Who waits for the answer to one that has."""
        if self._releasing is None:
            return []
        return [parting.waiter for parting in self._releasing.partings.values() if parting.waiter is not None]

    @property
    def may_be_given_up(self) -> list[int]:
        """Claims to be released that the state has for certain, unless it has ended them, and that need no rest."""
        under_way = self._releasing.partings if self._releasing is not None else {}
        return [
            number
            for number, parting in (*under_way.items(), *self._releases.items())
            if parting.is_applied and not parting.rest_ms
        ]

    # -- out ----------------------------------------------------------------------------------------------------------

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
        number, first = next(iter(self._releases.items()))
        alike = (number for number, parting in self._releases.items() if not parting.rest_ms)
        ids = [number] if first.rest_ms else list(islice(alike, RELEASE_CLAIMS_MAX))
        self._releasing = _Releasing(self, {number: self._releases.pop(number) for number in ids})
        return Release(self._session, seq, low, ids, first.rest_ms), self._releasing

    def released(self) -> None:
        """What was said is answered."""
        self._releasing = None

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
        self._claims.left(claim)
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
        return command, _Acquiring(self._claims, claim)


class _Acquiring(Hearer):
    def __init__(self, claims: Answered, claim: Claim) -> None:
        self._claims = claims
        self._claim = claim

    def answered(self, code: int, value: int, now: Nanos) -> None:
        self._claims.answered(self._claim, code, value, now)

    def failed(self, error: ClusterError) -> None:
        """The session ends, which all its claims are told."""


class _Releasing(Hearer):
    def __init__(self, commands: ClaimCommands, partings: dict[int, Parting]) -> None:
        self.partings = partings
        self._commands = commands

    def answered(self, code: int, value: int, now: Nanos) -> None:
        self._commands.released()
        for parting in self.partings.values():
            parting.tell()

    def failed(self, error: ClusterError) -> None:
        for parting in self.partings.values():
            if parting.waiter is not None:
                reject(parting.waiter, error)


class _Extending(Hearer):
    """Of a claim that was held when it was asked for."""

    def __init__(self, claims: Answered, claim: Claim, hold_ms: int, at_most_ms: int, waiter: Waiter) -> None:
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
