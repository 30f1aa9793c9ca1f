"""Turns: which lanes may hold something, and whose turn it is among those of one priority.

What stands in a ring is a channel, or a bundle of lines (`lines`), which stands there as one.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from cluster.state.commands import PRIORITY_MAX

if TYPE_CHECKING:
    from cluster.state.lines import Bundle
    from cluster.state.queues import Channel

Standing: TypeAlias = "Channel | Bundle"


class Turns:
    """What a `credit.Pool` or a `keys.Home` has to hand out, a `lines.Bundle` in its turn, and what a `limits.Limit`
    holds back. Lanes that are empty leave when they come up."""

    __slots__ = ("index", "mask", "ready")

    def __init__(self, index: int) -> None:
        self.index = index
        self.ready: list[OrderedDict[int, Standing]] = [OrderedDict() for _ in range(PRIORITY_MAX + 1)]
        self.mask = 0                                           # bit p set: ready[p] is not empty

    def wake(self, channel: Standing, priority: int) -> None:
        """A lane of `channel` gets its first message."""
        self.ready[priority][channel.index] = channel
        self.mask |= 1 << priority

    def forget(self, channel: Standing) -> None:
        """It has nothing to do with any lane of `channel` any more."""
        for priority, ring in enumerate(self.ready):
            if ring and ring.pop(channel.index, None) is not None and not ring:
                self.mask ^= 1 << priority

    def next_lane(self) -> tuple[Standing, int] | None:
        """The channel and priority to be served next: highest priority first, channels of one priority in
        turn."""
        while self.mask:
            priority = self.mask.bit_length() - 1
            ring = self.ready[priority]
            while ring:
                index = next(iter(ring))
                channel = ring[index]
                if channel.lanes[priority]:
                    return channel, priority
                del ring[index]
            self.mask ^= 1 << priority
        return None

    def next_turn(self, channel: Standing, priority: int) -> None:
        """`channel` was served: the others of this priority come first now."""
        ring = self.ready[priority]
        if len(ring) > 1:
            ring.move_to_end(channel.index)


NO_RING: OrderedDict[int, Standing] = OrderedDict()     # nothing is ever put into this one


class SparseTurns(Turns):
    """Turns of which there may be a million: a ring is made when something first stands in it."""

    __slots__ = ()

    def __init__(self, index: int) -> None:
        self.index = index
        self.ready = [NO_RING] * (PRIORITY_MAX + 1)
        self.mask = 0

    def wake(self, channel: Standing, priority: int) -> None:
        if self.ready[priority] is NO_RING:
            self.ready[priority] = OrderedDict()
        super().wake(channel, priority)
