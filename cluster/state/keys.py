"""Keys: tasks of actors with state, which all go to the one slot that owns their key.

An actor is a class whose methods are tasks. A task with a key is for the instance of its actor that has this key, and
that instance lives in a child of one slot: the *home* of (queue, actor, key, labels). So these tasks are kept apart in
a *keyed channel* of their own, first in first out within a priority, whatever methods they call.

A keyed channel without a home stands in the rings of the pools that serve its head, as any channel does. The pool whose
turn it is gives it not one slot for one message, but a home (`house`), with the next *epoch*: a child that is told
another epoch builds a fresh instance. From then on its only "pool" is the home of that slot, which has turns of its
own; home and pool take turns in filling a slot (`dispatch`). What a slot owns does not depend on what it holds: homes
are for long.

The home is kept until
- its worker drains or its session ends;
- its worker does not announce the task that is next, as in a deployment that rolls: the message's own name decides;
- it has no tasks, there are more than HOMES_MAX homes, and it was idle for longest. A home with tasks is not evicted,
  since tasks of a key are to find one instance; such homes are bounded by the tasks that are in the state.

While a slot still holds tasks of a channel, the channel gets no other home: what drains may run one of them for long,
and two instances of one key must not run at once.

A keyed channel is made by its first task and freed when it has neither unfinished tasks nor a home. That is found at
the end of an entry (`tidy`), so that nothing within one meets a channel that is gone. Its index is never used again;
specs of tasks that have ended may still name it.

The estimate of keyed tasks is that of their actor, over all its methods: a slot is filled from a lane, and a lane
is of all methods.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from msgspec import structs

from cluster.state.commands import Options
from cluster.state.credit import Labels, Pool, Slot, canonical
from cluster.state.homeless import Homeless
from cluster.state.queues import LANES, PENDING, Channel, Message, Name, Queue, Queues, Spec, spec_of
from cluster.state.sessions import Session
from cluster.state.turns import Standing, Turns

HOMES_MAX = 65_536          # of the cluster, unless more have tasks
SLOTS_LOOKED_AT_MAX = 64    # for a home: those that are idle for longest, or next in turn


class Home(Turns):
    """What one slot owns. Its index is the key of the slot."""

    __slots__ = ("_dirty", "channels", "slot")

    def __init__(self, slot: Slot, dirty: "dict[int, Home]") -> None:
        super().__init__(slot.key)
        self.slot = slot
        self.channels: dict[int, KeyedChannel] = {}
        self._dirty = dirty

    def wake(self, channel: Standing, priority: int) -> None:
        super().wake(channel, priority)
        if self.slot.place:
            self._dirty[self.index] = self


class KeyedChannel(Channel):
    """Messages for one instance of an actor. `name` is the actor's.

    Invariants: `pools` is the home if there is one; else those that serve the name of its head, none while a slot
    `held` messages of it. `unfinished` counts its tasks that have not ended, wherever they are.
    """

    __slots__ = ("_keys", "epoch", "held", "home", "unfinished")

    def __init__(self, index: int, queue: Queue, name: Name, key: str, labels: Labels, keys: "Keys") -> None:
        super().__init__(index, queue, name, labels, [], key)
        self.home: Home | None = None
        self.epoch = 0              # of its home, or of the last one while something is held
        self.held = 0
        self.unfinished = 0
        self._keys = keys

    @property
    def is_parked(self) -> bool:
        return super().is_parked and not self.held

    def begin(self, count: int) -> None:
        """So many tasks were submitted, or are run again."""
        if not self.unfinished:
            self._keys.idle.pop(self.index, None)
        self.unfinished += count

    def append(self, priority: int, messages: Sequence[Message]) -> None:
        was_empty = not self.lanes[priority]
        super().append(priority, messages)
        if was_empty and self.home is None:
            self.rouse()

    def prepend(self, message: Message) -> None:
        super().prepend(message)
        self.rouse()

    def went_stale(self, message: Message) -> None:
        lane = self.lanes[message.spec.priority]
        assert lane
        may_be_next = lane[0].state != PENDING      # of its lane; asked before `lane` is rebuilt
        super().went_stale(message)
        if self.home is None or may_be_next:
            self.rouse()

    def freed(self, count: int) -> None:
        super().freed(count)
        self.held -= count
        assert self.held >= 0
        if not self.held and self.waiting:
            self.rouse()

    def ended(self, state: int, count: int) -> None:
        super().ended(state, count)
        self.unfinished -= count
        assert self.unfinished >= 0
        if not self.unfinished:
            self._keys.emptied[self.index] = self

    def _handed_out(self, count: int) -> None:
        super()._handed_out(count)
        self.held += count

    def head(self) -> Message | None:
        """The next live message of all lanes; drops stale entries before it."""
        for priority in range(len(self.lanes) - 1, -1, -1):
            message = self.head_of(priority)
            if message is not None:
                return message
        return None

    def peek(self) -> Message | None:
        """The same, but changes nothing."""
        for lane in reversed(self.lanes):
            for message in lane or ():
                if message.state == PENDING:
                    return message
        return None

    def take_announced(self, priority: int, count: int, pool: Pool) -> list[Message]:
        """Removes up to `count` live messages from the front of a lane; stops before one that must go alone, or whose
        name the workers of the pool do not announce."""
        lane = self.lanes[priority]
        taken: list[Message] = []
        while len(taken) < count:
            message = self.head_of(priority)
            if message is None or message.goes_alone(pool) or not pool.announces(message.spec.name):
                break
            assert lane is not None
            self.alone -= message.alone > 0
            taken.append(lane.popleft())
        self._handed_out(len(taken))
        return taken

    def rouse(self) -> None:
        """Its head may be another one now, or may have found who serves it: the pools hear of it, or its home, which
        may have forgotten it for the sake of the one before."""
        if self.home is not None:
            for priority in range(len(self.lanes)):
                if self.head_of(priority) is not None:
                    self.home.wake(self, priority)
            return
        head = self.head()
        serving = self._keys.serving(self, head)
        for pool in self.pools:
            if pool not in serving:
                pool.forget(self)
        self.pools = serving
        for pool in serving:
            assert head is not None
            pool.wake(self, head.spec.priority)
        self._keys.homeless.file(self, head)

    def shrink(self) -> None:
        """Nothing waits: gives up its lanes, which cost more than all else, and what is stale in them."""
        assert not self.waiting
        self.lanes = [None] * LANES
        self.stale = 0

    def move_in(self, home: Home, epoch: int) -> None:
        assert self.home is None and not self.held
        for pool in self.pools:
            pool.forget(self)
        self._keys.homeless.file(self, None)
        self.home = home
        self.pools = [home]
        self.epoch = epoch
        home.channels[self.index] = self
        self.rouse()

    def move_out(self) -> None:
        assert self.home is not None
        self.home.forget(self)
        del self.home.channels[self.index]
        self.home = None
        self.pools = []
        self._keys.homes -= 1
        # Also when nothing waits: what is stale in its lanes must go, since a later command of this entry may submit
        # for the key, and only a lane that was empty is announced.
        self.rouse()
        if not self.unfinished:
            self._keys.idle.pop(self.index, None)
            self._keys.emptied[self.index] = self


class Keys:
    """All keyed channels and homes."""

    __slots__ = ("_pools_serving", "_queues", "by_key", "emptied", "epochs", "homeless", "homes", "idle")

    def __init__(self, queues: Queues, pools_serving: Callable[[str, str, Labels], Iterable[Pool]]) -> None:
        self._queues = queues
        self._pools_serving = pools_serving
        self.by_key: dict[tuple[str, str, str, Labels], KeyedChannel] = {}      # (queue, actor, key, labels)
        self.homeless = Homeless()                              # without a home, and something waits there
        self.idle: OrderedDict[int, KeyedChannel] = OrderedDict()       # a home and no tasks; the longest idle first
        self.emptied: dict[int, KeyedChannel] = {}              # their last task ended; empty between entries
        self.homes = 0
        self.epochs = 0                                         # so far; the last one given

    def spec(self, name: str, options: Options, count: int, now_ms: int) -> Spec:
        """The spec of so many tasks that are submitted now. It is not remembered: there are too many keys."""
        channel = self.channel(options.queue, options.actor, options.key, canonical(options.labels))
        channel.begin(count)
        expires_at_ms = now_ms + options.expires_ms if options.expires_ms else 0
        return spec_of(channel, self._queues.name(name).name, options, expires_at_ms)

    def resubmitted(self, spec: Spec) -> Spec:
        """The spec for a task of this one that is run again: its channel may have been freed."""
        channel = self.channel(spec.queue, spec.actor, spec.key, spec.labels)
        channel.begin(1)
        return spec if channel.index == spec.channel else structs.replace(spec, channel=channel.index)

    def channel(self, queue: str, actor: str, key: str, labels: Labels) -> KeyedChannel:
        """The channel, made if there is none."""
        channel = self.by_key.get((queue, actor, key, labels))
        if channel is None:
            queues = self._queues
            channel = KeyedChannel(queues.made, queues.queue(queue), queues.name(actor), key, labels, self)
            self.add(channel)
        return channel

    def add(self, channel: KeyedChannel) -> None:
        self._queues.number(channel)
        self.by_key[channel.queue.name, channel.name.name, channel.key, channel.labels] = channel

    def serving(self, channel: KeyedChannel, head: Message | None) -> list[Turns]:
        """The pools that may give a channel without a home one."""
        if head is None or channel.held:
            return []
        return list(self._pools_serving(channel.queue.name, head.spec.name, channel.labels))

    def pools_changed(self, pools: Iterable[Pool]) -> None:
        """These pools were made, or have ended: they serve others than before."""
        for pool in pools:
            for channel in self.homeless.served(pool):
                channel.rouse()

    def vacate(self, slots: dict[int, Slot]) -> None:
        """These slots get nothing more: what they own needs other homes."""
        for slot in slots.values():
            if slot.home is not None:
                for index in sorted(slot.home.channels):
                    slot.home.channels[index].move_out()

    def house(self, channel: KeyedChannel, pool: Pool, dirty: dict[int, Home]) -> Home:
        """Gives a channel a home at the slot of a pool that owns the fewest: an idle one, or else one with room."""
        ring = pool.idle or pool.open
        slot = min(islice(ring.values(), SLOTS_LOOKED_AT_MAX), key=_owned)
        if slot.home is None:
            slot.home = Home(slot, dirty)
        self.homes += 1
        self.epochs += 1
        channel.move_in(slot.home, self.epochs)
        return slot.home

    def tidy(self) -> None:
        """At the end of an entry: frees what is empty, and evicts homes that are too many."""
        for channel in self.emptied.values():
            if not channel.unfinished and channel.home is not None:
                channel.shrink()
                self.idle[channel.index] = channel
            elif not channel.unfinished:
                self._free(channel)
        self.emptied.clear()
        while self.homes > HOMES_MAX and self.idle:
            channel = next(iter(self.idle.values()))
            channel.move_out()
            del self.emptied[channel.index]
            self._free(channel)

    def _free(self, channel: KeyedChannel) -> None:
        assert not channel.waiting and not channel.held and channel.home is None and not channel.pools
        del self._queues.channels[channel.index]
        del self.by_key[channel.queue.name, channel.name.name, channel.key, channel.labels]


def homes_of(sessions: Iterable[Session]) -> Iterator[Home]:
    """Those that own something."""
    for session in sessions:
        for slot in session.slots.values():
            if slot.home is not None and slot.home.channels:
                yield slot.home


def _owned(slot: Slot) -> int:
    return 0 if slot.home is None else len(slot.home.channels)
