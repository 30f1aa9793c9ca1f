"""Lines: tasks of one name that wait apart from each other, and take turns.

Tasks of one name in one queue, for workers with the same labels, wait in one channel. Those with a share, or under a
limit, wait in a *line* instead: one for each share, since a tenant with a million tasks must not hold up another with
one, and one for what only a limit sets apart. A line is a channel, with lanes, credit and stale entries as in any
other; but pools do not know it. All lines of one queue, name and set of labels stand in a *bundle*, which stands in
the rings of pools as one channel does, and in which they take turns: first in, first out within a line and a
priority, priorities above turns. So a name that has a thousand shares gets as many turns as one that has none,
whoever comes and goes costs the pools nothing, and a pool that is made or ends looks at a bundle and not at a million
lines.

A turn of a bundle is a round over slots with room, and a turn of a line is one task in it.

What a limit holds back leaves the rings (`limits`). A limit of a share holds back its line, and one that has a name,
for all that name it, the bundles of these: such lines have a bundle for each limit, so that the limit has few
members, however many shares wait there.

Tasks under a rate go to idle slots only, or to loops: what waits in a slot behind another would start at a moment
that nobody has counted.

A line is made by its first task and freed when it has no unfinished ones, at the end of the entry, as a keyed channel
is, and its bundle with its last line: a million tenants in a year leave nothing. Indexes are not used again; specs of
tasks that have ended may still name them.
"""

from collections.abc import Callable, Iterable

from msgspec import structs

from cluster.state.commands import LineRule, Options
from cluster.state.credit import Labels, Pool, canonical
from cluster.state.limits import ENDLESS, Limit, Limits
from cluster.state.queues import Channel, Message, Name, Queue, Queues, Spec, spec_of
from cluster.state.turns import SparseTurns, Standing, Turns


class Bundle(SparseTurns):
    """Lines of one queue, name and set of labels; with a `limit`, those that name it.

    Invariants: `places` are the pools that serve it, and `pools` are these, or its limit while that holds it back. A
    line whose lane is not empty is in the ring of that priority, unless its own limit holds it back.
    """

    __slots__ = ("labels", "lanes", "limit", "lines", "name", "places", "pools", "queue")

    key = ""                    # as of a channel without one

    def __init__(
        self, index: int, queue: Queue, name: Name, labels: Labels, limit: Limit | None, pools: Iterable[Turns]
    ) -> None:
        super().__init__(index)
        self.queue = queue
        self.name = name
        self.labels = labels
        self.limit = limit                              # that has a name
        self.places: list[Turns] = list(pools)
        self.pools = self.places
        self.lanes = self.ready                         # what pools ask a channel for
        self.lines: dict[tuple[str, bool], Line] = {}   # (share, whether it has a limit of its own)
        if limit is not None:
            limit.join(self)

    def wake(self, channel: Standing, priority: int) -> None:
        super().wake(channel, priority)
        for pool in self.pools:
            pool.wake(self, priority)

    @property
    def variant(self) -> tuple[Labels, str]:
        """What tells it from the other bundles of its queue and name."""
        return self.labels, self.limit.name if self.limit is not None else ""

    def add_pool(self, pool: Pool) -> None:
        """It serves these lines as well."""
        self.places.append(pool)
        if self.pools is self.places:
            for priority, ring in enumerate(self.ready):
                if ring:
                    pool.wake(self, priority)

    def remove_pool(self, pool: Pool) -> None:
        """It has ended."""
        self.places.remove(pool)

    def next_line(self, priority: int) -> "Line | None":
        """The line whose turn it is; lines in which nothing waits leave when they come up."""
        ring = self.ready[priority]
        while ring:
            line = next(iter(ring.values()))
            assert isinstance(line, Line)
            if line.head_of(priority) is not None:
                return line
            del ring[line.index]
        self.mask &= ~(1 << priority)
        return None

    def take(self, priority: int, count: int, now_ms: int, pool: Pool, *, behind: bool = False) -> list[Message]:
        """Removes up to `count` messages from lines in turn, one from each, or all from one that is by itself. Stops
        before one that must go alone in slots of this pool, or not `behind` others there, and when its limit holds it
        back."""
        ring = self.ready[priority]
        taken: list[Message] = []
        while ring and len(taken) < count and self.pools is self.places:
            index, line = next(iter(ring.items()))
            assert isinstance(line, Line)
            if line.head_of(priority) is None:
                del ring[index]
                continue
            if line.waits_for_idle(priority, pool) if behind else line.head_is_alone(priority, pool):
                break
            if len(ring) > 1:
                ring.move_to_end(index)
                some = line.take(priority, 1, pool)
            else:
                some = line.take(priority, min(count - len(taken), line.room(now_ms)), pool)
            taken += some
            line.started(len(some), now_ms)
        if not ring:
            self.mask &= ~(1 << priority)
        return taken

    def take_alone(self, priority: int, now_ms: int) -> Message:
        """Removes the next message, which `head_is_alone`."""
        line = self.next_line(priority)
        assert line is not None
        self.next_turn(line, priority)
        message = line.take_alone(priority)
        line.started(1, now_ms)
        return message

    def head_is_alone(self, priority: int, pool: Pool) -> bool:
        line = self.next_line(priority)
        return line is not None and line.head_is_alone(priority, pool)

    def waits_for_idle(self, priority: int, pool: Pool) -> bool:
        """Whether what is next must not wait behind another."""
        line = self.next_line(priority)
        return line is not None and line.waits_for_idle(priority, pool)


class Line(Channel):
    """Messages of one share.

    Invariants: `unfinished` counts its tasks that have not ended, wherever they are. `places` is its bundle, and
    `pools` is this, or its own `limit` while that holds it back. `under` is the limit that counts its tasks, its own or
    that of the bundle.
    """

    __slots__ = ("_emptied", "bundle", "limit", "places", "rule", "share", "under", "unfinished")

    def __init__(
        self, index: int, bundle: Bundle, share: str, limit: Limit | None, emptied: "dict[int, Line]"
    ) -> None:
        super().__init__(index, bundle.queue, bundle.name, bundle.labels, [])
        self.bundle = bundle
        self.share = share
        self.limit = limit
        self.under = limit if limit is not None else bundle.limit
        self.places: list[Turns] = [bundle]
        self.pools = self.places
        self.rule: LineRule | None = None   # of its last tasks: one object for all that say the same
        self.unfinished = 0
        self._emptied = emptied
        if limit is not None:
            limit.join(self)

    @property
    def is_parked(self) -> bool:
        return self.waiting > 0 and not self.bundle.places

    @property
    def is_held_back(self) -> bool:
        """Whether its limit is what it waits for."""
        return self.pools is not self.places or self.bundle.pools is not self.bundle.places

    @property
    def variant(self) -> tuple[str, bool]:
        """What tells it from the other lines of its bundle."""
        return self.share, self.limit is not None

    def freed(self, count: int) -> None:
        super().freed(count)
        if self.under is not None:
            self.under.end(count)

    def ended(self, state: int, count: int) -> None:
        super().ended(state, count)
        self.unfinished -= count
        assert self.unfinished >= 0
        if not self.unfinished:
            self._emptied[self.index] = self

    def waits_for_idle(self, priority: int, pool: Pool) -> bool:
        under_rate = self.under is not None and self.under.starts > 0 and not pool.is_loop
        return under_rate or self.head_is_alone(priority, pool)

    def room(self, now_ms: int) -> int:
        """How many more of its tasks may start now."""
        return ENDLESS if self.under is None else self.under.room(now_ms)

    def started(self, count: int, now_ms: int) -> None:
        """So many of its tasks were handed out. Its limit may be full now, and hold back it or its bundle."""
        if self.under is not None:
            self.under.start(self if self.limit is not None else self.bundle, count, now_ms)


class Lines:
    """All lines and bundles."""

    __slots__ = ("_limits", "_pools_serving", "_queues", "bundles", "emptied")

    def __init__(
        self, queues: Queues, limits: Limits, pools_serving: Callable[[str, str, Labels], Iterable[Pool]]
    ) -> None:
        self._queues = queues
        self._limits = limits
        self._pools_serving = pools_serving
        self.bundles: dict[int, Bundle] = {}        # by index
        self.emptied: dict[int, Line] = {}          # their last task ended; empty between entries

    def spec(self, name: str, options: Options, count: int, now_ms: int) -> Spec:
        """The spec of so many tasks that are submitted now. It is not remembered: there are too many shares."""
        assert options.line is not None
        line = self._line(options.queue, name, canonical(options.labels), options.line, renews=True)
        line.unfinished += count
        if line.rule != options.line:
            line.rule = options.line
        expires_at_ms = now_ms + options.expires_ms if options.expires_ms else 0
        return spec_of(line, line.name.name, options, expires_at_ms, line.rule)

    def resubmitted(self, spec: Spec) -> Spec:
        """The spec for a task of this one that is run again: its line may have been freed. The terms of a limit are
        those that hold by now."""
        assert spec.line is not None
        line = self._line(spec.queue, spec.name, spec.labels, spec.line, renews=False)
        line.unfinished += 1
        return spec if line.index == spec.channel else structs.replace(spec, channel=line.index)

    def tidy(self) -> None:
        """At the end of an entry: frees what is empty."""
        for line in self.emptied.values():
            if not line.unfinished:
                self._free(line)
        self.emptied.clear()

    def add_bundle(self, bundle: Bundle) -> None:
        self.bundles[bundle.index] = bundle
        self._queues.bundles.setdefault((bundle.queue.name, bundle.name.name), {})[bundle.variant] = bundle

    def add_line(self, index: int, bundle: Bundle, share: str, limit: Limit | None) -> Line:
        line = bundle.lines[share, limit is not None] = Line(index, bundle, share, limit, self.emptied)
        self._queues.number(line)
        return line

    def _line(self, queue: str, name: str, labels: Labels, rule: LineRule, *, renews: bool) -> Line:
        """The line, made if there is none."""
        named = own = None
        if rule.concurrency or rule.starts:
            key = (rule.limit, "") if rule.limit else (name, rule.share)
            limit = self._limits.limit(*key, rule) if renews else self._limits.known(*key, rule)
            named, own = (limit, None) if rule.limit else (None, limit)
        bundle = self._bundle(queue, name, labels, named)
        line = bundle.lines.get((rule.share, own is not None))
        if line is None:
            line = self.add_line(self._queues.made, bundle, rule.share, own)
        return line

    def _bundle(self, queue: str, name: str, labels: Labels, limit: Limit | None) -> Bundle:
        """The bundle, made if there is none."""
        queues = self._queues
        bundle = queues.bundles.get((queue, name), {}).get((labels, limit.name if limit is not None else ""))
        if bundle is None:
            pools = self._pools_serving(queue, name, labels)
            bundle = Bundle(queues.made, queues.queue(queue), queues.name(name), labels, limit, pools)
            queues.made += 1
            self.add_bundle(bundle)
        return bundle

    def _free(self, line: Line) -> None:
        assert not line.waiting
        bundle = line.bundle
        bundle.forget(line)
        if line.limit is not None:
            line.limit.leave(line)
        del bundle.lines[line.variant]
        del self._queues.channels[line.index]
        if not bundle.lines:
            self._free_bundle(bundle)

    def _free_bundle(self, bundle: Bundle) -> None:
        for pool in bundle.pools:
            pool.forget(bundle)
        if bundle.limit is not None:
            bundle.limit.leave(bundle)
        del self.bundles[bundle.index]
        of_name = self._queues.bundles[bundle.queue.name, bundle.name.name]
        del of_name[bundle.variant]
        if not of_name:
            del self._queues.bundles[bundle.queue.name, bundle.name.name]
