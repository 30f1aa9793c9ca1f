"""Sessions: who may command, and which of its commands were applied.

A client or worker registers under its name and its incarnation (random, new with each process) and gets the
next id of a counter. Registering again gives the same id; another incarnation under the same name ends the
old session in the same entry. Ended incarnations are remembered per name and refused: a message of a process
that was declared dead, delayed somewhere, must not end the session of the one that replaced it.

Within a session commands are numbered from 1 and applied in that order, each once. A gap is refused with the
number expected. A duplicate gets its first answer again. Answers are kept for the last
SESSION_WINDOW_COMMANDS numbers, less those below the `low` of the newest command, which the sender no longer
waits for. Nearly all answers are "OK, 0", so only the others are stored: a kept number without an entry in
`refusals` was answered OK.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.state.commands import SESSION_WINDOW_COMMANDS, WorkerSpec
from cluster.state.credit import Slot
from cluster.state.effects import ANSWER_OK
from cluster.state.queues import Message

SESSIONS_MAX = 10_000
ENDED_INCARNATIONS_MAX = 64         # per name
ENDED_NAMES_MAX = 10_000            # names without a session whose ended incarnations are remembered

Owner = tuple[int, str]             # role, name: a client cannot end a worker's session by taking its name


@dataclass(slots=True, eq=False)
class Session:
    """A live session. Invariants: `1 <= kept_from <= next_seq`, `next_seq - kept_from <=
    SESSION_WINDOW_COMMANDS`, and every key of `refusals` lies in between; `0 <= unsaid <= last_number`."""

    id: int
    name: str
    incarnation: int
    role: int
    worker: WorkerSpec | None = None
    draining: bool = False                                                  # a worker that is given nothing more
    next_seq: int = 1
    kept_from: int = 1
    refusals: dict[int, tuple[int, int]] = field(default_factory=dict)      # seq -> (code, value)
    last_number: int = 0                                                    # highest task number submitted
    unsaid: int = 0                                                         # tasks submitted less numbers seen
    last_claim: int = 0                                                     # highest number of a claim of a lock
    slots: dict[int, Slot] = field(default_factory=dict)                    # of a worker, by slot key
    held: dict[int, Message] = field(default_factory=dict)                  # of a worker, by task id
    slots_open: int = 0                                                     # of a worker that shuts some: the first
    ended: deque[int] = field(default_factory=lambda: deque(maxlen=ENDED_INCARNATIONS_MAX))     # of its name

    def kept_answer(self, seq: int) -> tuple[int, int] | None:
        """The answer that an applied command got, if it is kept."""
        assert seq < self.next_seq
        if seq < self.kept_from:
            return None
        return self.refusals.get(seq, (ANSWER_OK, 0))

    def advance(self, low: int, code: int, value: int) -> None:
        """The command `next_seq` was applied with this answer."""
        seq = self.next_seq
        self.next_seq = seq + 1
        kept_from = max(self.kept_from, min(low, seq), seq + 1 - SESSION_WINDOW_COMMANDS)
        if self.refusals:
            for freed in range(self.kept_from, kept_from):
                self.refusals.pop(freed, None)
        self.kept_from = kept_from
        if code != ANSWER_OK or value:
            self.refusals[seq] = (code, value)


class Sessions:
    """Live sessions, and the incarnations that have ended."""

    __slots__ = ("by_id", "by_owner", "ended", "last_id")

    def __init__(self) -> None:
        self.by_id: dict[int, Session] = {}         # at most SESSIONS_MAX
        self.by_owner: dict[Owner, Session] = {}
        self.ended: OrderedDict[Owner, deque[int]] = OrderedDict()  # names without a session; newest last
        self.last_id = 0

    def __iter__(self) -> Iterator[Session]:
        """In order of their ids."""
        return iter(self.by_id.values())

    def is_full(self) -> bool:
        return len(self.by_id) >= SESSIONS_MAX

    def has_ended(self, owner: Owner, incarnation: int) -> bool:
        session = self.by_owner.get(owner)
        return incarnation in (session.ended if session is not None else self.ended.get(owner, ()))

    def open(self, owner: Owner, incarnation: int, worker: WorkerSpec | None) -> Session:
        assert owner not in self.by_owner and not self.is_full()
        self.last_id += 1
        role, name = owner
        session = Session(self.last_id, name, incarnation, role, worker)
        if owner in self.ended:
            session.ended = self.ended.pop(owner)
        self.by_id[session.id] = session
        self.by_owner[owner] = session
        return session

    def reserve(self) -> int:
        """A number that no session of anybody ever has."""
        self.last_id += 1
        return self.last_id

    def close(self, session: Session) -> None:
        """Forgets a session; its incarnation is refused from now on."""
        owner = (session.role, session.name)
        assert self.by_owner[owner] is session
        del self.by_owner[owner]
        del self.by_id[session.id]
        session.ended.append(session.incarnation)
        self.ended[owner] = session.ended
        if len(self.ended) > ENDED_NAMES_MAX:
            self.ended.popitem(last=False)
