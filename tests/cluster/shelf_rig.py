"""Snapshots of real states in a directory of a simulated disk, and an actor that has them."""

import msgspec

from actors import Files
from actors.simulation import SimulatedDisk
from cluster.state.commands import MACHINE_VERSION, ROLE_CLIENT, Options, Register, Submit, TaskGroup
from cluster.state.machine import Machine
from cluster.storage.snapshots import SnapshotMeta, SnapshotWriter

DIRECTORY = "data"


def entry(*commands: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode([(type(one).__struct_config__.tag, MACHINE_VERSION, [one]) for one in commands])


def payload_of(index: int, body_bytes: int = 100) -> bytes:
    """Of entry `index`: a client registers, then submits a task with each entry."""
    if index == 1:
        return entry(Register("c", 1, ROLE_CLIENT))
    body = index.to_bytes(8, "big") * (body_bytes // 8)
    return entry(Submit(1, index - 1, index - 1, [TaskGroup("f", index - 1, [body], Options())]))


def machine_at(index: int, body_bytes: int = 100) -> Machine:
    machine = Machine()
    for number in range(1, index + 1):
        machine.apply(number, 1, payload_of(number, body_bytes), None)
    return machine


def meta_of(machine: Machine) -> SnapshotMeta:
    return SnapshotMeta(
        machine.applied_index,
        1,
        machine.machine_version,
        machine.now_ms,
        machine.rolling,
        machine.cluster_id,
        machine.voters,
    )


def write_snapshot(files: Files, machine: Machine) -> int:
    """Returns its size."""
    writer = SnapshotWriter(files, DIRECTORY, meta_of(machine))
    for part in machine.image():
        writer.add(part)
    return writer.finish()


def path_of(index: int) -> str:
    return f"{DIRECTORY}/{index:016d}.snap"


def names(disk: SimulatedDisk) -> list[str]:
    """Of snapshot files, without zeros in front."""
    found = (path.removeprefix(f"{DIRECTORY}/").lstrip("0") for path in disk.paths())
    return [name for name in found if ".snap" in name or ".recv" in name or ".part" in name]
