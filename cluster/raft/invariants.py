"""What must hold of one core between any two events. Tests and the simulator call `check` after every event."""

from typing import TYPE_CHECKING

from cluster.raft.messages import NO_NODE, Role

if TYPE_CHECKING:
    from cluster.raft.core import Raft


def check(raft: "Raft") -> None:
    """Raises AssertionError that names the broken invariant."""
    log = raft.log
    assert log.applied <= log.applying <= log.committed <= log.last_index, (
        f"node {raft.id}: applied {log.applied}, applying {log.applying}, committed {log.committed}, "
        f"last {log.last_index}"
    )
    if log.snapshot is None:
        assert log.first_index - 1 <= log.applied, f"node {raft.id}: the log does not connect to the state"
    else:
        assert raft.role is Role.FOLLOWER, f"node {raft.id}: it stands or leads without its state"
        assert log.applying < log.snapshot.index <= log.committed or log.applied == log.snapshot.index
    assert log.offset <= log.handed_out <= log.last_index + 1, f"node {raft.id}: unstable tail out of order"
    assert len(log.unstable) == log.last_index + 1 - log.offset, f"node {raft.id}: unstable tail has a gap"
    for offset, entry in enumerate(log.unstable):
        assert entry.index == log.offset + offset and log.term(entry.index) == entry.term
    assert log.last_term <= raft.term, f"node {raft.id}: its log is of a later term than itself"
    if raft.role is Role.LEADER:
        assert raft.leader == raft.id
        for node, progress in raft.tracker.progress.items():
            assert 0 <= progress.match < progress.next, f"follower {node}: match {progress.match}, next {progress.next}"
            assert progress.match <= log.last_index, f"follower {node} has what its leader does not"
    if raft.role in (Role.CANDIDATE, Role.PRE_CANDIDATE):
        assert raft.leader == NO_NODE
    if raft.role is Role.CANDIDATE:
        assert raft.vote == raft.id
