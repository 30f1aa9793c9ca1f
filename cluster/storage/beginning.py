"""Where a log begins: what its segments hold, and the snapshot that stands for the entries before it.

Whoever opens the log has loaded a snapshot, or has none, and says so (`SnapshotMark`). The log goes on behind it, and
what it holds of older entries is of use to followers only. So the question is whether the log can go on there.

    found                                                        is            done
    begins with entry 1, no snapshot                             a log         nothing
    does not begin with entry 1, no snapshot                     damage        void, files kept aside, quarantine
    a snapshot, and no segment at all                            damage        quarantine: votes are lost
    begins behind the entry that follows the snapshot            damage        void, files kept aside, quarantine
    ends before the snapshot                                     interrupted   void, goes on behind the snapshot
    its entry at the snapshot's index has another term           interrupted   void, goes on behind the snapshot
    holds the snapshot's entry, or begins right behind it        a log         nothing

*Interrupted*: the snapshot came from another broker, and the node died before the log was restarted behind it. Entries
of the log that differ from it were never committed.

Raft compares the term of the entry before the first one. It is in the head's header (`LogStart`). When the damage of a
header left one that does not fit, the first entry that is there serves as the one before the first: the log begins
one entry later.
"""

from cluster.raft.messages import SnapshotMark
from cluster.storage.errors import NoBeginning
from cluster.storage.header import HardState, LogStart
from cluster.storage.scan import Scan, give_up, note_damage


def settle(scan: Scan, mark: SnapshotMark | None, *, has_others: bool = True) -> None:
    """Lets the log begin where it can, before it is repaired. Raises NoBeginning if it cannot begin anywhere, and there
    are no others to get the state from: then a log that is put aside would help nobody, and one that stays goes on as
    soon as its snapshot is back."""
    index = scan.index
    _skip_to_start(scan)
    may_void = has_others or scan.damage is not None
    if mark is None:
        if index.first_index > 1:
            if not may_void:
                raise NoBeginning(index.first_index, 0)
            _void(scan, 0, 0, "the log was compacted, and no snapshot can be read")
        return

    if not scan.names.segments:
        if not may_void:
            raise NoBeginning(0, mark.index)
        index.begin(mark.index + 1, mark.term)
        note_damage(scan, 1, 0, 0, "the segment is missing: there is a snapshot, and no segment at all")
    elif index.first_index > mark.index + 1:
        if not may_void:
            raise NoBeginning(index.first_index, mark.index)
        reason = f"the log begins with entry {index.first_index}, the snapshot ends with {mark.index}"
        _void(scan, mark.index, mark.term, reason)
    elif index.last_index < mark.index or index.term(mark.index) not in (mark.term, 0):
        _void(scan, mark.index, mark.term, "")
    elif index.first_index == mark.index + 1:
        index.base_term = mark.term
    elif index.first_index > 1 and not index.base_term:
        index.compact(index.first_index + 1)
    state = scan.hard_state.raised(mark.term, 0)
    scan.hard_state = HardState(state.term, state.vote, max(state.commit, mark.index))


def start_of(scan: Scan, new_segment: int) -> LogStart:
    """What the header of the fresh last segment says of the log's beginning."""
    index = scan.index
    # A log that begins with entry 1 may have lost a first segment all the same, one without entries.
    is_whole = not scan.chain or scan.chain[0].previous == 0
    if index.first_index == 1 and is_whole:
        return LogStart()
    oldest = scan.chain[0].number if len(scan.chain) > 1 else new_segment
    return LogStart(index.first_index - 1, index.base_term, oldest)


def _skip_to_start(scan: Scan) -> None:
    """Entries before the start that the head names were given up; they are only there because files are dropped whole.
    """
    start, index = scan.start, scan.index
    if index.first_index <= start.index <= index.last_index:
        index.compact(start.index + 1)
        index.base_term = start.term


def _void(scan: Scan, index: int, term: int, damage: str) -> None:
    """Nothing of the log is of use; it goes on behind (index, term)."""
    last = scan.index.last_index
    oldest = scan.chain[0].number if scan.chain else scan.names.segments[0]
    scan.index.begin(index + 1, term)
    scan.frames, scan.data = [], b""
    if damage:
        give_up(scan, 0, oldest, 0, damage, last)
    else:
        scan.chain.clear()
