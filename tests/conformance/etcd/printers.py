"""What the transcripts show of nodes, entries and messages, in etcd's words."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.raft.effects import Effects
from cluster.raft.messages import Entry, EntryKind, HardState, Message, MessageType, Role, SnapshotMark
from cluster.raft.progress import Progress, ProgressState

APPEND_THREAD = "AppendThread"
APPLY_THREAD = "ApplyThread"

_ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_TYPES = {
    MessageType.APPEND: "MsgApp",
    MessageType.APPEND_RESPONSE: "MsgAppResp",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageType.VOTE: "MsgVote",
    MessageType.VOTE_RESPONSE: "MsgVoteResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.SNAPSHOT: "MsgSnap",
}
_KINDS = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CONFIG: "EntryConfChangeV2",
    EntryKind.CONFIG_V1: "EntryConfChange",
}
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


@dataclass(frozen=True)
class Mail:
    """A message as transcripts know it: also between a node and its storage threads. `message` is the core's own."""

    kind: str
    sender: int | str
    to: int | str
    term: int = 0
    index: int = 0
    log_term: int = 0
    commit: int = 0
    vote: int = 0
    reject: bool = False
    reject_hint: int = 0
    entries: list[Entry] = field(default_factory=list)
    responses: list["Mail"] = field(default_factory=list)
    snapshot: SnapshotMark | None = None
    message: Message | None = None

    @property
    def is_local(self) -> bool:
        """Between a node and itself or its threads: never lost."""
        return self.sender == self.to or isinstance(self.sender, str) or isinstance(self.to, str)


def mail_of(message: Message, kind: str = "") -> Mail:
    return Mail(
        kind or _TYPES[message.type],
        message.sender,
        message.to,
        message.term,
        message.index,
        message.log_term,
        message.commit,
        0,
        message.reject,
        message.reject_hint,
        message.entries,
        snapshot=message.snapshot,
        message=message,
    )


def show_mail(mail: Mail, indent: str = "") -> str:
    text = f"{indent}{_target(mail.sender)}->{_target(mail.to)} {mail.kind} Term:{mail.term}"
    text += f" Log:{mail.log_term}/{mail.index}"
    if mail.reject:
        text += f" Rejected (Hint: {mail.reject_hint})"
    if mail.commit:
        text += f" Commit:{mail.commit}"
    if mail.vote:
        text += f" Vote:{mail.vote}"
    if len(mail.entries) == 1:
        text += f" Entries:[{show_entry(mail.entries[0])}]"
    elif mail.entries:
        lines = "".join(f"\n{indent}  {show_entry(entry)}" for entry in mail.entries)
        text += f" Entries:[{lines}\n{indent}]"
    if mail.snapshot is not None:
        text += f"\n{indent}  Snapshot: {show_snapshot(mail.snapshot)}"
    if mail.responses:
        lines = "".join("\n" + show_mail(response, indent + "  ") for response in mail.responses)
        text += f" Responses:[{lines}\n{indent}]"
    return text


def show_snapshot(mark: SnapshotMark) -> str:
    voters, outgoing, learners = (" ".join(map(str, nodes)) for nodes in (mark.voters, mark.outgoing, mark.learners))
    return (
        f"Index:{mark.index} Term:{mark.term} ConfState:Voters:[{voters}] VotersOutgoing:[{outgoing}] "
        f"Learners:[{learners}] LearnersNext:[] AutoLeave:false"
    )


def show_entry(entry: Entry) -> str:
    return f"{entry.term}/{entry.index} {_KINDS[EntryKind(entry.kind)]} {_quoted(entry.payload)}"


def show_entries(entries: list[Entry]) -> str:
    return "".join(f"{show_entry(entry)}\n" for entry in entries)


def show_ready(effects: Effects | None, mail: list[Mail]) -> str:
    """What one `take` gave; `mail` are all messages that leave with it."""
    text = ""
    if effects is not None:
        if effects.soft_state is not None:
            text += f"Lead:{effects.soft_state.leader} State:{show_role(effects.soft_state.role)}\n"
        if effects.hard_state is not None:
            text += f"HardState {_hard_state(effects.hard_state)}\n"
        if effects.write is not None and effects.write.entries:
            text += "Entries:\n" + show_entries(effects.write.entries)
        if effects.snapshot is not None:
            text += f"Snapshot {show_snapshot(effects.snapshot)}\n"
        if effects.committed:
            text += "CommittedEntries:\n" + show_entries(effects.committed)
    if mail:
        text += "Messages:\n" + "".join(f"{show_mail(item)}\n" for item in mail)
    if not text:
        return "<empty Ready>"
    must_sync = effects is not None and effects.write is not None and effects.write.must_sync
    return f"Ready MustSync={'true' if must_sync else 'false'}:\n{text}"


def show_progress(progress: Mapping[int, Progress]) -> str:
    return "".join(f"{node}: {_progress(progress[node])}\n" for node in sorted(progress))


def show_role(role: Role) -> str:
    return _ROLES[role]


def _progress(progress: Progress) -> str:
    text = f"{progress.state.value} match={progress.match} next={progress.next}"
    if progress.is_learner:
        text += " learner"
    if progress.flow_paused or progress.state is ProgressState.SNAPSHOT:
        text += " paused"
    if progress.pending_snapshot:
        text += f" pendingSnap={progress.pending_snapshot}"
    if not progress.recent_active:
        text += " inactive"
    if len(progress.inflights):
        text += f" inflight={len(progress.inflights)}{'[full]' if progress.inflights.full else ''}"
    return text


def _hard_state(state: HardState) -> str:
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def _target(target: int | str) -> str:
    return target if isinstance(target, str) else f"{target:x}"


def _quoted(payload: bytes) -> str:
    """Go's %q."""
    text = payload.decode("utf-8", "surrogateescape")
    return '"' + "".join(_ESCAPES.get(character) or _printable(character) for character in text) + '"'


def _printable(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:        # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
