"""From what peers ask a leader for to what it proposes: the gate, the two lanes, the pace.

All commands of a turn leave as one entry, but for small ones while an earlier entry is under way: they wait until that
one is applied, and leave with what has come meanwhile. Each entry costs three syncs and a dozen messages, whatever is
in it, so under load fewer and larger ones are sooner done, and who is alone never waits (as in Nagle's algorithm, RFC
896). A claim on a lock that others hold is in no hurry at all: left alone at once, it would hold up the release that it
waits for, which mostly comes a moment later. What workers say is in the entry; what clients hand over waits in the
other lane, and a slice of that goes with each turn, unless much is proposed already and not applied yet: on a slow disk
the rest waits too, so that what workers say does not queue behind it. But large results alone may be that much for as
long as they flow, so one slice goes whenever all is applied that was proposed up to the last one: nobody starves.

What waits is in no log. So when the log closes, submits that wait are refused like those that come: each copy is told
of once, in order, as its client counts them. The rest of the lane goes on, but for what the same client said behind
such a submit: cancels, replays, locks.
A command that waits already is not added again: the first copy will be answered, or refused, as this one would be.
"""

from collections.abc import Callable

from actors import MILLISECOND, Context, PeerLog
from cluster.broker.admission import COMMAND_BYTES_MAX, size_of
from cluster.broker.entries import EntryBuilder, Passing
from cluster.broker.gate import BACKLOG_RETRY_MS, LOG_RETRY_MS, Gate
from cluster.broker.link import Link, Links
from cluster.peer.actor import RaftPeer
from cluster.peer.messages import Propose
from cluster.state.commands import Command, Register, Submit
from cluster.state.effects import ANSWER_GAP, ANSWER_NO_SESSION, Answer
from cluster.wire import ROLE_WORKER, Answers, Overload

HOLD_BYTES = 4 * 1024               # collected: less waits for the entry that is under way
MAY_WAIT = 2 * MILLISECOND          # for company, what nobody waits for
PACE_BYTES = 1024 * 1024            # proposed and not applied: then what clients hand over waits, on a slow disk too


class Proposals:
    """Of one broker. `lead(term)` when it leads, `rest` when it does so no more: what was collected is forgotten then,
    for its senders say it again to the next leader. `refuse` is for what no well-behaved peer sends."""

    def __init__(
        self, context: Context, raft: RaftPeer, links: Links, peer_log: PeerLog, refuse: Callable[[Link, str], None]
    ) -> None:
        self._context = context
        self._raft = raft
        self._raft_ref = raft.context.self_ref
        self._machine = raft.machine
        self._links = links
        self._peer_log = peer_log
        self._refuse = refuse
        self._term = 0                                      # 0: it does not lead
        self._entry = EntryBuilder()
        self._gate = Gate()
        self._slice_at = 0                                  # about the index of the entry with the last slice
        self._waits_for_company = False                     # something does, and a timer runs

    def lead(self, term: int) -> None:
        self._term = term
        self._slice_at = 0
        self._gate.restart()
        self._entry.clear()

    def rest(self) -> None:
        self._term = 0
        self._entry.clear()

    @property
    def backlog_bytes(self) -> int:
        """Collected here, or proposed and not applied yet. What left with the last turn is in neither until the other
        actor has looked: the limits are passed by so much at most."""
        return self._raft.backlog_bytes + self._entry.bytes

    # -- in ---------------------------------------------------------------------------------------------------------

    def submit(self, link: Link, command: Submit) -> None:
        """Takes a submit, or tells its client why not."""
        if self._entry.is_waiting_for(command.session, command.seq):
            return      # not refused either: its client counts this copy as one that may be in the log
        size = size_of(command)
        closed = self._why_closed(size)
        if not (closed or self._gate.has_put_off) or self._may_pass(link, command, closed):
            self.admit(link, command, size)

    def let_pass(self, link: Link, command: Passing, *, may_wait: bool = False) -> None:
        """Takes what is no submit from a client, unless it could only be written to be refused. What `may_wait` leaves
        with the next that may not, or soon."""
        if not self._entry.is_waiting_for(command.session, command.seq) and not self._is_turned_away(command):
            self.admit(link, command, may_wait=may_wait)

    def admit(self, link: Link, command: Command, size: int = 0, *, may_wait: bool = False) -> None:
        """Takes what a peer asked for, unless it is larger than any peer of ours would send."""
        size = size or size_of(command)
        if size > COMMAND_BYTES_MAX:
            self._refuse(link, f"a command of {size} bytes")
        elif link.role == ROLE_WORKER or isinstance(command, Register):
            self.propose(command, size)
        elif self._entry.is_full:
            # As if it was lost on the way: who waits for an answer says it again. Submits never come here, since the
            # gate closes before.
            self._peer_log.event("command_dropped", link.name, known=True, reason="too much waits to be proposed")
        else:
            self._entry.add_waiting(command, size)
            if not may_wait:
                self._context.at_turn_end(self._flush)
            elif not self._waits_for_company:
                self._waits_for_company = True
                self._context.timer("may wait", MAY_WAIT, self._flush)

    def propose(self, command: Command, size_bytes: int) -> None:
        """Takes a command that leaves with this turn."""
        self._entry.add(command, size_bytes)
        self._context.at_turn_end(self._flush)

    # -- the gate -----------------------------------------------------------------------------------------------------

    def forget(self, session: int) -> None:
        """It has ended."""
        self._gate.forget(session)

    def _why_closed(self, size_bytes: int) -> str:
        """Why no submit of this size is taken now; "" if it is."""
        core = self._raft.core
        assert core is not None
        return self._gate.why_closed(
            self.backlog_bytes + size_bytes, core.uncommitted_entries, self._entry.waiting, self._raft.closed_reason
        )

    def _may_pass(self, link: Link, message: Submit, closed: str) -> bool:
        """What a closed gate lets through, and what one that has opened again does not; the others are told."""
        session, seq = message.session, message.seq
        known = self._machine.session(session)
        if known is None:
            link.peer.send(Answers([Answer(session, seq, ANSWER_NO_SESSION)]))
            return False
        if seq < known.next_seq:
            # It has been applied, and that answer was lost on the way.
            if (kept := known.kept_answer(seq)) is not None:
                link.peer.send(Answers([Answer(session, seq, *kept)]))
            return False
        reason = self._gate.why_refused(session, seq, known.next_seq, closed)
        if not reason:
            return True
        retry_after_ms = LOG_RETRY_MS if self._raft.closed_reason else BACKLOG_RETRY_MS
        link.peer.send(Overload(session, seq, retry_after_ms, reason))
        self._peer_log.event("submits_refused", link.name, known=True, reason=reason)
        return False

    def _refuse_waiting(self, closed: str) -> None:
        """The log is closed: submits that are in no log yet are refused as if they came now, and so are cancels behind
        them."""
        for command in self._entry.withdraw_submits():
            link = self._links.of_session(command.session)
            if link is not None:        # else it is lost like its link: over the next one its client says it again
                passed = self._may_pass(link, command, closed)
                assert not passed, "a closed log takes no submit"
        if self._gate.has_put_off:
            self._entry.drop_passing(self._is_turned_away)

    def _is_turned_away(self, command: Passing) -> bool:
        """True if a submit that was refused would have to come first. Then its client is told, as by the state."""
        if not self._gate.has_put_off or (known := self._machine.session(command.session)) is None:
            return False
        missing = self._gate.missing_before(command.session, command.seq, known.next_seq)
        link = self._links.of_session(command.session)
        if missing and link is not None:
            link.peer.send(Answers([Answer(command.session, command.seq, ANSWER_GAP, missing)]))
        return bool(missing)

    # -- out ----------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Something was applied, so that more may leave; or some time has passed, and the log may have closed."""
        if self._entry.bytes:
            self._context.at_turn_end(self._flush)

    def _flush(self) -> None:
        """The turn ends: its commands become one entry (or a few, at the limit of an entry)."""
        self._waits_for_company = False
        entry, raft, core = self._entry, self._raft, self._raft.core
        if not self._term:
            entry.clear()
            return
        assert core is not None
        if entry.is_waiting and raft.closed_reason:
            self._refuse_waiting(raft.closed_reason)
        if entry.bytes < HOLD_BYTES and raft.backlog_bytes:
            return      # until `go_on`
        if entry.is_waiting and (raft.backlog_bytes < PACE_BYTES or self._machine.applied_index >= self._slice_at):
            entry.fill()
            # Without what the other actor has not looked at yet: then the next slice goes a little earlier.
            self._slice_at = core.log.last_index + len(entry.counts())
        counts = entry.counts()
        if payloads := entry.take(raft.stamp()):
            self._gate.proposed(counts)
            self._raft_ref.tell(Propose(self._term, payloads))
            # Of the next turn: the sockets are looked at in between. Without one, what is applied comes back here.
            self.go_on()
