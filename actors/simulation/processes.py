"""The Processes port of simulated processes: children are loops of their own on the same machine.

A child's body is looked up by name in the world's registry (`World.register_entry`), since the real one
blocks in reads and runs on threads of the operating system. It speaks the same frames over the same kind of
pipe and page. It gets a `ChildPort` and nothing else; it may be a coroutine function (`await port.receive()`)
or set things up and return. A real child is one thread: while `charge`d work lasts it neither reads nor
sends, yet a signal ends it.

What the kernel guarantees is kept: a frame that left before the child's death arrives before the news of it;
a killed child leaves the page as it is, and the lock held if it held it. Since a simulated child can be
killed only between turns, never half-way through a critical section, a kill leaves a free lock held by lot
(`lock_left_held_ppm`).

Taking a lock that another process holds fails after the timeout, which is charged to the taker; that the
holder, if it is alive, could have released it in time is not looked into. The port's contract allows it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from actors.runtime.ports import MICROSECOND, MILLISECOND, SECOND, Exit, Nanos, Page
from actors.simulation.events import EXIT, FRAME, SIGNAL, START, EventQueue
from actors.simulation.loop import Cut, Loop, without_loop
from actors.simulation.ports import SimClock, SimEntropy, SimFiles
from actors.simulation.traces import portable_traceback

if TYPE_CHECKING:
    from actors.simulation.machine import Machine
    from actors.simulation.world import World

STDERR_BYTES_MAX = 4 * 1024
MILLION = 1_000_000

T = TypeVar("T")
Entry = Callable[["ChildPort", bytes], object]


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """How child processes behave while nothing is broken."""

    spawn_ns_min: Nanos = 5 * MILLISECOND       # from `spawn` to the first turn of the child; uniform
    spawn_ns_max: Nanos = 60 * MILLISECOND
    pipe_ns_min: Nanos = 15 * MICROSECOND       # a frame's way through the pipe
    pipe_jitter_ns: Nanos = 30 * MICROSECOND    # mean of an exponential that is added
    signal_ns_max: Nanos = 100 * MICROSECOND    # until a signal is acted on; uniform
    exit_notice_ns_max: Nanos = 2 * MILLISECOND     # from death to `on_exit`; uniform
    lifeline_ns_max: Nanos = 5 * MILLISECOND    # a child outlives its parent by this at most; uniform
    lock_left_held_ppm: int = 50_000            # of kills and stops that leave the page's lock held


class SharedPage:
    """Memory of a parent and a child, and who holds its lock: a process, perhaps a dead one, or nobody."""

    __slots__ = ("holder", "memory")

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self.holder: Loop | None = None


class SimPage:
    """The Page port, as one of the two sees it."""

    __slots__ = ("_loop", "_shared", "view")

    def __init__(self, shared: SharedPage, loop: Loop) -> None:
        self.view = memoryview(shared.memory)
        self._shared = shared
        self._loop = loop

    def acquire(self, timeout: Nanos) -> bool:
        if not self._loop.alive:
            raise Cut
        if self._shared.holder is None:
            self._shared.holder = self._loop
            return True
        self._loop.charge(timeout)
        return False

    def release(self) -> None:
        if not self._loop.alive:
            raise Cut
        assert self._shared.holder is self._loop, "released by one who does not hold it"
        self._shared.holder = None


class FramePipe:
    """One direction between parent and child: in order, nothing lost, without a limit."""

    __slots__ = ("_last_arrival", "_limits", "_queue", "_random", "_receive", "_source", "_target", "cut_at")

    def __init__(
        self, queue: EventQueue, random: Random, limits: ChildLimits, source: Loop, target: Loop,
        receive: Callable[[bytes], object], opens_at: Nanos,
    ) -> None:
        self.cut_at: Nanos | None = None    # when the source died: what it would have sent later is void
        self._queue = queue
        self._random = random
        self._limits = limits
        self._source = source
        self._target = target
        self._receive = receive
        self._last_arrival = opens_at

    def send(self, frame: bytes) -> None:
        source = self._source
        leaves = source.world_now()
        source.trace.add(leaves, source.number, FRAME, crc32(frame))
        self._queue.push(self.after_all(leaves), self._arrive, (leaves, frame))

    def after_all(self, leaves: Nanos) -> Nanos:
        """When something that leaves now gets to the other end, behind all that went before."""
        limits = self._limits
        delay = limits.pipe_ns_min + int(self._random.expovariate(1.0) * limits.pipe_jitter_ns)
        self._last_arrival = max(self._last_arrival, leaves + delay)
        return self._last_arrival

    def _arrive(self, sent: tuple[Nanos, bytes]) -> None:
        leaves, frame = sent
        if self.cut_at is None or leaves <= self.cut_at:
            self._target.arrive(self._receive, frame)


class ChildPort:
    """Everything of the world that a simulated child may touch."""

    def __init__(self, loop: Loop, page: Page, entropy: SimEntropy, mount: Callable[[], SimFiles]) -> None:
        self.page = page
        self.clock = SimClock(loop)
        self.entropy = entropy
        self._mount = mount
        self._files: SimFiles | None = None
        # If set: what SIGTERM and the like do; False: what they do to a process that says nothing of them.
        self.on_signal: Callable[[int], object] | None = None
        self.errors = b""               # the tail of stderr
        self.rss_bytes = 0              # what its parent is told of its memory: what its body sets
        self.to_parent: FramePipe | None = None     # set before the child's first turn
        self._loop = loop
        self._frames: deque[bytes] = deque()
        self._closed = False            # the parent closed its side
        self._waiting: asyncio.Future[None] | None = None

    @property
    def files(self) -> SimFiles:
        """The disk of its machine. What the child wrote stays when it dies."""
        if self._files is None:
            self._files = self._mount()
        return self._files

    def call(self, function: Callable[[], T]) -> T:
        """Calls code of a user that blocks, now: while it does, no loop runs here."""
        return without_loop(function)

    def at_death(self, callback: Callable[[], object]) -> None:
        """Calls back when the child has ended, however: outside of it, once."""
        self._loop.on_kill.append(callback)

    def step_back(self, nice: int) -> None:
        """Simulated processors are not scarce."""

    def end_copy(self) -> None:
        """Nothing forks a simulated child."""

    def send(self, frame: bytes) -> None:
        """Hands one frame to the parent."""
        if not self._loop.alive:
            raise Cut
        assert self.to_parent is not None
        self.to_parent.send(bytes(frame))

    def poll(self) -> bytes | None:
        """A frame that is there already, else None."""
        return self._frames.popleft() if self._frames else None

    async def receive(self) -> bytes | None:
        """Waits for a frame; None once the parent has closed its side and all frames are taken."""
        while not self._frames:
            if self._closed:
                return None
            assert self._waiting is None, "one reader at a time"
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._frames.popleft()

    def charge(self, work_ns: Nanos) -> None:
        """Works for so long without giving way: frames sent later in this turn leave later.

        Only for work that is short against everything else: what the turn does to the page is seen at once.
        """
        self._loop.charge(work_ns)

    async def work(self, work_ns: Nanos) -> None:
        """Works for so long, and may be stopped or killed meanwhile."""
        done = self._loop.create_future()
        self._loop.at(self._loop.now() + work_ns, done.set_result, (None,), None)
        await done

    def now(self) -> Nanos:
        return self._loop.now()

    def wall_ms(self) -> int:
        return self.clock.wall_ms()

    def write_error(self, data: bytes) -> None:
        """Writes to stderr, of which the parent gets the tail."""
        self.errors = (self.errors + data)[-STDERR_BYTES_MAX:]

    def arrived(self, frame: bytes | None) -> None:
        """A frame, or the end of them, came through the pipe."""
        if frame is None:
            self._closed = True
        else:
            self._frames.append(frame)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class SimChild:
    """The Child port: a running child, as its parent sees it."""

    def __init__(
        self, world: "World", machine: "Machine", parent: Loop, entry: str, argument: bytes, page_bytes: int,
        on_frame: Callable[[bytes], None], on_exit: Callable[[Exit], None],
    ) -> None:
        self.world = world
        self.machine = machine
        self.parent = parent
        self.loop = loop = world.new_loop(f"{parent.name}/{entry}", machine)
        self.pid = loop.number
        self.entry = entry
        self._random = random = world.child_random
        self._limits = limits = world.child_limits
        self._on_exit = on_exit
        self._exited = False        # the parent knows
        self._signalled_at: Nanos = 0   # when the last signal takes effect: they keep their order
        self._shared = SharedPage(page_bytes)
        self._lock_forced = False   # it holds the lock by lot, not by `acquire`
        self.page: Page = SimPage(self._shared, parent)
        self.port = ChildPort(
            loop,
            SimPage(self._shared, loop),
            SimEntropy(f"{world.seed}/{loop.name}/{loop.number}"),
            lambda: SimFiles(loop, machine.disk, lambda: world.power_off(machine)),
        )
        starts_at = parent.world_now() + _between(random, limits.spawn_ns_min, limits.spawn_ns_max)
        self._to_child = FramePipe(world.queue, random, limits, parent, loop, self.port.arrived, starts_at)
        self._to_parent = FramePipe(world.queue, random, limits, loop, parent, on_frame, starts_at)
        self.port.to_parent = self._to_parent
        loop.on_exit = lambda code: self.die(Exit(code, None, self.port.errors))
        loop.on_error = self._failed
        machine.children[self] = None
        world.queue.push(starts_at, self._start, argument)

    def send(self, frame: bytes) -> None:
        if not self.parent.alive:
            raise Cut
        if self.loop.alive:
            self._to_child.send(bytes(frame))

    def signal(self, number: int) -> None:
        if not self.parent.alive:
            raise Cut
        if not self._exited:
            wait = _between(self._random, 0, self._limits.signal_ns_max)
            self._signalled_at = max(self._signalled_at, self.parent.world_now() + wait)
            self.world.queue.push(self._signalled_at, self.take_signal, int(number))

    def close(self) -> None:
        if self.parent.alive:
            at = self._to_child.after_all(self.parent.world_now())
            self.world.queue.push(at, lambda _: self.loop.deliver(self.port.arrived, None), None)

    def rss_bytes(self) -> int:
        if not self.parent.alive:
            raise Cut
        return self.port.rss_bytes if self.loop.alive else 0

    def take_signal(self, number: int) -> None:
        loop = self.loop
        if not loop.alive:
            return
        loop.trace.add(loop.queue.now, loop.number, SIGNAL, number)
        if number == SIGSTOP:
            self._leave_lock_held()
            loop.pause()
        elif number == SIGCONT:
            if self._lock_forced:
                self._lock_forced = False
                self._shared.holder = None
            loop.resume()
        elif number == SIGKILL:
            self.die(Exit(None, number, self.port.errors))
        elif self.port.on_signal is not None:
            loop.deliver(self._signalled, number)
        elif loop.paused:
            loop.deliver(self.take_signal, number)      # it stays pending until the child continues
        else:
            self.die(Exit(None, number, self.port.errors))

    def _signalled(self, number: int) -> None:
        if self.port.on_signal is None or self.port.on_signal(number) is False:
            self.die(Exit(None, number, self.port.errors))

    def die(self, exit: Exit) -> None:
        """The child ends now; its parent, if it lives, hears of it after all frames that had left."""
        loop = self.loop
        if not loop.alive:
            return
        queue = self.world.queue
        loop.trace.add(queue.now, loop.number, EXIT, exit.code or exit.signal or 0)
        self._to_parent.cut_at = queue.now
        if exit.signal is not None:
            self._leave_lock_held()
        self.world.bury(loop)
        del self.machine.children[self]
        notice = _between(self._random, 0, self._limits.exit_notice_ns_max)
        queue.push(self._to_parent.after_all(queue.now + notice), self._tell, exit)

    def orphaned(self) -> None:
        """The parent is dead: the lifeline ends the child as soon as anybody notices."""
        wait = _between(self._random, 0, self._limits.lifeline_ns_max)
        self.world.queue.push(self.world.queue.now + wait, self.take_signal, int(SIGKILL))

    def _leave_lock_held(self) -> None:
        """A signal comes at any instruction, now and then one between taking the lock and giving it back."""
        if self._shared.holder is None and self._random.random() * MILLION < self._limits.lock_left_held_ppm:
            self._shared.holder = self.loop
            self._lock_forced = True

    def _tell(self, exit: Exit) -> None:
        self.parent.deliver(self._told, exit)

    def _told(self, exit: Exit) -> None:
        self._exited = True
        self._on_exit(exit)

    def _start(self, argument: bytes) -> None:
        loop = self.loop
        if loop.alive:
            loop.trace.add(loop.queue.now, loop.number, START, crc32(argument))
            loop.deliver(self._first_turn, argument)

    def _first_turn(self, argument: bytes) -> None:
        body = self.world.entries.get(self.entry)
        if body is None:
            self._failed(ModuleNotFoundError(f"no entry {self.entry!r} is registered"), "")
            return
        value = body(self.port, argument)
        if isinstance(value, Coroutine) and self.loop.alive:
            self.loop.create_task(value).add_done_callback(self._body_ended)

    def _body_ended(self, task: "asyncio.Task[object]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            self.die(Exit(0, None, self.port.errors))
        else:
            self._failed(error, "")

    def _failed(self, error: BaseException, _: str) -> None:
        self.port.write_error(portable_traceback(error, error.__traceback__).encode())
        self.die(Exit(1, None, self.port.errors))


class SimProcesses:
    """The Processes port of one process."""

    def __init__(self, world: "World", loop: Loop, machine: "Machine") -> None:
        self._world = world
        self._loop = loop
        self._machine = machine
        loop.on_kill.append(self._orphan_children)

    def spawn(
        self, entry: str, argument: bytes, *, page_bytes: int, on_frame: Callable[[bytes], None],
        on_exit: Callable[[Exit], None], label: str = "",
    ) -> SimChild:
        if not self._loop.alive:
            raise Cut
        return SimChild(
            self._world, self._machine, self._loop, entry, bytes(argument), page_bytes, on_frame, on_exit
        )

    def _orphan_children(self) -> None:
        for child in list(self._machine.children):
            if child.parent is self._loop:
                child.orphaned()


def _between(random: Random, low: Nanos, high: Nanos) -> Nanos:
    return low + int(random.random() * (high - low))


assert ChildLimits().lifeline_ns_max < SECOND, "the real one promises two seconds"
