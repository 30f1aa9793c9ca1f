"""The replicated state machine: entries in, decisions out.

`apply` is called with every committed entry, in order, on every broker, and must decide alike everywhere and
for ever: the same log replayed next year gives the same digests. So there is no clock (entries carry the
leader's stamp), no chance, no iteration over sets, no float, and no exception as behaviour: what is wrong is
answered, or skipped and counted. Only the leader passes `effects`; on a follower they are None and nothing is
built for them.

Queues, sessions, credit, dates and dispatch are all in here, and one entry is applied whole before the next.
What others need to know of the state is read between entries, through the methods below `apply`.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Final, Literal

from cluster.state import dependencies
from cluster.state.backlog import Backlog, backlogs_of, still_waits
from cluster.state.commands import (
    REPLAY_TASKS_MAX,
    ROLE_CLIENT,
    ROLE_WORKER,
    Acquire,
    Arm,
    Cancel,
    Close,
    Complete,
    Drain,
    Expire,
    Extend,
    Fire,
    Formation,
    Lapse,
    Register,
    Release,
    Replay,
    Resize,
    Seen,
    Stamp,
    Steer,
    Submit,
    Tick,
)
from cluster.state.credit import SLOT_BITS
from cluster.state.decoding import KINDS, decode_commands, decode_entry
from cluster.state.dispatch import dispatch
from cluster.state.effects import (
    ANSWER_GAP,
    ANSWER_LOST,
    ANSWER_NO_SESSION,
    ANSWER_OK,
    ANSWER_REFUSED,
    Assignment,
    Effects,
    TaskResult,
)
from cluster.state.eviction import evict
from cluster.state.firing import arm, fire, settle, steer
from cluster.state.fulldigest import full_digest
from cluster.state.image import image
from cluster.state.inspection import Page, details_of, page_of
from cluster.state.intake import submit
from cluster.state.invariants import check
from cluster.state.lifecycle import cancel, drain, end_session, resize, run_timers
from cluster.state.locks import Locks
from cluster.state.outcomes import complete
from cluster.state.registration import register
from cluster.state.replays import replay
from cluster.state.schedules import Schedules
from cluster.state.sessions import Session
from cluster.state.status import Status, assignment_of, state_name, status_of
from cluster.state.tables import Tables
from cluster.state.task_rows import TaskDetails
from cluster.state.tasks import Attempt


class Unfinished(Enum):
    """What `Machine.result` says of a task that has not ended."""

    PENDING = "pending"


PENDING: Final = Unfinished.PENDING

SessionCommand = Submit | Complete | Drain | Cancel | Replay | Acquire | Release | Extend | Steer | Resize


class Machine:
    """All replicated state, and the one way to change it."""

    __slots__ = ("_handlers", "_tables", "applied_index")

    def __init__(self, tables: Tables | None = None, applied_index: int = 0) -> None:
        """An empty one, or one with the state that a `Restoration` has read."""
        self.applied_index = applied_index
        self._tables = tables or Tables()
        self._handlers: dict[int, Callable[[Any], None]] = {
            0: self._on_stamp,
            1: self._on_submit,
            2: self._on_complete,
            3: self._on_register,
            4: self._on_expire,
            5: self._on_close,
            6: self._on_seen,
            7: self._on_cancel,
            8: self._on_tick,
            9: self._on_formation,
            10: self._on_drain,
            11: self._on_replay,
            12: self._on_acquire,
            13: self._on_release,
            14: self._on_extend,
            15: self._on_lapse,
            16: self._on_arm,
            17: self._on_fire,
            18: self._on_steer,
            19: self._on_resize,
        }
        assert self._handlers.keys() == KINDS.keys()

    def apply(self, index: int, term: int, payload: bytes, effects: Effects | None) -> None:
        """Applies a committed entry. An empty payload is a no-op, but an entry."""
        assert index > self.applied_index, f"entry {index} after {self.applied_index}"
        tables = self._tables
        tables.ledger.open(index, effects)
        if payload:
            self._apply_groups(payload)
            settle(tables)
            if tables.dependencies.ends:
                dependencies.settle(tables)
            dispatch(tables)
            evict(tables)
        tables.ledger.close(index)
        self.applied_index = index

    def _apply_groups(self, payload: bytes) -> None:
        counters = self._tables.counters
        groups = decode_entry(payload)
        if groups is None:
            counters.undecodable += 1
            return
        for kind, version, encoded in groups:
            # By the version alone, whether the kind is known or not: new and old replicas skip the same.
            if version > self._tables.machine_version:
                counters.newer_versions += 1
                continue
            handle = self._handlers.get(kind)
            if handle is None:
                counters.unknown_kinds += 1
                continue
            commands, bad = decode_commands(kind, encoded)
            counters.undecodable += bad
            for command in commands:
                handle(command)

    # -- reading, between entries ----------------------------------------------------------------------------

    @property
    def digest(self) -> tuple[int, int]:
        """(index, rolling digest) at the last multiple of 256 that was applied; (0, 0) before the first."""
        return self._tables.ledger.reported

    @property
    def rolling(self) -> int:
        """The rolling digest after the last entry."""
        return self._tables.ledger.rolling

    @property
    def now_ms(self) -> int:
        """The last stamp."""
        return self._tables.now_ms

    @property
    def machine_version(self) -> int:
        """What the replicas have agreed to run."""
        return self._tables.machine_version

    @property
    def cluster_id(self) -> bytes:
        """From the formation entry; b"" before it."""
        return self._tables.cluster_id

    @property
    def voters(self) -> tuple[str, ...]:
        return self._tables.voters

    def next_deadline_ms(self) -> int | None:
        """The earliest date in the state: the leader proposes a Tick when its stamp reaches it."""
        tables = self._tables
        if tables.dependencies.ends:
            return tables.now_ms        # one entry could not tell of all
        dates = (
            tables.timers.next_deadline_ms(),
            tables.duplicates.next_deadline_ms(),
            tables.retention.next_deadline_ms(tables.now_ms),
        )
        return min([date for date in dates if date is not None], default=None)

    def session(self, session: int) -> Session | None:
        return self._tables.sessions.by_id.get(session)

    def sessions_open(self) -> Iterator[Session]:
        """All live sessions, in order of their ids."""
        return iter(self._tables.sessions)

    def worker_sessions(self) -> list[Session]:
        return [session for session in self._tables.sessions if session.worker is not None]

    def backlogs(self, sessions: Iterable[int]) -> list[Backlog]:
        """What waits for slots that these workers could open."""
        return backlogs_of(self._tables, sessions)

    def still_waits(self, pool: int, task: int, attempt: int) -> bool:
        """Whether a task that was the `last` of this pool's backlog is still part of it."""
        return still_waits(self._tables, pool, task, attempt)

    def held_by(self, session: int) -> list[Assignment]:
        """What a worker's session holds, slot by slot in the order in which it was given; [] if there is none. To be
        `passed_on` before it is sent."""
        known = self._tables.sessions.by_id.get(session)
        if known is None:
            return []
        channels = self._tables.queues.channels
        return [
            assignment_of(channels[message.spec.channel], known.slots[message.holder].index, message)
            for message in known.held.values()
        ]

    def passed_on(self, assignments: list[Assignment]) -> Iterable[Assignment]:
        """Assignments as their worker gets them: one by one, each with what became of the tasks that its task needs.
        Nothing may be applied before the last one was taken. Left out is one that needs others and was taken away."""
        return dependencies.passed_on(self._tables, assignments)

    def cancelled_at(self, session: int) -> list[tuple[int, int, int]]:
        """(task, attempt, grace in ms) of what a worker's session holds and was told to stop."""
        known = self._tables.sessions.by_id.get(session)
        held = [] if known is None else [self._tables.tasks.get(task) for task in known.held]
        return [(task.id, task.attempt, task.grace_ms) for task in held if task is not None and task.is_cancelled]

    def result(self, task: int) -> TaskResult | Literal[Unfinished.PENDING] | None:
        """The terminal record of a task; PENDING if it has not ended, None if there is no such task, or it is
        forgotten."""
        found = self._tables.tasks.get(task)
        if found is None:
            return None
        return found.result() if found.is_terminal else PENDING

    def state_of(self, task: int) -> str | None:
        """pending, processing, completed, failed, cancelled, expired, dead or duplicate; None if there is no such task,
        or it is forgotten."""
        found = self._tables.tasks.get(task)
        return None if found is None else state_name(found)

    def attempts(self, task: int) -> list[Attempt]:
        """The ended attempts of a task, at most the last 10."""
        found = self._tables.tasks.get(task)
        return [] if found is None else found.all_attempts()

    def replays_of(self, task: int) -> int:
        """How often a task was run again after its end; 0 if it is not known."""
        found = self._tables.tasks.get(task)
        return 0 if found is None else found.replays

    def held(self, task: int) -> tuple[int, int] | None:
        """The session of the worker that a task is with, and which attempt this is; None if it is with none."""
        found = self._tables.tasks.get(task)
        return None if found is None or not found.holder else (found.holder >> SLOT_BITS, found.attempt)

    def handed_out(self, task: int) -> int:
        """The number of its attempt: the one that it is at, or that it waits for; 0 if it is not known."""
        found = self._tables.tasks.get(task)
        return 0 if found is None else found.attempt

    def begins_anew(self, task: int) -> bool:
        """It was replayed, and no attempt has counted since: what is written down is of an earlier life."""
        found = self._tables.tasks.get(task)
        return found is not None and bool(found.replays) and not (found.crashes or found.failures)

    def queue_of(self, task: int) -> str | None:
        found = self._tables.tasks.get(task)
        return None if found is None else found.spec.queue

    def page(self, after: int, limit: int, states: tuple[str, ...] = (), queue: str = "", name: str = "") -> Page:
        """Tasks behind the cursor `after`, a bounded number of them."""
        return page_of(self._tables, after, limit, states, queue, name)

    def details(self, task: int) -> TaskDetails | None:
        """All that is known of one task; None if there is no such task, or it is forgotten."""
        return details_of(self._tables, task)

    @property
    def locks(self) -> Locks:
        """Who holds what, and who waits; to be read only."""
        return self._tables.locks

    @property
    def schedules(self) -> Schedules:
        """What is to fire, and what runs; to be read only."""
        return self._tables.schedules

    def status(self) -> Status:
        return status_of(self._tables)

    def full_digest(self) -> int:
        """A checksum of everything, at the cost of encoding everything: for simulator, compactor and
        tests."""
        return full_digest(self._tables)

    def image(self) -> Iterator[bytes]:
        """The whole state in parts, for a `Restoration`. Nothing may be applied before the last one was taken."""
        index = self.applied_index
        for part in image(self._tables, index):
            yield part
            assert self.applied_index == index, f"entry {self.applied_index} was applied within the image of {index}"

    def replace(self, other: "Machine") -> Iterator[None]:
        """Takes over the whole state of another machine, which is empty afterwards: those who hold this one go on
        with it. Each step of the iterator frees a part of the old state; without it all is freed at once."""
        old = self._tables
        self._tables, other._tables = other._tables, Tables()
        self.applied_index, other.applied_index = other.applied_index, 0
        return old.dismantle()

    def check(self) -> None:
        """Asserts all invariants, at the cost of visiting everything: for simulator and tests."""
        check(self._tables)

    # -- commands --------------------------------------------------------------------------------------------

    def _on_stamp(self, command: Stamp) -> None:
        if command.wall_ms > self._tables.now_ms:
            self._tables.now_ms = command.wall_ms
        run_timers(self._tables)

    def _on_tick(self, command: Tick) -> None:
        """Nothing: the stamp of its entry has done the work."""

    def _on_submit(self, command: Submit) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is None:
            return
        if command.fence and not self._tables.locks.holds(command.fence):
            tables = self._tables
            tables.counters.ignored_seen += tables.retention.seen(session, command.seen, tables.now_ms)
            self._answer(session, command.low, ANSWER_LOST, command.fence)
        else:
            self._answer(session, command.low, *submit(self._tables, session, command))

    def _on_complete(self, command: Complete) -> None:
        session = self._admit(command, ROLE_WORKER)
        if session is not None:
            complete(self._tables, session, command)
            self._answer(session, command.low, ANSWER_OK, 0)

    def _on_drain(self, command: Drain) -> None:
        session = self._admit(command, ROLE_WORKER)
        if session is not None:
            drain(self._tables, session)
            self._answer(session, command.low, ANSWER_OK, 0)

    def _on_resize(self, command: Resize) -> None:
        session = self._admit(command, ROLE_WORKER)
        if session is not None:
            code = ANSWER_OK if resize(self._tables, session, command.slots) else ANSWER_REFUSED
            self._answer(session, command.low, code, 0)

    def _on_cancel(self, command: Cancel) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is not None:
            for number in command.tasks:
                task = self._tables.tasks.get(number)
                if task is not None and not task.is_terminal:
                    cancel(self._tables, task, command.grace_ms)
            self._answer(session, command.low, ANSWER_OK, 0)

    def _on_replay(self, command: Replay) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is None:
            return
        if len(command.tasks) > REPLAY_TASKS_MAX:
            self._answer(session, command.low, ANSWER_REFUSED, 0)
        else:
            self._answer(session, command.low, *replay(self._tables, command.tasks))

    def _on_acquire(self, command: Acquire) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is not None:
            tables = self._tables
            self._answer(session, command.low, *tables.locks.acquire(session, command, tables.now_ms))

    def _on_release(self, command: Release) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is not None:
            tables = self._tables
            self._answer(session, command.low, *tables.locks.release(session, command, tables.now_ms))

    def _on_extend(self, command: Extend) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is not None:
            self._answer(session, command.low, *self._tables.locks.extend(session, command))

    def _on_lapse(self, command: Lapse) -> None:
        self._tables.locks.lapse(command, self._tables.now_ms)

    def _on_arm(self, command: Arm) -> None:
        arm(self._tables, command)

    def _on_fire(self, command: Fire) -> None:
        fire(self._tables, command)

    def _on_steer(self, command: Steer) -> None:
        session = self._admit(command, ROLE_CLIENT)
        if session is not None:
            self._answer(session, command.low, *steer(self._tables, command))

    def _on_register(self, command: Register) -> None:
        register(self._tables, command)

    def _on_expire(self, command: Expire) -> None:
        self._end(command.session, command.incarnation)

    def _on_close(self, command: Close) -> None:
        self._end(command.session, command.incarnation, in_order=True)

    def _on_seen(self, command: Seen) -> None:
        """Not answered and not in order: it may be lost, and then results are kept for longer."""
        tables = self._tables
        session = tables.sessions.by_id.get(command.session)
        if session is None:
            tables.counters.unknown_sessions += 1
        else:
            tables.counters.ignored_seen += tables.retention.seen(session, command.seen, tables.now_ms)

    def _on_formation(self, command: Formation) -> None:
        if not self._tables.cluster_id:
            self._tables.cluster_id = command.cluster_id
            self._tables.voters = command.voters

    def _end(self, session: int, incarnation: int, *, in_order: bool = False) -> None:
        known = self._tables.sessions.by_id.get(session)
        if known is not None and known.incarnation == incarnation:
            end_session(self._tables, known, in_order=in_order)

    def _admit(self, command: SessionCommand, role: int) -> Session | None:
        """The session if this is its next command and may come from it; else None, and it has been
        answered."""
        counters, ledger = self._tables.counters, self._tables.ledger
        session = self._tables.sessions.by_id.get(command.session)
        if session is None:
            counters.unknown_sessions += 1
            ledger.answer(command.session, command.seq, ANSWER_NO_SESSION, 0)
        elif command.seq > session.next_seq:
            counters.gaps += 1
            ledger.answer(session.id, command.seq, ANSWER_GAP, session.next_seq)
        elif command.seq < session.next_seq:
            counters.duplicate_commands += 1
            kept = session.kept_answer(command.seq)
            if kept is not None:
                ledger.answer(session.id, command.seq, *kept)
        elif session.role != role:
            self._answer(session, command.low, ANSWER_REFUSED, 0)
        else:
            return session
        return None

    def _answer(self, session: Session, low: int, code: int, value: int) -> None:
        """Answers the session's next command and goes on to the one after it."""
        if code == ANSWER_REFUSED:
            self._tables.counters.refused_commands += 1
        self._tables.ledger.answer(session.id, session.next_seq, code, value)
        session.advance(low, code, value)
