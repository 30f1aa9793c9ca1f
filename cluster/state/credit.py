"""Credit: which slot may get how many more messages.

A slot runs one task at a time. Giving it the next one only when it reports the last costs a round trip per
task; giving it many starves the other slots and makes tasks wait behind a long one. So with prefetch "auto" a
slot may hold about 20 ms of *estimated* work: plenty to hide a round trip, little to wait for. The estimate
is kept per task name, in integers, and moves by an eighth of the difference with each run. A message keeps
the estimate it was counted with until it leaves its slot, so that the sum of a slot is exact whatever the
estimate does meanwhile.

Slots of workers that announce the same queues and names with the same prefetch and labels are interchangeable;
they form a *pool*. Dispatch asks a pool for slots, not the workers. Each pool keeps its slots that may get more in two
rings: idle ones, which come first, and open ones (busy, with room left), served round robin. A full or closed
slot is in no ring. Changes are collected in `touched` and made once per entry, so a slot that ends a hundred
tasks moves once. The slots of a worker that drains leave their pool for good; those that it has shut leave the rings
until they are opened again.

A worker may have one slot more, its *loop*: an event loop that runs all that it holds at once. It is in a pool of
its own kind, with a fixed number of tasks as prefetch, and nothing waits in it behind another.

A pool also knows which lanes of its channels may hold something (`ready`, per priority). After each entry no
pool has both a slot with room and a live message it could place there, with one exception: a message that
must go alone is at the head and all slots are busy. Such a pool stays `dirty` and is tried again with the
next entry.
"""

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from cluster.state.commands import PREFETCH_AUTO, WorkerSpec
from cluster.state.turns import Standing, Turns

if TYPE_CHECKING:
    from cluster.state.keys import Home
    from cluster.state.queues import Message, Queues

ESTIMATE_UNKNOWN_US = 20_000        # of a name that has not run yet: fills a slot
ESTIMATE_MAX_US = 1 << 40
ESTIMATE_SHIFT = 3                  # a run moves the estimate by an eighth of the difference, rounded down
SLOT_WORK_US_MAX = 20_000           # auto: a slot with less may get more
SLOT_MESSAGES_MAX = 512             # auto: however short they are
SLOTS_MAX = 1_024                   # of one worker
PREFETCH_MAX = 4_096                # fixed, of one slot
SLOT_BITS = 12

assert SLOTS_MAX < 1 << SLOT_BITS, "and a loop"
assert ESTIMATE_UNKNOWN_US >= SLOT_WORK_US_MAX, "an unknown task must not be prefetched behind another"

# Where a slot is listed.
NOWHERE = 0
IDLE = 1
OPEN = 2

Labels = tuple[str, ...]                                            # canonical: sorted, each once
PoolKey = tuple[tuple[str, ...], tuple[str, ...], int, Labels, bool]        # queues, names, prefetch, labels, is a loop


class Slot:
    """One place of a worker where one task runs and others may wait, or its loop.

    Invariants: `count` and `load_us` are the number and the summed estimates of the messages whose holder is
    `key`; all of them are in `held`, which the slots of a session share. A `closed` slot holds something and
    gets nothing; a `draining` one gets nothing either, and its pool does not list it.
    In a pool of loops all that it holds runs at once.
    """

    __slots__ = (
        "closed",
        "count",
        "draining",
        "held",
        "home",
        "index",
        "key",
        "load_us",
        "place",
        "pool",
        "session",
        "touched",
        "yields",
    )

    def __init__(self, session: int, index: int, pool: "Pool", held: "dict[int, Message]") -> None:
        self.session = session
        self.index = index
        self.key = slot_key(session, index)
        self.pool = pool
        self.held = held
        self.count = 0
        self.load_us = 0
        self.closed = False     # runs a message alone, or has handed back what waited behind a long one
        self.draining = False   # as its session, or shut: beyond those that its worker has open
        self.touched = False
        self.place = NOWHERE
        self.home: Home | None = None   # what it owns, if it ever owned something
        self.yields = False     # was filled from its home: it is its pool's turn

    def room(self, estimate_us: int) -> int:
        """How many more messages of this estimate it may get; 0 or less: none. An idle one gets one at
        least."""
        assert estimate_us > 0
        if self.closed or self.draining:
            return 0
        prefetch = self.pool.prefetch
        if prefetch != PREFETCH_AUTO:
            return prefetch - self.count
        by_count = SLOT_MESSAGES_MAX - self.count
        # Rounded up: the last one may overshoot.
        by_work = -((self.load_us - SLOT_WORK_US_MAX) // estimate_us)
        return by_work if by_work < by_count else by_count

    def belongs(self) -> int:
        """Where it is to be listed."""
        if self.closed or self.draining:
            return NOWHERE
        if self.count == 0:
            return IDLE
        prefetch = self.pool.prefetch
        if prefetch == PREFETCH_AUTO:
            return OPEN if self.load_us < SLOT_WORK_US_MAX and self.count < SLOT_MESSAGES_MAX else NOWHERE
        return OPEN if self.count < prefetch else NOWHERE


class Pool(Turns):
    """Interchangeable slots, and the lanes that they serve."""

    __slots__ = (
        "_dirty",
        "_labels",
        "_names",
        "_queues",
        "idle",
        "is_loop",
        "key",
        "open",
        "prefetch",
        "sessions",
    )

    def __init__(self, index: int, key: PoolKey, dirty: "dict[int, Pool]") -> None:
        super().__init__(index)
        self.key = key
        self._queues = frozenset(key[0])    # asked, never iterated
        self._names = frozenset(key[1])
        self.prefetch = key[2]
        self._labels = frozenset(key[3])
        self.is_loop = key[4]
        self.sessions = 0
        self.idle: OrderedDict[int, Slot] = OrderedDict()       # slot key -> slot; longest idle first
        self.open: OrderedDict[int, Slot] = OrderedDict()       # next in turn first
        self._dirty = dirty

    def serves(self, queue: str, name: str, labels: Labels) -> bool:
        """Whether its workers consume the queue, announce the name and have all of the labels."""
        return queue in self._queues and name in self._names and self._labels.issuperset(labels)

    def announces(self, name: str) -> bool:
        return name in self._names

    def served(self, queues: "Queues") -> list[Standing]:
        """The existing channels and bundles that it serves."""
        return [channel for channel in queues.among(*self.key[:2]) if self._labels.issuperset(channel.labels)]

    def wake(self, channel: Standing, priority: int) -> None:
        super().wake(channel, priority)
        if self.idle or self.open:
            self._dirty[self.index] = self

    def retry(self) -> None:
        """Has room, but the message next in order needs an idle slot: look again after the next entry."""
        self._dirty[self.index] = self

    def take_slots(self, ring: OrderedDict[int, Slot], count: int) -> list[Slot]:
        """Removes the first `count` slots of a ring; `list_slot` must follow for each."""
        if count >= len(ring):
            slots = list(ring.values())
            ring.clear()
        else:
            slots = list(islice(ring.values(), count))
            for slot in slots:
                del ring[slot.key]
        for slot in slots:
            slot.place = NOWHERE
        return slots

    def list_slot(self, slot: Slot) -> None:
        """Lists a slot where it belongs now; it keeps its turn if it is there already."""
        place = slot.belongs()
        if place == slot.place:
            return
        self.unlist(slot)
        slot.place = place
        if place == IDLE:
            self.idle[slot.key] = slot
        elif place == OPEN:
            self.open[slot.key] = slot

    def unlist(self, slot: Slot) -> None:
        if slot.place == IDLE:
            del self.idle[slot.key]
        elif slot.place == OPEN:
            del self.open[slot.key]
        slot.place = NOWHERE


class Credit:
    """All pools, and what changed in this entry."""

    __slots__ = ("dirty", "dirty_homes", "made", "pools", "touched")

    def __init__(self) -> None:
        self.pools: dict[PoolKey, Pool] = {}
        self.dirty: dict[int, Pool] = {}        # by index: have room and something that they may place
        self.dirty_homes: dict[int, Home] = {}  # by slot key: likewise; empty between entries
        self.touched: list[Slot] = []           # empty between entries
        self.made = 0                           # pools so far; the last index given

    def serving(self, queue: str, name: str, labels: Labels) -> list[Pool]:
        return [pool for pool in self.pools.values() if pool.serves(queue, name, labels)]

    def join(
        self, session: int, worker: WorkerSpec, queues: "Queues", held: "dict[int, Message]"
    ) -> dict[int, Slot]:
        """Adds a worker's slots, idle; returns them by key."""
        pools = [self._pool(key, queues) for key in pool_keys(worker)]
        for pool in pools:
            pool.sessions += 1
        slots = slots_of(session, worker, pools, held)
        for slot in slots.values():
            slot.draining = is_shut(slot, worker.slots_min)
            self.touch(slot)
        return slots

    def resize(self, slots: dict[int, Slot], count: int) -> dict[int, Slot]:
        """The first `count` of a worker's slots are open from now on, and its loop; returns those that were shut."""
        shut: dict[int, Slot] = {}
        for key, slot in slots.items():
            is_over = is_shut(slot, count)
            if is_over and not slot.draining:
                shut[key] = slot
                slot.pool.unlist(slot)
                self.dirty_homes.pop(key, None)
            elif slot.draining and not is_over:
                self.touch(slot)
            slot.draining = is_over
        return shut

    def _pool(self, key: PoolKey, queues: "Queues") -> Pool:
        """The pool, made if there is none."""
        pool = self.pools.get(key)
        if pool is None:
            self.made += 1
            pool = self.pools[key] = Pool(self.made, key, self.dirty)
            for channel in pool.served(queues):
                channel.add_pool(pool)
        return pool

    def drain(self, slots: dict[int, Slot], queues: "Queues") -> None:
        """Takes a worker's slots out of their pools, whatever they hold: they get nothing more. A pool that has no
        others ends, so that its names are parked if nobody else serves them."""
        for slot in slots.values():
            slot.draining = True
            slot.pool.unlist(slot)
            self.dirty_homes.pop(slot.key, None)
        for pool in pools_of(slots):
            pool.sessions -= 1
            if pool.sessions == 0:
                for channel in pool.served(queues):
                    channel.remove_pool(pool)
                del self.pools[pool.key]

    def leave(self, slots: dict[int, Slot], queues: "Queues") -> None:
        """Removes a worker's slots, which hold nothing any more."""
        assert all(slot.count == 0 and slot.load_us == 0 for slot in slots.values())
        some = next(iter(slots.values()))       # the first one is shut with its session only
        if not some.draining:
            self.drain(slots, queues)
        self.touched = [slot for slot in self.touched if slot.session != some.session]

    def touch(self, slot: Slot) -> None:
        """`count`, `load_us` or `closed` of a slot changed: list it anew before the next dispatch."""
        if not slot.touched:
            slot.touched = True
            self.touched.append(slot)

    def settle(self) -> None:
        """Lists all touched slots where they belong now, in the order in which they were touched."""
        for slot in self.touched:
            slot.touched = False
            if slot.count == 0:
                slot.closed = False
            pool = slot.pool
            pool.list_slot(slot)
            if slot.place:
                if pool.mask:
                    self.dirty[pool.index] = pool
                if slot.home is not None and slot.home.mask:
                    self.dirty_homes[slot.key] = slot.home
        self.touched.clear()


def pool_keys(worker: WorkerSpec) -> list[PoolKey]:
    """Of its slots, and of its loop if it has one. Workers with the same key have interchangeable slots."""
    queues, labels = canonical(worker.queues), canonical(worker.labels)
    loop_names = canonical(worker.loop_names) if worker.loop_tasks > 0 else ()
    in_loop = frozenset(loop_names)
    names = canonical(tuple(name for name in worker.names if name not in in_loop))
    keys: list[PoolKey] = [(queues, names, worker.prefetch, labels, False)]
    if loop_names:
        keys.append((queues, loop_names, worker.loop_tasks, labels, True))
    return keys


def slots_of(
    session: int, worker: WorkerSpec, pools: list[Pool], held: "dict[int, Message]"
) -> dict[int, Slot]:
    """A worker's slots by their keys, in the pools of its `pool_keys`."""
    ordinary, *loops = pools
    slots = [Slot(session, index, ordinary, held) for index in range(worker.slots)]
    slots += [Slot(session, worker.slots, loop, held) for loop in loops]
    return {slot.key: slot for slot in slots}


def is_shut(slot: Slot, slots_open: int) -> bool:
    """Whether a slot is beyond those that its worker has open; 0 = all are, for good. A loop is never shut."""
    return 0 < slots_open <= slot.index and not slot.pool.is_loop


def pools_of(slots: dict[int, Slot]) -> list[Pool]:
    """The pools of a worker's slots."""
    return list(dict.fromkeys([slot.pool for slot in slots.values()]))


def slot_key(session: int, index: int) -> int:
    return session << SLOT_BITS | index


def canonical(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as a set: sorted, each once."""
    return tuple(sorted(dict.fromkeys(names)))
