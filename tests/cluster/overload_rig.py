"""Leaders that take no submits because their log has no room, and what is in the state and in the log then."""

from collections import Counter
from collections.abc import Awaitable, Mapping
from random import Random
from typing import Any

import msgspec
from client_world import BROKERS, ClientWorld, work

from actors import SECOND
from cluster import ClusterError

FULL = "disk full on b1"


def close(rig: ClientWorld, reason: str = FULL) -> None:
    for name in BROKERS:
        if rig.brokers[name].alive and name in rig.systems:
            rig.actor(name).raft.closed_reason = reason


def reopen(rig: ClientWorld) -> None:
    close(rig, "")


def numbers_of_tasks(rig: ClientWorld) -> Counter[int]:
    """The parcels of all tasks that the leader's state has."""
    tables = rig.actor(rig.leader).machine._tables
    return Counter(
        msgspec.msgpack.decode(task.body)[0][0]["number"]
        for shard in tables.tasks.shards
        for task in shard.values()
        if task.spec.name == work.name
    )


async def fate_of(submit: Awaitable[object]) -> str:
    """What its user was told: "confirmed", "unknown", or the name of the error that says that it was not accepted."""
    try:
        await submit
    except ClusterError as error:
        unknown = getattr(error, "outcome", "refused") == "unknown"
        return "unknown" if unknown else type(error).__name__
    return "confirmed"


def check_fates(fates: Mapping[int, str], tasks: Counter[int]) -> None:
    """Confirmed submits are there once, refused ones never; those with an unknown outcome at most once."""
    for number, fate in fates.items():
        expected = {"confirmed": (1,), "unknown": (0, 1)}.get(fate, (0,))
        assert tasks[number] in expected, (number, fate, tasks[number])


def tasks_in_the_end(rig: ClientWorld, names: list[str]) -> Counter[int]:
    """Lets the clients of these names finish with an open log; then the parcels of all tasks."""
    reopen(rig)
    for name in names:
        rig.finish(name)
    rig.until(lambda: rig.leader)
    rig.world.run_for(3 * SECOND)
    return numbers_of_tasks(rig)


def crash_or_cut(rig: ClientWorld, random: Random, names: list[str], *, may_crash: bool) -> bool:
    """The leader crashes and comes back (True), or a client loses its links, or nothing happens."""
    roll = random.random()
    if rig.leader and roll < 0.25 and may_crash:
        rig.world.crash(rig.brokers[rig.leader])
        rig.world.run_for(SECOND // 2)
        for name in BROKERS:
            if not rig.brokers[name].alive:
                rig.world.restart(rig.brokers[name])
        return True
    if roll < 0.5:
        rig.world.network.break_links(random.choice(names))
    return False


def log_of(rig: ClientWorld) -> list[tuple[int, int, list[Any]]]:
    """All commands in the leader's log: number of the entry, kind, and the command as it lies there."""
    core = rig.actor(rig.leader).raft.core
    assert core is not None
    entries = core.log.entries(core.log.first_index, core.log.last_index + 1, 1 << 40)
    return [
        (entry.index, kind, command)
        for entry in entries
        if entry.payload
        for kind, _, commands in msgspec.msgpack.decode(entry.payload)
        for command in commands
    ]
