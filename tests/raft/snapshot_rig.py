"""Nodes and groups with compacted logs, and snapshots on their way."""

from raft_rig import Disk, Group, Node, Snapshot

from cluster.raft.messages import Entry, EntryKind, HardState, Message, MessageType, SnapshotMark

VOTERS = (1, 2, 3)


def entries(*terms: int, start: int = 1) -> list[Entry]:
    return [Entry(index, term, EntryKind.NORMAL, b"%d" % term) for index, term in enumerate(terms, start)]


def node_behind_snapshot(node: int, covered: list[int], terms: list[int], kept_from: int, **options: object) -> Node:
    """A node whose snapshot stands for entries of the terms `covered`, and whose log has those from `kept_from` on."""
    disk = Disk()
    state = entries(*covered, *terms)
    mark = SnapshotMark(len(covered), covered[-1], VOTERS)
    disk.newest = Snapshot(mark, tuple(state[: mark.index]))
    disk.base, disk.base_term = kept_from - 1, state[kept_from - 2].term
    disk.kept = state[kept_from - 1 :]
    disk.hard_state = HardState(state[-1].term, 0, 0)
    return Node(node, disk, lambda bound: 0, {mark: disk.newest}, **options)


def leader_without_node_3(count: int = 4, **options: object) -> Group:
    """Node 1 leads, `count` entries behind its first are committed, node 3 was cut off and has none of them; the logs
    of the others begin behind what is applied."""
    group = Group(**options)
    group.elect(1)
    group.isolate(3)
    group.propose(1, *[b"%d" % n for n in range(count)])
    group.settle()
    for node in (1, 2):
        index = group[node].core.log.applied
        group[node].compact(index, index + 1)
    group[1].core.unreachable(3)
    group.mail.clear()
    return group


def snapshot_for(node: Node, mark: SnapshotMark, term: int, sender: int = 1, **fields: object) -> Message:
    """On its way to a node, whose links have the file."""
    node.files.setdefault(mark, Snapshot(mark, tuple(entries(*[mark.term] * mark.index))))
    return Message(MessageType.SNAPSHOT, node.id, sender, term, snapshot=mark, **fields)


def answers(messages: list[Message]) -> list[tuple[int, bool]]:
    return [(message.index, message.reject) for message in messages if message.type is MessageType.APPEND_RESPONSE]
