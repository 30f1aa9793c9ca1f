"""Who was heard when: the leader's unlogged knowledge of leases.

Who is silent is judged by the leader's own clock from what it heard itself; a new leader gives everyone a full lease.
Time in which the leader itself did nothing, stopped or on a machine that slept, is nobody's silence: what was said to
it meanwhile lies in its sockets, and it may look here before it looks there. When a heartbeat may be answered is
another matter (`cluster.broker.rounds`).
"""

from collections.abc import Callable
from typing import Protocol

from actors import SECOND, Nanos

WORKER_LEASE = 10 * SECOND
CLIENT_LEASE = 3_600 * SECOND
AWAY = 2 * SECOND                   # between two looks, which follow each other twice a second


class SessionView(Protocol):
    """The part of a session that leases look at."""

    @property
    def worker(self) -> object | None: ...


class LeaseTable:
    """Leases of all sessions. Cleared by every change of leader."""

    __slots__ = ("_heard", "_looked_at")

    def __init__(self) -> None:
        self.restart(0, [])

    def restart(self, now: Nanos, sessions: list[int]) -> None:
        """A new term of ours: every session has a full lease from now."""
        self._heard: dict[int, Nanos] = dict.fromkeys(sessions, now)
        self._looked_at = now

    def looks(self, now: Nanos) -> Nanos:
        """The leader is about to look who is silent, as it does twice a second. Returns how long it was away itself."""
        away, self._looked_at = now - self._looked_at, now
        if away <= AWAY:
            return 0
        self._heard = {session: min(now, heard + away) for session, heard in self._heard.items()}
        return away

    def heard(self, session: int, now: Nanos) -> None:
        self._heard[session] = now

    def forget(self, session: int) -> None:
        self._heard.pop(session, None)

    def silence(self, session: int, now: Nanos) -> Nanos:
        """For how long a session was not heard of."""
        return now - self._heard.get(session, now)

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
