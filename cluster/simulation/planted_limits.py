"""Bugs that tests plant in limits, shares and keys of work: in the state of all brokers, and in the reference."""

from collections.abc import Callable
from enum import Enum

from cluster.state.commands import Expire
from cluster.state.credit import Pool
from cluster.state.duplicates import Duplicates, Scope
from cluster.state.limits import Limit, Limits
from cluster.state.lines import Bundle, Lines
from cluster.state.machine import Machine
from cluster.state.queues import Message


class TumblingLimit(Limit):
    """Counts starts from one full period to the next, as counters do that are set to 0 now and then."""

    __slots__ = ()

    def room(self, now_ms: int) -> int:
        if self.starts:
            begin_ms = now_ms - now_ms % self.period_ms
            while self.window and self.window[0][0] < begin_ms:
                self.started -= self.window.pop(0)[1]
        return super().room(now_ms)


class GenerousLimit(Limit):
    """What ends makes room twice, whenever something waits for it."""

    __slots__ = ()

    def end(self, count: int) -> None:
        super().end(min(self.running, count + (count if self.holds_back else 0)))


class TumblingLimits(Limits):
    __slots__ = ()

    def add(self, limit: Limit) -> Limit:
        limit.__class__ = TumblingLimit
        return super().add(limit)


class GenerousLimits(Limits):
    __slots__ = ()

    def add(self, limit: Limit) -> Limit:
        limit.__class__ = GenerousLimit
        return super().add(limit)


class SleepyLimits(Limits):
    """The date of a limit that is full is not looked at when it comes."""

    __slots__ = ()

    def due(self, index: int, date_ms: int) -> None:
        limit = self.by_index.get(index)
        if limit is not None and not limit.holds_back:
            super().due(index, date_ms)


class GreedyBundle(Bundle):
    """A share that has something keeps its turn."""

    __slots__ = ()

    def take(self, priority: int, count: int, now_ms: int, pool: Pool, *, behind: bool = False) -> list[Message]:
        first = self.next_line(priority)
        taken = super().take(priority, count, now_ms, pool, behind=behind)
        if first is not None and first.index in self.ready[priority] and first.head_of(priority) is not None:
            self.ready[priority].move_to_end(first.index, last=False)
        return taken


class GreedyLines(Lines):
    __slots__ = ()

    def add_bundle(self, bundle: Bundle) -> None:
        bundle.__class__ = GreedyBundle
        super().add_bundle(bundle)


class HastyDuplicates(Duplicates):
    """A key is free as soon as its task has ended."""

    __slots__ = ()

    def _holder(self, scope: Scope, now_ms: int) -> int:
        taken = self.by_scope.get(scope)
        if taken is not None and taken.is_over:
            self._free(taken)
        return super()._holder(scope, now_ms)


def count_what_is_lost(machine: Machine) -> None:
    """What a lost worker had is with it for ever, as limits count."""
    kind = Expire.__struct_config__.tag
    assert isinstance(kind, int)

    def expire(command: Expire) -> None:
        limits = machine._tables.limits.by_index
        running = {index: limit.running for index, limit in limits.items()}
        machine._on_expire(command)
        for index, count in running.items():
            limits[index].running = count

    machine._handlers[kind] = expire


class PlantedLimit(Enum):
    """What is wrong with limits, shares and keys of work."""

    TUMBLING_WINDOW = "a rate counts from one full period to the next"
    ENDS_TWICE = "what ends makes room for two"
    LOST_NOT_COUNTED = "what a lost worker had is counted for ever"
    DATE_IS_LOST = "nobody looks when a rate has room again"
    KEY_WITHOUT_WINDOW = "the key of work that has ended is free within its window"
    SHARE_KEEPS_THE_TURN = "a share keeps its turn while it has something"


LIMITS: dict[PlantedLimit, type[Limits]] = {
    PlantedLimit.TUMBLING_WINDOW: TumblingLimits,
    PlantedLimit.ENDS_TWICE: GenerousLimits,
    PlantedLimit.DATE_IS_LOST: SleepyLimits,
}
LINES: dict[PlantedLimit, type[Lines]] = {PlantedLimit.SHARE_KEEPS_THE_TURN: GreedyLines}
DUPLICATES: dict[PlantedLimit, type[Duplicates]] = {PlantedLimit.KEY_WITHOUT_WINDOW: HastyDuplicates}
MACHINES: dict[PlantedLimit, Callable[[Machine], None]] = {PlantedLimit.LOST_NOT_COUNTED: count_what_is_lost}


def plant_limit(planted: PlantedLimit, machine: Machine) -> None:
    """A machine was made, or has got a state."""
    limits, lines = machine._tables.limits, machine._tables.lines
    if planted in LIMITS:
        limits.__class__ = LIMITS[planted]
        for limit in [*limits.by_index.values()]:
            limits.add(limit)
    if planted in LINES:
        lines.__class__ = LINES[planted]
        for bundle in [*lines.bundles.values()]:
            lines.add_bundle(bundle)
    if planted in DUPLICATES:
        machine._tables.duplicates.__class__ = DUPLICATES[planted]
    if planted in MACHINES:
        MACHINES[planted](machine)
