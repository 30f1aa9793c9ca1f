"""Links of one broker: who is on the other end, and which session it speaks for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from actors import Nanos, Peer
from cluster.state.machine import Machine
from cluster.wire import CUT_OFF_UNKNOWN


@dataclass(eq=False, slots=True)
class Link:
    """One linked worker or client. `session` is 0 until it registered here or said hello with one."""

    peer: Peer
    name: str
    incarnation: int
    role: int
    session: int = 0
    reconciled: bool = False                                # a worker's Holding of this term has been answered
    held: list[int] = field(default_factory=list)           # pairs of a Holding that is being continued
    watched: set[int] = field(default_factory=set)          # tasks of other sessions that it waits for
    running: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    pid: int = 0
    heard: Nanos = 0
    stands_by: bool = False                                 # of a worker that was drained: nothing runs there
    cut_off: int = CUT_OFF_UNKNOWN                          # tasks that the drain ended


class Links:
    """All links, by peer, by name and by session. A session has at most one link, the one that spoke for it last."""

    __slots__ = ("_by_name", "_by_peer", "_by_session", "_machine")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._by_peer: dict[Peer, Link] = {}
        self._by_name: dict[tuple[str, int], Link] = {}
        self._by_session: dict[int, Link] = {}

    def __iter__(self) -> Iterator[Link]:
        return iter(self._by_peer.values())

    def of_peer(self, peer: Peer) -> Link | None:
        return self._by_peer.get(peer)

    def of_name(self, name: str, incarnation: int) -> Link | None:
        return self._by_name.get((name, incarnation))

    def of_session(self, session: int) -> Link | None:
        return self._by_session.get(session)

    def add(self, link: Link) -> None:
        self._by_peer[link.peer] = link
        self._by_name[link.name, link.incarnation] = link

    def remove(self, peer: Peer) -> Link | None:
        """Forgets a link that was closed."""
        link = self._by_peer.pop(peer, None)
        if link is not None:
            if self.of_name(link.name, link.incarnation) is link:
                del self._by_name[link.name, link.incarnation]
            if self.of_session(link.session) is link:
                del self._by_session[link.session]
        return link

    def claim(self, link: Link, session: int) -> bool:
        """Binds a session to the link that speaks for it; False if it belongs to another name or incarnation.

        A session that the state does not know is nobody's: what is said under it may go on, the state will answer.
        """
        if link.session == session:
            return True
        known = self._machine.session(session)
        if known is None:
            return True
        if (known.name, known.incarnation) != (link.name, link.incarnation):
            return False
        link.session = session
        link.reconciled = False
        self._by_session[session] = link
        return True

    def end_session(self, session: int) -> Link | None:
        """The state ended a session; its link stays."""
        link = self._by_session.pop(session, None)
        if link is not None:
            link.session = 0
            link.reconciled = False
        return link
