"""Who the other brokers are: which peer speaks for which, in which life, and whether it belongs to our cluster."""

from collections.abc import Callable, Sequence

from actors import Peer
from cluster.peer.errors import BrokerRefused
from cluster.peer.formation import FORMED, Formation
from cluster.wire import BrokerState, Hello

FOREIGN = "this broker belongs to another cluster of the same name"


class Roster:
    """The brokers of the topology, `names` in its order (their ids are 1, 2, ...), as they last said hello.

    `on_life(node_id, state)` is told when a broker of our cluster says hello from a life that was not known. It is
    called before any message of that life is taken.
    """

    def __init__(
        self,
        names: Sequence[str],
        own: str,
        directory: str,
        formation: Formation,
        on_life: Callable[[int, BrokerState], None],
    ) -> None:
        self._names = tuple(names)
        self._own = own
        self._directory = directory
        self._formation = formation
        self._on_life = on_life
        self._incarnations: dict[int, int] = {}         # of the other brokers, as they last said hello
        self._node_ids: dict[Peer, int] = {}
        self._members: set[Peer] = set()                # of these, those that said hello with the cluster's id
        self._refused_by: set[int] = set()              # brokers that know another cluster under this name

    def node_id(self, peer: Peer) -> int | None:
        """Of the broker that speaks there."""
        return self._node_ids.get(peer)

    def is_member(self, peer: Peer) -> bool:
        """Whether its word on the log counts.

        Who has no cluster id yet may be a broker whose disk was lost, or one of a cluster that is set up elsewhere
        under the same names: it is heard about formation, but its word says nothing of what our broker of that name
        holds. Once it has the id it says hello again.
        """
        return peer in self._members

    def accept(self, peer: Peer, hello: Hello) -> str:
        """The reason against it, or "" and it is on the roster."""
        state = hello.broker
        if hello.node not in self._names or hello.node == self._own or state is None:
            return f"{hello.node!r} is not a broker of this topology"
        own, theirs = self._formation, state.cluster_id
        if own.phase == FORMED and theirs and theirs != own.cluster_id:
            return f"{FOREIGN}: cluster id {theirs.hex()}, here it is {own.cluster_id.hex()}"
        node_id = self._names.index(hello.node) + 1
        self._node_ids[peer] = node_id
        if theirs:
            self._members.add(peer)
            if self._incarnations.get(node_id) != hello.incarnation:
                self._incarnations[node_id] = hello.incarnation
                self._end_former_life(node_id, hello.incarnation)
                self._on_life(node_id, state)
        return ""

    def _end_former_life(self, node_id: int, incarnation: int) -> None:
        """What still arrives from it is dropped with its session."""
        for peer, number in list(self._node_ids.items()):
            hello = peer.hello
            if number == node_id and isinstance(hello, Hello) and hello.incarnation != incarnation:
                # With a reset: should it be alive after all (hellos of two sockets may cross), it says hello again.
                self.forget(peer)
                peer.close()

    def forget(self, peer: Peer) -> None:
        """Its link is closed."""
        self._node_ids.pop(peer, None)
        self._members.discard(peer)

    def refused(self, node_id: int, reason: str) -> None:
        """Another broker does not want this one. If so many do that it can never reach a majority, it is the one that
        is wrong: raises BrokerRefused."""
        if not reason.startswith(FOREIGN):
            return
        self._refused_by.add(node_id)
        majority = len(self._names) // 2 + 1
        if len(self._names) - len(self._refused_by) < majority:
            raise BrokerRefused(f"{self._directory} belongs to another cluster: {reason}")
