"""A cell runs one actor: it takes entries from the mailbox, calls handlers, and carries out the end.

    NEW --started()--> RUNNING --stop, crash, kill--> STOPPING --children ended--> DEAD

An end goes down before it goes up: children are stopped first, the youngest first, then `stopped` runs, the
name is free, and at last those who watch hear of it. So whoever gets a Down may start a successor at once.
From STOPPING on nothing is taken any more: what comes is a dead letter, and asks end with AskDied.

Handlers that are plain functions are called in the turn that brought the message. A coroutine gets a task,
and the cell takes nothing until it is done; only the end does not wait for it when it comes by force.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from actors.actor import Actor
from actors.alarm import ActorTimers, Fire
from actors.asks import DeferredReply, Reply
from actors.context import Context
from actors.errors import AskDied, AskNotFound
from actors.intake import Intake
from actors.life import Life, Observer, Start, Stop, failure
from actors.mailbox import MailboxSpec
from actors.messages import KILLED, SHUTDOWN, Down, ExitReason, Killed
from actors.ref import Ref
from actors.runtime.ports import SECOND, Nanos
from actors.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from actors.system import ActorSystem

F = TypeVar("F", bound=Callable[..., Any])

SHUTDOWN_DEFAULT_NS = 5 * SECOND
_SHUTDOWN_LIMIT = object()    # the key of that timer


class Cell(Intake):
    """One incarnation of one actor.

    Invariants: a child in `children` is not DEAD; while `life` is STOPPING only `_asked` is being stopped.
    """

    __slots__ = (
        "_asked",
        "_deferred",
        "_endpoints",
        "_ends",
        "_reply",
        "_running",
        "_running_down",
        "_was_started",
        "actor",
        "children",
        "observer",
        "parent",
        "ref",
        "shutdown",
        "timers",
    )

    def __init__(
        self,
        system: "ActorSystem",
        actor: Actor,
        name: str,
        incarnation: int,
        mailbox: MailboxSpec,
        shutdown: Nanos | None,
        parent: "Cell | None",
        observer: Observer | None,
    ) -> None:
        super().__init__(system, name, mailbox)
        self.actor = actor
        self.shutdown = shutdown    # None: waited for, for ever
        self.parent = parent
        self.observer = observer
        self.children: dict[Cell, None] = {}
        self.timers = ActorTimers(system.alarm, self.put_system, actor)
        self.ref: Ref[Any] = Ref(self, system.node, name, incarnation)
        self._reply: Reply | None = None    # of the message that is handled now
        self._deferred: dict[DeferredReply, None] = {}
        self._ends: dict[Callable[[], None], None] = {}
        self._endpoints: list[Endpoint] = []
        self._asked: Cell | None = None     # the child that was asked to stop, while we stop
        self._running = False               # a handler or callback is on the stack
        self._running_down = False          # `_stop_children` is on the stack
        self._was_started = False           # `started` has returned, so `stopped` will run
        actor.context = Context(self, system, self.ref)
        self.put_system(Start())

    def __repr__(self) -> str:
        return f"<Cell {self.name} {self.life.name}>"

    # What others call

    def request_stop(self, reason: ExitReason) -> None:
        """Ends the actor politely: after the handler that runs, before anything else that waits."""
        if self.life >= Life.STOPPING:
            return
        if self._running or self.task is not None:
            self.put_first(Stop(reason))
        else:
            self.end(reason)

    def stop_within_limit(self) -> None:
        """Ends the actor politely, and by force when its limit has passed."""
        if self.shutdown == 0:
            self.kill()
            return
        if self.shutdown is not None and self.life < Life.DEAD:
            self.system.alarm.set((self, _SHUTDOWN_LIMIT), self.shutdown, self.kill)
        self.request_stop(SHUTDOWN)

    def kill(self) -> None:
        """Ends the actor now, and all below it; a handler that never awaits cannot be interrupted."""
        if self.life is Life.DEAD:
            return
        if self.life < Life.STOPPING:
            self._close_down(KILLED)
        self.reason = KILLED
        self._asked = None
        self._stop_children()

    # What the context calls

    def stop_self(self, reason: ExitReason) -> None:
        """The actor ends itself."""
        if self.life < Life.STOPPING:
            self.put_first(Stop(reason))

    def at_turn_end(self, callback: Callable[[], None]) -> None:
        """See `Context.at_turn_end`."""
        if self.life < Life.STOPPING:
            self._ends[callback] = None
            self.system.turn.at_end(self._run_ends)

    def defer(self) -> Reply:
        """See `Context.defer`."""
        deferred = DeferredReply(self._reply, self._deferred)
        self._reply = None
        return deferred

    def guarded(self, function: F) -> F:
        """See `Context.callback`."""
        return partial(self._call, function)    # type: ignore[return-value]

    def order_children(self, order: "list[Cell]") -> None:
        """See `Context.order_children`."""
        assert all(child in self.children for child in order)
        self.children = dict.fromkeys(order) | self.children

    def own(self, endpoint: Endpoint) -> None:
        """This endpoint is closed when the actor ends."""
        assert self.life < Life.STOPPING, "an actor that ends opens no endpoint"
        self._endpoints.append(endpoint)

    # Running

    def run(self, entries_max: int) -> int:
        """See `actors.turn.Runnable`."""
        assert self.queued
        mailbox = self.mailbox
        count = 0
        while count < entries_max and self.task is None and self.life < Life.STOPPING:
            entry = mailbox.take()
            if entry is None:
                break
            count += 1
            self._handle(*entry)
        self.queued = False
        if len(mailbox):
            self.wake()
        return count

    def _handle(self, message: Any, reply: Reply | None) -> None:
        kind = type(message)
        if kind is Start:
            self._call_handler(self.actor.started, None, self._started)
        elif kind is Stop:
            self.end(message.reason)
        elif kind is Fire:
            self._fire(self.timers.take(message))
        elif kind is not Down or self.system.monitors.take(message.reference):
            handler = self.actor.handlers.get(kind)
            if handler is not None:
                self._call_handler(partial(handler.function, self.actor, message), reply, self._handled)
            else:
                self._unhandled(message, reply)

    def _call_handler(
        self, call: Callable[[], Any], reply: Reply | None, done: Callable[[Any], None]
    ) -> None:
        self._reply = reply
        self._running = True
        try:
            value = call()
        except Exception as error:
            self.crash(error)
        else:
            if isinstance(value, Coroutine):
                self.task = asyncio.get_running_loop().create_task(self._drive(value, done))
            else:
                done(value)
        finally:
            self._running = False

    async def _drive(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any], None]) -> None:
        try:
            value = await coroutine
        except asyncio.CancelledError as error:
            self.task = None
            if self.life < Life.STOPPING:    # else by `kill`, and all is done
                self.crash(error)
        except Exception as error:
            self.task = None
            self.crash(error)
        else:
            self.task = None
            if self.life < Life.STOPPING:
                done(value)
                self.wake()

    def _started(self, _: Any) -> None:
        self._reply = None
        if self.life is Life.NEW:
            self.life = Life.RUNNING
            self._was_started = True
            if self.observer is not None:
                self.observer.child_started(self)

    def _handled(self, value: Any) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.answer(value)

    def _unhandled(self, message: Any, reply: Reply | None) -> None:
        if type(message) is Down:
            fields = {"actor": self.name, "of": message.ref.name, "reason": str(message.reason)}
            self.system.ports.log.event("down_unhandled", **fields)
            return
        self.system.dead_letter(self.name, message, "unhandled")
        if reply is not None:
            reply.fail(AskNotFound(f"{self.name} does not handle {type(message).__qualname__}"))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A callback from the outside world."""
        if self.life >= Life.STOPPING:
            return None
        outer, self._running = self._running, True
        try:
            return function(*arguments)
        except Exception as error:
            self.crash(error)
            return None
        finally:
            self._running = outer

    def _fire(self, what: Any) -> None:
        if callable(what):
            self._call(what)
        elif what is not None:
            self._handle(what, None)

    def _run_ends(self) -> None:
        callbacks, self._ends = self._ends, {}
        for callback in callbacks:
            self._call(callback)

    # The end

    def crash(self, error: BaseException) -> None:
        """A handler or callback raised."""
        if self.life >= Life.STOPPING:
            return
        reason = failure(error)
        if not isinstance(error, self.actor.refusals):
            log = self.system.ports.log
            log.event("actor_crashed", actor=self.name, reason=str(reason), traceback=reason.traceback)
        self.end(reason)

    def end(self, reason: ExitReason) -> None:
        """Goes to STOPPING; the rest follows when the children have ended."""
        if self.life < Life.STOPPING:
            self._close_down(reason)
            self._stop_children()

    def _close_down(self, reason: ExitReason) -> None:
        """Takes nothing any more, and lets go of whoever waits for an answer."""
        assert self.life < Life.STOPPING
        self.life = Life.STOPPING
        self.reason = reason
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self._reply is not None:
            self._reply.fail(AskDied(reason))
            self._reply = None
        for deferred in tuple(self._deferred):
            deferred.fail(AskDied(reason))
        self.bury_all()
        self._ends.clear()
        self.timers.clear()
        self.system.drop_monitors(self)

    def forget_child(self, child: "Cell") -> None:
        """A child has ended."""
        del self.children[child]
        if self.life is Life.STOPPING and (self._asked is child or self._asked is None):
            self._stop_children()

    def _stop_children(self) -> None:
        """One after another, the youngest first. A loop: a thousand idle children must not be a thousand
        frames.
        """
        if self._running_down:
            return
        self._running_down = True
        while self.children:
            self._asked = child = next(reversed(self.children))
            if self.reason is KILLED:
                child.kill()
            else:
                child.stop_within_limit()
            if child.life < Life.DEAD:
                break    # its end goes on here
        self._running_down = False
        if not self.children:
            self._finish()

    def _finish(self) -> None:
        assert self.life is Life.STOPPING
        assert not self.children
        assert self.reason is not None
        self.life = Life.DEAD
        if self._was_started and not isinstance(self.reason, Killed):
            try:
                self.actor.stopped(self.reason)
            except Exception as error:
                log = self.system.ports.log
                log.event("actor_stopped_badly", actor=self.name, traceback=failure(error).traceback)
        for endpoint in self._endpoints:
            endpoint.close()
        self.timers.clear()
        self.system.alarm.cancel((self, _SHUTDOWN_LIMIT))
        self.system.ended(self)
