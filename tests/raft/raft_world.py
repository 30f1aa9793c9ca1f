"""Many cores on a network that loses, reorders and repeats, with disks that take their time and nodes that crash.

Everything is drawn from one seed. After every event what Raft promises is checked (Figure 3 of the paper), against a
record of all that ever happened: who led which term, which entry was ever written at which place, what was ever
committed, and whether it was on a majority of the disks when it was.

Nodes make snapshots and compact their logs at any moment; a snapshot that is sent may get lost or come twice like any
message, its transfer may be reported as ended well or badly at any moment, and it takes its time to be installed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from raft_rig import Disk, Node, Snapshot

from cluster.raft.core import Raft
from cluster.raft.messages import Entry, EntryKind, Message, MessageType, Role, SnapshotMark
from cluster.raft.progress import ProgressState

ELECTION_TICKS = 6
MAIL_MAX = 60
EXCHANGES_MAX = 12


@dataclass
class Chances:
    """Of each kind of event, in relation to each other."""

    deliver: int = 40
    rush: int = 10
    tick: int = 15
    persist: int = 40
    propose: int = 6
    stand: int = 5
    partition: int = 3
    blackout: int = 1
    crash: int = 5
    wipe: int = 1
    link_down: int = 2
    open_round: int = 2
    compact: int = 8
    install: int = 4
    report: int = 3

    @classmethod
    def drawn(cls, random: Random) -> "Chances":
        """Each weight of a sixth to six times the usual: worlds should differ in what is rare in them."""
        usual = vars(cls())
        return cls(**{kind: max(1, round(weight * 6 ** random.uniform(-1, 1))) for kind, weight in usual.items()})


@dataclass
class Record:
    """What must never be contradicted."""

    # term -> (node, incarnation)
    leaders: dict[int, tuple[int, int]] = field(default_factory=dict)
    # (index, term) -> (payload, term of the entry before)
    written: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    # (node, term) -> candidate
    votes: dict[tuple[int, int], int] = field(default_factory=dict)
    # (term, payload) from index 1
    committed: list[tuple[int, bytes]] = field(default_factory=list)
    commits: int = 0
    restores: int = 0       # snapshots that followers took


class World:
    def __init__(
        self, seed: int, size: int, core: type[Raft] = Raft, disk: type[Disk] = Disk, **options: object
    ) -> None:
        self.random = Random(seed)
        self.size = size
        self.new_disk = disk
        # Both keep elections rare, and with them what goes wrong around elections.
        pre_vote, check_quorum = self.random.choice(((True, True), (True, False), (False, False)))
        options = {
            "election_ticks": ELECTION_TICKS,
            "pre_vote": pre_vote,
            "check_quorum": check_quorum,
            "append_bytes_max": self.random.choice((1, 1 << 20)),
            "inflight_messages_max": self.random.choice((1, 64)),
            **options,
        }
        self.files: dict[SnapshotMark, Snapshot] = {}
        self.nodes = {
            node: Node(node, disk(), self.random.randrange, self.files, size=size, core=core, **options)
            for node in range(1, size + 1)
        }
        self.mail: list[Message] = []
        self.apart: set[int] = set()
        self.record = Record()
        self.incarnation = dict.fromkeys(self.nodes, 0)
        self.led: dict[int, tuple[int, int]] = {}       # node -> (term, incarnation) it was last seen leading
        self.rounds: dict[tuple[int, int, int], int] = {}   # (node, term, round) -> latest term led when it was opened
        self.seen: dict[int, tuple[list[Entry], int]] = {}  # node -> its state when it was last seen, and its length
        self.proposed = 0

    def run(self, events: int, chances: Chances) -> None:
        kinds = [kind for kind, weight in vars(chances).items() for _ in range(weight)]
        for _ in range(events):
            getattr(self, self.random.choice(kinds))()
            del self.mail[:-MAIL_MAX]

    # -- events ----------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        for _ in range(min(len(self.mail), self.random.choice((1, 2, 4, 12)))):
            position = self.random.randrange(len(self.mail)) if self.random.random() < 0.2 else 0
            message = self.mail[position]
            del self.mail[position]
            if self.random.random() < 0.1:      # it will come again, some time
                self.mail.insert(self.random.randrange(len(self.mail) + 1), message)
            parted = (message.sender in self.apart) != (message.to in self.apart)
            if not parted and self.random.random() > 0.05:      # else it is lost
                self.nodes[message.to].core.step(message)
                self.look(self.nodes[message.to])

    def rush(self) -> None:
        """For a moment disks and links are fast, except between the parts of a partition."""
        for _ in range(self.random.choice((1, 2, 3, 6))):
            arriving, self.mail = self.mail, []
            for message in arriving:
                if (message.sender in self.apart) == (message.to in self.apart):
                    self.nodes[message.to].core.step(message)
                    self.look(self.nodes[message.to])
            if self.random.random() < 0.7:
                for node in self.nodes.values():
                    node.persist()
                    node.install()
                    self.look(node)

    def tick(self) -> None:
        node = self._any()
        node.core.tick()
        self.look(node)

    def persist(self) -> None:
        node = self._any()
        node.persist(self.random.choice((1, 1, 2, 8)))
        self.look(node)

    def propose(self, count: int = 0) -> None:
        for node in self.nodes.values():
            if node.core.role is Role.LEADER:
                count = count or self.random.choice((1, 1, 2, 6))
                self.proposed += count
                node.core.propose([(EntryKind.NORMAL, b"%d" % (self.proposed - n)) for n in range(count)])
                self.look(node)

    def stand(self) -> None:
        """A node or two believe that an election timeout has passed."""
        for node in self.random.sample(list(self.nodes.values()), self.random.choice((1, 2))):
            node.core.forget_leader()
            node.core.campaign()
            self.look(node)

    def partition(self) -> None:
        """Two parts that do not hear each other, or none."""
        count = self.random.choice((0, 1, self.size // 2))
        self.apart = {self._victim().id, *self.random.sample(sorted(self.nodes), count - 1)} if count else set()

    def blackout(self) -> None:
        """All that is on its way is lost."""
        self.mail.clear()

    def crash(self) -> None:
        """What was not durable is lost, but for some writes of which the core has not heard. Mail survives."""
        node = self._victim()
        for _ in range(self.random.randrange(len(node.disk.pending) + 1)):
            node.disk.complete()
        self._start(node)

    def wipe(self) -> None:
        """A disk is lost with all that was on it; the node comes back quarantined. One at a time, else data may be
        lost. Links carry nothing from one incarnation to the next here: an old answer would vouch for what is gone."""
        if any(node.core.quarantined or node.disk.quarantined for node in self.nodes.values()):
            return
        node = self._any()
        node.disk = self.new_disk()
        node.disk.quarantined = True
        # It may vote a second time in a term. That elects nobody: who released it has an entry of its term on a
        # majority, and none of those votes for a candidate without that entry.
        self.record.votes = {key: vote for key, vote in self.record.votes.items() if key[0] != node.id}
        self.mail = [message for message in self.mail if node.id not in (message.sender, message.to)]
        self._start(node)

    def _start(self, node: Node) -> None:
        node.start()
        # The same for words on a quarantine, which a new incarnation cannot tell from new ones.
        self.mail = [message for message in self.mail if message.to != node.id or not message.quarantine]
        self.incarnation[node.id] += 1
        for other in self.nodes.values():
            if other is not node:
                state = node.disk.hard_state
                last = node.disk.last_index()
                other.core.peer_restarted(node.id, state.term, last, node.disk.term(last), node.disk.quarantined)
                self.look(other)

    def link_down(self) -> None:
        one, other = self.random.sample(sorted(self.nodes), 2)
        self.nodes[one].core.link_down(other)
        self.nodes[one].core.unreachable(other)
        self.look(self.nodes[one])

    def open_round(self) -> None:
        node = self._any()
        if number := node.core.open_round():
            self.rounds[node.id, node.core.term, number] = max(self.record.leaders)
            self.look(node)

    def compact(self) -> None:
        """A snapshot at any applied index, and the log to any place at or before it; or none is at hand for a time."""
        node = self._any()
        node.disk.busy = self.random.random() < 0.2
        node.slow_install = self.random.random() < 0.5
        log = node.core.log
        oldest = node.disk.newest.mark.index if node.disk.newest else log.first_index
        if node.installing is None and log.snapshot is None and oldest < log.applied:
            index = self.random.randint(max(oldest + 1, log.applied - 3), log.applied)
            first_index = self.random.choice((index + 1, self.random.randint(log.first_index, index + 1)))
            node.compact(index, max(first_index, log.first_index))
            self.look(node)

    def install(self) -> None:
        node = self._any()
        node.install()
        self.look(node)

    def report(self) -> None:
        """The transfer of a snapshot is over, says the leader's shell; nobody knows whether that is so."""
        for node in self.nodes.values():
            self._report(node, ok=self.random.random() < 0.5)

    def _report(self, node: Node, *, ok: bool) -> None:
        for other, progress in node.core.tracker.progress.items():
            if progress.state is ProgressState.SNAPSHOT:
                node.core.report_snapshot(other, ok)
                self.look(node)

    def _any(self) -> Node:
        return self.nodes[self.random.randrange(self.size) + 1]

    def _victim(self) -> Node:
        """Trouble prefers leaders."""
        leaders = [node for node in self.nodes.values() if node.core.role is Role.LEADER]
        return self.random.choice(leaders) if leaders and self.random.random() < 0.5 else self._any()

    def exchange(self, *among: int, until: Callable[[], bool]) -> bool:
        """Disks and links are fast among these nodes, all else is lost, until something is so, or for a while."""
        for _ in range(EXCHANGES_MAX):
            for node in among:
                self.nodes[node].persist()
                self.nodes[node].install()
                self.look(self.nodes[node])
            arriving, self.mail = self.mail, []
            for message in arriving:
                if until():
                    return True
                if message.sender in among and message.to in among:
                    self.nodes[message.to].core.step(message)
                    self.look(self.nodes[message.to])
        return until()

    def elect(self, node: int, *voters: int) -> None:
        """Lets it stand until these elect it. Its own first entry reaches nobody."""
        core = self.nodes[node].core
        core.step_down()        # it may still believe that it leads
        for _ in range(EXCHANGES_MAX):
            core.campaign()
            self.look(self.nodes[node])
            if self.exchange(node, *voters, until=lambda: core.role is Role.LEADER):
                self.mail.clear()
                return
        raise AssertionError("never elected")

    # -- what is checked -------------------------------------------------------------------------------------

    def look(self, node: Node) -> None:
        writes = len(node.disk.pending)
        arriving = len(node.disk.arriving)
        leaving = node.take()
        self.record.restores += len(node.disk.arriving) - arriving
        self._check_votes(node, leaving)
        self.mail += leaving
        assert not node.demanded, "no disk lost anything without knowing"
        assert not node.data_lost_by, "no disk lost anything"
        for write in list(node.disk.pending)[writes:]:
            self._check_written(node, write.entries)
        self._check_leader(node)
        self._check_committed(node)
        self._check_applied(node)

    def _check_applied(self, node: Node) -> None:
        state, count = self.seen.get(node.id, ([], 0))
        known = self.record.committed
        for entry in node.applied[count:] if node.applied is state else node.applied:
            assert known[entry.index - 1] == (entry.term, entry.payload), "State Machine Safety"
        if node.installing is None:
            assert len(node.applied) == node.core.log.applied, "the state is not what Raft believes it to be"
        self.seen[node.id] = (node.applied, len(node.applied))

    def _check_votes(self, node: Node, leaving: list[Message]) -> None:
        for message in leaving:
            if message.type is MessageType.VOTE_RESPONSE and not message.reject:
                candidate = message.to
            elif message.type is MessageType.VOTE:
                candidate = node.id
            else:
                continue
            key = (node.id, message.term)
            assert self.record.votes.setdefault(key, candidate) == candidate, "two votes in one term"

    def _check_written(self, node: Node, entries: list[Entry]) -> None:
        for entry in entries:
            before = node.core.log.term(entry.index - 1)
            known = self.record.written.setdefault((entry.index, entry.term), (entry.payload, before))
            assert known == (entry.payload, before), "Log Matching"

    def _check_leader(self, node: Node) -> None:
        core = node.core
        if core.role is not Role.LEADER:
            return
        here = (node.id, self.incarnation[node.id])
        assert self.record.leaders.setdefault(core.term, here) == here, "Election Safety"
        if self.led.get(node.id) != (core.term, here[1]):
            self.led[node.id] = (core.term, here[1])
            for index, (term, _) in enumerate(self.record.committed, start=1):
                # What a snapshot covers is in the state, which is checked when it is installed.
                if index >= core.log.first_index - 1:
                    assert core.log.term(index) == term, "Leader Completeness"
        for number in [number for (owner, term, number) in self.rounds if (owner, term) == (node.id, core.term)]:
            if number <= core.rounds.confirmed:
                assert self.rounds.pop((node.id, core.term, number)) <= core.term, "confirmed while another led"

    def _check_committed(self, node: Node) -> None:
        core, known = node.core, self.record.committed
        for index in range(len(known) + 1, core.log.committed + 1):
            entry = core.log.entries(index, index + 1, 1)[0]
            holders = sum(other.disk.term(index) == entry.term for other in self.nodes.values())
            assert 2 * holders > self.size, "committed while no majority has it durably"
            known.append((entry.term, entry.payload))
            self.record.commits += 1
        if core.log.committed:
            assert core.log.term(core.log.committed) == known[core.log.committed - 1][0], "a committed entry was lost"

    # -- the end ---------------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """The network heals, nobody crashes: a new entry reaches everyone soon."""
        self.mail.clear()
        self.apart.clear()
        for node in self.nodes.values():
            node.disk.busy = node.slow_install = False
            node.install()
            self.look(node)
            self._report(node, ok=False)        # whatever was on its way is lost
        last = b"the last"
        longest = max(node.core.log.last_index for node in self.nodes.values())
        for _ in range(40 * ELECTION_TICKS + longest):      # three entries a tick, with the smallest flow
            for node in self.nodes.values():
                node.core.tick()
                self.look(node)
            for _ in range(6):
                for node in self.nodes.values():
                    node.persist()
                    self.look(node)
                arriving, self.mail = self.mail, []
                for message in arriving:
                    self.nodes[message.to].core.step(message)
                    self.look(self.nodes[message.to])
            for node in self.nodes.values():
                if node.core.role is Role.LEADER and not any(payload == last for _, payload in self._log_of(node)):
                    node.core.propose([(EntryKind.NORMAL, last)])
                    self.look(node)
            if all(any(entry.payload == last for entry in node.applied) for node in self.nodes.values()):
                return
        raise AssertionError("no progress on a healthy network")

    @staticmethod
    def _log_of(node: Node) -> list[tuple[int, bytes]]:
        log = node.core.log
        tail = log.entries(log.first_index, log.last_index + 1, 1 << 40)
        return [(entry.term, entry.payload) for entry in [*node.applied, *tail]]


def run(seed: int, events: int, core: type[Raft] = Raft, disk: type[Disk] = Disk) -> World:
    world = World(seed, 3 if seed % 2 else 5, core, disk)
    world.run(events, Chances.drawn(world.random))
    world.come_to_rest()
    return world
