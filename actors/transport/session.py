"""Sessions: numbers that turn a pipe which may lose, repeat or mix up frames into one that says so.

ZeroMQ keeps order within one connection, but a connection that breaks and comes back loses what was under
way, without a word. So each connection of a dialler starts a session: a random number, and frames counted
from 0 in each direction. The receiver takes exactly the next frame. An older one is a duplicate and is
dropped; a later one means that something is missing, and then the session is over on both sides: the listener
forgets it and answers with a reset, the dialler opens another with a new hello. What was under way is lost,
and both owners know it.

Numbers of ended sessions are remembered for a while, so that a hello that is played again (by a network that
repeats, or by someone who recorded it) cannot end the session that came after it. A number that was forgotten
would do so; the dialler's next frame then finds an unknown session, is answered with a reset, and a new hello
follows: a nuisance, not a hole, for who may speak is decided by keys and not here.

Both sides are tables: (state, event) -> what to do. A pair that is not listed cannot happen.
"""

from enum import IntEnum, auto

from actors.transport.frame import Flags

SESSIONS_ENDED_MAX = 4_096
SEQ_END = 1 << 64


class Session:
    """Both counters of one session, on either side.

    Invariants: 0 <= expected, 0 <= sent; only `judge` moves expected, only `stamp` moves sent.
    """

    __slots__ = ("expected", "number", "sent")

    def __init__(self, number: int, *, expected: int = 0) -> None:
        assert 0 <= number < SEQ_END
        self.number = number
        self.expected = expected    # seq of the next frame from the other side
        self.sent = 0               # seq of our next frame

    def stamp(self) -> int:
        """The seq for the next frame that we send."""
        seq = self.sent
        assert seq < SEQ_END
        self.sent = seq + 1
        return seq

    def judge(self, number: int, seq: int) -> "Event":
        """What a data frame is to this session; the next one is counted as taken."""
        if number != self.number:
            return Event.FOREIGN
        if seq == self.expected:
            self.expected = seq + 1
            return Event.NEXT
        return Event.OLD if seq < self.expected else Event.GAP


class Event(IntEnum):
    """What a frame is, compared with the session that its sender has here."""

    HELLO = auto()       # opens a session that was never seen
    REPLAYED = auto()    # a hello of a session that is or was here
    NEXT = auto()
    OLD = auto()
    GAP = auto()
    FOREIGN = auto()     # belongs to another session, or there is none
    RESET = auto()       # the listener ended our session


class State(IntEnum):
    """What one side knows of one peer."""

    NONE = auto()
    OPEN = auto()
    REFUSED = auto()     # listener only: the owner did not want this peer; its frames are not answered


class Do(IntEnum):
    """What the endpoint does with the frame."""

    OPEN = auto()        # listener: ask the owner about the hello (a session that was open has ended)
    DELIVER = auto()
    DROP = auto()
    ANSWER_RESET = auto()
    END = auto()         # listener: the session is over, answer with a reset; dialler: start another


LISTENER = {
    (State.NONE, Event.HELLO): Do.OPEN,
    (State.NONE, Event.REPLAYED): Do.DROP,
    (State.NONE, Event.FOREIGN): Do.ANSWER_RESET,
    (State.OPEN, Event.HELLO): Do.OPEN,
    (State.OPEN, Event.REPLAYED): Do.DROP,
    (State.OPEN, Event.NEXT): Do.DELIVER,
    (State.OPEN, Event.OLD): Do.DROP,
    (State.OPEN, Event.GAP): Do.END,
    (State.OPEN, Event.FOREIGN): Do.ANSWER_RESET,
    (State.REFUSED, Event.HELLO): Do.OPEN,
    (State.REFUSED, Event.REPLAYED): Do.DROP,
    (State.REFUSED, Event.NEXT): Do.DROP,
    (State.REFUSED, Event.OLD): Do.DROP,
    (State.REFUSED, Event.GAP): Do.DROP,
    (State.REFUSED, Event.FOREIGN): Do.ANSWER_RESET,
}

DIALLER = {
    (State.NONE, Event.FOREIGN): Do.DROP,
    (State.NONE, Event.RESET): Do.DROP,
    (State.OPEN, Event.NEXT): Do.DELIVER,
    (State.OPEN, Event.OLD): Do.DROP,
    (State.OPEN, Event.GAP): Do.END,
    (State.OPEN, Event.FOREIGN): Do.DROP,
    (State.OPEN, Event.RESET): Do.END,
}


def listener_event(
    session: Session | None, seen: "SeenSessions", flags: int, number: int, seq: int
) -> Event | None:
    """What a frame of a dialler is; None if no dialler sends such a frame."""
    if flags == Flags.HELLO:
        if seq != 0:
            return None
        known = number in seen or (session is not None and session.number == number)
        return Event.REPLAYED if known else Event.HELLO
    if flags != Flags.DATA:
        return None
    return Event.FOREIGN if session is None else session.judge(number, seq)


def dialler_event(session: Session | None, flags: int, number: int, seq: int) -> Event | None:
    """What a frame of a listener is; None if no listener sends such a frame."""
    if flags == Flags.RESET:
        return Event.RESET if session is not None and number == session.number else Event.FOREIGN
    if flags != Flags.DATA:
        return None
    return Event.FOREIGN if session is None else session.judge(number, seq)


class SeenSessions:
    """The numbers of the last sessions that were opened at a listener."""

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}    # in the order of their hellos

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int) -> None:
        """Remembers a session from its hello on; forgets the oldest when there are too many."""
        assert number not in self._numbers
        self._numbers[number] = None
        if len(self._numbers) > SESSIONS_ENDED_MAX:
            del self._numbers[next(iter(self._numbers))]
        assert len(self._numbers) <= SESSIONS_ENDED_MAX
