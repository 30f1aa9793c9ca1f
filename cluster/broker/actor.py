"""The Broker actor: clients and workers of one broker process.

On every broker it keeps the links; only on the leader it does more. There it turns what clients and workers say in
one turn of the loop into one log entry, and carries out the effects of what was applied. It decides nothing that
survives it: who holds which task, who is answered what, is in the replicated state, and effects may be lost with
a leader. A new one *reconciles*: workers say what they hold, clients what they wait for, and it sends the
difference to what the state says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from actors import MILLISECOND, SECOND, Actor, Nanos, Peer, Ref, handles
from cluster.broker.entries import EntryBuilder
from cluster.broker.lease_table import LeaseTable
from cluster.peer.actor import RaftPeer
from cluster.peer.messages import (
    Applied,
    ConfirmLeadership,
    LeaderKnown,
    Leading,
    LeadershipConfirmed,
    Propose,
)
from cluster.peer.reception import Reception, Service
from cluster.state.commands import (
    BODY_BYTES_MAX,
    PRIORITY_MAX,
    SUBMIT_TASKS_MAX,
    TASK_NUMBER_BITS,
    Cancel,
    Close,
    Command,
    Complete,
    Expire,
    Register,
    Seen,
    Submit,
    Tick,
)
from cluster.state.effects import ANSWER_NO_SESSION, ANSWER_OK, Answer, Assignment, Effects, Registered, TaskResult
from cluster.state.machine import Machine
from cluster.wire import (
    HELLO_ITEMS_MAX,
    ROLE_CLIENT,
    ROLE_WORKER,
    Answers,
    Assignments,
    Describe,
    Described,
    Following,
    FromClient,
    FromWorker,
    Hello,
    Holding,
    LeaderIs,
    Lease,
    LeaseAck,
    Overload,
    Record,
    RegisterAnswer,
    Results,
    StatusReply,
    StatusRequest,
    Unknown,
    Watch,
    Welcome,
    Withdraw,
)

T = TypeVar("T")

LEASE_CHECK_INTERVAL = 500 * MILLISECOND
FRAME_BYTES_SOFT = 1024 * 1024      # a message of assignments or results is cut here
OVERLOAD_RETRY_MS = 100
HELD_PAIRS_MAX = 1_000_000          # of one worker's Holding; more is garbage
WATCHED_TASKS_MAX = 1_000_000       # of one client
BACKLOG_BYTES_MAX = 32 * 1024 * 1024
LINK_SILENCE = 30 * SECOND          # whoever talks to the leader does so twice a second; a silent link is dead


@dataclass(eq=False, slots=True)
class Link:
    """One linked worker or client. `session` is 0 until it registered here or said hello with one."""

    peer: Peer
    name: str
    incarnation: int
    role: int
    session: int = 0
    reconciled: bool = False                                # a worker's Holding of this term has been answered
    held: list[int] = field(default_factory=list)           # pairs of a Holding that is being continued
    watched: set[int] = field(default_factory=set)          # tasks of other sessions that it waits for
    running: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    pid: int = 0
    heard: Nanos = 0


class Broker(Actor):
    """Serves clients and workers; `raft` is the RaftPeer of this process, whose machine it reads between turns."""

    def __init__(self, node: str, pid: int, raft: RaftPeer, reception: Reception) -> None:
        self.node = node
        self.pid = pid
        self.raft = raft
        self.machine: Machine = raft.machine
        self.reception = reception
        self.incarnation = raft.incarnation
        self.leading = False
        self.term = 0
        self.leader = ""
        self.refused = 0                                    # messages that no well-behaved peer sends
        self._links: dict[Peer, Link] = {}
        self._by_session: dict[int, Link] = {}
        self._by_name: dict[tuple[str, int], Link] = {}
        self._watchers: dict[int, list[Link]] = {}
        self._closing: set[int] = set()                     # sessions whose owner has said goodbye
        self._entry = EntryBuilder()
        self._leases: LeaseTable[Link] = LeaseTable()
        self._lease_round = 0
        self._due_ms = 0

    def started(self) -> None:
        self._raft_ref: Ref[object] = self.raft.context.self_ref
        self._handlers: dict[type, Callable[[Link, msgspec.Struct], None]] = {
            Submit: self._on_submit,
            Complete: self._on_session_command,
            Cancel: self._on_session_command,
            Register: self._on_register,
            Close: self._on_close,
            Seen: self._on_seen,
            Lease: self._on_lease,
            Holding: self._on_holding,
            Watch: self._on_watch,
            Describe: self._on_describe,
        }
        for role, union in ((ROLE_WORKER, FromWorker), (ROLE_CLIENT, FromClient)):
            decoder: msgspec.msgpack.Decoder[list[msgspec.Struct]] = msgspec.msgpack.Decoder(list[union])  # type: ignore[valid-type]
            guard = self.context.callback
            service = Service(decoder, guard(self._accept), guard(self._on_messages), guard(self._on_closed))
            self.reception.serve(role, service)
        self.context.timer("leases", LEASE_CHECK_INTERVAL, self._check_leases)

    # -- links ------------------------------------------------------------------------------------------------------

    def _accept(self, peer: Peer, hello: Hello) -> str:
        link = Link(peer, hello.node, hello.incarnation, hello.role, heard=self.context.clock.now())
        self._links[peer] = link
        self._by_name[link.name, link.incarnation] = link
        if hello.session:
            self._claim(link, hello.session)
        peer.send(Welcome(self.node, self.incarnation, self.term, self.leader))
        return ""

    def _on_closed(self, peer: Peer) -> None:
        link = self._links.pop(peer, None)
        if link is None:
            return
        if self._by_name.get((link.name, link.incarnation)) is link:
            del self._by_name[link.name, link.incarnation]
        if self._by_session.get(link.session) is link:
            del self._by_session[link.session]
        self._unwatch(link)

    def _drop(self, link: Link) -> None:
        link.peer.close()
        self._on_closed(link.peer)

    def _claim(self, link: Link, session: int) -> bool:
        """Binds a session to the link that speaks for it; only its own name and incarnation may."""
        if link.session == session:
            return True
        known = self.machine.session(session)
        if known is None or known.name != link.name or known.incarnation != link.incarnation:
            return known is None        # unknown: the state's own answer will say so
        link.session = session
        link.reconciled = False
        self._by_session[session] = link
        return True

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.heard = self.context.clock.now()
        told = False
        for message in messages:
            kind = type(message)
            if kind is StatusRequest:
                self._on_status(link, message)
            elif kind is Following:
                self._on_following(link, message)
            elif not self.leading:
                if not told:
                    told = True
                    peer.send(LeaderIs(self.term, self.leader)) if self.leader else None
            else:
                handler = self._handlers.get(kind)
                if handler is not None:
                    handler(link, message)

    def _on_following(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Following)
        known, theirs = (self.term, self.leader), (message.term, message.node)
        if self.leader and theirs != known and message.term <= self.term:
            link.peer.send(LeaderIs(*known))

    # -- commands -----------------------------------------------------------------------------------------------

    def _on_submit(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Submit)
        if not _well_formed(message) or not self._claim(link, message.session):
            self._refuse(link, "malformed submit")
        elif self.raft.backlog_bytes + self._entry.bytes > BACKLOG_BYTES_MAX:
            link.peer.send(Overload(message.session, message.seq, OVERLOAD_RETRY_MS))
        else:
            self._propose(message, sum(len(body) for group in message.groups for body in group.bodies))

    def _on_session_command(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Complete | Cancel)
        if not self._claim(link, message.session):
            self._refuse(link, "a command for another's session")
            return
        size = sum(len(outcome.body) for outcome in message.outcomes) if isinstance(message, Complete) else 0
        self._propose(message, size)

    def _on_register(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Register)
        if (message.name, message.incarnation) != (link.name, link.incarnation) or (
            link.role == ROLE_WORKER and message.worker is None
        ):
            self._refuse(link, "a registration for another")
            return
        self._propose(message, 0)

    def _on_close(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Close)
        if message.incarnation == link.incarnation and self._claim(link, message.session):
            self._closing.add(message.session)
            self._propose(message, 0)

    def _on_seen(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Seen)
        if self._claim(link, message.session):
            self._propose(message, 0)

    def _propose(self, command: Command, body_bytes: int) -> None:
        self._entry.add(command, body_bytes)
        self.context.at_turn_end(self._flush)

    def _flush(self) -> None:
        """The turn ends: its commands become one entry (or a few, at the limit of an entry)."""
        if not self.leading:
            self._entry.clear()
            return
        if payloads := self._entry.take(self.raft.stamp()):
            self._raft_ref.tell(Propose(self.term, payloads))

    def _refuse(self, link: Link, reason: str) -> None:
        self.refused += 1
        self.context.log.event("message_refused", node=link.name, reason=reason)

    # -- leadership ---------------------------------------------------------------------------------------------

    @handles
    def on_leading(self, message: Leading) -> None:
        self.leading, self.term, self.leader = True, message.term, self.node
        now = self.context.clock.now()
        self._leases.restart(now, [session.id for session in self.machine.sessions_open()])
        self._lease_round = 0
        self._entry.clear()
        for link in self._links.values():
            link.reconciled = False
            link.held.clear()
            link.heard = now
            link.peer.send(LeaderIs(self.term, self.node))
        self.context.log.event("leading", node=self.node, term=self.term)
        self._arm()

    @handles
    def on_leader_known(self, message: LeaderKnown) -> None:
        self.leading, self.term, self.leader = False, message.term, message.node
        self._entry.clear()
        self._watchers.clear()
        for link in self._links.values():
            link.watched.clear()
            if message.node:
                link.peer.send(LeaderIs(message.term, message.node))

    # -- effects ------------------------------------------------------------------------------------------------

    @handles
    def on_applied(self, message: Applied) -> None:
        if not self.leading or message.term != self.term:
            return
        effects = message.effects
        by_session = self._by_session
        for registered in effects.registered:
            self._on_registered(registered, effects)
        if effects.answers:
            self._send_answers(effects)
        for session, pairs in effects.withdrawn.items():
            if (link := by_session.get(session)) is not None:
                flat = [number for pair in pairs for number in pair]
                link.peer.send(Withdraw(self.term, session, flat))
        for session, assignments in effects.assignments.items():
            if (link := by_session.get(session)) is not None and link.reconciled:
                self._send_assignments(link, assignments)
        for session, results in effects.results.items():
            if (link := by_session.get(session)) is not None:
                self._send_results(link, results)
            if self._watchers:
                self._notify_watchers(results)
        for session in effects.ended:
            self._leases.forget(session)
            if (link := by_session.pop(session, None)) is not None:
                link.session = 0
                link.reconciled = False
                if session in self._closing:
                    self._drop(link)
        self._closing.difference_update(effects.ended)
        self._arm()

    def _on_registered(self, registered: Registered, effects: Effects) -> None:
        link = self._by_name.get((registered.name, registered.incarnation))
        if link is None:
            return
        link.peer.send(RegisterAnswer(registered))
        if registered.code == ANSWER_OK and self._claim(link, registered.session):
            self._leases.heard(registered.session, self.context.clock.now())
            if link.role == ROLE_WORKER:
                # Perhaps a repeated registration whose first answer was lost: tell all it holds, not only the news.
                effects.assignments.pop(registered.session, None)
                link.reconciled = True
                self._send_assignments(link, self.machine.held_by(registered.session))

    def _send_answers(self, effects: Effects) -> None:
        per_session: dict[int, list[msgspec.Struct]] = {}
        for answer in effects.answers:
            per_session.setdefault(answer.session, []).append(answer)
        for session, answers in per_session.items():
            if (link := self._by_session.get(session)) is not None:
                link.peer.send(Answers(answers))  # type: ignore[arg-type]

    def _send_assignments(self, link: Link, assignments: list[Assignment]) -> None:
        for chunk in _chunks(assignments, lambda assignment: len(assignment.body)):
            if not link.peer.send(Assignments(self.term, link.session, chunk)):
                # They are the worker's in the state but it was not told: its next hello or Holding brings them up.
                link.reconciled = False
                self.context.log.event("assignments_undelivered", worker=link.name, tasks=len(chunk))
                return

    def _send_results(self, link: Link, results: list[TaskResult]) -> None:
        for chunk in _chunks(results, lambda result: len(result.body)):
            link.peer.send(Results(chunk))

    # -- reconciliation -----------------------------------------------------------------------------------------

    def _on_holding(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Holding)
        if not self._claim(link, message.session) or link.session != message.session:
            return
        if message.term != self.term or len(link.held) + len(message.pairs) > HELD_PAIRS_MAX:
            return
        link.held += message.pairs
        if message.more:
            return
        pairs, link.held = link.held, []
        has = set(zip(pairs[::2], pairs[1::2], strict=False))
        should = self.machine.held_by(link.session)
        lacking = [assignment for assignment in should if (assignment.task, assignment.attempt) not in has]
        owed = {(assignment.task, assignment.attempt) for assignment in should}
        surplus = [number for pair in zip(pairs[::2], pairs[1::2], strict=False) if pair not in owed for number in pair]
        if surplus:
            link.peer.send(Withdraw(self.term, link.session, surplus))
        link.reconciled = True
        self._send_assignments(link, lacking)

    def _on_watch(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Watch)
        found: list[TaskResult] = []
        unknown: list[int] = []
        for task in message.tasks:
            result = self.machine.result(task)
            if isinstance(result, TaskResult):
                found.append(result)
            elif result is None:
                unknown.append(task)
            elif task >> TASK_NUMBER_BITS != link.session and len(link.watched) < WATCHED_TASKS_MAX:
                link.watched.add(task)
                self._watchers.setdefault(task, []).append(link)
        self._send_results(link, found)
        for start in range(0, len(unknown), HELLO_ITEMS_MAX):
            link.peer.send(Unknown(unknown[start : start + HELLO_ITEMS_MAX]))

    def _on_describe(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Describe)
        link.peer.send(Described(message.request, [self._record(task) for task in message.tasks]))

    def _record(self, task: int) -> Record:
        # Attempts that were handed back before they began are no attempts to a user.
        return Record(task, self.machine.state_of(task) or "unknown", len(self.machine.attempts(task)))

    def _notify_watchers(self, results: list[TaskResult]) -> None:
        for result in results:
            for link in self._watchers.pop(result.task, ()):
                link.watched.discard(result.task)
                link.peer.send(Results([result]))

    def _unwatch(self, link: Link) -> None:
        for task in link.watched:
            watchers = self._watchers.get(task)
            if watchers is not None:
                watchers.remove(link)
                if not watchers:
                    del self._watchers[task]

    # -- silence and dates --------------------------------------------------------------------------------------

    def _on_lease(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Lease)
        if self.machine.session(message.session) is None:
            link.peer.send(Answers([Answer(message.session, 0, ANSWER_NO_SESSION)]))
            return
        if not self._claim(link, message.session):
            return
        link.running, link.children, link.pid = message.running, message.children, message.pid
        self._leases.heard(message.session, self.context.clock.now())
        if self._leases.owe_ack(link, message.session, message.sent):
            self._ask_round()

    def _ask_round(self) -> None:
        self._lease_round += 1
        self._leases.seal(self._lease_round)
        self._raft_ref.tell(ConfirmLeadership(self._lease_round))

    @handles
    def on_leadership_confirmed(self, message: LeadershipConfirmed) -> None:
        if not self.leading:
            return
        for link, session, sent in self._leases.confirmed(message.round):
            link.peer.send(LeaseAck(session, sent))
        if self._leases.waiting:
            self._ask_round()

    def _check_leases(self) -> None:
        self.context.timer("leases", LEASE_CHECK_INTERVAL, self._check_leases)
        if not self.leading:
            return
        now = self.context.clock.now()
        for link in [link for link in self._links.values() if now - link.heard > LINK_SILENCE]:
            self._drop(link)
        for session in self._leases.silent(now, self.machine.session):
            known = self.machine.session(session)
            if known is not None:
                self.context.log.event("lease_expired", node=known.name, session=session)
                self._propose(Expire(session, known.incarnation), 0)

    def _arm(self) -> None:
        """One timer at the earliest date in the state."""
        due = self.machine.next_deadline_ms()
        if due == self._due_ms:
            return
        self._due_ms = due or 0
        if not due:
            self.context.cancel_timer("tick")
            return
        wait: Nanos = max(0, due - self.raft.stamp_ms()) * MILLISECOND
        self.context.timer("tick", max(wait, MILLISECOND), self._tick)

    def _tick(self) -> None:
        due, self._due_ms = self._due_ms, 0
        if self.leading and due:
            if self.raft.stamp_ms() >= due:
                self._propose(Tick(due), 0)
            else:
                self._arm()

    # -- status -------------------------------------------------------------------------------------------------

    def _on_status(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, StatusRequest)
        report: dict[str, object] = {
            "leader": self.leader or None,
            "term": self.term,
            "broker": {"node": self.node, "pid": self.pid, **self.raft.status()},
        }
        if self.leading:
            report |= self._cluster_status()
        link.peer.send(StatusReply(message.request, msgspec.Raw(msgspec.msgpack.encode(report))))

    def _cluster_status(self) -> dict[str, object]:
        """What only the leader knows. Running and waiting come from workers' heartbeats, up to 500 ms old."""
        status = self.machine.status()
        workers = []
        waiting_in: dict[str, int] = {}
        for session in self.machine.sessions_open():
            if session.worker is None:
                continue
            link = self._by_session.get(session.id)
            held = self.machine.held_by(session.id)
            running = set(link.running) if link is not None else set()
            waits = [assignment for assignment in held if assignment.task not in running]
            for assignment in waits:
                queue = self.machine.queue_of(assignment.task) or ""
                waiting_in[queue] = waiting_in.get(queue, 0) + 1
            workers.append(
                {
                    "node": session.name,
                    "pid": link.pid if link is not None and link.pid else None,
                    "slots": session.worker.slots,
                    "running": len(held) - len(waits),
                    "waiting": len(waits),
                    "children": list(link.children) if link is not None else [],
                }
            )
        queues = [
            {**row, "waiting": waiting_in.get(str(row["name"]), 0), "running": row["running"] - waiting_in.get(str(row["name"]), 0)}
            for row in status["queues"]
        ]
        return {"workers": sorted(workers, key=lambda row: str(row["node"])), "queues": queues}


def _well_formed(message: Submit) -> bool:
    """What the state relies on; a client of ours never breaks it."""
    tasks = 0
    for group in message.groups:
        tasks += len(group.bodies)
        if group.first < 1 or not group.name:
            return False
        if any(len(body) > BODY_BYTES_MAX for body in group.bodies):
            return False
        options = group.options
        if options is not None and not (
            0 <= options.priority <= PRIORITY_MAX and options.timeout_ms > 0 and options.delay_ms >= 0 and options.queue
        ):
            return False
    return 0 < tasks <= SUBMIT_TASKS_MAX


def _chunks(items: list[T], size: Callable[[T], int]) -> list[list[T]]:
    """Cuts a list so that no message exceeds FRAME_BYTES_SOFT by more than its last item."""
    if not items:
        return []
    chunks: list[list[T]] = [[]]
    filled = 0
    for item in items:
        if filled > FRAME_BYTES_SOFT:
            chunks.append([])
            filled = 0
        chunks[-1].append(item)
        filled += size(item)
    return chunks
