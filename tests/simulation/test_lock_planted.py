"""The oracles of locks find bugs that are planted: each by the sweep as it is, within a few seeds.

Oracles that would notice the same for another reason are muted, so that what is found is what locks promise.
"""

import pytest

from cluster.simulation import Scenario
from cluster.simulation.planted_locks import PlantedLock

OTHERS = {"invariant", "compaction", "snapshot", "digest"}
FOUND_BY = {
    PlantedLock.NOT_RECHECKED: {"dead session"},
    PlantedLock.STRANGER_RELEASES: {"stranger"},
    PlantedLock.LOST_WAKE_UP: {"lost wake-up"},
    PlantedLock.LOCAL_CLOCK: {"two holders"},
    PlantedLock.SHORT_TURNS: {"two holders"},
    PlantedLock.NO_FULL_LEASE: {"two holders"},
}


# Found by what holders believe alone, at the moment in which another one begins: that takes more seeds.
RARE = {PlantedLock.SHORT_TURNS, PlantedLock.NO_FULL_LEASE}
SEEDS, SEEDS_RARE = 12, 60


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    "planted", [pytest.param(bug, marks=[pytest.mark.slow] if bug in RARE else []) for bug in PlantedLock]
)
def test_the_sweep_finds_a_bug_of_locks_within_a_few_seeds(planted: PlantedLock):
    for seed in range(SEEDS_RARE if planted in RARE else SEEDS):
        scenario = Scenario(seed, locks=planted)
        scenario.oracles.judge.muted |= OTHERS
        violations = scenario.run().violations
        if violations:
            assert violations[0].oracle in FOUND_BY[planted], violations[0]
            return
    pytest.fail(f"not found within these seeds: {planted.value}")
