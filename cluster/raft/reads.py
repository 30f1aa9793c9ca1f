"""Rounds: how a leader knows that it still led after a question arrived (Raft thesis section 6.4, ReadIndex).

A round is a counter that heartbeats carry and their responses echo. Once a majority has echoed a round or a later
one, the node led after that round was opened: whatever waited for it may be answered. Rounds serve lease heartbeats
and questions of clients; one round serves everything that arrived before it.
"""

from collections.abc import Mapping

from cluster.raft.quorum import joint_committed


class Rounds:
    """Rounds of one term. Invariant: confirmed <= opened."""

    __slots__ = ("_acknowledged", "confirmed", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.confirmed = 0
        self._acknowledged: dict[int, int] = {}

    def open(self) -> int:
        self.opened += 1
        return self.opened

    def acknowledge(self, node: int, round_number: int) -> None:
        if self.opened >= round_number > self._acknowledged.get(node, 0):
            self._acknowledged[node] = round_number

    def confirm(self, voters: tuple[int, ...], outgoing: tuple[int, ...], excluded: Mapping[int, bool]) -> int:
        """The highest round that a quorum echoed; nodes in `excluded` with True do not count."""
        counting = {node: number for node, number in self._acknowledged.items() if not excluded.get(node)}
        self.confirmed = max(self.confirmed, min(self.opened, joint_committed(voters, outgoing, counting)))
        return self.confirmed
