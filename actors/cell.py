"""A cell runs one actor: it takes entries from the mailbox, calls handlers, and carries out the end.

    NEW --started()--> RUNNING --stop, crash, kill--> STOPPING --children ended--> DEAD

An end goes down before it goes up: children are stopped first, the youngest first, then `stopped` runs, the
name is free, and at last those who watch hear of it. So whoever gets a Down may start a successor at once.
From STOPPING on nothing is taken any more: what comes is a dead letter, and asks end with AskDied.

Handlers that are plain functions are called in the turn that brought the message. A coroutine gets a task,
and the cell takes nothing until it is done; only the end does not wait for it when it comes by force.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from actors.actor import Actor
from actors.alarm import ActorTimers, Fire
from actors.asks import DeferredReply, Reply, WaitingReply, WantedReply
from actors.context import Context
from actors.errors import AskDied, AskNotFound, AskOverloaded
from actors.life import Life, Observer, Start, Stop
from actors.mailbox import Mailbox, MailboxSpec, Put
from actors.messages import KILLED, SHUTDOWN, Down, ExitReason, Failed, Killed
from actors.ref import Ref
from actors.runtime.ports import SECOND, Nanos
from actors.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from actors.system import ActorSystem

F = TypeVar("F", bound=Callable[..., Any])
Entry = tuple[Any, Reply | None]

SHUTDOWN_DEFAULT_NS = 5 * SECOND
_SHUTDOWN_LIMIT = object()    # the key of that timer
TRACEBACK_CHARACTERS_MAX = 8_192


class Cell:
    """One incarnation of one actor.

    Invariants: `_task` is set while a coroutine of the actor runs; `_queued` while the turn holds this cell;
    `reason` is set from STOPPING on; a child in `children` is not DEAD.
    """

    __slots__ = (
        "_deferred",
        "_endpoints",
        "_ends",
        "_mailbox",
        "_queued",
        "_reply",
        "_running",
        "_system",
        "_task",
        "_was_started",
        "actor",
        "children",
        "life",
        "name",
        "observer",
        "parent",
        "reason",
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
        self._system = system
        self._mailbox: Mailbox[Entry] = Mailbox(mailbox)
        self._reply: Reply | None = None    # of the message that is handled now
        self._deferred: dict[DeferredReply, None] = {}
        self._ends: dict[Callable[[], None], None] = {}
        self._endpoints: list[Endpoint] = []
        self._task: asyncio.Task[None] | None = None
        self._queued = False
        self._running = False            # a handler or callback is on the stack
        self._was_started = False        # `started` has returned, so `stopped` will run
        self.timers = ActorTimers(system.alarm, self._put_system)
        self.actor = actor
        self.name = name
        self.shutdown = shutdown            # None: waited for, for ever
        self.parent = parent
        self.observer = observer
        self.children: dict[Cell, None] = {}
        self.life = Life.NEW
        self.reason: ExitReason | None = None
        self.ref: Ref[Any] = Ref(self, system.node, name, incarnation)
        actor.context = Context(self, system, self.ref)
        self._put_system(Start())

    def __repr__(self) -> str:
        return f"<Cell {self.name} {self.life.name}>"

    # What others call

    def tell(self, message: Any) -> bool:
        """See `Ref.tell`."""
        return self._post((message, None))

    def send(self, message: Any) -> Awaitable[bool]:
        """See `Ref.send`."""
        future = asyncio.get_running_loop().create_future()

        def admit() -> bool:
            if future.done():
                return False
            future.set_result(True)
            return True

        def give_up() -> None:
            if not future.done():
                future.set_result(False)

        if self._post((message, None)):
            future.set_result(True)
        elif not self._wait((message, WaitingReply(give_up)), admit):
            future.set_result(False)
        return future

    def ask(self, message: Any, timeout: Nanos) -> Awaitable[Any]:
        """See `Ref.ask`."""
        reply, future = self._system.open_ask(timeout)
        self.deliver(message, reply)
        return future

    def deliver(self, message: Any, reply: WantedReply) -> None:
        """Takes a message that is to be answered, or answers it with an error."""
        entry = message, reply
        if not self._post(entry) and not self._wait(entry, lambda: reply.wanted):
            reply.fail(AskOverloaded("the mailbox is full"))

    def put_down(self, down: Down) -> None:
        """Takes a Down, behind what has come before."""
        if self.life < Life.STOPPING:
            self._mailbox.put_signal((down, None))
            self._wake()

    def request_stop(self, reason: ExitReason) -> None:
        """Ends the actor politely: after the handler that runs, before anything else that waits."""
        if self.life >= Life.STOPPING:
            return
        if self._running or self._task is not None:
            self._put_system(Stop(reason))
        else:
            self.end(reason)

    def stop_within_limit(self) -> None:
        """Ends the actor politely, and by force when its limit has passed."""
        if self.shutdown == 0:
            self.kill()
            return
        if self.shutdown is not None and self.life < Life.DEAD:
            self._system.alarm.set((self, _SHUTDOWN_LIMIT), self.shutdown, self.kill)
        self.request_stop(SHUTDOWN)

    def kill(self) -> None:
        """Ends the actor now, and all below it; a handler that never awaits cannot be interrupted."""
        if self.life is Life.DEAD:
            return
        if self.life < Life.STOPPING:
            self._close_down(KILLED)
        self.reason = KILLED
        for child in reversed(tuple(self.children)):
            child.kill()
        if self.life < Life.DEAD:
            self._finish()

    # What the context calls

    def stop_self(self, reason: ExitReason) -> None:
        """The actor ends itself."""
        if self.life < Life.STOPPING:
            self._put_system(Stop(reason))

    def at_turn_end(self, callback: Callable[[], None]) -> None:
        """See `Context.at_turn_end`."""
        if self.life < Life.STOPPING:
            self._ends[callback] = None
            self._system.turn.at_end(self._run_ends)

    def defer(self) -> Reply:
        """See `Context.defer`."""
        deferred = DeferredReply(self._reply, self._deferred)
        self._reply = None
        return deferred

    def guarded(self, function: F) -> F:
        """See `Context.callback`."""
        return partial(self._call, function)    # type: ignore[return-value]

    def own(self, endpoint: Endpoint) -> None:
        """This endpoint is closed when the actor ends."""
        assert self.life < Life.STOPPING, "an actor that ends opens no endpoint"
        self._endpoints.append(endpoint)

    # Running

    def run(self, entries_max: int) -> int:
        """See `actors.turn.Runnable`."""
        assert self._queued
        mailbox = self._mailbox
        count = 0
        while count < entries_max and self._task is None and self.life < Life.STOPPING:
            entry = mailbox.take()
            if entry is None:
                break
            count += 1
            self._handle(*entry)
        self._queued = False
        if len(mailbox):
            self._wake()
        return count

    def _post(self, entry: Entry) -> bool:
        if self.life >= Life.STOPPING:
            self._bury(entry)
            return False
        put = self._mailbox.put(entry)
        if put is Put.REJECTED:
            return False
        if put is Put.DROPPED:
            victim = self._mailbox.victim
            assert victim is not None
            self._mailbox.victim = None
            self._system.dead_letter(self.name, victim[0], "overflow")
            if victim[1] is not None:
                victim[1].fail(AskOverloaded("the mailbox is full"))
        self._wake()
        return True

    def _wait(self, entry: Entry, admit: Callable[[], bool]) -> bool:
        return self.life < Life.STOPPING and self._mailbox.wait(entry, admit)

    def _put_system(self, signal: Start | Stop | Fire) -> None:
        self._mailbox.put_system((signal, None))
        self._wake()

    def _wake(self) -> None:
        if not self._queued and self._task is None and self.life < Life.STOPPING:
            self._queued = True
            self._system.turn.ready(self)

    def _handle(self, message: Any, reply: Reply | None) -> None:
        kind = type(message)
        if kind is Start:
            self._call_handler(self.actor.started, None, self._started)
        elif kind is Stop:
            self.end(message.reason)
        elif kind is Fire:
            self._fire(self.timers.take(message))
        elif kind is not Down or self._system.monitors.take(message.reference):
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
                self._task = asyncio.get_running_loop().create_task(self._drive(value, done))
            else:
                done(value)
        finally:
            self._running = False

    async def _drive(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any], None]) -> None:
        try:
            value = await coroutine
        except asyncio.CancelledError as error:
            self._task = None
            if self.life < Life.STOPPING:    # else by `kill`, and all is done
                self.crash(error)
        except Exception as error:
            self._task = None
            self.crash(error)
        else:
            self._task = None
            if self.life < Life.STOPPING:
                done(value)
                self._wake()

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
            self._system.ports.log.event("down_unhandled", **fields)
            return
        self._system.dead_letter(self.name, message, "unhandled")
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
        lines = "".join(traceback.format_exception(error))
        reason = Failed(type(error).__qualname__, str(error), lines[-TRACEBACK_CHARACTERS_MAX:])
        self._system.ports.log.event(
            "actor_crashed", actor=self.name, type=reason.type, message=reason.message, traceback=reason.traceback
        )
        self.end(reason)

    def end(self, reason: ExitReason) -> None:
        """Goes to STOPPING; the rest follows when the children have ended."""
        if self.life < Life.STOPPING:
            self._close_down(reason)
            self._stop_next_child()

    def _close_down(self, reason: ExitReason) -> None:
        """Takes nothing any more, and lets go of whoever waits for an answer."""
        assert self.life < Life.STOPPING
        self.life = Life.STOPPING
        self.reason = reason
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._reply is not None:
            self._reply.fail(AskDied(reason))
            self._reply = None
        for deferred in tuple(self._deferred):
            deferred.fail(AskDied(reason))
        for entry in self._mailbox.clear():
            self._bury(entry)
        self._ends.clear()
        self.timers.clear()
        self._system.drop_monitors(self)

    def _bury(self, entry: Entry) -> None:
        message, reply = entry
        assert self.reason is not None
        if reply is not None:
            reply.fail(AskDied(self.reason))
        self._system.dead_letter(self.name, message, "dead")

    def _stop_next_child(self) -> None:
        if not self.children:
            self._finish()
            return
        next(reversed(self.children)).stop_within_limit()    # the next one follows from `forget_child`

    def forget_child(self, child: "Cell") -> None:
        """A child has ended."""
        del self.children[child]
        if self.life is Life.STOPPING:
            self._stop_next_child()

    def _finish(self) -> None:
        assert self.life is Life.STOPPING
        assert not self.children
        assert self.reason is not None
        self.life = Life.DEAD
        if self._was_started and not isinstance(self.reason, Killed):
            try:
                self.actor.stopped(self.reason)
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                self._system.ports.log.event("actor_stopped_badly", actor=self.name, traceback=text)
        for endpoint in self._endpoints:
            endpoint.close()
        self._system.alarm.cancel((self, _SHUTDOWN_LIMIT))
        self._system.ended(self)
