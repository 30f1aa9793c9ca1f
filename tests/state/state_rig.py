"""A leader and a follower that apply the same log, checked after every entry, and the clients and workers
around them."""

from collections.abc import Iterable

import msgspec

from cluster.state.commands import (
    GRACE_NONE,
    MACHINE_VERSION,
    OUTCOME_COMPLETED,
    PREFETCH_AUTO,
    QUEUE_DEFAULT,
    ROLE_CLIENT,
    ROLE_WORKER,
    TASK_NUMBER_BITS,
    Cancel,
    Close,
    Command,
    Complete,
    Drain,
    Expire,
    Failure,
    Needs,
    Options,
    Outcome,
    Register,
    Replay,
    Resize,
    Stamp,
    Submit,
    TaskGroup,
    Tick,
    WorkerSpec,
)
from cluster.state.effects import ANSWER_OK, Answer, Assignment, Effects, Registered, TaskResult
from cluster.state.machine import Machine

EPOCH_MS = 1_700_000_000_000


def encode_entry(*commands: Command, now_ms: int | None = None) -> bytes:
    """Each command in a group of its own; with `now_ms`, headed by a stamp."""
    head = [] if now_ms is None else [[0, MACHINE_VERSION, [Stamp(now_ms, 1)]]]
    groups = [[command.__struct_config__.tag, MACHINE_VERSION, [command]] for command in commands]
    return msgspec.msgpack.encode(head + groups)


class Rig:
    """`leader` builds effects, `follower` does not; `log` is what both have applied."""

    def __init__(self) -> None:
        self.leader = Machine()
        self.follower = Machine()
        self.log: list[bytes] = []
        self.now_ms = EPOCH_MS
        self.effects = Effects()
        self.workers: dict[int, Worker] = {}

    def apply_payload(self, payload: bytes) -> Effects:
        self.log.append(payload)
        index = len(self.log)
        self.effects = Effects()
        self.leader.apply(index, 1, payload, self.effects)
        self.follower.apply(index, 1, payload, None)
        self.leader.check()
        assert self.leader.rolling == self.follower.rolling
        for session, assignments in self.effects.assignments.items():
            self.workers[session].inbox += self.leader.passed_on(assignments)
        return self.effects

    def apply(self, *commands: Command) -> Effects:
        return self.apply_payload(encode_entry(*commands, now_ms=self.now_ms))

    def pass_time(self, ms: int) -> Effects:
        """What the leader's timer does: a tick whose stamp is later."""
        self.now_ms += ms
        return self.apply(Tick(self.now_ms))

    def client(self, name: str = "c1", incarnation: int = 1) -> "Client":
        return Client(self, self.register(Register(name, incarnation, ROLE_CLIENT)))

    def worker(
        self,
        name: str = "w1",
        *,
        incarnation: int = 1,
        slots: int = 1,
        names: tuple[str, ...] = ("f",),
        queues: tuple[str, ...] = (QUEUE_DEFAULT,),
        prefetch: int = 1,
        labels: tuple[str, ...] = (),
        loop_names: tuple[str, ...] = (),
        loop_tasks: int = 0,
        slots_min: int = 0,
    ) -> "Worker":
        spec = WorkerSpec(slots, queues, names, prefetch, labels, loop_names, loop_tasks, (), slots_min)
        session = self.leader._tables.sessions.last_id + 1
        worker = self.workers[session] = Worker(self, name, incarnation)
        worker.session = self.register(Register(name, incarnation, ROLE_WORKER, spec)).session
        assert worker.session == session
        return worker

    def register(self, command: Register) -> Registered:
        (registered,) = self.apply(command).registered
        assert registered.code == ANSWER_OK
        return registered

    def queue(self, name: str = QUEUE_DEFAULT) -> dict[str, object]:
        (row,) = [row for row in self.leader.status()["queues"] if row["name"] == name]
        return dict(row)

    def queue_is_empty(self) -> bool:
        return all(row["ready"] == 0 for row in self.leader.status()["queues"])

    def results(self) -> list[TaskResult]:
        """Those of the last entry, of all sessions."""
        return [result for results in self.effects.results.values() for result in results]


class Client:
    def __init__(self, rig: Rig, registered: Registered) -> None:
        self.rig = rig
        self.session = registered.session
        self.seq = registered.next_seq
        self.number = 1

    def submit(
        self, name: str = "f", count: int = 1, needs: Iterable[Needs] = (), **options: object
    ) -> list[int]:
        """One command of one group; returns the ids of its tasks. `needs`: one for each."""
        command = self.submit_command(name, count, needs, **options)
        (answer,) = self.rig.apply(command).answers
        assert answer.code == ANSWER_OK
        first = command.groups[0].first
        return [self.session << TASK_NUMBER_BITS | first + place for place in range(count)]

    def needy(self, results: Iterable[int], outcomes: Iterable[int] = (), **options: object) -> int:
        """A task that needs these."""
        (task,) = self.submit("f", 1, [Needs(list(results), list(outcomes))], **options)
        return task

    def submit_command(
        self, name: str = "f", count: int = 1, needs: Iterable[Needs] = (), **options: object
    ) -> Submit:
        """The next command, to be applied together with others."""
        first = self.number
        bodies = [b"%d" % number for number in range(first, first + count)]
        self.number += count
        group = TaskGroup(name, first, bodies, Options(**options) if options else None, list(needs))
        self.seq += 1
        return Submit(self.session, self.seq - 1, self.seq - 1, [group])

    def cancel(self, *tasks: int, grace_ms: int = GRACE_NONE) -> None:
        assert self.send(Cancel(self.session, self.seq, self.seq, list(tasks), grace_ms)).code == ANSWER_OK

    def replay(self, *tasks: int) -> int:
        answer = self.send(Replay(self.session, self.seq, self.seq, list(tasks)))
        assert answer.code == ANSWER_OK
        return answer.value

    def send(self, command: Command) -> Answer:
        """Applies a command with the next number; returns its answer."""
        self.seq += 1
        (answer,) = self.rig.apply(command).answers
        return answer

    def close(self) -> None:
        self.rig.apply(Close(self.session, 1))


class Worker:
    """`inbox` holds what it was given and has not said anything about."""

    def __init__(self, rig: Rig, name: str, incarnation: int) -> None:
        self.rig = rig
        self.name = name
        self.incarnation = incarnation
        self.session = 0
        self.seq = 1
        self.inbox: list[Assignment] = []

    def tasks(self) -> list[int]:
        return [assignment.task for assignment in self.inbox]

    def complete(self, *assignments: Assignment, run_us: int = 50, body: bytes = b"done") -> None:
        self.report(*[outcome_of(assignment, OUTCOME_COMPLETED, run_us, body) for assignment in assignments])

    def end(self, assignment: Assignment, status: int, run_us: int = 50) -> None:
        self.report(outcome_of(assignment, status, run_us, b""))

    def report(self, *outcomes: Outcome) -> None:
        said = [(outcome.task, outcome.attempt) for outcome in outcomes]
        self.inbox = [kept for kept in self.inbox if (kept.task, kept.attempt) not in said]
        seq = self.seq
        self.seq += 1
        self.rig.apply(Complete(self.session, seq, seq, list(outcomes)))

    def resize(self, slots: int) -> int:
        self.seq += 1
        (answer,) = self.rig.apply(Resize(self.session, self.seq - 1, self.seq - 1, slots)).answers
        return answer.code

    def drain(self) -> None:
        self.rig.apply(self.drain_command())

    def drain_command(self) -> Drain:
        """The next command, to be applied together with others."""
        self.seq += 1
        return Drain(self.session, self.seq - 1, self.seq - 1)

    def expire(self) -> None:
        self.inbox = []
        self.rig.apply(Expire(self.session, self.incarnation))


def outcome_of(assignment: Assignment, status: int, run_us: int = 50, body: bytes = b"") -> Outcome:
    error = None if status == OUTCOME_COMPLETED else Failure("SomeError", "it went wrong", "Traceback ...")
    return Outcome(assignment.task, assignment.attempt, status, EPOCH_MS, run_us, body, error)


__all__ = ["EPOCH_MS", "PREFETCH_AUTO", "Client", "Rig", "Worker", "encode_entry", "outcome_of"]
