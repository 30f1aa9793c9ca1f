"""Who was heard when: the leader's unlogged knowledge of leases.

Two questions are answered here. *Who is silent?* Judged by the leader's own clock from what it heard itself; a new
leader gives everyone a full lease. *Whose heartbeat may be answered?* Only one that arrived before a round of Raft
heartbeats that a majority answered: a deposed leader could otherwise keep a holder alive that the new one expires.
One round serves every heartbeat that arrived before it.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from actors import SECOND, Nanos

WORKER_LEASE = 10 * SECOND
CLIENT_LEASE = 3_600 * SECOND


class SessionView(Protocol):
    """The part of a session that leases look at."""

    @property
    def worker(self) -> object | None: ...


Owner = TypeVar("Owner")


class LeaseTable(Generic[Owner]):
    """Leases of all sessions. Cleared by every change of leader."""

    __slots__ = ("_heard", "_open", "_sealed", "_sealed_round")

    def __init__(self) -> None:
        self.restart(0, [])

    def restart(self, now: Nanos, sessions: list[int]) -> None:
        """A new term of ours: every session has a full lease from now."""
        self._heard: dict[int, Nanos] = dict.fromkeys(sessions, now)
        self._open: list[tuple[Owner, int, int]] = []
        self._sealed: list[tuple[Owner, int, int]] = []
        self._sealed_round = 0

    def heard(self, session: int, now: Nanos) -> None:
        self._heard[session] = now

    def forget(self, session: int) -> None:
        self._heard.pop(session, None)

    def owe_ack(self, link: Owner, session: int, sent: int) -> bool:
        """Notes a heartbeat to be answered; True if a round must be started for it (none is under way)."""
        self._open.append((link, session, sent))
        return not self._sealed

    @property
    def waiting(self) -> bool:
        return bool(self._open)

    def seal(self, round_number: int) -> None:
        """A round starts now: it serves what arrived until now."""
        assert not self._sealed and round_number > self._sealed_round
        self._sealed, self._open = self._open, []
        self._sealed_round = round_number

    def confirmed(self, round_number: int) -> list[tuple[Owner, int, int]]:
        """A majority answered: these may be acknowledged."""
        if round_number != self._sealed_round:
            return []
        sealed, self._sealed = self._sealed, []
        return sealed

    def silent(self, now: Nanos, session: Callable[[int], SessionView | None]) -> list[int]:
        """Sessions whose lease has run out; each is named once per lease, until it is heard or forgotten."""
        late: list[int] = []
        for number, heard in self._heard.items():
            if now - heard < WORKER_LEASE:
                continue
            known = session(number)
            if known is None or now - heard >= (WORKER_LEASE if known.worker is not None else CLIENT_LEASE):
                late.append(number)
        for number in late:
            self._heard[number] = now       # asked once per lease: the proposal may be lost with this term
        return late
