"""A snapshot that another broker sends: the bytes of its file, chunk by chunk, into a file of the same bytes.

Header and footer come first, so everything about the file is known from the start: each chunk is verified before it is
written to its place, and a transfer that was interrupted goes on where it stopped, with another sender too if that one
has the same snapshot. What a crash left of it is verified again before it counts (`check`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EIO
from zlib import crc32

from actors import File, Files
from cluster.storage.errors import SnapshotDamaged, UnsupportedVersion
from cluster.storage.segment import require_room
from cluster.storage.snapshot_format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Malformed,
    NewerVersion,
    SnapshotMeta,
    chunk_offset,
    chunk_size,
    decode_footer,
    decode_header,
    footer_offset,
    tag_of,
    verify_chunk,
)
from cluster.storage.snapshots import SYNC_CHUNKS, snapshot_path


class SnapshotReceiver:
    """`check` until it says True, then `add` chunks from `next_chunk` on, then `finish`.

    `header` and `footer` are the sender's (`SnapshotFile`). Raises SnapshotDamaged if they are not whole,
    UnsupportedVersion if a newer program wrote them, and OSError, with ENOSPC if the disk has no room for all of it.
    """

    def __init__(self, files: Files, directory: str, header: bytes, footer: bytes) -> None:
        self.path = "the sender's snapshot"
        try:
            self.meta: SnapshotMeta = decode_header(header)
            self._tag = tag_of(header)
            self._footer = decode_footer(footer, self._tag)
        except Malformed as damage:
            raise SnapshotDamaged(self.path, damage.offset, damage.reason) from damage
        except NewerVersion as newer:
            raise UnsupportedVersion(self.path, newer.version) from newer
        self.path = snapshot_path(directory, self.meta.index, "recv")
        self.next_chunk = 0  # chunks below are in the file, verified
        self._files = files
        self._directory = directory
        self._crc = 0
        left = self._left(header, footer)
        self._is_checked = left is None  # nothing is there of an earlier transfer
        self._file = left or self._begin(header, footer)

    def _left(self, header: bytes, footer: bytes) -> File | None:
        """The file of an earlier transfer of the same snapshot. Another one goes: it is another snapshot of the same
        index, the trace of a crash, or what the medium has lost."""
        if not self._files.exists(self.path):
            return None
        with _suppress_losses():
            file = self._files.open(self.path)
            with _suppress_losses():
                ends = file.pread(HEADER_BYTES, 0), file.pread(FOOTER_BYTES + 1, footer_offset(self._footer))
                if ends == (header, footer):
                    return file
            file.close()
        self._files.remove(self.path)
        return None

    def _begin(self, header: bytes, footer: bytes) -> File:
        """A new file. One that cannot be begun leaves nothing behind."""
        footer_at = footer_offset(self._footer)
        require_room(self._files, self._directory, footer_at + FOOTER_BYTES)
        file = self._files.open(self.path, create=True)
        try:
            file.pwrite((footer,), footer_at)
            file.pwrite((header,), 0)
            file.sync()
        except OSError:
            file.close()
            with suppress(OSError):
                self._files.remove(self.path)
            raise
        self._files.sync_dir(self._directory)
        return file

    @property
    def chunk_count(self) -> int:
        return self._footer.chunk_count

    def check(self, chunks_max: int = SYNC_CHUNKS) -> bool:
        """Verifies up to `chunks_max` chunks that an interrupted transfer left. True: `next_chunk` is the first that
        is missing."""
        for _ in range(chunks_max):
            if self._is_checked or self.next_chunk == self.chunk_count:
                self._is_checked = True
                break
            self._is_checked = True  # unless this one is there, too
            with suppress(Malformed), _suppress_losses():
                data = self._file.pread(chunk_size(self.next_chunk, self._footer), chunk_offset(self.next_chunk))
                self._count(verify_chunk(data, self.next_chunk, self._tag, self._footer))
                self._is_checked = False
        return self._is_checked

    def add(self, data: bytes) -> None:
        """Chunk `next_chunk`, as its sender stores it. Raises SnapshotDamaged if it is not that; nothing has changed
        then. Raises OSError: then `discard`, for after a failed sync chunks may be readable that the disk does not
        have, this one among them, and it counts already."""
        assert self._is_checked
        assert self.next_chunk < self.chunk_count
        offset = chunk_offset(self.next_chunk)
        try:
            body = verify_chunk(data, self.next_chunk, self._tag, self._footer)
        except Malformed as damage:
            raise SnapshotDamaged(self.path, offset, damage.reason) from damage
        self._file.pwrite((data,), offset)
        self._count(body)
        if self.next_chunk % SYNC_CHUNKS == 0:
            self._file.sync()

    def finish(self) -> str:
        """All chunks are there: makes the file durable under its name, and returns its path. Raises SnapshotDamaged if
        the chunks, each of them whole, are not those of one snapshot: then `discard`."""
        assert self.next_chunk == self.chunk_count
        if self._crc != self._footer.stream_crc:
            raise SnapshotDamaged(self.path, HEADER_BYTES, "the crc over all chunks does not match")
        self._file.sync()
        self._file.close()
        target = snapshot_path(self._directory, self.meta.index)
        self._files.rename(self.path, target)
        self._files.sync_dir(self._directory)
        return target

    def close(self) -> None:
        """Leaves it as it is, to go on another time."""
        self._file.close()

    def discard(self) -> None:
        """Begins no more with what is there."""
        self.close()
        if self._files.exists(self.path):
            self._files.remove(self.path)

    def _count(self, body: memoryview) -> None:
        self._crc = crc32(body, self._crc)
        self.next_chunk += 1


@contextmanager
def _suppress_losses() -> Iterator[None]:
    """What the medium has lost of a transfer is sent again."""
    try:
        yield
    except OSError as error:
        if error.errno != EIO:
            raise
