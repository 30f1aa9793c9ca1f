"""The sessions of one client, one after the other.

A session numbers its tasks and may use no number twice, so it serves a limited number of tasks, and of claims on locks
likewise. While few numbers are left a successor is registered, under a name and over links of its own; submits go on in
the old session meanwhile, and in the new one as soon as it stands. They wait only if the old one is used up before
that. The old session is retired: it goes on until nothing of it is under way and its locks are released, gives the last
awaited results to the session that is current by then, and is closed. So a session needs no more than one name, one
incarnation and one row of numbers, and the brokers know of no connection between two of them.

A leader that was replaced may still be followed by one of them, and answers nothing any more. So they tell each other
the terms of the leaders that they follow, and none waits at one that another knows to be gone.
"""

from asyncio import Future, get_running_loop
from collections.abc import Callable
from dataclasses import dataclass

from actors import ActorSystem, Ports
from cluster.client.actor import ClientActor
from cluster.client.outbox import TASK_NUMBER_MAX
from cluster.client.sinks import Sink
from cluster.topology import Topology


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many tasks a session serves, and how many claims on locks. Both in numbers of either."""

    numbers_max: int = TASK_NUMBER_MAX
    numbers_low: int = 1024 * 1024      # left when a successor is registered: many seconds of the fastest client

    def __post_init__(self) -> None:
        assert 0 < self.numbers_max <= TASK_NUMBER_MAX
        assert 0 <= self.numbers_low < self.numbers_max, "each session would be succeeded at once"


class Succession:
    """Makes one client's sessions; `current` is the one for new calls. Invariant: it has numbers left, or its
    successor is being registered."""

    def __init__(self, ports: Ports, plan: Topology, limits: SessionLimits, *, only_looks: bool) -> None:
        self._ports = ports
        self._cluster = plan.name
        self._brokers = tuple((node.name, node.address) for node in plan.brokers)
        self._limits = limits
        self._only_looks = only_looks
        self._count = 0
        self._retired: list[ClientActor] = []       # that have not ended, as far as is known
        self._successor: ClientActor | None = None
        first = self._new_name()
        self._system = ActorSystem(ports, node=first)
        self.current = self._spawn(first)

    async def stop(self) -> None:
        """Ends all sessions; whoever still waits is told."""
        self._system.stop()
        await self._system.wait_stopped()

    # -- for the next call --------------------------------------------------------------------------------------------

    def for_submit(self) -> ClientActor | None:
        """The session that takes the next task, at least one; None while there is none, or it is used up."""
        return self._with_numbers(lambda actor: actor.numbers_left)

    def for_claim(self) -> ClientActor | None:
        """The session that takes the next claim on a lock, likewise."""
        return self._with_numbers(lambda actor: actor.claims_left)

    def _with_numbers(self, left: Callable[[ClientActor], int]) -> ClientActor | None:
        current = self.current
        if current.session == 0:
            return None
        if left(current) <= self._limits.numbers_low and not current.has_ended:
            self._advance()
            current = self.current
        return current if current.session and left(current) else None

    def for_command(self) -> ClientActor | None:
        """The session for a command that takes no number; None while there is none."""
        return self.current if self.current.session else None

    def registered(self, waiter: "Future[None]") -> None:
        """Resolves `waiter` when it is worth looking for a session again. Raises Unavailable after the end."""
        self._awaited.registered(waiter)

    @property
    def refusal(self) -> str:
        """Why there is no session; "" if no broker said so."""
        return self._awaited.refusal

    @property
    def _awaited(self) -> ClientActor:
        if self._successor is not None and self.current.session:
            return self._successor
        return self.current

    # -- from one to the next -----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Few numbers are left: begins the next session, or goes over to it if it stands."""
        successor = self._successor
        if successor is None or successor.has_ended:
            self._successor = successor = self._spawn(self._new_name())
            stands: Future[None] = get_running_loop().create_future()
            stands.add_done_callback(self._on_registered)
            successor.registered(stands)
        else:
            self._succeed()

    def _on_registered(self, stands: "Future[None]") -> None:
        if not stands.cancelled() and stands.exception() is None:
            self._succeed()

    def _succeed(self) -> None:
        """The successor takes over, unless it has no session yet."""
        old, new = self.current, self._successor
        if new is None or not new.session or new.has_ended:
            return
        self._ports.log.event("client_session_succeeded", session=old.session, by=new.session)
        self.current, self._successor = new, None
        self._retired = [actor for actor in self._retired if not actor.has_ended]
        self._retired.append(old)
        new.outdate(old.term)
        old.retire(self._inherit)

    def _inherit(self, sinks: dict[int, Sink]) -> None:
        """A retired session ends while somebody waits for its tasks."""
        self.current.inherit(sinks)

    def _on_term(self, term: int) -> None:
        """One session follows a leader of this term."""
        for actor in (self.current, *self._retired):
            actor.outdate(term)

    # -- actors -------------------------------------------------------------------------------------------------------

    def _new_name(self) -> str:
        return f"client-{self._ports.entropy.bits(64):016x}"

    def _spawn(self, name: str) -> ClientActor:
        self._count += 1
        actor = ClientActor(
            self._cluster,
            name,
            self._ports.entropy.bits(63),
            self._brokers,
            only_looks=self._only_looks,
            numbers_max=self._limits.numbers_max,
            on_term=self._on_term,
        )
        self._system.spawn(actor, name=f"client-{self._count}")
        return actor
