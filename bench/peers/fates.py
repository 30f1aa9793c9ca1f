"""What became of numbered tasks: arithmetic on who was confirmed and who ran."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fates:
    """Of tasks whose submit was confirmed to the client; runs of others are nobody's promise and not counted."""

    confirmed: int
    lost: int           # ran nowhere
    repeated: int       # ran more than once


def fates(confirmed: Collection[int], runs: Iterable[int]) -> Fates:
    """`runs` has a number for each run of a task, in any order."""
    times = Counter(runs)
    numbers = set(confirmed)
    assert len(numbers) == len(confirmed), "a task was confirmed twice"
    found = Fates(
        confirmed=len(numbers),
        lost=sum(number not in times for number in numbers),
        repeated=sum(times[number] > 1 for number in numbers),
    )
    assert found.lost + found.repeated <= found.confirmed
    return found


def runs_in(folder: Path) -> list[int]:
    """The numbers in the files that `work.mark` wrote. A last line without its end is being written just now."""
    numbers = []
    for path in sorted(folder.glob("ran.*")):
        whole, _, _ = path.read_text().rpartition("\n")
        numbers += [int(line) for line in whole.splitlines()]
    return numbers
