"""The client's actor: links to every broker, one session, and who waits for which result.

It follows the leader without asking: brokers push `LeaderIs`. To every new leader, and after every lost link to it, the
actor says again what is unanswered (identical bytes, in order), which results it waits for and which locks it claims;
the leader answers the difference. So nothing here retries by guessing, and a failover is invisible but for its
duration.

A session has a limited number of task numbers. Before they are used up the client begins another session with another
actor (`cluster.client.succession`) and retires this one, which ends when nothing of it is under way any more.
"""

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from actors import MILLISECOND, SECOND, Actor, Nanos, Peer
from cluster.client.claim import Claim, Wanted
from cluster.client.claims import SessionClaims
from cluster.client.commands import RESEND_AFTER, Commands
from cluster.client.lock_watching import LockWatcher, LockWatchers
from cluster.client.outbox import TASK_NUMBER_MAX
from cluster.client.questions import Questions, reject
from cluster.client.sinks import ManySink, Sink
from cluster.client.waiters import Answering, Waiter
from cluster.client.waits import Waits
from cluster.client.watching import Watcher, Watchers
from cluster.errors import ClusterError, RequestOutcome, Unavailable
from cluster.leader_links import LeaderLinks
from cluster.state.commands import ROLE_CLIENT as REGISTER_CLIENT
from cluster.state.commands import Close, Needs, Options, Register
from cluster.state.effects import ANSWER_OK, STATE_COMPLETED
from cluster.wire import (
    ROLE_CLIENT,
    Answers,
    ClaimsNews,
    Described,
    Events,
    Hello,
    Lease,
    LeaseAck,
    LockIs,
    LockRows,
    Message,
    NodeAnswer,
    Overload,
    RegisterAnswer,
    Results,
    ScheduleRows,
    ScheduleShown,
    StatusReply,
    TaskRows,
    TaskShown,
    ToClient,
    Unknown,
)

LEASE_INTERVAL = 500 * MILLISECOND
SEEN_INTERVAL = 1 * SECOND
REWATCH_AFTER = 5 * SECOND          # results that are awaited with nothing heard for so long are asked for again
SWEEP_INTERVAL = 100 * MILLISECOND
REGISTER_RETRY = 1 * SECOND
STRAGGLERS_MAX = 1_024              # awaited results that do not keep a retired session alive

ANSWERS = (Described, TaskRows, TaskShown, LockRows, ScheduleRows, ScheduleShown)

Inherit = Callable[[dict[int, Sink]], None]


class ClientActor(Actor):
    """One session of a client of one cluster. `on_term` is told the term of each leader that it follows."""

    def __init__(
        self,
        cluster: str,
        name: str,
        incarnation: int,
        brokers: tuple[tuple[str, str], ...],
        *,
        only_looks: bool = False,
        numbers_max: int = TASK_NUMBER_MAX,
        on_term: Callable[[int], None] = lambda term: None,
    ) -> None:
        self.cluster = cluster
        self.only_looks = only_looks                        # asks questions, and leaves no trace in the log
        self.name = name
        self.incarnation = incarnation
        self.brokers = brokers
        self.session = 0
        self._numbers_max = numbers_max
        self._on_term = on_term
        self._follows = False                               # some leader has said that it leads
        self._end: Unavailable | None = None                # why nothing can be asked any more
        self._inherit: Inherit | None = None                # set when it retires: who takes over the stragglers
        self._closed_at: Nanos = 0                          # when a retired session last said goodbye
        self._waits = Waits()
        self._questions = Questions()
        self._watchers = Watchers()
        self._lock_watchers = LockWatchers()
        self._registered: list[Waiter] = []
        self._heard: Nanos = 0
        self._refused_registration = ""
        self.is_refused = False                             # by every broker, for good; `refusal` says why

    # -- life ---------------------------------------------------------------------------------------------------

    def started(self) -> None:
        decoder = msgspec.msgpack.Decoder(list[ToClient])
        self._links = LeaderLinks(
            self.context,
            self.brokers,
            decoder,
            self._hello,
            self._rejoin,
            self._on_message,
            self._questions.lost_leader,
            self._refused_by_all,
        )
        self._begin(0)
        self._links.open()
        self._handlers: dict[type, Callable[[Peer, Any], None]] = {
            RegisterAnswer: self._on_registered,
            Answers: self._on_answers,
            Results: self._on_results,
            Unknown: self._on_unknown,
            Overload: self._on_overload,
            StatusReply: self._questions.on_status,
            **dict.fromkeys(ANSWERS, self._questions.on_answer),
            Events: self._on_events,
            LeaseAck: self._on_lease_ack,
            ClaimsNews: self._on_claims_news,
            LockIs: self._on_lock_is,
            NodeAnswer: self._questions.on_node_answer,
        }
        self.context.timer("lease", LEASE_INTERVAL, self._lease)
        self.context.timer("sweep", SWEEP_INTERVAL, self._sweep)
        self.context.timer("seen", SEEN_INTERVAL, self._say_seen)

    def stopped(self, reason: object) -> None:
        """Locks are given up before the cluster hears of it; what was seen is said, for nobody else can; whoever waits
        is told; nobody may wait from now on."""
        self._end = error = Unavailable(f"the client ended: {reason}", outcome="unknown")
        self._claims.close(error)
        if self.session and self._links.leader:
            self._waits.say_all_seen(self._links.leader, self.session)
            self._links.leader.send(Close(self.session, self.incarnation))
            self._links.leader.flush()
        self._commands.fail_all(error)
        self._waits.fail(list(self._waits.sinks), error)
        for future in self._registered:
            reject(future, error)
        self._questions.end(error)
        self._watchers.fail(error)
        self._lock_watchers.fail(error)

    @property
    def has_ended(self) -> bool:
        """Nothing can be asked any more."""
        return self._end is not None

    def _check_open(self) -> None:
        if self._end is not None:
            raise Unavailable(str(self._end), outcome="refused")

    def registered(self, waiter: Waiter) -> None:
        """Resolves `waiter` once the session stands, or will not stand because this actor was retired."""
        self._check_open()
        if self.session or (self.only_looks and self._follows):
            waiter.set_result(None)
        elif self.is_refused:
            reject(waiter, self._refused())
        else:
            self._registered.append(waiter)

    # -- what the user's calls do ---------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        options: Options | None,
        body: bytes,
        deadline: Nanos,
        sink: Sink,
        waiter: Waiter,
        fence: int = 0,
        needs: Needs | None = None,
    ) -> int:
        """Queues one task and returns its id; `waiter` is resolved when a majority has it."""
        self._check_open()
        task = self._commands.submit(name, options, body, deadline, sink, waiter, fence, needs)
        self.context.at_turn_end(self._close_turn)
        return task

    def submit_many(
        self,
        name: str,
        options: Options | None,
        calls: Sequence[tuple[bytes, Needs | None]],
        deadline: Nanos,
        sink: ManySink,
        fence: int = 0,
    ) -> list[Waiter]:
        """Queues tasks of one kind, each with its body and what it needs, and adds their ids to `sink`; returns one
        waiter per command they travel in."""
        self._check_open()
        waiters = self._commands.submit_many(name, options, calls, deadline, sink, fence)
        self.context.at_turn_end(self._close_turn)
        return waiters

    def _close_turn(self) -> None:
        self._commands.close_turn()

    @property
    def numbers_left(self) -> int:
        """Tasks that may still be submitted in this session, which stands."""
        return self._commands.numbers_left

    @property
    def queued_tasks(self) -> int:
        """Submits that wait in this process for the window to open."""
        return self._commands.queued_tasks

    def cancel(self, tasks: list[int], grace_ms: int, waiter: Waiter) -> None:
        """Ends tasks, of any session, that are not terminal yet; resolved when a majority has it."""
        self._check_open()
        self._commands.cancel(tasks, grace_ms, waiter)

    def replay(self, tasks: list[int], answering: Answering) -> None:
        """Runs tasks again, of any session, that ended without a result; what is answered, when a majority has it."""
        self._check_open()
        self._commands.replay(tasks, answering)

    def steer(self, name: str, what: int, answering: Answering) -> None:
        """Asks something of a schedule (STEER_*); what is answered, when a majority has it."""
        self._check_open()
        self._commands.steer(name, what, answering)

    def acquire(self, wanted: Wanted, *, waits: bool) -> Claim:
        """A new claim on a lock. Raises Overloaded."""
        self._check_open()
        return self._claims.acquire(wanted, waits=waits)

    @property
    def claims_left(self) -> int:
        """Claims that may still be made in this session, which stands."""
        return self._claims.numbers_left

    def too_late(self, outcome: RequestOutcome) -> ClusterError:
        """For who was not answered by a deadline."""
        return self._commands.too_late(outcome)

    def watch_lock(self, name: str, watcher: LockWatcher) -> None:
        """Watches who holds a lock."""
        self._check_open()
        self._lock_watchers.join(name, watcher, self._links.leader, self.context.clock.now())

    def unwatch_lock(self, name: str, watcher: LockWatcher) -> None:
        self._lock_watchers.leave(name, watcher, self._links.leader)

    def watch(self, task: int, sink: Sink) -> None:
        """Waits for the result of a task that this client may not have submitted."""
        self._check_open()
        self._waits.join(task, sink)
        self._waits.ask(self._links.leader, [task])

    def follow(self, task: int, watcher: Watcher) -> None:
        """Watches what happens to a task."""
        self._check_open()
        self._watchers.join(task, watcher, self._links.leader, self.context.clock.now())

    def unfollow(self, task: int, watcher: Watcher) -> None:
        self._watchers.leave(task, watcher, self._links.leader)

    def status(self, node: str, *, stale: bool = False) -> Future[bytes]:
        """One broker's view, as the msgpack of a map."""
        self._check_open()
        return self._questions.status(self._links.peer(node), stale=stale)

    def ask(self, make: Callable[[int], Message], *, stale: bool = False) -> Future[Any]:
        """The answer of the leader to the question that `make` gives a number, or of the broker that is first."""
        self._check_open()
        if stale:
            return self._questions.ask_stale([self._links.peer(node) for node, _ in self.brokers], make)
        return self._questions.ask(self._links.leader, make)

    def end_node(self, node: str, pid: int, limit_ms: int, *, again: bool, is_broker: bool) -> Future[str]:
        """Asks for the end of this process of a node, a broker itself or the leader for a worker."""
        self._check_open()
        asked = self._links.peer(node) if is_broker else self._links.leader
        return self._questions.end_node(asked, node, pid, limit_ms, again=again)

    @property
    def refusal(self) -> str:
        """Why a broker does not want this client; "" if none said so."""
        return self._links.refusal or self._refused_registration

    def _refused(self) -> Unavailable:
        return Unavailable(f"every broker refuses this client: {self.refusal}", outcome="refused")

    def _refused_by_all(self) -> None:
        self.is_refused = True
        waiters, self._registered = self._registered, []
        for waiter in waiters:
            reject(waiter, self._refused())

    def is_up(self, node: str) -> bool:
        return self._links.peer(node).is_up

    # -- what the client's other sessions do ------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The highest term of a leader that was heard of."""
        return self._links.term

    def outdate(self, term: int) -> None:
        """Another session of this client heard of a leader of this term: one of a lower term is not asked any more,
        since it may lack what the other session was told."""
        if self._end is None:
            self._links.outdate(term)

    def inherit(self, sinks: dict[int, Sink]) -> None:
        """Waits for confirmed tasks of a session that ends."""
        if self._end is not None:
            for task, sink in sinks.items():
                sink.fail(task, self._end)
            return
        for task, sink in sinks.items():
            self._waits.join(task, sink)
        self._waits.ask(self._links.leader, list(sinks))

    def retire(self, inherit: Inherit) -> None:
        """No submit and no claim comes any more. The session ends once nothing of it is under way, all its locks are
        released, and but few results are awaited, which are then given to `inherit`."""
        assert self._inherit is None
        self._inherit = inherit
        self._wake_registered()
        self._watchers.release()
        self._lock_watchers.release()

    @property
    def is_at_rest(self) -> bool:
        """Whether it has a session, and nobody waits for the answer to a command or a question."""
        return bool(self.session) and self._commands.is_idle and self._questions.are_answered

    def _part(self, now: Nanos) -> None:
        """One step of a retired session towards its end: what it has seen first, for that only it can say; then
        goodbye, until the state does not know it any more."""
        is_idle = self._commands.is_idle and self._claims.is_empty and self._questions.are_answered
        if not is_idle or len(self._waits.sinks) > STRAGGLERS_MAX:
            return
        self._bequeath()
        leader = self._links.leader
        if not self.session:
            self.context.stop()
        elif leader and self._waits.say_seen(leader, self.session):
            pass        # perhaps there is more
        elif leader and (not self._closed_at or now - self._closed_at > RESEND_AFTER):
            self._closed_at = now
            leader.send(Close(self.session, self.incarnation))

    def _bequeath(self) -> None:
        """Whoever still waits is told by another session."""
        assert self._inherit is not None
        if self._waits.sinks:
            self._inherit(self._waits.take_all())

    # -- links and the leader ---------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        return Hello(self.cluster, self.name, self.incarnation, ROLE_CLIENT, session=self.session)

    def _on_message(self, peer: Peer, message: msgspec.Struct) -> None:
        if peer is self._links.leader:
            self._heard = self.context.clock.now()
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(peer, message)

    def _rejoin(self, leader: Peer) -> None:
        """To a new leader, or to the same one over a new link: everything that is unanswered, again."""
        self._heard = self.context.clock.now()
        self._follows, self.is_refused = True, False
        self._on_term(self._links.term)
        self._watchers.ask_all(leader, self._heard)
        self._lock_watchers.ask_all(leader, self._heard)
        if self.only_looks:
            self._wake_registered()
            self._rewatch()
        elif not self.session:
            self._register()
        else:
            self._lease_now()
            self._claims.rejoin(leader, self._heard)
            self._commands.resume()
            self._rewatch()

    def _register(self) -> None:
        if self._links.leader and not self.session and not self.only_looks and self._inherit is None:
            self._links.leader.send(Register(self.name, self.incarnation, REGISTER_CLIENT))

    def _on_registered(self, peer: Peer, message: RegisterAnswer) -> None:
        answer = message.answer
        if answer.incarnation != self.incarnation or self.session:
            return
        if answer.code != ANSWER_OK:
            self._refused_registration = f"its registration was refused (code {answer.code}): too many clients?"
            self._links.close()
            self.context.timer("reopen", REGISTER_RETRY, self._renew)
            return
        self._begin(answer.session)
        self._refused_registration = ""
        self._wake_registered()
        self._lease_now()
        self._rewatch()         # what a lost session of this client still waits for

    def _begin(self, session: int) -> None:
        self.session = session
        self._claims = SessionClaims(session, self._numbers_max, lambda: self._commands.pump(), self.context.log)
        self._commands = Commands(
            session, self._numbers_max, self._links, self.context.clock, self._waits, self._claims.commands
        )

    def _wake_registered(self) -> None:
        waiters, self._registered = self._registered, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lose_session(self) -> None:
        """The state no longer knows this session: what was under way has an unknown outcome, the next calls start
        over under a new one. A retired session is not replaced."""
        if not self._closed_at:
            self.context.log.event(
                "client_session_lost", session=self.session, unanswered=self._commands.unanswered
            )
        error = Unavailable("the session expired; outcomes of unconfirmed submits are unknown", outcome="unknown")
        self._claims.forget()
        self._commands.fail_all(error)
        self._waits.forget_seen()
        self._begin(0)
        if self._inherit is None:
            self._renew()
        else:
            self._bequeath()
            self.context.stop()

    def _renew(self) -> None:
        """Starts over as a new incarnation; a link speaks for the one that its hello named, so links are new, too."""
        self.incarnation = self.context.entropy.bits(63)
        self._links.close()
        self._links.open()

    # -- what the cluster says ----------------------------------------------------------------------------------------

    def _on_answers(self, peer: Peer, message: Answers) -> None:
        if not self._commands.on_answers(message.items, from_leader=peer is self._links.leader):
            self._lose_session()

    def _on_overload(self, peer: Peer, message: Overload) -> None:
        if message.session != self.session:
            return
        from_leader = peer is self._links.leader
        self._commands.on_overload(message.seq, message.retry_after_ms, message.reason, from_leader=from_leader)
        if from_leader:
            self.context.timer("retry", message.retry_after_ms * MILLISECOND, lambda: self._commands.retry())

    def _on_results(self, peer: Peer, message: Results) -> None:
        items = message.items
        if peer is not self._links.leader:
            # A task that ended without a result may have been replayed under a leader that this one does not know of.
            # Its successor is asked for all that is awaited.
            items = [result for result in items if result.state == STATE_COMPLETED]
        if followed := self._waits.deliver(items, self.session):
            self._waits.ask(self._links.leader, followed)

    def _on_unknown(self, peer: Peer, message: Unknown) -> None:
        if peer is self._links.leader:
            self._waits.unknown(message.tasks)

    def _on_events(self, peer: Peer, message: Events) -> None:
        if peer is self._links.leader:
            self._watchers.on_events(message.items)

    def _on_lease_ack(self, peer: Peer, message: LeaseAck) -> None:
        if peer is self._links.leader and message.session == self.session:
            self._claims.confirmed(message.sent, self.context.clock.now())

    def _on_claims_news(self, peer: Peer, message: ClaimsNews) -> None:
        if peer is self._links.leader and message.session == self.session:
            self._claims.on_news(peer, message.items, message.sent, self.context.clock.now())
            self._commands.pump()

    def _on_lock_is(self, peer: Peer, message: LockIs) -> None:
        if peer is self._links.leader:
            self._lock_watchers.on_lock_is(message)

    def _rewatch(self) -> None:
        """Asks for every awaited result whose submit was confirmed; the others are asked for once they are."""
        if self._waits.sinks:
            unconfirmed = self._commands.unconfirmed()
            self._waits.ask(self._links.leader, [task for task in self._waits.sinks if task not in unconfirmed])

    # -- time -------------------------------------------------------------------------------------------------------

    def _lease(self) -> None:
        self.context.timer("lease", LEASE_INTERVAL, self._lease)
        self._lease_now()

    def _lease_now(self) -> None:
        if self._links.leader and self.session:
            self._links.leader.send(Lease(self.session, self.context.clock.now()))

    def _say_seen(self) -> None:
        self.context.timer("seen", SEEN_INTERVAL, self._say_seen)
        if self._links.leader and self.session:
            self._waits.say_seen(self._links.leader, self.session)

    def _sweep(self) -> None:
        """Deadlines, lost answers and lost results; the only place where the client acts on silence."""
        now = self.context.clock.now()
        self.context.timer("sweep", SWEEP_INTERVAL, self._sweep)
        self._commands.fail_late(now)
        self._claims.sweep(self._links.leader, now)
        if self._inherit is not None:
            self._part(now)
        if self._links.leader is None:
            return
        self._waits.ask_again(self._links.leader)
        self._watchers.ask_again(self._links.leader, now)
        self._lock_watchers.ask_again(self._links.leader, now)
        quiet = now - self._heard
        if not self.session:
            if quiet > REGISTER_RETRY:
                self._heard = now
                self._register()
        elif not self._commands.resend_overdue(now) and self._waits.sinks and quiet > REWATCH_AFTER:
            self._heard = now
            self._rewatch()
