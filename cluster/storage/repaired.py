"""What every start works with, and what it ends with, with room or without: a segment to be written, its header and
its first marker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import structs

from actors import File, Files
from cluster.storage.beginning import start_of
from cluster.storage.evidence import quarantine_of
from cluster.storage.frame import encode_header
from cluster.storage.header import HardState, Meta, SegmentHeader
from cluster.storage.scan import NodeIdentity, Scan
from cluster.storage.segment import WalLimits, file_name

COPY_BYTES = 1024 * 1024  # written at once


@dataclass(slots=True)
class Start:
    """What was found, and where. `spares`, and `number`, the next free one, change as files come and are used up."""

    files: Files
    directory: str
    scan: Scan
    identity: NodeIdentity
    limits: WalLimits
    salt: Callable[[], int]
    spares: list[int]
    number: int

    def path(self, number: int) -> str:
        """Of a segment."""
        return f"{self.directory}/{file_name(number, 'wal')}"

    def meta(self, number: int, commit: int) -> Meta:
        """Of the segment that is begun, or goes on; `commit` is a hint that its header may give."""
        scan, identity = self.scan, self.identity
        old = scan.meta or Meta(identity.node, identity.cluster, identity.incarnation)
        return structs.replace(
            old,
            cluster=old.cluster or identity.cluster,
            incarnation=identity.incarnation,
            hard_state=HardState(scan.hard_state.term, scan.hard_state.vote, commit),
            quarantine=quarantine_of(scan),
            start=start_of(scan, number),
        )

    def marker(self, salt: int) -> bytes:
        """The frame behind what is kept: all of it is durable."""
        scan = self.scan
        return encode_header(
            (),
            salt=salt,
            seq=scan.next_seq,
            synced_seq=scan.next_seq - 1,
            term=scan.hard_state.term,
            vote=scan.hard_state.vote,
            commit=scan.hard_state.commit,
            truncate_from=0,
        )


class Repaired(NamedTuple):
    """The segment that is ready to be written behind `position`; its last 64 bytes are a marker frame."""

    file: File
    header: SegmentHeader
    position: int
    next_seq: int
    marker: bytes
    segments: list[int]  # of the log, oldest first; the last of them is this one
    spares: list[int]
    next_number: int
