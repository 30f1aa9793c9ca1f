"""What a header says of damage: as much as fits into it, whatever the log was.

The files of a damaged log may be thousands. The first of them are named, for a reader; all of them are told by runs of
numbers. A run may reach over numbers of which there was no segment, and not over a segment that stayed in the log; only
when there would be more runs than fit the last one reaches to the end. It is asked once more only, by a start behind
one that died before it had kept all of them aside: a file too many would be kept aside, and none too few.
"""

from collections.abc import Collection, Iterable

from msgspec import structs

from cluster.storage.header import Damage, Quarantine
from cluster.storage.scan import Scan
from cluster.storage.segment import file_name

EVIDENCE_NAMES_MAX = 16  # 26 bytes each
EVIDENCE_RUNS_MAX = 8  # 19 bytes each at most
REASON_BYTES_MAX = 400

Runs = tuple[tuple[int, int], ...]


def quarantine_because(reason: str, damage: Damage | None = None) -> Quarantine:
    """The mark, with as much of the reason as a header has room for."""
    return Quarantine(reason.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore"), damage)


def quarantine_of(scan: Scan) -> Quarantine | None:
    """The mark of an earlier start, or the one that this start has to make."""
    if scan.damage is not None:
        names, runs = evidence_of(scan.leftovers, scan.names.segments)
        damage = structs.replace(scan.damage, kept_aside=names, runs=runs)
        return quarantine_because(f"damage in {damage.file}", damage)
    return scan.meta.quarantine if scan.meta is not None else None


def evidence_of(aside: Collection[int], segments: Iterable[int]) -> tuple[tuple[str, ...], Runs]:
    """Names and runs of the segments that leave; `segments` are all there are, with rising numbers."""
    leaving = set(aside)
    runs: list[list[int]] = []
    goes_on = False
    for number in segments:
        if number not in leaving:
            goes_on = False
        elif goes_on or len(runs) == EVIDENCE_RUNS_MAX:
            runs[-1][1] = number
        else:
            runs.append([number, number])
            goes_on = True
    names = tuple(file_name(number, "damaged") for number in sorted(leaving)[:EVIDENCE_NAMES_MAX])
    return names, tuple((low, high) for low, high in runs)


def is_evidence(quarantine: Quarantine | None, number: int) -> bool:
    """Whether this file is to be kept aside."""
    damage = quarantine.damage if quarantine is not None else None
    if damage is None:
        return False
    return file_name(number, "damaged") in damage.kept_aside or any(low <= number <= high for low, high in damage.runs)
