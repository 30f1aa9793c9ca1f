"""The event loop of one simulated process: an asyncio loop that has no thread, no selector and no time of its
own.

The world steps it. A *turn* drains up to 256 arrived messages, then runs the callbacks that were ready; what
those schedule runs in the next turn. A turn takes 20 us of virtual time plus whatever was charged (a disk
sync, a task's work): until then the process is busy, and what arrives meanwhile is drained together, as in
the real loop.

One incarnation of a process is one `Loop`. It ends in one way only, `kill`: from then on nothing of it runs,
its ports raise `Cut`, and its tasks are buried instead of closed, since closing a coroutine would run its
`finally` blocks, which a SIGKILL never does. They are closed when the world ends, still behind cut ports.

Futures and tasks hash by a number of the loop instead of by address, so that the sets in which asyncio
keeps them (`asyncio.wait`, task groups) are walked in the same order in every run.
"""

import asyncio
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Never, TypeVar

from actors.runtime.ports import MICROSECOND, SECOND, Nanos
from actors.simulation.events import TURN, EventQueue, Handle, Trace

T = TypeVar("T")

TURN_NS = 20 * MICROSECOND      # the processor time of a turn that does nothing else
DRAIN_MESSAGES_MAX = 256        # as the real network port: more would starve timers

ErrorHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class Cut(GeneratorExit):
    """A port of a killed process was used.

    It derives from GeneratorExit so that no `except Exception` of the dead process stops it, and so that
    Python stays silent when it leaves a coroutine that is being closed.
    """


class Future(asyncio.Future[T]):
    def __init__(self, number: int, loop: "Loop") -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Task(asyncio.Task[T]):
    def __init__(
        self, number: int, coroutine: Coroutine[Any, Any, T], loop: "Loop", name: str, context: Context | None
    ) -> None:
        self.number = number        # before super().__init__, which puts the task into a set
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number


class MachineClock:
    """The monotonic clock of a machine: since when it counts, and how much too fast (in parts per
    million)."""

    __slots__ = ("boot_ns", "rate", "wall_offset_ms")

    def __init__(self, boot_ns: Nanos, drift_ppm: int, wall_offset_ms: int) -> None:
        self.boot_ns = boot_ns                  # local time at world time 0
        self.rate = 1_000_000 + drift_ppm       # local nanoseconds per world millisecond
        self.wall_offset_ms = wall_offset_ms    # faults move it

    def local(self, world: Nanos) -> Nanos:
        return self.boot_ns + world * self.rate // 1_000_000

    def world(self, local: Nanos) -> Nanos:
        """The first world time at which the machine's clock shows at least `local`."""
        return -((self.boot_ns - local) * 1_000_000 // self.rate)


class Loop(asyncio.AbstractEventLoop):
    """One incarnation of a simulated process."""

    def __init__(self, name: str, number: int, queue: EventQueue, trace: Trace, clock: MachineClock) -> None:
        self.name = name
        self.number = number                    # unique in the world; names this incarnation in the trace
        self.queue = queue
        self.trace = trace
        self.clock = clock
        self.alive = True                       # false for ever after `kill`; every port looks at it
        self.paused = False
        self.charged: Nanos = 0                 # work of the turn that runs; 0 between turns
        self.free_at: Nanos = 0                 # world time at which the last turn ends
        self.ready: deque[Handle] = deque()
        self.inbox: deque[tuple[Callable[[Any], object], Any]] = deque()
        self.on_exit: Callable[[int], object] = lambda code: None               # SystemExit in a callback
        self.on_error: Callable[[BaseException, str], object] = _raise          # an exception nobody caught
        self.on_kill: list[Callable[[], object]] = []                           # what the kernel cleans up
        self._in_turn = False
        self._turn_queued = False
        self._numbers = 0                       # of futures and tasks
        self._context = Context()               # of the process; a variable set in it stays in it
        self._error_handler: ErrorHandler | None = None
        self._buried: tuple[object, ...] = ()
        self._due_event = self._due
        self._turn_event = self._turn

    # What the world does

    def deliver(self, receive: Callable[[Any], object], argument: Any) -> None:
        """Something came from outside: `receive(argument)` runs in a turn, as soon as there is one."""
        if self.alive:
            self.inbox.append((receive, argument))
            if not self._turn_queued and not self._in_turn and not self.paused:
                self._queue_turn()

    def arrive(self, receive: Callable[[Any], object], argument: Any) -> None:
        """As `deliver`, but the turn may run at once: only for the last step of an event."""
        if self.alive:
            self.inbox.append((receive, argument))
            if not self._turn_queued:
                self._wake()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if (self.ready or self.inbox) and not self._turn_queued:
            self._queue_turn()

    def kill(self) -> None:
        """Ends this incarnation at once: the ports first, then everything that could still run."""
        if not self.alive:
            return
        self.alive = False
        tasks = sorted(asyncio.all_tasks(self), key=_number)
        self._buried = (tasks, self.ready, self.inbox)
        self.ready = deque()
        self.inbox = deque()
        cleanups, self.on_kill = self.on_kill, []
        for cleanup in cleanups:
            cleanup()

    def unbury(self) -> None:
        """Closes the coroutines of a killed process, for the sake of memory. Their `finally` blocks meet
        `Cut`."""
        assert not self.alive
        if not self._buried:
            return
        tasks, *_ = self._buried
        self._buried = ()
        assert isinstance(tasks, list)
        for task in tasks:
            task._log_destroy_pending = False
            with suppress(Exception, SystemExit, GeneratorExit):    # whatever a dead process still has to say
                task.get_coro().close()

    def charge(self, work_ns: Nanos) -> None:
        """The running turn does `work_ns` of work: later steps of the turn, and later turns, happen after it.

        Between turns (a test that looks into a file, say) nobody works and nothing is charged.
        """
        assert work_ns >= 0
        if self._in_turn:
            self.charged += work_ns

    def world_now(self) -> Nanos:
        """World time as this process has reached it within its turn."""
        return self.queue.now + self.charged

    def now(self) -> Nanos:
        """Local time."""
        clock = self.clock
        return clock.boot_ns + (self.queue.now + self.charged) * clock.rate // 1_000_000

    def soon(
        self, callback: Callable[..., object], args: tuple[object, ...], context: Context | None
    ) -> Handle:
        handle = Handle(callback, args, context, 0)
        if self.alive:
            self.ready.append(handle)
            if not self._turn_queued and not self._in_turn and not self.paused:
                self._queue_turn()
        return handle

    def at(
        self, local: Nanos, callback: Callable[..., object], args: tuple[object, ...], context: Context | None
    ) -> Handle:
        handle = Handle(callback, args, context, local)
        if self.alive:
            queue = self.queue
            handle.queue = queue
            queue.push(max(self.clock.world(local), queue.now), self._due_event, handle)
        return handle

    def _due(self, handle: Handle) -> None:
        """A timer's moment has come."""
        handle.queue = None
        if handle.callback is not None and self.alive:
            self.ready.append(handle)
            if not self._turn_queued:
                self._wake()

    def _wake(self) -> None:
        if self.paused or self._in_turn:
            return
        if self.free_at <= self.queue.now:
            self._turn(None)        # saves one way through the heap
        else:
            self._queue_turn()

    def _queue_turn(self) -> None:
        self._turn_queued = True
        self.queue.push(max(self.free_at, self.queue.now), self._turn_event, None)

    def _turn(self, _: object) -> None:
        self._turn_queued = False
        if self.paused or not self.alive:
            return
        now = self.queue.now
        self.charged = 0
        self._in_turn = True
        outer = _get_running_loop()
        _set_running_loop(self)
        try:
            ran = self._context.run(self._round)
        finally:
            _set_running_loop(outer)
            self._in_turn = False
            self.free_at = now + TURN_NS + self.charged
            self.charged = 0
        self.trace.add(now, self.number, TURN, ran)
        if self.ready or self.inbox:
            self._queue_turn()

    def _round(self) -> int:
        """Runs what is there now, and nothing that it schedules. Returns how many callbacks ran."""
        inbox = self.inbox
        drained = min(len(inbox), DRAIN_MESSAGES_MAX)
        for _ in range(drained):
            if not self.alive:
                return drained
            receive, argument = inbox.popleft()
            try:
                receive(argument)
            except BaseException as error:
                self._failed(error, receive)
        ready = self.ready
        count = len(ready)
        for _ in range(count):
            if not self.alive:
                break
            handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            try:
                if handle.context is None:
                    callback(*handle.args)
                else:
                    handle.context.run(callback, *handle.args)
            except BaseException as error:
                self._failed(error, callback)
        return drained + count

    def _failed(self, error: BaseException, callback: Callable[..., object]) -> None:
        if not self.alive:
            return                          # Cut, or what the dying process made of it
        if isinstance(error, SystemExit):
            self.on_exit(_exit_code(error))
        elif isinstance(error, Exception):
            self.call_exception_handler({"message": f"exception in {callback!r}", "exception": error})
        else:
            raise error     # KeyboardInterrupt and pytest's outcomes are for those who run the world

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now() / SECOND

    def call_soon(      # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        return self.soon(callback, args, context if context is not None else copy_context())

    call_soon_threadsafe = call_soon        # type: ignore[assignment]

    def call_later(     # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        when = self.now() + max(0, round(delay * SECOND))
        return self.at(when, callback, args, context if context is not None else copy_context())

    def call_at(        # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        due = round(when * SECOND)
        return self.at(due, callback, args, context if context is not None else copy_context())

    def create_future(self) -> Future[Any]:
        self._numbers += 1
        return Future(self._numbers, self)

    def create_task(    # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None,
        **_: object,
    ) -> Task[T]:
        if not self.alive:
            coro.close()
            raise Cut
        self._numbers += 1
        return Task(self._numbers, coro, self, name or f"{self.name}-task-{self._numbers}", context)

    def _nowhere(self, *_: object, **__: object) -> Never:
        raise NotImplementedError("a simulated loop has neither sockets nor processes nor signals")

    add_reader = add_signal_handler = add_writer = _nowhere
    connect_read_pipe = connect_write_pipe = _nowhere
    create_connection = create_datagram_endpoint = _nowhere
    create_server = create_unix_connection = create_unix_server = _nowhere
    getaddrinfo = getnameinfo = sock_connect = _nowhere
    subprocess_exec = subprocess_shell = _nowhere

    def run_in_executor(
        self, executor: object, func: Callable[..., T], *args: object
    ) -> Future[T]:
        """Runs it at once: there are no threads. For code of users (`asyncio.to_thread`); ours has the Files port."""
        future: Future[T] = self.create_future()
        try:
            future.set_result(without_loop(func, *args))
        except Exception as error:
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """asyncio's debug mode measures real time; there is none here."""

    def is_running(self) -> bool:
        return self._in_turn

    def is_closed(self) -> bool:
        return not self.alive

    def close(self) -> None:
        """A process ends by SystemExit or by the world, never by closing its loop."""

    def get_exception_handler(self) -> ErrorHandler | None:
        return self._error_handler

    def set_exception_handler(self, handler: ErrorHandler | None) -> None:
        self._error_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.on_error(error, str(context.get("message", "")))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.alive:
            return
        if self._error_handler is not None:
            self._error_handler(self, context)
        else:
            self.default_exception_handler(context)

    def run_forever(self) -> Never:
        raise RuntimeError("a simulated loop is stepped by its world: World.run_for or World.run_until")

    def run_until_complete(self, future: object) -> Never:
        self.run_forever()

    def stop(self) -> Never:
        self.run_forever()


def without_loop(function: Callable[..., T], *args: object) -> T:
    """Calls it as code that blocks is called in reality: in a thread, or a process, that runs no loop."""
    outer = _get_running_loop()
    _set_running_loop(None)
    try:
        return function(*args)
    finally:
        _set_running_loop(outer)


def _number(task: "asyncio.Task[Any]") -> int:
    return task.number if isinstance(task, Task) else 0


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _raise(error: BaseException, message: str) -> None:
    raise error
