"""Quiet time, in one step.

Problem: a cluster that has nothing to do goes on saying so, ninety times in a second of virtual time. A day of that is
a minute of work. But users test what happens in an hour, or in a day.

Idea: all machines sleep until the next moment at which something is to happen, and the world does the work of that
moment only. The parts of a cluster are made for machines that sleep: what came due meanwhile is done once, late, and
nobody takes his own absence for the silence of others. One thing does not outlive it, and must not: the lease of a
worker, which counts while it sleeps. So the leap says to it what it would have heard in the meantime, that its
heartbeats are answered. That is true, for a leap begins only when all that live are linked and at peace, and nothing
that could disturb that is to come before its end.

What is to come is known: the world's queue and the timers of all actors. All of it counts, but for a list of what goes
on for ever and means nothing by itself (KEPT_UP). A timer that is not on it makes leaps shorter, not wrong. Time limits
of tasks that run have no timer, so they are read where the worker reads them.

A leap is begun when nothing has changed for some time, so that what is said about a thing once in a while has been
said, and when nobody waits for an answer.

Rejected: longer intervals between heartbeats. They are constants of a dozen modules, and a day would still take long.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import Coming, World
from cluster.broker.actor import Broker
from cluster.client.actor import ClientActor
from cluster.client.client import Client
from cluster.peer.actor import RaftPeer
from cluster.simulation.launched import BrokerProcess, WorkerProcess
from cluster.worker.actor import Worker
from cluster.worker.loop_child import LoopChild
from cluster.worker.loop_executor import LoopExecutor
from cluster.worker.slot_child import SlotChild
from cluster.worker.slots import OVERRUN_NS


class Pace(NamedTuple):
    """Nothing changes for `calm` before a leap, after a `moment` in which everything is done that comes of one thing,
    mostly."""

    calm: Nanos
    moment: Nanos
    leap_min: Nanos


# A client says once a second what it has seen, others are quicker.
WITH_CLIENTS = Pace(1_200 * MILLISECOND, 200 * MILLISECOND, 1 * SECOND)
WITHOUT = Pace(200 * MILLISECOND, 100 * MILLISECOND, 400 * MILLISECOND)

KEPT_UP: dict[type, frozenset[str]] = {
    RaftPeer: frozenset(("tick", "clock", "snapshots")),
    Broker: frozenset(("leases",)),
    Worker: frozenset(("heartbeat", "following", "tick")),      # its tick: see `_limits`
    ClientActor: frozenset(("lease", "sweep", "seen", "following")),
}


class Mark(NamedTuple):
    """What has happened and what is to come. While it stays the same, nothing happens."""

    applied: tuple[int, ...]
    coming: frozenset[tuple[Nanos, int, Hashable]]


class Leaps:
    """Of one world, in which nobody else speaks to the brokers."""

    def __init__(
        self,
        world: World,
        brokers: Sequence[BrokerProcess],
        workers: Sequence[WorkerProcess],
        clients: Sequence[Client],
    ) -> None:
        self._world = world
        self._clients = clients
        self._pace = WITH_CLIENTS if clients else WITHOUT
        self._brokers = brokers
        self._workers = workers

    def run(self, is_done: Callable[[], bool], end: Nanos, *, is_wait: bool = False) -> bool:
        """Lets time pass until that is so, or until `end`: False. A wait ends as well when nothing is left to come."""
        world, pace = self._world, self._pace
        before: Mark | None = None
        while not world.run_until(is_done, min(pace.moment if before is None else pace.calm, end - world.now)):
            if world.now >= end:
                return False
            mark, before = before, self.mark()
            if mark == before:
                coming = self.next()
                if is_wait and coming is None:
                    return False
                self.leap(end if coming is None else min(end, coming))
                before = None
        return True

    def mark(self) -> Mark:
        applied = tuple(node.broker.machine.applied_index if node.broker is not None else 0 for node in self._brokers)
        return Mark(applied, frozenset((coming.when, coming.number, coming.key) for coming in self._coming()))

    def next(self) -> Nanos | None:
        """When something is to come; None if nothing is. Now, if that cannot be told."""
        if self._workers_at_peace() is None:
            return self._world.now
        limits = [self._at(node, limit) for node in self._workers if node.worker for limit in _limits(node.worker)]
        return min([*limits, *(coming.when for coming in self._coming())], default=None)

    def leap(self, until: Nanos) -> None:
        """Lets time pass in which nothing is to come, after some calm."""
        world, workers = self._world, self._workers_at_peace()
        if workers is None or until - world.now < self._pace.leap_min:
            return
        for node in workers:
            assert node.worker is not None
            node.worker.heard(sent=node.process.machine.clock.local(until))
        world.sleep(until)

    def _coming(self) -> Iterator[Coming]:
        """What matters of what is to come."""
        for coming in self._world.agenda():
            kept_up = _kept_up(type(coming.owner))
            if coming.key not in kept_up and not isinstance(coming.owner, LoopExecutor):      # whose timer is its beat
                yield coming

    def _workers_at_peace(self) -> list[WorkerProcess] | None:
        """Those that live, if all that live have their sessions at one leader, nobody else has any, and nobody waits
        for an answer."""
        if not all(client._actor.is_at_rest for client in self._clients):
            return None
        leading = [node.broker for node in self._brokers if node.process.alive and node.broker and node.broker.leading]
        if len(leading) != 1 or leading[0].machine.locks.claims:       # how long they are held, the leader counts
            return None
        alive = [node for node in self._workers if node.process.alive]
        sessions = {session.id for session in leading[0].machine.sessions_open() if session.worker is not None}
        if sessions != {node.worker.session for node in alive if node.worker is not None and node.worker.is_settled}:
            return None
        return alive if len(sessions) == len(alive) else None

    def _at(self, node: WorkerProcess, local: Nanos) -> Nanos:
        return max(self._world.now, node.process.machine.clock.world(local))


def _kept_up(owner: type) -> frozenset[str]:
    return next((keys for actor, keys in KEPT_UP.items() if issubclass(owner, actor)), frozenset())


def _limits(worker: Worker) -> Iterator[Nanos]:
    """When the worker has to do something about what its children run, by its own clock."""
    for child in worker.children:
        if child.slot.ending is not None:
            yield child.slot.ending.kill_at
        yield from _limits_of_slot(child) if isinstance(child, SlotChild) else _limits_of_loop(child)


def _limits_of_slot(child: SlotChild) -> Iterator[Nanos]:
    slot, page = child.slot, child.page
    held = None if page is None else slot.running(page.claimed)
    if page is None or held is None:
        yield from (0 for _ in slot.pairs)      # they are about to begin
        return
    assignment, started = held.assignment, page.claimed_at
    yield started + assignment.timeout_ms * MILLISECOND
    if assignment.soft_timeout_ms and not held.is_warned:
        yield started + assignment.soft_timeout_ms * MILLISECOND
    if held.stop_at:
        yield held.stop_at
    if len(slot.pairs) > 1:
        yield started + assignment.estimate_us * 1_000 + OVERRUN_NS


def _limits_of_loop(child: LoopChild) -> Iterator[Nanos]:
    yield from (0 for _ in child.slot.queued)
    for held in child.slot.sent.values():
        if not held.started or held.is_given_up:
            yield 0
            continue
        yield held.end_at or held.stop_at or held.started + held.assignment.timeout_ms * MILLISECOND
        yield held.started + held.assignment.timeout_ms * MILLISECOND
        if held.assignment.soft_timeout_ms and not held.is_warned:
            yield held.started + held.assignment.soft_timeout_ms * MILLISECOND
