"""What Raft promises, judged by what each broker's core hands to its shell.

The oracle stands at `take`, through which everything leaves a core: entries to write, answers to others, the commit
index. It keeps one picture of all brokers and of all their lives:

- *Election safety*: one leader in a term.
- *Log matching*: an index and a term name one entry, with the same bytes and the same predecessor, in every log; so
  equal (index, term) means equal logs up to there.
- *Leader completeness*: whoever leads has every entry that was ever committed.
- *Promises*: what a broker said is durable (an entry acknowledged, a vote given, a term entered) is there after any
  restart, unless a fault damaged its synced data; and then it must have noticed, and quarantined itself.
- Term and commit index never go back within one life.
"""

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from cluster.raft import invariants
from cluster.raft.core import Raft
from cluster.raft.effects import Effects
from cluster.raft.messages import Entry, Message, MessageType, Role
from cluster.simulation.launched import BrokerProcess
from cluster.simulation.verdict import Judge

PAGE_BYTES = 1024 * 1024


@dataclass(slots=True)
class Promise:
    """What one broker told others about its disk. (index, log_term): the last entry it acknowledged that it did not
    have to give up since; a vote of `vote` in `vote_term`; 0 = none."""

    index: int = 0
    log_term: int = 0
    term: int = 0
    vote_term: int = 0
    vote: int = 0


@dataclass(slots=True)
class Life:
    """One incarnation of a broker. Neither number goes back."""

    term: int
    committed: int
    led: bool = False       # when it was last looked at


class RaftOracle:
    """`watch` every core that comes up."""

    def __init__(self, judge: Judge) -> None:
        self.leaders: dict[int, str] = {}       # by term
        self.committed: list[int] = []          # terms of the entries that a leader committed, from index 1 on
        self.damaged: set[str] = set()          # brokers whose synced data a fault has damaged
        self.undetected: set[str] = set()       # of those, the ones that have not started since
        self.on_leader: list[Callable[[BrokerProcess, list[int]], None]] = []     # who leads; ids of who else voted
        self._judge = judge
        self._entries: dict[tuple[int, int], tuple[int, int]] = {}      # (index, term) -> (crc, term of the one before)
        self._promises: dict[str, Promise] = {}

    @property
    def elections(self) -> int:
        return len(self.leaders)

    def watch(self, node: BrokerProcess) -> None:
        """A broker has opened its log and made its core."""
        assert node.peer is not None and node.peer.core is not None
        core = node.peer.core
        promise = self._promises.setdefault(node.name, Promise())
        self._check_recovery(node, core, promise)
        life = Life(core.term, core.log.committed)
        take, become_leader = core.take, core.become_leader

        def watched_take() -> Effects | None:
            effects = take()
            self._observe(node, core, life, promise, effects)
            return effects

        def watched_become_leader() -> None:
            voters = [number for number, granted in core.tracker.votes.items() if granted and number != core.id]
            become_leader()
            self._lead(node.name, core, promise)
            for listener in self.on_leader:
                listener(node, voters)

        core.take = watched_take  # type: ignore[method-assign]
        core.become_leader = watched_become_leader  # type: ignore[method-assign]

    def check_logs(self, nodes: list[BrokerProcess]) -> None:
        """At the end: the same bytes in all logs, as far as they go, and no log ends before what was committed. Where a
        log begins is its broker's affair."""
        records: dict[int, bytes] = {}
        last = 0
        for node in nodes:
            for entry in _read_log(node):
                if records.setdefault(entry.index, entry.record) != entry.record:
                    detail = f"{node.name} has other bytes than others at index {entry.index}"
                    self._judge.violated("log matching", detail)
                    break
            assert node.peer is not None
            last = max(last, node.peer.wal.last_index)
        self._judge.require(
            last >= len(self.committed),
            "leader completeness",
            f"{len(self.committed)} entries were committed, the longest log ends at {last}",
        )

    # -- recovery -----------------------------------------------------------------------------------------------

    def _check_recovery(self, node: BrokerProcess, core: Raft, promise: Promise) -> None:
        assert node.peer is not None
        judge, name, log = self._judge, node.name, core.log
        quarantined = node.peer.wal.quarantined
        for entry in _read_log(node):
            self._check_entry(name, core, entry, fresh=False)
        if name in self.undetected:
            self.undetected.discard(name)
            judge.require(quarantined, "damage", f"{name} did not notice that its synced data was damaged")
        if name not in self.damaged:
            judge.require(not quarantined, "damage", f"{name} is quarantined, and nothing damaged its data")
        if not quarantined:
            kept = promise.index < log.first_index - 1 or log.term(promise.index) == promise.log_term
            judge.require(
                promise.index <= log.last_index and kept,
                "promise",
                f"{name} had acknowledged entry {promise.index} of term {promise.log_term}; "
                f"now its log ends at {log.last_index} of term {log.last_term}",
            )
        # Also with damage: a term and a vote are on the disk twice at least.
        judge.require(
            core.term >= promise.term, "promise", f"{name} was in term {promise.term} and comes back in {core.term}"
        )
        judge.require(
            not promise.vote or core.term > promise.vote_term or core.vote == promise.vote,
            "promise",
            f"{name} voted for {promise.vote} in term {promise.vote_term} and forgot it",
        )
        if quarantined:
            # What it had acknowledged is refetched under the leader's eyes; it counts for nothing until then.
            promise.index, promise.log_term = log.last_index, log.last_term

    # -- what leaves a core ---------------------------------------------------------------------------------------

    def _observe(
        self, node: BrokerProcess, core: Raft, life: Life, promise: Promise, effects: Effects | None
    ) -> None:
        judge, name, log = self._judge, node.name, core.log
        if core.term != life.term:
            judge.require(core.term > life.term, "monotony", f"{name} went from term {life.term} to {core.term}")
            life.term = core.term
        if log.committed != life.committed:
            detail = f"{name} went from commit {life.committed} to {log.committed}"
            judge.require(log.committed > life.committed, "monotony", detail)
            life.committed = log.committed
            # A leader may commit and be deposed in one turn.
            self._commit(name, core, may_lead=life.led or core.role is Role.LEADER)
        life.led = core.role is Role.LEADER
        if effects is None:
            return
        try:
            invariants.check(core)
        except AssertionError as error:
            judge.violated("invariant", f"{name}: {error}")
        if effects.write is not None:
            if 0 < effects.write.truncate_from <= promise.index:
                promise.index = effects.write.truncate_from - 1
                promise.log_term = log.term(promise.index) or 0
            for entry in effects.write.entries:
                self._check_entry(name, core, entry, fresh=True)
        for message in effects.messages:
            self._note(core, promise, message)
        if core.role is Role.LEADER:
            self._acknowledge(core, promise, core.tracker.progress[core.id].match)

    def _note(self, core: Raft, promise: Promise, message: Message) -> None:
        if message.type is MessageType.APPEND_RESPONSE:
            promise.term = max(promise.term, message.term)
            if not message.reject:
                self._acknowledge(core, promise, message.index)
        elif message.type is MessageType.VOTE_RESPONSE and not message.reject:
            self._vote(promise, message.term, message.to)

    def _acknowledge(self, core: Raft, promise: Promise, index: int) -> None:
        # An answer that waited for its write may leave after the entry was given up: then it is of an older term, and
        # whoever led that one is not listened to any more.
        if promise.index < index <= core.log.last_index and index <= core.durable_index:
            promise.index, promise.log_term = index, core.log.term(index) or 0

    def _vote(self, promise: Promise, term: int, candidate: int) -> None:
        promise.term = max(promise.term, term)
        if term >= promise.vote_term:
            promise.vote_term, promise.vote = term, candidate

    # -- entries --------------------------------------------------------------------------------------------------

    def _check_entry(self, name: str, core: Raft, entry: Entry, *, fresh: bool) -> None:
        value = (crc32(entry.payload, entry.kind), core.log.term(entry.index - 1) or 0)
        known = self._entries.setdefault((entry.index, entry.term), value) if fresh else self._entries.get(
            (entry.index, entry.term)
        )
        if known == value:
            return
        where = f"index {entry.index} of term {entry.term}"
        if known is None:
            self._judge.violated("log matching", f"{name} recovered an entry that nobody wrote: {where}")
        elif known[1] != value[1]:
            self._judge.violated(
                "log matching", f"{name} has {where} behind an entry of term {value[1]}, others of term {known[1]}"
            )
        else:
            self._judge.violated("log matching", f"{name} has other bytes than others at {where}")

    def _commit(self, name: str, core: Raft, *, may_lead: bool) -> None:
        log, committed = core.log, self.committed
        if not may_lead:
            self._judge.require(
                log.committed <= len(committed), "commit", f"{name} committed {log.committed}, which no leader did"
            )
            return
        for index in range(len(committed) + 1, log.committed + 1):
            committed.append(log.term(index) or 0)

    def _lead(self, name: str, core: Raft, promise: Promise) -> None:
        term, log = core.term, core.log
        other = self.leaders.setdefault(term, name)
        self._judge.require(other == name, "election safety", f"{other} and {name} both lead term {term}")
        self._vote(promise, term, core.id)
        for index, its_term in enumerate(self.committed, start=1):
            # What is compacted away was committed; that it was the same is for the oracle of the state to see.
            if index >= log.first_index - 1 and log.term(index) != its_term:
                self._judge.violated(
                    "leader completeness",
                    f"{name} leads term {term} with term {log.term(index)} at index {index}; "
                    f"an entry of term {its_term} was committed there",
                )
                break


def _read_log(node: BrokerProcess) -> list[Entry]:
    """All durable entries of a running broker that are not compacted away."""
    assert node.peer is not None
    wal = node.peer.wal
    entries: list[Entry] = []
    low = wal.first_index
    while low <= wal.last_index:
        entries += wal.read(low, wal.last_index + 1, PAGE_BYTES)
        low = entries[-1].index + 1
    return entries
