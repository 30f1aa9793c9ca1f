"""The compactor: a process that makes the next snapshot from the last one and the log behind it.

It runs what a start of the broker runs: the state is restored from the snapshot, the entries are read from the
segments with recovery's own code and applied by the same machine. So the broker's loop never stops for a snapshot, and
nothing that the broker has in memory is copied or shared. What the plan names is checked at every step: exact index
ranges, the digest that the broker's own machine had at that index, and the finished file, read back before it gets its
name. Until then nothing has changed for anybody: a compactor may be killed at any instruction.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Protocol

from actors import Files
from cluster.compaction.messages import NotWritten, Plan, StillAtWork, Written, encode, plan_decoder
from cluster.state.errors import ImageDamaged, UnreadableState
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration
from cluster.storage.errors import SnapshotDamaged, StorageError
from cluster.storage.pieces import read_pieces
from cluster.storage.snapshots import SnapshotFile, SnapshotWriter

ENTRY = "cluster.compaction.compactor:main"
NEWS_STEPS = 64             # steps between two words to the broker


class Host(Protocol):
    """What a compactor needs of the process that it runs in."""

    @property
    def files(self) -> Files: ...

    def send(self, frame: bytes) -> None: ...

    def receive(self) -> bytes | None: ...

    def step_back(self, nice: int) -> None: ...


class OtherState(Exception):
    """The replay gave another state than the broker's: one of the two is wrong, so nothing is written."""


class BaseDamaged(Exception):
    """The snapshot to begin with is not the whole one that somebody wrote."""


# That end a compaction in an orderly way.
FAILURES = (OtherState, BaseDamaged, ImageDamaged, UnreadableState, StorageError, OSError)


def compact(files: Files, plan: Plan) -> Iterator[StillAtWork | Written]:
    """Carries out a plan, step by step: a step is one part of a snapshot or one read of the log. Ends with Written.

    Raises OtherState, BaseDamaged, what `storage` and `state` raise for damage, and OSError.
    """
    machine = yield from replay(files, plan)
    if (machine.applied_index, machine.rolling) != (plan.meta.index, plan.meta.rolling):
        raise OtherState(
            f"replay came to entry {machine.applied_index} with digest {machine.rolling}, "
            f"the broker to {plan.meta.index} with {plan.meta.rolling}"
        )
    yield from write(files, plan, machine.image())


def replay(files: Files, plan: Plan) -> Generator[StillAtWork, None, Machine]:
    """The state that the snapshot and the pieces of a plan come to."""
    machine = Machine()
    if plan.base:
        try:
            restoration = Restoration()
            snapshot = SnapshotFile.open(files, plan.directory, plan.base)
            try:
                for part in snapshot.parts():
                    restoration.add(part)
                    yield StillAtWork(0)
            finally:
                snapshot.close()
            machine = restoration.finish()
        except (SnapshotDamaged, ImageDamaged, FileNotFoundError) as damage:
            raise BaseDamaged(str(damage)) from damage
    for entries in read_pieces(files, plan.directory, plan.pieces):
        for entry in entries:
            machine.apply(entry.index, entry.term, entry.payload, None)
        yield StillAtWork(machine.applied_index)
    return machine


def write(files: Files, plan: Plan, image: Iterable[bytes]) -> Iterator[StillAtWork | Written]:
    """The snapshot of the plan, with this content."""
    writer = SnapshotWriter(files, plan.directory, plan.meta)
    try:
        for part in image:
            writer.add(part)
            yield StillAtWork(plan.meta.index)
        for _ in writer.verifying():
            yield StillAtWork(plan.meta.index)
        size = writer.finish()
    except (StorageError, OSError):
        writer.abort()
        raise
    yield Written(plan.meta.index, size)


def main(host: Host, argument: bytes) -> None:
    """The whole life of the process."""
    from actors import freeze_memory

    frame = host.receive()
    if frame is None:
        return
    plan = plan_decoder.decode(frame)
    host.step_back(plan.nice)
    freeze_memory()
    try:
        for number, news in enumerate(compact(host.files, plan)):
            if isinstance(news, Written) or number % NEWS_STEPS == 0:
                host.send(encode(news))
    except FAILURES as error:
        host.send(encode(not_written(error)))


def not_written(error: BaseException) -> NotWritten:
    return NotWritten(f"{type(error).__name__}: {error}", isinstance(error, BaseDamaged))
