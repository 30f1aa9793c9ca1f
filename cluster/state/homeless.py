"""Keyed channels without a home in which something waits, and which of them a pool serves.

There may be hundreds of thousands, of keys that nobody serves, while a pool is made or ends. So they are found by what
a pool is asked for, queue and name of their head, and only those that it serves are looked at. What is written here
follows from the channels, so an image has none of it.
"""

from typing import TYPE_CHECKING

from cluster.state.credit import Pool

if TYPE_CHECKING:
    from cluster.state.keys import KeyedChannel
    from cluster.state.queues import Message


class Homeless:
    """Invariant: a channel of `by_index` is in `by_head` under queue and name of its head, and nowhere else."""

    __slots__ = ("by_head", "by_index")

    def __init__(self) -> None:
        self.by_index: dict[int, tuple[str, str]] = {}                      # (queue, name of its head)
        self.by_head: dict[tuple[str, str], dict[int, KeyedChannel]] = {}   # by index

    def file(self, channel: "KeyedChannel", head: "Message | None") -> None:
        """Its head is this one now; None: nothing waits there, or it has got a home."""
        key = None if head is None else (channel.queue.name, head.spec.name)
        known = self.by_index.get(channel.index)
        if key == known:
            return
        if known is not None:
            del self.by_index[channel.index]
            del self.by_head[known][channel.index]
            if not self.by_head[known]:
                del self.by_head[known]
        if key is not None:
            self.by_index[channel.index] = key
            self.by_head.setdefault(key, {})[channel.index] = channel

    def served(self, pool: Pool) -> "list[KeyedChannel]":
        """In order of their indexes: what the dicts remember of the past decides nothing."""
        queues, names = pool.key[:2]
        found: dict[int, KeyedChannel] = {}
        for queue in queues:
            for name in names:
                for index, channel in self.by_head.get((queue, name), {}).items():
                    if pool.serves(queue, name, channel.labels):
                        found[index] = channel
        return [found[index] for index in sorted(found)]
