"""Bugs that tests plant in locks: in the state of all brokers, in what a leader does around it, or in their holders."""

from enum import Enum

from actors import MILLISECOND, Nanos, handles
from cluster.broker import process as broker_process
from cluster.broker.actor import Broker
from cluster.broker.lease_table import CLIENT_LEASE
from cluster.broker.lock_service import NOT_PROPOSED
from cluster.client import claim_commands
from cluster.client.holding import Holding
from cluster.peer.messages import Leading
from cluster.simulation.launched import StandIns
from cluster.state.commands import Release
from cluster.state.locks import Claim, Lock, Locks
from cluster.state.machine import Machine
from cluster.state.sessions import Session

# -- the state --------------------------------------------------------------------------------------------------------


class TrustingLocks(Locks):
    """Who waits is granted the lock, whatever has become of its session."""

    __slots__ = ()

    def end_session(self, session: int, now_ms: int) -> None:
        own = self.by_session.get(session, {})
        self._end([claim for claim in own.values() if claim.fence], now_ms)

    def _grant(self, claim: Claim, now_ms: int) -> None:
        del claim.lock.waiting[claim.id]
        self.fences += 1
        claim.fence, claim.since_ms = self.fences, now_ms
        self._hold(claim)


class OpenLocks(Locks):
    """A release ends a claim, whoever says so."""

    __slots__ = ()

    def release(self, session: Session, command: Release, now_ms: int) -> tuple[int, int]:
        found = [self.claims[number] for number in command.claims if number in self.claims]
        self._end(found, now_ms)
        return 0, len(found)


class SleepyLocks(Locks):
    """What is free is granted to the first that waits for it, though there may be room for the next."""

    __slots__ = ()

    def _go_on(self, lock: Lock, now_ms: int) -> None:
        claim = next(iter(lock.waiting.values()), None)
        if claim is not None and lock.fits(claim.units):
            self._grant(claim, now_ms)
            self._ledger.granted(claim.session, claim.id, claim.fence)
        elif not lock.holders and not lock.waiting:
            del self.by_name[lock.name]


# -- the leader -------------------------------------------------------------------------------------------------------


class LocalClockBroker(Broker):
    """Ends a hold when its time is over by the wall clock of this broker, whatever its holder has said since."""

    def started(self) -> None:
        super().started()
        wall_ms = self.context.clock.wall_ms

        def over(now: Nanos) -> list[Claim]:
            held = self.machine.locks.by_fence.values()
            return [claim for claim in held if not claim.rest_ms and wall_ms() - claim.since_ms >= claim.hold_ms]

        self._locks._silent = over      # type: ignore[method-assign]


class HurriedBroker(Broker):
    """Ends turns when half of their time is over."""

    def started(self) -> None:
        super().started()
        locks = self._locks

        def over(now: Nanos) -> list[Claim]:
            bounded = self.machine.locks.bounded
            late: list[Claim] = []
            for fence, claim in bounded.items():
                terms, since, _ = locks._bounded.setdefault(fence, (claim.terms, now, NOT_PROPOSED))
                if terms != claim.terms:
                    locks._bounded[fence] = (claim.terms, now, NOT_PROPOSED)
                elif now - since >= (claim.rest_ms or claim.at_most_ms // 2) * MILLISECOND:
                    late.append(claim)
            return late

        locks._over = over      # type: ignore[method-assign]


class ImpatientBroker(Broker):
    """When it begins to lead, clients that it has not heard yet count as silent, and not as heard just now."""

    @handles
    def on_leading(self, message: Leading) -> None:
        super().on_leading(message)
        heard = self._leases._heard
        heard.update({session: when - CLIENT_LEASE // 2 for session, when in heard.items() if self._is_client(session)})

    def _is_client(self, session: int) -> bool:
        known = self.machine.session(session)
        return known is not None and known.worker is None


# -- holders ----------------------------------------------------------------------------------------------------------


class LateHolding(Holding):
    """Counts from when a heartbeat was answered, and not from when it was sent."""

    __slots__ = ()

    def answered(self, sent: Nanos, now: Nanos) -> None:
        super().answered(now, now)


class EndlessHolding(Holding):
    """Is told that its turn is bounded, and does not look at it."""

    __slots__ = ()

    def bound(self, since: Nanos, at_most: Nanos) -> None:
        pass

    def prolonged(self, now: Nanos) -> None:
        self._bounds_asked.pop(0)


# -- where they go ----------------------------------------------------------------------------------------------------


class PlantedLock(Enum):
    """What is wrong with locks."""

    NOT_RECHECKED = "a waiter is granted a lock whose session has ended meanwhile"
    STRANGER_RELEASES = "a release ends a claim of any session"
    LOST_WAKE_UP = "one that is free wakes one of those for whom there is room"
    LOCAL_CLOCK = "a hold ends by the wall clock of the broker that leads"
    SHORT_TURNS = "the leader ends turns that are bounded when half of their time is over"
    NO_FULL_LEASE = "a new leader takes those for silent that it has not heard yet"
    COUNTED_FROM_ANSWER = "a holder counts its hold time from the answer to its heartbeat, and not from the sending"
    BOUND_IGNORED = "a holder does not look at the bound of its turn"


STATES: dict[PlantedLock, type[Locks]] = {
    PlantedLock.NOT_RECHECKED: TrustingLocks,
    PlantedLock.STRANGER_RELEASES: OpenLocks,
    PlantedLock.LOST_WAKE_UP: SleepyLocks,
}
LEADERS: dict[PlantedLock, type[Broker]] = {
    PlantedLock.LOCAL_CLOCK: LocalClockBroker,
    PlantedLock.SHORT_TURNS: HurriedBroker,
    PlantedLock.NO_FULL_LEASE: ImpatientBroker,
}
HOLDERS: dict[PlantedLock, type[Holding]] = {
    PlantedLock.COUNTED_FROM_ANSWER: LateHolding,
    PlantedLock.BOUND_IGNORED: EndlessHolding,
}


def plant_lock(planted: PlantedLock, machine: Machine) -> None:
    """A machine was made, or has got a state."""
    machine.locks.__class__ = STATES.get(planted, Locks)


def leaders_of(planted: PlantedLock | None) -> StandIns:
    """For a broker that is about to start."""
    return {(broker_process, "Broker"): LEADERS[planted]} if planted in LEADERS else {}


def holders_of(planted: PlantedLock | None) -> StandIns:
    """While the world runs."""
    return {(claim_commands, "Holding"): HOLDERS[planted]} if planted in HOLDERS else {}
