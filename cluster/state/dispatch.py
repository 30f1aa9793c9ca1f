"""Dispatch: at the end of each entry, waiting messages meet slots with room.

It is part of `apply`, as in RabbitMQ's quorum queues: every replica decides alike, only the leader tells the
workers. So a new leader knows who holds what, and a task costs two commands (submit, complete) and none for
being handed out.

Order. A pool serves its lanes from the highest priority down, first in, first out, channels of one priority
in turn. Idle slots come first and get one message each; only then do busy slots get more, round robin, so
that no message waits behind another while a slot has nothing to do. Where several pools compete they take
turns, one round each.

Rounds in bulk. Handing out one message at a time would move a slot through its ring for each. Instead, n open
slots that each have room for r messages take n * r messages at once; the j-th slot gets every n-th of them
from the j-th on. That is what r single rounds would give it.

A message that must go alone needs an idle slot. When it is next in order and none is idle, nothing overtakes
it: busy slots get no more until one of them has run empty, which takes them about the time of what they hold.
Otherwise slots that are refilled before they are idle would leave it waiting for ever.

Lines. A turn of a bundle (`lines`) is a round over the idle slots, or over the open ones: one message each, of its
lines in turn. Limits let through what they have room for before anything is handed out. Those that have room left after
that let others through: the ones before may have found no slot.

Keys. What a slot owns (`keys`) and what its pool has for it take turns: by priority, and those of one priority one
filling each. A keyed channel that has no home gets one when it is its turn in a pool.

Cost: O(messages handed out), plus the slots and pools that changed in this entry.
"""

from cluster.state.credit import Pool, Slot
from cluster.state.effects import Assignment
from cluster.state.keys import HOMES_MAX, Home, KeyedChannel
from cluster.state.ledger import ASSIGNED, ATTEMPT_MARK, HOUSED
from cluster.state.lines import Bundle
from cluster.state.queues import HELD, Channel, Message
from cluster.state.status import assignment_of
from cluster.state.tables import Tables
from cluster.state.turns import Standing

ROUNDS_MAX = 4_096      # in one go: more than any slot has room for


def dispatch(tables: Tables) -> None:
    """Hands out all that can be handed out."""
    credit, keys, limits = tables.credit, tables.keys, tables.limits
    if credit.touched:
        credit.settle()
    if limits.touched:
        limits.let_through(tables.now_ms)
    later: list[Home] = []
    if credit.dirty_homes:
        homes = list(credit.dirty_homes.values())
        credit.dirty_homes.clear()
        for home in homes:
            if _yields(home):
                later.append(home)
            else:
                _fill_home(tables, home)
    if credit.dirty:
        _fill_pools(tables)
    if later:
        for home in later:
            _fill_later(tables, home)
        if credit.dirty:        # a channel that has moved out
            _fill_pools(tables)
    while limits.touched and limits.let_through(tables.now_ms):
        _fill_pools(tables)
    if tables.lines.emptied:
        tables.lines.tidy()
    if limits.touched:
        limits.tidy(tables.now_ms)
    assert not credit.dirty_homes, "a home was woken while slots were filled"
    if keys.emptied or keys.homes > HOMES_MAX:
        keys.tidy()


def _fill_pools(tables: Tables) -> None:
    credit = tables.credit
    pools = list(credit.dirty.values())
    credit.dirty.clear()
    for pool in pools:
        while pool.idle and _fill_idle(tables, pool):
            pass
    rounds = ROUNDS_MAX if len(pools) == 1 else 1
    while pools:
        pools = [pool for pool in pools if pool.open and _fill_open(tables, pool, rounds)]


def _fill_idle(tables: Tables, pool: Pool) -> bool:
    """One message for each of some idle slots; False if nothing waits."""
    top = pool.next_lane()
    if top is None:
        return False
    channel, priority = top
    if type(channel) is not Channel:
        if isinstance(channel, Bundle):
            _fill_idle_from_bundle(tables, pool, channel, priority)
        else:
            _house(tables, pool, channel)
        return True
    if channel.head_is_alone(priority, pool):
        (slot,) = pool.take_slots(pool.idle, 1)
        _assign(tables, channel, slot, [channel.take_alone(priority)])
        slot.closed = True
        return True
    lane = channel.lanes[priority]
    assert lane is not None
    slots = pool.take_slots(pool.idle, len(lane))
    messages = channel.take(priority, len(slots), pool)
    pool.next_turn(channel, priority)
    for slot, message in zip(slots, messages, strict=False):
        _assign(tables, channel, slot, [message])
    for slot in slots:
        pool.list_slot(slot)
    return True


def _fill_open(tables: Tables, pool: Pool, rounds: int) -> bool:
    """Up to `rounds` rounds over the open slots, from one lane; False if nothing more can be placed."""
    top = pool.next_lane()
    if top is None:
        return False
    channel, priority = top
    if type(channel) is not Channel:
        if isinstance(channel, Bundle):
            return _fill_open_from_bundle(tables, pool, channel, priority, rounds)
        _house(tables, pool, channel)
        return True
    if channel.head_is_alone(priority, pool):
        pool.retry()
        return False
    lane = channel.lanes[priority]
    assert lane is not None
    if len(pool.ready[priority]) > 1:
        rounds = 1
    estimate_us = channel.name.estimate_us
    ring = pool.take_slots(pool.open, len(lane))
    while ring and lane:
        room = min(rounds, min([slot.room(estimate_us) for slot in ring]))
        assert room > 0, "a slot without room was listed as open"
        messages = channel.take(priority, room * len(ring), pool)
        for turn, slot in enumerate(ring):
            share = messages[turn :: len(ring)]
            if share:
                _assign(tables, channel, slot, share)
        served = len(messages) % len(ring)          # an incomplete round: the others are next in turn
        ring = [slot for slot in ring[served:] + ring[:served] if slot.belongs()]
        rounds -= room
        if not rounds or not messages:
            break
    for slot in ring:
        pool.list_slot(slot)
    pool.next_turn(channel, priority)
    return True


def _fill_idle_from_bundle(tables: Tables, pool: Pool, bundle: Bundle, priority: int) -> None:
    """One message for each idle slot, of lines in turn."""
    pool.next_turn(bundle, priority)
    if bundle.head_is_alone(priority, pool):
        (slot,) = pool.take_slots(pool.idle, 1)
        _assign(tables, bundle, slot, [bundle.take_alone(priority, tables.now_ms)])
        slot.closed = True
        return
    messages = bundle.take(priority, len(pool.idle), tables.now_ms, pool)
    slots = pool.take_slots(pool.idle, len(messages))
    for slot, message in zip(slots, messages, strict=True):
        _assign(tables, bundle, slot, [message])
    for slot in slots:
        pool.list_slot(slot)


def _fill_open_from_bundle(tables: Tables, pool: Pool, bundle: Bundle, priority: int, rounds: int) -> bool:
    """Up to `rounds` rounds over the open slots, of lines in turn; False if what is next waits for an idle slot."""
    if bundle.waits_for_idle(priority, pool):
        pool.retry()
        return False
    if len(pool.ready[priority]) > 1:
        rounds = 1
    pool.next_turn(bundle, priority)
    # How many wait there is not known. If a round is not filled, only so many slots are looked at.
    messages = bundle.take(priority, len(pool.open), tables.now_ms, pool, behind=True)
    slots = pool.take_slots(pool.open, len(messages))
    if rounds > 1 and not pool.open:
        estimate_us = bundle.name.estimate_us
        room = min(rounds, min([slot.room(estimate_us) for slot in slots]))
        messages += bundle.take(priority, (room - 1) * len(slots), tables.now_ms, pool, behind=True)
    for turn, slot in enumerate(slots):
        _assign(tables, bundle, slot, messages[turn :: len(slots)])
    if slots:
        served = len(messages) % len(slots)         # an incomplete round: the others are next in turn
        for slot in slots[served:] + slots[:served]:
            pool.list_slot(slot)
    return True


def _house(tables: Tables, pool: Pool, channel: Standing) -> None:
    """A keyed channel without a home gets one, and the slot is given what waits there."""
    assert isinstance(channel, KeyedChannel) and pool in channel.pools
    dirty = tables.credit.dirty_homes
    home = tables.keys.house(channel, pool, dirty)
    dirty.pop(home.index, None)
    tables.ledger.decisions += (HOUSED, home.index, channel.epoch)
    _fill_home(tables, home)


def _yields(home: Home) -> bool:
    """Whether the pool of a home's slot comes first: its priority is higher, or they take turns. Otherwise keys that
    are never done would keep all others from the slot, and keys without a home from getting one."""
    slot = home.slot
    ours, theirs = home.next_lane(), slot.pool.next_lane()
    turn, slot.yields = slot.yields, False
    if ours is None or theirs is None:
        return False
    if theirs[1] == ours[1]:
        channel, priority = ours
        # What goes alone waits for an idle slot: the pool gets no more until then.
        return turn and not channel.head_is_alone(priority, slot.pool)
    return theirs[1] > ours[1]


def _fill_later(tables: Tables, home: Home) -> None:
    """The pool has had its turn. If what is next there waits for an idle slot, nothing overtakes it here either."""
    slot = home.slot
    top = slot.pool.next_lane()
    if slot.place and slot.count and top is not None and top[0].waits_for_idle(top[1], slot.pool):
        slot.closed = slot.yields = True
        slot.pool.list_slot(slot)
    else:
        _fill_home(tables, home)


def _fill_home(tables: Tables, home: Home) -> None:
    """Gives a slot what waits for the keys that it owns, until it has no room or nothing waits."""
    slot = home.slot
    pool = slot.pool
    while slot.place:
        top = home.next_lane()
        if top is None:
            return
        channel, priority = top
        assert isinstance(channel, KeyedChannel) and channel.home is home
        head = channel.head_of(priority)
        if head is None:
            continue        # the lane is empty now
        first = channel.head()
        assert first is not None
        # Not this lane's alone: what came to a lane below one whose head this worker does not announce waits as well.
        if not pool.announces(first.spec.name):
            if channel.held:
                home.forget(channel)        # until nothing of it is held; nothing overtakes its head
            else:
                channel.move_out()
            continue
        is_alone = head.goes_alone(pool)
        slot.yields = not is_alone or not slot.count
        if is_alone:
            # As in a pool: it needs an idle slot, and nothing overtakes it, whoever else this slot serves.
            slot.closed = True
            if not slot.count:
                _assign(tables, channel, slot, [channel.take_alone(priority)])
            pool.list_slot(slot)
            return
        messages = channel.take_announced(priority, slot.room(channel.name.estimate_us), pool)
        home.next_turn(channel, priority)
        _assign(tables, channel, slot, messages)
        pool.list_slot(slot)


def _assign(tables: Tables, channel: Standing, slot: Slot, messages: list[Message]) -> None:
    """Gives `messages`, which have just left their lane, to a slot, which is to be listed anew."""
    ledger = tables.ledger
    decide = ledger.decisions.append
    estimate_us = channel.name.estimate_us
    key = slot.key
    held = slot.held
    assert not slot.draining, f"slot {key} of a worker that drains was given a task"
    decide(ASSIGNED)
    decide(key)
    for message in messages:
        message.state = HELD
        message.holder = key
        message.estimate_us = estimate_us
        task = message.id
        held[task] = message
        decide(task)
        if message.attempt != 1:
            decide(-message.attempt - ATTEMPT_MARK)
    slot.count += len(messages)
    slot.load_us += len(messages) * estimate_us
    if ledger.effects is None:
        return
    index = slot.index
    name = channel.name.name
    if channel.key:
        assert isinstance(channel, KeyedChannel)
        assignments = [assignment_of(channel, index, message) for message in messages]
    else:
        assignments = [
            Assignment(
                m.id, m.attempt, index, estimate_us, (spec := m.spec).timeout_ms, name, m.body, m.alone > 0,
                spec.soft_timeout_ms, "", "", 0, spec.slot_ms,
            )
            for m in messages
        ]  # fmt: skip
    per_session = ledger.effects.assignments
    if slot.session in per_session:
        per_session[slot.session] += assignments
    else:
        per_session[slot.session] = assignments
