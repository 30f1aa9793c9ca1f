"""From the parts of an image back to a machine. `image` says what they hold and why.

Parts are added in order, one at a time, so that the reader needs one of them and not all. What is malformed,
missing, repeated or swapped is `ImageDamaged`: each part carries its number, and the last one the checksum of all
before it, so that nothing altered passes unseen, whatever stored or carried it. A `Restoration` that has refused a
part is of no use any more.
"""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from cluster.state.commands import MACHINE_VERSION
from cluster.state.decoding import UNDECODABLE
from cluster.state.errors import ImageDamaged, NewerState
from cluster.state.machine import Machine
from cluster.state.rebuilding import READERS, Rebuilding
from cluster.state.rows import IMAGE_VERSION, ROWS, EndRow, Section


class _Versions(Struct, array_like=True, gc=False, frozen=True):
    """The start of `HeadRow`, of any version."""

    image_version: int
    machine_version: int


_decode_part = msgspec.msgpack.Decoder(tuple[int, int, Raw]).decode
_decode_versions = msgspec.msgpack.Decoder(tuple[_Versions]).decode
_decode_rows: dict[Section, Callable[[Raw], list[Any]]] = {
    section: msgspec.msgpack.Decoder(list[row]).decode  # type: ignore[valid-type]
    for section, row in ROWS.items()
}


class Restoration:
    """Takes the parts of one image, in order, then gives the machine."""

    __slots__ = ("_crc", "_number", "_rebuilding", "_refused", "_section")

    def __init__(self) -> None:
        self._rebuilding = Rebuilding()
        self._number = 0                    # of the next part
        self._section = Section.HEAD        # of the last part
        self._crc = 0                       # of all parts so far
        self._refused = False

    def add(self, part: bytes) -> None:
        """Takes the next part. Raises ImageDamaged, or UnreadableState: NewerState for an image of a newer release,
        OlderState for one of an older version that this one cannot read."""
        where = f"part {self._number}"
        if self._refused or self._section is Section.END:
            why = "a part before it was refused" if self._refused else "it comes after the last one"
            raise ImageDamaged(where, why)
        self._refused = True
        try:
            self._read(part, where)
        except UNDECODABLE as undecodable:
            raise ImageDamaged(where, f"cannot be decoded, {undecodable}") from undecodable
        except (LookupError, TypeError, OverflowError) as dangling:
            raise ImageDamaged(where, f"names what the parts before it do not hold, {dangling!r}") from dangling
        self._refused = False
        self._crc = crc32(part, self._crc)
        self._number += 1

    def finish(self) -> Machine:
        """The machine, after the last part. Raises ImageDamaged if that has not been added."""
        if self._refused or self._section is not Section.END:
            raise ImageDamaged(f"part {self._number}", "the image ends before its last part")
        self._refused = True
        return Machine(self._rebuilding.tables, self._rebuilding.applied_index)

    def _read(self, part: bytes, where: str) -> None:
        code, number, encoded = _decode_part(part)
        if number != self._number:
            raise ImageDamaged(where, f"has number {number}: a part is missing, repeated or swapped")
        if code < self._section or (code == Section.HEAD) != (number == 0):
            raise ImageDamaged(where, f"section {code} does not come after section {self._section}")
        if code == Section.HEAD:
            _check_versions(_decode_versions(encoded)[0])
        section = Section(code)
        rows = _decode_rows[section](encoded)
        if section is Section.END:
            self._check_end(*rows)
        else:
            read = READERS[section]
            for row in rows:
                read(self._rebuilding, row)
        self._section = section

    def _check_end(self, row: EndRow) -> None:
        if row.parts != self._number or row.crc != self._crc:
            raise ImageDamaged(f"part {self._number}", "the checksum of all parts before it does not match")
        self._rebuilding.finish()


def _check_versions(versions: _Versions) -> None:
    if versions.image_version > IMAGE_VERSION:
        raise NewerState("image version", versions.image_version, IMAGE_VERSION)
    if versions.machine_version > MACHINE_VERSION:
        raise NewerState("machine version", versions.machine_version, MACHINE_VERSION)
