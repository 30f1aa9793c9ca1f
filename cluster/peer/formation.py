"""How an empty cluster comes into being, once.

The problem: a broker whose disk was lost looks exactly like a broker of a cluster that never ran. If it simply
started, it could vote for a log that lacks what it had acknowledged. The idea: a cluster forms only when *all*
brokers of the topology say that they are empty. The first of them in the topology picks the cluster's id; each
stores id and voters durably; elections begin when all have confirmed. Whatever is stopped in between resumes,
because every phase but the last can be told from the disk, and the last is only ever entered together.

A broker without the id that hears from one past formation has lost its disk (or is new under an old name): it takes
the id, quarantines itself and is fed by the leader until it has caught up (`Quarantine`). So an empty broker stores
nothing before it has heard *every* other one: the first may have seen nothing of an election that this broker's lost
disk took part in, but whoever was elected in it says that it has formed.

Cost: the first start needs every broker; later starts need a majority. Rejected: picking the id in the topology
file (copied files would join foreign clusters), forming by majority (the missing broker could form another).
"""

from dataclasses import dataclass

from msgspec import Struct

EMPTY = 0       # nothing on disk
STORED = 1      # id and voters are durable, but not known to be so everywhere
FORMED = 2      # elections may run: everyone has confirmed, or the log shows that they had


class SendForm(Struct, frozen=True):
    """Ask the other brokers to store this."""

    cluster_id: bytes


class Store(Struct, frozen=True):
    """Make id and voters durable, then call `stored`."""

    cluster_id: bytes


class Announce(Struct, frozen=True):
    """Tell every other broker our phase."""


class Begin(Struct, frozen=True):
    """Start the Raft core; elections may run."""

    cluster_id: bytes


class Quarantine(Struct, frozen=True):
    """Store the id with a durable quarantine mark, then start the core: our disk was lost."""

    cluster_id: bytes


class Foreign(Struct, frozen=True):
    """Stop: this broker belongs to another cluster than `node`."""

    node: str
    cluster_id: bytes


Action = SendForm | Store | Announce | Begin | Quarantine | Foreign


@dataclass(slots=True)
class Formation:
    """One broker's view. `peers` are the other brokers; `fresh_id` is used only if this broker must pick one."""

    is_first: bool
    peers: tuple[str, ...]
    fresh_id: bytes
    phase: int
    cluster_id: bytes
    _news: dict[str, tuple[int, bytes]]
    _storing: bool = False
    _asked: bytes = b""         # the id that the first broker wants stored, until it is

    @classmethod
    def resume(
        cls, *, is_first: bool, peers: tuple[str, ...], fresh_id: bytes, cluster_id: bytes | None, has_log: bool
    ) -> "Formation":
        """From what the disk holds: the id, and whether the log shows that elections have run."""
        assert cluster_id is not None or not has_log, "a log without a cluster id"
        phase = EMPTY if cluster_id is None else FORMED if has_log else STORED
        return cls(is_first, peers, fresh_id, phase, cluster_id or b"", {})

    def start(self) -> list[Action]:
        if self.phase == FORMED:
            return [Begin(self.cluster_id), Announce()]
        return [Announce(), *self._advance()]

    def linked(self) -> list[Action]:
        """A link to some broker stands (again): what was said before may be lost."""
        actions: list[Action] = [Announce()]
        if self.is_first and self.phase == STORED:
            actions.append(SendForm(self.cluster_id))
        return actions

    def heard(self, node: str, phase: int, cluster_id: bytes) -> list[Action]:
        """Another broker told its phase."""
        assert node in self.peers
        if self.phase != EMPTY and phase != EMPTY and cluster_id != self.cluster_id:
            # Past formation one stranger must not stop the others: its hello is refused instead.
            return [] if self.phase == FORMED else [Foreign(node, cluster_id)]
        self._news[node] = (phase, cluster_id)
        if self.phase == FORMED or self._storing:
            return []
        if phase == FORMED:
            if self.phase == EMPTY:
                self._storing = True
                return [Quarantine(cluster_id)]
            return self._begin()
        return self._advance()

    def asked(self, cluster_id: bytes) -> list[Action]:
        """The first broker asks to store its id."""
        if self.phase == EMPTY and not self._storing:
            self._asked = cluster_id
            return self._advance()
        if self.phase != EMPTY and cluster_id != self.cluster_id:
            return [Foreign("the first broker", cluster_id)]
        return [Announce()]

    def stored(self, cluster_id: bytes, *, quarantined: bool) -> list[Action]:
        """Id and voters are durable here."""
        assert self._storing and self.phase == EMPTY
        self._storing = False
        self.cluster_id = cluster_id
        self.phase = STORED
        if quarantined:
            return self._begin()
        actions: list[Action] = [Announce()]
        if self.is_first:
            actions.append(SendForm(cluster_id))
        return actions + self._advance()

    def _advance(self) -> list[Action]:
        if len(self._news) < len(self.peers):
            return []
        if self.phase == EMPTY:
            cluster_id = self._asked
            if self.is_first:
                # A former attempt of ours may have reached some before it was lost: its id stands.
                known = (other for phase, other in self._news.values() if phase == STORED)
                cluster_id = next(known, self.fresh_id)
            if not cluster_id or self._storing:
                return []
            self._storing = True
            return [Store(cluster_id)]
        for node, (phase, cluster_id) in self._news.items():
            if phase != EMPTY and cluster_id != self.cluster_id:
                return [Foreign(node, cluster_id)]      # it was heard while we stored
        if all(phase >= STORED for phase, _ in self._news.values()):
            return self._begin()
        return []

    def _begin(self) -> list[Action]:
        self.phase = FORMED
        return [Begin(self.cluster_id), Announce()]
