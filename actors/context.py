"""What an actor may do besides handling messages."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from actors.actor import Actor
from actors.asks import Reply
from actors.life import Observer
from actors.mailbox import MailboxSpec
from actors.messages import NORMAL, ExitReason
from actors.ref import Ref
from actors.runtime.ports import Clock, Entropy, Files, Log, Nanos, Ports, Processes
from actors.transport.core import EndpointLimits
from actors.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from actors.cell import Cell
    from actors.system import ActorSystem

F = TypeVar("F", bound=Callable[..., Any])


class Context:
    """The world as one actor sees it."""

    __slots__ = ("_cell", "clock", "entropy", "files", "log", "ports", "processes", "self_ref", "system")

    def __init__(self, cell: "Cell", system: "ActorSystem", self_ref: Ref[Any]) -> None:
        ports = system.ports
        self._cell = cell
        self.system = system
        self.self_ref = self_ref
        self.ports: Ports = ports
        self.clock: Clock = ports.clock
        self.entropy: Entropy = ports.entropy
        self.files: Files = ports.files
        self.processes: Processes = ports.processes
        self.log: Log = ports.log

    def spawn(
        self,
        actor: Actor,
        name: str | None = None,
        mailbox: MailboxSpec | None = None,
        shutdown: Nanos | None = None,
    ) -> Ref[Any]:
        """Starts a child, which is stopped before this actor ends; after `shutdown` (5 s) it is killed.

        Raises NameTaken.
        """
        return self.system.start(actor, name=name, mailbox=mailbox, shutdown=shutdown, parent=self._cell).ref

    def start_child(
        self, actor: Actor, mailbox: MailboxSpec, shutdown: Nanos | None, observer: Observer
    ) -> "Cell":
        """For supervisors: like `spawn`, under a fresh name, and the observer hears of its start and end. A
        `shutdown` of None waits for ever.
        """
        return self.system.start(
            actor,
            mailbox=mailbox,
            shutdown=shutdown,
            waits_for_ever=shutdown is None,
            parent=self._cell,
            observer=GuardedObserver(self._cell, observer),
        )

    def order_children(self, order: "list[Cell]") -> None:
        """For supervisors: children will be stopped from the last of these to the first."""
        self._cell.order_children(order)

    def stop(self, reason: ExitReason = NORMAL) -> None:
        """Ends this actor when the handler that runs now returns."""
        self._cell.stop_self(reason)

    def monitor(self, ref: Ref[Any]) -> int:
        """Lets a Down with the returned reference come once, when the actor behind `ref` ends or has
        ended.
        """
        return self.system.monitor(self._cell, ref)

    def demonitor(self, reference: int) -> None:
        """After this no Down with the reference is handled, even if it waits in the mailbox."""
        self.system.demonitor(self._cell, reference)

    def timer(self, key: Hashable, delay: Nanos, what: Callable[[], None] | object) -> None:
        """Calls `what`, or handles it as a message, once after `delay`; replaces the timer of the same
        key.
        """
        self._cell.timers.set(key, delay, what)

    def cancel_timer(self, key: Hashable) -> None:
        """After this the timer does not run, even if it was due already."""
        self._cell.timers.cancel(key)

    def at_turn_end(self, callback: Callable[[], None]) -> None:
        """Runs `callback` once at the end of this turn, however often it is asked for; see `actors.turn`."""
        self._cell.at_turn_end(callback)

    def defer(self) -> Reply:
        """Inside a handler: its return value is no answer; the caller is answered through this, later."""
        return self._cell.defer()

    def callback(self, function: F) -> F:
        """Makes a callback for the outside world: an error in it ends this actor, and afterwards it is
        silent.
        """
        return self._cell.guarded(function)

    def endpoint(self, identity: bytes, limits: EndpointLimits | None = None) -> Endpoint:
        """Links to other processes. Its callbacks are direct calls, and it is closed when this actor ends."""
        endpoint = Endpoint(self.ports, identity, limits, turn=self.system.turn, wrap=self._cell.guarded)
        self._cell.own(endpoint)
        return endpoint


class GuardedObserver:
    """An observer whose errors are those of its own actor, not of the child that it hears of."""

    __slots__ = ("child_ended", "child_started")

    def __init__(self, cell: "Cell", observer: Observer) -> None:
        self.child_started = cell.guarded(observer.child_started)
        self.child_ended = cell.guarded(observer.child_ended)
