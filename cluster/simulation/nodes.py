"""The nodes of a seed: sizes and limits that make a minute of work meet everything, and the tasks of their children."""

import itertools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from actors import SECOND
from actors.simulation import ChildPort, World
from cluster.compaction.policy import CompactionLimits
from cluster.peer.config import BrokerConfig
from cluster.simulation.launched import BrokerProcess, OnEnd, StandIns, WorkerProcess
from cluster.simulation.state_oracle import FULL_DIGEST_INTERVAL
from cluster.simulation.tasks import WEAR, Count, OnRun, executor_body, loop_body
from cluster.storage.segment import WalLimits
from cluster.topology import BrokerNode, Topology, WorkerNode
from cluster.worker.config import WorkerConfig
from cluster.worker.loop_child import LOOP_ENTRY
from cluster.worker.scaling import ScalingPace
from cluster.worker.slot_child import EXECUTOR_ENTRY

BROKERS = ("b1", "b2", "b3")
WORKERS = ("w1", "w2")
LABELS = {"w1": (), "w2": ("gpu",)}
SLOTS = {"w1": (1, 3), "w2": (0, 2)}      # the fewest, 0 if their number is fixed, and the most
ASYNC_TASKS = 6
DIRECTORY = "data"              # of a broker, on its own disk

# Small, so that a minute of work fills several segments.
LIMITS = WalLimits(segment_bytes=256 * 1024, zero_chunk_bytes=64 * 1024, probe_syncs=4)
SMALLER = WalLimits(segment_bytes=48 * 1024, zero_chunk_bytes=16 * 1024, probe_syncs=4)

# So that a minute of work opens and closes slots many times.
PACE = ScalingPace(open_age_ms=200, open_pause=SECOND // 2, close_idle=SECOND, close_pause=SECOND // 2)

# So that a minute of work is compacted several times. In some seeds a follower that was away for seconds gets a
# snapshot, in the others the log is kept for it.
COMPACTION = CompactionLimits(
    log_bytes_min=48 * 1024,
    pinned_bytes_max=1024 * 1024,
    silence_max=5 * SECOND,
    retry_min=SECOND // 2,
    retry_max=2 * SECOND,
    checkpoint_entries=FULL_DIGEST_INTERVAL,
)
HASTY = replace(COMPACTION, log_bytes_min=16 * 1024, state_factor=0, pinned_bytes_max=0)
HASTY_ONE_IN = 2


def topology() -> Topology:
    """Three brokers and two workers, each on a machine of its own name."""
    return Topology(
        name="simulated",
        data=DIRECTORY,
        insecure=True,
        brokers=tuple(BrokerNode(name, f"{name}:7100", f"{name}:8100") for name in BROKERS),
        workers=tuple(
            WorkerNode(name, name, SLOTS[name][1], ("default",), ("simulated",), 0, LABELS[name]) for name in WORKERS
        ),
    )


def start_broker_of(
    world: World, name: str, plan: Topology, sync_mode: str, stand_ins: Callable[[str], StandIns], on_end: OnEnd
) -> BrokerProcess:
    brokers = tuple((node.name, node.address, node.bulk_address) for node in plan.brokers)
    sizes = (SMALLER, HASTY) if world.seed % HASTY_ONE_IN == 0 else (LIMITS, COMPACTION)
    return BrokerProcess(world, BrokerConfig(plan.name, name, brokers, DIRECTORY, sync_mode, *sizes), on_end, stand_ins)


def start_worker_of(world: World, name: str, plan: Topology, on_end: OnEnd) -> WorkerProcess:
    brokers = tuple((node.name, node.address) for node in plan.brokers)
    fewest, most = SLOTS[name]
    config = WorkerConfig(
        plan.name,
        name,
        brokers,
        ("simulated",),
        most,
        labels=LABELS[name],
        wear=WEAR,
        async_tasks=ASYNC_TASKS,
        slots_min=fewest,
        pace=PACE,
    )
    return WorkerProcess(world, config, on_end)


def register_executors(world: World, on_run: OnRun, on_count: Callable[[int, Count], None]) -> None:
    """What workers' children run; `on_run(task, attempt)` is told of every start, and `on_count` of what tallies count
    in which child."""
    children = itertools.count(1)

    def slot(port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        return executor_body(port, on_run, partial(on_count, next(children)))

    def loop(port: ChildPort, argument: bytes) -> Coroutine[Any, Any, None]:
        return loop_body(port, on_run)

    world.register_entry(EXECUTOR_ENTRY, slot)
    world.register_entry(LOOP_ENTRY, loop)
