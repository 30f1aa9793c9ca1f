"""What one broker says of itself in the cluster's status."""

from collections import deque
from typing import TYPE_CHECKING

from actors import MILLISECOND, Nanos

if TYPE_CHECKING:
    from cluster.peer.actor import RaftPeer

MINUTE = 60         # seconds that the longest turn is remembered for


class OwnReport:
    """`second(longest)` once a second, with the longest turn of the loop in it. The first is that of the start, which
    reads the whole log and serves nobody: it does not count."""

    def __init__(self) -> None:
        self._turns: deque[Nanos] = deque([0], maxlen=MINUTE)
        self._is_first = True

    def second(self, longest_turn: Nanos) -> None:
        if not self._is_first:
            self._turns.append(longest_turn)
        self._is_first = False

    def row(self, peer: "RaftPeer") -> dict[str, object]:
        core, machine = peer.core, peer.machine
        index, value = machine.digest
        mark = peer.snapshots.mark()
        return {
            "role": core.role.name.lower() if core is not None else "forming",
            "term": core.term if core is not None else 0,
            "commit_index": core.log.committed if core is not None else 0,
            "applied_index": machine.applied_index,
            "first_index": core.log.first_index if core is not None else 0,
            "snapshot_index": mark.index if mark is not None else 0,
            "digest": [index, value],
            "sync": peer.wal.syncing.mode,
            "quarantined": peer.wal.quarantined,
            "has_start": peer.snapshots.has_start,
            "turn_ms_max": max(self._turns) // MILLISECOND,
        }
