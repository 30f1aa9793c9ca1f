"""What keys of task actors promise, judged by what their instances count in the children that run them.

A tally counts its calls, so each count says how many calls this instance has run before. If a key had two owners at a
time, or if a child used an instance beyond its epoch, some call would be counted by the wrong one. Who the state says
the owner is, is for the state oracle to judge.
"""

from cluster.simulation.tasks import Count
from cluster.simulation.verdict import Judge

Place = tuple[str, int]         # key and epoch


class KeyOracle:
    """Within an epoch a key has one slot: its children, one after the other, each count 1, 2, 3, ..."""

    def __init__(self, judge: Judge) -> None:
        self.counts = 0
        self._judge = judge
        self._last: dict[Place, tuple[int, int]] = {}       # the child that counted last, and what
        self._past: dict[Place, set[int]] = {}              # children that counted before it

    def counted(self, child: int, count: Count) -> None:
        """A child has run a call. Children are numbered anew at every start."""
        if not count.key:
            return                  # of a pool
        self.counts += 1
        place = (count.key, count.epoch)
        past = self._past.setdefault(place, set())
        last, number = self._last.get(place, (child, 0))
        if last != child:
            past.add(last)
            number = 0
        what = f"key {count.key} in epoch {count.epoch}"
        self._judge.require(child not in past, "counts", f"{what} is counted by child {child} again, after {last}")
        self._judge.require(count.number == number + 1, "counts", f"{what} comes to {count.number} after {number}")
        self._last[place] = (child, count.number)
