"""What a simulated world consists of: machines, which have a clock and a disk, and processes, which run on
them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.runtime.ports import MICROSECOND, MILLISECOND, SECOND, Exit, Nanos, Ports
from actors.simulation.disk import SimulatedDisk
from actors.simulation.loop import Loop, MachineClock
from actors.simulation.network import Cuts
from actors.simulation.ports import SimEntropy, WorldClock
from actors.simulation.processes import SimChild

if TYPE_CHECKING:
    from actors.simulation.world import World

Start = Callable[[Ports], object]


@dataclass(frozen=True, slots=True)
class WorldLimits:
    """How machines differ from each other."""

    boot_ns_max: Nanos = 1_000 * SECOND     # a machine was switched on up to this long before time 0
    drift_ppm_max: int = 50                 # its clocks run this much too fast or too slow at most
    wall_offset_ms_max: int = 50            # and its wall clock is off by up to this at the beginning
    start_ns_max: Nanos = 5 * MILLISECOND   # from asking for a process until its first turn; uniform
    sync_ns_min: Nanos = 80 * MICROSECOND   # a sync of the disk takes at least this ...
    sync_jitter_ns: Nanos = 120 * MICROSECOND   # ... plus an exponential of this mean ...
    sync_hiccup_ppm: int = 1_000            # ... and so many of a million meet a hiccup ...
    sync_hiccup_ns_max: Nanos = 40 * MILLISECOND    # ... of up to this; uniform


class Machine:
    """A computer: a clock, a disk that survives crashes, and a place in the network."""

    def __init__(self, world: "World", name: str) -> None:
        random = world.stream(f"machine {name}")
        limits = world.limits
        self.world = world
        self.name = name
        self.powered = True
        self.clock = MachineClock(
            random.randrange(limits.boot_ns_max),
            random.randint(-limits.drift_ppm_max, limits.drift_ppm_max),
            random.randint(-limits.wall_offset_ms_max, limits.wall_offset_ms_max),
        )
        self.disk_slowness = 1              # a fault multiplies the time of a sync by it
        self.disk = SimulatedDisk(
            WorldClock(world.queue),
            SimEntropy(f"{world.seed}/disk {name}"),
            self._sync_latency,
            _charge_running,
        )
        self.children: dict[SimChild, None] = {}    # child processes that run here, oldest first
        self.cuts: Cuts | None = None       # set while the machine has no power
        self.on_power_off: list[Callable[[], object]] = []      # world code, told after the fact
        self._luck = random

    @property
    def processes(self) -> "list[Process]":
        return [process for process in self.world.processes.values() if process.machine is self]

    def jump_wall_clock(self, ms: int) -> None:
        self.clock.wall_offset_ms += ms

    def _sync_latency(self) -> Nanos:
        limits, random = self.world.limits, self._luck
        latency = limits.sync_ns_min + int(random.expovariate(1.0) * limits.sync_jitter_ns)
        if random.random() * 1_000_000 < limits.sync_hiccup_ppm:
            latency += int(random.random() * limits.sync_hiccup_ns_max)
        return latency * self.disk_slowness


class Process:
    """A process that can be started again and again; each run of it is an incarnation with a `Loop` of its
    own."""

    def __init__(self, world: "World", name: str, machine: Machine, start: Start) -> None:
        self.world = world
        self.name = name
        self.machine = machine
        self.start = start
        self.incarnation = 0                # of the run that is, or was last; 0 before the first
        self.loop: Loop | None = None       # of the run that is; None while down
        self.ports: Ports | None = None     # likewise
        self.value: Any = None              # what `start` returned, or its task if that was a coroutine
        self.on_exit: list[Callable[[Exit], object]] = []   # world code, told of each end

    @property
    def alive(self) -> bool:
        return self.loop is not None

    @property
    def paused(self) -> bool:
        return self.loop is not None and self.loop.paused


def _charge_running(work_ns: Nanos) -> None:
    """An inline sync holds up the process in whose turn it is made; tests that look on from outside are
    nobody."""
    loop = asyncio.events._get_running_loop()
    if isinstance(loop, Loop):
        loop.charge(work_ns)
