"""The worker's actor: one session with the cluster, and the slots that run what the leader assigns. No user
code.

It links to every broker and follows the leader, as clients do. To each new leader it says what it holds and
what it finished without an answer; the leader sends the difference. What the worker may do rests on its
lease: when that ends, or the leader no longer knows the session, it kills its children, drops what they had
(somebody else will run it) and comes back as a new incarnation. The leader would refuse late outcomes anyway;
stopping early keeps runs from overlapping.

All outcomes of one turn of the loop leave as one command at its end, all assignments of one message go to
each child as one frame.

Tasks that are `async` have a slot of their own, the last one, whose child runs many of them at once (`loop_child`). It
is there if the modules have such tasks, which the first child that has imported them says.

With bounds for its slots it has a child for those only that are open. `cluster.worker.scaling` says how many that
should be. A slot is opened in the log when its child is there, so that no task waits for an import. It is shut in the
log first, and its child ends when the log has that and its last task is done.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import msgspec
from msgspec.structs import replace

from actors import MILLISECOND, SECOND, Actor, Exit, ExitReason, Failed, Nanos, Peer, Shutdown, handles
from cluster.leader_links import LeaderLinks
from cluster.node_report import EXIT_AGAIN, EXIT_DRAINED
from cluster.state.commands import OUTCOME_RETURNED, Close, Outcome, Register, WorkerSpec
from cluster.state.commands import ROLE_WORKER as REGISTER_WORKER
from cluster.state.effects import ANSWER_OK
from cluster.wire import (
    HELLO_ITEMS_MAX,
    ROLE_WORKER,
    Answers,
    Assignments,
    End,
    Hello,
    LeaseAck,
    Progress,
    RegisterAnswer,
    Stop,
    ToWorker,
    Withdraw,
)
from cluster.wire import Lease as LeaseMessage
from cluster.worker.child_messages import Ready, Setup, StartFailed, encode
from cluster.worker.config import WorkerConfig, explain
from cluster.worker.executor_child import State
from cluster.worker.gathering import Gathering
from cluster.worker.lease import HEARTBEAT_INTERVAL_NS
from cluster.worker.loop_child import LoopChild
from cluster.worker.reports import Reports
from cluster.worker.scaling import Scaling
from cluster.worker.session import Session
from cluster.worker.slot_child import SlotChild
from cluster.worker.slots import Pair, Why

TICK_INTERVAL: Nanos = 50 * MILLISECOND         # while a slot holds something
REGISTER_RETRY: Nanos = 1 * SECOND
DRAIN_RUNNING: Nanos = 9 * SECOND               # what runs at a stop may go on for so long
DRAIN_ANSWERS: Nanos = 600 * MILLISECOND        # then the last outcomes wait for their answer
ASKED_ANSWERS: Nanos = 5 * SECOND               # ... longer if an operator asked: nobody kills it meanwhile
DRAIN_GOODBYE: Nanos = 300 * MILLISECOND        # and then the goodbye, for the leader to let go of the link
INCARNATION_BITS = 63


class Drain(msgspec.Struct, frozen=True):
    """To a worker: take nothing more, hand back what waits, finish what runs, close the session, end. What still runs
    after `limit` is ended, and goes back. A second one may shorten the limit."""

    limit: Nanos = DRAIN_RUNNING


class Life(Enum):
    STARTING = "starting"       # until a child has said which tasks there are
    SERVING = "serving"
    DRAINING = "draining"       # what runs may finish
    CLOSING = "closing"         # the last outcomes are on their way
    CLOSED = "closed"           # so is the goodbye


ENDING = (Life.DRAINING, Life.CLOSING, Life.CLOSED)


class Worker(Actor):
    """One worker of one cluster. `start_failure` says why it could not start, once it has ended for that
    reason.
    """

    def __init__(self, config: WorkerConfig, pid: int = 0) -> None:
        self.config = config
        self.pid = pid
        self.start_failure: StartFailed | Exit | None = None
        self.end_status = 0                         # of the process, after an end in order
        self.cut_off = 0                            # tasks that ran when the limit of its drain was over
        self.life = Life.STARTING
        self.incarnation = 0
        self.dropped_assignments = 0                # of older terms or other sessions, or held already
        self._spec: WorkerSpec | None = None
        self._setup = encode(Setup(config.modules))
        self._children: list[SlotChild | LoopChild] = []    # by index of their slot; the loop is the last one
        self._session: Session | None = None
        self._scaling: Scaling | None = None        # of the session, with bounds
        self._slots_said = 0                        # open, as the log was told last
        self._registered_at: Nanos = 0              # of the first registration without an answer; 0: none
        self._register_tried_at: Nanos = 0          # ... and of the last one
        self._drain_until: Nanos = 0
        self._reports = Reports()
        self._ticking = False
        self._dying: set[int] = set()               # slots whose child is of a lost session and has not ended yet

    @property
    def session(self) -> int:
        """The number of its session; 0 while it has none."""
        return 0 if self._session is None else self._session.number

    @property
    def is_settled(self) -> bool:
        """Whether it serves, is linked to a leader, and everything that it had to say is in the log."""
        session = self._session
        is_linked = self.life is Life.SERVING and self._links.leader is not None
        return is_linked and session is not None and session.is_settled

    @property
    def children(self) -> Sequence[SlotChild | LoopChild]:
        """By index of their slot; the loop is the last one."""
        return self._children

    def heard(self, sent: Nanos) -> None:
        """The leader answered the heartbeat that was sent at `sent`."""
        if self._session is not None:
            self._session.lease.answered(sent, self.context.clock.now())

    # -- life -----------------------------------------------------------------------------------------------

    def started(self) -> None:
        self._handlers: dict[type, Callable[[Peer, msgspec.Struct], None]] = {
            RegisterAnswer: self._on_registered,
            Assignments: self._on_assignments,
            Withdraw: self._on_withdraw,
            Stop: self._on_stop,
            Answers: self._on_answers,
            LeaseAck: self._on_lease_ack,
            End: self._on_end,
        }
        decoder = msgspec.msgpack.Decoder(list[ToWorker])
        self._links = LeaderLinks(
            self.context, self.config.brokers, decoder, self._hello, self._greet, self._on_message, self._leader_lost
        )
        self._gathering = Gathering(self.context, self._gather)
        wear = self.config.wear
        self._children += [
            SlotChild(index, self.context, self._setup, self, wear) for index in range(self.config.slots)
        ]
        open_first = self.config.slots_min or self.config.slots
        for child in self._children[:open_first]:
            child.start()
        for child in self._children[open_first:]:
            child.is_stopped = True

    def stopped(self, reason: ExitReason) -> None:
        for child in self._children:
            child.is_stopped = True
            child.kill(Why.STOPPING)

    @handles
    def on_drain(self, message: Drain) -> None:
        until = self.context.clock.now() + message.limit
        if self.life in ENDING:
            if self.life is Life.DRAINING:
                self._drain_until = min(self._drain_until, until)
            return
        was, self.life = self.life, Life.DRAINING
        self.context.log.event("worker_draining")
        if was is Life.STARTING or self._session is None:
            self.context.stop(Shutdown())
            return
        self._drain_until = until
        self._session.drain()
        self.context.at_turn_end(self._flush)
        for child in self._children:
            child.hand_back()
        self._look_after()

    def _on_end(self, peer: Peer, message: msgspec.Struct) -> None:
        """An operator wants this worker out, or started anew. The last word counts for what comes after the end."""
        assert isinstance(message, End)
        self.end_status = EXIT_AGAIN if message.again else EXIT_DRAINED
        self.on_drain(Drain(message.limit_ms * MILLISECOND or DRAIN_RUNNING))

    # -- slots: what they tell ------------------------------------------------------------------------------

    def child_ready(self, ready: Ready) -> None:
        if self._spec is None:
            config = self.config
            spec = WorkerSpec(config.slots, config.queues, ready.names, config.prefetch, config.labels)
            spec = replace(spec, schedules=ready.schedules, slots_min=config.slots_min)
            if config.async_tasks and ready.async_names:
                spec = replace(spec, loop_names=ready.async_names, loop_tasks=config.async_tasks)
                loop = LoopChild(config.slots, config.async_tasks, self.context, self._setup, self)
                self._children.append(loop)
                loop.start()
            self._spec = spec
            self.life = Life.SERVING
            self._dial()
            self.context.timer("heartbeat", HEARTBEAT_INTERVAL_NS, self._heartbeat)
        elif self._scaling is not None:
            self._say_slots(self._scaling)

    def child_failed_to_start(self, report: StartFailed | Exit) -> None:
        if self.life is not Life.STARTING:
            self.context.log.event("child_start_failed", reason=explain(report))
        elif self.start_failure is None:
            self.start_failure = report             # said by who reads it
            self.context.stop(Failed("StartFailed", explain(report)))

    def child_exited(self, slot: int) -> None:
        if slot in self._dying:
            self._dying.discard(slot)
            if not self._dying:
                self._dial()

    def outcomes(self, outcomes: list[Outcome]) -> None:
        if self._session is not None and outcomes:      # else they are of one that is lost
            if self.life is Life.CLOSING:       # with a date: it had begun
                self.cut_off += sum(one.status == OUTCOME_RETURNED and one.started_ms > 0 for one in outcomes)
            self._session.add(outcomes)
            self.context.at_turn_end(self._flush)

    # -- the leader -----------------------------------------------------------------------------------------

    def _dial(self) -> None:
        """Links to every broker, as a new incarnation of this worker."""
        self._links.close()
        self.incarnation = self.context.entropy.bits(INCARNATION_BITS)
        self._links.open()

    def _hello(self) -> Hello:
        config = self.config
        spec, session = self._spec, self.session
        return Hello(config.cluster, config.node, self.incarnation, ROLE_WORKER, worker=spec, session=session)

    def _on_message(self, peer: Peer, message: msgspec.Struct) -> None:
        self._handlers[type(message)](peer, message)

    def _greet(self, leader: Peer) -> None:
        """To a new leader, or over a new link: who we are, what we hold, and all completions without an
        answer.
        """
        session = self._session
        if session is None:
            self._registered_at = 0
            self._register()
            return
        self._reports.forget()
        self._send_lease(leader)
        session.say_holding(leader, self._held())
        session.resend()
        self._flush()

    def _held(self) -> list[Pair]:
        return [pair for child in self._children for pair in child.slot.pairs]

    # -- the session ----------------------------------------------------------------------------------------

    def _register(self) -> None:
        if self._links.leader is None or self.session or self._dying or self.life is not Life.SERVING:
            return
        self._register_tried_at = now = self.context.clock.now()
        self._registered_at = self._registered_at or now
        self._links.leader.send(Register(self.config.node, self.incarnation, REGISTER_WORKER, self._spec))

    def _on_registered(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, RegisterAnswer)
        answer, config = message.answer, self.config
        if answer.incarnation != self.incarnation or self.session:
            return
        if answer.code != ANSWER_OK:
            self.context.log.event("registration_refused", code=answer.code)
            self.context.timer("dial", REGISTER_RETRY, self._dial)
            return
        # Whichever registration this answers: the leader heard of us after the first was sent.
        self._session = Session(answer, self._registered_at, self._links, self.context.clock, self.context.log)
        self.context.log.event("worker_registered", session=self.session)
        if config.slots_min:
            self._slots_said = config.slots_min
            self._scaling = Scaling(config.slots_min, config.slots, self.context.clock.now(), config.pace)
        self._send_lease(peer)

    def _lose_session(self, reason: str) -> None:
        """What the children have is no longer ours to run: kill them, forget it, come back as a new
        incarnation.
        """
        if self._session is None:
            return
        self.context.log.event("worker_session_lost", session=self.session, reason=reason)
        self._session = self._scaling = None
        if self.life in ENDING:
            self._give_up_running()
            self.context.stop(Shutdown())
            return
        for child in self._children:
            if child.slot.sent:
                self._dying.add(child.slot.index)
                child.kill(Why.STOPPING)
            else:
                child.slot.drop_queued()
        self._links.close()
        if not self._dying:
            self._dial()

    def _heartbeat(self) -> None:
        self.context.timer("heartbeat", HEARTBEAT_INTERVAL_NS, self._heartbeat)
        now = self.context.clock.now()
        if not self._holds_lease(now) or (leader := self._links.leader) is None:
            return
        session = self._session
        if session is None:
            if now - self._register_tried_at >= REGISTER_RETRY:
                self._register()
            return
        self._send_lease(leader)
        session.resend_overdue(now)
        if session.is_quiet(now) and not session.finished and not any(child.is_busy for child in self._children):
            # The leader may have dropped assignments that its outbox to us did not take.
            session.say_holding(leader, self._held())

    def _holds_lease(self, now: Nanos) -> bool:
        """Whether the worker may go on; gives the session up if its lease has ended."""
        if self._session is not None and self._session.lease.has_ended(now):
            self._lose_session("no answer to heartbeats for the length of the lease")
            return False
        return True

    def _send_lease(self, leader: Peer) -> None:
        running = [task for child in self._children for task in child.running_tasks]
        children = tuple(pid for child in self._children if (pid := child.pid))
        now = self.context.clock.now()
        leader.send(LeaseMessage(self.session, now, tuple(running[:HELLO_ITEMS_MAX]), children, self.pid))

    def _on_lease_ack(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, LeaseAck)
        if message.session == self.session:
            self.heard(message.sent)
            if self._scaling is not None and self.life is Life.SERVING:
                self._scale(self._scaling, message)

    # -- how many slots -------------------------------------------------------------------------------------

    def _scale(self, scaling: Scaling, ack: LeaseAck) -> None:
        """Opens and closes slots."""
        busy = sum(bool(child.slot.pairs) for child in self._children[: scaling.open])
        is_there = self._slots_said == scaling.open
        count = scaling.look(busy, ack.ready, ack.oldest_ms, self.context.clock.now(), may_open=is_there)
        for child in self._slots(0, count):
            if child.is_stopped:
                child.open()
        self._say_slots(scaling)
        assert self._session is not None
        in_log = self._session.slots_open or scaling.slots_min
        for child in self._slots(max(count, in_log), scaling.slots_max):
            child.shut()

    def _say_slots(self, scaling: Scaling) -> None:
        """Tells the log how many slots are open: those whose children are there."""
        count = min(self._slots_said, scaling.open)
        while count < scaling.open and self._children[count].state is State.READY:
            count += 1
        if count != self._slots_said and self._session is not None and self.life is Life.SERVING:
            self._slots_said = count
            self.context.log.event("slots_resized", session=self.session, slots=count)
            self._session.resize(count)
            self.context.at_turn_end(self._flush)

    def _slots(self, start: int, end: int) -> list[SlotChild]:
        return [child for child in self._children[start:end] if isinstance(child, SlotChild)]

    # -- assignments ----------------------------------------------------------------------------------------

    def _on_assignments(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Assignments)
        session = self._session
        is_foreign = message.session != self.session or message.term < self._links.term
        # After the goodbye nothing more is said: the end of the session gives back what it holds.
        if is_foreign or session is None or self.life is Life.CLOSED:
            self.dropped_assignments += len(message.items)
            return
        touched: dict[int, int] = {}        # slot -> what its last one is expected to take
        children, finished = self._children, session.finished
        for assignment in message.items:
            assert assignment.slot < len(children), "the state knows how many slots there are"
            pair = (assignment.task, assignment.attempt)
            slot = children[assignment.slot].slot
            if pair in slot.pairs or pair in finished:
                self.dropped_assignments += 1
                continue
            slot.assign(assignment)
            touched[assignment.slot] = assignment.estimate_us
        for index, estimate_us in touched.items():
            if self.life is Life.SERVING and not children[index].is_stopped:
                children[index].feed()
                if len(children[index].slot.pairs) > 1:
                    self._gathering.sent(estimate_us)
            else:
                children[index].hand_back()     # sent before the leader knew of the drain, or that the slot is shut
        self._look_after()

    def _on_withdraw(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Withdraw)
        if message.session != self.session or message.term < self._links.term:
            return
        for pair in zip(message.pairs[::2], message.pairs[1::2], strict=False):
            for child in self._children:
                child.withdraw(pair)
        for child in self._children:
            if isinstance(child, LoopChild):
                child.throw_out()           # after all of them: a look costs as much as it has tasks

    def _on_stop(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Stop)
        if message.session != self.session or message.term < self._links.term:
            return
        items = message.items
        for task, attempt, grace_ms in zip(items[::3], items[1::3], items[2::3], strict=False):
            for child in self._children:
                child.stop((task, attempt), grace_ms * MILLISECOND)
        self._look_after()

    def _look_after(self) -> None:
        """Ticks while there is something to tick for."""
        if not self._ticking:
            self._ticking = True
            self.context.timer("tick", TICK_INTERVAL, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = self.context.clock.now()
        if not self._holds_lease(now):
            return
        for child in self._children:
            child.tick(now)
        self._report(now)
        if self.life in (Life.DRAINING, Life.CLOSING):
            self._drain(now)
        if self.life is not Life.SERVING or any(child.is_busy for child in self._children):
            self._look_after()

    def _gather(self) -> bool:
        """Takes what children have done; whether some slot has a task."""
        if not self._holds_lease(self.context.clock.now()):
            return False
        is_working = False
        for child in self._children:
            if isinstance(child, SlotChild) and child.is_working:
                child.gather()
                is_working |= child.is_working
        return is_working

    def _report(self, now: Nanos) -> None:
        """Says how far what runs is, if it is time for that."""
        leader = self._links.leader
        if self._session is not None and leader is not None and self._reports.is_due(now):
            rows = [row for child in self._children for row in child.progress()]
            if items := self._reports.take(now, rows):     # also of nothing, or it would be due at the next tick
                leader.send(Progress(self.session, items))

    # -- completions ----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """The turn ends: its outcomes leave, if they may."""
        session = self._session
        if session is not None and self._links.leader is not None and self._holds_lease(self.context.clock.now()):
            session.flush()

    def _on_answers(self, peer: Peer, message: msgspec.Struct) -> None:
        assert isinstance(message, Answers)
        if self._session is None:
            return
        lost = self._session.on_answers(message.items, from_leader=peer is self._links.leader)
        if lost:
            self._lose_session(lost)
        else:
            self._flush()

    # -- the end --------------------------------------------------------------------------------------------

    def _drain(self, now: Nanos) -> None:
        """One look at how far the stop is."""
        assert self._session is not None
        if self.life is Life.DRAINING:
            if any(child.is_working or child.is_leaving for child in self._children) and now < self._drain_until:
                return
            self.life = Life.CLOSING
            self._drain_until = now + (ASKED_ANSWERS if self.end_status else DRAIN_ANSWERS)
            for child in self._children:
                child.hand_back()
                child.is_stopped = True
                child.kill(Why.STOPPING) if child.is_working else child.close()
        elif (self._session.is_settled and not self._has_children()) or now >= self._drain_until:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Closes the session and waits for the leader to let go of the link. A goodbye that is lost would make this
        worker one that was lost, and that counts against the tasks that were assigned to it meanwhile."""
        self._give_up_running()
        self.life = Life.CLOSED
        leader = self._links.leader
        if leader is None:
            self._end()
            return
        leader.send(Close(self.session, self.incarnation))
        leader.flush()
        self.context.timer("goodbye", DRAIN_GOODBYE, self._end)

    def _give_up_running(self) -> None:
        """What still runs has no outcome from here; the end of the session gives it back."""
        if self.life is not Life.CLOSED:
            self.cut_off += sum(len(child.running_tasks) for child in self._children)

    def _leader_lost(self) -> None:
        if self.life is Life.CLOSED:
            self._end()

    def _end(self) -> None:
        self.context.log.event("worker_closed", session=self.session)
        self.context.stop(Shutdown())

    def _has_children(self) -> bool:
        return any(child.state is not State.DOWN or child.is_leaving for child in self._children)
