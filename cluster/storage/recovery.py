"""From what the directory holds to a log that may be written: the repair, and what the caller learns of it.

The last segment's valid frames are copied into a fresh segment and synced, at every start: bytes that can be
read after a crash may exist in the page cache only (a sync of theirs may have failed), and a torn frame that
stayed in the log would be vouched for by the next synced_seq. The renaming of the fresh segment puts all of
it into effect at once; before it a crash changes nothing, after it only leftovers are to be cleared away. Only a
disk without room for that has the log go on in the last segment itself, or behind it (`going_on`).

    found                                                     is           done
    no segment                                                empty        a first segment
    bad frame, nothing valid behind it vouches for it         torn tail    cut
    bad frame that a later synced_seq or segment vouches for  damage       cut, files kept aside, quarantine
    segment of the chain missing, or both its headers bad     damage       the same
    whole frame that does not continue the log                damage       the same
    one copy of a header bad                                  torn or rot  the other one counts
    frame of another salt, zeros                              end of log   nothing
    another node's or cluster's name or id                    foreign      error, nothing is changed
    segments older than the oldest one of the chain           leftovers    recycled
    frames lost at the end with all that vouched for them     not visible  the leader's Match tells

How the beginning of a compacted log is judged: the table in `beginning`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actors import Buffer, Files
from cluster.storage.errors import is_lack_of_room
from cluster.storage.evidence import is_evidence, quarantine_of
from cluster.storage.frame import FRAME_HEADER_BYTES, header_with_salt
from cluster.storage.going_on import go_on
from cluster.storage.header import (
    FRAMES_START,
    Damage,
    HardState,
    Meta,
    Quarantine,
    SegmentHeader,
)
from cluster.storage.repaired import COPY_BYTES, Repaired, Start
from cluster.storage.scan import NodeIdentity, Scan
from cluster.storage.segment import (
    WalLimits,
    create_segment,
    file_name,
    fill_spare,
    give_up_segment,
    require_room,
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the log held when it was opened. Entries are read in pages with `Wal.read`.

    `base` is (index, term) of the entry before `first_index`, (0, 0) in a log that begins with entry 1. `terms` are
    the (first index, term) pairs of entries `first_index` to `last_index`. `damaged` is set from the start that found
    the damage until the quarantine is lifted; `cut_bytes` is the size of a torn tail.
    """

    hard_state: HardState
    base: tuple[int, int]
    first_index: int
    last_index: int
    terms: tuple[tuple[int, int], ...]
    cluster_id: bytes | None
    voters: tuple[str, ...]
    quarantine: Quarantine | None
    cut_bytes: int

    @property
    def damaged(self) -> Damage | None:
        return self.quarantine.damage if self.quarantine is not None else None

    @property
    def quarantined(self) -> bool:
        return self.quarantine is not None

    @property
    def empty(self) -> bool:
        """Nothing was ever acknowledged here: the broker may take part in a formation."""
        return self.cluster_id is None and self.last_index == 0 and self.quarantine is None


def recovery_of(scan: Scan, meta: Meta) -> Recovery:
    """What the caller learns, once the log is repaired; `meta` is that of the fresh last segment."""
    index = scan.index
    return Recovery(
        hard_state=scan.hard_state,
        base=(index.first_index - 1, index.base_term),
        first_index=index.first_index,
        last_index=index.last_index,
        terms=index.terms(),
        cluster_id=meta.cluster_id or None,
        voters=meta.voters,
        quarantine=meta.quarantine,
        cut_bytes=scan.cut_bytes,
    )


def repair(
    files: Files,
    directory: str,
    scan: Scan,
    identity: NodeIdentity,
    limits: WalLimits,
    salt: Callable[[], int],
) -> Repaired:
    """Gives the log a fresh last segment and clears away what no longer belongs to it. Where there is no room for one,
    the log goes on with the segments that it has."""
    spares = _usable_spares(files, directory, scan, limits)
    start = Start(files, directory, scan, identity, limits, salt, spares, scan.names.next_number)
    gone = set() if spares else _reclaim(start)
    try:
        if not spares:
            _fill(start)
        repaired = _renew(start)
    except OSError as error:
        if not is_lack_of_room(error):
            raise
        gone_on = go_on(start)
        if gone_on is None:
            raise
        repaired = gone_on
    _clear_leftovers(start, repaired.header, gone.union(repaired.segments))
    return repaired


def _fill(start: Start) -> None:
    """A spare where there is none."""
    require_room(start.files, start.directory, start.limits.segment_bytes)
    filled = 0
    while filled < start.limits.segment_bytes:
        filled = fill_spare(start.files, start.directory, start.number, filled, start.limits)
    start.spares.append(start.number)
    start.number += 1


def _renew(start: Start) -> Repaired:
    """A fresh segment in the place of the last one, with its valid frames."""
    scan, number, salt = start.scan, start.number, start.salt()
    replaced = scan.chain[-1] if scan.chain else None
    header = SegmentHeader(
        salt=salt,
        number=number,
        previous=replaced.previous if replaced is not None else 0,
        first_seq=scan.next_seq - len(scan.frames),
        generation=1,
        meta=start.meta(number, replaced.meta.hard_state.commit if replaced is not None else 0),
    )
    position = FRAMES_START + sum(frame.end - frame.offset for frame in scan.frames)
    marker = start.marker(salt)  # true once this segment has its name, and not to be seen before
    body = [*_copies(scan, salt), (position, marker)]
    file = create_segment(start.files, start.directory, header, start.spares[0], body)
    del start.spares[0]
    start.number += 1
    _place_copies(scan, number)
    segments = [*(kept.number for kept in scan.chain[:-1]), number]
    position += FRAME_HEADER_BYTES
    return Repaired(file, header, position, scan.next_seq + 1, marker, segments, start.spares, start.number)


def _usable_spares(files: Files, directory: str, scan: Scan, limits: WalLimits) -> list[int]:
    """Spares of full size; the others and half-filled ones are removed."""
    spares: list[int] = []
    for number in scan.names.spares:
        path = f"{directory}/{file_name(number, 'spare')}"
        file = files.open(path)
        size = file.size()
        file.close()
        if size >= limits.segment_bytes and len(spares) < limits.spares_max:
            spares.append(number)
        else:
            files.remove(path)
    for number in scan.names.unfinished:
        files.remove(f"{directory}/{file_name(number, 'zero')}")
    return spares


def _reclaim(start: Start) -> set[int]:
    """Finds a spare among files that a crash kept from becoming one, for on a full disk there may be nothing else to
    begin with. Returns the segments that it gave up.

    The head was written after all that is older was known, and does not name them: that they are gone means nothing.
    """
    gone: set[int] = set()
    scan = start.scan
    if scan.chain and quarantine_of(scan) is None:
        for number in scan.leftovers:
            if number < scan.chain[-1].number and not start.spares:
                gone.add(number)
                if give_up_segment(start.files, start.directory, number, True, start.limits):
                    start.spares.append(number)
    return gone


def _copies(scan: Scan, salt: int) -> Iterator[tuple[int, Buffer]]:
    """(offset, bytes) of the valid frames under the fresh segment's salt, close together, in pieces."""
    offset = FRAMES_START
    parts: list[Buffer] = []
    size = 0
    view = memoryview(scan.data)
    for frame in scan.frames:
        parts.append(header_with_salt(scan.data, frame, salt))
        parts.append(view[frame.offset + FRAME_HEADER_BYTES : frame.end])
        size += frame.end - frame.offset
        if size >= COPY_BYTES:
            yield offset, b"".join(parts)
            offset += size
            parts, size = [], 0
    if parts:
        yield offset, b"".join(parts)


def _place_copies(scan: Scan, number: int) -> None:
    """Frames lie back to back from the start in both segments, so only the segment's number changes in the
    index."""
    if scan.frames:
        assert scan.frames[0].offset == FRAMES_START
        scan.index.move_segment(scan.chain[-1].number, number)


def _clear_leftovers(start: Start, header: SegmentHeader, gone: set[int]) -> None:
    """Of the files that are not `gone` already, and not in use, damaged ones are kept aside as evidence; others become
    spares while there is need of them."""
    if not start.scan.leftovers:
        return
    files, directory, limits, spares = start.files, start.directory, start.limits, start.spares
    quarantine = header.meta.quarantine
    for number in start.scan.leftovers:
        if number in gone:
            continue
        if is_evidence(quarantine, number):
            files.rename(start.path(number), f"{directory}/{file_name(number, 'damaged')}")
        elif give_up_segment(files, directory, number, len(spares) < limits.spares_max, limits):
            spares.append(number)
    files.sync_dir(directory)
