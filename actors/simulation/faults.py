"""What breaks, when, and for how long: a plan drawn from the world's seed.

Each kind of fault has a `Rate`. Its times are drawn when the plan starts, each kind from a stream of its own,
so that changing one rate leaves the other kinds' times alone. A fault picks its victim when its time comes,
from those that are well; if it finds none it tries again a little later. Every fault ends: after its own
duration, at the end of the plan, or when `heal` is called, whichever comes first, so that what follows a plan
is a world in which all must recover.

Processes are divided into *members* of a quorum and others. At most `down_max` members are kept from their
work at any one time (killed, stopped, cut off); a minority by default, so that the cluster should go on,
which is what liveness is measured by. Raise it to the number of members and only safety is left to ask for.
Synced data is damaged (`flipped_bit`) on at most a minority of members in the whole plan, for no replicated
log survives more.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from actors.runtime.ports import MILLISECOND, Nanos
from actors.simulation.disk import SimulatedDisk
from actors.simulation.events import FAULT
from actors.simulation.fault_mix import KINDS, FaultMix, Rate
from actors.simulation.machine import Machine, Process
from actors.simulation.network import Cuts
from actors.simulation.world import World

RETRY_NS = 250 * MILLISECOND        # until a fault that found no victim tries again
NEVER_CALLS = 1 << 60               # disarms a fuse

Flip = Callable[[SimulatedDisk, Random], tuple[str, int, int] | None]
End = Callable[[], object]


def flip_anywhere(disk: SimulatedDisk, random: Random) -> tuple[str, int, int] | None:
    """Chooses (path, offset, bit) among all bytes of a random file that is not empty."""
    paths = [path for path in disk.paths() if disk.read(path)]
    if not paths:
        return None
    path = random.choice(paths)
    return path, random.randrange(len(disk.read(path))), random.randrange(8)


class FaultPlan:
    """Faults for `members` (of a quorum) and `others`, from `start` on for a given time.

    `flip` chooses the bit of a `flipped_bit`: give one that knows the files, if some damage cannot be seen.
    """

    def __init__(
        self, world: World, mix: FaultMix, *, members: Sequence[Process], others: Sequence[Process] = (),
        down_max: int | None = None, flip: Flip = flip_anywhere,
    ) -> None:
        self.world = world
        self.mix = mix
        self.members = list(members)
        self.others = list(others)
        self.down_max = (len(members) - 1) // 2 if down_max is None else down_max
        self.flip = flip
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)   # faults that took place
        self._hit: dict[Process, str] = {}          # kept from their work now, and by what
        self._damaged: dict[Process, None] = {}     # members whose synced data was damaged at any time
        self._active: dict[int, End] = {}           # what ends each fault that lasts
        self._number = 0                            # of the last fault
        self._until: Nanos = 0
        self._streams = {kind: world.stream(f"faults {kind}") for kind in KINDS}

    def start(self, span: Nanos) -> None:
        """Draws the times of all faults of the next `span`; at its end everything is healed."""
        self._until = self.world.now + span
        for kind in KINDS:
            rate, random = self._rate(kind), self._streams[kind]
            times: list[Nanos] = []
            at = 0
            while rate.interval_ns:
                at += int(random.expovariate(1.0) * rate.interval_ns)
                if at >= span:
                    break
                times.append(at)
            # Those that must be are early enough to find a victim.
            while len(times) < rate.at_least:
                times.append(random.randrange(span * 3 // 4))
            for wait in times:
                self.world.after(wait, partial(self._strike, kind))
        self.world.after(span, self.heal)

    def heal(self) -> None:
        """Ends all faults now, and those to come."""
        self._until = min(self._until, self.world.now)
        for number in list(self._active):
            self._finish(number)

    def _rate(self, kind: str) -> Rate:
        rate = getattr(self.mix, kind)
        assert isinstance(rate, Rate)
        return rate

    def _strike(self, kind: str) -> None:
        if self.world.now >= self._until:
            return
        rate, random = self._rate(kind), self._streams[kind]
        lasts = random.randint(rate.lasts_ns_min, rate.lasts_ns_max)
        begin: Callable[[Random, Nanos], End | None] = getattr(self, f"_{kind}")
        end = begin(random, lasts)
        if end is None:
            self.world.after(RETRY_NS, partial(self._strike, kind))
            return
        self.counts[kind] += 1
        self.world.trace.add(self.world.now, 0, FAULT, KINDS.index(kind))
        self._number += 1
        self._active[self._number] = end
        self.world.after(lasts, partial(self._finish, self._number))

    def _finish(self, number: int) -> None:
        end = self._active.pop(number, None)
        if end is not None:
            end()

    # Victims

    def _room(self) -> int:
        """How many more members may be kept from their work."""
        return self.down_max - sum(1 for process in self._hit if process in self.members)

    def _victim(self, random: Random, processes: Sequence[Process]) -> Process | None:
        """One that is well and may be hit."""
        room = self._room() > 0
        well = [
            process
            for process in processes
            if process.alive and not process.paused and process not in self._hit
            and (room or process not in self.members)
        ]
        return random.choice(well) if well else None

    def _victim_machine(self, random: Random) -> Machine | None:
        """One whose members, taken together, may be hit."""
        well = [
            machine
            for machine in self._machines()
            if machine.powered
            and not any(process in self._hit for process in machine.processes)
            and sum(1 for process in machine.processes if process in self.members) <= self._room()
        ]
        return random.choice(well) if well else None

    def _machines(self) -> list[Machine]:
        return list({process.machine: None for process in (*self.members, *self.others)})

    def _mark(self, processes: Sequence[Process], kind: str) -> None:
        for process in processes:
            assert process not in self._hit
            self._hit[process] = kind

    def _recover(self, processes: Sequence[Process]) -> None:
        """They are left alone again; those that are down start again."""
        for process in processes:
            del self._hit[process]
            if not process.alive:
                self.world.restart(process)

    # Faults of processes and machines

    def _crash(self, random: Random, lasts: Nanos) -> End | None:
        process = self._victim(random, (*self.members, *self.others))
        if process is None:
            return None
        self._mark([process], "crash")
        self.world.crash(process)
        return partial(self._recover, [process])

    def _pause(self, random: Random, lasts: Nanos) -> End | None:
        process = self._victim(random, (*self.members, *self.others))
        if process is None:
            return None
        self._mark([process], "pause")
        self.world.pause(process)

        def end() -> None:
            self.world.resume(process)
            self._recover([process])

        return end

    def _power_loss(self, random: Random, lasts: Nanos) -> End | None:
        machine = self._victim_machine(random)
        if machine is None:
            return None
        processes = machine.processes
        self._mark(processes, "power_loss")
        self.world.power_off(machine)
        return partial(self._power_on, machine, processes)

    def _torn_write(self, random: Random, lasts: Nanos) -> End | None:
        machine = self._victim_machine(random)
        if machine is None:
            return None
        processes = machine.processes
        self._mark(processes, "torn_write")     # at once: nothing else may hit them until the fuse has blown
        machine.disk.cut_power_after(random.randrange(self.mix.torn_write_calls_max))

        def end() -> None:
            if machine.powered:
                machine.disk.cut_power_after(NEVER_CALLS)
                self.counts["torn_write"] -= 1      # the machine was too quiet: it did not happen
            self._power_on(machine, processes)

        return end

    def _power_on(self, machine: Machine, processes: Sequence[Process]) -> None:
        self.world.power_on(machine)
        self._recover(processes)

    def _flipped_bit(self, random: Random, lasts: Nanos) -> End | None:
        minority = (len(self.members) - 1) // 2
        open_to_damage = self.members if len(self._damaged) < minority else list(self._damaged)
        process = self._victim(random, open_to_damage)
        if process is None:
            return None
        disk = process.machine.disk
        chosen = self.flip(disk, random)
        if chosen is None:
            return None
        self._mark([process], "flipped_bit")
        self._damaged[process] = None
        self.world.crash(process)
        path, offset, bit = chosen
        disk.flip_bit(path, offset, bit)
        return partial(self._recover, [process])

    def _clock_jump(self, random: Random, lasts: Nanos) -> End | None:
        machine = random.choice(self._machines())
        ms = random.randint(-self.mix.clock_jump_ms_max, self.mix.clock_jump_ms_max)
        machine.jump_wall_clock(ms)
        return partial(machine.jump_wall_clock, -ms)

    # Faults of disks

    def _slow_disk(self, random: Random, lasts: Nanos) -> End | None:
        machine = random.choice(self._machines())
        if random.randrange(2):
            machine.disk.slow_syncs(1, lasts)
            return _nothing
        machine.disk_slowness = random.randint(2, self.mix.slow_disk_factor_max)
        return partial(setattr, machine, "disk_slowness", 1)

    def _sync_error(self, random: Random, lasts: Nanos) -> End | None:
        machine = self._victim_machine(random)
        if machine is None:
            return None
        machine.disk.fail_next_sync()
        return _nothing

    def _full_disk(self, random: Random, lasts: Nanos) -> End | None:
        machine = self._victim_machine(random)
        if machine is None:
            return None
        processes = machine.processes
        self._mark(processes, "full_disk")
        machine.disk.full = True

        def end() -> None:
            machine.disk.full = False
            self._recover(processes)

        return end

    # Faults of the network

    def _partition(self, random: Random, lasts: Nanos) -> End | None:
        well = [process for process in self.members if process not in self._hit]
        size = min(self._room(), len(well))
        if size < 1:
            return None
        minority = random.sample(well, random.randint(1, size))
        away = list({process.machine.name: None for process in minority})
        # Members that share a machine go together, if there is room for that.
        minority = [process for process in well if process.machine.name in away]
        if len(minority) > self._room():
            return None
        for process in self.others:
            name = process.machine.name
            if name not in away and not _shares_machine(process, self.members) and random.randrange(2):
                away.append(name)
        rest = [machine.name for machine in self._machines() if machine.name not in away]
        return self._cut_off(minority, self.world.network.partition([away, rest]), "partition")

    def _one_way(self, random: Random, lasts: Nanos) -> End | None:
        process = self._victim(random, (*self.members, *self.others))
        if process is None:
            return None
        name = process.machine.name
        rest = [machine.name for machine in self._machines() if machine.name != name]
        sides = ([name], rest) if random.randrange(2) else (rest, [name])
        return self._cut_off([process], self.world.network.cut(*sides, both_ways=False), "one_way")

    def _isolate(self, random: Random, lasts: Nanos) -> End | None:
        process = self._victim(random, (*self.members, *self.others))
        if process is None:
            return None
        name = process.machine.name
        rest = [machine.name for machine in self._machines() if machine.name != name]
        return self._cut_off([process], self.world.network.cut([name], rest), "isolate")

    def _cut_off(self, processes: Sequence[Process], cuts: Cuts, kind: str) -> End:
        self._mark(processes, kind)

        def end() -> None:
            self.world.network.mend(cuts)
            self._recover(processes)

        return end

    def _slow_link(self, random: Random, lasts: Nanos) -> End | None:
        pair = self._pair(random)
        if pair is None:
            return None
        self.world.network.slow(*pair, random.randrange(self.mix.slow_link_ns_max))
        return partial(self.world.network.slow, *pair, 0)

    def _lossy_link(self, random: Random, lasts: Nanos) -> End | None:
        pair = self._pair(random)
        if pair is None:
            return None
        self.world.network.lose(*pair, random.randrange(self.mix.loss_ppm_max))
        return partial(self.world.network.lose, *pair, 0)

    def _link_break(self, random: Random, lasts: Nanos) -> End | None:
        machine = random.choice(self._machines())
        broken = self.world.network.break_links(machine.name, only=random if random.randrange(4) else None)
        return _nothing if broken else None

    def _pair(self, random: Random) -> tuple[str, str] | None:
        names = [machine.name for machine in self._machines()]
        if len(names) < 2:
            return None
        source, target = random.sample(names, 2)
        return source, target


def _shares_machine(process: Process, members: Sequence[Process]) -> bool:
    return any(member.machine is process.machine for member in members)


def _nothing() -> None:
    """The end of a fault that is over as soon as it has happened, or that ends by itself."""
