"""What must hold between entries for keyed channels and their homes; part of `invariants.check`."""

from cluster.state.credit import NOWHERE, canonical
from cluster.state.keys import KeyedChannel, homes_of
from cluster.state.queues import HELD, PENDING
from cluster.state.tables import Tables


def check_keys(tables: Tables) -> None:
    """A key has one home at most, its messages are there or on their way, and nothing empty is kept without one."""
    keys, channels = tables.keys, tables.queues.channels
    assert list(channels) == sorted(channels) and all(index < tables.queues.made for index in channels)
    assert not keys.emptied and not tables.credit.dirty_homes, "an entry was not tidied"
    keyed = [channel for channel in channels.values() if isinstance(channel, KeyedChannel)]
    assert {channel.index for channel in keyed} == {channel.index for channel in keys.by_key.values()}
    held: dict[int, set[int]] = {}
    unfinished: dict[int, int] = {}
    held_count: dict[int, int] = {}
    for task in tables.tasks.in_order():
        if task.spec.key and not task.is_terminal:
            index = task.spec.channel
            unfinished[index] = unfinished.get(index, 0) + 1
            if task.state == HELD:
                held.setdefault(index, set()).add(task.holder)
                held_count[index] = held_count.get(index, 0) + 1
    filed = [(index, head) for head, some in keys.homeless.by_head.items() for index in some]
    assert sorted(filed) == sorted(keys.homeless.by_index.items())
    assert all(keys.homeless.by_head.values())
    epochs: set[int] = set()
    for channel in keyed:
        index, queue, labels = channel.index, channel.queue.name, channel.labels
        assert channel.key and labels == canonical(labels)
        assert keys.by_key[queue, channel.name.name, channel.key, labels] is channel
        assert channel.unfinished == unfinished.get(index, 0), f"unfinished tasks of channel {index}"
        assert channel.held == held_count.get(index, 0), f"held tasks of channel {index}"
        holders = held.get(index, set())
        assert len(holders) <= 1, f"several slots hold tasks of channel {index}"
        assert (index in keys.idle) == (channel.home is not None and not channel.unfinished)
        assert (index in keys.homeless.by_index) == (channel.home is None and channel.waiting > 0)
        if channel.home is None:
            assert channel.unfinished, f"channel {index} is empty, has no home and was not freed"
            _check_homeless(tables, channel)
        else:
            assert channel.pools == [channel.home] and channel.home.channels[index] is channel
            assert not channel.home.slot.draining and holders <= {channel.home.index}
            assert 0 < channel.epoch <= keys.epochs and channel.epoch not in epochs
            epochs.add(channel.epoch)
            _check_homed(channel)
    homes = list(homes_of(tables.sessions))
    assert keys.homes == sum([len(home.channels) for home in homes]) == len(epochs)
    for home in homes:
        for priority, ring in enumerate(home.ready):
            assert bool(ring) == bool(home.mask >> priority & 1)
            assert all(home.channels[index] is channel for index, channel in ring.items())


def _check_homeless(tables: Tables, channel: KeyedChannel) -> None:
    head = channel.peek()
    assert channel.pools == tables.keys.serving(channel, head)
    if head is not None:
        key = tables.keys.homeless.by_index[channel.index]
        assert key == (channel.queue.name, head.spec.name)
        assert tables.keys.homeless.by_head[key][channel.index] is channel
    for pool in tables.credit.pools.values():
        if pool not in channel.pools:
            assert not any(channel.index in ring for ring in pool.ready), "a pool that does not serve it knows it"
            continue
        assert head is not None and channel.index in pool.ready[head.spec.priority]
        assert not pool.idle, "a message waits although a slot is idle"
        assert not pool.open or pool.index in tables.credit.dirty, "a message waits although a slot has room"


def _check_homed(channel: KeyedChannel) -> None:
    home = channel.home
    assert home is not None
    blocked = False         # by what its home does not announce, here or in a lane above
    for priority in range(len(channel.lanes) - 1, -1, -1):
        head = next((message for message in channel.lanes[priority] or () if message.state == PENDING), None)
        if head is None:
            continue
        blocked = blocked or not home.slot.pool.announces(head.spec.name)
        if channel.index in home.ready[priority]:
            assert home.slot.place == NOWHERE, "a message waits although its home has room"
        else:
            # Its home has forgotten it until nothing of it is held, since it moves then.
            assert channel.held, "a message waits for nothing"
            assert blocked, "a message waits although its home announces all that is before it"
