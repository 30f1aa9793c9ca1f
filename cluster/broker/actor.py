"""The Broker actor: clients and workers of one broker process.

On every broker it keeps the links; only on the leader it does more. There it turns what clients and workers say in
one turn of the loop into one log entry, and carries out the effects of what was applied. It decides nothing that
survives it: who holds which task, who is answered what, is in the replicated state, and effects may be lost with
a leader. A new one *reconciles*: workers say what they hold, clients what they wait for, and it sends the
difference to what the state says.
"""

from collections.abc import Callable

import msgspec

from actors import MILLISECOND, SECOND, Actor, Nanos, Peer, PeerLog, Ref, handles
from cluster.broker.admission import size_of, well_formed
from cluster.broker.dates import DateTimer
from cluster.broker.delivery import Delivery
from cluster.broker.ending import Ending
from cluster.broker.entries import Passing
from cluster.broker.inspection import Inspection
from cluster.broker.lease_table import LeaseTable
from cluster.broker.link import Link, Links
from cluster.broker.lock_service import LockService
from cluster.broker.proposals import Proposals
from cluster.broker.questions import Answering, Asked, Questions
from cluster.broker.scheduler import Scheduler
from cluster.broker.slot_hints import SlotHints
from cluster.broker.watching import Watching
from cluster.peer.actor import RaftPeer
from cluster.peer.messages import (
    Applied,
    ConfirmLeadership,
    LeaderKnown,
    LeadershipConfirmed,
    Leading,
)
from cluster.peer.reception import Reception, Service
from cluster.state.commands import (
    Acquire,
    Cancel,
    Close,
    Complete,
    Drain,
    Expire,
    Extend,
    Register,
    Release,
    Replay,
    Resize,
    Seen,
    Steer,
    Submit,
    Tick,
)
from cluster.state.effects import (
    ANSWER_NO_SESSION,
    ANSWER_OK,
    Answer,
)
from cluster.state.machine import Machine
from cluster.wire import (
    ROLE_CLIENT,
    ROLE_WORKER,
    Answers,
    Claims,
    Describe,
    EndNode,
    Follow,
    Following,
    FromClient,
    FromWorker,
    GiveUpClaims,
    Hello,
    Holding,
    LeaderIs,
    Lease,
    LeaseAck,
    ListLocks,
    ListSchedules,
    ListTasks,
    Progress,
    ShowSchedule,
    ShowTask,
    StandingBy,
    StatusRequest,
    Watch,
    WatchLock,
    Welcome,
)

LEASE_CHECK_INTERVAL = 500 * MILLISECOND
LINK_SILENCE = 30 * SECOND          # workers and clients speak to every broker more often: it is dead


class Broker(Actor):
    """Serves clients and workers; `raft` is the RaftPeer of this process, whose machine it reads between turns. `end`
    ends this process in order, to be started again."""

    def __init__(
        self, node: str, pid: int, raft: RaftPeer, reception: Reception, end: Callable[[], None] = lambda: None
    ) -> None:
        self.node = node
        self.pid = pid
        self.raft = raft
        self.machine: Machine = raft.machine
        self.reception = reception
        self.incarnation = raft.incarnation
        self._end = end
        self.leading = False
        self.term = 0
        self.leader = ""
        self.refused = 0                                    # messages that no well-behaved peer sends
        self._links = Links(self.machine)
        self._closing: set[int] = set()                     # sessions whose owner has said goodbye
        self._expiring: set[int] = set()                    # sessions that were proposed to end for their silence
        self._leases = LeaseTable()

    def started(self) -> None:
        self._raft_ref: Ref[object] = self.raft.context.self_ref
        self._peer_log = PeerLog(self.context.log, self.context.clock)
        self._proposals = Proposals(self.context, self.raft, self._links, self._peer_log, self._refuse)
        self._delivery = delivery = Delivery(self.machine, self._links, self.context.log, self._drop)
        self._questions = questions = Questions(
            self.machine,
            self._links,
            delivery,
            self._own_status,
            self.context.at_turn_end,
            lambda number: self._raft_ref.tell(ConfirmLeadership(number)),
            self._refuse,
            Inspection(
                self.machine,
                self._links,
                self._next_turn,
                lambda task: self._watching.progress(task),
                lambda question: self._schedules.inspect(question),
            ),
            lambda: self._schedules.uncomputed,
        )
        self._watching = watching = Watching(
            self.machine,
            self._links,
            self.raft.stamp_ms,
            self.context.at_turn_end,
            questions.after_round,
            self._refuse,
            self._next_turn,
        )
        self._locks = locks = LockService(
            self.machine,
            self._links,
            self._leases,
            questions,
            self.context.log,
            self.context.clock.now,
            lambda lapse: self._proposals.propose(lapse, size_of(lapse)),
            self._refuse,
        )
        self._schedules = Scheduler(
            self.machine,
            self.context.log,
            self.raft.stamp_ms,
            lambda command: self._proposals.propose(command, size_of(command)),
            lambda: bool(self.raft.closed_reason),
            lambda date_ms: self._slots.set(date_ms),
            self._next_turn,
        )
        self._slot_hints = SlotHints(self.machine, self.context.clock.now)
        self._due = self._timer_at_dates("tick", self._tick)
        self._slots = self._timer_at_dates("schedules", self._slot_has_come)
        self._ending = Ending(self.node, self.pid, self._links, self.context.log, self._end, self.raft, self._later)
        self._handlers: dict[type, Answering] = {           # of a leader
            Submit: self._on_submit,
            Complete: self._on_session_command,
            Drain: self._on_session_command,
            Resize: self._on_session_command,
            Cancel: self._on_session_command,
            Replay: self._on_session_command,
            Acquire: self._on_acquire,
            Release: self._on_session_command,
            Extend: self._on_session_command,
            Register: self._on_register,
            Close: self._on_close,
            Seen: self._on_seen,
            Lease: self._on_lease,
            Holding: delivery.on_holding,
            Watch: questions.on_watch,
            Describe: questions.on_describe,
            StatusRequest: questions.on_status,
            ListTasks: questions.on_inspect,
            ShowTask: questions.on_inspect,
            Claims: locks.on_claims,
            GiveUpClaims: locks.on_give_up,
            WatchLock: locks.on_watch,
            ListLocks: questions.on_inspect,
            Steer: self._on_session_command,
            ListSchedules: questions.on_inspect,
            ShowSchedule: questions.on_inspect,
            Follow: watching.on_follow,
            Progress: watching.on_progress,
            Following: self._on_following,
            EndNode: self._ending.on_end,
            StandingBy: self._ending.on_standing_by,
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
        self._links.add(link)
        if hello.session:
            self._links.claim(link, hello.session)
        peer.send(Welcome(self.node, self.incarnation, self.term, self.leader))
        return ""

    def _on_closed(self, peer: Peer) -> None:
        link = self._links.remove(peer)
        if link is not None:
            self._delivery.forget(link)
            self._watching.forget(link)
            self._locks.forget(link)

    def _drop(self, link: Link) -> None:
        link.peer.close()
        self._on_closed(link.peer)

    def _on_messages(self, peer: Peer, messages: list[msgspec.Struct]) -> None:
        link = self._links.of_peer(peer)
        if link is None:
            return
        link.heard = self.context.clock.now()
        if not self.leading:
            self._on_messages_to_no_leader(link, messages)
            return
        handlers = self._handlers
        for message in messages:
            handler = handlers.get(type(message))
            if handler is not None:
                handler(link, message)

    def _on_messages_to_no_leader(self, link: Link, messages: list[msgspec.Struct]) -> None:
        """What any broker can answer; who wants more is told once who leads."""
        wants_leader = False
        for message in messages:
            if isinstance(message, StatusRequest):
                self._questions.on_status(link, message)
            elif isinstance(message, Following):
                self._on_following(link, message)
            elif isinstance(message, Asked) and message.stale:
                self._handlers[type(message)](link, message)
            elif isinstance(message, EndNode):
                self._ending.on_end_here(link, message)
            else:
                wants_leader = True
        if wants_leader and self.leader:
            link.peer.send(LeaderIs(self.term, self.leader))

    def _on_following(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Following)
        known, theirs = (self.term, self.leader), (message.term, message.node)
        if self.leader and theirs != known and message.term <= self.term:
            link.peer.send(LeaderIs(*known))

    # -- commands -----------------------------------------------------------------------------------------------

    def _on_submit(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Submit)
        if not well_formed(message) or not self._links.claim(link, message.session):
            self._refuse(link, "malformed submit")
            return
        self._proposals.submit(link, message)

    def _on_session_command(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Complete | Drain | Resize | Passing)
        if not self._links.claim(link, message.session):
            self._refuse(link, "a command for another's session")
        elif isinstance(message, Passing):
            self._proposals.let_pass(link, message)
        else:
            self._proposals.admit(link, message)

    def _on_acquire(self, link: Link, message: msgspec.Struct) -> None:
        """Its client counts from it as from a heartbeat."""
        assert isinstance(message, Acquire)
        if self.machine.session(message.session) is not None and self._links.claim(link, message.session):
            self._leases.heard(message.session, self.context.clock.now())
            self._proposals.let_pass(link, message, may_wait=self._locks.is_in_no_hurry(message))
        else:
            self._on_session_command(link, message)

    def _on_register(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Register)
        if (message.role, message.name, message.incarnation) != (link.role, link.name, link.incarnation) or (
            link.role == ROLE_WORKER and message.worker is None
        ):
            self._refuse(link, "a registration for another")
            return
        self._proposals.admit(link, message)

    def _on_close(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Close)
        if message.incarnation == link.incarnation and self._links.claim(link, message.session):
            if self.machine.session(message.session) is not None:
                self._closing.add(message.session)
            self._proposals.admit(link, message)

    def _on_seen(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Seen)
        if self._links.claim(link, message.session):
            self._proposals.admit(link, message)

    def _refuse(self, link: Link, reason: str) -> None:
        self.refused += 1
        self._peer_log.event("message_refused", link.name, reason=reason)

    # -- leadership ---------------------------------------------------------------------------------------------

    @handles
    def on_leading(self, message: Leading) -> None:
        self.leading, self.term, self.leader = True, message.term, self.node
        now = self.context.clock.now()
        self._leases.restart(now, [session.id for session in self.machine.sessions_open()])
        self._expiring.clear()
        self._proposals.lead(message.term)
        self._questions.restart(leading=True)
        self._delivery.restart(message.term)
        self._watching.restart()
        self._locks.restart()
        self._schedules.restart(leading=True)
        self._slot_hints.restart()
        for link in self._links:
            link.heard = now
            link.peer.send(LeaderIs(self.term, self.node))
        self.context.log.event("leading", node=self.node, term=self.term)
        self._arm()

    @handles
    def on_leader_known(self, message: LeaderKnown) -> None:
        self.leading, self.term, self.leader = False, message.term, message.node
        self._proposals.rest()
        self._questions.restart(leading=False)
        self._delivery.restart(message.term)
        self._watching.restart()
        self._locks.restart()
        self._schedules.restart(leading=False)
        for link in self._links:
            if message.node:
                link.peer.send(LeaderIs(message.term, message.node))

    # -- effects ------------------------------------------------------------------------------------------------

    @handles
    def on_applied(self, message: Applied) -> None:
        if not self.leading or message.term != self.term:
            return
        effects = message.effects
        self._delivery.carry_out(effects)
        self._watching.carry_out(effects)
        self._locks.carry_out(effects)
        self._schedules.carry_out(effects)
        self._proposals.go_on()
        now = self.context.clock.now()
        for registered in effects.registered:
            if registered.code == ANSWER_OK:
                self._leases.heard(registered.session, now)
        for session in effects.ended:
            self._leases.forget(session)
            self._slot_hints.forget(session)
            self._proposals.forget(session)
            link = self._links.end_session(session)
            if link is not None and session in self._closing:
                self._drop(link)
        self._closing.difference_update(effects.ended)
        self._expiring.difference_update(effects.ended)
        self._arm()

    # -- silence and dates --------------------------------------------------------------------------------------

    def _on_lease(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Lease)
        if self.machine.session(message.session) is None:
            link.peer.send(Answers([Answer(message.session, 0, ANSWER_NO_SESSION)]))
            return
        if not self._links.claim(link, message.session):
            return
        link.running, link.children, link.pid = message.running, message.children, message.pid
        self._watching.on_running(link)
        self._leases.heard(message.session, self.context.clock.now())
        self._questions.after_round(self._on_lease_confirmed, link, message)

    def _on_lease_confirmed(self, link: Link, message: msgspec.Struct) -> None:
        assert isinstance(message, Lease)
        ends = message.session in self._expiring or self._locks.is_lapsing(message.session)
        if self.machine.session(message.session) is not None and not ends:
            link.peer.send(LeaseAck(message.session, message.sent, *self._slot_hints.hint(message.session)))

    def _check_leases(self) -> None:
        self.context.timer("leases", LEASE_CHECK_INTERVAL, self._check_leases)
        now = self.context.clock.now()
        away = self._leases.looks(now)
        for link in list(self._links):
            link.heard = min(now, link.heard + away)
            if now - link.heard > LINK_SILENCE:
                self._drop(link)
        if not self.leading:
            return
        self._questions.look()
        self._proposals.go_on()
        self._watching.go_on()
        self._locks.look(now)
        self._due.look()
        self._slots.look()
        for session in self._leases.silent(now, self.machine.session):
            known = self.machine.session(session)
            if known is not None:
                self.context.log.event("lease_expired", node=known.name, session=session)
                self._expiring.add(session)
                self._proposals.propose(Expire(session, known.incarnation), 0)

    def _timer_at_dates(self, key: str, callback: Callable[[], None]) -> DateTimer:
        return DateTimer(
            self.context.clock.now,
            self.raft.until_stamp,
            lambda wait: self.context.timer(key, wait, callback),
            lambda: self.context.cancel_timer(key),
        )

    def _arm(self) -> None:
        """One timer at the earliest date in the state."""
        self._due.set(self.machine.next_deadline_ms() or 0)

    def _slot_has_come(self) -> None:
        self._slots.rung()
        self._schedules.wake()

    def _tick(self) -> None:
        due = self._due.rung()
        if self.leading and due:
            if self.raft.stamp_ms() >= due:
                self._proposals.propose(Tick(due), 0)
            else:
                self._arm()

    # -- questions ----------------------------------------------------------------------------------------------

    @handles
    def on_leadership_confirmed(self, message: LeadershipConfirmed) -> None:
        if self.leading:
            self._questions.confirmed(message.round)

    def _next_turn(self, callback: Callable[[], None]) -> None:
        self.context.clock.call_soon(self.context.callback(callback))

    def _later(self, wait: Nanos, callback: Callable[[], None]) -> None:
        self.context.timer("end", wait, callback)

    def _own_status(self) -> dict[str, object]:
        return {
            "leader": self.leader or None,
            "term": self.term,
            "broker": {"node": self.node, "pid": self.pid, **self.raft.status()},
        }
