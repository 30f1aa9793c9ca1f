"""What breaks in a seed of the cluster, and what of it really happened.

Every seed gets a mix of faults of its own, drawn from the seed: some are calm, some stormy. Whatever the dice say, each
has a crash, a partition and one kind of damage to a disk, the kind in turn by the seed's number: unsynced bytes lost
with the power, a torn frame, a flipped bit. A fault that came to nothing (the power failed, but nothing unsynced was
there to lose) is tried again until it has happened, so the guarantee is about effects and not about attempts.

Beside what `actors.simulation` offers there are faults that aim: a voter crashes in the very instant in which its vote
makes a leader, or that leader does, or its machine loses its power, a moment later; a disk becomes slow, so that much
is under way, and then the power fails (a brownout); what is said to a holder of a lock comes late, and then it is not
heard; at the end of some seeds all machines lose their power at once.

More than a minority of synced data is never damaged, and a flipped bit lies in a snapshot, or in all of them, or where
a later frame vouches for it: the last synced frame of a log has no witness on its own disk, and with the leader gone
nobody could know of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from signal import SIGKILL

from actors import MILLISECOND, SECOND, Nanos
from actors.simulation import Cuts, FaultMix, FaultPlan, Machine, Process, Rate, SimulatedDisk, World
from cluster.compaction.compactor import ENTRY as COMPACTOR_ENTRY
from cluster.simulation.damage import cut_power_in_next_sync, flip_snapshots, flip_vouched, index_of, watch_losses

LOST_UNSYNCED = "lost_unsynced_bytes"
TORN_FRAME = "torn_frame"
FLIPPED_BIT = "flipped_bit"
BLACKOUT = "blackout"
BROWNOUT = "brownout"
VOTER_CRASH = "voter_crash"
LEADER_CRASH = "leader_crash"
LEADER_POWER_LOSS = "leader_power_loss"
SYNC_POWER_LOSS = "power_loss_in_sync"
DRAIN = "drain"
COMPACTOR_KILL = "compactor_kill"
FLIPPED_SNAPSHOT = "flipped_snapshot"
ALL_DISKS_FULL = "all_disks_full"
LATE_WORD = "late_word"

DISK_KINDS = (LOST_UNSYNCED, TORN_FRAME, FLIPPED_BIT)
EXTRA_KINDS = (
    LOST_UNSYNCED,
    TORN_FRAME,
    BLACKOUT,
    BROWNOUT,
    VOTER_CRASH,
    LEADER_CRASH,
    LEADER_POWER_LOSS,
    SYNC_POWER_LOSS,
    DRAIN,
    COMPACTOR_KILL,
    FLIPPED_SNAPSHOT,
    ALL_DISKS_FULL,
    LATE_WORD,
)
RETRY_NS: Nanos = 500 * MILLISECOND
TEAR_PATIENCE_NS: Nanos = 2 * SECOND
AIM_ONE_IN = 6                  # elections that are followed by a certain one of the faults that aim
AIMED_LASTS_NS_MAX: Nanos = 1_500 * MILLISECOND
LEADER_TIME_NS_MAX: Nanos = 3 * SECOND      # until it is hit
BROWNOUT_INTERVAL_NS: Nanos = 15 * SECOND   # mean
BROWNOUT_NS_MIN: Nanos = 20 * MILLISECOND   # of a slow disk, before the power fails
BROWNOUT_NS_MAX: Nanos = 300 * MILLISECOND
BROWNOUT_SLOWNESS_MAX = 200
SNAPSHOT_FLIP_ONE_IN = 2        # flipped bits, once there are snapshots
COMPACTOR_LOOK_NS: Nanos = 40 * MILLISECOND
COMPACTOR_KILL_ONE_IN = 150     # looks at a compactor that is at work
DRAIN_INTERVAL_NS: Nanos = 8 * SECOND       # mean, of all workers together
FULL_ONE_IN = 3                 # seeds in which all disks are full now and then, as if they were one
FULL_INTERVAL_NS: Nanos = 20 * SECOND       # mean
FULL_NS_MIN: Nanos = 2 * SECOND
FULL_NS_MAX: Nanos = 15 * SECOND
LATE_WORD_ONE_IN = 3            # holders that settle down for seconds
LATE_NS_MAX: Nanos = 1_500 * MILLISECOND    # that it takes longer to reach them; more than their margin
HEARD_NS_MAX: Nanos = 800 * MILLISECOND     # until nobody hears them ...
UNHEARD_NS: Nanos = 5 * SECOND              # ... for so long, more than they may be silent
BLACKOUT_ONE_IN = 5
ANY_DOWN_ONE_IN = 5
BLACKOUT_NS: Nanos = 500 * MILLISECOND


def mix_of(random: Random, disk_kind: str) -> FaultMix:
    """The weather of one seed."""
    calm = random.choice((0.5, 1.0, 1.0, 2.0))      # intervals are this much longer

    def rate(seconds: float, low_ms: int, high_ms: int, at_least: int = 0) -> Rate:
        return Rate(int(seconds * calm * SECOND), low_ms * MILLISECOND, high_ms * MILLISECOND, at_least)

    # Pauses and partitions may outlast a worker's lease (10 s), so that others run what it holds.
    mix = FaultMix(
        crash=rate(7, 20, 3_000, at_least=1),
        pause=rate(15, 50, 14_000),
        power_loss=rate(20, 200, 3_000),
        torn_write=rate(25, 200, 3_000),
        partition=rate(12, 300, 12_000, at_least=1),
        one_way=rate(25, 500, 8_000),
        isolate=rate(20, 500, 13_000),
        slow_link=rate(20, 1_000, 8_000),
        lossy_link=rate(25, 500, 3_000),
        link_break=rate(6, 0, 0),
        slow_disk=rate(15, 500, 5_000),
        sync_error=rate(40, 0, 0),
        full_disk=rate(60, 1_000, 8_000),
        clock_jump=rate(20, 1_000, 20_000),
        slow_disk_factor_max=100,
        torn_write_calls_max=12,
    )
    # The seed's own kind of damage, at least twice.
    if disk_kind == LOST_UNSYNCED:
        return replace(mix, power_loss=rate(20, 200, 3_000, at_least=2))
    if disk_kind == TORN_FRAME:
        return replace(mix, torn_write=rate(25, 200, 3_000, at_least=2))
    return replace(mix, flipped_bit=rate(45, 200, 2_000, at_least=2))


class ClusterFaults(FaultPlan):
    """The faults of one seed. `happened` counts them by kind, as they really took place."""

    def __init__(
        self,
        world: World,
        *,
        brokers: list[Process],
        others: list[Process],
        on_damage: Callable[[str, list[int]], object],
        drains: Sequence[Callable[[], bool]] = (),
    ) -> None:
        random = world.stream("cluster faults")
        self.disk_kind = DISK_KINDS[world.seed % len(DISK_KINDS)]
        mix = mix_of(random, self.disk_kind)
        # Mostly the cluster should be able to go on; in some seeds it need only lose nothing.
        down_max = len(brokers) if random.randrange(ANY_DOWN_ONE_IN) == 0 else (len(brokers) - 1) // 2
        super().__init__(world, mix, members=brokers, others=others, down_max=down_max, flip=self._flip)
        self._random = random
        self._on_damage = on_damage
        self._flipped_snapshots: list[int] = []     # by the last flip, their indexes
        self._late_words = world.stream("late words")
        self._drains = drains               # of each worker; False: it cannot hear
        self._extra = dict.fromkeys(EXTRA_KINDS, 0)
        self._brokers = [process.machine for process in brokers]
        for machine in self._brokers:
            watch_losses(machine, partial(self._count, LOST_UNSYNCED), partial(self._count, TORN_FRAME))

    def start(self, span: Nanos) -> None:
        super().start(span)
        self.world.after(span // 4, self._insist)
        at = 0
        while (at := at + int(self._random.expovariate(1.0) * BROWNOUT_INTERVAL_NS)) < span:
            self.world.after(at, self._brownout)
        at, random = 0, self.world.stream("drains")
        while self._drains and (at := at + int(random.expovariate(1.0) * DRAIN_INTERVAL_NS)) < span:
            self.world.after(at, partial(self._drain, random.choice(self._drains)))
        self._end_compactors(self.world.stream("compactors"))
        at, random = 0, self.world.stream("full disks")
        if self.world.seed % FULL_ONE_IN == FULL_ONE_IN - 1:
            while (at := at + int(random.expovariate(1.0) * FULL_INTERVAL_NS)) < span:
                self.world.after(at, partial(self._fill_disks, random.randint(FULL_NS_MIN, FULL_NS_MAX)))

    @property
    def happened(self) -> dict[str, int]:
        """How often each kind took place."""
        return {kind: count for kind, count in sorted((self.counts | self._extra).items()) if count}

    @property
    def missing(self) -> list[str]:
        """What must happen in this seed and has not."""
        return [kind for kind in ("crash", "partition", self.disk_kind) if kind not in self.happened]

    def prolong(self, span: Nanos) -> None:
        """More time for what is missing, and for nothing else."""
        self._until = self.world.now + span
        for kind in self.missing:
            if kind in self.counts:
                self._strike(kind)      # once: it goes on trying by itself until it finds a victim
        self._insist()
        self.world.after(span, self.heal)

    def leader_elected(self, leader: Process, voters: list[Process]) -> None:
        """Now and then somebody is hit because of it."""
        random = self._random
        roll, soon = random.randrange(AIM_ONE_IN), random.randrange(LEADER_TIME_NS_MAX)
        # Not from within its own turn or another's: processes die between events.
        if roll == 0 and voters:
            self.world.after(0, partial(self.hit, random.choice(voters), VOTER_CRASH))
        elif roll == 1:
            self.world.after(soon, partial(self.hit, leader, LEADER_CRASH))
        elif roll == 2:
            self.world.after(soon, partial(self.hit, leader, LEADER_POWER_LOSS))

    def hit(self, process: Process, kind: str) -> None:
        """Kills one process, or its whole machine, if it is well and the plan allows it."""
        random, world = self._random, self.world
        if world.now >= self._until or self._victim(random, [process]) is None or not process.machine.powered:
            return
        self._count(kind)
        self._mark([process], kind)
        if kind == LEADER_POWER_LOSS:
            world.power_off(process.machine)
            end: Callable[[], None] = partial(self._power_on, process.machine, [process])
        else:
            world.crash(process)
            end = partial(self._recover, [process])
        self._lasts(random.randrange(AIMED_LASTS_NS_MAX), end)

    def settled(self, holder: Process) -> None:
        """It is going to hold a lock for seconds. Now and then what it is told is older than it looks from then on, and
        then it is not heard: as long as its hold time counts from when it spoke, it stops in time."""
        random, world, network = self._late_words, self.world, self.world.network
        if random.randrange(LATE_WORD_ONE_IN) or world.now >= self._until or not self._victim(random, [holder]):
            return
        self._count(LATE_WORD)
        self._mark([holder], LATE_WORD)
        brokers, own = [machine.name for machine in self._brokers], holder.machine.name
        late, unheard_in = random.randrange(LATE_NS_MAX), random.randrange(HEARD_NS_MAX)
        cuts: list[Cuts] = []
        for name in brokers:
            network.slow(name, own, late)

        def mute() -> None:
            if number in self._active:
                cuts.append(network.cut([own], brokers, both_ways=False))

        def end() -> None:
            for name in brokers:
                network.slow(name, own, 0)
            for cut in cuts:
                network.mend(cut)
            self._recover([holder])

        number = self._lasts(unheard_in + UNHEARD_NS, end)
        world.after(unheard_in, mute)

    def maybe_blackout(self) -> None:
        """After the plan, in some seeds: all brokers lose their power in one instant."""
        if self.world.seed % BLACKOUT_ONE_IN == 0:
            self.blackout()

    def blackout(self) -> None:
        self._count(BLACKOUT)
        for machine in self._brokers:
            self.world.power_off(machine)
        self.world.after(BLACKOUT_NS, self._lights_on)

    def _lights_on(self) -> None:
        for machine in self._brokers:
            self.world.power_on(machine)
        for process in self.members:
            if not process.alive:
                self.world.restart(process)

    def _brownout(self) -> None:
        process = self._victim(self._random, self.members)
        if process is None or not process.machine.powered or self.world.now >= self._until:
            return
        random, machine = self._random, process.machine
        self._count(BROWNOUT)
        self._mark([process], BROWNOUT)
        machine.disk_slowness = random.randint(2, BROWNOUT_SLOWNESS_MAX)

        def end() -> None:
            machine.disk_slowness = 1
            self._power_on(machine, [process])

        dark_in = random.randint(BROWNOUT_NS_MIN, BROWNOUT_NS_MAX)
        number = self._lasts(dark_in + random.randrange(AIMED_LASTS_NS_MAX), end)
        self.world.after(dark_in, lambda: self.world.power_off(machine) if number in self._active else None)

    def _drain(self, ask: Callable[[], bool]) -> None:
        """An operator, or an update, stops a worker in good order; it comes back when it has ended. No harm is meant,
        but a fault may hit it meanwhile."""
        if ask():
            self._count(DRAIN)

    def _end_compactors(self, random: Random) -> None:
        """Now and then one that is at work dies, and its broker lives on."""
        if self.world.now >= self._until:
            return
        for machine in self._brokers:
            for child in list(machine.children):
                if child.entry == COMPACTOR_ENTRY and random.randrange(COMPACTOR_KILL_ONE_IN) == 0:
                    self._count(COMPACTOR_KILL)
                    child.take_signal(SIGKILL)
        self.world.after(COMPACTOR_LOOK_NS, partial(self._end_compactors, random))

    def _fill_disks(self, lasts: Nanos) -> None:
        """Nobody is hit by it who has a spare; brokers that other faults end meanwhile come back when there is room."""
        if self.world.now >= self._until:
            return
        self._count(ALL_DISKS_FULL)
        self._set_full(is_full=True)
        self._lasts(lasts, partial(self._set_full, is_full=False))

    def _set_full(self, *, is_full: bool) -> None:
        for machine in self._brokers:
            machine.disk.full = is_full

    def _insist(self) -> None:
        """Damage that takes luck, of the kind that this seed is for, has not happened yet: another try."""
        if self.world.now >= self._until or self.disk_kind in self.counts or self.disk_kind not in self.missing:
            return
        if SYNC_POWER_LOSS not in self._hit.values():
            self._tear()
        self.world.after(RETRY_NS, self._insist)

    def _tear(self) -> None:
        """The power of a broker fails in the midst of making a frame durable, if it has one to write soon."""
        process = self._victim(self._random, self.members)
        if process is None or not process.machine.powered:
            return
        machine = process.machine
        self._mark([process], SYNC_POWER_LOSS)
        disarm = cut_power_in_next_sync(machine)

        def end() -> None:
            disarm()
            self._extra[SYNC_POWER_LOSS] += not machine.powered
            self._power_on(machine, [process])

        self._lasts(TEAR_PATIENCE_NS, end)

    def _lasts(self, span: Nanos, end: Callable[[], None]) -> int:
        """A fault that ends after `span`; its number."""
        self._number += 1
        self._active[self._number] = end
        self.world.after(span, partial(self._finish, self._number))
        return self._number

    def _count(self, kind: str) -> None:
        self._extra[kind] += 1

    def _victim_machine(self, random: Random) -> Machine | None:
        """Mostly a broker's: the others have nothing on their disks."""
        machine = super()._victim_machine(random)
        for _ in range(2):
            if machine is None or machine in self._brokers:
                break
            machine = super()._victim_machine(random)
        return machine

    def _mark(self, processes: Sequence[Process], kind: str) -> None:
        super()._mark(processes, kind)
        if kind == "flipped_bit":
            self._on_damage(processes[0].name, self._flipped_snapshots)

    def _flip(self, disk: SimulatedDisk, random: Random) -> tuple[str, int, int] | None:
        """Chooses a bit of the log, or of a snapshot; where several snapshots are hit, all bits but one flip here."""
        flips = flip_snapshots(disk, random) if random.randrange(SNAPSHOT_FLIP_ONE_IN) == 0 else []
        self._flipped_snapshots = [index_of(path) for path, _, _ in flips]
        if not flips:
            return flip_vouched(disk, random)
        self._count(FLIPPED_SNAPSHOT)
        for flip in flips[1:]:
            disk.flip_bit(*flip)
        return flips[0]
