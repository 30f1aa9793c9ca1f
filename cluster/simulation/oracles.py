"""All oracles of one world, how they are wired into it, and what is asked of them when everything has been healed.

Nothing in production code knows of them: a watched machine takes the place of each broker's, and its core is watched
from the moment when the broker says that it has made one.
"""

import traceback
from functools import partial

import msgspec

from actors import ExitReason, Failed
from actors.simulation import History, Outcome, World
from cluster.peer import actor as peer_actor
from cluster.simulation.dedup_oracle import DedupOracle
from cluster.simulation.key_oracle import KeyOracle
from cluster.simulation.launched import BrokerProcess, StandIns
from cluster.simulation.limit_oracle import LimitOracle
from cluster.simulation.lock_oracle import LockOracle
from cluster.simulation.raft_oracle import RaftOracle
from cluster.simulation.snapshot_oracle import SnapshotOracle
from cluster.simulation.state_oracle import Plant, StateOracle, WatchedMachine
from cluster.simulation.verdict import Judge
from cluster.state.effects import STATE_COMPLETED
from cluster.state.status import STATE_NAMES

TERMINAL = frozenset(("completed", "failed", "dead", "cancelled", "expired", "duplicate"))
DISK_ERRORS = {                     # how a broker's end names them, by the fault that accounts for it
    "sync_error": ("[Errno 5]",),
    "no_space": ("[Errno 28]", "(ENOSPC)"),
}
STUCK_SHOWN_MAX = 5


class Oracles:
    """Where `acknowledged` is a parameter it maps calls to tasks, as clients were told."""

    def __init__(self, world: World, plant: Plant = lambda machine: None) -> None:
        self.world = world
        self.judge = Judge(world.seed, lambda: world.now)
        self.raft = RaftOracle(self.judge)
        self.state = StateOracle(self.judge, plant)
        self.keys = KeyOracle(self.judge)
        self.locks = LockOracle(self.judge)
        self.limits = LimitOracle(self.judge)
        self.dedup = DedupOracle(self.judge)
        self.state.on_entry += [self.locks.applied, self.limits.applied, self.dedup.applied]
        self.snapshots = SnapshotOracle(world, self.judge, self.raft.damaged)
        self.brokers: dict[str, BrokerProcess] = {}         # set by the scenario
        self.lost = 0                   # acknowledged tasks that have no terminal record in the end
        self.no_room: dict[str, int] = {}                   # brokers that a full disk ended, by what they were doing
        self._failures = 0              # of the world's that were looked at
        world.raise_failures = False
        world.on_log.append(self._on_log)

    @property
    def violated(self) -> bool:
        self._look_at_failures()
        return bool(self.judge.violations)

    # -- while it runs ----------------------------------------------------------------------------------------------

    def stand_ins(self, name: str) -> StandIns:
        """For a broker that is about to start."""
        return {(peer_actor, "Machine"): partial(WatchedMachine, self.state, name)}

    def ended(self, name: str, reason: ExitReason) -> None:
        """An actor of a broker or worker ended by itself."""
        assert isinstance(reason, Failed)
        faults = self.world.machine(name).disk.faults
        accounted = [text for kind, texts in DISK_ERRORS.items() if faults.get(kind) for text in texts]
        if any(text in reason.message for text in accounted):
            self._judge_room(name, reason)
            return
        if reason.type == "BrokerFault" and name in self.raft.damaged:
            return
        self.judge.violated("crash", f"{name} ended: {reason}\n{reason.traceback}")

    def _judge_room(self, name: str, reason: Failed) -> None:
        """A full disk may end a broker that has used up the last segment that it had, and no other."""
        if not any(text in reason.message for text in DISK_ERRORS["no_space"]):
            return
        node = self.brokers[name]
        segment_bytes = node.config.wal.segment_bytes
        disk = self.world.machine(name).disk
        spares = [path for path in disk.paths() if path.endswith(".spare") and len(disk.read(path)) >= segment_bytes]
        if reason.type == "NoRoom":
            kind = "start"
        else:
            assert node.peer is not None
            kind = "growing" if node.peer.wal.is_growing else "writing"
        self.no_room[kind] = self.no_room.get(kind, 0) + 1
        if kind != "growing":
            self.judge.require(not spares, "full disk", f"{name} ended with {spares} at hand: {reason}")

    def acknowledged(self, key: int, task: int) -> None:
        """A client was told that a call is safe, as this task."""
        known = self.state.task_of_key.get(key)
        self.judge.require(
            known == task and self.state.has_known(task),
            "acknowledged",
            f"call {key} was acknowledged as task {task}, but no broker has applied it (known as {known})",
        )

    def _on_log(self, process: str, name: str, fields: dict[str, object]) -> None:
        if process in self.brokers:
            broker = self.brokers[process]
            self.snapshots.on_log(broker, name, fields)
            if name == "compaction_started":
                assert broker.peer is not None
                index = fields["index"]
                assert isinstance(index, int)
                noted = broker.peer.snapshots.checkpoints.find(index)
                self.state.planned(process, broker.peer.machine, index, noted.meta if noted is not None else None)
        if name == "broker_started":
            self.raft.watch(self.brokers[process])
        elif name == "data_lost":
            node = str(fields["node"])
            self.judge.require(
                node in self.raft.damaged, "damage", f"{process} says that {node} lost data, and nothing damaged it"
            )
        elif name == "actor_crashed" and process not in self.brokers and not process.startswith("w"):
            self.judge.violated("crash", f"{process}: {fields['reason']}\n{fields['traceback']}")

    def _look_at_failures(self) -> None:
        for failure in self.world.failures[self._failures :]:
            cause = failure.__cause__
            trace = "" if cause is None else "".join(traceback.format_exception(cause))
            self.judge.violated("crash", f"{failure}\n{trace}")
        self._failures = len(self.world.failures)

    # -- in the end ---------------------------------------------------------------------------------------------------

    def unfinished(self, acknowledged: dict[int, int]) -> list[str]:
        """What still keeps the cluster from being at rest, for people; empty if it is."""
        reasons: list[str] = []
        for node in self.brokers.values():
            peer = node.peer
            if not node.process.alive or peer is None or peer.core is None:
                reasons.append(f"{node.name} is down")
            elif peer.wal.quarantined:
                reasons.append(f"{node.name} is quarantined")
            elif peer.machine.applied_index < len(self.raft.committed):
                reasons.append(f"{node.name} applied {peer.machine.applied_index} of {len(self.raft.committed)}")
        claims = self.state.reference.locks.claims
        if claims:
            reasons.append(f"{len(claims)} claims on locks are left, the first: {next(iter(claims.values())).id}")
        waiting = [task for task in acknowledged.values() if task not in self.state.terminal]
        for task in waiting[:STUCK_SHOWN_MAX]:
            reference = self.state.reference
            reasons.append(f"task {task} is {reference.state_of(task)}, attempts {reference.attempts(task)}")
        if len(waiting) > STUCK_SHOWN_MAX:
            reasons.append(f"{len(waiting)} tasks have not ended")
        return reasons

    def judge_end(self, acknowledged: dict[int, int], refused: list[int], history: History) -> None:
        """Everything is healed and had its time."""
        judge, state = self.judge, self.state
        for reason in self.unfinished(acknowledged):
            judge.violated("liveness", reason)
        self._judge_tasks(acknowledged)
        self._judge_replicas(acknowledged)
        for key in refused:
            task = state.task_of_key.get(key)
            judge.require(task is None, "refused", f"call {key} was refused, and is task {task}")
        self._judge_results(history)
        state.check()
        self.raft.check_logs(list(self.brokers.values()))

    def _judge_tasks(self, acknowledged: dict[int, int]) -> None:
        """Nothing acknowledged is lost, and what ended well ended with what its call returns."""
        for key, task in acknowledged.items():
            record = self.state.terminal.get(task)
            if record is None:
                self.lost += 1
                self.judge.violated("acknowledged", f"task {task} (call {key}), acknowledged, has no terminal record")
            elif record.state == STATE_COMPLETED and not record.duplicate_of:
                value = msgspec.msgpack.decode(record.body)
                self.judge.require(value == key, "result", f"task {task} returned {value}, its call was {key}")

    def _judge_replicas(self, acknowledged: dict[int, int]) -> None:
        digests = set()
        for node in self.brokers.values():
            assert node.peer is not None
            machine = node.peer.machine
            digests.add((machine.applied_index, machine.full_digest()))
            missing = [
                task
                for task in acknowledged.values()
                if machine.state_of(task) not in TERMINAL and not self.state.is_forgotten(task)
            ]
            if missing:
                detail = f"{node.name} has {len(missing)} tasks as not ended, the first: {missing[0]}"
                self.judge.violated("acknowledged", detail)
        self.judge.require(len(digests) == 1, "digest", f"brokers differ in the end: {sorted(digests)}")

    def _judge_results(self, history: History) -> None:
        """What clients saw is what the log says."""
        keys = {task: key for key, task in self.state.task_of_key.items()}
        for operation in history.of("result"):
            if operation.outcome is Outcome.PENDING:
                detail = f"{operation.process} still waits for the result of {operation.argument}"
                self.judge.violated("liveness", detail)
            elif operation.outcome is Outcome.OK:
                task = operation.argument
                assert isinstance(task, int) and isinstance(operation.value, tuple)
                seen, value = operation.value
                first = self.dedup.duplicate_of.get(task, task)
                said = [STATE_NAMES[record.state] for record in self.state.records.get(first, ())]
                self.judge.require(
                    seen in said and (seen != "completed" or value == keys[first]),
                    "result",
                    f"{operation.process} was told {seen} {value} of task {task} (call {keys.get(first)}, "
                    f"task {first}); the log says {said}",
                )

