"""What the core wants done. The shell's duties with each of them are in `docs/internals/raft.md`."""

from dataclasses import dataclass, field

from cluster.raft.messages import Entry, HardState, Message, SnapshotMark, SoftState


@dataclass(slots=True)
class Write:
    """To be made durable, in the order of `id`; then `Raft.persisted(id)`.

    `truncate_from` > 0: entries from that index on are no longer part of the log (they are overwritten by `entries`).
    """

    id: int
    hard_state: HardState
    entries: list[Entry]
    truncate_from: int
    must_sync: bool                 # False: only the commit hint moved; it may ride on the next write


@dataclass(slots=True)
class Effects:
    """Everything since the last `take`. `messages` may leave before the write is durable; what may not is kept in
    the core until `persisted`."""

    write: Write | None
    messages: list[Message]
    committed: list[Entry]          # to apply, in order; then `Raft.applied(committed)`
    soft_state: SoftState | None    # if leader or role changed
    hard_state: HardState | None    # if it changed
    confirmed_round: int = 0        # > 0: this node led after that round was opened
    after: list[Message] = field(default_factory=list)  # gated on the write; the core releases them (for transcripts)
    quarantine_demanded: bool = False       # this node lost data, says the leader: mark it durably, then `quarantine()`
    quarantine_over: bool = False           # lift the mark durably, then `lift_quarantine()`
    data_lost_by: list[int] = field(default_factory=list)   # leader: came back with less than they had acknowledged
    # Takes the place of log and state, before the `write` of these effects is made (it has no entries); then
    # `Raft.installed(snapshot)`.
    snapshot: SnapshotMark | None = None
