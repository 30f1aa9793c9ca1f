"""ActorSystem: all actors of one process, and what they share: the turn, one alarm, names, monitors, asks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from actors.actor import Actor
from actors.alarm import Alarm
from actors.asks import Asks, LocalReply
from actors.cell import SHUTDOWN_DEFAULT_NS, Cell
from actors.errors import AskError, AskNotFound
from actors.life import Life, Observer
from actors.mailbox import MailboxSpec
from actors.messages import NOT_FOUND, Down, ExitReason
from actors.monitors import Monitors
from actors.ref import ANY_INCARNATION, Ref
from actors.registry import Registry
from actors.runtime.ports import Nanos, Ports
from actors.telemetry.log import PeerLog
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.remote import Remote, RemoteTarget


class Watcher(Protocol):
    """Who gets a Down: a cell, or a link on behalf of another node's."""

    def put_down(self, down: Down) -> None: ...


class ActorSystem:
    """The composition root of the actors of one process; `node` is its name in references."""

    def __init__(self, ports: Ports, node: str = "local") -> None:
        self.ports = ports
        self.node = node
        self.turn = Turn(ports.clock)
        self.monitors: Monitors[Watcher, Any] = Monitors()
        self.dead_letters = 0
        self._remote: Remote | None = None
        self._asks = Asks()
        self._registry: Registry[Cell] = Registry()
        self.alarm = Alarm(ports.clock, self._asks)
        self._roots: dict[Cell, None] = {}
        self._incarnation = ANY_INCARNATION
        self._letters = PeerLog(ports.log, ports.clock)
        self._exits: dict[Cell, list[Callable[[ExitReason], None]]] = {}
        self._stopped: list[asyncio.Future[None]] = []

    # What users call

    def spawn(
        self,
        actor: Actor,
        name: str | None = None,
        mailbox: MailboxSpec | None = None,
        shutdown: Nanos | None = None,
    ) -> Ref[Any]:
        """Starts an actor of its own; its `started` runs in the next turn. Raises NameTaken."""
        return self.start(actor, name=name, mailbox=mailbox, shutdown=shutdown).ref

    def lookup(self, name: str) -> Ref[Any] | None:
        """The live actor of this name in this process."""
        cell = self._registry.find(name)
        return None if cell is None else cell.ref

    def ref(self, node: str, name: str, actor: type[Actor] | None = None) -> Ref[Any]:
        """Whoever has the name on that node when a message arrives there.

        With the class of the actor, answers come as the types that its handlers return; without, as plain
        types.
        """
        if node == self.node:
            return Ref(_Named(self, name), node, name, ANY_INCARNATION)
        return self.remote.ref(node, name, actor)

    def listen(self, address: str) -> str:
        """Lets other nodes, and child processes, link to this one; returns the bound address.

        Who can reach it may send to any actor here, what that actor handles. Raises AddressInUse.
        """
        return self.remote.listen(address)

    def connect(self, address: str) -> None:
        """Keeps a link to the node that listens there."""
        self.remote.connect(address)

    @property
    def remote(self) -> "Remote":
        """The links to other nodes; made when they are first asked for."""
        if self._remote is None:
            from actors.remote import Remote

            self._remote = Remote(self)
        return self._remote

    def names(self) -> list[str]:
        """The names of all live actors, oldest first."""
        return self._registry.names()

    def on_exit(self, ref: Ref[Any], callback: Callable[[ExitReason], None]) -> None:
        """Calls back once when the actor behind `ref` has ended: for code that is not an actor."""
        cell = ref.target
        assert isinstance(cell, Cell), "only an actor of this process, as `spawn` or `lookup` gave it"
        if cell.life is Life.DEAD:
            reason = cell.reason
            assert reason is not None
            self.ports.clock.call_soon(lambda: callback(reason))
        else:
            self._exits.setdefault(cell, []).append(callback)

    def stop(self) -> None:
        """Stops all actors, the youngest first. Those that are idle have ended when this returns."""
        for cell in reversed(tuple(self._roots)):
            cell.stop_within_limit()
        if self._remote is not None:
            self._remote.close()

    async def wait_stopped(self) -> None:
        """Returns when no actor lives."""
        if self._roots:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._stopped.append(future)
            await future

    # What cells call

    def start(
        self,
        actor: Actor,
        *,
        name: str | None = None,
        mailbox: MailboxSpec | None = None,
        shutdown: Nanos | None = None,
        waits_for_ever: bool = False,
        parent: Cell | None = None,
        observer: Observer | None = None,
    ) -> Cell:
        """Makes a cell for the actor. Raises NameTaken."""
        name = name or self._registry.fresh(type(actor).__name__)
        limit = None if waits_for_ever else shutdown if shutdown is not None else SHUTDOWN_DEFAULT_NS
        self._incarnation += 1
        cell = Cell(self, actor, name, self._incarnation, mailbox or MailboxSpec(), limit, parent, observer)
        self._registry.register(name, cell)
        (self._roots if parent is None else parent.children)[cell] = None
        return cell

    def ended(self, cell: Cell) -> None:
        """The last step of a cell: its name is free, then those who watch hear of it."""
        reason = cell.reason
        assert cell.life is Life.DEAD
        assert reason is not None
        self._registry.unregister(cell.name, cell)
        for watcher, reference in self.monitors.fire(cell):
            watcher.put_down(Down(reference, cell.ref, reason))
        for callback in self._exits.pop(cell, ()):
            callback(reason)
        if cell.parent is not None:
            cell.parent.forget_child(cell)
            if cell.observer is not None:
                cell.observer.child_ended(cell, reason)
            return
        del self._roots[cell]
        if not self._roots:
            for future in self._stopped:
                if not future.done():
                    future.set_result(None)
            self._stopped.clear()

    def find(self, name: str) -> Cell | None:
        """The live cell of this name."""
        return self._registry.find(name)

    def monitor(self, watcher: Cell, ref: Ref[Any]) -> int:
        """See `Context.monitor`."""
        target = ref.target
        if isinstance(target, _Named):
            target = self._registry.find(ref.name) or target
        reference = self.monitors.add(watcher, target)
        if isinstance(target, _Named):
            self.fire_one(reference, ref, NOT_FOUND)
        elif isinstance(target, Cell):
            if target.life is Life.DEAD:
                assert target.reason is not None
                self.fire_one(reference, ref, target.reason)
        else:
            self.remote.watch(ref.node, reference, ref)
        return reference

    def demonitor(self, watcher: Cell, reference: int) -> None:
        """See `Context.demonitor`."""
        target = self.monitors.drop(watcher, reference)
        if target is not None and not isinstance(target, Cell):
            self._unwatch(target, reference)

    def drop_monitors(self, watcher: Cell) -> None:
        """A watcher ends."""
        for reference, target in self.monitors.watcher_gone(watcher):
            if not isinstance(target, Cell):
                self._unwatch(target, reference)

    def open_ask(self, timeout: Nanos) -> "tuple[LocalReply, asyncio.Future[Any]]":
        """A reply to hand on, and the future that its first call settles."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(value: Any, error: AskError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        number = self._asks.open(self.ports.clock.now() + timeout, settle)

        def closed(ended: "asyncio.Future[Any]") -> None:
            if ended.cancelled():
                self._asks.abandon(number)
            else:
                ended.exception()    # an asker that left does not want to hear of it

        future.add_done_callback(closed)
        self.alarm.arm()
        return LocalReply(self._asks, number), future

    def dead_letter(self, name: str, message: Any, why: str) -> None:
        """Counts a message that nobody handles; one a minute and actor is logged."""
        self.dead_letters += 1
        self._letters.event("dead_letter", name, type=type(message).__qualname__, why=why)

    def fire_one(self, reference: int, ref: Ref[Any], reason: ExitReason) -> None:
        """What this reference watches is gone, or was never there."""
        watcher = self.monitors.fire_one(reference)
        if watcher is not None:
            watcher.put_down(Down(reference, ref, reason))

    def _unwatch(self, target: "_Named | RemoteTarget", reference: int) -> None:
        if not isinstance(target, _Named):
            self.remote.unwatch(target.node, reference)


class _Named:
    """Stands behind a reference to a name of this process."""

    __slots__ = ("_name", "_system")

    def __init__(self, system: ActorSystem, name: str) -> None:
        self._system = system
        self._name = name

    def tell(self, message: Any) -> bool:
        cell = self._system.find(self._name)
        if cell is None:
            self._system.dead_letter(self._name, message, "not_found")
            return False
        return cell.tell(message)

    def send(self, message: Any) -> Awaitable[bool]:
        cell = self._system.find(self._name)
        if cell is not None:
            return cell.send(message)
        self._system.dead_letter(self._name, message, "not_found")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(False)
        return future

    def ask(self, message: Any, timeout: Nanos) -> Awaitable[Any]:
        cell = self._system.find(self._name)
        if cell is not None:
            return cell.ask(message, timeout)
        reply, future = self._system.open_ask(timeout)
        self._system.dead_letter(self._name, message, "not_found")
        reply.fail(AskNotFound(f"no actor named {self._name!r}"))
        return future
