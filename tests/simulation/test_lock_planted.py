"""The oracles of locks find bugs that are planted: each by the sweep as it is, within a few seeds."""

import pytest
from planted_search import assert_found

from cluster.simulation import Scenario
from cluster.simulation.planted_locks import PlantedLock

FOUND_BY = {
    PlantedLock.NOT_RECHECKED: "dead session",
    PlantedLock.STRANGER_RELEASES: "stranger",
    PlantedLock.LOST_WAKE_UP: "lost wake-up",
    PlantedLock.LOCAL_CLOCK: "belief",
    PlantedLock.SHORT_TURNS: "belief",
    PlantedLock.NO_FULL_LEASE: "belief",
    PlantedLock.COUNTED_FROM_ANSWER: "belief",
    PlantedLock.BOUND_IGNORED: "belief",
}
SEEDS = 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", list(PlantedLock))
def test_the_sweep_finds_a_bug_of_locks_within_a_few_seeds(planted: PlantedLock):
    assert_found(planted, {FOUND_BY[planted]}, range(SEEDS), lambda seed: Scenario(seed, locks=planted))
