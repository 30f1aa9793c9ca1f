"""What snapshots promise, judged from what brokers say of them; and how often a seed came to each hard moment.

- A compactor whose replay comes to another state than its broker's, or that cannot read what its plan names, is an
  alarm: in a seed without damage to that broker's disk there is nothing that could account for it.
- A snapshot is found damaged only where a fault has damaged the disk, and after such a fault it is found.
- The log that a broker keeps goes on behind every snapshot that it keeps, unless a full disk had it give up the older.
- State oracle: the state of a snapshot is the one that the broker had when it made the plan, by full digest.
"""

from dataclasses import dataclass, field

from actors import Exit
from actors.simulation import World
from cluster.compaction.compactor import ENTRY as COMPACTOR_ENTRY
from cluster.peer.shelf import KEPT
from cluster.simulation.launched import BrokerProcess
from cluster.simulation.verdict import Judge

# How the reason of a failure begins that is nobody's death and no disk's refusal.
ALARMS = (
    "OtherState",
    "UnreadablePiece",
    "BaseDamaged",
    "ImageDamaged",
    "SnapshotDamaged",
    "NewerState",
    "OlderState",
    "it ended with code 1",
    "it says",
)
NOT_PLANNED = "is not the one that was planned"


@dataclass(slots=True)
class Moments:
    """How often something took place that must not go wrong."""

    transfers: int = 0              # snapshots that a follower installed
    interrupted_transfers: int = 0  # offers that did not come to their end
    copies: int = 0                 # snapshots that another broker made, and this one took for its own
    refetches: int = 0              # states that a quarantined broker got from the leader
    crashes_in_compaction: int = 0  # of a broker, with its compactor at work
    alarms: list[str] = field(default_factory=list)     # compactions that failed for no outer reason


class SnapshotOracle:
    """`damaged` are brokers whose disks a fault has damaged; `unnoticed` the snapshots among what it hit."""

    def __init__(self, world: World, judge: Judge, damaged: set[str]) -> None:
        self.moments = Moments()
        self.unnoticed: dict[str, set[int]] = {}
        self._world = world
        self._judge = judge
        self._damaged = damaged

    def watch(self, node: BrokerProcess) -> None:
        def ended(exit: Exit) -> None:
            children = node.process.machine.children
            self.moments.crashes_in_compaction += any(child.entry == COMPACTOR_ENTRY for child in children)

        node.process.on_exit.append(ended)

    def flipped(self, name: str, index: int) -> None:
        """A bit of this snapshot is another."""
        self.unnoticed.setdefault(name, set()).add(index)

    def on_log(self, node: BrokerProcess, name: str, fields: dict[str, object]) -> None:
        if name == "compaction_failed":
            self._failed(node, str(fields["reason"]))
        elif name == "snapshot_damaged":
            index = fields["index"]
            assert isinstance(index, int)
            self.unnoticed.get(node.name, set()).discard(index)
            is_explained = node.name in self._damaged
            detail = f"{node.name} finds snapshot {index} damaged, and nothing damaged its disk: {fields['reason']}"
            self._judge.require(is_explained, "snapshot", detail)
        elif name == "snapshot_refused":
            # Every byte was verified on the way: it is as its writer wrote it.
            reason = str(fields["reason"])
            is_alarm = "does not restore" in reason or "another state" in reason
            self._judge.require(not is_alarm, "snapshot", f"{node.name} refuses one: {reason}")
        elif name == "broker_started":
            missed = self.unnoticed.pop(node.name, set())
            self._judge.require(not missed, "snapshot", f"{node.name} did not notice that {missed} are damaged")
        elif name == "log_compacted":
            self._check_log(node)
        elif name == "snapshot_copied":
            self.moments.copies += 1
        elif name == "snapshot_installed":
            assert node.peer is not None
            self.moments.transfers += 1
            self.moments.refetches += node.peer.wal.quarantined
        elif name == "snapshot_offered":
            self.moments.interrupted_transfers += 1
        elif name == "snapshot_sent":
            self.moments.interrupted_transfers -= 1

    def _failed(self, node: BrokerProcess, reason: str) -> None:
        if not reason.startswith(ALARMS) and NOT_PLANNED not in reason:
            return      # killed, silent, or its disk would not have it
        self.moments.alarms.append(f"{node.name}: {reason}")
        is_explained = node.name in self._damaged
        self._judge.require(is_explained, "compaction", f"{node.name} could not compact: {reason}")

    def _check_log(self, node: BrokerProcess) -> None:
        assert node.peer is not None
        wal, kept = node.peer.wal, node.peer.snapshots.kept
        if not wal.lacks_room:
            self._judge.require(
                len(kept) == KEPT and all(wal.first_index <= index + 1 for index in kept),
                "snapshot",
                f"{node.name} keeps snapshots {kept} and a log that begins with {wal.first_index}",
            )
