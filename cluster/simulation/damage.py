"""What the loss of power did to a log, and which of its bits may flip.

What a fault meant to do and what it did are two things: the power may fail when nothing is under way. So the disks are
looked at before and after.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random

from actors.simulation import Machine, SimulatedDisk
from cluster.simulation.nodes import DIRECTORY
from cluster.storage.frame import Frame, parse_frame
from cluster.storage.header import FRAMES_START, SegmentHeader, decode_segment_header

SECTOR_BYTES = 512
TEARABLE_SECTORS = 2
ALL_SNAPSHOTS_ONE_IN = 2        # of flips in snapshots


def watch_losses(machine: Machine, on_lost: Callable[[], object], on_torn: Callable[[], object]) -> None:
    """Calls back for each loss of power that took unsynced bytes from the log, and if it left some sectors of a frame
    and not others."""
    disk = machine.disk
    kill, crash = disk.kill, disk.crash
    unsynced: dict[str, bytes] = {}

    def watched_kill(pid: int | None = None) -> None:
        kill(pid)
        # What an interrupted job had still written is there by now, and the loss of power comes next.
        unsynced.clear()
        unsynced.update({path: disk.read(path) for path in _segments(disk) if disk.unsynced_sectors(path)})

    def watched_crash() -> None:
        crash()
        after = {path: disk.read(path) if path in disk.paths() else b"" for path in unsynced}
        if after != unsynced:
            on_lost()
        if any(_is_torn(before, after[path]) for path, before in unsynced.items()):
            on_torn()

    disk.kill = watched_kill  # type: ignore[method-assign]
    disk.crash = watched_crash  # type: ignore[method-assign]


def _is_torn(before: bytes, after: bytes) -> bool:
    """Whether a frame that was whole has lost a part of its sectors."""
    header = decode_segment_header(before[:FRAMES_START]).header
    for frame in _frames(before, header.salt) if header is not None else ():
        sectors = range(frame.offset // SECTOR_BYTES, -(-frame.end // SECTOR_BYTES))
        cuts = [frame.offset, *(sector * SECTOR_BYTES for sector in sectors[1:]), frame.end]
        kept = [before[start:stop] == after[start:stop] for start, stop in pairwise(cuts)]
        if any(kept) and not all(kept):
            return True
    return False


def cut_power_in_next_sync(machine: Machine) -> Callable[[], None]:
    """Lets the power fail in the next sync of a frame that is larger than a sector. Returns what takes it back."""
    disk = machine.disk
    enter = disk.enter
    armed = True

    def watched_enter(*, cuts_first: bool = False) -> bool:
        nonlocal armed
        if armed and cuts_first and any(disk.unsynced_sectors(path) >= TEARABLE_SECTORS for path in _segments(disk)):
            armed = False
            disk.cut_power_after(0)
        return enter(cuts_first=cuts_first)

    def disarm() -> None:
        nonlocal armed
        armed = False
        disk.enter = enter  # type: ignore[method-assign]

    disk.enter = watched_enter  # type: ignore[method-assign]
    return disarm


def flip_vouched(disk: SimulatedDisk, random: Random) -> tuple[str, int, int] | None:
    """Chooses a bit of a frame that a later frame, or the header of a later segment, says is durable: (path, offset,
    bit); None if there is none."""
    chain = _chain(disk)
    frames = [(path, frame) for path, header in chain for frame in _frames(disk.read(path), header.salt)]
    words = [frame.synced_seq for _, frame in frames] + [header.first_seq - 1 for _, header in chain]
    vouched = max(words, default=0)
    open_to_damage = [(path, frame) for path, frame in frames if frame.seq <= vouched]
    # Before the first entry there is no cluster yet whose majority could make up for the damage.
    if not any(frame.last_index for _, frame in open_to_damage):
        return None
    path, frame = random.choice(open_to_damage)
    return path, random.randrange(frame.offset, frame.end), random.randrange(8)


def flip_snapshots(disk: SimulatedDisk, random: Random) -> list[tuple[str, int, int]]:
    """Chooses a bit of the newest snapshot, now and then one of each: (path, offset, bit); empty if there is none."""
    paths = sorted((path for path in disk.paths() if path.endswith(".snap")), reverse=True)
    chosen = paths if random.randrange(ALL_SNAPSHOTS_ONE_IN) == 0 else paths[:1]
    return [(path, random.randrange(len(disk.read(path))), random.randrange(8)) for path in chosen]


def index_of(path: str) -> int:
    """Of a snapshot's entry."""
    return int(path.rpartition("/")[2].partition(".")[0])


def _frames(data: bytes, salt: int) -> list[Frame]:
    frames: list[Frame] = []
    offset = FRAMES_START
    while (frame := parse_frame(data, offset, salt)) is not None:
        frames.append(frame)
        offset = frame.end
    return frames


def _chain(disk: SimulatedDisk) -> list[tuple[str, SegmentHeader]]:
    """The segments of the log, newest first."""
    headers: dict[int, tuple[str, SegmentHeader]] = {}
    for path in _segments(disk):
        header = decode_segment_header(disk.read(path)[:FRAMES_START]).header
        if header is not None:
            headers[header.number] = (path, header)
    chain: list[tuple[str, SegmentHeader]] = []
    number = max(headers, default=0)
    while number in headers:
        chain.append(headers[number])
        number = headers[number][1].previous
    return chain


def _segments(disk: SimulatedDisk) -> list[str]:
    return [path for path in disk.paths() if path.startswith(f"{DIRECTORY}/") and path.endswith(".wal")]
