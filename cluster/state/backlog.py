"""What waits for a slot of some workers, and for no other reason: what a leader tells those that can open more.

Asked between entries, of pools: in their rings stands what could go to their slots at once. So what nobody serves is
not counted, nor what a limit holds back, waits for a date, or is for a slot that owns its key. Of a key that has no
home one task counts, since all go to one slot. Changes nothing, not even rings that would be tidied by the way.

Cost: LOOKED_AT_MAX channels and lines of a pool, fewer of each if pools are many: of workers with a label of their own
each has one. What is behind them is not counted; so many say enough.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice

from msgspec import Struct

from cluster.state.credit import Pool
from cluster.state.keys import KeyedChannel
from cluster.state.limits import ENDLESS, Limit
from cluster.state.lines import Bundle, Line
from cluster.state.queues import PENDING, Channel, Message
from cluster.state.sessions import Session
from cluster.state.tables import Tables

LOOKED_AT_MAX = 256         # channels and lines of one pool
LOOKED_AT_IN_ALL_MAX = 8_192    # ... of all pools together, but one of each
STALE_SKIPPED_MAX = 64      # entries at each end of a lane


class Backlog(Struct, gc=False, frozen=True):
    """Of one pool. `sessions` are those workers in it that have slots to open. `ready` tasks wait for them, as their
    part if other pools with such workers serve them as well; `last` is one that is handed out after most others, by
    id and attempt, (0, 0) if nothing waits."""

    pool: int
    sessions: list[int]
    ready: int
    last: tuple[int, int]


def backlogs_of(tables: Tables, sessions: Iterable[int]) -> list[Backlog]:
    """Of the pools of these workers, as far as they have slots to open."""
    growable: dict[int, tuple[Pool, list[int]]] = {}
    for number in sessions:
        session = tables.sessions.by_id.get(number)
        if session is not None and may_open(session):
            pool = next(iter(session.slots.values())).pool
            growable.setdefault(pool.index, (pool, []))[1].append(number)
    look = _Look(growable.keys())
    return [look.backlog(pool, workers) for pool, workers in growable.values()]


def may_open(session: Session) -> bool:
    """Whether it is a worker with slots that it could open."""
    worker = session.worker
    return worker is not None and 0 < session.slots_open < worker.slots and not session.draining


def still_waits(tables: Tables, pool: int, task: int, attempt: int) -> bool:
    """Whether a task that was the `last` of this pool's backlog is still part of it."""
    found = tables.tasks.get(task)
    if found is None or found.state != PENDING or found.attempt != attempt:
        return False
    channel = tables.queues.channels[found.spec.channel]
    if isinstance(channel, Line):
        return not channel.is_held_back and any(one.index == pool for one in channel.bundle.places)
    return any(isinstance(one, Pool) and one.index == pool for one in channel.pools)


class _Look:
    """At several pools, of which many may serve the same."""

    def __init__(self, growable: Collection[int]) -> None:
        self._growable = growable
        self._channels_max = min(LOOKED_AT_MAX, max(1, LOOKED_AT_IN_ALL_MAX // max(1, len(growable))))
        self._places: dict[int, dict[int, int]] = {}        # of pools among those that share, by channel or bundle
        self._tails: dict[int, Message | None] = {}         # by channel

    def backlog(self, pool: Pool, workers: list[int]) -> Backlog:
        ready = 0
        last: Message | None = None
        rooms: dict[int, int] = {}      # of limits, by index
        for channel in _waiting(pool, self._channels_max):
            places = self._sharing(channel)
            # Else of channels with one task each all would be for the same pool.
            place = (places[pool.index] + channel.index) % len(places)
            ready += share_of(_count(channel, rooms), place, len(places))
            last = last or self._tail(channel)
        return Backlog(pool.index, workers, ready, (last.id, last.attempt) if last is not None else (0, 0))

    def _sharing(self, channel: Channel) -> dict[int, int]:
        """The pools that could take its tasks, and the place of each among them."""
        shared = channel.bundle if isinstance(channel, Line) else channel
        places = self._places.get(shared.index)
        if places is None:
            serving = channel.bundle.places if isinstance(channel, Line) else channel.pools
            found = sorted([pool.index for pool in serving if pool.index in self._growable])
            places = self._places[shared.index] = {pool: place for place, pool in enumerate(found)}
        return places

    def _tail(self, channel: Channel) -> Message | None:
        if channel.index not in self._tails:
            self._tails[channel.index] = _tail(channel)
        return self._tails[channel.index]


def share_of(ready: int, place: int, sharing: int) -> int:
    """What one hears of `ready` tasks that each of so many could take; its place among them counts from 0. The shares
    of all sum up to `ready`."""
    assert 0 <= place < sharing and ready >= 0
    return ready // sharing + (place < ready % sharing)


def _waiting(pool: Pool, channels_max: int) -> Iterator[Channel]:
    """Channels and lines in which something waits for the pool's slots, each once; those first that are served last."""
    seen: set[int] = set()
    for ring in pool.ready:
        for standing in reversed(ring.values()):
            found = _lines(standing) if isinstance(standing, Bundle) else (standing,)
            for channel in found:
                if len(seen) >= channels_max:
                    return
                if channel.index not in seen:
                    seen.add(channel.index)
                    if channel.waiting:
                        yield channel


def _lines(bundle: Bundle) -> Iterator[Line]:
    for ring in bundle.ready:
        for line in reversed(ring.values()):
            assert isinstance(line, Line)
            yield line


def _count(channel: Channel, rooms: dict[int, int]) -> int:
    """How many of its tasks could go to slots that open. They take up the room of their limit."""
    if isinstance(channel, KeyedChannel):
        return 1
    if not isinstance(channel, Line) or (limit := channel.under) is None:
        return channel.waiting
    room = rooms.setdefault(limit.index, _room(limit))
    count = min(channel.waiting, room)
    rooms[limit.index] = room - count
    return count


def _room(limit: Limit) -> int:
    """How many more may start, one at least: else it would hold its members back. Starts that are over may be counted
    still, since `Limit.room` forgets them."""
    room = limit.concurrency - limit.running if limit.concurrency else ENDLESS
    if limit.starts:
        room = min(room, limit.starts - limit.started)
    return max(room, 1)


def _tail(channel: Channel) -> Message | None:
    """One that is handed out after most others: the last of its lowest lane in which one is found that has not ended
    there."""
    return next((message for lane in channel.lanes if lane and (message := _last(lane)) is not None), None)


def _last(lane: deque[Message]) -> Message | None:
    """The last one that has not ended in its lane; if many of the last have, one before these. Not the first one as
    long as there is another: in a long lane that is handed out soon, whatever the others wait."""
    some = chain(islice(reversed(lane), STALE_SKIPPED_MAX), _ever_farther(lane), islice(lane, STALE_SKIPPED_MAX))
    return next((message for message in some if message.state == PENDING), None)


def _ever_farther(lane: deque[Message]) -> Iterator[Message]:
    """From its end, each twice as far as the one before: what was cancelled together lies together."""
    distance = STALE_SKIPPED_MAX
    while distance < len(lane):
        yield lane[-distance]
        distance *= 2
