"""How often each kind of fault comes and how long it lasts: the options of a fault plan."""

from dataclasses import dataclass, fields
from typing import Any

from actors.runtime.ports import MILLISECOND, SECOND, Nanos


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a fault comes and how long it lasts."""

    interval_ns: Nanos = 0          # mean time between two, exponential; 0: never by itself
    lasts_ns_min: Nanos = 0         # uniform between the two
    lasts_ns_max: Nanos = 0
    at_least: int = 0               # so many in a plan, whatever the dice say


@dataclass(frozen=True, slots=True)
class FaultMix:
    """How often each kind of fault comes. All numbers are for a whole world, not for one machine."""

    # A process is killed; it starts again after the duration.
    crash: Rate = Rate(20 * SECOND, 100 * MILLISECOND, 3 * SECOND)
    # A process is stopped (SIGSTOP) and continued after the duration.
    pause: Rate = Rate(30 * SECOND, 50 * MILLISECOND, 6 * SECOND)
    # A machine loses its power, and part of what its processes had not synced; back after the duration.
    power_loss: Rate = Rate(40 * SECOND, 200 * MILLISECOND, 4 * SECOND)
    # The power fails in the midst of one of the next file calls of a machine: torn frames, half-done renames.
    torn_write: Rate = Rate(40 * SECOND, 200 * MILLISECOND, 4 * SECOND)
    # A member is killed, a bit of its synced files flips, it starts again after the duration.
    flipped_bit: Rate = Rate()
    # A minority of the members, with some of the others, is cut off from the rest, both ways.
    partition: Rate = Rate(25 * SECOND, 500 * MILLISECOND, 8 * SECOND)
    # One machine no longer hears the others, or is no longer heard by them.
    one_way: Rate = Rate(40 * SECOND, 500 * MILLISECOND, 8 * SECOND)
    # One machine is cut off from all others, both ways.
    isolate: Rate = Rate(30 * SECOND, 500 * MILLISECOND, 8 * SECOND)
    # One direction between two machines takes up to `slow_link_ns_max` longer.
    slow_link: Rate = Rate(20 * SECOND, 1 * SECOND, 10 * SECOND)
    # One direction between two machines loses up to `loss_ppm_max` of its messages.
    lossy_link: Rate = Rate(30 * SECOND, 500 * MILLISECOND, 3 * SECOND)
    # A connection is reset; sometimes all of a machine.
    link_break: Rate = Rate(10 * SECOND)
    # A machine's syncs take up to `slow_disk_factor_max` times as long; every other time only one, which
    # hangs for the duration.
    slow_disk: Rate = Rate(25 * SECOND, 500 * MILLISECOND, 5 * SECOND)
    # The next sync of a machine fails. Its process is expected to stop; who restarts it is the scenario's
    # business.
    sync_error: Rate = Rate()
    # A machine's disk is full for the duration.
    full_disk: Rate = Rate()
    # A machine's wall clock is off by up to `clock_jump_ms_max` for the duration.
    clock_jump: Rate = Rate(30 * SECOND, 1 * SECOND, 20 * SECOND)

    slow_link_ns_max: Nanos = 200 * MILLISECOND
    loss_ppm_max: int = 200_000
    slow_disk_factor_max: int = 200
    clock_jump_ms_max: int = 120_000
    torn_write_calls_max: int = 40      # file calls until the power fails; uniform


KINDS = tuple(one.name for one in fields(FaultMix) if isinstance(one.default, Rate))
_NONE: dict[str, Any] = dict.fromkeys(KINDS, Rate())
NO_FAULTS = FaultMix(**_NONE)
