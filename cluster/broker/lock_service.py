"""Locks at the broker: which commands of theirs are proposed, who is told what became of a claim, and who is silent.

It decides nothing. Who holds what is in the state (`cluster.state.locks`), and a claim whose client says nothing, or
cannot have its Release taken, ends by a Lapse in the log, never here. This is the part of the leader around that: it is
no actor of its own, since what it looks at (links, leases, rounds, the pace of proposals) is the Broker's, message for
message.

What it tells may be lost with a link or a leader, so nothing rests on it: a client asks for its claims over every new
link and of every new leader, and now and then while one waits.

Silence. The heartbeats of a session count for all of its claims, so a held lock costs no message of its own. Two rules
make a holder safe that counts for itself (`cluster.client.holding`). The holder counts from the moment it sent its last
heartbeat that was answered, the leader from when it heard of it, which is later. And a heartbeat is not answered while
a Lapse of the same session is on its way to the log, for its holder would count from that one on.

Turns that are bounded, and rests, are counted from when this leader saw them in its state: never from too early, and a
new leader counts anew.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from actors import MILLISECOND, SECOND, Log, Nanos
from cluster.broker.lease_table import LeaseTable
from cluster.broker.link import Link, Links
from cluster.broker.questions import Questions
from cluster.state.commands import HOLD_MS_MIN, Acquire, Lapse
from cluster.state.effects import CLAIM_OVER, CLAIM_SILENT, CLAIM_WANTED, ClaimNews, Effects
from cluster.state.locks import Claim
from cluster.state.machine import Machine
from cluster.state.texts import is_name
from cluster.wire import HELLO_ITEMS_MAX, Claims, ClaimsNews, GiveUpClaims, LockIs, WatchLock

WATCHED_LOCKS_MAX = 1_024       # of one link
LAPSES_MAX = 1_024              # in one command
PROPOSE_AGAIN: Nanos = 5 * SECOND      # if nothing came of it: the log had no room for it
NOT_PROPOSED: Nanos = -1


class LockService:
    """Of one broker; it does something while that leads. `propose` writes a command into the log, `refuse` notes what
    no client of ours says. Invariant: `_watchers` and `_watched` say the same, by lock and by link."""

    def __init__(
        self,
        machine: Machine,
        links: Links,
        leases: LeaseTable,
        questions: Questions,
        log: Log,
        now: Callable[[], Nanos],
        propose: Callable[[Lapse], None],
        refuse: Callable[[Link, str], None],
    ) -> None:
        self._machine = machine
        self._links = links
        self._leases = leases
        self._questions = questions
        self._log = log
        self._now = now
        self._propose = propose
        self._refuse = refuse
        # Session -> claims that were proposed to lapse, their terms, and when.
        self._lapsing: dict[int, dict[int, tuple[int, Nanos]]] = {}
        # Fence -> terms of its claim, since when they are so, and when its end was proposed.
        self._bounded: dict[int, tuple[int, Nanos, Nanos]] = {}
        self._watchers: dict[str, dict[Link, None]] = {}
        self._watched: dict[Link, dict[str, None]] = {}
        self._untold: dict[Link, dict[str, None]] = {}          # whose link was full: of these only what is then
        self._wanted: dict[Link, dict[int, None]] = {}          # likewise: claims whose holders are to give them up

    def restart(self) -> None:
        """Another term: everyone says again what it watches, and asks for its claims."""
        for kept in (self._lapsing, self._bounded, self._watchers, self._watched, self._untold, self._wanted):
            kept.clear()

    def forget(self, link: Link) -> None:
        """A link is gone."""
        for name in self._watched.pop(link, ()):
            self._drop_watcher(name, link)
        self._untold.pop(link, None)
        self._wanted.pop(link, None)

    def is_in_no_hurry(self, command: Acquire) -> bool:
        """Whether it would wait now, and so may be written a little later."""
        lock = self._machine.locks.by_name.get(command.name)
        return command.waits and lock is not None and (bool(lock.waiting) or not lock.fits(command.units))

    # -- effects ------------------------------------------------------------------------------------------------------

    def carry_out(self, effects: Effects) -> None:
        """After the answers to commands: a client does not look at news of a claim whose Acquire is not answered."""
        for session, items in effects.claims.items():
            link = self._links.of_session(session)
            if link is not None:
                self._send_news(link, session, items)
        for name in effects.locks:
            for link in self._watchers.get(name, ()):
                self._tell(link, name)
        for session in list(self._lapsing):
            self._look_at_lapsing(session)

    def _send_news(self, link: Link, session: int, items: list[ClaimNews]) -> None:
        """If the link is full they are lost. What waits is asked for again; a holder has nothing to ask for."""
        for start in range(0, len(items), HELLO_ITEMS_MAX):
            part = items[start : start + HELLO_ITEMS_MAX]
            if link.peer.send(ClaimsNews(session, part)):
                continue
            if wanted := [news.claim for news in part if news.why == CLAIM_WANTED]:
                self._wanted.setdefault(link, {}).update(dict.fromkeys(wanted))

    def _say_wanted(self, link: Link, claims: Iterable[int]) -> None:
        """Of those that are still held."""
        own = self._machine.locks.by_session.get(link.session, {})
        items = [ClaimNews(number, own[number].fence, CLAIM_WANTED) for number in claims if number in own]
        self._send_news(link, link.session, items)

    def _look_at_lapsing(self, session: int) -> None:
        """Forgets the claims that have lapsed, or will not: their terms are others by now."""
        claims = self._machine.locks.claims
        for number, (terms, _) in list(self._lapsing[session].items()):
            claim = claims.get(number)
            if claim is None or claim.terms != terms:
                del self._lapsing[session][number]
        if not self._lapsing[session]:
            del self._lapsing[session]

    # -- silence and turns --------------------------------------------------------------------------------------------

    def is_lapsing(self, session: int) -> bool:
        """Whether a claim of this session is about to end for its silence: then its heartbeats are not answered."""
        return session in self._lapsing

    def look(self, now: Nanos) -> None:
        """Twice a second: proposes the end of claims whose time is over."""
        silent, over = self._silent(now), self._over(now)
        for claims in _chunks(silent):
            self._propose(Lapse(claims))
        for claims in _chunks(over):
            self._propose(Lapse([], claims))
        for link, wanted in list(self._wanted.items()):
            del self._wanted[link]
            self._say_wanted(link, wanted)
        for link, names in list(self._untold.items()):
            del self._untold[link]
            for name in names:
                self._tell(link, name)

    def _silent(self, now: Nanos) -> list[Claim]:
        """Claims whose sessions were not heard of for as long as they allow."""
        silent: list[Claim] = []
        for session, claims in self._machine.locks.by_session.items():
            silence_ms = self._leases.silence(session, now) // MILLISECOND
            if silence_ms < HOLD_MS_MIN:
                continue
            lapsing = self._lapsing.get(session, {})
            for claim in claims.values():
                _, proposed = lapsing.get(claim.id, (0, now - PROPOSE_AGAIN))
                if silence_ms >= claim.hold_ms and now - proposed >= PROPOSE_AGAIN:
                    self._lapsing.setdefault(session, {})[claim.id] = (claim.terms, now)
                    silent.append(claim)
                    self._log.event("lock_lapsed", lock=claim.lock.name, session=session, fence=claim.fence)
        return silent

    def _over(self, now: Nanos) -> list[Claim]:
        """Claims that are held, or rest, for as long as they may, counted from when this leader first saw that."""
        over: list[Claim] = []
        before, self._bounded = self._bounded, {}
        for fence, claim in self._machine.locks.bounded.items():
            terms, since, proposed = before.get(fence, (-1, now, NOT_PROPOSED))
            if terms != claim.terms:
                since, proposed = now, NOT_PROPOSED
            is_due = proposed == NOT_PROPOSED or now - proposed >= PROPOSE_AGAIN
            if is_due and now - since >= (claim.rest_ms or claim.at_most_ms) * MILLISECOND:
                proposed = now
                over.append(claim)
                if not claim.rest_ms:
                    self._log.event("lock_turn_over", lock=claim.lock.name, session=claim.session, fence=fence)
            self._bounded[fence] = (claim.terms, since, proposed)
        return over

    # -- questions ----------------------------------------------------------------------------------------------------

    def on_claims(self, link: Link, message: msgspec.Struct) -> None:
        """What became of claims. That one is held is true only at a leader that was not replaced."""
        assert isinstance(message, Claims)
        if len(message.claims) > HELLO_ITEMS_MAX or not self._links.claim(link, message.session):
            self._refuse(link, "asks for claims of another, or for too many")
        else:
            self._questions.after_round(self._on_claims_confirmed, link, message)

    def _on_claims_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Claims)
        own = self._machine.locks.by_session.get(message.session, {})
        items: list[ClaimNews] = []
        for number in message.claims:
            claim = own.get(number)
            if claim is None:
                items.append(ClaimNews(number, 0))
            elif claim.fence:       # of one that waits there is nothing to say
                why = CLAIM_WANTED if claim.is_wanted else CLAIM_SILENT
                items.append(ClaimNews(number, claim.fence, why, self._held_ms(claim)))
        if items:
            # Of a session that has ended this is news and no answer: its claims have not ended one by one.
            sent = message.sent if self._machine.session(message.session) is not None else 0
            link.peer.send(ClaimsNews(message.session, items, sent))

    def on_give_up(self, link: Link, message: msgspec.Struct) -> None:
        """Claims that are to end before the Release of their client can be taken."""
        assert isinstance(message, GiveUpClaims)
        if len(message.claims) > HELLO_ITEMS_MAX or not self._links.claim(link, message.session):
            self._refuse(link, "gives up claims of another, or too many")
        else:
            self._questions.after_round(self._on_give_up_confirmed, link, message)

    def _on_give_up_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, GiveUpClaims)
        own = self._machine.locks.by_session.get(message.session, {})
        wanted = list(dict.fromkeys(message.claims))
        for claims in _chunks([own[number] for number in wanted if number in own]):
            self._propose(Lapse([], claims))
        if ended := [ClaimNews(number, 0, CLAIM_OVER) for number in wanted if number not in own]:
            link.peer.send(ClaimsNews(message.session, ended))

    def _held_ms(self, claim: Claim) -> int:
        """As `_over` counts it. One that it has not seen yet is counted from a later moment."""
        terms, since, _ = self._bounded.get(claim.fence, (-1, 0, NOT_PROPOSED))
        return 0 if terms != claim.terms else (self._now() - since) // MILLISECOND

    def on_watch(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, WatchLock)
        watched = self._watched.get(link, {})
        if not is_name(message.name) or (len(watched) >= WATCHED_LOCKS_MAX and message.name not in watched):
            self._refuse(link, "watches too many locks, or one that cannot be")
        else:
            self._questions.after_round(self._on_watch_confirmed, link, message)

    def _on_watch_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        """Also of one that stops: it must not overtake its beginning."""
        assert isinstance(message, WatchLock)
        watched = self._watched.setdefault(link, {})
        if message.stop:
            if message.name in watched:
                del watched[message.name]
                self._drop_watcher(message.name, link)
            return
        watched[message.name] = None
        self._watchers.setdefault(message.name, {})[link] = None
        self._tell(link, message.name)

    def _tell(self, link: Link, name: str) -> None:
        row = self._machine.locks.row(name)
        if not link.peer.send(LockIs(name, row.holders, row.held, row.waiting)):
            self._untold.setdefault(link, {})[name] = None

    def _drop_watcher(self, name: str, link: Link) -> None:
        watchers = self._watchers[name]
        del watchers[link]
        if not watchers:
            del self._watchers[name]


def _chunks(claims: list[Claim]) -> Iterator[list[int]]:
    """Flat, claim and terms, for one command each."""
    for start in range(0, len(claims), LAPSES_MAX):
        yield [number for claim in claims[start : start + LAPSES_MAX] for number in (claim.id, claim.terms)]
