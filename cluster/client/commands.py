"""The commands side of a session: what was submitted, cancelled or replayed, what locks need, and what of it is not
answered yet.

Commands are numbered, and kept as encoded bytes until their answer came (`cluster.window`). To a new leader, over a
new link and after a gap the same bytes are said again, in order. Deadlines are the client's own: a command that is
too late fails for its user, but one that left stays in the window, since later numbers need it. One that the leader
refused whenever it was said (`cluster.client.refusals`) is withdrawn: a command that does nothing takes its number.

A cancel is taken also while submits are not, but not before all lower numbers have come. So refused submits that one
has to wait for are *put off*: they give up their numbers like withdrawn ones, and get others when submits are taken
again. Only the last of the window can be, those behind the last one that may be in a log: the tasks of a session are
numbered as well, and the state takes these numbers only as they rise. What locks need is taken likewise; it waits for
room in the window (`cluster.client.claim_commands`), in turns with submits.
"""

from asyncio import Future, get_running_loop
from collections.abc import Iterator, Sequence

import msgspec

from actors import MILLISECOND, SECOND, Clock, Nanos
from cluster.client.claim_commands import ClaimCommands, LockCommand
from cluster.client.outbox import Draft, Outbox
from cluster.client.questions import reject
from cluster.client.refusals import TRYING, Refusals
from cluster.client.sinks import ManySink, Sink
from cluster.client.waiters import Answering, Hearer, Waiter, Waiting, Whole, reject_all, resolve_all
from cluster.client.waits import Waits
from cluster.errors import ClusterError, DeadlineExceeded, LockLost, Overloaded, RequestOutcome, Unavailable
from cluster.leader_links import LeaderLinks
from cluster.state.commands import TASK_NUMBER_BITS, Cancel, Needs, Options, Replay, Steer, Submit
from cluster.state.effects import ANSWER_CROWDED, ANSWER_GAP, ANSWER_LOST, ANSWER_NO_SESSION, ANSWER_OK, Answer
from cluster.window import Window
from cluster.wire import HELLO_ITEMS_MAX, GiveUpClaims

QUEUED_TASKS_MAX = 1_000_000       # submits waiting in one session; more are refused at once
RESEND_AFTER = 2 * SECOND          # an answer that is overdue by this much was lost on the way
RESERVED_FOR_CANCELS = 8           # numbers of the window that submits and new claims leave alone; a release takes one
CROWDED_RETRY_S = 10.0             # until some of a few million needs may have ended
TOO_MANY_NEEDS = "tasks that have not ended need more others than the cluster keeps count of"
REWIND_PAUSE = 100 * MILLISECOND   # answers to one gap come in numbers


class Commands:
    """The commands of one session, from its first to its end; `session` is 0 before there is one."""

    def __init__(
        self, session: int, numbers_max: int, links: LeaderLinks, clock: Clock, waits: Waits, claims: ClaimCommands
    ) -> None:
        self.session = session
        self._base = session << TASK_NUMBER_BITS
        self._links = links
        self._clock = clock
        self._waits = waits
        self._claims = claims
        self._window = Window()
        self._outbox: Outbox[Waiter] = Outbox(numbers_max)
        self._sent: dict[int, Waiting] = {}                 # seq -> whom its answer is for
        self._sent_at = 0
        self._refusals = Refusals()
        self._rewound_at = -REWIND_PAUSE
        self._encode = msgspec.msgpack.Encoder().encode

    @property
    def numbers_left(self) -> int:
        """Tasks that may still be submitted in this session."""
        return self._outbox.numbers_left

    @property
    def queued_tasks(self) -> int:
        """Submits that wait for the window to open."""
        return self._outbox.tasks

    @property
    def unanswered(self) -> int:
        return len(self._sent)

    @property
    def is_idle(self) -> bool:
        """Nothing is under way."""
        return not self._sent and not self._outbox.tasks

    # -- what the user's calls do -------------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        options: Options | None,
        body: bytes,
        deadline: Nanos,
        sink: Sink,
        waiter: Waiter,
        fence: int,
        needs: Needs | None = None,
    ) -> int:
        """Queues one task and returns its id; `waiter` is resolved when a majority has it."""
        self._admit(1)
        number, draft = self._outbox.add(name, options, body, fence, needs)
        if not draft.deadline or deadline < draft.deadline:
            draft.deadline = deadline
        draft.waiters.append(waiter)
        task = self._base | number
        self._waits.sinks[task] = sink
        return task

    def submit_many(
        self,
        name: str,
        options: Options | None,
        calls: Sequence[tuple[bytes, Needs | None]],
        deadline: Nanos,
        sink: ManySink,
        fence: int,
    ) -> list[Waiter]:
        """Queues tasks of one kind, each with its body and what it needs, and adds their ids to `sink`; returns one
        waiter per command they travel in."""
        self._admit(len(calls))
        add, sinks, base = self._outbox.add, self._waits.sinks, self._base
        waiters: list[Waiter] = []
        previous = None
        for body, needs in calls:
            number, draft = add(name, options, body, fence, needs)
            if draft is not previous:
                previous = draft
                draft.deadline = min(draft.deadline or deadline, deadline)
                waiter: Waiter = get_running_loop().create_future()
                draft.waiters.append(waiter)
                waiters.append(waiter)
            sinks[base | number] = sink
            sink.add(base | number)
        return waiters

    def _admit(self, tasks: int) -> None:
        assert self.session, "a submit without a session has no number"
        if self._outbox.tasks + tasks > QUEUED_TASKS_MAX:
            raise Overloaded(f"{self._outbox.tasks} submits are waiting in this process already", retry_after=1.0)

    def cancel(self, tasks: list[int], grace_ms: int, waiter: Waiter) -> None:
        """Ends tasks, of any session, that are not terminal yet; resolved when a majority has it."""
        if self._makes_room(waiter):
            low, seq = self._window.low, self._window.allot()
            self._send(seq, Cancel(self.session, seq, low, tasks, grace_ms), waiter)

    def replay(self, tasks: list[int], answering: Answering) -> None:
        """Runs tasks again, of any session, that ended without a result; what is answered, when a majority has it. On
        its way it is as a cancel."""
        if self._makes_room(answering):
            low, seq = self._window.low, self._window.allot()
            self._send(seq, Replay(self.session, seq, low, tasks), Whole(answering))

    def steer(self, name: str, what: int, answering: Answering) -> None:
        """Asks something of a schedule; what is answered, when a majority has it. On its way it is as a cancel."""
        if self._makes_room(answering):
            low, seq = self._window.low, self._window.allot()
            self._send(seq, Steer(self.session, seq, low, name, what), Whole(answering))

    def _makes_room(self, waiter: Waiter | Answering) -> bool:
        self._put_off()
        if not self._window.is_open:
            reject(waiter, Overloaded("too many unanswered commands", retry_after=0.1))
        return self._window.is_open

    # -- on their way -------------------------------------------------------------------------------------------------

    def close_turn(self) -> None:
        """What was submitted in this turn may leave."""
        self._outbox.close_turn()
        self.pump()

    def pump(self) -> None:
        """Sends what locks need, and finished drafts, while the window is open."""
        if not (self.session and self._links.leader):
            return
        claims, outbox, refusals = self._claims, self._outbox, self._refusals
        if claims.has_command and not refusals.is_open:
            self._put_off()
        while True:
            sent = claims.has_command and self._send_of_claims()
            if refusals.is_open and outbox.ready and self._takes_submits:
                self._send_draft()
            elif not sent:
                return

    def _send_of_claims(self) -> bool:
        """The next command of locks, if there is room for it. Releases end what others wait for, so they need less."""
        claims, window = self._claims, self._window
        command: LockCommand
        hearer: Hearer
        if claims.has_release and window.is_open:
            low, seq = window.low, window.allot()
            command, hearer = claims.take_release(seq, low)
        elif claims.has_request and self._takes_submits:
            low, seq = window.low, window.allot()
            command, hearer = claims.take_request(seq, low, self._clock.now())
        else:
            return False
        self._send(seq, command, hearer)
        return True

    @property
    def _takes_submits(self) -> bool:
        return self._window.has_room_for(1 + RESERVED_FOR_CANCELS)

    def _send_draft(self, *, alone: bool = False) -> int:
        """The next one; with `alone` although the window is closed. Returns its number."""
        draft = self._outbox.take()
        assert draft is not None
        low, seq = self._window.low, self._window.allot()
        draft.seq, draft.seen = seq, self._waits.take_seen()
        self._send(seq, Submit(self.session, seq, low, draft.groups, draft.seen, draft.fence), draft, alone=alone)
        return seq

    def _send(
        self, seq: int, command: Submit | Cancel | Replay | Steer | LockCommand, waiter: Waiting, *, alone: bool = False
    ) -> None:
        encoded = self._encode(command)
        may_leave = alone or self._refusals.is_open or not self._has_drafts()
        self._window.keep(seq, encoded)
        self._sent[seq] = waiter
        self._sent_at = self._clock.now()
        leader = self._links.leader
        if not (leader and may_leave and leader.send_raw(encoded)):
            self._refusals.not_said(seq)

    def _has_drafts(self) -> bool:
        """Whether a submit may hold up what is behind it, while submits are not taken."""
        return any(isinstance(waiter, Draft) for waiter in self._sent.values())

    def _say_again(self, seq: int) -> None:
        leader = self._links.leader
        self._sent_at = self._clock.now()
        if leader is not None and leader.send_raw(self._window.encoded(seq)):
            self._refusals.said_again(seq)

    def resend(self, start: int = 0) -> None:
        """Says again what is not answered, from number `start` on."""
        if self._links.leader:
            for seq in self._sent:
                if seq >= start:
                    self._say_again(seq)

    def resend_overdue(self, now: Nanos) -> bool:
        """Says everything again if an answer was lost on the way."""
        if not self._sent or now - self._sent_at <= RESEND_AFTER:
            return False
        if self._refusals.is_open:
            self.resend()
        elif self._refusals.state is TRYING:
            self._try_next()
        return True

    def resume(self) -> None:
        """To a new leader, or over a new link: everything again."""
        self._refusals.open()
        self.resend()
        self.pump()

    # -- refusals -----------------------------------------------------------------------------------------------------

    def on_overload(self, seq: int, retry_after_ms: int, reason: str, *, from_leader: bool) -> None:
        """A command was not taken. If the leader says so, nothing leaves before `retry`."""
        self._refusals.refused(seq, self._sent)
        if from_leader:
            self._refusals.close(reason or "the cluster has too much to do", retry_after_ms)
            self._let_cancels_pass()

    def retry(self) -> None:
        """The time that the leader asked for has passed."""
        if not self._refusals.is_open:
            self._try_next()

    def _try_next(self) -> None:
        refusals = self._refusals
        seq = refusals.next_to_try(self._sent)
        if seq:
            refusals.state, refusals.tried = TRYING, seq
            self._say_again(seq)
        elif self._outbox.ready and self._links.leader is not None:     # all were put off
            refusals.state = TRYING
            refusals.tried = self._send_draft(alone=True)
        else:
            refusals.open()
            self.pump()

    def _tried(self, seq: int, waiter: Waiting) -> None:
        """What was tried is answered. Only a submit shows that submits are taken."""
        if isinstance(waiter, Draft):
            self._refusals.open()
            self.resend(seq + 1)
        else:
            self._try_next()

    def _let_cancels_pass(self) -> None:
        if not self._refusals.is_open and any(isinstance(waiter, Future | Hearer) for waiter in self._sent.values()):
            self._put_off()
            self._give_up_claims()

    def _put_off(self) -> None:
        """While submits are not taken: those that are in no log for certain make way, as far as that is possible. What
        nothing holds up any more is said, if it was not."""
        refusals = self._refusals
        if refusals.is_open:
            return
        drafts: list[tuple[int, Draft[Waiter]]] = []
        for seq, waiter in self._sent.items():
            if isinstance(waiter, Draft):
                if refusals.in_doubt(seq) == 0:
                    drafts.append((seq, waiter))
                else:
                    drafts.clear()
        for seq, draft in drafts:
            self._give_up_number(seq, draft)
        self._outbox.put_back([draft for _, draft in drafts])
        if not self._has_drafts():
            first = drafts[0][0] if drafts else self._window.next_seq
            for seq in self._sent:
                if seq >= first or refusals.in_doubt(seq) == 0:
                    self._say_again(seq)

    def _give_up_claims(self) -> None:
        """What is released, and held up by a submit that may be in a log."""
        claims = self._claims.may_be_given_up[:HELLO_ITEMS_MAX]
        leader = self._links.leader
        if claims and leader and self._has_drafts():
            leader.send(GiveUpClaims(self.session, claims))

    def _give_up_number(self, seq: int, draft: Draft[Waiter]) -> None:
        """Nobody has taken this one; nothing is done under its number."""
        assert self._refusals.in_doubt(seq) == 0
        self._sent[seq] = None
        self._window.replace(seq, self._encode(Cancel(self.session, seq, self._window.low, [])))
        self._waits.give_back_seen(draft.seen)
        draft.seq, draft.seen = 0, []

    # -- answers ------------------------------------------------------------------------------------------------------

    def on_answers(self, answers: list[Answer], *, from_leader: bool) -> bool:
        """What became of commands; False if the state does not know this session."""
        for answer in answers:
            if answer.session != self.session:
                continue
            if answer.code == ANSWER_GAP:
                if from_leader:
                    self._rewind(answer.value)
            elif answer.code == ANSWER_NO_SESSION:
                return False
            elif self._window.answered(answer.seq):
                waiter = self._sent.pop(answer.seq)
                if isinstance(waiter, Hearer):
                    waiter.answered(answer.code, answer.value, self._clock.now())
                elif answer.code == ANSWER_OK:
                    resolve_all(waiter)
                    if self._refusals.in_doubt(answer.seq) > 1:
                        # It may have been in the log long ago, and the results gone to a link that was down.
                        self._ask_for(waiter)
                else:
                    self._fail(waiter, _refusal(waiter, answer.code))
                self._refusals.answered(answer.seq)
                if self._refusals.state is TRYING and answer.seq == self._refusals.tried:
                    self._tried(answer.seq, waiter)
        self.pump()
        self._let_cancels_pass()
        return True

    def _rewind(self, expected: int) -> None:
        """A command was lost or put off. Every later one of the window is answered with the same gap: the first answer
        is enough, and none may open a window that the leader wants closed."""
        now = self._clock.now()
        if now - self._rewound_at < REWIND_PAUSE:
            return
        if self._refusals.is_open or not self._has_drafts():
            self._rewound_at = now
            self.resend(expected)
        elif self._refusals.state is TRYING and expected in self._sent:
            self._rewound_at = now
            self._refusals.tried = expected
            self._say_again(expected)

    def _ask_for(self, waiter: Waiting) -> None:
        if isinstance(waiter, Draft):
            sinks = self._waits.sinks
            self._waits.ask(self._links.leader, [task for task in self._tasks(waiter) if task in sinks])

    def unconfirmed(self) -> set[int]:
        """Tasks of which nobody knows yet whether the state has them."""
        drafts = (*self._sent.values(), *self._outbox.drafts())
        return {task for draft in drafts if isinstance(draft, Draft) for task in self._tasks(draft)}

    # -- failures -----------------------------------------------------------------------------------------------------

    def fail_late(self, now: Nanos) -> None:
        """Tells those whose deadline has passed."""
        for draft in [draft for draft in self._outbox.ready if draft.deadline <= now]:
            self._outbox.drop(draft)
            held_back = self._links.leader is not None and not self._refusals.is_open
            self._fail(draft, self._refusals.error() if held_back else self.too_late("refused"))
        refusals = self._refusals
        late = [
            (seq, waiter)
            for seq, waiter in self._sent.items()
            if isinstance(waiter, Draft) and waiter.deadline <= now and waiter.waiters
        ]
        for seq, draft in late:
            if refusals.in_doubt(seq) == 0:
                self._withdraw(seq, draft)
            elif not refusals.is_judged_later(seq, self._sent_at, now):
                reject_all(draft, self.too_late("unknown"))       # it may be in the log: its result is still awaited
        if late:
            self._let_cancels_pass()

    def _withdraw(self, seq: int, draft: Draft[Waiter]) -> None:
        """Nobody has taken it, and nobody will."""
        self._give_up_number(seq, draft)
        was_refused = self._refusals.was_refused(seq)
        self._fail(draft, self._refusals.error() if was_refused else self.too_late("refused"))

    def fail_all(self, error: ClusterError) -> None:
        """Nothing of what is under way will be answered; this object is not used any more."""
        for waiter in self._sent.values():
            self._fail(waiter, error)
        self._outbox.close_turn()
        while (draft := self._outbox.take()) is not None:
            self._fail(draft, error)
        self._sent.clear()

    def too_late(self, outcome: RequestOutcome) -> ClusterError:
        """For who was not answered by a deadline."""
        if self._links.leader is None:
            reason = self._links.refusal or "no leader is known: fewer than a majority of the brokers can be reached"
            return Unavailable(f"not confirmed in time: {reason}", outcome=outcome)
        return DeadlineExceeded("the cluster did not confirm in time", outcome=outcome)

    def _fail(self, waiter: Waiting, error: ClusterError) -> None:
        """Tells everyone who waits for a command, and who waits for the results of its tasks."""
        reject_all(waiter, error)
        if isinstance(waiter, Draft):
            self._waits.fail(self._tasks(waiter), error)

    def _tasks(self, draft: Draft[Waiter]) -> Iterator[int]:
        for group in draft.groups:
            first = self._base | group.first
            yield from range(first, first + len(group.bodies))


def _refusal(waiter: Waiting, code: int) -> ClusterError:
    if code == ANSWER_LOST and isinstance(waiter, Draft):
        reason = "it was lost or released before the submit was applied, which was not accepted"
        return LockLost("", waiter.fence, reason)
    if code == ANSWER_CROWDED and isinstance(waiter, Draft):
        return Overloaded(TOO_MANY_NEEDS, retry_after=CROWDED_RETRY_S)
    return Unavailable("the cluster refused the command", outcome="refused")
