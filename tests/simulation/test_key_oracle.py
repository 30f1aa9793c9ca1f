"""The oracle of keys speaks up when an instance counts what another one should have."""

import pytest

from cluster.simulation.key_oracle import KeyOracle
from cluster.simulation.tasks import Count
from cluster.simulation.verdict import Judge

Seen = tuple[int, str, int, int]        # child, key, epoch, number

GOOD: list[list[Seen]] = [
    [(1, "k", 1, 1), (1, "k", 1, 2), (1, "k", 1, 3)],
    [(1, "k", 1, 1), (2, "m", 2, 1), (1, "k", 1, 2), (2, "m", 2, 2)],
    [(1, "k", 1, 1), (1, "k", 1, 2), (2, "k", 1, 1), (2, "k", 1, 2)],       # the first child was lost
    [(1, "k", 1, 1), (2, "k", 3, 1), (1, "k", 4, 1)],
    [(1, "", 0, 5), (1, "", 0, 7)],                                         # a pool
]
BAD: list[tuple[str, list[Seen]]] = [
    ("two children take turns", [(1, "k", 1, 1), (2, "k", 1, 1), (1, "k", 1, 2)]),
    ("an instance is used in the next epoch", [(1, "k", 1, 1), (1, "k", 2, 2)]),
    ("a call is counted elsewhere", [(1, "k", 1, 1), (1, "k", 1, 3)]),
    ("an instance is dropped within its epoch", [(1, "k", 1, 1), (1, "k", 1, 2), (1, "k", 1, 1)]),
]


def judged(seen: list[Seen]) -> list[str]:
    judge = Judge(0, lambda: 0)
    oracle = KeyOracle(judge)
    for child, *count in seen:
        oracle.counted(child, Count(*count))
    return [violation.oracle for violation in judge.violations]


@pytest.mark.parametrize("seen", GOOD)
def test_one_owner_at_a_time_is_well(seen: list[Seen]):
    assert judged(seen) == []


@pytest.mark.parametrize(("what", "seen"), BAD)
def test_more_than_one_is_not(what: str, seen: list[Seen]):
    assert "counts" in judged(seen), what
