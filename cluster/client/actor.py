"""The client's actor: links to every broker, one session, and who waits for which result.

It follows the leader without asking: brokers push `LeaderIs`. To every new leader, and after every lost link to
it, the actor says again what is unanswered (identical bytes, in order) and which results it waits for; the leader
answers the difference. So nothing here retries by guessing, and a failover is invisible but for its duration.
"""

from asyncio import Future, get_running_loop
from collections.abc import Callable
from typing import Any

import msgspec

from actors import MILLISECOND, SECOND, Actor, Nanos, Peer
from cluster.client.outbox import Draft, Outbox
from cluster.client.questions import Questions, reject
from cluster.client.seen import SeenNumbers
from cluster.client.sinks import BothSinks, ManySink, Sink
from cluster.errors import ClusterError, DeadlineExceeded, Overloaded, RequestOutcome, TaskNotFound, Unavailable
from cluster.leader_links import LeaderLinks
from cluster.state.commands import ROLE_CLIENT as REGISTER_CLIENT
from cluster.state.commands import TASK_NUMBER_BITS, Cancel, Close, Options, Register, Seen, Submit
from cluster.state.effects import ANSWER_GAP, ANSWER_NO_SESSION, ANSWER_OK
from cluster.window import Window
from cluster.wire import (
    HELLO_ITEMS_MAX,
    ROLE_CLIENT,
    Answers,
    Described,
    Hello,
    Lease,
    Overload,
    Record,
    RegisterAnswer,
    Results,
    StatusReply,
    ToClient,
    Unknown,
    Watch,
)

LEASE_INTERVAL = 500 * MILLISECOND
SEEN_INTERVAL = 1 * SECOND
RESEND_AFTER = 2 * SECOND          # an answer that is overdue by this much was lost on the way
REWATCH_AFTER = 5 * SECOND         # results that are awaited with nothing heard for so long are asked for again
NUMBER_MASK = (1 << TASK_NUMBER_BITS) - 1
SWEEP_INTERVAL = 100 * MILLISECOND
QUEUED_TASKS_MAX = 1_000_000       # submits waiting in this process; more are refused at once
REGISTER_RETRY = 1 * SECOND
REWIND_PAUSE = 100 * MILLISECOND   # answers to one gap come in numbers

Waiter = Future[None]


class ClientActor(Actor):
    """One client of one cluster."""

    def __init__(
        self,
        cluster: str,
        name: str,
        incarnation: int,
        brokers: tuple[tuple[str, str], ...],
        *,
        only_looks: bool = False,
    ) -> None:
        self.cluster = cluster
        self.only_looks = only_looks                        # asks questions, and leaves no trace in the log
        self.name = name
        self.incarnation = incarnation
        self.brokers = brokers
        self.session = 0
        self._follows = False                               # some leader has said that it leads
        self._end: Unavailable | None = None                # why nothing can be asked any more
        self._window = Window()
        self._outbox: Outbox[Waiter] = Outbox()
        self._sent: dict[int, Draft[Waiter] | Waiter] = {}  # seq -> whom its answer is for
        self._resent: set[int] = set()                      # of those, what was said again; never walked through
        self._waiting: dict[int, Sink] = {}
        self._seen = SeenNumbers()
        self._questions = Questions()
        self._registered: list[Waiter] = []
        self._heard = self._sent_at = self._resumes_at = 0
        self._rewound_at = -REWIND_PAUSE
        self._refused_registration = ""
        self._encode = msgspec.msgpack.Encoder().encode

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
        )
        self._links.open()
        self._handlers: dict[type, Callable[[Peer, Any], None]] = {
            RegisterAnswer: self._on_registered,
            Answers: self._on_answers,
            Results: self._on_results,
            Unknown: self._on_unknown,
            Overload: self._on_overload,
            StatusReply: self._questions.on_status,
            Described: self._questions.on_described,
        }
        self.context.timer("lease", LEASE_INTERVAL, self._lease)
        self.context.timer("sweep", SWEEP_INTERVAL, self._sweep)
        self.context.timer("seen", SEEN_INTERVAL, self._say_seen)
        self._sweep_at = self.context.clock.now()

    def stopped(self, reason: object) -> None:
        """Whoever waits is told; nobody may wait from now on."""
        if self.session and self._links.leader:
            self._links.leader.send(Close(self.session, self.incarnation))
            self._links.leader.flush()
        self._end = error = Unavailable(f"the client ended: {reason}", outcome="unknown")
        for waiter in self._sent.values():
            self._fail(waiter, error)
        self._outbox.close_turn()
        while (draft := self._outbox.take()) is not None:
            self._fail(draft, error)
        for task, sink in self._waiting.items():
            sink.fail(task, error)
        for future in self._registered:
            reject(future, error)
        self._questions.end(error)
        self._waiting.clear()

    @property
    def has_ended(self) -> bool:
        """Nothing can be asked any more."""
        return self._end is not None

    def _check_open(self) -> None:
        if self._end is not None:
            raise Unavailable(str(self._end), outcome="refused")

    def registered(self, waiter: Waiter) -> None:
        """Resolves `waiter` once the session stands."""
        self._check_open()
        if self.session or (self.only_looks and self._follows):
            waiter.set_result(None)
        else:
            self._registered.append(waiter)

    # -- what the user's calls do ---------------------------------------------------------------------------------

    def submit(
        self, name: str, options: Options | None, body: bytes, deadline: Nanos, sink: Sink, waiter: Waiter
    ) -> int:
        """Queues one task and returns its id; `waiter` is resolved when a majority has it."""
        self._admit(1)
        number, draft = self._outbox.add(name, options, body)
        if not draft.deadline or deadline < draft.deadline:
            draft.deadline = deadline
        draft.waiters.append(waiter)
        task = (self.session << TASK_NUMBER_BITS) | number
        self._waiting[task] = sink
        self.context.at_turn_end(self._close_turn)
        return task

    def submit_many(
        self, name: str, options: Options | None, bodies: list[bytes], deadline: Nanos, sink: "ManySink"
    ) -> list[Waiter]:
        """Queues tasks of one kind and adds their ids to `sink`; returns one waiter per command they travel in."""
        self._admit(len(bodies))
        add, waiting, base = self._outbox.add, self._waiting, self.session << TASK_NUMBER_BITS
        waiters: list[Waiter] = []
        previous = None
        for body in bodies:
            number, draft = add(name, options, body)
            if draft is not previous:
                previous = draft
                draft.deadline = min(draft.deadline or deadline, deadline)
                waiter: Waiter = get_running_loop().create_future()
                draft.waiters.append(waiter)
                waiters.append(waiter)
            waiting[base | number] = sink
            sink.add(base | number)
        self.context.at_turn_end(self._close_turn)
        return waiters

    def _admit(self, tasks: int) -> None:
        self._check_open()
        if self._outbox.tasks + tasks > QUEUED_TASKS_MAX:
            raise Overloaded(f"{self._outbox.tasks} submits are waiting in this process already", retry_after=1.0)
        if self._outbox.numbers_left < tasks:
            raise Overloaded("this client's task numbers are used up: connect another", retry_after=0.0)

    @property
    def queued_tasks(self) -> int:
        """Submits that wait in this process for the window to open."""
        return self._outbox.tasks

    def cancel(self, tasks: list[int], waiter: Waiter) -> None:
        """Ends tasks that are not terminal yet; resolved when a majority has it."""
        self._check_open()
        if not self._window.is_open:
            reject(waiter, Overloaded("too many unanswered commands", retry_after=0.1))
            return
        low, seq = self._window.low, self._window.allot()
        self._send_command(seq, Cancel(self.session, seq, low, tasks), waiter)

    def watch(self, task: int, sink: Sink) -> None:
        """Waits for the result of a task that this client may not have submitted."""
        self._check_open()
        known = self._waiting.get(task)
        self._waiting[task] = sink if known is None else BothSinks(known, sink)
        if self._links.leader:
            self._links.leader.send(Watch([task]))

    def status(self, node: str) -> Future[bytes]:
        """One broker's view, as the msgpack of a map."""
        self._check_open()
        return self._questions.status(self._links.peer(node))

    def describe(self, tasks: list[int]) -> Future[list[Record]]:
        """The leader's records of at most HELLO_ITEMS_MAX tasks."""
        assert len(tasks) <= HELLO_ITEMS_MAX
        self._check_open()
        return self._questions.describe(self._links.leader, tasks)

    @property
    def refusal(self) -> str:
        """Why a broker does not want this client; "" if none said so."""
        return self._links.refusal or self._refused_registration

    def is_up(self, node: str) -> bool:
        return self._links.peer(node).is_up

    # -- links and the leader ---------------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        return Hello(self.cluster, self.name, self.incarnation, ROLE_CLIENT, session=self.session)

    def _on_message(self, peer: Peer, message: msgspec.Struct) -> None:
        if peer is self._links.leader:
            self._heard = self.context.clock.now()
        handler = self._handlers.get(type(message))
        if handler is not None:         # lease answers say no more than that the leader was heard
            handler(peer, message)

    def _rejoin(self, leader: Peer) -> None:
        """To a new leader, or to the same one over a new link: everything that is unanswered, again."""
        self._heard = self.context.clock.now()
        self._resumes_at = 0
        self._follows = True
        if self.only_looks:
            self._wake_registered()
            return
        if not self.session:
            self._register()
            return
        self._lease_now()
        self._resend()
        self._rewatch()
        self._pump()

    def _register(self) -> None:
        if self._links.leader and not self.session and not self.only_looks:
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
        self.session = answer.session
        self._refused_registration = ""
        self._wake_registered()
        self._lease_now()
        self._rewatch()         # what a lost session of this client still waits for
        self._pump()

    def _wake_registered(self) -> None:
        waiters, self._registered = self._registered, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lose_session(self) -> None:
        """The state no longer knows this session: what was under way has an unknown outcome, the next calls start
        over under a new one."""
        self.context.log.event("client_session_lost", session=self.session, unanswered=len(self._sent))
        error = Unavailable("the session expired; outcomes of unconfirmed submits are unknown", outcome="unknown")
        for waiter in self._sent.values():
            self._fail(waiter, error)
        self._outbox.close_turn()
        while (draft := self._outbox.take()) is not None:
            self._fail(draft, error)
        self._sent.clear()
        self._resent.clear()
        self.session = 0
        self._window = Window()
        self._outbox = Outbox()
        self._seen = SeenNumbers()      # the numbers of the old session name other tasks in the next one
        self._renew()

    def _renew(self) -> None:
        """Starts over as a new incarnation; a link speaks for the one that its hello named, so links are new, too."""
        self.incarnation = self.context.entropy.bits(63)
        self._links.close()
        self._links.open()

    # -- commands -----------------------------------------------------------------------------------------------

    def _close_turn(self) -> None:
        self._outbox.close_turn()
        self._pump()

    def _pump(self) -> None:
        """Sends finished drafts while the window is open."""
        outbox, window = self._outbox, self._window
        if not (self.session and self._links.leader) or self._resumes_at:
            return
        while outbox.ready and window.is_open:
            draft = outbox.take()
            assert draft is not None
            low, seq = window.low, window.allot()
            draft.seq = seq
            seen = self._seen.take(HELLO_ITEMS_MAX)
            self._send_command(seq, Submit(self.session, seq, low, draft.groups, seen), draft)

    def _send_command(self, seq: int, command: Submit | Cancel, waiter: Draft[Waiter] | Waiter) -> None:
        encoded = self._encode(command)
        self._window.keep(seq, encoded)
        self._sent[seq] = waiter
        self._sent_at = self.context.clock.now()
        if self._links.leader and not self._resumes_at:
            self._links.leader.send_raw(encoded)

    def _resend(self, start: int = 0) -> None:
        if self._links.leader:
            self._sent_at = self.context.clock.now()
            for encoded in self._window.unanswered(start):
                self._links.leader.send_raw(encoded)
            self._resent.update(seq for seq in self._sent if seq >= start)

    def _on_answers(self, peer: Peer, message: Answers) -> None:
        for answer in message.items:
            if answer.session != self.session:
                continue
            if answer.code == ANSWER_GAP:
                self._rewind(peer, answer.value)
            elif answer.code == ANSWER_NO_SESSION:
                self._lose_session()
                return
            elif self._window.answered(answer.seq):
                waiter = self._sent.pop(answer.seq)
                if answer.code == ANSWER_OK:
                    self._resolve(waiter)
                    if answer.seq in self._resent:
                        # It may have been in the log long ago, and the results gone to a link that was down.
                        self._watch_draft(waiter)
                else:
                    self._fail(waiter, Unavailable("the cluster refused the command", outcome="refused"))
                self._resent.discard(answer.seq)
        self._pump()

    def _rewind(self, peer: Peer, expected: int) -> None:
        """A command was lost or put off. Every later one of the window is answered with the same gap: the first answer
        is enough, and none may break a pause that the leader asked for."""
        now = self.context.clock.now()
        if peer is self._links.leader and not self._resumes_at and now - self._rewound_at >= REWIND_PAUSE:
            self._rewound_at = now
            self._resend(expected)

    def _on_overload(self, peer: Peer, message: Overload) -> None:
        if peer is self._links.leader and message.session == self.session:
            self._resumes_at = self.context.clock.now() + message.retry_after_ms * MILLISECOND
            self.context.timer("resume", message.retry_after_ms * MILLISECOND, self._resume)

    def _resume(self) -> None:
        self._resumes_at = 0
        self._resend()
        self._pump()

    # -- results ----------------------------------------------------------------------------------------------------

    def _on_results(self, peer: Peer, message: Results) -> None:
        waiting = self._waiting
        mine = self.session
        for result in message.items:
            task = result.task
            sink = waiting.pop(task, None)
            if sink is not None:
                sink.deliver(result)
            if task >> TASK_NUMBER_BITS == mine:
                self._seen.add(task & NUMBER_MASK)

    def _on_unknown(self, peer: Peer, message: Unknown) -> None:
        if peer is not self._links.leader:
            return
        for task in message.tasks:
            sink = self._waiting.pop(task, None)
            if sink is not None:
                sink.fail(task, TaskNotFound(f"the cluster has no record of task {task}; results are kept for a time"))

    def _rewatch(self) -> None:
        """Asks for every awaited result whose submit was confirmed; the others are asked for once they are."""
        assert self._links.leader is not None
        unconfirmed: set[int] = set()
        for waiter in (*self._sent.values(), *self._outbox.ready, self._outbox._draft):
            if isinstance(waiter, Draft):
                for group in waiter.groups:
                    unconfirmed.update(range(group.first, group.first + len(group.bodies)))
        base = self.session << TASK_NUMBER_BITS
        self._ask_for([task for task in self._waiting if task - base not in unconfirmed])

    def _watch_draft(self, waiter: Draft[Waiter] | Waiter) -> None:
        if isinstance(waiter, Draft):
            base = self.session << TASK_NUMBER_BITS
            numbers = [group.first + offset for group in waiter.groups for offset in range(len(group.bodies))]
            self._ask_for([base | number for number in numbers if base | number in self._waiting])

    def _ask_for(self, tasks: list[int]) -> None:
        if self._links.leader is not None:
            for start in range(0, len(tasks), HELLO_ITEMS_MAX):
                self._links.leader.send(Watch(tasks[start : start + HELLO_ITEMS_MAX]))

    # -- time -------------------------------------------------------------------------------------------------------

    def _lease(self) -> None:
        self.context.timer("lease", LEASE_INTERVAL, self._lease)
        self._lease_now()

    def _lease_now(self) -> None:
        if self._links.leader and self.session:
            self._links.leader.send(Lease(self.session, self.context.clock.now()))

    def _say_seen(self) -> None:
        self.context.timer("seen", SEEN_INTERVAL, self._say_seen)
        if self._links.leader and self.session and self._seen:
            self._links.leader.send(Seen(self.session, self._seen.take(HELLO_ITEMS_MAX)))

    def _sweep(self) -> None:
        """Deadlines, lost answers and lost results; the only place where the client acts on silence."""
        now = self.context.clock.now()
        self.context.timer("sweep", SWEEP_INTERVAL, self._sweep)
        for draft in [draft for draft in self._outbox.ready if draft.deadline <= now]:
            self._outbox.drop(draft)
            self._fail(draft, self._too_late("refused"))
        for waiter in self._sent.values():
            if isinstance(waiter, Draft) and waiter.deadline <= now and waiter.waiters:
                self._fail(waiter, self._too_late("unknown"), forget=False)
        if self._links.leader is None or self._resumes_at:
            return
        if not self.session:
            if now - self._heard > REGISTER_RETRY:
                self._heard = now
                self._register()
        elif self._sent and now - self._sent_at > RESEND_AFTER:
            self._resend()
        elif self._waiting and now - self._heard > REWATCH_AFTER:
            self._heard = now
            self._rewatch()

    def _too_late(self, outcome: RequestOutcome) -> ClusterError:
        if self._links.leader is None:
            reason = self._links.refusal or "no leader is known: fewer than a majority of the brokers can be reached"
            return Unavailable(f"not confirmed in time: {reason}", outcome=outcome)
        return DeadlineExceeded("the cluster did not confirm in time", outcome=outcome)

    # -- waiters ------------------------------------------------------------------------------------------------------

    def _resolve(self, waiter: Draft[Waiter] | Waiter) -> None:
        for future in waiter.waiters if isinstance(waiter, Draft) else (waiter,):
            if not future.done():
                future.set_result(None)

    def _fail(self, waiter: Draft[Waiter] | Waiter, error: ClusterError, *, forget: bool = True) -> None:
        """Tells everyone who waits for a command; with `forget` also those who wait for its tasks' results."""
        if not isinstance(waiter, Draft):
            reject(waiter, error)
            return
        for future in waiter.waiters:
            reject(future, error)
        waiter.waiters = []
        if forget:
            base = self.session << TASK_NUMBER_BITS
            for group in waiter.groups:
                for number in range(group.first, group.first + len(group.bodies)):
                    sink = self._waiting.pop(base | number, None)
                    if sink is not None:
                        sink.fail(base | number, error)
