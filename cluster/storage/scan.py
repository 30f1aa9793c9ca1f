"""What a log's directory holds: reads everything, changes nothing.

The segments of a log form a chain: each header names the segment before it, the one with the highest number
is the head. A recovery replaces the last segment by adding a head with the same predecessor, so one renaming
puts it into effect and everything that is no longer in the chain is a leftover, whatever was interrupted. The chain
reaches back to entry 1, or to the segment that the head names as the oldest one (`LogStart`): it was written there
before any older file left. What is older is a leftover, too, and that files of it are missing means nothing.

In a log that was compacted the first frame may begin anywhere, and a truncation may reach further back: the entries
that it made void, or others of the same numbers, were in segments that left. Where the log begins is known once all of
it has been read; `beginning` compares that with the snapshot.

The question at the first bad frame is whether anybody was told that it is durable. A frame says so of all
frames up to its synced_seq; a segment's header says so of every frame before its first. If any valid one
behind the bad frame (its bytes are searched for, wherever they lie) vouches for it, it was acknowledged and
is damaged. If none does, it is a torn tail: the end of a write that was interrupted. Several frames may have
been under way, so a valid frame behind a bad one proves nothing by itself.

Term and vote are taken from every valid frame, also from those behind the cut and from segments that are
given up: they may have been acted on, and a vote that is remembered too well only costs an election round.
"""

from dataclasses import dataclass, field

from actors import Files
from cluster.storage.errors import ForeignDirectory, UnsupportedVersion
from cluster.storage.frame import FRAME_HEADER_BYTES, Frame, find_frames, parse_frame
from cluster.storage.header import (
    FRAMES_START,
    Damage,
    HardState,
    LogStart,
    Meta,
    SegmentHeader,
    decode_segment_header,
)
from cluster.storage.index import LogIndex
from cluster.storage.segment import DirectoryNames, file_name, list_names


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Whose log it should be. `cluster_id` and `voters` are known to the disk only, before formation to
    nobody."""

    node: str
    cluster: str = ""  # the name of the cluster; "" is not checked
    incarnation: int = 0  # random, of this process
    cluster_id: bytes | None = None  # None is not checked


@dataclass(slots=True)
class Scan:
    """The log as it can be read. `chain` are the headers of the segments to keep, oldest first; the valid
    frames of the last of them are `frames`, in its bytes `data`."""

    names: DirectoryNames
    chain: list[SegmentHeader]
    meta: Meta | None  # None: no segment was ever written, or no header can be read
    data: bytes = b""
    frames: list[Frame] = field(default_factory=list)
    index: LogIndex = field(default_factory=LogIndex)
    hard_state: HardState = HardState()
    next_seq: int = 1
    cut_bytes: int = 0  # of the torn tail, up to the last byte that is not zero
    damage: Damage | None = None
    head: SegmentHeader | None = None  # the newest segment whose header can be read, also if none of it is kept
    is_begun: bool = False  # a frame has said where the entries of a log begin that does not begin with entry 1

    @property
    def start(self) -> LogStart:
        return self.meta.start if self.meta is not None else LogStart()

    @property
    def leftovers(self) -> list[int]:
        """Segments that are no part of the log any more, once the last one of the chain has been copied."""
        kept = {header.number for header in self.chain[:-1]}
        return [number for number in self.names.segments if number not in kept]


def scan_directory(files: Files, directory: str, identity: NodeIdentity) -> Scan:
    """Reads the log. Raises ForeignDirectory, UnsupportedVersion."""
    names = list_names(files, directory)
    headers: dict[int, SegmentHeader] = {}
    unreadable: list[int] = []
    for number in names.segments:
        header = _read_header(files, directory, number, identity)
        if header is None:
            unreadable.append(number)
        else:
            headers[number] = header

    head = headers[max(headers)] if headers else None
    chain, missing = _chain(headers, head)
    scan = Scan(names, chain, head.meta if head is not None else None, head=head)
    scan.index.begin(scan.start.index + 1, scan.start.term)
    for header in headers.values():
        state = header.meta.hard_state
        scan.hard_state = scan.hard_state.raised(state.term, state.vote)
    if missing:
        # What the frames say of entries is void, what they say of votes is not.
        for number, header in headers.items():
            _note_votes(scan, list(find_frames(_read(files, directory, number), FRAMES_START, header.salt)))
        give_up(scan, 0, missing, 0, "the segment is missing or has no readable header")
    elif chain:
        _read_chain(files, directory, scan)

    for number in unreadable:
        frames = list(find_frames(_read(files, directory, number), FRAMES_START, None))
        _note_votes(scan, frames)
        if head is None or number > head.number:
            highest = max((frame.last_index for frame in frames), default=0)
            note_damage(scan, number, 0, highest, "neither copy of the segment's header can be read")
    last = scan.index.last_index
    scan.hard_state = HardState(scan.hard_state.term, scan.hard_state.vote, min(scan.hard_state.commit, last))
    return scan


def _read_header(files: Files, directory: str, number: int, identity: NodeIdentity) -> SegmentHeader | None:
    path = f"{directory}/{file_name(number, 'wal')}"
    file = files.open(path)
    try:
        header, _, newer_version, _ = decode_segment_header(file.pread(FRAMES_START, 0))
    finally:
        file.close()
    if header is None:
        if newer_version:
            raise UnsupportedVersion(path, newer_version)
        return None
    meta = header.meta
    if meta.node != identity.node:
        raise ForeignDirectory(directory, "node", identity.node, meta.node)
    if identity.cluster and meta.cluster and meta.cluster != identity.cluster:
        raise ForeignDirectory(directory, "cluster", identity.cluster, meta.cluster)
    if identity.cluster_id and meta.cluster_id and meta.cluster_id != identity.cluster_id:
        raise ForeignDirectory(directory, "cluster id", identity.cluster_id.hex(), meta.cluster_id.hex())
    return header if header.number == number else None  # a copied or renamed file is not that segment


def _chain(headers: dict[int, SegmentHeader], head: SegmentHeader | None) -> tuple[list[SegmentHeader], int]:
    """The segments that lead to the head, oldest first, and the number of the one that is missing, or 0."""
    chain: list[SegmentHeader] = []
    header = head
    oldest = head.meta.start.segment if head is not None else 0
    while header is not None:
        chain.append(header)
        if header.previous == 0 or header.number <= oldest:
            break
        missing = header.previous
        header = headers.get(missing)
        if header is None:
            return chain[::-1], missing
    return chain[::-1], 0


def _read_chain(files: Files, directory: str, scan: Scan) -> None:
    scan.next_seq = scan.chain[0].first_seq
    for position, header in enumerate(scan.chain):
        following = scan.chain[position + 1] if position + 1 < len(scan.chain) else None
        scan.data = _read(files, directory, header.number)
        offset = _read_frames(scan, header)
        if following is not None and scan.next_seq == following.first_seq:
            continue
        behind = list(find_frames(scan.data, offset, header.salt))
        _note_votes(scan, behind)
        vouched = following is not None or any(
            # A whole frame that does not continue the log is no torn write either.
            frame.synced_seq >= scan.next_seq or (frame.seq == scan.next_seq and frame.offset == offset)
            for frame in behind
        )
        if not vouched:
            scan.cut_bytes = len(scan.data[offset:].rstrip(b"\0"))
            return
        for later in scan.chain[position + 1 :]:
            data = _read(files, directory, later.number)
            found = list(find_frames(data, FRAMES_START, later.salt))
            _note_votes(scan, found)
            behind.extend(found)
        highest = max((frame.last_index for frame in behind), default=0)
        give_up(
            scan, position + 1, header.number, offset, "a frame that had been synced is not valid", highest
        )
        return


def _read_frames(scan: Scan, header: SegmentHeader) -> int:
    """Takes the valid frames of a segment into the scan; returns the offset at which they end."""
    scan.frames = []
    scan.hard_state = HardState(scan.hard_state.term, scan.hard_state.vote, header.meta.hard_state.commit)
    offset = FRAMES_START
    while (frame := parse_frame(scan.data, offset, header.salt)) is not None and frame.seq == scan.next_seq:
        _find_beginning(scan, frame)
        if not _continues(scan.index, frame):
            break
        scan.frames.append(frame)
        scan.next_seq += 1
        if frame.truncate_from:
            scan.index.truncate(frame.truncate_from)
        if frame.runs:
            records_start = frame.offset + FRAME_HEADER_BYTES
            scan.index.append(
                header.number, records_start, frame.end - records_start, frame.last_index, frame.runs
            )
        # The hint of the frames that are kept: a later one may speak of entries that replaced some of these.
        scan.hard_state = HardState(scan.hard_state.term, scan.hard_state.vote, frame.commit)
        offset = frame.end
    _note_votes(scan, scan.frames)
    return offset


def _find_beginning(scan: Scan, frame: Frame) -> None:
    """In a log that does not begin with entry 1: the first frame that speaks of entries, or one that makes all of them
    void, says with which it begins."""
    start, low = scan.start, frame.truncate_from or frame.first_index
    if not start.index or not low:
        return
    if not scan.is_begun or (frame.truncate_from and low < scan.index.first_index):
        scan.index.begin(low, start.term if low == start.index + 1 else 0)
        scan.is_begun = True


def _continues(index: LogIndex, frame: Frame) -> bool:
    last = index.last_index
    if frame.truncate_from:
        if not index.first_index <= frame.truncate_from <= last + 1:
            return False
        last = frame.truncate_from - 1
    if not frame.runs:
        return True
    return frame.first_index == last + 1 and frame.runs[0][1] >= index.term(last)


def _note_votes(scan: Scan, frames: list[Frame]) -> None:
    for frame in frames:
        scan.hard_state = scan.hard_state.raised(frame.term, frame.vote)


def give_up(scan: Scan, kept: int, number: int, offset: int, reason: str, highest: int = 0) -> None:
    """Everything from `offset` of segment `number` on is lost; the first `kept` segments of the chain are
    not."""
    del scan.chain[kept:]
    note_damage(scan, number, offset, highest, reason)


def note_damage(scan: Scan, number: int, offset: int, highest: int, reason: str) -> None:
    if scan.damage is None:
        first = scan.index.last_index + 1
        lost_to = highest if highest >= first else 0
        scan.damage = Damage(file_name(number, "damaged"), offset, first, lost_to, reason)


def _read(files: Files, directory: str, number: int) -> bytes:
    file = files.open(f"{directory}/{file_name(number, 'wal')}")
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()
