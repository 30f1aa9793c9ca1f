"""Where messages wait: queues, their channels, and the ten lanes of each channel.

A queue is what users name. Inside it, messages are kept apart by task name, because a worker serves only the
names it announced, and by the labels that their worker must have: queue, name and labels make a *channel*, and
a message of a channel can go to exactly the pools of slots that serve the channel (`credit.Pool`). So a name
that nobody announces never stands in the way of another, and dispatch never looks at a message that it cannot
place. In a channel there is one
first-in-first-out lane per priority, made when first used.

This module knows messages only by (id, priority, state, attempt, holder); what a task is hangs on them
(`tasks.Task`). Plain messages and streams can hang there as well.

A message that ends while it waits (cancelled, expired) is not looked for in its lane, which would cost its
length. It stays as a *stale* entry, known by its state, and is dropped when it comes up, or when stale
entries outnumber the live ones: then all lanes of the channel are rebuilt, which costs each removed entry
O(1).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.state.commands import PRIORITY_MAX, LineRule, Options, RetryRule
from cluster.state.credit import ESTIMATE_UNKNOWN_US, Labels, canonical
from cluster.state.turns import Standing

if TYPE_CHECKING:
    from cluster.state.credit import Pool
    from cluster.state.lines import Bundle
    from cluster.state.turns import Turns

# States of a message beside the terminal ones, `effects.STATE_*`, which are 0 to 4.
PENDING = 5         # in a lane
HELD = 6            # assigned to a slot
DELAYED = 7         # waits for its time

# What of `Message.alone` is not 0 = anything may wait beside it in its slot.
ALONE = 1           # nothing may
HEAVY = 2           # nothing may, but in a loop, where nothing waits: what goes with it is too much to lie ready

LANES = PRIORITY_MAX + 1
STALE_MIN = 64              # of a channel, before its lanes are worth rebuilding
SPECS_MAX = 4_096           # of remembered specs; forgetting them costs memory, not meaning

Body = bytes                # inline; later also a reference into the log or to an arena


class Spec(Struct, gc=False, frozen=True):
    """What tasks of one group have in common; one object for all of them."""

    queue: str
    name: str
    channel: int
    priority: int
    timeout_ms: int
    result_ttl_ms: int
    expires_at_ms: int      # 0 = never
    retries: int = 0
    retry: RetryRule | None = None
    soft_timeout_ms: int = 0
    actor: str = ""         # of a task with a key
    key: str = ""
    labels: Labels = ()     # likewise, and of one with a line of its own
    schedule: str = ""      # of a run: whose
    slot_ms: int = 0        # ... and for which time
    line: LineRule | None = None
    dedup: str = ""         # the key of its work


class Message(Struct, gc=False):
    """One thing that waits, is held, or has ended.

    `attempt` numbers the current or next hand-out, from 1. `holder` is the key of the slot while HELD, else
    0; `estimate_us` is what it was counted with there. `alone` is 0, ALONE or HEAVY.
    """

    id: int
    spec: Spec
    body: Body
    state: int = PENDING
    attempt: int = 1
    holder: int = 0
    estimate_us: int = 0
    alone: int = 0

    def goes_alone(self, pool: "Pool") -> bool:
        """Whether it needs an idle slot of this pool, for itself."""
        return self.alone == ALONE or (self.alone == HEAVY and not pool.is_loop)


class Queue:
    """Counters of one queue. `ended` counts all that ever ended: it never falls, also when they are forgotten."""

    __slots__ = ("delayed", "ended", "name", "ready", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = 0
        self.delayed = 0
        self.running = 0                # held by a slot, whether it runs or waits there
        self.ended = [0, 0, 0, 0, 0]    # by terminal state


class Name:
    """What is known of a task name: how long one run takes, in microseconds."""

    __slots__ = ("estimate_us", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.estimate_us = ESTIMATE_UNKNOWN_US


class Channel:
    """Messages of one name in one queue, for workers with the same labels.

    Invariants: `waiting` = live messages in all lanes, `alone` of them are ALONE or HEAVY; `stale` = entries
    that are not PENDING. A lane that is not empty is registered in every pool of `pools` (they unregister
    lazily).
    """

    __slots__ = ("alone", "index", "key", "labels", "lanes", "name", "pools", "queue", "stale", "waiting")

    def __init__(
        self, index: int, queue: Queue, name: Name, labels: Labels, pools: "Sequence[Turns]", key: str = ""
    ) -> None:
        self.index = index
        self.queue = queue
        self.name = name
        self.labels = labels
        self.key = key                  # "" unless it is a `keys.KeyedChannel`
        self.pools = list(pools)        # in whose rings it stands
        self.lanes: list[deque[Message] | None] = [None] * LANES
        self.waiting = 0
        self.alone = 0
        self.stale = 0

    @property
    def is_parked(self) -> bool:
        """Whether something waits that nobody serves."""
        return self.waiting > 0 and not self.pools

    def add_pool(self, pool: "Pool") -> None:
        """It serves this channel as well."""
        self.pools.append(pool)
        for priority, lane in enumerate(self.lanes):
            if lane:
                pool.wake(self, priority)

    def remove_pool(self, pool: "Pool") -> None:
        """It has ended."""
        self.pools.remove(pool)

    def append(self, priority: int, messages: Sequence[Message]) -> None:
        """Puts PENDING messages behind the others; none of them goes alone."""
        self._lane(priority).extend(messages)
        self.waiting += len(messages)
        self.queue.ready += len(messages)

    def append_again(self, message: Message) -> None:
        """Puts a PENDING message that was handed out before behind the others."""
        self.append(message.spec.priority, [message])
        self.alone += message.alone > 0

    def prepend(self, message: Message) -> None:
        """Puts a PENDING message before the others of its lane."""
        assert message.state == PENDING and not message.holder
        self._lane(message.spec.priority).appendleft(message)
        self.waiting += 1
        self.alone += message.alone > 0
        self.queue.ready += 1

    def take(self, priority: int, count: int, pool: "Pool") -> list[Message]:
        """Removes up to `count` live messages from the front of a lane; stops before one that must go alone in this
        pool."""
        lane = self.lanes[priority]
        assert lane is not None
        if self.stale or self.alone:
            taken = self._take_carefully(lane, count, pool)
        elif count >= len(lane):
            taken = list(lane)
            lane.clear()
        else:
            popleft = lane.popleft
            taken = [popleft() for _ in range(count)]
        self._handed_out(len(taken))
        return taken

    def take_alone(self, priority: int) -> Message:
        """Removes the head of a lane, which `head_is_alone`."""
        lane = self.lanes[priority]
        assert lane is not None
        message = lane.popleft()
        assert message.state == PENDING and message.alone
        self.alone -= 1
        self._handed_out(1)
        return message

    def head_is_alone(self, priority: int, pool: "Pool") -> bool:
        """Whether the next live message of a lane must go alone in this pool; drops stale entries before it."""
        lane = self.lanes[priority]
        assert lane is not None
        if not self.alone:
            return False
        while lane and lane[0].state != PENDING:
            lane.popleft()
            self.stale -= 1
        return bool(lane) and lane[0].goes_alone(pool)

    def waits_for_idle(self, priority: int, pool: "Pool") -> bool:
        """Whether the next live message of a lane must not wait behind another."""
        return self.head_is_alone(priority, pool)

    def head_of(self, priority: int) -> Message | None:
        """The next live message of a lane; drops stale entries before it."""
        lane = self.lanes[priority]
        while lane:
            if lane[0].state == PENDING:
                return lane[0]
            lane.popleft()
            self.stale -= 1
        return None

    def went_stale(self, message: Message) -> None:
        """`message` was live in a lane and has just ended there."""
        assert message.state != PENDING
        self.waiting -= 1
        self.alone -= message.alone > 0
        self.stale += 1
        self.queue.ready -= 1
        if self.stale >= STALE_MIN and self.stale > self.waiting:
            self._rebuild()

    def freed(self, count: int) -> None:
        """So many messages were taken from their slots."""
        self.queue.running -= count

    def ended(self, state: int, count: int) -> None:
        """So many tasks have ended."""
        self.queue.ended[state] += count

    def _handed_out(self, count: int) -> None:
        self.waiting -= count
        self.queue.ready -= count
        self.queue.running += count

    def _take_carefully(self, lane: deque[Message], count: int, pool: "Pool") -> list[Message]:
        taken: list[Message] = []
        while lane and len(taken) < count:
            message = lane[0]
            if message.state != PENDING:
                self.stale -= 1
            elif message.goes_alone(pool):
                break
            else:
                self.alone -= message.alone > 0
                taken.append(message)
            lane.popleft()
        return taken

    def _rebuild(self) -> None:
        for lane in self.lanes:
            if lane:
                live = [message for message in lane if message.state == PENDING]
                lane.clear()
                lane.extend(live)
        self.stale = 0

    def _lane(self, priority: int) -> deque[Message]:
        """The lane, about to receive a message: if it is empty, the pools hear of it."""
        lane = self.lanes[priority]
        if lane is None:
            lane = self.lanes[priority] = deque()
        if not lane:
            for pool in self.pools:
                pool.wake(self, priority)
        return lane


class Queues:
    """All queues, names and channels; they are made when first used."""

    __slots__ = ("_pools_serving", "bundles", "by_key", "channels", "made", "names", "queues", "specs")

    def __init__(self, pools_serving: "Callable[[str, str, Labels], Iterable[Pool]]") -> None:
        self._pools_serving = pools_serving
        self.queues: dict[str, Queue] = {}
        self.names: dict[str, Name] = {}
        self.channels: dict[int, Channel] = {}                  # by index
        self.made = 0                                           # channels and bundles so far; the next index
        self.by_key: dict[tuple[str, str], dict[Labels, Channel]] = {}      # (queue, name) -> by labels
        self.bundles: dict[tuple[str, str], dict[tuple[Labels, str], Bundle]] = {}      # by labels and limit's name
        self.specs: dict[tuple[str, Options | None], Spec] = {}    # remembered

    def spec(self, name: str, options: Options | None, now_ms: int) -> Spec:
        """The spec of a group that is submitted now. A client's default is None; it is remembered as such."""
        if options is not None and options.expires_ms:
            return self._make_spec(name, options, now_ms + options.expires_ms)
        key = (name, options)
        spec = self.specs.get(key)
        if spec is None:
            if len(self.specs) >= SPECS_MAX:
                self.specs.clear()
            spec = self.specs[key] = self._make_spec(name, options or Options(), 0)
        return spec

    def channel(self, queue: str, name: str, labels: Labels) -> Channel:
        """The channel, made if there is none. `labels` are canonical."""
        channel = self.by_key.get((queue, name), {}).get(labels)
        if channel is None:
            pools = list(self._pools_serving(queue, name, labels))
            channel = Channel(self.made, self.queue(queue), self.name(name), labels, pools)
            self.add(channel)
        return channel

    def queue(self, name: str) -> Queue:
        """The queue, made if there is none."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def name(self, name: str) -> Name:
        """The name, made if there is none."""
        known = self.names.get(name)
        if known is None:
            known = self.names[name] = Name(name)
        return known

    def number(self, channel: Channel) -> None:
        """A new channel, of any kind; no index is used twice."""
        assert channel.index >= self.made
        self.channels[channel.index] = channel
        self.made = channel.index + 1

    def add(self, channel: Channel) -> None:
        """A new channel without a key or a line."""
        self.number(channel)
        self.by_key.setdefault((channel.queue.name, channel.name.name), {})[channel.labels] = channel

    def among(self, queues: tuple[str, ...], names: tuple[str, ...]) -> list[Standing]:
        """What pools know of these queues and names, whatever labels it asks for."""
        found: list[Standing] = []
        for queue in queues:
            for name in names:
                found += self.by_key.get((queue, name), {}).values()
                found += self.bundles.get((queue, name), {}).values()
        return found

    def _make_spec(self, name: str, options: Options, expires_at_ms: int) -> Spec:
        channel = self.channel(options.queue, name, canonical(options.labels))
        return spec_of(channel, channel.name.name, options, expires_at_ms)


def spec_of(
    channel: Channel, name: str, options: Options, expires_at_ms: int, line: LineRule | None = None
) -> Spec:
    """The spec of tasks of this name that wait in this channel."""
    return Spec(
        channel.queue.name,
        name,
        channel.index,
        options.priority,
        options.timeout_ms,
        options.result_ttl_ms,
        expires_at_ms,
        options.retries,
        options.retry,
        options.soft_timeout_ms,
        channel.name.name if channel.key else "",
        channel.key,
        channel.labels if channel.key or line is not None else (),
        line=line,
    )
