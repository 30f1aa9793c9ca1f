"""Makes the kept files of `tests/kept`: directories as an earlier version of this program wrote them, with log and
snapshots, and beside each a JSON file with what must come out of it.

They are never made again: `tests/storage/test_kept_files.py` opens each of them with today's code. When a format
changes, add the next one with the code that is to be released, and commit it:

    cd tests/storage && python kept_log.py log-3

The history is a real one: commands are applied by the machine as they are written, and the worker ends what it was
assigned. Keep in the JSON what a later version must still find, no digest: the state will grow.
"""

import json
import sys
from pathlib import Path

import msgspec
from wal_rig import SeededEntropy, VirtualClock

from actors import Files
from actors.simulation.disk import SimulatedDisk
from cluster.compaction.compactor import compact
from cluster.compaction.messages import Plan
from cluster.peer.shelf import restored
from cluster.raft.messages import Entry, EntryKind, SnapshotMark
from cluster.state.commands import (
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    ROLE_CLIENT,
    ROLE_WORKER,
    TASK_NUMBER_BITS,
    Cancel,
    Command,
    Complete,
    Expire,
    Failure,
    Formation,
    Options,
    Outcome,
    Register,
    Seen,
    Stamp,
    Submit,
    TaskGroup,
    WorkerSpec,
)
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.storage.recovery import Recovery
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import WalLimits
from cluster.storage.snapshots import SnapshotFile, SnapshotMeta, list_snapshots
from cluster.storage.wal import Wal

KEPT = Path(__file__).resolve().parent.parent / "kept"
LIMITS = WalLimits(segment_bytes=48 * 1024, zero_chunk_bytes=48 * 1024)
IDENTITY = NodeIdentity("b1", "kept", 7)
EPOCH_MS = 1_700_000_000_000
DIRECTORY = "data/b1"
READ_BYTES = 1 << 20
TASK_STATES = ("ready", "running", "delayed", "completed", "failed", "dead", "cancelled", "expired")


def payload_of(now_ms: int, *commands: Command) -> bytes:
    groups = [[command.__struct_config__.tag, 1, [command]] for command in commands]
    return msgspec.msgpack.encode([[0, 1, [Stamp(now_ms, 1)]], *groups])


class History:
    """A log that is written, and the machine that applies it at once."""

    def __init__(self, files: Files, clock: VirtualClock) -> None:
        self.files = files
        self.clock = clock
        self.entropy = SeededEntropy(11)
        self.machine = Machine()
        self.snapshots: list[int] = []
        self.now_ms = EPOCH_MS
        self.term = 1
        self.write_id = 0
        self.open()

    def open(self) -> None:
        restored = Restored(self.files, DIRECTORY)
        self.wal, _ = Wal.open(
            self.files, DIRECTORY, IDENTITY,
            salt=lambda: self.entropy.bits(64), clock=self.clock, limits=LIMITS, sync_mode="inline",
            restore=restored.mark,
        )
        self.write_id = 0

    def write(self, *payloads: bytes, term: int, vote: int = 0, truncate_from: int = 0) -> None:
        first = truncate_from or self.wal.last_index + 1
        entries = [Entry(first + place, term, EntryKind.NORMAL, data) for place, data in enumerate(payloads)]
        self.write_id += 1
        self.wal.append(self.write_id, term, vote, self.machine.applied_index, truncate_from, entries)
        self.wal.flush()
        self.clock.advance()
        self.wal.mark()

    def commit(self, *commands: Command, truncate_from: int = 0) -> Effects:
        """One entry, written and applied."""
        payload = payload_of(self.now_ms, *commands)
        self.now_ms += 5
        self.write(payload, term=self.term, vote=1, truncate_from=truncate_from)
        effects = Effects()
        self.machine.apply(self.wal.last_index, self.term, payload, effects)
        return effects

    def snapshot(self) -> None:
        """Of the state as it is, by what a compactor runs; the log lets go of what is in both that are kept."""
        base = self.snapshots[-1] if self.snapshots else 0
        machine, last = self.machine, self.machine.applied_index
        meta = SnapshotMeta(
            last, self.wal.term(last) or 0, machine.machine_version, machine.now_ms, machine.rolling,
            machine.cluster_id, machine.voters,
        )
        for _ in compact(self.files, Plan(DIRECTORY, base, self.wal.pieces(base + 1, last + 1), meta, 0)):
            pass
        self.snapshots.append(last)
        if len(self.snapshots) > 1:
            self.wal.compact(self.snapshots[-2])
            self.wal.flush()
            self.clock.advance()


class Restored:
    """The machine that the newest snapshot of a directory comes to; an empty one without any."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory
        self.machine = Machine()

    def mark(self) -> SnapshotMark | None:
        names = list_snapshots(self._files, self._directory)
        if not names:
            return None
        file = SnapshotFile.open(self._files, self._directory, names[0].last_index)
        self.machine = restored(file)
        file.close()
        return SnapshotMark(file.meta.index, file.meta.term, (1, 2, 3))


def write_history(history: History) -> None:
    """Formation, two clients and two workers, tasks in every state, a worker that is lost, entries of a leader that
    was voted out, two snapshots, and a start in between."""
    history.wal.store_formation(b"kept-cluster-id!", ("b1", "b2", "b3"))
    history.commit(Formation(b"kept-cluster-id!", ("b1", "b2", "b3")))
    history.commit(Register("c1", 1, ROLE_CLIENT))
    history.commit(Register("c2", 1, ROLE_CLIENT))
    history.commit(Register("w1", 1, ROLE_WORKER, WorkerSpec(2, ("default",), ("f", "g"), 1)))
    history.commit(Register("w2", 1, ROLE_WORKER, WorkerSpec(1, ("other",), ("f",), 1)))
    client, worker, lost = 1, 3, 4
    seq = 1
    for turn in range(60):
        bodies = [b"%d/%d " % (turn, place) + b"x" * 250 for place in range(3)]
        options = None if turn % 2 else Options(priority=turn % 10, retries=1, result_ttl_ms=7_200_000)
        command = Submit(client, turn + 1, turn + 1, [TaskGroup("f", turn * 3 + 1, bodies, options)])
        history.commit(command)
        held = history.machine.held_by(worker)
        outcomes = [
            Outcome(given.task, given.attempt, OUTCOME_COMPLETED, EPOCH_MS, 40, b"result %d" % turn)
            if turn % 5
            else Outcome(
                given.task, given.attempt, OUTCOME_FAILED, EPOCH_MS, 40, b"", Failure("ValueError", "no", "Traceback")
            )
            for given in held
        ]
        history.commit(Complete(worker, seq, seq, outcomes))
        seq += 1
        if turn % 10 == 9:
            history.commit(Seen(client, [turn * 3 - 26, turn * 3 - 3]))
        if turn in (45, 55):
            history.snapshot()
        if turn == 20:
            history.wal.close()
            history.clock.advance()
            history.open()
        if turn == 40:
            # Two entries of a leader of term 2 that nobody else got; term 4 replaces them.
            stray = payload_of(history.now_ms, Submit(client, turn + 2, turn + 2, [TaskGroup("f", 124, [b"stray"])]))
            history.write(stray, stray, term=2)
            history.term = 4
            history.commit(truncate_from=history.wal.last_index - 1)
    other = Options(queue="other")
    history.commit(Submit(2, 1, 1, [TaskGroup("f", 1, [b"a", b"b", b"c"], other)]))
    history.commit(Submit(2, 2, 2, [TaskGroup("late", 4, [b"d", b"e"], Options(delay_ms=60_000))]))
    history.commit(Cancel(2, 3, 3, [2 << TASK_NUMBER_BITS | 3]))
    history.commit(Expire(lost, 1))
    history.commit(Register("w3", 9, ROLE_WORKER, WorkerSpec(1, ("default",), ("g",), 1)))


def what_is_in(machine: Machine, wal: Wal, recovery: Recovery) -> dict[str, object]:
    """What must come out, as plain JSON; `machine` is what the newest snapshot holds."""
    for entry in wal.read(machine.applied_index + 1, wal.last_index + 1, 1 << 30):
        machine.apply(entry.index, entry.term, entry.payload, None)
    machine.check()
    rows = sorted(machine.status()["queues"], key=lambda row: row["name"])
    tasks = [1 << TASK_NUMBER_BITS | number for number in (1, 2, 3, 10, 60, 123, 124, 180)]
    tasks += [2 << TASK_NUMBER_BITS | number for number in range(1, 6)]
    return {
        "hard_state": [recovery.hard_state.term, recovery.hard_state.vote, recovery.hard_state.commit],
        "first_index": recovery.first_index,
        "last_index": recovery.last_index,
        "terms": [list(run) for run in recovery.terms],
        "cluster_id": (recovery.cluster_id or b"").decode(),
        "voters": list(recovery.voters),
        "quarantined": recovery.quarantined,
        "tasks": {row["name"]: {state: row[state] for state in TASK_STATES} for row in rows},  # type: ignore[literal-required]
        "states": {str(task): machine.state_of(task) for task in tasks},
        "results": {str(task): _result_of(machine, task) for task in tasks},
        "sessions": [session.id for session in machine.sessions_open()],
        "now_ms": machine.now_ms,
    }


def _result_of(machine: Machine, task: int) -> list[object] | None:
    result = machine.result(task)
    if result is None or not hasattr(result, "body"):
        return None
    error = None if result.error is None else [result.error.type, result.error.message]
    return [result.state, result.attempts, result.body.decode(), error]


def make(name: str) -> None:
    """Writes `tests/kept/<name>` and `tests/kept/<name>.json`; refuses to replace them."""
    clock = VirtualClock()
    disk = SimulatedDisk(clock, SeededEntropy(1))
    history = History(disk.mount(1, clock), clock)
    write_history(history)
    history.wal.close()
    clock.advance()
    target = KEPT / name
    target.mkdir(parents=True)
    for path in disk.paths():
        (target / path.rpartition("/")[2]).write_bytes(disk.read(path))
    files = disk.mount(2, clock)
    start = Restored(files, DIRECTORY)
    wal, recovery = Wal.open(
        files, DIRECTORY, IDENTITY,
        salt=lambda: 1, clock=clock, limits=LIMITS, sync_mode="inline", restore=start.mark,
    )
    text = json.dumps(what_is_in(start.machine, wal, recovery), indent=1)
    (KEPT / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    make(sys.argv[1])
