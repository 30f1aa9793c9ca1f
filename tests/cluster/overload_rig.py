"""Leaders that take no submits because their log has no room, and what is in the state and in the log then."""

from collections import Counter
from typing import Any

import msgspec
from client_world import BROKERS, ClientWorld, work

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
