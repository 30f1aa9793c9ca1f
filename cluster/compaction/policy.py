"""When the log is long enough to become a snapshot, and what happens when that does not keep up.

A snapshot costs a second `apply` of everything since the last one and an encoding of the whole state, so both must be
worth it: the log has to be long, and long in proportion to the state. One that grows several times past that says that
the compactor gets too little of the machine: first it stops giving way, then clients wait. On a full disk a shorter log
is enough, if a segment can leave.
"""

from dataclasses import dataclass
from enum import IntEnum

from actors import SECOND, Nanos

MIB = 1024 * 1024
GROWTH_DIVISOR = 4          # most of a log is about tasks that have ended


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """Sizes are bytes of log since the last snapshot; `state_factor` makes the smallest of them grow with the state."""

    log_bytes_min: int = 256 * MIB
    state_factor: int = 2
    patience_factor: int = 2            # of the trigger: another broker's snapshot is not waited for any longer
    urgent_factor: int = 4              # of the trigger: the compactor runs at normal priority
    closed_factor: int = 8              # of the trigger: submits wait
    stagger_ppm_max: int = 250_000      # so much more the last broker in line waits for: one compacts for all of them
    checkpoint_entries: int = 256       # a snapshot of a multiple of it serves every broker
    nice: int = 10                      # of a compactor that is not urgent
    pinned_bytes_max: int = 1024 * MIB  # of log that is kept for a follower that lags; then it gets the snapshot
    silence_max: Nanos = 60 * SECOND    # a compactor that says nothing for so long is ended
    retry_min: Nanos = 5 * SECOND       # after a failure, doubled with each in a row
    retry_max: Nanos = 300 * SECOND


DEFAULT_LIMITS = CompactionLimits()


class Pressure(IntEnum):
    """How far the log is ahead of its snapshot."""

    NONE = 0
    DUE = 1
    URGENT = 2
    CLOSED = 3


def pressure(
    limits: CompactionLimits, log_bytes: int, snapshot_bytes: int, stagger_ppm: int, *, would_make_room: bool = False
) -> Pressure:
    """Of `log_bytes` since a snapshot of `snapshot_bytes`; `stagger_ppm` is this broker's place in line.
    `would_make_room`: the disk is full, or nearly, and part of the log could leave it."""
    trigger = trigger_bytes(limits, snapshot_bytes)
    if log_bytes > limits.closed_factor * trigger:
        return Pressure.CLOSED
    if log_bytes > limits.urgent_factor * trigger:
        return Pressure.URGENT
    if would_make_room and log_bytes > snapshot_bytes:
        return Pressure.DUE
    return Pressure.DUE if log_bytes * 1_000_000 > trigger * (1_000_000 + stagger_ppm) else Pressure.NONE


def trigger_bytes(limits: CompactionLimits, snapshot_bytes: int) -> int:
    """Of log since a snapshot of `snapshot_bytes`, after which the next one is worth its price."""
    return max(limits.log_bytes_min, limits.state_factor * snapshot_bytes)


def stagger_ppm(limits: CompactionLimits, place: int, count: int) -> int:
    """What the broker at this place in line (0 is first, of `count`) waits for beyond the trigger."""
    assert 0 <= place < count
    return limits.stagger_ppm_max * place // max(count - 1, 1)


def room_for_snapshot(log_bytes: int, snapshot_bytes: int) -> int:
    """What the next one may take, as far as one can tell: the state may have grown by a part of the log, or by all."""
    return snapshot_bytes + log_bytes // GROWTH_DIVISOR


def is_scarce(free_bytes: int, log_bytes: int, snapshot_bytes: int, segment_bytes: int) -> bool:
    """Whether it might be too late for a snapshot once another segment has been prepared."""
    return free_bytes < segment_bytes + snapshot_bytes + log_bytes
