"""The oracles of locks find bugs that are planted: each by the sweep as it is, within a few seeds.

Oracles that would notice the same for another reason are muted, so that what is found is what locks promise.
"""

import pytest

from cluster.simulation import Scenario
from cluster.simulation.planted_locks import PlantedLock

OTHERS = {"invariant", "compaction", "snapshot", "digest"}
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
    for seed in range(SEEDS):
        scenario = Scenario(seed, locks=planted)
        scenario.oracles.judge.muted |= OTHERS
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle == FOUND_BY[planted], violations[0]
            return
    pytest.fail(f"not found within these seeds: {planted.value}")
