"""Snapshot files: written, read back, listed. The bytes are those of `snapshot_format`; transfer: `receiving`.

    0000000000004711.snap   the state after entry 4711: whole and durable, or it would not have this name
    0000000000004711.part   one that is being written; removed at the next start
    0000000000004711.recv   one that another broker sends; kept, so that the transfer can go on

A file gets its name when all of it is durable and was read back, and keeps every byte from then on. All calls block;
they read and write a chunk at a time, whatever the size of the snapshot.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EIO
from typing import NamedTuple
from zlib import crc32

from actors import File, Files
from cluster.storage.errors import SnapshotDamaged, UnsupportedVersion
from cluster.storage.snapshot_format import (
    CHUNK_BYTES,
    FOOTER_BYTES,
    HEADER_BYTES,
    Footer,
    Malformed,
    NewerVersion,
    SnapshotMeta,
    chunk_offset,
    chunk_size,
    decode_footer,
    decode_header,
    encode_chunk,
    encode_footer,
    encode_header,
    footer_offset,
    length_of,
    split_parts,
    tag_of,
    verify_chunk,
)

SYNC_CHUNKS = 4  # written between two syncs: the log of the same disk waits no longer than for these
ASIDE = ".damaged"  # behind the name of one that was found damaged: the operator's evidence
_NAME = re.compile(r"(\d{16})\.(snap\.damaged|snap|part|recv)")


class SnapshotName(NamedTuple):
    path: str
    last_index: int


def snapshot_path(directory: str, index: int, kind: str = "snap") -> str:
    return f"{directory}/{index:016d}.{kind}"


def list_snapshots(files: Files, directory: str) -> list[SnapshotName]:
    """Newest first; nothing is said of their content."""
    return [SnapshotName(snapshot_path(directory, index), index) for index in _indexes(files, directory, "snap")]


def damaged_snapshots(files: Files, directory: str) -> list[SnapshotName]:
    """Those that were kept aside, newest first, under the names that they have now."""
    kind = f"snap{ASIDE}"
    return [SnapshotName(snapshot_path(directory, index, kind), index) for index in _indexes(files, directory, kind)]


def remove_snapshot(files: Files, directory: str, index: int) -> None:
    files.remove(snapshot_path(directory, index))
    files.sync_dir(directory)


def discard_unfinished(files: Files, directory: str, index: int) -> None:
    """What a compactor that has ended may have left of this snapshot."""
    _remove(files, snapshot_path(directory, index, "part"))


def clear_unfinished(files: Files, directory: str) -> None:
    """For a start, under the lock: removes what a compactor left, and transfers that cannot go on or came too late."""
    for index in _indexes(files, directory, "part"):
        discard_unfinished(files, directory, index)
    newest = max(_indexes(files, directory, "snap"), default=0)
    for index in _indexes(files, directory, "recv"):
        path = snapshot_path(directory, index, "recv")
        if index > newest and _has_header(files, path):
            newest = index  # one transfer at a time: older ones are of no use
        else:
            _remove(files, path)


def clear_transfers(files: Files, directory: str, kept: int) -> None:
    """Removes what was left of transfers of other snapshots than that of entry `kept`, which begins now and needs the
    room."""
    for index in _indexes(files, directory, "recv"):
        if index != kept:
            files.remove(snapshot_path(directory, index, "recv"))


def clear_overtaken(files: Files, directory: str, newest: int) -> None:
    """Removes what was left of transfers of snapshots that are no newer than the newest one here."""
    for index in _indexes(files, directory, "recv"):
        if index <= newest:
            _remove(files, snapshot_path(directory, index, "recv"))


def _remove(files: Files, path: str) -> None:
    with suppress(FileNotFoundError):  # a compactor that dies at this moment may have renamed or removed it
        files.remove(path)


@contextmanager
def _losses(path: str, offset: int) -> Iterator[None]:
    """What the medium has lost is damage like any other: there is another snapshot, or another broker's."""
    try:
        yield
    except OSError as error:
        if error.errno != EIO:
            raise
        raise SnapshotDamaged(path, offset, f"it cannot be read: {error}") from error


class SnapshotFile:
    """A snapshot that is read. `header` and `footer` are the stored bytes, for the transfer; so is what `chunk` gives.

    Of the constructor's `path` nothing is known but the name; use `open`.
    """

    def __init__(self, file: File, path: str) -> None:
        self.path = path
        self._file = file
        self.size = file.size()
        self.header = file.pread(HEADER_BYTES, 0)
        try:
            self.meta: SnapshotMeta = decode_header(self.header)
        except Malformed as damage:
            raise SnapshotDamaged(path, damage.offset, damage.reason) from damage
        except NewerVersion as newer:
            raise UnsupportedVersion(path, newer.version) from newer
        self._tag = tag_of(self.header)
        offset = max(self.size - FOOTER_BYTES, HEADER_BYTES)
        self.footer = file.pread(FOOTER_BYTES, offset)
        try:
            self._footer: Footer = decode_footer(self.footer, self._tag)
        except Malformed as damage:
            raise SnapshotDamaged(path, offset, damage.reason) from damage
        if footer_offset(self._footer) != offset:
            raise SnapshotDamaged(path, offset, f"{self.size} bytes are not what the footer speaks of")

    @classmethod
    def open(cls, files: Files, directory: str, index: int, kind: str = "snap") -> "SnapshotFile":
        """Reads header and footer. Raises SnapshotDamaged, UnsupportedVersion, FileNotFoundError."""
        path = snapshot_path(directory, index, kind)
        with _losses(path, 0):
            file = files.open(path)
        try:
            with _losses(path, 0):
                snapshot = cls(file, path)
            if snapshot.meta.index != index:
                raise SnapshotDamaged(path, 0, f"it is the snapshot of entry {snapshot.meta.index}")
        except BaseException:
            file.close()
            raise
        return snapshot

    @property
    def chunk_count(self) -> int:
        return self._footer.chunk_count

    def chunk(self, number: int) -> bytes:
        """A chunk as it is stored, verified. Raises SnapshotDamaged."""
        return self._chunk(number)[0]

    def parts(self) -> Iterator[bytes]:
        """The parts that the writer was given, none before its bytes were verified; an end without an error says that
        all of the file is as it was written. Raises SnapshotDamaged."""
        try:
            yield from split_parts(self._stream(), self._footer.stream_bytes)
        except Malformed as damage:
            raise SnapshotDamaged(self.path, chunk_offset(damage.offset // CHUNK_BYTES), damage.reason) from damage

    def verify(self) -> None:
        """Reads all of it. Raises SnapshotDamaged."""
        for _ in self.parts():
            pass

    def close(self) -> None:
        self._file.close()

    def _stream(self) -> Iterator[memoryview]:
        crc = 0
        for number in range(self._footer.chunk_count):
            body = self._chunk(number)[1]
            crc = crc32(body, crc)
            yield body
        if crc != self._footer.stream_crc:
            raise SnapshotDamaged(self.path, HEADER_BYTES, "the crc over all chunks does not match")

    def _chunk(self, number: int) -> tuple[bytes, memoryview]:
        assert 0 <= number < self._footer.chunk_count
        offset = chunk_offset(number)
        with _losses(self.path, offset):
            data = self._file.pread(chunk_size(number, self._footer), offset)
        try:
            return data, verify_chunk(data, number, self._tag, self._footer)
        except Malformed as damage:
            raise SnapshotDamaged(self.path, offset + damage.offset, damage.reason) from damage


class SnapshotWriter:
    """A snapshot that is written: `add` its parts, then `finish`. An `abort` leaves nothing behind; nor does a crash,
    once the next start has cleared up."""

    def __init__(self, files: Files, directory: str, meta: SnapshotMeta) -> None:
        self.meta = meta
        self._files = files
        self._directory = directory
        self._path = snapshot_path(directory, meta.index, "part")
        header = encode_header(meta)
        self._tag = tag_of(header)
        self._buffer = bytearray()
        self._chunks = 0
        self._stream_bytes = 0
        self._stream_crc = 0
        self._size: int | None = None  # once all of it is durable
        self._verified = False
        discard_unfinished(files, directory, meta.index)  # of one that died; it may be longer than this one
        self._file = files.open(self._path, create=True)
        try:
            self._file.pwrite((header,), 0)
        except OSError:
            self.abort()
            raise

    def add(self, part: bytes) -> None:
        """Takes one part, of any size. Raises OSError: then `abort`."""
        assert self._size is None
        self._buffer += length_of(part)
        self._buffer += part
        if len(self._buffer) >= CHUNK_BYTES:
            self._write_chunks(CHUNK_BYTES)

    def seal(self) -> None:
        """No part follows: all of it becomes durable, without a name as yet. Raises OSError."""
        assert self._size is None
        self._write_chunks(1)
        footer = Footer(self._chunks, self._stream_crc, self._stream_bytes)
        offset = footer_offset(footer)
        self._file.pwrite((encode_footer(footer, self._tag),), offset)
        self._file.sync()
        self._file.close()
        self._size = offset + FOOTER_BYTES

    def verify(self) -> None:
        """Reads it back. What memory or a program did to it on the way is found; what the disk did may not be, while
        the kernel has it in memory. Raises SnapshotDamaged: then `abort`."""
        for _ in self.verifying():
            pass

    def verifying(self) -> Iterator[None]:
        """`verify`, a part at a time."""
        if self._size is None:
            self.seal()
        snapshot = SnapshotFile.open(self._files, self._directory, self.meta.index, "part")
        try:
            for _ in snapshot.parts():
                yield
        finally:
            snapshot.close()
        self._verified = True

    def finish(self) -> int:
        """Seals and verifies it if nobody has, and gives it its name; returns its size in bytes. When this returns the
        snapshot is there for good. Raises OSError, SnapshotDamaged: then `abort`."""
        if not self._verified:
            self.verify()
        assert self._size is not None
        self._files.rename(self._path, snapshot_path(self._directory, self.meta.index))
        self._files.sync_dir(self._directory)
        return self._size

    def abort(self) -> None:
        """Removes what was written."""
        self._file.close()
        discard_unfinished(self._files, self._directory, self.meta.index)

    def _write_chunks(self, at_least: int) -> None:
        """As many as the buffer fills, down to less than `at_least` bytes."""
        view = memoryview(bytes(self._buffer))
        start = 0
        while len(view) - start >= at_least:
            body = view[start : start + CHUNK_BYTES]
            self._file.pwrite((encode_chunk(self._chunks, self._tag, body),), chunk_offset(self._chunks))
            self._stream_crc = crc32(body, self._stream_crc)
            self._stream_bytes += len(body)
            self._chunks += 1
            start += len(body)
            if self._chunks % SYNC_CHUNKS == 0:
                self._file.sync()
        del self._buffer[:start]


def _indexes(files: Files, directory: str, kind: str) -> list[int]:
    """Of the files of one kind, the highest first."""
    matches = (_NAME.fullmatch(name) for name in files.list(directory))
    return sorted((int(match[1]) for match in matches if match is not None and match[2] == kind), reverse=True)


def _has_header(files: Files, path: str) -> bool:
    try:
        file = files.open(path)
        try:
            decode_header(file.pread(HEADER_BYTES, 0))
        finally:
            file.close()
    except (Malformed, NewerVersion, OSError):
        return False
    return True


__all__ = [
    "ASIDE",
    "SnapshotFile",
    "SnapshotMeta",
    "SnapshotName",
    "SnapshotWriter",
    "clear_transfers",
    "clear_unfinished",
    "damaged_snapshots",
    "discard_unfinished",
    "list_snapshots",
    "remove_snapshot",
    "snapshot_path",
]
