"""From when each contender asked, held and was done to the figures of a round: arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Visit(NamedTuple):
    """One cycle of one contender: lock and unlock. Seconds of one clock."""

    asked: float
    held: float
    done: float         # the unlock has returned


@dataclass(frozen=True, slots=True)
class Share:
    """What the contenders of one process did in a round."""

    cycles: list[int]           # of each contender
    waits_ms: list[float]       # from asking to holding, of all of them


@dataclass(frozen=True, slots=True)
class Round:
    """What one system did in one round."""

    seconds: float
    cycles: list[int]           # of each contender
    p50_ms: float               # of waits
    p99_ms: float
    longest_ms: float

    @property
    def rate(self) -> float:
        return sum(self.cycles) / self.seconds

    @property
    def least(self) -> float:
        """Cycles of the contender that had the fewest, as a part of the mean: 1 is fair to all."""
        return min(self.cycles) * len(self.cycles) / sum(self.cycles)


def share_of(visits: Sequence[Sequence[Visit]], begin: float, end: float) -> Share:
    """`visits` has a list for each contender, of all that it did before, in and after the round.

    Cycles count if they were done in it. Waits count in their full length if any of it lies in the round: who had to
    wait all the time, from before its begin until after its end, would be in no figure otherwise.
    """
    assert begin < end
    cycles = [sum(begin <= visit.done < end for visit in own) for own in visits]
    waits = [
        (visit.held - visit.asked) * 1e3 for own in visits for visit in own if visit.asked < end and begin <= visit.held
    ]
    return Share(cycles, waits)


def round_of(shares: Sequence[Share], seconds: float) -> Round:
    """Raises ValueError if nobody had the lock."""
    cycles = [number for share in shares for number in share.cycles]
    if not any(cycles):
        raise ValueError("nobody had the lock in the round")
    waits = sorted(wait for share in shares for wait in share.waits_ms)
    assert waits[0] >= 0.0
    return Round(seconds, cycles, waits[len(waits) // 2], waits[int(len(waits) * 0.99)], waits[-1])
