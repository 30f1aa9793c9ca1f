"""Files of a log's directory: their names, how a segment comes into being, and how it leaves.

    0000000000000007.wal       a segment
    0000000000000006.damaged   a segment kept aside: the operator's evidence, never read again
    0000000000000008.spare     of full size, for the next segment: zeros, or a segment that has had its day
    0000000000000009.zero      a spare that is still being filled
    lock                       held while the log is open

A segment appears under its name only when its header is durable, so a `.wal` file without one is damage and
never the trace of a crash. Files are filled with zeros once, because a write into blocks that were never
written makes the file system journal that they now are, and each sync pays for it (0.14 ms instead of 0.09 ms
on the reference disk). A recycled file keeps its old bytes: the new salt makes them mean nothing.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC

from actors import Buffer, File, Files
from cluster.storage.header import (
    HEADER_BYTES,
    HEADER_COPIES,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
)

MIB = 1024 * 1024
LOCK_NAME = "lock"

Guard = Callable[[Callable[..., None]], Callable[..., None]]   # as `Context.callback`


def unguarded(callback: Callable[..., None]) -> Callable[..., None]:
    """The guard of an owner that is no actor."""
    return callback


_NAME = re.compile(r"(\d{16})\.(wal|damaged|spare|zero)")
# In one write. For larger ones the kernel looks for contiguous memory to cache them in, which costs more processor time
# than all the rest.
ZEROS_BYTES = 256 * 1024
_ZEROS = memoryview(bytes(ZEROS_BYTES))


@dataclass(frozen=True, slots=True)
class WalLimits:
    """Sizes and times of a log."""

    segment_bytes: int = 64 * MIB
    zero_chunk_bytes: int = 4 * MIB  # of a spare, filled and synced in one job
    spares_max: int = 2  # more are removed when the log is opened
    read_bytes_max: int = MIB  # one pread, unless a frame is larger
    probe_syncs: int = 32
    thread_above_ns: int = 500_000  # a median sync above this does not belong on the loop


@dataclass(frozen=True, slots=True)
class DirectoryNames:
    """What a log's directory lists, by kind; numbers rise and are never used again."""

    segments: tuple[int, ...]
    spares: tuple[int, ...]
    unfinished: tuple[int, ...]
    next_number: int


def file_name(number: int, kind: str) -> str:
    return f"{number:016d}.{kind}"


def list_names(files: Files, directory: str) -> DirectoryNames:
    """Sorts the directory's names; those that are not ours are left alone."""
    by_kind: dict[str, list[int]] = {"wal": [], "damaged": [], "spare": [], "zero": []}
    for name in files.list(directory):
        match = _NAME.fullmatch(name)
        if match is not None:
            by_kind[match[2]].append(int(match[1]))
    highest = max((numbers[-1] for numbers in by_kind.values() if numbers), default=0)
    return DirectoryNames(tuple(by_kind["wal"]), tuple(by_kind["spare"]), tuple(by_kind["zero"]), highest + 1)


def make_durable_directory(files: Files, directory: str) -> None:
    """Creates what is missing of the path, and syncs each directory that got a new name in it."""
    missing: list[str] = []
    path = directory
    while path and not files.exists(path):
        missing.append(path)
        path = path.rpartition("/")[0]
    if missing:
        files.make_dirs(directory)
    for path in reversed(missing):
        parent, slash, _ = path.rpartition("/")
        files.sync_dir(parent or slash or ".")


def write_header(file: File, header: SegmentHeader) -> None:
    """Changes the header of a segment that is in use: at any time one of both copies is whole. So the copy that counts
    is written last: the other may be torn, of an earlier change that was interrupted, or have rotted."""
    copy = encode_segment_header(header)
    counts = _place(_read_copies(file))
    for place in (1 - counts, counts):
        file.pwrite((copy,), place * HEADER_BYTES)
        file.sync()


def write_header_again(file: File) -> None:
    """The copy that counts, to where it was read from: it may be in memory only, and a sync that follows changes that.
    The other stays as it is until then."""
    copies = _read_copies(file)
    start = _place(copies) * HEADER_BYTES
    file.pwrite((copies[start : start + HEADER_BYTES],), start)


def _place(copies: bytes) -> int:
    return decode_segment_header(copies).place


def _read_copies(file: File) -> bytes:
    copies = b""
    for place in range(HEADER_COPIES):
        copy = b""
        with suppress(OSError):  # what the medium has lost is a bad copy like any other
            copy = file.pread(HEADER_BYTES, place * HEADER_BYTES)
        copies += copy.ljust(HEADER_BYTES, b"\0")
    return copies


def create_segment(
    files: Files,
    directory: str,
    header: SegmentHeader,
    spare: int | None,
    body: Sequence[tuple[int, Buffer]] = (),
) -> File:
    """A durable segment with this header, in the place of a spare if there is one. Blocking.

    `body` are (offset, bytes) to be in it before it appears. Without a spare the file starts small and grows:
    slower to sync, but filling it now would hold up the log.
    """
    kind = "zero" if spare is None else "spare"
    source = f"{directory}/{file_name(header.number if spare is None else spare, kind)}"
    file = files.open(source, create=spare is None)
    copy = encode_segment_header(header)
    try:
        file.pwrite((copy,) * HEADER_COPIES, 0)
        for offset, data in body:
            file.pwrite((data,), offset)
        file.sync()
    except OSError:
        file.close()
        raise
    files.rename(source, f"{directory}/{file_name(header.number, 'wal')}")
    files.sync_dir(directory)
    return file


def require_room(files: Files, directory: str, size: int) -> None:
    """Raises OSError as a write of that size would, which then need not be begun: the disk would be full until it is
    taken back, and what comes over a network be sent again, in vain at every try."""
    free = files.free_bytes(directory)
    if free < size:
        raise OSError(ENOSPC, f"No space left on device: {size} bytes are needed, {free} are free")


def fill_spare(files: Files, directory: str, number: int, filled: int, limits: WalLimits) -> int:
    """Writes and syncs one more chunk; after the last one the file becomes a spare. Returns how far it is
    filled. Raises OSError, and then leaves no file: half of one would take room for nothing."""
    path = f"{directory}/{file_name(number, 'zero')}"
    size = min(limits.zero_chunk_bytes, limits.segment_bytes - filled)
    file = files.open(path, create=True)
    try:
        for offset in range(filled, filled + size, ZEROS_BYTES):
            file.pwrite((_ZEROS[: filled + size - offset],), offset)
        file.sync()
    except OSError:
        with suppress(OSError):
            files.remove(path)
        raise
    finally:
        file.close()
    filled += size
    if filled == limits.segment_bytes:
        files.rename(path, f"{directory}/{file_name(number, 'spare')}")
        files.sync_dir(directory)
    return filled


def give_up_segment(files: Files, directory: str, number: int, as_spare: bool, limits: WalLimits) -> bool:
    """A segment leaves the log: it becomes a spare if one is wanted and it has the size, else it is removed. Tells
    whether it became one. Blocking."""
    path = f"{directory}/{file_name(number, 'wal')}"
    if as_spare:
        file = files.open(path)
        size = file.size()
        file.close()
        if size >= limits.segment_bytes:
            files.rename(path, f"{directory}/{file_name(number, 'spare')}")
            files.sync_dir(directory)   # before it gets its next name
            return True
    files.remove(path)      # not synced: one that comes back belongs to no log, and goes at the next start
    return False
