"""Compactors of the simulated world: production's steps, with virtual time between them, so that they can be killed."""

from collections.abc import Callable, Iterator

from actors import MILLISECOND, Files, Nanos
from actors.simulation import ChildPort, World
from cluster.compaction.compactor import ENTRY, FAILURES, compact, not_written
from cluster.compaction.messages import Plan, StillAtWork, Written, encode, plan_decoder

STEP_NS_MAX: Nanos = 20 * MILLISECOND


Compact = Callable[[Files, Plan], Iterator[StillAtWork | Written]]


def register_compactor(world: World, on_written: Callable[[], None], compact: Compact = compact) -> None:
    """What brokers' compactors run; `on_written()` is told of every snapshot that one of them has finished."""

    async def body(port: ChildPort, argument: bytes) -> None:
        frame = await port.receive()
        if frame is None:
            return
        plan = plan_decoder.decode(frame)
        try:
            for news in compact(port.files, plan):
                await port.work(port.entropy.below(STEP_NS_MAX))
                if isinstance(news, Written):
                    on_written()
                port.send(encode(news))
        except FAILURES as error:
            port.send(encode(not_written(error)))

    world.register_entry(ENTRY, body)
