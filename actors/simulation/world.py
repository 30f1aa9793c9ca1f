"""The simulated world: machines, processes and a network in virtual time, all of it decided by one seed.

Problem: a cluster's bugs live in rare orders of events, which real machines show once and never again. Idea:
give every process the same ports as in the real world, but let one queue of events stand behind all of them.
Then a run is a function of its seed: it can be repeated, watched, shortened, and thousands of them cost less
than one real hour.

What makes it deterministic, and keeps it so:

- One thread, one heap; ties break by the order of asking (`events.py`).
- All chance comes from named streams, each seeded by the world's seed and its name, so that a fault plan
  which draws once more does not change the network's jitter. Strings seed Python's generator by sha512, not
  by `hash`.
- No module-level counters: the 21st world of an interpreter is the first again.
- The garbage collector runs at fixed numbers of events, since finalisers of reference cycles run when it
  does.

Rejected: one asyncio loop for all processes (a paused or killed process cannot be told from the others),
threads, and patching `time` or `socket` (the ports exist).
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator
from heapq import heappop
from random import Random
from typing import NamedTuple, Self

from actors.alarm import ActorTimers, Alarm
from actors.runtime.ports import SECOND, Exit, Nanos, Ports
from actors.simulation.connection import End
from actors.simulation.events import CRASH, EXIT, PAUSE, RESUME, START, EventQueue, Handle, Trace
from actors.simulation.links import NetworkLimits
from actors.simulation.loop import Loop
from actors.simulation.machine import Machine, Process, Start, WorldLimits
from actors.simulation.network import Network, SimDialer, SimNetwork
from actors.simulation.ports import SimClock, SimEntropy, SimFiles, SimLog
from actors.simulation.processes import ChildLimits, Entry, SimProcesses

COLLECT_EVENTS = 100_000        # between two runs of the garbage collector
GRAVES_MAX = 64                 # killed incarnations whose tasks are kept unclosed
LOG_EVENTS_MAX = 10_000         # the last ones are kept for the reader of a failed run
SIGKILL = 9


class Coming(NamedTuple):
    """Something that is to come at `when`. Of a timer, `owner` is whose it is, if that can be told: an actor, which
    knows it as `key`, or the object whose method it calls."""

    when: Nanos
    number: int                     # of its own, but 0 for timers of actors
    is_timer: bool = True           # else it is under way: a message, a turn, a start
    owner: object = None
    key: Hashable = None


class ProcessError(AssertionError):
    """A simulated process let an exception through to its loop: a bug there, or a scenario that expects
    too little."""

    def __init__(self, process: str, now: Nanos, message: str) -> None:
        super().__init__(f"{process} failed at {now / SECOND:.9f} s: {message}")
        self.process = process


class World:
    """Everything, as one seed has it."""

    def __init__(
        self, seed: int, *, limits: WorldLimits | None = None, network: NetworkLimits | None = None,
        children: ChildLimits | None = None,
    ) -> None:
        self.seed = seed
        self.limits = limits or WorldLimits()
        self.queue = EventQueue()
        self.trace = Trace()
        self.network = Network(self.queue, self.stream("network"), network or NetworkLimits())
        self.child_limits = children or ChildLimits()
        self.child_random = self.stream("children")
        self.machines: dict[str, Machine] = {}
        self.processes: dict[str, Process] = {}
        self.entries: dict[str, Entry] = {}
        self.log: deque[tuple[Nanos, str, str, dict[str, object]]] = deque(maxlen=LOG_EVENTS_MAX)
        self.on_log: list[Callable[[str, str, dict[str, object]], object]] = []     # (process, name, fields)
        self.raise_failures = True          # else they are only counted and kept
        self.failures: list[ProcessError] = []
        self.stops_collector = True         # while it runs; else who watches finalisers sees other courses
        self._loops = 0                     # numbers of incarnations given out
        self._graves: deque[Loop] = deque()
        self._until_collect = COLLECT_EVENTS
        self._new_failure: ProcessError | None = None

    # Building

    def stream(self, name: str) -> Random:
        """A generator of its own for `name`, the same in every run with this seed."""
        return Random(f"{self.seed}/{name}")

    def machine(self, name: str) -> Machine:
        """The machine of that name, made when it is first asked for."""
        found = self.machines.get(name)
        if found is None:
            found = self.machines[name] = Machine(self, name)
        return found

    def process(self, name: str, start: Start, *, machine: str | None = None) -> Process:
        """Adds a process (on the machine of its own name unless told otherwise) and starts it."""
        assert name not in self.processes, f"process {name} exists"
        process = self.processes[name] = Process(self, name, self.machine(machine or name), start)
        self.restart(process)
        return process

    def register_entry(self, name: str, start: Entry) -> None:
        """What `Processes.spawn(name, ...)` runs in this world, in place of `module:function`."""
        self.entries[name] = start

    # Time

    @property
    def now(self) -> Nanos:
        """World time, which no process sees: each has the clock of its machine."""
        return self.queue.now

    @property
    def digest(self) -> int:
        """Of everything that happened so far; equal for equal courses."""
        return self.trace.digest

    def after(self, wait: Nanos, callback: Callable[[], object]) -> None:
        """Calls back in the world itself: faults and oracles, which no crash stops."""
        self.queue.push(self.queue.now + wait, lambda _: callback(), None)

    def every(self, interval: Nanos, callback: Callable[[], object]) -> None:
        def again(_: object) -> None:
            callback()
            self.queue.push(self.queue.now + interval, again, None)

        self.queue.push(self.queue.now + interval, again, None)

    def run_for(self, span: Nanos) -> None:
        """Lets `span` of world time pass. Raises ProcessError for what a process let through."""
        self._run(self.queue.now + span, None)

    def run_until(self, predicate: Callable[[], object], limit: Nanos) -> bool:
        """Runs until `predicate()`, looked at after every event; False if `limit` of world time passed
        first."""
        return bool(predicate()) or self._run(self.queue.now + limit, predicate)

    def agenda(self) -> Iterator[Coming]:
        """What is to come, in no order. Left out is what comes to nothing: a cancelled timer, a call to an address
        where nobody listens."""
        for when, number, run, argument in self.queue.heap:
            caller = getattr(run, "__self__", None)
            if not isinstance(argument, Handle):
                if not (isinstance(caller, SimDialer) and caller.address not in self.network.listeners):
                    yield Coming(when, number, is_timer=False)
            elif argument.callback is not None:
                owner = getattr(argument.callback, "__self__", None)
                if isinstance(owner, Alarm) and isinstance(caller, Loop):
                    for (timers, key), local in owner.pending():
                        actor = timers.owner if isinstance(timers, ActorTimers) else None
                        yield Coming(max(self.now, caller.clock.world(local)), 0, owner=actor, key=key)
                else:
                    yield Coming(when, number, owner=owner)

    def sleep(self, until: Nanos) -> None:
        """All machines sleep until then, in no time: what came due meanwhile is due when they wake, in its order."""
        self.queue.postpone(until)

    def _run(self, end: Nanos, predicate: Callable[[], object] | None) -> bool:
        queue = self.queue
        heap = queue.heap
        collecting = gc.isenabled()
        if self.stops_collector:
            gc.disable()
        try:
            while heap and heap[0][0] <= end:
                queue.now, _, run, argument = heappop(heap)
                run(argument)
                self._until_collect -= 1
                if self._until_collect == 0 and self.stops_collector:
                    self._until_collect = COLLECT_EVENTS
                    gc.collect()
                if self._new_failure is not None:
                    failure, self._new_failure = self._new_failure, None
                    raise failure from failure.__cause__
                if predicate is not None and predicate():
                    return True
            queue.now = end
            return False
        finally:
            if collecting:
                gc.enable()

    # What happens to processes and machines

    def crash(self, process: Process) -> None:
        """SIGKILL: the ports are cut, then the rest is dropped. The kernel closes its sockets; its disk
        stays."""
        self._end(process, Exit(code=None, signal=SIGKILL), CRASH, powerless=False)

    def restart(self, process: Process, after: Nanos = 0) -> None:
        """Starts a new incarnation, `after` and a moment from now; crashes one that still runs.

        Without effect if it runs or the machine has no power when that moment comes.
        """
        if process.loop is not None:
            self.crash(process)
        chance = self.stream(f"start {process.name} {process.incarnation}")
        moment = chance.randrange(self.limits.start_ns_max)
        self.queue.push(self.queue.now + after + moment, self._start, process)

    def pause(self, process: Process) -> None:
        """SIGSTOP: it is not stepped; what arrives and what comes due waits."""
        if process.loop is not None and not process.loop.paused:
            self.trace.add(self.queue.now, process.loop.number, PAUSE, 0)
            process.loop.pause()

    def resume(self, process: Process) -> None:
        if process.loop is not None and process.loop.paused:
            self.trace.add(self.queue.now, process.loop.number, RESUME, 0)
            process.loop.resume()

    def power_off(self, machine: Machine) -> None:
        """All processes of the machine stop in the same instant, without a word to anyone, and what they
        did not sync is lost in part."""
        if not machine.powered:
            return
        machine.powered = False
        for child in list(machine.children):
            child.die(Exit(code=None, signal=SIGKILL))
        for process in machine.processes:
            self._end(process, Exit(code=None, signal=SIGKILL), CRASH, powerless=True)
        machine.cuts = self.network.cut([machine.name], list(self.machines))
        machine.disk.crash()
        for listener in machine.on_power_off:
            listener()

    def power_on(self, machine: Machine) -> None:
        """The machine is back, its processes are not: `restart` them."""
        if machine.powered:
            return
        assert machine.cuts is not None
        machine.powered = True
        self.network.mend(machine.cuts)
        machine.cuts = None

    def close(self) -> None:
        """Ends all processes and gives back their memory."""
        for machine in self.machines.values():
            for child in list(machine.children):
                child.die(Exit(code=None, signal=SIGKILL))
        for process in self.processes.values():
            self._end(process, Exit(code=None, signal=SIGKILL), CRASH, powerless=True)
        self.queue.heap.clear()
        while self._graves:
            self._graves.popleft().unbury()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def new_loop(self, name: str, machine: Machine) -> Loop:
        """A loop for a process or a child on `machine`."""
        self._loops += 1
        # The stubs call those methods abstract that a loop without sockets and threads does not have.
        loop = Loop(name, self._loops, self.queue, self.trace, machine.clock)   # type: ignore[abstract]
        loop.on_error = lambda error, message: self._failed(loop, error, message)
        return loop

    def bury(self, loop: Loop) -> None:
        """Kills an incarnation and keeps what is left of it."""
        loop.kill()
        self._graves.append(loop)
        if len(self._graves) > GRAVES_MAX:
            self._graves.popleft().unbury()

    def _start(self, process: Process) -> None:
        if process.loop is not None or not process.machine.powered:
            return
        process.incarnation += 1
        loop = self.new_loop(process.name, process.machine)
        loop.on_exit = lambda code: self._end(process, Exit(code=code, signal=None), EXIT, powerless=False)
        process.loop = loop
        process.ports = self._ports(process, loop)
        process.value = None
        self.trace.add(self.queue.now, loop.number, START, process.incarnation)
        loop.deliver(self._first_turn, process)

    def _first_turn(self, process: Process) -> None:
        assert process.ports is not None and process.loop is not None
        loop = process.loop
        value = process.start(process.ports)
        if not loop.alive:                  # it exited at once
            return
        if isinstance(value, Coroutine):
            value = loop.create_task(value)
            value.add_done_callback(lambda task: _main_ended(loop, task))
        process.value = value

    def _ports(self, process: Process, loop: Loop) -> Ports:
        machine = process.machine
        return Ports(
            clock=SimClock(loop),
            entropy=SimEntropy(f"{self.seed}/{process.name}/{process.incarnation}"),
            files=SimFiles(loop, machine.disk, lambda: self.power_off(machine)),
            network=SimNetwork(self.network, loop, machine.name),
            processes=SimProcesses(self, loop, machine),
            log=SimLog(loop, self._on_log),
        )

    def _end(self, process: Process, exit: Exit, kind: int, *, powerless: bool) -> None:
        loop = process.loop
        if loop is None:
            return
        process.loop = None
        process.ports = None
        self.trace.add(self.queue.now, loop.number, kind, exit.code or 0)
        self.bury(loop)
        self.network.process_ended(loop, End.POWER if powerless else End.EXIT if kind == EXIT else End.CRASH)
        for listener in process.on_exit:
            listener(exit)

    def _on_log(self, process: str, name: str, fields: dict[str, object]) -> None:
        self.log.append((self.queue.now, process, name, fields))
        for listener in self.on_log:
            listener(process, name, fields)

    def _failed(self, loop: Loop, error: BaseException, message: str) -> None:
        failure = ProcessError(loop.name, self.queue.now, f"{message}: {error!r}")
        failure.__cause__ = error
        self.failures.append(failure)
        if self.raise_failures and self._new_failure is None:
            self._new_failure = failure


def _main_ended(loop: Loop, task: "asyncio.Task[object]") -> None:
    """The main coroutine of a process ended, and with it the process, as `actors.runtime.loop.run` has it."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        loop.on_exit(0)
    else:
        loop.on_error(error, "the main coroutine raised")
